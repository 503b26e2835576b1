"""Movies are completed, changed, found and filtered."""

from datetime import UTC, datetime

import pytest

from app import catalogue, ratings
from app.catalogue import MovieEntry
from app.database import Database
from app.errors import NotFound
from app.ratings import Counts
from tests.test_ratings import batch

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

FILMS = [
    MovieEntry("1", "Amélie", 2001, ("Comedy", "Romance")),
    MovieEntry("2", "The Matrix", 1999, ("Action", "Sci-Fi")),
    MovieEntry("3", "100% Wolf", 2020, ("Animation",)),
    MovieEntry("4", "Matilda", 1996, ("Children", "Comedy")),
]


def store(database: Database, *entries: MovieEntry) -> Counts:
    with database.writing() as session:
        return catalogue.store(session, entries, now=NOW)


def found(database: Database, **filters: object) -> list[str]:
    with database.reading() as session:
        movies, _ = catalogue.page(session, limit=10, **filters)  # type: ignore[arg-type]
        return [movie.movie_id for movie in movies]


def test_movies_are_inserted_completed_and_left_alone(database: Database) -> None:
    assert store(database, *FILMS) == Counts(inserted=4)
    assert store(database, *FILMS) == Counts(unchanged=4)
    assert store(database, MovieEntry("2", imdb_id="0133093"), MovieEntry("5", "Heat")) == Counts(
        inserted=1, updated=1
    )
    with database.reading() as session:
        movie = catalogue.get(session, "2")
        assert (movie.title, movie.year, movie.genres, movie.imdb_id) == (
            "The Matrix",
            1999,
            ["Action", "Sci-Fi"],
            "0133093",
        )


def test_a_movie_that_a_rating_named_is_completed_later(database: Database) -> None:
    with database.writing() as session:
        ratings.store(session, batch(("ann", "2", 5.0, None)), received_at=NOW)
    with database.reading() as session:
        assert catalogue.get(session, "2").title == ""
    assert store(database, *FILMS) == Counts(inserted=3, updated=1)
    assert found(database, query="matrix") == ["2"]


def test_of_two_entries_for_one_movie_the_later_adds_to_the_earlier(database: Database) -> None:
    counts = store(database, MovieEntry("9", "Heat", 1994), MovieEntry("9", year=1995))
    assert counts == Counts(inserted=1, superseded=1)
    with database.reading() as session:
        movie = catalogue.get(session, "9")
        assert (movie.title, movie.year) == ("Heat", 1995)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("amelie", {"1"}),
        ("AMÉL", {"1"}),
        ("mat", {"2", "4"}),
        ("matrix the", {"2"}),
        ("atrix", set()),
        ("100%", {"3"}),
        ("%", set()),
        ("_", set()),
        ("' OR 1=1 --", set()),
        ("", {"1", "2", "3", "4"}),
    ],
)
def test_search_finds_words_by_their_beginnings_whatever_case_and_accents(
    database: Database, query: str, ids: set[str]
) -> None:
    store(database, *FILMS)
    assert set(found(database, query=query)) == ids


def test_filters_by_genre_and_year(database: Database) -> None:
    store(database, *FILMS)
    assert found(database, genre="Comedy") == ["1", "4"]
    assert found(database, genre="Com") == []
    assert found(database, year_from=1999, year_to=2001) == ["1", "2"]
    with database.reading() as session:
        assert catalogue.matching_ids(session, genre="Comedy", year_from=2000, year_to=None) == ["1"]


def test_pages_hold_every_movie_once(database: Database) -> None:
    store(database, *(MovieEntry(f"m{n}", f"Film {n}") for n in range(25)))
    seen: list[str] = []
    cursor = None
    with database.reading() as session:
        while True:
            movies, cursor = catalogue.page(session, limit=10, cursor=cursor)
            seen += [movie.movie_id for movie in movies]
            if cursor is None:
                break
    assert len(seen) == len(set(seen)) == 25


def test_a_movie_that_nobody_named_is_not_found(database: Database) -> None:
    with database.reading() as session, pytest.raises(NotFound):
        catalogue.get(session, "nope")

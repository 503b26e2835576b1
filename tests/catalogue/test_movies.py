"""Movies are inserted, completed, changed and counted."""

import pytest
from sqlalchemy.orm import Session

from app.catalogue import movies as catalogue
from app.catalogue import search
from app.catalogue.movies import MovieEntry
from app.errors import NotFound
from app.ratings.batch import Counts
from app.storage.database import Database
from app.storage.tables import Movie
from tests.catalogue.catalogues import FILMS, NOW, store


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
        session.add(Movie(movie_id="2", created_at=NOW, updated_at=NOW))
    with database.reading() as session:
        assert catalogue.get(session, "2").title == ""
    assert store(database, *FILMS) == Counts(inserted=3, updated=1)
    with database.reading() as session:
        movies = search.page(session, query="matrix", limit=10).items
        assert [movie.movie_id for movie in movies] == ["2"]


def test_a_movie_that_another_writer_inserts_meanwhile_is_completed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database.is_sqlite:
        pytest.skip("SQLite has a single writer")
    select_locked = catalogue._locked

    def locked_and_overtaken(session: Session, movie_ids: list[str]) -> dict[str, Movie]:
        movies = select_locked(session, movie_ids)
        monkeypatch.setattr(catalogue, "_locked", select_locked)
        with database.writing() as other:
            other.add(Movie(movie_id="9", created_at=NOW, updated_at=NOW))
        return movies

    monkeypatch.setattr(catalogue, "_locked", locked_and_overtaken)
    assert store(database, MovieEntry("8", "Ran"), MovieEntry("9", "Heat")) == Counts(inserted=1, updated=1)
    with database.reading() as session:
        assert catalogue.get(session, "9").title == "Heat"


def test_of_two_entries_for_one_movie_the_later_adds_to_the_earlier(database: Database) -> None:
    counts = store(database, MovieEntry("9", "Heat", 1994), MovieEntry("9", year=1995))
    assert counts == Counts(inserted=1, superseded=1)
    with database.reading() as session:
        movie = catalogue.get(session, "9")
        assert (movie.title, movie.year) == ("Heat", 1995)


def test_an_unknown_movie_is_not_found(database: Database) -> None:
    with database.reading() as session, pytest.raises(NotFound):
        catalogue.get(session, "nope")


def test_keys_lead_back_to_ids(database: Database) -> None:
    store(database, *FILMS)
    with database.reading() as session:
        keys = [movie.movie_key for movie in catalogue.of_ids(session, ["1", "3"]).values()]
        assert sorted(catalogue.ids_of_keys(session, [*keys, 10**15])) == ["1", "3"]
        assert catalogue.ids_of_keys(session, []) == []

"""Movies are completed, changed, found and filtered."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

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


def test_parts_of_words_are_found_and_a_new_title_by_its_own_words_only(database: Database) -> None:
    store(database, MovieEntry("1", "(500) Days of Summer"), MovieEntry("2", "Spider-Man: Far from Home"))
    assert found(database, query="500 sum") == ["1"]
    assert found(database, query="(500)") == ["1"]
    assert found(database, query="man") == found(database, query="spider-m") == ["2"]
    assert found(database, query="x" * 500) == []
    store(database, MovieEntry("2", "Другое"), MovieEntry("3", "y" * 1000))
    assert found(database, query="spider") == []
    assert found(database, query="ДРУ") == ["2"]
    assert found(database, query="y" * 1000) == ["3"]


@pytest.mark.parametrize(
    ("common", "lookup", "step", "word"),
    [(0, 1.0, 1.0, 1.0), (20, 1.0, 0.0, 1.0), (20, 0.0, 1.0, 1.0), (20, 1.0, 9.0, 0.0), (7, 1.0, 9.0, 0.1)],
    ids=["all common", "one after another", "the rarest", "the two rarest", "some common"],
)
def test_rare_and_common_words_are_found_alike(
    common: int,
    lookup: float,
    step: float,
    word: float,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "COMMON_MOVIES", common)
    monkeypatch.setattr(catalogue, "COST_OF_LOOKUP", lookup)
    monkeypatch.setattr(catalogue, "COST_OF_STEP", step)
    monkeypatch.setattr(catalogue, "COST_OF_WORD", word)
    store(
        database,
        *(
            MovieEntry(f"{n}", f"The {('Red', 'Blue')[n % 2]} {('Cat', 'Dog', 'Bat')[n % 3]}")
            for n in range(12)
        ),
    )
    with database.writing() as session:
        keys = {movie.movie_id: movie.movie_key for movie in catalogue.of_ids(session, ["3", "9"]).values()}
        ratings.set_popularity(session, {keys["3"]: 5, keys["9"]: 70})
    assert found(database, query="the blue c") == ["9", "3"]
    assert found(database, query="CA blu") == ["9", "3"]
    assert found(database, query="red bat") == ["8", "2"]
    assert found(database, query="th the bl blue red") == []
    assert found(database, query="the")[:2] == ["9", "3"]
    assert len(found(database, query="t")) == 10


def test_common_words_are_counted_once_in_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "REMEMBERED_FROM", 2)
    counted: list[int] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "count(" in statement or "max(" in statement:
            counted.append(statement.count("count("))

    def counts_of(query: str) -> list[int]:
        counted.clear()
        assert found(database, query=query) == expected
        return list(counted)

    store(database, *(MovieEntry(f"{n}", f"The {('Red', 'Blue')[n % 3 == 0]} Cat") for n in range(5)))
    event.listen(database.engine, "before_cursor_execute", note)
    expected = ["4", "2", "1"]
    assert counts_of("the red") == [2]
    assert counts_of("the red") == []
    expected = ["3", "0"]
    assert counts_of("the blue") == counts_of("the blue") == [1]  # two movies are not common
    # What is remembered says how to search, not what there is.
    store(database, *(MovieEntry(f"{n}", "The Red Dog") for n in range(5, 9)))
    expected = ["8", "7", "6", "5", "4", "2", "1"]
    assert counts_of("the red") == []
    with monkeypatch.context() as later:
        later.setattr(catalogue, "REMEMBERED_SECONDS", 0.0)
        assert counts_of("the red") == [2]
    monkeypatch.setattr(catalogue, "REMEMBERED_WORDS", 3)
    expected = ["8", "7", "6", "5"]
    assert counts_of("dog") == [1]  # forgets the others, of which there are enough
    assert counts_of("dog") == [0]  # but how many movies there are
    assert counts_of("dog") == []


def test_filters_by_genre_and_year(database: Database) -> None:
    store(database, *FILMS)
    assert found(database, genre="Comedy") == ["4", "1"]
    assert found(database, genre="Com") == []
    assert found(database, year_from=1999, year_to=2001) == ["2", "1"]
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


TITLES = [
    MovieEntry("matrix", "Matrix, The", 1999),
    MovieEntry("amelie", "Amélie", 2001),
    MovieEntry("avventura", "Avventura, L'", 1960),
    MovieEntry("dune84", "Dune", 1984),
    MovieEntry("dune21", "Dune", 2021),
    MovieEntry("heat", "Heat", None),
    MovieEntry("good", "Good, the Bad and the Ugly, The", 1966),
    MovieEntry("100", "100% Wolf", 2020),
    MovieEntry("them", "Them!", 1954),
]


@pytest.fixture
def titles(database: Database) -> None:
    with database.writing() as session:
        catalogue.store(session, [*TITLES, MovieEntry("bare")], now=NOW)


@pytest.mark.parametrize(
    ("title", "year", "expected"),
    [
        ("The Matrix", None, ["matrix"]),
        ("matrix, the", 1999, ["matrix"]),
        ("  THE   MATRIX ", None, ["matrix"]),
        ("The Matrix (1999)", None, ["matrix"]),
        ("The Matrix", 2003, []),
        ("The Matrix (2003)", None, []),
        ("amelie", None, ["amelie"]),
        ("Ame\u0301lie", None, ["amelie"]),
        ("L'Avventura", None, ["avventura"]),
        ("The Good, the Bad and the Ugly", None, ["good"]),
        ("Dune", None, ["dune84", "dune21"]),
        ("Dune", 2021, ["dune21"]),
        ("Dune (1984)", 2021, ["dune21"]),
        ("Heat", 1995, ["heat"]),  # its year is not known, and no other Heat is of that year
        ("Them!", None, ["them"]),
        ("100_ Wolf", None, []),
        ("Matrix", None, []),
        ("", None, []),
        ("\u0301", None, []),  # nothing is left of it without accents
        ("The", None, []),
    ],
)
def test_a_title_finds_its_movies(
    database: Database, titles: None, title: str, year: int | None, expected: list[str]
) -> None:
    with database.reading() as session:
        (found,) = catalogue.of_titles(session, [(title, year)])
        assert [movie.movie_id for movie in found] == expected


def test_many_titles_are_found_in_the_order_asked(database: Database, titles: None) -> None:
    with database.reading() as session:
        asked: list[tuple[str, int | None]] = [
            ("Dune", 1984),
            ("nowhere", None),
            ("Heat", None),
            ("dune", None),
        ]
        found = catalogue.of_titles(session, asked)
        assert [[movie.movie_id for movie in one] for one in found] == [
            ["dune84"],
            [],
            ["heat"],
            ["dune84", "dune21"],
        ]
        assert catalogue.of_titles(session, []) == []


def test_titles_that_look_alike_are_suggested(database: Database, titles: None) -> None:
    with database.reading() as session:
        assert [one.movie_id for one in catalogue.like_title(session, "The Matrixx (1999)")] == ["matrix"]
        assert {one.movie_id for one in catalogue.like_title(session, "Dunes")} == {"dune84", "dune21"}
        for nothing in ("Zzyzx", "", "%%%", "!!"):
            assert catalogue.like_title(session, nothing) == []


def test_keys_lead_back_to_ids(database: Database, titles: None) -> None:
    with database.reading() as session:
        keys = [movie.movie_key for movie in catalogue.of_ids(session, ["heat", "dune84"]).values()]
        assert sorted(catalogue.ids_of_keys(session, [*keys, 10**15])) == ["dune84", "heat"]
        assert catalogue.ids_of_keys(session, []) == []


def test_cards_in_memory_are_those_of_the_sessions_moment(database: Database) -> None:
    def shown(session: Session) -> str:
        return catalogue.cards(session, ["a", "missing"])["a"].title

    with database.writing() as session:
        catalogue.store(session, [MovieEntry("a", "First")], now=NOW)
    with database.reading() as early:
        assert shown(early) == "First"
        with database.writing() as session:
            catalogue.store(session, [MovieEntry("a", "Second")], now=NOW)
            assert shown(session) == "Second"
        with database.reading() as late:
            assert catalogue.generation(late) > catalogue.generation(early)
            assert shown(late) == "Second"
        assert shown(early) == "First"
        with database.reading() as late:
            assert shown(late) == "Second"


def test_only_a_change_raises_the_generation(database: Database) -> None:
    def generation() -> int:
        with database.reading() as session:
            return catalogue.generation(session)

    seen = [generation()]
    for title in ("One", "One", "Two"):
        with database.writing() as session:
            catalogue.store(session, [MovieEntry("a", title)], now=NOW)
        seen.append(generation())
    assert seen[0] < seen[1] == seen[2] < seen[3]

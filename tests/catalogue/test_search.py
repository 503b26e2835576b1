"""Movies are searched by beginnings of words, filtered, ranked and paged."""

import pytest

from app.catalogue import search
from app.catalogue.movies import MovieEntry
from app.storage.database import Database
from tests.catalogue.catalogues import FILMS, set_ratings, store


def ids(database: Database, **arguments: object) -> list[str]:
    with database.reading() as session:
        page = search.page(session, limit=10, **arguments)  # type: ignore[arg-type]
        return [movie.movie_id for movie in page.items]


def test_words_match_by_their_beginnings_whatever_case_and_accents(database: Database) -> None:
    store(database, *FILMS)
    expected = {
        "amelie": {"1"},
        "AMÉL": {"1"},
        "mat": {"2", "4"},
        "matrix the": {"2"},
        "atrix": set(),
        "100%": {"3"},
        "": {"1", "2", "3", "4"},
    }
    assert {query: set(ids(database, query=query)) for query in expected} == expected


def test_the_databases_own_operators_are_plain_text(database: Database) -> None:
    store(database, *FILMS, MovieEntry("5", """O'Brother "where\\" :* & (art) NOT thou?"""))
    for query in ("%", "_", "' OR 1=1 --", "the NOT mat", "the OR amelie", "^the", "title_words:the", "mat*"):
        assert ids(database, query=query) == []
    for query in ("o'b", '"wh', '"where\\"', ":*", "&", "(ar", "not", "thou?", "art thou"):
        assert ids(database, query=query) == ["5"]


def test_parts_of_words_match_and_a_new_title_by_its_own_words_only(database: Database) -> None:
    store(database, MovieEntry("1", "(500) Days of Summer"), MovieEntry("2", "Spider-Man: Far from Home"))
    assert ids(database, query="500 sum") == ["1"]
    assert ids(database, query="(500)") == ["1"]
    assert ids(database, query="man") == ids(database, query="spider-m") == ["2"]
    assert ids(database, query="x" * 500) == []
    assert ids(database, query=" ".join(f"w{n}" for n in range(100))) == []
    store(database, MovieEntry("2", "Другое"), MovieEntry("3", "y" * 1000), MovieEntry("1", ""))
    assert ids(database, query="spider") == ids(database, query="days") == []
    assert ids(database, query="ДРУ") == ["2"]
    assert ids(database, query="y" * 1000) == ["3"]


@pytest.mark.parametrize("sorted_matches", [0, 4, 1_000])
def test_few_and_many_matches_give_equal_lists(
    sorted_matches: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SORTED_MATCHES", sorted_matches)
    store(
        database,
        *(
            MovieEntry(f"{n}", f"The {('Red', 'Blue')[n % 2]} {('Cat', 'Dog', 'Bat')[n % 3]}")
            for n in range(12)
        ),
    )
    set_ratings(database, {"3": 5, "9": 70})
    assert ids(database, query="the blue c") == ["9", "3"]
    assert ids(database, query="CA blu") == ["9", "3"]
    assert ids(database, query="red bat") == ["8", "2"]
    assert ids(database, query="th the bl blue red") == []
    assert ids(database, query="the")[:2] == ["9", "3"]
    assert len(ids(database, query="t")) == 10


def test_filters_by_genre_and_year(database: Database) -> None:
    store(database, *FILMS)
    assert ids(database, genre="Comedy") == ["4", "1"]
    assert ids(database, genre="Com") == []
    assert ids(database, year_from=1999, year_to=2001) == ["2", "1"]
    assert ids(database, query="mat", genre="Comedy") == ["4"]
    with database.reading() as session:
        assert search.matching_ids(session, genre="Comedy", year_from=2000, year_to=None) == ["1"]


@pytest.mark.parametrize("query", ["", "film"])
def test_pages_hold_every_movie_once(query: str, database: Database) -> None:
    store(database, *(MovieEntry(f"m{n}", f"Film {n}") for n in range(25)))
    seen: list[str] = []
    cursor = None
    with database.reading() as session:
        while True:
            page = search.page(session, query=query, limit=10, cursor=cursor)
            seen += [movie.movie_id for movie in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert len(seen) == len(set(seen)) == 25


def test_similar_titles_are_suggested(database: Database) -> None:
    store(
        database,
        MovieEntry("matrix", "Matrix, The", 1999),
        MovieEntry("dune84", "Dune", 1984),
        MovieEntry("dune21", "Dune", 2021),
        MovieEntry("heat", "Heat"),
    )
    with database.reading() as session:
        assert [movie.movie_id for movie in search.suggest(session, "The Matrixx (1999)")] == ["matrix"]
        assert {movie.movie_id for movie in search.suggest(session, "Dunes")} == {"dune84", "dune21"}
        for nothing in ("Zzyzx", "", "%%%", "!!"):
            assert search.suggest(session, nothing) == []

"""Titles are resolved to the movies they may mean."""

import pytest

from app.catalogue.movies import MovieEntry
from app.catalogue.titles import TitleQuery, resolve
from app.storage.database import Database
from tests.catalogue.catalogues import store

MOVIES = [
    MovieEntry("matrix", "Matrix, The", 1999),
    MovieEntry("amelie", "Amélie", 2001),
    MovieEntry("avventura", "Avventura, L'", 1960),
    MovieEntry("dune84", "Dune", 1984),
    MovieEntry("dune21", "Dune", 2021),
    MovieEntry("heat", "Heat", None),
    MovieEntry("good", "Good, the Bad and the Ugly, The", 1966),
    MovieEntry("100", "100% Wolf", 2020),
    MovieEntry("them", "Them!", 1954),
    MovieEntry("bare"),
]

EXPECTED: list[tuple[TitleQuery, list[str]]] = [
    (TitleQuery("The Matrix"), ["matrix"]),
    (TitleQuery("matrix, the", 1999), ["matrix"]),
    (TitleQuery("  THE   MATRIX "), ["matrix"]),
    (TitleQuery("The Matrix (1999)"), ["matrix"]),
    (TitleQuery("The Matrix", 2003), []),
    (TitleQuery("The Matrix (2003)"), []),
    (TitleQuery("amelie"), ["amelie"]),
    (TitleQuery("Ame\u0301lie"), ["amelie"]),
    (TitleQuery("L'Avventura"), ["avventura"]),
    (TitleQuery("The Good, the Bad and the Ugly"), ["good"]),
    (TitleQuery("Dune"), ["dune84", "dune21"]),
    (TitleQuery("Dune", 2021), ["dune21"]),
    (TitleQuery("Dune (1984)", 2021), ["dune21"]),
    (TitleQuery("Heat", 1995), ["heat"]),  # its year is not known, and no other Heat is of that year
    (TitleQuery("Them!"), ["them"]),
    (TitleQuery("100_ Wolf"), []),
    (TitleQuery("Matrix"), []),
    (TitleQuery(""), []),
    (TitleQuery("\u0301"), []),  # nothing is left of it without accents
    (TitleQuery("The"), []),
]


@pytest.mark.parametrize("at_once", [True, False], ids=["all at once", "one by one"])
def test_titles_resolve_to_their_movies(database: Database, at_once: bool) -> None:
    store(database, *MOVIES)
    queries = [query for query, _ in EXPECTED]
    with database.reading() as session:
        resolved = (
            resolve(session, queries) if at_once else [resolve(session, [query])[0] for query in queries]
        )
        assert resolve(session, []) == []
    assert [[movie.movie_id for movie in movies] for movies in resolved] == [ids for _, ids in EXPECTED]

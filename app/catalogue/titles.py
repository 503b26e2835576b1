"""Titles as they are compared: folded, split into words, resolved to movies."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.storage.database import in_parts
from app.storage.tables import Movie

LONGEST_WORD = 64  # characters that distinguish words

# Catalogues put an article in front of a title or behind it.
ARTICLES = frozenset(
    [
        "the",
        "a",
        "an",
        "le",
        "la",
        "les",
        "l'",
        "un",
        "une",
        "el",
        "los",
        "las",
        "il",
        "lo",
        "gli",
        "der",
        "die",
    ]
)


class TitleQuery(NamedTuple):
    """A title as a person writes it, and its year if the person says it."""

    title: str
    year: int | None = None


def fold(text: str) -> str:
    """The text without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def words(title: str) -> list[str]:
    """The folded words of a title, and the parts of `(500)` and `Spider-Man`."""
    distinct: dict[str, None] = {}
    for word in fold(title).split():
        for part in (word, *re.findall(r"[^\W_]+", word)):
            distinct[part[:LONGEST_WORD]] = None
    return list(distinct)


def resolve(session: Session, queries: Sequence[TitleQuery]) -> list[list[Movie]]:
    """The movies that each title may mean, by year: none, one or several.

    Case, accents and spaces do not matter, and `Matrix, The` is `The Matrix`. A title
    may carry its year, as in `Heat (1995)`. With a year, movies of another year are
    left out; movies without a year count where no movie has that very year.
    """
    folded = [fold_query(query) for query in queries]
    # A movie that only ratings have named has an empty title.
    spellings_of = [spellings(title) if title else [] for title, _ in folded]
    by_title: dict[str, list[Movie]] = defaultdict(list)
    for part in in_parts(sorted({spelling for group in spellings_of for spelling in group})):
        statement = select(Movie).where(Movie.folded_title.in_(part)).order_by(Movie.movie_key)
        for movie in session.scalars(statement):
            by_title[movie.folded_title].append(movie)
    resolved = []
    for (_, year), group in zip(folded, spellings_of, strict=True):
        movies = [movie for spelling in group for movie in by_title[spelling]]
        movies.sort(key=lambda movie: (movie.year or 0, movie.movie_key))
        if year is not None:
            same_year = [movie for movie in movies if movie.year == year]
            movies = same_year or [movie for movie in movies if movie.year is None]
        resolved.append(movies)
    return resolved


def fold_query(query: TitleQuery) -> TitleQuery:
    """The title folded, without its year in brackets; the query's year comes first."""
    folded = " ".join(fold(query.title).split())
    with_year = re.fullmatch(r"(.+?) \((\d{4})\)", folded)
    if with_year is None:
        return TitleQuery(folded, query.year)
    return TitleQuery(with_year[1], int(with_year[2]) if query.year is None else query.year)


def spellings(folded_title: str) -> list[str]:
    """The title as it is, and with its article moved to the front or to the end."""
    variants = [folded_title]
    rest, comma, article = folded_title.rpartition(", ")
    if comma and article in ARTICLES:
        variants.append(article + ("" if article.endswith("'") else " ") + rest)
    if match := re.match(r"(\w+'|\w+(?= )) ?(?=\S)", folded_title):
        article, rest = match[1], folded_title[match.end() :]
        if article in ARTICLES:
            variants.append(f"{rest}, {article}")
    return variants

"""Searching the catalogue by the beginnings of words, by genre and by year.

The table `movie_search` has the words of every title: FTS5 on SQLite, a `tsvector` with
a GIN index on PostgreSQL. Triggers keep it, so that storing a movie needs no second
statement.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from sqlalchemy import (
    ColumnElement,
    Select,
    Text,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from app.catalogue.titles import LONGEST_WORD, TitleQuery, fold, fold_query, spellings
from app.storage import cursors
from app.storage.cursors import Page
from app.storage.database import is_postgresql
from app.storage.tables import Movie

# Of a query that matches more movies than this, the popular ones are walked until the
# page is full.
SORTED_MATCHES = 1_000
COMPARED_TITLES = 500  # movies at most whose titles `suggest` compares

_SEARCH = table("movie_search", column("rowid"), column("movie_key"), column("title_words"))


def page(
    session: Session,
    *,
    query: str = "",
    genre: str | None = None,
    year_from: int | None = None,
    year_to: int | None = None,
    limit: int,
    cursor: str | None = None,
) -> Page[Movie]:
    """Movies whose titles have a word for every prefix of the query, most rated first.

    Of equally popular movies the newest entry comes first. When ratings arrive between
    two pages, a movie may be on both of them or on neither.
    """
    statement = select(Movie).where(*_filters(genre, year_from, year_to))
    popularity: ColumnElement[int] = Movie.n_ratings.expression
    if prefixes := _prefixes(query):
        matches = session.scalars(_matching(session, prefixes).limit(SORTED_MATCHES + 1)).all()
        if len(matches) <= SORTED_MATCHES:
            statement = statement.where(Movie.movie_key.in_(matches))
            popularity = popularity + 0  # not by the index of popularity, which has all movies
        else:
            statement = statement.where(*(_has_word(session, prefix) for prefix in prefixes))
    if cursor is not None:
        n_ratings, movie_key = cursors.read(cursor, 2)
        statement = statement.where(tuple_(Movie.n_ratings, Movie.movie_key) < tuple_(n_ratings, movie_key))
    statement = statement.order_by(popularity.desc(), Movie.movie_key.desc()).limit(limit + 1)
    return Page.of(session.scalars(statement).all(), limit, lambda movie: (movie.n_ratings, movie.movie_key))


def matching_ids(
    session: Session, *, genre: str | None, year_from: int | None, year_to: int | None
) -> list[str]:
    """The ids of all movies that pass the filters."""
    return list(session.scalars(select(Movie.movie_id).where(*_filters(genre, year_from, year_to))))


def suggest(session: Session, title: str) -> list[Movie]:
    """The five movies with titles most like this one, most similar first.

    Compared are movies that have a word with the first four letters of the longest
    word.
    """
    folded, _ = fold_query(TitleQuery(title))
    longest = max(re.findall(r"\w+", folded), key=len, default="")
    if not longest:
        return []
    matches = session.scalars(_matching(session, [longest[:4]]).limit(COMPARED_TITLES)).all()
    variants = spellings(folded)

    def similarity(movie: Movie) -> float:
        return max(SequenceMatcher(None, variant, movie.folded_title).ratio() for variant in variants)

    movies = session.scalars(select(Movie).where(Movie.movie_key.in_(matches)).order_by(Movie.movie_key))
    return sorted(movies, key=similarity, reverse=True)[:5]


def _prefixes(query: str) -> list[str]:
    """The folded words of the query, without those that begin another word of it."""
    distinct = {word[:LONGEST_WORD] for word in fold(query).split()}
    return [
        word
        for word in sorted(distinct)
        if not any(other != word and other.startswith(word) for other in distinct)
    ]


def _matching(session: Session, prefixes: Sequence[str]) -> Select[int]:
    """The keys of movies that have a word for each prefix, in no certain order."""
    if is_postgresql(session):
        quoted = (prefix.replace("\\", "\\\\").replace("'", "''") for prefix in prefixes)
        query = cast(" & ".join(f"'{prefix}':*" for prefix in quoted), TSQUERY)
        return select(_SEARCH.c.movie_key).where(_SEARCH.c.title_words.bool_op("@@")(query))
    quoted = (prefix.replace('"', '""') for prefix in prefixes)
    phrases = " ".join(f'"{prefix}"*' for prefix in quoted)
    return select(_SEARCH.c.rowid).where(literal_column("movie_search").bool_op("MATCH")(phrases))


def _has_word(session: Session, prefix: str) -> ColumnElement[bool]:
    """Whether a movie's title has a word that begins with the prefix, unindexed."""
    if is_postgresql(session):
        # Its planner takes LIKE for so rare that it would read and sort all movies.
        return func.strpos(Movie.title_words, f" {prefix}") > 0
    return Movie.title_words.like(f"% {_escaped(prefix)}%", escape="\\")


def _filters(genre: str | None, year_from: int | None, year_to: int | None) -> Iterator[ColumnElement[bool]]:
    if genre is not None:
        yield type_coerce(Movie.genres, Text).like(f"%|{_escaped(genre)}|%", escape="\\")
    if year_from is not None:
        yield Movie.year >= year_from
    if year_to is not None:
        yield Movie.year <= year_to


def _escaped(text: str) -> str:
    """The text literally, in a LIKE pattern."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

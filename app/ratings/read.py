"""Stored ratings of one user or several, their number, and their export."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field
from sqlalchemy import bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from app.storage import cursors
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.storage.database import CATALOGUE_GENERATION, ONE_MOMENT, in_parts, is_postgresql
from app.storage.tables import CatalogueState, Movie, Rating, User, from_microseconds

_EXPORT_ROWS = 5_000  # of a piece of the export

# Built once: building a statement takes longer than reading a short profile.
_RATINGS = (
    select(Movie.movie_id, Rating.stars, Rating.rated_at)
    .join(User, User.user_key == Rating.user_key)
    .join(Movie, Movie.movie_key == Rating.movie_key)
)
_PROFILE = (
    _RATINGS.with_only_columns(Movie.movie_id, Rating.stars)
    .where(User.user_id == bindparam("user_id"))
    .order_by(Rating.movie_key)
)
_GENERATION = select(CatalogueState.generation).scalar_subquery()
_PROFILE_ROWS = _PROFILE.add_columns(_GENERATION)
# In one row: Python's driver lets go of the interpreter's lock at each row of SQLite's,
# and under load gets it back only when another thread has had its turn.
_ordered = _PROFILE.subquery()
_PROFILE_IN_ONE_ROW = select(
    func.json_group_array(_ordered.c.movie_id),
    func.group_concat(func.printf("%!.17g", _ordered.c.stars)),
    _GENERATION,
)


@dataclass(frozen=True)
class StoredRating(Answer):
    """A user's rating of a movie."""

    movie_id: Annotated[str, Field(examples=["50"])]
    stars: Annotated[float, Field(examples=[4.5])]
    """Within the bounds of the settings when it was stored."""
    rated_at: datetime
    """When the movie was rated, or the rating received if it came without a time."""


def profile(session: Session, user_id: str) -> dict[str, float]:
    """Movie id -> stars of one user by ascending movie key; empty for an unknown user.

    The one statement of a list. It brings the catalogue's generation along, which
    spares `catalogue` its own.
    """
    stars: dict[str, float] = {}
    generation = None
    if not is_postgresql(session):
        ids, numbers, generation = session.execute(_PROFILE_IN_ONE_ROW, {"user_id": user_id}).one()
        if numbers is not None:
            stars = dict(zip(json.loads(ids), map(float, numbers.split(",")), strict=True))
    elif rows := session.execute(_PROFILE_ROWS, {"user_id": user_id}).all():
        stars = {movie_id: number for movie_id, number, _ in rows}
        generation = rows[0][2]
    if generation is not None and session.info.get(ONE_MOMENT):
        session.info[CATALOGUE_GENERATION] = generation
    return stars


def of_user(session: Session, user_id: str) -> list[StoredRating]:
    """All ratings of one user by ascending movie key; empty for an unknown user."""
    statement = _RATINGS.where(User.user_id == user_id).order_by(Rating.movie_key)
    return [
        StoredRating(movie_id, stars, from_microseconds(rated_at))
        for movie_id, stars, rated_at in session.execute(statement)
    ]


def of_users(session: Session, user_ids: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Movie ids and stars of several users; unknown users have an empty list."""
    ratings: dict[str, list[tuple[str, float]]] = {user_id: [] for user_id in user_ids}
    for part in in_parts(sorted(ratings)):
        statement = (
            _RATINGS.with_only_columns(User.user_id, Movie.movie_id, Rating.stars)
            .where(User.user_id.in_(part))
            .order_by(Rating.user_key, Rating.movie_key)
        )
        for user_id, movie_id, stars in session.execute(statement):
            ratings[user_id].append((movie_id, stars))
    return ratings


def page_of_user(
    session: Session, user_id: str, *, limit: int, cursor: str | None = None
) -> Page[StoredRating]:
    """A page of a user's ratings, newest first.

    Raises `InvalidInput` for a cursor that no page has handed out.
    """
    statement = (
        _RATINGS.add_columns(Rating.movie_key)
        .where(User.user_id == user_id)
        .order_by(Rating.rated_at.desc(), Rating.movie_key.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        rated_at, movie_key = cursors.read(cursor, 2)
        statement = statement.where(tuple_(Rating.rated_at, Rating.movie_key) < tuple_(rated_at, movie_key))
    rows = Page.of(session.execute(statement).all(), limit, lambda row: (row.rated_at, row.movie_key))
    return rows.map(lambda row: StoredRating(row.movie_id, row.stars, from_microseconds(row.rated_at)))


def count(session: Session) -> int:
    """How many ratings are stored; it counts them."""
    return session.scalar(select(func.count()).select_from(Rating)) or 0


def most_rated(session: Session, *, limit: int | None = None) -> list[tuple[str, int]]:
    """The ids and numbers of ratings of rated movies, most rated first."""
    statement = (
        select(Movie.movie_id, Movie.n_ratings)
        .where(Movie.n_ratings > 0)
        .order_by(Movie.n_ratings.desc(), Movie.movie_key)
        .limit(limit)
    )
    return [(movie_id, n) for movie_id, n in session.execute(statement)]


def export(session: Session) -> Iterator[tuple[str, str, float, datetime]]:
    """Every rating as (user id, movie id, stars, time), by ascending keys.

    Streamed: few rows are in memory at a time.
    """
    statement = (
        _RATINGS.with_only_columns(User.user_id, Movie.movie_id, Rating.stars, Rating.rated_at)
        .order_by(Rating.user_key, Rating.movie_key)
        .execution_options(yield_per=10_000)
    )
    for user_id, movie_id, stars, rated_at in session.execute(statement):
        yield user_id, movie_id, stars, from_microseconds(rated_at)


def csv_lines(session: Session) -> Iterator[str]:
    """The export as CSV in pieces of lines; importing it gives equal ratings."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["user_id", "movie_id", "stars", "rated_at"])
    for number, (user_id, movie_id, stars, rated_at) in enumerate(export(session), start=1):
        writer.writerow([user_id, movie_id, repr(stars), rated_at.isoformat()])
        if number % _EXPORT_ROWS == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()

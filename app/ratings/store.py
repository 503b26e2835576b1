"""Upserts where the newest rating wins, and deletions.

Rules of an upsert, for each (user, movie):
- a newer `rated_at` wins; at equal times the rating received last wins;
- a rating without a time has that of its receipt, but changes nothing where the stars
  are equal;
- an older rating is `superseded`, an equal one is `unchanged`.

No foreign key watches over ratings, for checking one costs more than the rating itself.
Locks do instead: a transaction that stores ratings keeps users from being erased, and
locks its users on PostgreSQL; on SQLite it is the only writer. Movies are never
deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    CursorResult,
    Double,
    MetaData,
    SmallInteger,
    Table,
    and_,
    bindparam,
    func,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy import delete as delete_from
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable

from app.errors import NotFound
from app.ratings import keys
from app.ratings.batch import UNTIMED, Counts, RatingBatch
from app.ratings.changes import note_change
from app.storage.database import insert_of, is_postgresql
from app.storage.tables import ModelVersion, Movie, Rating, User, to_microseconds

# Any fixed number: it names the erasure of users among PostgreSQL's advisory locks.
_ERASURE_LOCK = 0x4861726D45726173

# Rows in one INSERT on SQLite, which takes 32,766 bound values at most, and as long for
# a statement as for several rows.
LOADED_AT_ONCE = 1_000

# Ratings by integer keys that are to be upserted, each pair once, in the order of their
# keys. The table lives in the connection's temporary space. PostgreSQL empties it with
# every commit, because it never vacuums one.
_staged_table = Table(
    "staged_ratings",
    MetaData(),
    Column("user_key", BigInteger, nullable=False),
    Column("movie_key", BigInteger, nullable=False),
    Column("stars", Double, nullable=False),
    Column("rated_at", BigInteger, nullable=False),
    # 1 or 0: SQLite's driver takes integers several times as fast as truth values.
    Column("is_timed", SmallInteger, nullable=False, server_default="1"),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DELETE ROWS",
)
_POSTGRESQL_TYPES = ("int8", "int8", "float8", "int8", "int2")
_RATING_COLUMNS = ("user_key", "movie_key", "stars", "rated_at")

# What a staged rating is to the stored one of its user and movie.
_staged, _stored = _staged_table.c, Rating.__table__.c
_is_pair = and_(_stored.user_key == _staged.user_key, _stored.movie_key == _staged.movie_key)
_is_repetition = and_(_staged.is_timed == 0, _stored.stars == _staged.stars)
_is_newer = or_(
    _stored.rated_at < _staged.rated_at,
    and_(_stored.rated_at == _staged.rated_at, _stored.stars != _staged.stars),
)
_PAIRS = _staged_table.join(Rating.__table__, _is_pair)
_CLASSIFIED = select(
    func.count(),
    func.count().filter(_is_newer, not_(_is_repetition)),
    func.count().filter(_stored.rated_at > _staged.rated_at, not_(_is_repetition)),
).select_from(_PAIRS)
_STORED_BY_MOVIE = select(_staged.movie_key, func.count()).select_from(_PAIRS).group_by(_staged.movie_key)
_DROP_REPETITIONS = delete_from(_staged_table).where(
    _staged.is_timed == 0, select(_stored.stars).where(_is_pair, _stored.stars == _staged.stars).exists()
)
# SQLite takes the ON CONFLICT behind a SELECT for a join's condition unless there is a
# WHERE.
_ALL_STAGED = select(*(_staged[name] for name in _RATING_COLUMNS)).where(true())
_ADD_POPULARITY = (
    update(Movie)
    .where(Movie.movie_key == bindparam("key"))
    .values(n_ratings=Movie.n_ratings + bindparam("n"))
)


@dataclass(frozen=True)
class _Classes:
    """What staged ratings are to the stored ones."""

    stored: int
    """How many have a stored rating of their user and movie."""
    newer: int
    """How many of these replace it."""
    older: int
    """How many of these are superseded by it."""
    by_movie: Mapping[int, int]
    """How many have a stored rating, by movie key; empty where it is all or none."""


@dataclass(frozen=True)
class Upserted:
    """What an upsert has done."""

    counts: Counts
    """What became of the rows."""
    movie_keys: NDArray[np.int64]
    """int64 (k,): the movies that ratings were inserted of."""
    n_inserted: NDArray[np.int64]
    """int64 (k,): how many of each."""


def upsert(session: Session, batch: RatingBatch, *, received_at: datetime) -> Counts:
    """Store a batch by the rules above; return what became of its rows.

    Unknown users appear, unknown movies become bare catalogue entries.
    Takes any number of rows; callers keep to 50,000 so that no lock is held long.
    """
    upserted = upsert_slice(session, batch, received_at=received_at)
    add_popularity(session, upserted.movie_keys, upserted.n_inserted)
    return upserted.counts


def upsert_slice(
    session: Session, batch: RatingBatch, *, received_at: datetime, known_movies: dict[str, int] | None = None
) -> Upserted:
    """Store one of many batches; the popularity of its movies is left to the caller.

    Args:
        known_movies: movie keys by id that earlier batches have looked up; those looked
            up here are added.
    """
    if len(batch) == 0:
        return Upserted(Counts(), *np.empty((2, 0), np.int64))
    _hold_erasures(session)
    keys_of_users, are_new = keys.user_keys(session, batch.user_ids, received_at)
    keys_of_movies = keys.movie_keys(session, batch.movie_ids, received_at, known_movies)
    user_keys, movie_keys = keys_of_users[batch.user_codes], keys_of_movies[batch.movie_codes]
    is_timed = (batch.rated_at != UNTIMED).astype(np.int16)
    rated_at = np.where(is_timed, batch.rated_at, to_microseconds(received_at))
    kept = _newest_of_each_pair(user_keys, movie_keys, rated_at)
    columns = [column[kept] for column in (user_keys, movie_keys, batch.stars, rated_at, is_timed)]

    # No rating of a user that this transaction has made can be stored: there is nothing
    # to look up.
    is_new = are_new[batch.user_codes[kept]]
    if is_new.any():
        _load(session, Rating.__tablename__, [column[is_new] for column in columns[:-1]])
    known = [column[~is_new] for column in columns]
    met = _upsert_known(session, known) if len(known[0]) else _Classes(0, 0, 0, {})
    counts = Counts(
        inserted=len(kept) - met.stored,
        updated=met.newer,
        unchanged=met.stored - met.newer - met.older,
        superseded=met.older + len(batch) - len(kept),
    )
    note_change(session, inserted=counts.inserted, updated=counts.updated)

    inserted_codes = batch.movie_codes[kept]
    if met.stored == len(known[0]):
        inserted_codes = inserted_codes[is_new]
    n_inserted = np.bincount(inserted_codes, minlength=len(keys_of_movies))
    if met.by_movie:
        n_inserted -= np.array([met.by_movie.get(key, 0) for key in keys_of_movies.tolist()])
    return Upserted(counts, keys_of_movies[n_inserted > 0], n_inserted[n_inserted > 0])


def add_popularity(session: Session, movie_keys: NDArray[np.int64], n_ratings: NDArray[np.int64]) -> None:
    """Add to the number of ratings that movies have; a key stands once in `movie_keys`.

    Rows change in the order of their keys, so that two transactions cannot wait for
    each other.
    """
    pairs = sorted(zip(movie_keys.tolist(), n_ratings.tolist(), strict=True))
    if pairs:
        session.connection().execute(_ADD_POPULARITY, [{"key": key, "n": n} for key, n in pairs])


def delete(session: Session, user_id: str, movie_id: str) -> None:
    """Delete one rating; `NotFound` when there is none."""
    user_key = session.scalar(select(User.user_key).where(User.user_id == user_id).with_for_update())
    movie_key = session.scalar(select(Movie.movie_key).where(Movie.movie_id == movie_id))
    deletion = delete_from(Rating).where(Rating.user_key == user_key, Rating.movie_key == movie_key)
    if user_key is None or movie_key is None or _rowcount(session.execute(deletion)) == 0:
        raise NotFound(f"User {user_id!r} has no rating of movie {movie_id!r}.")
    note_change(session, removed=1)
    add_popularity(session, np.array([movie_key]), np.array([-1]))


def erase_user(session: Session, user_id: str) -> list[int]:
    """Delete a user and their ratings; return the versions that were trained with them.

    Those versions keep what they learned until they are deleted or retrained. Raises
    `NotFound`.
    """
    user = select(User.user_key).where(User.user_id == user_id)
    user_key = session.scalar(user)
    if user_key is None:
        raise NotFound(f"There is no user {user_id!r}.")
    versions = [
        version
        for version, packed in session.execute(
            select(ModelVersion.version, ModelVersion.trained_user_keys).order_by(ModelVersion.version)
        ).yield_per(1)
        if keys.holds_key(packed, user_key)
    ]
    if is_postgresql(session):
        # Waits for the transactions that store ratings, and keeps others from beginning
        # to.
        session.execute(select(func.pg_advisory_xact_lock(_ERASURE_LOCK)))
    if session.scalar(user.with_for_update()) is None:  # erased meanwhile
        raise NotFound(f"There is no user {user_id!r}.")
    rated = session.scalars(select(Rating.movie_key).where(Rating.user_key == user_key)).all()
    removed = _rowcount(session.execute(delete_from(Rating).where(Rating.user_key == user_key)))
    add_popularity(session, np.array(rated, np.int64), np.full(len(rated), -1))
    note_change(session, removed=removed)
    session.execute(delete_from(User).where(User.user_key == user_key))
    return versions


def _hold_erasures(session: Session) -> None:
    """Keep users from being erased until this transaction ends.

    On PostgreSQL it also has keys looked up instead of tables read.
    """
    if is_postgresql(session):
        session.execute(
            select(
                func.pg_advisory_xact_lock_shared(_ERASURE_LOCK),
                # Small relations join large ones here. A plan that reads all ratings
                # for some of them, which wrong estimates bring about, would be slow
                # without measure.
                func.set_config("enable_hashjoin", "off", True),
                func.set_config("enable_mergejoin", "off", True),
                func.set_config("enable_seqscan", "off", True),
                # Wrong estimates also make it compile what is done in milliseconds.
                func.set_config("jit", "off", True),
            )
        )


def _newest_of_each_pair(
    user_keys: NDArray[np.int64], movie_keys: NDArray[np.int64], rated_at: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Positions of the ratings to store, in the order of their keys, int64 (n,).

    Of several ratings of a pair the newest is stored, of equal times the last received.
    """
    # Sorting is stable, and quick where a file has its ratings by user.
    order = np.lexsort((movie_keys, user_keys))
    if not _repeats(user_keys[order], movie_keys[order]).any():
        return order
    order = np.lexsort((rated_at, movie_keys, user_keys))
    kept: NDArray[np.int64] = order[np.append(~_repeats(user_keys[order], movie_keys[order]), True)]
    return kept


def _repeats(user_keys: NDArray[np.int64], movie_keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the next pair is the same, bool (n - 1,)."""
    repeats: NDArray[np.bool_] = (np.diff(user_keys) == 0) & (np.diff(movie_keys) == 0)
    return repeats


def _upsert_known(session: Session, columns: Sequence[NDArray[Any]]) -> _Classes:
    """Upsert ratings of users that may have others; return what became of them.

    Args:
        columns: as `_staged_table` has them, each pair once, in the order of the keys.
    """
    connection = session.connection()
    connection.execute(CreateTable(_staged_table, if_not_exists=True))
    connection.execute(delete_from(_staged_table))
    are_timed = bool(columns[-1].all())
    _load(session, _staged_table.name, columns[:-1] if are_timed else columns)
    classes = _Classes(*session.execute(_CLASSIFIED).one(), {})
    n_inserted = len(columns[0]) - classes.stored
    if classes.stored > 0 and n_inserted:
        classes = replace(classes, by_movie=dict(session.execute(_STORED_BY_MOVIE).all()))
    if n_inserted == 0 and classes.newer == 0:
        return classes
    if not are_timed:
        session.execute(_DROP_REPETITIONS)
    insert = insert_of(session, Rating)
    new = insert.excluded
    session.execute(
        insert.from_select(_RATING_COLUMNS, _ALL_STAGED).on_conflict_do_update(
            index_elements=["user_key", "movie_key"],
            set_={"stars": new.stars, "rated_at": new.rated_at},
            where=or_(
                _stored.rated_at < new.rated_at,
                and_(_stored.rated_at == new.rated_at, _stored.stars != new.stars),
            ),
        )
    )
    return classes


def _load(session: Session, table: str, columns: Sequence[NDArray[Any]]) -> None:
    """Insert rows into a table by the driver's quickest way.

    Args:
        columns: the first ones of `_staged_table`; all but the last are those of
            `ratings`.
    """
    connection = session.connection()
    target = f"{table} ({', '.join(_staged_table.c.keys()[: len(columns)])})"
    rows = zip(*(column.tolist() for column in columns), strict=True)
    if is_postgresql(session):
        driver: Any = connection.connection.driver_connection
        with driver.cursor().copy(f"COPY {target} FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(_POSTGRESQL_TYPES[: len(columns)])
            for row in rows:
                copy.write_row(row)
        return
    values = tuple(chain.from_iterable(rows))
    marks = f"({', '.join('?' * len(columns))})"
    for n_rows in (LOADED_AT_ONCE, 1):
        size = n_rows * len(columns)
        whole = len(values) // size * size
        if whole:
            connection.exec_driver_sql(
                f"INSERT INTO {target} VALUES {', '.join([marks] * n_rows)}",
                [values[start : start + size] for start in range(0, whole, size)],
            )
        values = values[whole:]


def _rowcount(result: Any) -> int:
    cursor: CursorResult[Any] = result
    return max(cursor.rowcount, 0)

"""Every rating at one moment, as arrays: what a model is trained with."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.learning.rating_matrix import RatingRows
from app.learning.vocabulary import Vocabulary
from app.ratings.keys import ids_of
from app.storage.database import is_postgresql
from app.storage.tables import Movie, Rating, User

FETCH_ROWS = 100_000  # ratings fetched from the driver at a time


@dataclass(frozen=True)
class Snapshot:
    """Every rating at one moment."""

    rows: RatingRows
    """The ratings, a row a user, a column a movie."""
    user_keys: NDArray[np.int64]
    """int64 (n_users,), ascending."""
    user_ids: list[str]
    """n_users ids, in the order of the keys."""
    vocabulary: Vocabulary
    """The ids of the movies that have ratings, in the order of the columns."""
    newest: int | None
    """Microseconds since 1970 of the newest rating; None without ratings."""


def take_snapshot(session: Session, on_rows: Callable[[], object] = lambda: None) -> Snapshot:
    """Every rating as arrays: 8 bytes a rating, about twice that while they are read.

    Read it in one `reading()` session, so that ratings and ids are those of one moment.

    Args:
        on_rows: called now and then while rows are read; what it raises ends the
            reading.
    """
    users: list[NDArray[np.int64]] = []
    lengths: list[NDArray[np.int64]] = []
    columns: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    stars: list[NDArray[np.float32]] = []
    for fetched in _fetched(session):
        on_rows()
        # Keys stay far below 2^53, where a float64 is no longer exact.
        table = np.fromiter(chain.from_iterable(fetched), np.float64, 3 * len(fetched)).reshape(-1, 3)
        firsts = np.flatnonzero(np.diff(table[:, 0], prepend=-1))
        users.append(table[firsts, 0].astype(np.int64))
        lengths.append(np.diff(firsts, append=len(table)))
        # Columns within the block for now: half the memory, and keys may be of any
        # size.
        movie_keys, places = np.unique(table[:, 1].astype(np.int64), return_inverse=True)
        columns.append((movie_keys, places.astype(np.int32)))
        stars.append(table[:, 2].astype(np.float32))

    movie_keys = np.unique(_joined([keys for keys, _ in columns], np.int64))
    # A user may go on in the next block.
    key_of_part = _joined(users, np.int64)
    first_parts = np.flatnonzero(np.diff(key_of_part, prepend=-1))
    ends = np.cumsum(_joined(lengths, np.int64))
    indptr = np.concatenate(([0], ends[np.append(first_parts, len(ends))[1:] - 1]))
    rows = RatingRows(
        indptr, _over_all(columns, movie_keys), _joined(stars, np.float32), n_movies=len(movie_keys)
    )
    user_keys = key_of_part[first_parts]
    return Snapshot(
        rows=rows,
        user_keys=user_keys,
        user_ids=ids_of(session, User, user_keys),
        vocabulary=Vocabulary(ids_of(session, Movie, movie_keys)),
        newest=session.scalar(select(func.max(Rating.rated_at))),
    )


def _fetched(session: Session) -> Iterator[list[tuple[int, int, float]]]:
    """User key, movie key and stars of all ratings by ascending keys.

    `FETCH_ROWS` at a time, by the driver's own cursor: SQLAlchemy's rows take five
    times as long.
    """
    driver: Any = session.connection().connection.driver_connection
    # On PostgreSQL a cursor with a name stays at the server, which sends rows as they
    # are fetched.
    cursor = driver.cursor("snapshot", binary=True) if is_postgresql(session) else driver.cursor()
    with closing(cursor):
        cursor.execute("SELECT user_key, movie_key, stars FROM ratings ORDER BY user_key, movie_key")
        while rows := cursor.fetchmany(FETCH_ROWS):
            yield rows


def _over_all(
    blocks: list[tuple[NDArray[np.int64], NDArray[np.int32]]], movie_keys: NDArray[np.int64]
) -> NDArray[np.int32]:
    """The columns of all blocks over all movies, int32 (n_ratings,); empties the list.

    Args:
        blocks: of each block, its movie keys and its columns as positions among them.
    """
    end = sum(len(places) for _, places in blocks)
    indices = np.empty(end, np.int32)
    while blocks:  # given up one by one, so that there are never two whole copies
        keys, places = blocks.pop()
        start = end - len(places)
        indices[start:end] = np.searchsorted(movie_keys, keys)[places]
        end = start
    return indices


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([*parts, np.empty(0, dtype)])

"""Ratings in the database: upsert where the newest wins, delete, and ratings as arrays.

Rules of an upsert, for each (user, movie):
- a newer `rated_at` wins; at equal times the rating received last wins;
- a rating without a time counts as given when it was received, but changes nothing where the stars are equal;
- an older rating is `superseded`, an equal one is `unchanged`.
"""

import csv
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import chain, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    CursorResult,
    Double,
    MetaData,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy import Table as StagingTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable

from app import cursors
from app.database import CATALOGUE_GENERATION, ONE_MOMENT, as_rows, in_parts
from app.errors import NotFound
from app.learning.preferences import RatingRows
from app.learning.vocabulary import Vocabulary
from app.tables import (
    CatalogueState,
    ModelVersion,
    Movie,
    Rating,
    RatingChange,
    User,
    from_microseconds,
    to_microseconds,
)

# In an int64 array of times: this rating came without one.
UNTIMED = int(np.iinfo(np.int64).min)

# Built once: building it takes longer than reading a short profile.
_GENERATION = select(CatalogueState.generation).scalar_subquery()
_RATED = (
    select(Movie.movie_id, Rating.stars)
    .join(User, User.user_key == Rating.user_key)
    .join(Movie, Movie.movie_key == Rating.movie_key)
    .where(User.user_id == bindparam("user_id"))
    .order_by(Rating.movie_key)
)

_PROFILE = _RATED.add_columns(_GENERATION)

# The same in one row: Python's driver lets go of the interpreter's lock at each row of SQLite's, and under
# load gets it back only when another thread has had its turn.
_ordered = _RATED.subquery()
_PROFILE_IN_A_ROW = select(
    func.json_group_array(_ordered.c.movie_id),
    func.group_concat(func.printf("%!.17g", _ordered.c.stars)),
    _GENERATION,
)

# Any fixed number: it names the erasure of users among PostgreSQL's advisory locks.
ERASURE_LOCK = 0x4861726D45726173

# Around the rows of COPY's binary format.
COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_END = b"\xff\xff"

# Elements of PostgreSQL's arrays in that format: their size in bytes, and the value.
ELEMENT_OF_INTEGERS = np.dtype([("size", ">i4"), ("value", ">i8")])
ELEMENT_OF_STARS = np.dtype([("size", ">i4"), ("value", ">f4")])
ELEMENT_OF_DOUBLES = np.dtype([("size", ">i4"), ("value", ">f8")])

# Rows in one statement on SQLite, to which a statement costs more than a row: as many as fit, then the rest.
STATEMENT_ROWS = (2_000, 100, 5, 1)
SQLITE_UPSERT = (
    "ON CONFLICT (user_key, movie_key) DO UPDATE SET stars = excluded.stars, rated_at = excluded.rated_at"
)

# A batch with so many ratings a user reads all that its users have, as long as that is not more than so many
# times what the batch has: on PostgreSQL reading on costs a fifth of looking a pair up, on SQLite two thirds.
DENSE_RATINGS = 5
DENSE_TIMES = 4
DENSE_TIMES_SQLITE = 1.5
WALKED_RATINGS = 2_000  # from which on SQLite tries
WALKED_USERS = 32  # whose ratings SQLite reads at once
# Two keys below this are one integer of 64 bits.
SMALL_KEYS = 2**31
# Stars times this are integers, from .5 on (a float64 has 53 bits), and fit 64 bits.
STARS_TO_INTEGERS = 2.0**53
LEAST_WALKED_STARS, MOST_WALKED_STARS = 0.5, 1_000.0

TALLIES_AT_ONCE = 50  # of batches, added up together

# Ratings fetched from the driver at a time while a snapshot is read.
FETCH_ROWS = 100_000
EXPORT_ROWS = 5_000
# Rows of `rating_changes` summed up in one transaction.
SUMMED_ROWS = 5_000


@dataclass(frozen=True)
class Counts:
    """What became of the rows received; the five sum to their number."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    superseded: int = 0
    rejected: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def total(self) -> int:
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True)
class RatingBatch:
    """Ratings as they arrive, already validated: clean ids, finite stars within bounds.

    Attributes:
        user_ids, movie_ids: the ids that occur, each once.
        user_codes, movie_codes: int64 (n,), positions in `user_ids` and `movie_ids`.
        stars: float64 (n,).
        rated_at: int64 (n,), microseconds since 1970 in UTC, `UNTIMED` where the rating came without a time.
    """

    user_ids: Sequence[str]
    user_codes: NDArray[np.int64]
    movie_ids: Sequence[str]
    movie_codes: NDArray[np.int64]
    stars: NDArray[np.float64]
    rated_at: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, float, datetime | None]]) -> "RatingBatch":
        """A batch of (user id, movie id, stars, aware time or None) rows."""
        users, movies, stars, times = zip(*rows, strict=True) if (rows := list(rows)) else ((),) * 4
        moments = [UNTIMED if time is None else to_microseconds(time) for time in times]
        return cls.of_columns(
            users, movies, np.array(stars, dtype=np.float64), np.array(moments, dtype=np.int64)
        )

    @classmethod
    def of_columns(
        cls,
        users: Sequence[str],
        movies: Sequence[str],
        stars: NDArray[np.float64],
        rated_at: NDArray[np.int64],
    ) -> "RatingBatch":
        """A batch of columns, with one user id and one movie id a rating."""
        return cls(*_coded(users), *_coded(movies), stars, rated_at)

    def __len__(self) -> int:
        return len(self.stars)


@dataclass(frozen=True)
class Changes:
    """How many ratings were inserted, updated and removed, ever; inserted less removed are there."""

    inserted: int
    updated: int
    removed: int

    @property
    def total(self) -> int:
        """All of them. A removed rating is news as well: what it has taught shall be forgotten."""
        return self.inserted + self.updated + self.removed

    @property
    def n_ratings(self) -> int:
        """How many ratings there are, without counting them."""
        return self.inserted - self.removed


@dataclass(frozen=True)
class StoredRating:
    movie_id: str
    stars: float
    rated_at: datetime


@dataclass(frozen=True)
class Snapshot:
    """Every rating at one moment, as arrays.

    Attributes:
        rows: the ratings, a row a user, a column a movie.
        user_keys: int64 (n_users,), ascending.
        user_ids: n_users strings, in the same order.
        vocabulary: the ids of the movies that have ratings, in the order of the columns.
        newest: microseconds since 1970 of the newest rating, or None when there is none.
    """

    rows: RatingRows
    user_keys: NDArray[np.int64]
    user_ids: list[str]
    vocabulary: Vocabulary
    newest: int | None


# Ratings by integer keys that are to be upserted on PostgreSQL. It lives in the connection's temporary space
# and is emptied by every commit: nothing ever vacuums a temporary table.
_staged = StagingTable(
    "staged_ratings",
    MetaData(),
    Column("user_key", BigInteger, nullable=False),
    Column("movie_key", BigInteger, nullable=False),
    Column("stars", Double, nullable=False),
    Column("rated_at", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
    postgresql_on_commit="DELETE ROWS",
)


# How many ratings movies have: their keys, each once, and the numbers; int64 (k,) both.
_Tally = tuple[NDArray[np.int64], NDArray[np.int64]]
_NO_TALLY: _Tally = (np.empty(0, np.int64), np.empty(0, np.int64))


class Series:
    """What many batches, each in a transaction of its own, need not look up or write again and again.

    Attributes:
        movie_keys: keys that were found, by id: movies are never deleted.
    """

    def __init__(self) -> None:
        self.movie_keys: dict[str, int] = {}
        self._sums = _NO_TALLY
        self._committed: list[_Tally] = []
        self._pending = _NO_TALLY

    def note(self, tally: "_Tally") -> None:
        """So many ratings of each movie were inserted by a batch, which may still be rolled back."""
        self._pending = tally

    def committed(self) -> None:
        """The transaction of the last batch has ended well."""
        self._committed.append(self._pending)
        self._pending = _NO_TALLY
        if len(self._committed) >= TALLIES_AT_ONCE:
            self._add_up()

    def inserted(self) -> dict[int, int]:
        """Ratings that were inserted and committed, by movie key."""
        self._add_up()
        return _by_movie(self._sums)

    def _add_up(self) -> None:
        self._sums = _added_up([self._sums, *self._committed])
        self._committed = []


def store(
    session: Session,
    batch: RatingBatch,
    *,
    received_at: datetime,
    series: "Series | None" = None,
) -> Counts:
    """Upsert a batch; unknown users appear, unknown movies become bare catalogue entries.

    Takes any number of rows; callers keep to 50,000 so that no lock is held long. Rows are written in the
    order of their keys, so that batches at once on PostgreSQL cannot deadlock.

    Args:
        series: the batches that this one is one of, each in a transaction of its own: then the movies'
            popularity is the caller's to store, once for all of them.
    """
    if len(batch) == 0:
        return Counts()
    _hold_erasures(session)
    keys_of_users, are_new = _keys_of(session, User, batch.user_ids, received_at)
    keys_of_movies, _ = _keys_of(
        session, Movie, batch.movie_ids, received_at, series.movie_keys if series else None
    )
    user_keys, movie_keys = keys_of_users[batch.user_codes], keys_of_movies[batch.movie_codes]
    untimed = batch.rated_at == UNTIMED
    rated_at = np.where(untimed, to_microseconds(received_at), batch.rated_at)
    kept = _newest_of_each_pair(user_keys, movie_keys, rated_at)

    # Nobody else can have stored a rating under a key that this transaction has made: no need to look.
    is_new = are_new[batch.user_codes[kept]]
    fresh, others = kept[is_new], kept[~is_new]
    columns = {"user_key": user_keys, "movie_key": movie_keys, "stars": batch.stars, "rated_at": rated_at}
    if len(fresh):
        _load(session.connection(), "ratings", _at(columns, fresh))
    counts = Counts(inserted=len(fresh), superseded=len(batch) - len(kept))
    if len(others):
        merged, absent = _merge(session, _at(columns, others), untimed[others])
        counts += merged
        fresh = np.concatenate((fresh, others[absent]))
    n_ratings = np.bincount(batch.movie_codes[fresh], minlength=len(batch.movie_ids))
    tally = (keys_of_movies[n_ratings > 0], n_ratings[n_ratings > 0])
    if series is None:
        add_popularity(session, _by_movie(tally))
    else:
        series.note(tally)
    _note_change(session, inserted=counts.inserted, updated=counts.updated)
    return counts


def _by_movie(tally: _Tally) -> dict[int, int]:
    keys, n_ratings = tally
    return dict(zip(keys.tolist(), n_ratings.tolist(), strict=True))


def _added_up(tallies: Sequence[_Tally]) -> _Tally:
    keys, places = np.unique(np.concatenate([keys for keys, _ in tallies]), return_inverse=True)
    n_ratings = np.concatenate([n_ratings for _, n_ratings in tallies])
    return keys, np.bincount(places, n_ratings, len(keys)).astype(np.int64)


def add_popularity(session: Session, n_ratings: Mapping[int, int]) -> None:
    """Add to the number of ratings that movies, by key, are said to have."""
    _store_popularity(session, n_ratings, "n_ratings + ")


def set_popularity(session: Session, n_ratings: Mapping[int, int]) -> None:
    """Set the number of ratings that movies, by key, are said to have."""
    _store_popularity(session, n_ratings, "")


def _store_popularity(session: Session, n_ratings: Mapping[int, int], before: str) -> None:
    """Change rows in the order of their keys, so that two batches cannot wait for each other.

    Args:
        before: what stands before the new number.
    """
    keys = sorted(n_ratings)
    if not keys:
        return
    numbers = [n_ratings[key] for key in keys]
    driver: Any = session.connection().connection.driver_connection
    if _is_postgresql(session):
        # In one statement instead of one a movie; it updates in any order, so the locks are taken before.
        driver.execute(
            "SELECT FROM movies WHERE movie_key = ANY (%s::bigint[]) ORDER BY movie_key FOR UPDATE", (keys,)
        )
        driver.execute(
            f"UPDATE movies SET n_ratings = {before} given.n FROM unnest(%s::bigint[], %s::bigint[]) "
            "AS given (key, n) WHERE movie_key = given.key",
            (keys, numbers),
        )
    else:
        driver.executemany(
            f"UPDATE movies SET n_ratings = {before} ? WHERE movie_key = ?", zip(numbers, keys, strict=True)
        )


def remove(session: Session, user_id: str, movie_id: str) -> None:
    """Delete one rating; `NotFound` when there is none."""
    result = session.execute(
        delete(Rating).where(
            Rating.user_key == select(User.user_key).where(User.user_id == user_id).scalar_subquery(),
            Rating.movie_key == select(Movie.movie_key).where(Movie.movie_id == movie_id).scalar_subquery(),
        )
    )
    if _rowcount(result) == 0:
        raise NotFound(f"User {user_id!r} has no rating of movie {movie_id!r}.")
    _note_change(session, removed=1)
    session.execute(
        update(Movie)
        .where(Movie.movie_id == movie_id)
        .values(n_ratings=Movie.n_ratings - 1)
        .execution_options(synchronize_session=False)
    )


def erase_user(session: Session, user_id: str) -> list[int]:
    """Delete a person and every rating of theirs; return the model versions that were trained with them.

    Those versions keep what they learned until they are deleted or retrained. Raises `NotFound`.
    """
    user_key = session.scalar(select(User.user_key).where(User.user_id == user_id))
    if user_key is None:
        raise NotFound(f"There is no user {user_id!r}.")
    versions = [
        version
        for version, packed in session.execute(
            select(ModelVersion.version, ModelVersion.trained_user_keys).order_by(ModelVersion.version)
        ).yield_per(1)
        if holds_key(packed, user_key)
    ]
    _wait_for_writers(session)
    rated = session.scalars(select(Rating.movie_key).where(Rating.user_key == user_key)).all()
    removed = _rowcount(session.execute(delete(Rating).where(Rating.user_key == user_key)))
    add_popularity(session, dict.fromkeys(rated, -1))
    _note_change(session, removed=removed)
    session.execute(delete(User).where(User.user_key == user_key))
    return versions


def profile(session: Session, user_id: str) -> dict[str, float]:
    """Movie id -> stars of one user by ascending movie key; empty for an unknown user.

    The one statement of a list. It brings the catalogue's generation along, which spares `catalogue` its own.
    """
    if session.get_bind().dialect.name == "sqlite":
        movie_ids, stars_of_each, generation = session.execute(_PROFILE_IN_A_ROW, {"user_id": user_id}).one()
        if session.info.get(ONE_MOMENT):
            session.info[CATALOGUE_GENERATION] = generation
        if stars_of_each is None:
            return {}
        return dict(zip(json.loads(movie_ids), map(float, stars_of_each.split(",")), strict=True))
    found = session.execute(_PROFILE, {"user_id": user_id}).all()
    if found and session.info.get(ONE_MOMENT):
        session.info[CATALOGUE_GENERATION] = found[0][2]
    return {movie_id: stars for movie_id, stars, _ in found}


def of_user(session: Session, user_id: str) -> list[StoredRating]:
    """All ratings of one user by ascending movie key; empty for an unknown user."""
    statement = (
        select(Movie.movie_id, Rating.stars, Rating.rated_at)
        .join(User, User.user_key == Rating.user_key)
        .join(Movie, Movie.movie_key == Rating.movie_key)
        .where(User.user_id == user_id)
        .order_by(Rating.movie_key)
    )
    return [
        StoredRating(movie_id, stars, from_microseconds(rated_at))
        for movie_id, stars, rated_at in session.execute(statement)
    ]


def of_users(session: Session, user_ids: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """Movie ids and stars of several users; unknown users have an empty list."""
    found: dict[str, list[tuple[str, float]]] = {user_id: [] for user_id in user_ids}
    for part in in_parts(sorted(found)):
        statement = (
            select(User.user_id, Movie.movie_id, Rating.stars)
            .join(User, User.user_key == Rating.user_key)
            .join(Movie, Movie.movie_key == Rating.movie_key)
            .where(User.user_id.in_(part))
            .order_by(Rating.user_key, Rating.movie_key)
        )
        for user_id, movie_id, stars in session.execute(statement):
            found[user_id].append((movie_id, stars))
    return found


def page_of_user(
    session: Session, user_id: str, *, limit: int, cursor: str | None = None
) -> tuple[list[StoredRating], str | None]:
    """One page of a user's ratings, newest first, and the cursor of the next (None at the end).

    Raises `InvalidInput` for a cursor that no page has handed out.
    """
    statement = (
        select(Movie.movie_id, Rating.stars, Rating.rated_at, Rating.movie_key)
        .join(User, User.user_key == Rating.user_key)
        .join(Movie, Movie.movie_key == Rating.movie_key)
        .where(User.user_id == user_id)
        .order_by(Rating.rated_at.desc(), Rating.movie_key.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        rated_at, movie_key = cursors.read(cursor, 2)
        statement = statement.where(tuple_(Rating.rated_at, Rating.movie_key) < tuple_(rated_at, movie_key))
    found = session.execute(statement).all()
    items = [StoredRating(row.movie_id, row.stars, from_microseconds(row.rated_at)) for row in found[:limit]]
    if len(found) <= limit:
        return items, None
    last = found[limit - 1]
    return items, cursors.make(last.rated_at, last.movie_key)


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Rating)) or 0


def changes(session: Session) -> Changes:
    """The sums of all changes: of few rows, however many ratings there are."""
    inserted, updated, removed = session.execute(
        select(
            func.coalesce(func.sum(RatingChange.inserted), 0),
            func.coalesce(func.sum(RatingChange.updated), 0),
            func.coalesce(func.sum(RatingChange.removed), 0),
        )
    ).one()
    return Changes(int(inserted), int(updated), int(removed))


def change_rows(session: Session) -> int:
    """How many rows `changes` has to sum."""
    return session.scalar(select(func.count()).select_from(RatingChange)) or 0


def sum_up_changes(session: Session) -> int:
    """Put old rows of `rating_changes` into one; return how many that were.

    What is summed is what the deletion returns: another transaction may commit an older row meanwhile.
    """
    oldest = select(RatingChange.change_id).order_by(RatingChange.change_id).limit(SUMMED_ROWS)
    keys = list(session.scalars(oldest))
    gone = session.execute(
        delete(RatingChange)
        .where(RatingChange.change_id.in_(keys))
        .returning(RatingChange.inserted, RatingChange.updated, RatingChange.removed)
    ).all()
    if not gone:
        return 0  # another worker was quicker
    sums = [sum(column) for column in zip(*gone, strict=True)]
    _note_change(session, inserted=sums[0], updated=sums[1], removed=sums[2])
    return len(gone)


def most_rated(session: Session, *, limit: int | None = None) -> list[tuple[str, int]]:
    """The ids of rated movies and how many ratings each has, most first, then by movie key."""
    statement = (
        select(Movie.movie_id, Movie.n_ratings)
        .where(Movie.n_ratings > 0)
        .order_by(Movie.n_ratings.desc(), Movie.movie_key)
        .limit(limit)
    )
    return [(movie_id, n) for movie_id, n in session.execute(statement)]


def snapshot(session: Session, on_rows: Callable[[], object] = lambda: None) -> Snapshot:
    """Every rating as compact arrays: 8 bytes a rating, and while they are read about twice that.

    Read it in one `reading()` session, so that ratings and ids are those of the same moment.

    Args:
        on_rows: called now and then while rows are read; what it raises ends the reading.
    """
    lengths: list[NDArray[np.int64]] = []
    users: list[NDArray[np.int64]] = []
    movies: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    stars: list[NDArray[np.float32]] = []
    movie_keys = np.empty(0, np.int64)
    for block in _blocks(session):
        on_rows()
        users.append(block.user_keys)
        lengths.append(block.lengths)
        stars.append(block.stars)
        here, places = np.unique(block.movie_keys, return_inverse=True)
        movie_keys = np.union1d(movie_keys, here)
        # Columns within the block for now: half the memory, and keys may be of any size.
        movies.append((here, places.astype(np.int32)))
    n_ratings = sum(len(columns) for _, columns in movies)
    indices = np.empty(n_ratings, np.int32)
    end = n_ratings
    while movies:  # given up one by one, so that there are never two whole copies
        here, columns = movies.pop()
        start = end - len(columns)
        indices[start:end] = np.searchsorted(movie_keys, here)[columns]
        end = start

    # A person may go on in the next block.
    everyone = np.concatenate([*users, np.empty(0, np.int64)])
    firsts = np.flatnonzero(np.diff(everyone, prepend=-1))
    ratings_of = np.concatenate([*lengths, np.empty(0, np.int64)])
    indptr = np.concatenate(([0], np.cumsum(np.add.reduceat(ratings_of, firsts) if len(firsts) else firsts)))
    rows = RatingRows(
        indptr, indices, np.concatenate([*stars, np.empty(0, np.float32)]), n_movies=len(movie_keys)
    )
    user_keys = everyone[firsts]
    user_ids = _ids_of(session, User, user_keys)
    vocabulary = Vocabulary(_ids_of(session, Movie, movie_keys))
    newest = session.scalar(select(func.max(Rating.rated_at)))
    return Snapshot(rows, user_keys, user_ids, vocabulary, newest)


def export(session: Session) -> Iterator[tuple[str, str, float, datetime]]:
    """Every rating as (user id, movie id, stars, time), streamed by ascending user and movie key."""
    statement = (
        select(User.user_id, Movie.movie_id, Rating.stars, Rating.rated_at)
        .join(User, User.user_key == Rating.user_key)
        .join(Movie, Movie.movie_key == Rating.movie_key)
        .order_by(Rating.user_key, Rating.movie_key)
        .execution_options(yield_per=10_000)
    )
    for user_id, movie_id, stars, rated_at in session.execute(statement):
        yield user_id, movie_id, stars, from_microseconds(rated_at)


def csv_lines(session: Session) -> Iterator[str]:
    """The export as CSV, in pieces of a few thousand lines; importing it gives the same ratings."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["user_id", "movie_id", "stars", "rated_at"])
    for number, (user_id, movie_id, stars, rated_at) in enumerate(export(session), start=1):
        writer.writerow([user_id, movie_id, repr(stars), rated_at.isoformat()])
        if number % EXPORT_ROWS == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def pack_keys(user_keys: NDArray[np.int64]) -> bytes:
    """Sorted keys as deflated differences: a few bits a user."""
    return zlib.compress(np.diff(user_keys, prepend=0).astype("<i8").tobytes())


def unpack_keys(packed: bytes) -> NDArray[np.int64]:
    """The keys that `pack_keys` was given."""
    return np.cumsum(np.frombuffer(zlib.decompress(packed), dtype="<i8"), dtype=np.int64)


def holds_key(packed: bytes, user_key: int) -> bool:
    keys = unpack_keys(packed)
    position = int(np.searchsorted(keys, user_key))
    return position < len(keys) and int(keys[position]) == user_key


@dataclass(frozen=True)
class _Block:
    """Consecutive ratings by ascending user and movie key.

    Attributes:
        user_keys: int64 (k,), ascending.
        lengths: int64 (k,), how many of the ratings are each user's.
        movie_keys: int64 (n,), ascending within a user.
        stars: float32 (n,).
    """

    user_keys: NDArray[np.int64]
    lengths: NDArray[np.int64]
    movie_keys: NDArray[np.int64]
    stars: NDArray[np.float32]


def _blocks(session: Session) -> Iterator[_Block]:
    """Every rating, about `FETCH_ROWS` at a time, by the quickest way out that the driver has."""
    driver: Any = session.connection().connection.driver_connection
    if _is_postgresql(session):
        yield from _copied_blocks(driver)
        return
    cursor = driver.execute("SELECT user_key, movie_key, stars FROM ratings ORDER BY user_key, movie_key")
    while rows := cursor.fetchmany(FETCH_ROWS):
        # Keys stay far below 2^53, where a float64 is no longer exact.
        table = np.fromiter(chain.from_iterable(rows), np.float64, 3 * len(rows)).reshape(-1, 3)
        firsts = np.flatnonzero(np.diff(table[:, 0], prepend=-1))
        yield _Block(
            user_keys=table[firsts, 0].astype(np.int64),
            lengths=np.diff(firsts, append=len(rows)),
            movie_keys=table[:, 1].astype(np.int64),
            stars=table[:, 2].astype(np.float32),
        )


def _copied_blocks(driver: Any) -> Iterator[_Block]:
    """The blocks out of PostgreSQL: COPY hands over row by row, so that a row holds all of one user's."""
    users: list[int] = []
    movies: list[NDArray[np.int64]] = []
    stars: list[NDArray[np.float32]] = []
    n_ratings = 0

    def block() -> _Block:
        return _Block(
            np.array(users, np.int64),
            np.array([len(keys) for keys in movies], np.int64),
            np.concatenate(movies),
            np.concatenate(stars),
        )

    cursor = driver.cursor()
    with cursor.copy(
        "COPY (SELECT user_key, array_agg(movie_key), array_agg(stars::real) FROM ratings GROUP BY user_key "
        "ORDER BY user_key) TO STDOUT (FORMAT BINARY)"
    ) as copy:
        for piece in copy:
            row = bytes(piece).removeprefix(COPY_HEADER)
            if row in (b"", COPY_END):
                continue
            # 2 bytes count the fields, 4 the bytes of each; an array has 20 bytes in front of its elements.
            middle = 14 + 4 + int.from_bytes(row[14:18], "big")
            keys = np.frombuffer(row[38:middle], ELEMENT_OF_INTEGERS)["value"].astype(np.int64)
            given = np.frombuffer(row[middle + 24 :], ELEMENT_OF_STARS)["value"].astype(np.float32)
            order = np.argsort(keys)
            users.append(int.from_bytes(row[6:14], "big"))
            movies.append(keys[order])
            stars.append(given[order])
            n_ratings += len(keys)
            if n_ratings >= FETCH_ROWS:
                yield block()
                users, movies, stars, n_ratings = [], [], [], 0
    if users:
        yield block()


def _coded(ids: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """The ids that occur, each once, and for every one its position among them."""
    positions: dict[str, int] = {}
    codes = [positions.setdefault(one, len(positions)) for one in ids]
    return list(positions), np.array(codes, dtype=np.int64)


def _newest_of_each_pair(
    user_keys: NDArray[np.int64], movie_keys: NDArray[np.int64], rated_at: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which ratings to store, in the order of their keys: of equal times the last received."""
    order = _order_of_pairs(user_keys, movie_keys)
    repeats = (np.diff(user_keys[order]) == 0) & (np.diff(movie_keys[order]) == 0)
    if not repeats.any():
        return order
    order = np.lexsort((np.arange(len(order)), rated_at, movie_keys, user_keys))
    kept: NDArray[np.int64] = order[np.append(~repeats, True)]
    return kept


def _order_of_pairs(user_keys: NDArray[np.int64], movie_keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions by ascending user and movie key."""
    if max(user_keys.max(), movie_keys.max()) < SMALL_KEYS:
        return np.argsort(user_keys * SMALL_KEYS + movie_keys)  # by one number: several times as quick
    return np.lexsort((movie_keys, user_keys))


def _keys_of(
    session: Session,
    table: type[User] | type[Movie],
    ids: Sequence[str],
    now: datetime,
    remembered: dict[str, int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The integer keys of distinct ids, in their order, and which of them were made just now.

    Missing rows are inserted in the order of their ids, so that two batches cannot wait for each other.
    """
    known = {} if remembered is None else remembered
    keys = np.fromiter(map(known.get, ids, repeat(-1)), np.int64, len(ids))
    is_known = not (keys < 0).any()
    made: dict[str, int] = {}
    missing: list[str] = []
    if not is_known:
        # Only what is stored for good is remembered: rows that are made here may be rolled back.
        known.update(_lookup(session, table, [one for one in ids if one not in known]))
        missing = sorted(one for one in ids if one not in known)
    if missing:
        key, name = _key_and_name(table)
        rest: dict[str, Any] = {"created_at": now}
        if table is Movie:
            rest |= {"title": "", "folded_title": "", "title_words": "", "genres": [], "updated_at": now}
        given = as_rows(session, missing)
        columns = [table.__table__.c[column] for column in rest]
        source = select(
            given.c.value,
            *(literal(value, column.type) for value, column in zip(rest.values(), columns, strict=True)),
        ).where(text("true"))
        insert = (
            _insert(session, table)
            .from_select([name.key, *rest], source)
            .on_conflict_do_nothing()
            .returning(name, key)
        )
        made = dict(session.execute(insert).all())
        # Another writer was quicker with the rest: it has committed, so that they can be read now.
        known = known | made | _lookup(session, table, [one for one in missing if one not in made])
    if not is_known:
        keys = np.fromiter(map(known.__getitem__, ids), np.int64, len(ids))
    is_made = np.zeros(len(ids), np.bool_)
    if made:
        is_made = np.array([one in made for one in ids], np.bool_)
    return keys, is_made


def _lookup(session: Session, table: type[User] | type[Movie], ids: Sequence[str]) -> dict[str, int]:
    if not ids:
        return {}
    key, name = _key_and_name(table)
    given = as_rows(session, ids)
    return dict(session.execute(select(name, key).join(given, name == given.c.value)).all())


def _key_and_name(table: type[User] | type[Movie]) -> tuple[Any, Any]:
    return (User.user_key, User.user_id) if table is User else (Movie.movie_key, Movie.movie_id)


def _ids_of(session: Session, table: type[User] | type[Movie], keys: NDArray[np.int64]) -> list[str]:
    """The string ids of ascending integer keys, in their order."""
    key, name = _key_and_name(table)
    if len(keys) == 0:
        return []
    statement = select(key, name).where(key.between(int(keys[0]), int(keys[-1])))
    found: dict[int, str] = dict(session.execute(statement).all())
    return [found[number] for number in keys.tolist()]


def _at(columns: dict[str, NDArray[Any]], positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: column[positions] for name, column in columns.items()}


def _load(
    connection: Connection, table: str, columns: dict[str, NDArray[Any]], on_conflict: str = ""
) -> None:
    """Insert rows, given by column, by the quickest way that the driver has.

    Args:
        on_conflict: what SQLite shall do with a row that is there; COPY has no such thing.
    """
    names = ", ".join(columns)
    n_rows, n_columns = len(next(iter(columns.values()))), len(columns)
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        # The binary format of COPY: every row counts its fields, and every field its bytes.
        layout: list[tuple[str, str]] = [("n_fields", ">i2")]
        for name, column in columns.items():
            layout += [(f"size of {name}", ">i4"), (name, column.dtype.newbyteorder(">").str)]
        rows = np.empty(n_rows, dtype=layout)
        rows["n_fields"] = n_columns
        for name, column in columns.items():
            rows[f"size of {name}"] = column.itemsize
            rows[name] = column
        with driver.cursor().copy(f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(COPY_HEADER + rows.tobytes() + COPY_END)
        return
    for values, parameters in _statements(list(columns.values())):
        driver.executemany(f"INSERT INTO {table} ({names}) {values} {on_conflict}", parameters)


def _statements(columns: Sequence[NDArray[Any]]) -> Iterator[tuple[str, list[list[Any]]]]:
    """The rows as `VALUES (?, …), …` of SQLite, with the parameters of every statement that begins so."""
    n_rows, n_columns = len(columns[0]), len(columns)
    flat: list[Any] = [None] * (n_rows * n_columns)
    for number, values in enumerate(columns):
        flat[number::n_columns] = values.tolist()
    row = f"({', '.join('?' * n_columns)})"
    start = 0
    for at_once in STATEMENT_ROWS:
        stop = start + (n_rows - start) // at_once * at_once
        step = at_once * n_columns
        if start < stop:
            parameters = [flat[i : i + step] for i in range(start * n_columns, stop * n_columns, step)]
            yield f"VALUES {', '.join([row] * at_once)}", parameters
        start = stop


def _merge(
    session: Session, columns: dict[str, NDArray[Any]], untimed: NDArray[np.bool_]
) -> tuple[Counts, NDArray[np.bool_]]:
    """Upsert ratings, each pair once, in the order of their keys; say what became of them.

    Returns:
        The counts, and which ratings were not there: bool (n,). The latter, only for popularity, does not see
        what others insert at this very moment.
    """
    is_absent, changes, is_older = _met(session, columns, untimed)
    written = np.flatnonzero(is_absent | changes)
    inserted, updated, superseded = (int(one.sum()) for one in (is_absent, changes, is_older))
    if len(written) and _is_postgresql(session):
        # Others write at the same time, so the statement itself must tell what it did.
        inserted, updated = _upsert_postgresql(session, _at(columns, written))
        if inserted + updated < len(written):
            # Of what somebody has stored in between, the rest is older, or it says the same.
            _, _, is_older_now = _met(session, _at(columns, written), untimed[written])
            superseded += int(is_older_now.sum())
    elif len(written):  # the only writer: nothing has changed since they were looked up
        _load(session.connection(), "ratings", _at(columns, written), SQLITE_UPSERT)
    counts = Counts(
        inserted=inserted,
        updated=updated,
        unchanged=len(untimed) - inserted - updated - superseded,
        superseded=superseded,
    )
    return counts, is_absent


def _met(
    session: Session, columns: dict[str, NDArray[Any]], untimed: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which ratings are not there, which change what is there, and which are older than that; bool (n,)."""
    stored_stars, stored_at = (_stored_postgresql if _is_postgresql(session) else _stored_sqlite)(
        session, columns
    )
    is_absent = np.isnan(stored_stars)
    other_stars = ~is_absent & (stored_stars != columns["stars"])
    # A rating without a time that says what is stored already must not even change the time.
    takes_part = ~is_absent & ~(untimed & ~other_stars)
    at = columns["rated_at"]
    changes = takes_part & ((stored_at < at) | ((stored_at == at) & other_stars))
    return is_absent, changes, takes_part & (stored_at > at)


def _stored_sqlite(
    session: Session, columns: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Stars, NaN where there is no rating, and times of what is stored of these pairs: (n,) each."""
    driver: Any = session.connection().connection.driver_connection
    walked = _walked_sqlite(driver, columns)
    return _looked_up_sqlite(driver, columns) if walked is None else walked


def _walked_sqlite(
    driver: Any, columns: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """The same by reading all that the users have; None where looking up pair by pair may be quicker.

    It comes as long texts, in one row for some users. So there are few steps for the driver, which takes
    Python's lock at each of them, no search of the table for each pair, and no number of Python's for either
    side. Stored stars below .5 come out rounded down, which makes none of them a given one.
    """
    users, movies, stars = columns["user_key"], columns["movie_key"], columns["stars"]
    firsts = np.flatnonzero(np.diff(users, prepend=-1))
    if (
        len(users) < max(WALKED_RATINGS, DENSE_RATINGS * len(firsts))
        or max(users.max(), movies.max()) >= SMALL_KEYS
        or stars.min() < LEAST_WALKED_STARS
        or stars.max() > MOST_WALKED_STARS
    ):
        return None
    # Cast like this, other stars than the given ones never become the integer that the given ones become.
    statement = (
        f"SELECT group_concat(user_key * {SMALL_KEYS} + movie_key), group_concat(rated_at), "
        f"group_concat(CAST(stars * {STARS_TO_INTEGERS:.1f} AS INTEGER)) "
        "FROM json_each(?) AS given CROSS JOIN ratings "
        f"ON ratings.user_key = given.value AND ratings.movie_key < {SMALL_KEYS}"
    )
    parts: list[list[NDArray[np.int64]]] = []
    n_stored = 0
    # Not all users at once, so that never much more is read than what turns out to be worth it.
    for start in range(0, len(firsts), WALKED_USERS):
        few = firsts[start : start + WALKED_USERS]
        n_given = firsts[start + WALKED_USERS] if start + WALKED_USERS < len(firsts) else len(users)
        texts = driver.execute(statement, (json.dumps(users[few].tolist()),)).fetchone()
        parts.append([np.fromstring(text or "", np.int64, sep=",") for text in texts])
        n_stored += len(parts[-1][0])
        if n_stored > DENSE_TIMES_SQLITE * n_given:
            return None
    pairs, stored_at, stored_stars = map(np.concatenate, zip(*parts, strict=True))
    given, stored = _common(users * SMALL_KEYS + movies, pairs)
    found_stars, found_at = np.full(len(users), np.nan), np.full(len(users), UNTIMED)
    found_stars[given] = stored_stars[stored] / STARS_TO_INTEGERS
    found_at[given] = stored_at[stored]
    return found_stars, found_at


def _common(
    ours: NDArray[np.int64], theirs: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the numbers stand that occur in both, in either at most once: in the one, and in the other."""
    order = np.argsort(theirs, kind="stable")  # which takes no time where they ascend already
    sorted_ = theirs[order]
    places = np.searchsorted(sorted_, ours)
    there = np.flatnonzero(np.append(sorted_, -1)[places] == ours)
    return there, order[places[there]]


def _looked_up_sqlite(
    driver: Any, columns: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The same pair by pair."""
    stars, rated_at = columns["stars"].copy(), columns["rated_at"].copy()
    # Only what differs comes back: making Python's numbers costs more than comparing.
    rows: list[tuple[int, int, float | None, int | None]] = []
    for values, parameters in _statements(list(columns.values())):
        statement = (
            "SELECT given.column1, given.column2, stored.stars, stored.rated_at "
            f"FROM ({values}) AS given LEFT JOIN ratings AS stored "
            "ON stored.user_key = given.column1 AND stored.movie_key = given.column2 "
            "WHERE stored.stars IS NOT given.column3 OR stored.rated_at IS NOT given.column4"
        )
        for some in parameters:
            rows += driver.execute(statement, some).fetchall()
    if rows:
        users, movies, other_stars, other_times = zip(*rows, strict=True)
        given, found = _same_pairs(columns, np.array(users, np.int64), np.array(movies, np.int64))
        stars[given] = np.array(other_stars, np.float64)[found]  # None becomes NaN
        rated_at[given] = np.array([UNTIMED if time is None else time for time in other_times])[found]
    return stars, rated_at


def _stored_postgresql(
    session: Session, columns: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The same out of PostgreSQL, by COPY: all of the users' ratings, or those of the pairs."""
    users, movies = columns["user_key"], columns["movie_key"]
    n = len(users)
    driver: Any = session.connection().connection.driver_connection
    everyone = users[np.flatnonzero(np.diff(users, prepend=-1))]
    found = None
    if n >= DENSE_RATINGS * len(everyone):
        most = DENSE_TIMES * n
        found = _copied_ratings(
            driver,
            f"SELECT * FROM ratings WHERE user_key = ANY ({_array(everyone)}) LIMIT {most + 1}",
        )
        if len(found[0]) > most:
            found = None
    if found is None:
        found = _copied_ratings(
            driver,
            f"SELECT ratings.* FROM unnest({_array(users)}, {_array(movies)}) AS given (user_key, movie_key) "
            "JOIN ratings USING (user_key, movie_key)",
        )
    stars, rated_at = np.full(n, np.nan), np.full(n, UNTIMED)
    given, stored = _same_pairs(columns, found[0], found[1])
    stars[given] = found[2][stored]
    rated_at[given] = found[3][stored]
    return stars, rated_at


def _same_pairs(
    columns: dict[str, NDArray[Any]], users: NDArray[np.int64], movies: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the pairs stand that occur in both, in either at most once: among `columns`, and among these."""
    n = len(columns["user_key"])
    all_users = np.concatenate((columns["user_key"], users))
    all_movies = np.concatenate((columns["movie_key"], movies))
    order = _order_of_pairs(all_users, all_movies)
    same = np.flatnonzero((np.diff(all_users[order]) == 0) & (np.diff(all_movies[order]) == 0))
    ours, theirs = np.sort((order[same], order[same + 1]), axis=0)
    return ours, theirs - n


def _array(keys: NDArray[np.int64]) -> str:
    """An array of SQL: COPY takes no parameters."""
    return f"'{{{','.join(map(str, keys.tolist()))}}}'::bigint[]"


def _copied_ratings(
    driver: Any, query: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """User keys, movie keys, stars and times of the ratings that a query finds, in any order."""
    arrays = "array_agg(user_key), array_agg(movie_key), array_agg(stars), array_agg(rated_at)"
    with driver.cursor().copy(
        f"COPY (SELECT {arrays} FROM ({query}) AS found) TO STDOUT (FORMAT BINARY)"
    ) as copy:
        row = b"".join(map(bytes, copy)).removeprefix(COPY_HEADER)
    found: list[NDArray[Any]] = []
    position = 2  # behind the number of fields
    elements = (ELEMENT_OF_INTEGERS, ELEMENT_OF_INTEGERS, ELEMENT_OF_DOUBLES, ELEMENT_OF_INTEGERS)
    for element in elements:
        size = int.from_bytes(row[position : position + 4], "big", signed=True)
        position += 4
        # An array has 20 bytes in front of its elements; no array at all has the size -1.
        field_ = row[position + 20 : position + max(size, 20)]
        found.append(np.frombuffer(field_, element)["value"].astype(element["value"].newbyteorder("=")))
        position += max(size, 0)
    users, movies, stars, rated_at = found
    return users, movies, stars, rated_at


def _upsert_postgresql(session: Session, columns: dict[str, NDArray[Any]]) -> tuple[int, int]:
    """Insert ratings, or replace stored ones that are not newer; how many were inserted and updated."""
    connection = session.connection()
    connection.execute(CreateTable(_staged, if_not_exists=True))
    connection.execute(delete(_staged))
    _load(connection, _staged.name, columns)
    stored = Rating.__table__.c
    source = select(*(_staged.c[name] for name in columns)).order_by(_staged.c.user_key, _staged.c.movie_key)
    insert = _insert(session, Rating)
    given = insert.excluded
    upsert = insert.from_select(list(columns), source).on_conflict_do_update(
        index_elements=["user_key", "movie_key"],
        set_={"stars": given.stars, "rated_at": given.rated_at},
        where=or_(
            stored.rated_at < given.rated_at,
            and_(stored.rated_at == given.rated_at, stored.stars != given.stars),
        ),
    )
    # A row that the statement made has no xmax.
    written = upsert.returning(literal_column("(ratings.xmax = 0)").label("fresh")).cte("written")
    is_fresh = func.count().filter(written.c.fresh)
    inserted, n_written = session.execute(select(is_fresh, func.count()).select_from(written)).one()
    return inserted, n_written - inserted


def _hold_erasures(session: Session) -> None:
    """Let nobody erase a user until this transaction has ended, and have keys looked up one by one.

    No foreign key watches over ratings, for checking one costs more than the rating itself. On SQLite the
    write lock does it. Movies are never deleted.
    """
    if _is_postgresql(session):
        # Small relations join large ones here: a plan that reads all ratings for some of them, which wrong
        # estimates bring about, would be slow without measure.
        session.execute(
            select(
                func.pg_advisory_xact_lock_shared(ERASURE_LOCK),
                func.set_config("enable_hashjoin", "off", True),
                func.set_config("enable_mergejoin", "off", True),
                func.set_config("enable_seqscan", "off", True),
                # Wrong estimates also make it compile what is done in milliseconds.
                func.set_config("jit", "off", True),
            )
        )


def _wait_for_writers(session: Session) -> None:
    """Let nobody store ratings until this transaction, which erases a user, has ended."""
    if _is_postgresql(session):
        session.execute(select(func.pg_advisory_xact_lock(ERASURE_LOCK)))


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _insert(session: Session, table: type[Any]) -> Any:
    """The dialect's own INSERT, which knows ON CONFLICT; the two share its spelling, not its type."""
    target = table.__table__
    return postgresql.insert(target) if _is_postgresql(session) else sqlite.insert(target)


def _note_change(session: Session, *, inserted: int = 0, updated: int = 0, removed: int = 0) -> None:
    if inserted or updated or removed:
        session.execute(insert(RatingChange).values(inserted=inserted, updated=updated, removed=removed))


def _rowcount(result: Any) -> int:
    cursor: CursorResult[Any] = result
    return max(cursor.rowcount, 0)

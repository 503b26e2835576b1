"""Ratings in the database: upsert where the newest wins, delete, and ratings as arrays.

Rules of an upsert, for each (user, movie):
- a newer `rated_at` wins; at equal times the rating received last wins;
- a rating without a time counts as given when it was received, but changes nothing where the stars are equal;
- an older rating is `superseded`, an equal one is `unchanged`.
"""

import csv
import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    CursorResult,
    Double,
    MetaData,
    and_,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy import Table as StagingTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app import cursors
from app.database import CATALOGUE_GENERATION, ONE_MOMENT, in_parts
from app.errors import NotFound, Unavailable
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
_PROFILE = (
    select(Movie.movie_id, Rating.stars, select(CatalogueState.generation).scalar_subquery())
    .join(User, User.user_key == Rating.user_key)
    .join(Movie, Movie.movie_key == Rating.movie_key)
    .where(User.user_id == bindparam("user_id"))
    .order_by(Rating.movie_key)
)

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
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def total(self) -> int:
        return sum(self.as_dict().values())

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class RatingBatch:
    """Ratings as they arrive, already validated: clean ids, finite stars within bounds.

    Attributes:
        user_ids, movie_ids: n strings each.
        stars: float64 (n,).
        rated_at: int64 (n,), microseconds since 1970 in UTC, `UNTIMED` where the rating came without a time.
    """

    user_ids: Sequence[str]
    movie_ids: Sequence[str]
    stars: NDArray[np.float64]
    rated_at: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, float, datetime | None]]) -> "RatingBatch":
        """A batch of (user id, movie id, stars, aware time or None) rows."""
        users, movies, stars, times = zip(*rows, strict=True) if (rows := list(rows)) else ((),) * 4
        return cls(
            user_ids=users,
            movie_ids=movies,
            stars=np.array(stars, dtype=np.float64),
            rated_at=np.array(
                [UNTIMED if time is None else to_microseconds(time) for time in times], dtype=np.int64
            ),
        )

    def __len__(self) -> int:
        return len(self.user_ids)


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


# What is being upserted, by integer keys. It lives in the connection's temporary space: made once a
# connection, emptied before every use.
_staged = StagingTable(
    "staged_ratings",
    MetaData(),
    Column("user_key", BigInteger, primary_key=True, autoincrement=False),
    Column("movie_key", BigInteger, primary_key=True, autoincrement=False),
    Column("stars", Double, nullable=False),
    Column("rated_at", BigInteger, nullable=False),
    Column("untimed", Boolean, nullable=False),
    prefixes=["TEMPORARY"],
)


def store(session: Session, batch: RatingBatch, *, received_at: datetime) -> Counts:
    """Upsert a batch; unknown users appear, unknown movies become bare catalogue entries.

    Takes any number of rows; callers keep to 50,000 so that no lock is held long. Rows are written in the
    order of their keys, so that batches at once on PostgreSQL cannot deadlock.
    """
    if len(batch) == 0:
        return Counts()
    user_keys = _keys_of(session, User, batch.user_ids, received_at)
    movie_keys = _keys_of(session, Movie, batch.movie_ids, received_at)
    untimed = batch.rated_at == UNTIMED
    rated_at = np.where(untimed, to_microseconds(received_at), batch.rated_at)

    # The newest of each pair wins, at equal times the last received: sort, keep the last of each run.
    order = np.lexsort((np.arange(len(batch)), rated_at, movie_keys, user_keys))
    users, movies = user_keys[order], movie_keys[order]
    is_last = np.ones(len(batch), dtype=bool)
    is_last[:-1] = (users[1:] != users[:-1]) | (movies[1:] != movies[:-1])
    kept = order[is_last]

    _stage(session, user_keys[kept], movie_keys[kept], batch.stars[kept], rated_at[kept], untimed[kept])
    counts = _merge_staged(session, n_staged=len(kept), any_untimed=bool(untimed[kept].any()))
    _note_change(session, inserted=counts.inserted, updated=counts.updated)
    return counts + Counts(superseded=len(batch) - len(kept))


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
    removed = _rowcount(session.execute(delete(Rating).where(Rating.user_key == user_key)))
    _note_change(session, removed=removed)
    session.execute(delete(User).where(User.user_key == user_key))
    return versions


def profile(session: Session, user_id: str) -> dict[str, float]:
    """Movie id -> stars of one user by ascending movie key; empty for an unknown user.

    The one statement of a list. It brings the catalogue's generation along, which spares `catalogue` its own.
    """
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
        select(Movie.movie_id, func.count().label("n"))
        .join(Rating, Rating.movie_key == Movie.movie_key)
        .group_by(Movie.movie_key, Movie.movie_id)
        .order_by(text("n DESC"), Movie.movie_key)
        .limit(limit)
    )
    return [(movie_id, n) for movie_id, n in session.execute(statement)]


def snapshot(session: Session, on_rows: Callable[[], object] = lambda: None) -> Snapshot:
    """Every rating as compact arrays: about 16 bytes a rating, whatever the ids are.

    Read it in one `reading()` session, so that ratings and ids are those of the same moment.

    Args:
        on_rows: called now and then while rows are read; what it raises ends the reading.
    """
    users: list[NDArray[np.int64]] = []
    movies: list[NDArray[np.int64]] = []
    stars: list[NDArray[np.float32]] = []
    newest: int | None = None
    statement = select(Rating.user_key, Rating.movie_key, Rating.stars, Rating.rated_at).execution_options(
        yield_per=FETCH_ROWS
    )
    for part in session.execute(statement).partitions():
        on_rows()
        block = np.array([tuple(row) for row in part], dtype=np.float64).reshape(-1, 4)
        # Keys stay far below 2^53, where a float64 is no longer exact; times are only compared below.
        users.append(block[:, 0].astype(np.int64))
        movies.append(block[:, 1].astype(np.int64))
        stars.append(block[:, 2].astype(np.float32))
        latest = max(row[3] for row in part)
        newest = latest if newest is None else max(newest, latest)

    user_column = np.concatenate(users) if users else np.empty(0, np.int64)
    movie_column = np.concatenate(movies) if movies else np.empty(0, np.int64)
    star_column = np.concatenate(stars) if stars else np.empty(0, np.float32)
    del users, movies, stars
    user_keys, user_rows = np.unique(user_column, return_inverse=True)
    movie_keys, movie_columns = np.unique(movie_column, return_inverse=True)
    rows = RatingRows.from_coordinates(
        user_rows, movie_columns, star_column, n_users=len(user_keys), n_movies=len(movie_keys)
    )
    user_ids = _ids_of(session, User, user_keys)
    vocabulary = Vocabulary(_ids_of(session, Movie, movie_keys))
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


def _keys_of(
    session: Session, table: type[User] | type[Movie], ids: Sequence[str], now: datetime
) -> NDArray[np.int64]:
    """The integer keys of the ids, in their order; rows that are missing are made.

    Missing rows are inserted in the order of their ids, so that two batches cannot wait for each other.
    """
    distinct = sorted(set(ids))
    known = _lookup(session, table, distinct)
    missing = [one for one in distinct if one not in known]
    if missing:
        into = _insert(session, table)
        column = "user_id" if table is User else "movie_id"
        rest: dict[str, Any] = {"created_at": now}
        if table is Movie:
            rest |= {"title": "", "folded_title": "", "genres": [], "updated_at": now}
        # Many executions of one statement: many rows in one statement would be compiled anew each time.
        rows = [{column: one} | rest for one in missing]
        session.connection().execute(into.on_conflict_do_nothing(), rows)
        known |= _lookup(session, table, missing)
        if len(known) < len(distinct):
            raise Unavailable(
                "A user was erased while their ratings were written; nothing was stored. Try again."
            )
    return np.fromiter((known[one] for one in ids), dtype=np.int64, count=len(ids))


def _lookup(session: Session, table: type[User] | type[Movie], ids: Sequence[str]) -> dict[str, int]:
    key, name = (User.user_key, User.user_id) if table is User else (Movie.movie_key, Movie.movie_id)
    found: dict[str, int] = {}
    for part in in_parts(ids):
        for number, one in session.execute(select(key, name).where(name.in_(part))):
            found[one] = number
    return found


def _ids_of(session: Session, table: type[User] | type[Movie], keys: NDArray[np.int64]) -> list[str]:
    """The string ids of ascending integer keys, in their order."""
    key, name = (User.user_key, User.user_id) if table is User else (Movie.movie_key, Movie.movie_id)
    if len(keys) == 0:
        return []
    statement = select(key, name).where(key.between(int(keys[0]), int(keys[-1])))
    found = dict(session.execute(statement).all())
    return [found[number] for number in keys.tolist()]


def _stage(
    session: Session,
    user_keys: NDArray[np.int64],
    movie_keys: NDArray[np.int64],
    stars: NDArray[np.float64],
    rated_at: NDArray[np.int64],
    untimed: NDArray[np.bool_],
) -> None:
    """Fill the temporary table; on PostgreSQL by COPY."""
    connection = session.connection()
    _staged.create(connection, checkfirst=True)
    connection.execute(delete(_staged))
    columns = (user_keys.tolist(), movie_keys.tolist(), stars.tolist(), rated_at.tolist(), untimed.tolist())
    if connection.dialect.name == "postgresql":
        driver = connection.connection.driver_connection
        assert driver is not None  # noqa: S101  (a checked-out connection has one)
        names = ", ".join(column.name for column in _staged.columns)
        with driver.cursor().copy(f"COPY staged_ratings ({names}) FROM STDIN") as copy:
            for row in zip(*columns, strict=True):
                copy.write_row(row)
        return
    connection.exec_driver_sql(
        "INSERT INTO staged_ratings VALUES (?, ?, ?, ?, ?)", list(zip(*columns, strict=True))
    )


def _merge_staged(session: Session, *, n_staged: int, any_untimed: bool) -> Counts:
    """Upsert what is staged and say what became of it."""
    pair = and_(Rating.user_key == _staged.c.user_key, Rating.movie_key == _staged.c.movie_key)
    repeated = 0
    if any_untimed:
        # A rating without a time that says what is stored already must not even change the time.
        said_already = exists().where(pair, Rating.stars == _staged.c.stars)
        repeated = _rowcount(session.execute(delete(_staged).where(_staged.c.untimed, said_already)))
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    n_rated_before = _n_rows(session, pair) if on_sqlite else 0

    names = ["user_key", "movie_key", "stars", "rated_at"]
    source = (
        select(*(_staged.c[name] for name in names))
        # SQLite cannot parse ON CONFLICT after a bare SELECT: it takes ON for a join's.
        .where(text("true"))
        .order_by(_staged.c.user_key, _staged.c.movie_key)
    )
    upsert = _insert(session, Rating)
    given = upsert.excluded
    upsert = upsert.from_select(names, source).on_conflict_do_update(
        index_elements=["user_key", "movie_key"],
        set_={"stars": given.stars, "rated_at": given.rated_at},
        where=or_(
            Rating.rated_at < given.rated_at,
            and_(Rating.rated_at == given.rated_at, Rating.stars != given.stars),
        ),
    )
    if on_sqlite:
        # The only writer: what was there before is what the upsert met.
        inserted = n_staged - repeated - n_rated_before
        updated = _rowcount(session.execute(upsert)) - inserted
    else:
        # Others write at the same time, so the statement itself must tell: a row that it made has no xmax.
        written = upsert.returning(literal_column("(ratings.xmax = 0)").label("fresh")).cte("written")
        inserted, updated = session.execute(
            select(
                func.count().filter(written.c.fresh), func.count().filter(not_(written.c.fresh))
            ).select_from(written)
        ).one()
    superseded = 0
    if inserted + updated + repeated < n_staged:
        superseded = _n_rows(session, and_(pair, Rating.rated_at > _staged.c.rated_at))
    return Counts(
        inserted=inserted,
        updated=updated,
        unchanged=n_staged - inserted - updated - superseded,
        superseded=superseded,
    )


def _n_rows(session: Session, on: ColumnElement[bool]) -> int:
    """How many staged rows meet a stored rating in this way."""
    return session.scalar(select(func.count()).select_from(_staged).join(Rating.__table__, on)) or 0


def _insert(session: Session, table: type[Any]) -> Any:
    """The dialect's own INSERT, which knows ON CONFLICT; the two share its spelling, not its type."""
    dialect = session.get_bind().dialect.name
    target = table.__table__
    return postgresql.insert(target) if dialect == "postgresql" else sqlite.insert(target)


def _note_change(session: Session, *, inserted: int = 0, updated: int = 0, removed: int = 0) -> None:
    if inserted or updated or removed:
        session.execute(insert(RatingChange).values(inserted=inserted, updated=updated, removed=removed))


def _rowcount(result: Any) -> int:
    cursor: CursorResult[Any] = result
    return max(cursor.rowcount, 0)

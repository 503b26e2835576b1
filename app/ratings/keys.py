"""Integer keys of users and movies: looked up, made where missing, and packed."""

import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import literal, select, text
from sqlalchemy.orm import Session

from app.storage.database import as_rows, insert_of, is_postgresql
from app.storage.tables import Movie, User

# The columns of a key and of its id.
_COLUMNS: dict[type[Any], tuple[Any, Any]] = {
    User: (User.user_key, User.user_id),
    Movie: (Movie.movie_key, Movie.movie_id),
}
# What a movie has that only ratings have named.
_BARE_MOVIE: dict[str, Any] = {"title": "", "folded_title": "", "title_words": "", "genres": []}


def user_keys(
    session: Session, ids: Sequence[str], now: datetime
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The keys of distinct users, int64 (n,), and which are new here, bool (n,).

    On PostgreSQL their rows stay locked until the transaction ends, so that no other
    transaction can store or delete a rating of theirs meanwhile. Missing rows are made
    first, in the order of their ids, then all rows are locked in the order of their
    keys: transactions that hold locks wait for one another in one direction.
    """
    known: dict[str, int] = {}
    made = _make_missing(session, User, ids, now, known)
    if is_postgresql(session) and known:
        session.execute(_lookup(session, User, list(known), lock=True)).all()
    known |= made
    return (
        np.fromiter(map(known.__getitem__, ids), np.int64, len(ids)),
        np.fromiter(map(made.__contains__, ids), np.bool_, len(ids)),
    )


def movie_keys(
    session: Session, ids: Sequence[str], now: datetime, known: dict[str, int] | None = None
) -> NDArray[np.int64]:
    """The keys of distinct movies, int64 (n,); missing movies become bare entries.

    Args:
        known: keys by id that a transaction before this one has looked up; those looked
            up here are added.
    """
    known = {} if known is None else known
    made = _make_missing(session, Movie, ids, now, known)
    keys = known | made if made else known
    return np.fromiter(map(keys.__getitem__, ids), np.int64, len(ids))


def ids_of(session: Session, table: type[User] | type[Movie], keys: NDArray[np.int64]) -> list[str]:
    """The ids of ascending keys, in their order."""
    if len(keys) == 0:
        return []
    key, name = _COLUMNS[table]
    statement = select(key, name).where(key.between(int(keys[0]), int(keys[-1])))
    ids: dict[int, str] = dict(session.execute(statement).all())
    return [ids[number] for number in keys.tolist()]


def _make_missing(
    session: Session, table: type[Any], ids: Sequence[str], now: datetime, known: dict[str, int]
) -> dict[str, int]:
    """Insert rows for ids that have none; return their keys by id.

    All other keys are added to `known`, which may be kept; those made here may be
    rolled back.
    """
    if missing := [id_ for id_ in ids if id_ not in known]:
        known.update(session.execute(_lookup(session, table, missing)).all())
        # In the order of the ids, so that two transactions cannot wait for each other.
        missing = sorted(id_ for id_ in missing if id_ not in known)
    if not missing:
        return {}
    key, name = _COLUMNS[table]
    values = {"created_at": now} | (_BARE_MOVIE | {"updated_at": now} if table is Movie else {})
    id_rows = as_rows(session, missing)
    source = select(
        id_rows.c.value,
        *(literal(value, table.__table__.c[column].type) for column, value in values.items()),
    ).where(text("true"))
    insert = insert_of(session, table).from_select([name.key, *values], source)
    made: dict[str, int] = dict(session.execute(insert.on_conflict_do_nothing().returning(name, key)).all())
    if others := [id_ for id_ in missing if id_ not in made]:
        # Another transaction was quicker with these, and has committed.
        known.update(session.execute(_lookup(session, table, others)).all())
    return made


def _lookup(session: Session, table: type[Any], ids: Sequence[str], *, lock: bool = False) -> Any:
    key, name = _COLUMNS[table]
    id_rows = as_rows(session, ids)
    statement = select(name, key).join(id_rows, name == id_rows.c.value)
    return statement.order_by(key).with_for_update(of=table) if lock else statement


def pack_keys(keys: NDArray[np.int64]) -> bytes:
    """Ascending keys as deflated differences: a few bits a user."""
    return zlib.compress(np.diff(keys, prepend=0).astype("<i8").tobytes())


def unpack_keys(packed: bytes) -> NDArray[np.int64]:
    """The keys that `pack_keys` has packed."""
    return np.cumsum(np.frombuffer(zlib.decompress(packed), dtype="<i8"), dtype=np.int64)


def holds_key(packed: bytes, key: int) -> bool:
    """Whether a key is among packed ones."""
    keys = unpack_keys(packed)
    position = int(np.searchsorted(keys, key))
    return position < len(keys) and int(keys[position]) == key

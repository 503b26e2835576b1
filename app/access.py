"""API keys and their roles: read, write (reads too), admin (does everything).

A key is 256 random bits, so its plain SHA-256 is safe to store: there is nothing to
guess from.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app.errors import InvalidInput, NotFound
from app.storage import cursors
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.storage.database import CATALOGUE_GENERATION
from app.storage.tables import ApiKey, CatalogueState

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may

NO_KEY_IN_PUBLIC = (
    "{host} can be reached from elsewhere, and there is no API key. Make one first: "
    "harmonium keys create --name admin --role admin"
)

PREFIX = "hm_"
PREFIX_CHARACTERS = 8  # of a key that lists have, to tell keys apart

# Columns, because every request runs this and making an object of a row takes longer
# than the SELECT.
_AUTHENTICATE = select(
    ApiKey.key_id, ApiKey.role, ApiKey.sha256, select(CatalogueState.generation).scalar_subquery()
).where(ApiKey.sha256 == bindparam("digest"), ApiKey.revoked_at.is_(None))


@dataclass(frozen=True)
class KeyInForce:
    """The key of a request."""

    key_id: int
    role: Role
    """What the request may do."""


@dataclass(frozen=True)
class IssuedKey(Answer):
    """An API key by its first characters; the key itself is stored nowhere."""

    id: Annotated[int, Field(examples=[2])]
    name: Annotated[str, Field(examples=["site"])]
    """Who the key is for."""
    role: Role
    prefix: Annotated[str, Field(examples=["hm_Zk3xQ"])]
    """Its first characters."""
    created_at: datetime
    revoked_at: datetime | None
    """When it was put out of force."""


@dataclass(frozen=True)
class NewKey(IssuedKey):
    """An API key that was just made."""

    key: Annotated[str, Field(examples=["hm_Zk3xQ…"])] = field(repr=False)
    """Shown this once; only its hash is stored."""


def create(session: Session, name: str, role: Role) -> NewKey:
    """Make a key; only this answer holds the key itself."""
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role!r}: choose read, write or admin.")
    if not 1 <= len(name) <= 128:
        raise InvalidInput("A key's name has 1 to 128 characters.")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        name=name,
        role=role,
        prefix=secret[:PREFIX_CHARACTERS],
        sha256=_digest(secret),
        created_at=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    return NewKey(**_fields(row), key=secret)


def authenticate(session: Session, secret: str) -> KeyInForce | None:
    """The key with this secret; None if it is unknown or revoked."""
    digest = _digest(secret)
    row = session.execute(_AUTHENTICATE, {"digest": digest}).first()
    if row is None:
        return None
    # The catalogue's generation comes along, which saves each request a SELECT.
    key_id, role, sha256, session.info[CATALOGUE_GENERATION] = row
    # The index has compared the digests already; this comparison takes the same time
    # whatever differs.
    return KeyInForce(key_id, role) if hmac.compare_digest(sha256, digest) else None


def allows(role: str, needed: Role) -> bool:
    """Whether a key of this role may do what needs the other one."""
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


def any_key(session: Session) -> bool:
    """Whether any key is in force; without one, only loopback may be served."""
    return session.scalar(select(ApiKey.key_id).where(ApiKey.revoked_at.is_(None)).limit(1)) is not None


def page(session: Session, *, limit: int, cursor: str | None = None) -> Page[IssuedKey]:
    """Keys, oldest first, revoked ones too."""
    statement = select(ApiKey).order_by(ApiKey.key_id).limit(limit + 1)
    if cursor is not None:
        (key_id,) = cursors.read(cursor, 1)
        statement = statement.where(ApiKey.key_id > key_id)
    keys = [IssuedKey(**_fields(row)) for row in session.scalars(statement)]
    return Page.of(keys, limit, lambda key: (key.id,))


def revoke(session: Session, key_id: int) -> IssuedKey:
    """Revoke a key for good; twice is as good as once. `NotFound` if there is none."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"There is no API key {key_id}.")
    if row.revoked_at is None:
        row.revoked_at = datetime.now(UTC)
        session.flush()
    return IssuedKey(**_fields(row))


def _fields(row: ApiKey) -> dict[str, Any]:
    names = ("name", "role", "prefix", "created_at", "revoked_at")
    return {"id": row.key_id} | {name: getattr(row, name) for name in names}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

"""API keys and their roles: read, write (reads too), admin (does everything).

A key is 256 random bits, so its plain SHA-256 is safe to store: there is nothing to guess from.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from app import cursors
from app.database import CATALOGUE_GENERATION
from app.errors import InvalidInput, NotFound
from app.tables import ApiKey, CatalogueState

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)  # each may do what those before it may

NO_KEY_IN_PUBLIC = (
    "{host} can be reached from elsewhere, and there is no API key. Make one first: "
    "harmonium keys create --name admin --role admin"
)

PREFIX = "hm_"
SHOWN_CHARACTERS = 8  # of a key in a list, to tell keys apart

# Every request asks this: columns, because making an object of a row takes longer than finding it.
_AUTHENTICATE = select(
    ApiKey.key_id, ApiKey.role, ApiKey.sha256, select(CatalogueState.generation).scalar_subquery()
).where(ApiKey.sha256 == bindparam("digest"), ApiKey.revoked_at.is_(None))


@dataclass(frozen=True)
class KeyInForce:
    """Which key a request came with, and what it may do."""

    key_id: int
    role: str


def create(session: Session, name: str, role: Role) -> tuple[ApiKey, str]:
    """Make a key; return its row and the key itself, which cannot be shown again."""
    if role not in ROLES:
        raise InvalidInput(f"There is no role {role!r}: choose read, write or admin.")
    if not 1 <= len(name) <= 128:
        raise InvalidInput("A key's name has 1 to 128 characters.")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = ApiKey(
        name=name,
        role=role,
        prefix=secret[:SHOWN_CHARACTERS],
        sha256=_digest(secret),
        created_at=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    return row, secret


def authenticate(session: Session, secret: str) -> KeyInForce | None:
    """The key that this is, unless it is unknown or revoked."""
    digest = _digest(secret)
    found = session.execute(_AUTHENTICATE, {"digest": digest}).first()
    if found is None:
        return None
    # Every request asks for its key anyway: the catalogue's generation comes along without a SELECT more.
    key_id, role, sha256, session.info[CATALOGUE_GENERATION] = found
    # The index has compared the digests already; this comparison takes the same time whatever differs.
    return KeyInForce(key_id, role) if hmac.compare_digest(sha256, digest) else None


def allows(role: str, needed: Role) -> bool:
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)


def any_key(session: Session) -> bool:
    """Whether any key is in force; without one, only loopback may be served."""
    return session.scalar(select(ApiKey.key_id).where(ApiKey.revoked_at.is_(None)).limit(1)) is not None


def page(session: Session, *, limit: int, cursor: str | None = None) -> tuple[list[ApiKey], str | None]:
    """Keys, oldest first, revoked ones too."""
    statement = select(ApiKey).order_by(ApiKey.key_id).limit(limit + 1)
    if cursor is not None:
        (key_id,) = cursors.read(cursor, 1)
        statement = statement.where(ApiKey.key_id > key_id)
    found = list(session.scalars(statement))
    return found[:limit], cursors.make(found[limit - 1].key_id) if len(found) > limit else None


def revoke(session: Session, key_id: int) -> ApiKey:
    """Put a key out of force for good; doing so twice changes nothing. `NotFound` when there is none."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"There is no API key {key_id}.")
    if row.revoked_at is None:
        row.revoked_at = datetime.now(UTC)
        session.flush()
    return row


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

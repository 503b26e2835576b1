"""Requests that may be sent twice: the answer under an `Idempotency-Key` is kept and given again.

The key is claimed in the transaction that does the work, so key, work and answer are stored together or not
at all. A request that was refused leaves no key behind and may be mended and sent again under the same one.
"""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.errors import Conflict, FieldError, InvalidInput
from app.tables import IdempotencyKey

KEPT = timedelta(hours=24)
LONGEST = 255  # characters of a key


def recall(
    session: Session, operation: str, key: str, request: Any, *, now: datetime
) -> dict[str, Any] | None:
    """Claim a key for a request, or return the answer that the same request was given before.

    On PostgreSQL this waits for a request under the same key that is at work just now. Answers older than
    `KEPT` are forgotten here.

    Args:
        operation: what is asked for; the same key of another operation is another key.
        request: JSON-safe; what makes two requests the same.

    Returns:
        The answer to give again, or None: do the work, then `remember` its answer in the same transaction.

    Raises:
        InvalidInput: the key was used for another request.
        Conflict: the first request under this key has not been answered yet.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now - KEPT))
    fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    claimed = session.execute(
        dialect.insert(IdempotencyKey)
        .values(operation=operation, idempotency_key=key, fingerprint=fingerprint, created_at=now)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.idempotency_key)
    ).one_or_none()
    if claimed is not None:
        return None
    found = session.get(IdempotencyKey, (operation, key), populate_existing=True)
    if found is None or found.answer is None:
        raise Conflict("A request with this Idempotency-Key is at work. Send it again shortly.")
    if found.fingerprint != fingerprint:
        message = "this key was used for another request; send a new key, or the same request"
        raise InvalidInput(
            f"Idempotency-Key: {message}. Keys are kept for {KEPT.total_seconds() / 3600:g} hours.",
            errors=[FieldError("header.idempotency-key", message)],
        )
    return found.answer


def remember(session: Session, operation: str, key: str, answer: dict[str, Any]) -> None:
    """Keep the answer for the next request under this key. It is JSON-safe and small."""
    session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.operation == operation, IdempotencyKey.idempotency_key == key)
        .values(answer=answer)
    )

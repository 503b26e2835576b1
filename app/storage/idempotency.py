"""Answers kept under an `Idempotency-Key`, for requests that may be sent twice.

The key is claimed in the transaction that does the work, so key, work and answer are
stored together or not at all. A refused request leaves no key behind and may be
corrected and sent again under it.
"""

import hashlib
import json
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.errors import Conflict, FieldError, InvalidInput
from app.storage.database import insert_of
from app.storage.tables import IdempotencyKey

KEPT = timedelta(hours=24)
LONGEST = 255  # characters of a key


def recall(
    session: Session, operation: str, key: str, request: Any, *, now: datetime
) -> dict[str, Any] | None:
    """Claim a key for a request; return the kept answer of an earlier request.

    On PostgreSQL this waits for a concurrent request under the key. Answers older than
    `KEPT` are deleted.

    Args:
        operation: name of the operation; each has keys of its own.
        request: JSON-safe content that makes two requests equal.

    Returns:
        The kept answer, or None: do the work, then `remember` its answer in this
        transaction.

    Raises:
        InvalidInput: the key was used for another request.
        Conflict: the first request under this key has not been answered yet.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now - KEPT))
    fingerprint = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    claimed = session.execute(
        insert_of(session, IdempotencyKey)
        .values(operation=operation, idempotency_key=key, fingerprint=fingerprint, created_at=now)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.idempotency_key)
    ).one_or_none()
    if claimed is not None:
        return None
    kept = session.get(IdempotencyKey, (operation, key), populate_existing=True)
    if kept is None or kept.answer is None:
        raise Conflict("A request with this Idempotency-Key is at work. Send it again shortly.")
    if kept.fingerprint != fingerprint:
        message = "this key was used for another request; send a new key, or the same request"
        raise InvalidInput(
            f"Idempotency-Key: {message}. Keys are kept for {KEPT.total_seconds() / 3600:g} hours.",
            errors=[FieldError("header.idempotency-key", message)],
        )
    return kept.answer


def remember(session: Session, operation: str, key: str, answer: dict[str, Any]) -> None:
    """Keep the answer for the next request under this key.

    It is JSON-safe and small.
    """
    session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.operation == operation, IdempotencyKey.idempotency_key == key)
        .values(answer=answer)
    )

"""Deleting model versions: by request, and old ones after each training run."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.model_versions import activation, store
from app.storage.tables import ModelVersion, ModelVersionChunk


def remove(session: Session, version: int) -> None:
    """Delete a version for good; `NotFound`, or `Conflict` for the active one."""
    pointer = activation.locked_pointer(session)
    store.get(session, version)
    if pointer is not None and pointer.version == version:
        raise Conflict(f"Model version {version} is active. Activate another one before you delete it.")
    _delete(session, [version])


def prune(session: Session, *, keep: int, keep_active: timedelta) -> list[int]:
    """Delete old versions and return their numbers.

    These stay: the newest `keep`, the active one, the one that `roll_back` would
    activate, and every one that was active at some time in the last `keep_active`.
    """
    pointer = activation.locked_pointer(session)
    versions = list(session.scalars(select(ModelVersion.version).order_by(ModelVersion.version.desc())))
    kept = set(versions[:keep])
    activations = activation.in_order(session)
    since = datetime.now(UTC) - keep_active
    for past, following in pairwise(activations):
        if following.activated_at > since:  # until then `past` was active
            kept.add(past.version)
    kept.update(store.existing(session, activation.undo_order(activations))[:1])
    if pointer is not None:
        kept.add(pointer.version)
    old = [version for version in versions if version not in kept]
    _delete(session, old)
    return old


def _delete(session: Session, versions: Sequence[int]) -> None:
    if versions:
        session.execute(delete(ModelVersionChunk).where(ModelVersionChunk.version.in_(versions)))
        session.execute(delete(ModelVersion).where(ModelVersion.version.in_(versions)))

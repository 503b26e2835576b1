"""The active version: a pointer in a table of one row, its history, and the way back.

An activation is one transaction, and every move of the pointer is recorded. A
transaction that moves the pointer, or deletes a version, locks the pointer first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, cast

import structlog
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, CorruptModelVersion, PreconditionFailed
from app.model_versions import store
from app.storage import cursors
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.storage.tables import Activation, ActiveVersion

log = structlog.get_logger()

Cause = Literal["gate", "request", "rollback"]
"""Why a version became active: it won at the gate, it was asked for, or the last
activation was undone."""


@dataclass(frozen=True)
class PastActivation(Answer):
    """One activation and when it ended."""

    version: Annotated[int, Field(examples=[7])]
    generation: Annotated[int, Field(examples=[2])]
    """Counts activations; it is the ETag of the pointer at that time."""
    cause: Cause
    activated_at: datetime
    until: datetime | None
    """When the next activation ended it; None for the last one."""


def active(session: Session) -> ActiveVersion | None:
    """The pointer to the active version, or None before the first activation."""
    return session.get(ActiveVersion, 1)


def locked_pointer(session: Session) -> ActiveVersion | None:
    """The pointer, locked against other transactions until this one ends."""
    return session.scalar(select(ActiveVersion).with_for_update().execution_options(populate_existing=True))


def etag(pointer: ActiveVersion | None) -> str:
    """The name of one state of the pointer, for `ETag` and `If-Match`."""
    return f'"{pointer.generation}"' if pointer else '"0"'


def activate(
    session: Session,
    version: int,
    *,
    if_match: str | None = None,
    force: bool = False,
    cause: Cause = "request",
) -> ActiveVersion:
    """Point at a version after verifying its bytes.

    Args:
        if_match: the `etag` that the caller saw.
        force: activate a candidate, which has not won at the gate, as well.

    Raises:
        PreconditionFailed: the pointer has moved since `if_match`.
        Conflict: the version is a candidate, and `force` is False.
        NotFound, CorruptModelVersion: as `store.load`; the pointer never names what
            does not load.
    """
    pointer = locked_pointer(session)
    _check_match(pointer, if_match)
    verdict = store.get(session, version).verdict
    if verdict.get("outcome") == "candidate" and not force:
        raise Conflict(
            f"Model version {version} did not win at the gate: {verdict['words']}. Use force to activate it."
        )
    store.load(session, version)
    return _point_at(session, pointer, version, cause)


def roll_back(session: Session, *, if_match: str | None = None) -> ActiveVersion:
    """Undo the last activation not undone yet: activate the version before it.

    Versions that have been deleted, or whose bytes cannot be used, are passed over.

    Raises:
        PreconditionFailed: the pointer has moved since `if_match`.
        Conflict: there is no earlier version to go back to.
    """
    pointer = locked_pointer(session)
    _check_match(pointer, if_match)
    for version in store.existing(session, undo_order(in_order(session))):
        try:
            store.load(session, version)
        except CorruptModelVersion as error:
            log.error("model_version_refused", version=version, reason=error.detail)
            continue
        return _point_at(session, pointer, version, "rollback")
    raise Conflict(
        "There is no earlier active version to roll back to. Activate one of the versions by its number."
    )


def history(session: Session, *, limit: int, cursor: str | None = None) -> Page[PastActivation]:
    """Activations, newest first."""
    statement = select(Activation).order_by(Activation.generation.desc()).limit(limit + 1)
    until: datetime | None = None
    if cursor is not None:
        (generation,) = cursors.read(cursor, 1)
        statement = statement.where(Activation.generation < generation)
        last = session.get(Activation, generation)
        until = last.activated_at if last else None
    activations = []
    for row in session.scalars(statement):
        activations.append(
            PastActivation(row.version, row.generation, cast(Cause, row.cause), row.activated_at, until)
        )
        until = row.activated_at
    return Page.of(activations, limit, lambda activation: (activation.generation,))


def in_order(session: Session) -> list[Activation]:
    """Every activation, oldest first."""
    return list(session.scalars(select(Activation).order_by(Activation.generation)))


def undo_order(activations: Iterable[Activation]) -> list[int]:
    """The versions that repeated rollbacks lead to, in order, each once.

    An activation that was undone is not gone back to: after 1, 2, 3 and two rollbacks,
    1 is active and nothing is left, although 3 and 2 were active later.
    """
    stack: list[int] = []
    for activation in activations:
        if activation.cause == "rollback" and activation.version in stack:
            while stack[-1] != activation.version:
                stack.pop()
        elif not stack or stack[-1] != activation.version:
            stack.append(activation.version)
    return [version for version in dict.fromkeys(reversed(stack)) if version != stack[-1]]


def _check_match(pointer: ActiveVersion | None, if_match: str | None) -> None:
    if if_match not in (None, "*", etag(pointer)):
        raise PreconditionFailed(
            f"The active version has changed: its ETag is {etag(pointer)}, not {if_match}. Read it again."
        )


def _point_at(session: Session, pointer: ActiveVersion | None, version: int, cause: Cause) -> ActiveVersion:
    now = datetime.now(UTC)
    if pointer is None:
        pointer = ActiveVersion(pointer=1, version=version, generation=1, activated_at=now)
        session.add(pointer)
    else:
        pointer.version = version
        pointer.generation += 1
        pointer.activated_at = now
    session.add(Activation(generation=pointer.generation, version=version, cause=cause, activated_at=now))
    try:
        session.flush()
    except IntegrityError as error:
        # There was no row to lock: another transaction has made the very first
        # activation.
        raise PreconditionFailed(
            "Another version became active at the same moment. Read it again."
        ) from error
    return pointer

"""Model versions in the database: store, verify, activate, load; and the one that a process serves.

A version's file is kept in chunks with a SHA-256 over the whole. Nothing is unpickled. The active version
is a pointer in a table of one row, so that activation is one transaction.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app import cursors
from app.database import Database
from app.errors import Conflict, CorruptModelVersion, HarmoniumError, NotFound, PreconditionFailed
from app.learning import model_file
from app.learning.machines import Machines
from app.ratings import pack_keys
from app.tables import ActiveVersion, ModelVersion, ModelVersionChunk

log = structlog.get_logger()

CHUNK_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Serving:
    """A version in memory, ready to recommend; one request uses one of these from beginning to end."""

    version: int
    generation: int
    machines: Machines


def store(
    session: Session,
    machines: Machines,
    content: bytes,
    *,
    run_id: int,
    trained_user_keys: NDArray[np.int64],
    metrics: dict[str, Any],
    verdict: dict[str, Any],
    note: str | None = None,
) -> ModelVersion:
    """Add a version, not active yet.

    Args:
        machines, content: the result and its `model_file.dump`, which takes a while: make it beforehand.
        trained_user_keys: ascending int64 of shape (n_users,).
        metrics, verdict: JSON-safe.
    """
    pointer = session.get(ActiveVersion, 1)
    row = ModelVersion(
        run_id=run_id,
        parent_version=pointer.version if pointer else None,
        sha256=hashlib.sha256(content).hexdigest(),
        n_bytes=len(content),
        n_movies=machines.n_movies,
        configuration=machines.configuration.as_dict(),
        metrics=metrics,
        verdict=verdict,
        note=note,
        trained_user_keys=pack_keys(trained_user_keys),
        created_at=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    for number, start in enumerate(range(0, len(content), CHUNK_BYTES)):
        session.add(
            ModelVersionChunk(
                version=row.version, number=number, content=content[start : start + CHUNK_BYTES]
            )
        )
        session.flush()
    return row


def load(session: Session, version: int) -> Machines:
    """Read, verify and build a version; `NotFound`, or `CorruptModelVersion` saying what is wrong."""
    row = get(session, version)
    content = bytearray()
    for chunk in session.scalars(
        select(ModelVersionChunk.content)
        .where(ModelVersionChunk.version == version)
        .order_by(ModelVersionChunk.number)
    ):
        content += chunk
    if len(content) != row.n_bytes or hashlib.sha256(content).hexdigest() != row.sha256:
        raise CorruptModelVersion(
            f"The stored bytes of model version {version} do not match their SHA-256. "
            "Activate another version, or retrain."
        )
    try:
        return model_file.load(bytes(content))
    except model_file.UnreadableModelFile as error:
        raise CorruptModelVersion(f"Model version {version} cannot be read: {error}") from error


def get(session: Session, version: int) -> ModelVersion:
    row = session.get(ModelVersion, version)
    if row is None:
        raise NotFound(f"There is no model version {version}.")
    return row


def page(session: Session, *, limit: int, cursor: str | None = None) -> tuple[list[ModelVersion], str | None]:
    """Versions, newest first."""
    statement = select(ModelVersion).order_by(ModelVersion.version.desc()).limit(limit + 1)
    if cursor is not None:
        (version,) = cursors.read(cursor, 1)
        statement = statement.where(ModelVersion.version < version)
    found = list(session.scalars(statement))
    return found[:limit], cursors.make(found[limit - 1].version) if len(found) > limit else None


def of_runs(session: Session, run_ids: Sequence[int]) -> dict[int, int]:
    """The version that came of each training run, where one did."""
    statement = select(ModelVersion.run_id, ModelVersion.version).where(ModelVersion.run_id.in_(run_ids))
    return dict(session.execute(statement).all())


def active(session: Session) -> ActiveVersion | None:
    """The pointer to the active version, or None before the first activation."""
    return session.get(ActiveVersion, 1)


def etag(pointer: ActiveVersion | None) -> str:
    """Names one state of the active pointer, for `ETag` and `If-Match`."""
    return f'"{pointer.generation}"' if pointer else '"0"'


def activate(
    session: Session, version: int, *, if_match: str | None = None, force: bool = False
) -> ActiveVersion:
    """Point at a version after verifying its bytes.

    Args:
        force: activate a candidate, which has not won at the gate, as well; without it that is a `Conflict`.
        if_match: the `etag` that the caller saw; `PreconditionFailed` when the pointer has moved since.

    Raises `NotFound` and `CorruptModelVersion` as `load` does: the pointer never names what does not load.
    """
    pointer = session.scalar(select(ActiveVersion).with_for_update())
    if if_match not in (None, "*", etag(pointer)):
        raise PreconditionFailed(
            f"The active version has changed: its ETag is {etag(pointer)}, not {if_match}. Read it again."
        )
    verdict = get(session, version).verdict
    if verdict.get("outcome") == "candidate" and not force:
        raise Conflict(
            f"Model version {version} did not win at the gate: {verdict['words']}. Use force to activate it."
        )
    load(session, version)
    now = datetime.now(UTC)
    if pointer is None:
        pointer = ActiveVersion(pointer=1, version=version, generation=1, activated_at=now)
        session.add(pointer)
    else:
        pointer.version = version
        pointer.generation += 1
        pointer.activated_at = now
    session.flush()
    return pointer


def prune(session: Session, *, keep: int) -> list[int]:
    """Delete the bytes and rows of old versions; keeps the newest `keep` and the active one."""
    pointer = active(session)
    versions = list(session.scalars(select(ModelVersion.version).order_by(ModelVersion.version.desc())))
    gone = [version for version in versions[keep:] if pointer is None or version != pointer.version]
    if gone:
        session.execute(delete(ModelVersionChunk).where(ModelVersionChunk.version.in_(gone)))
        session.execute(delete(ModelVersion).where(ModelVersion.version.in_(gone)))
    return gone


class ActiveMachines:
    """The active version in memory, renewed by a thread that polls the pointer.

    Requests take `current` once and use it to their end, so a swap drops and mixes nothing. A version whose
    bytes cannot be used leaves the last good one in place and is reported as `trouble`.
    """

    def __init__(self, database: Database, *, poll_seconds: float) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._refused_generation: int | None = None
        self.current: Serving | None = None
        self.trouble: str | None = None

    def start(self) -> None:
        """Load what is active now, then keep watching. A database that is away is no reason not to start."""
        self.refresh()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="active-machines", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Look at the pointer once and swap if it has moved."""
        pointer: ActiveVersion | None = None
        try:
            with self._database.reading() as session:
                pointer = active(session)
                if pointer is None:
                    return
                serving = self.current
                if pointer.generation in (self._refused_generation, serving and serving.generation):
                    return
                if serving is not None and serving.version == pointer.version:
                    machines = serving.machines
                else:
                    machines = load(session, pointer.version)
        except (CorruptModelVersion, NotFound) as error:
            assert pointer is not None  # noqa: S101 - only loading raises these
            self._refused_generation = pointer.generation
            self.trouble = error.detail
            log.error("model_version_refused", version=pointer.version, reason=error.detail)
            return
        except HarmoniumError as error:
            log.warning("model_version_poll_failed", reason=error.detail)
            return
        self.current = Serving(pointer.version, pointer.generation, machines)
        self.trouble = None
        log.info("model_version_serving", version=pointer.version, generation=pointer.generation)

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:
                # The thread must outlive whatever a driver may raise: without it no version is ever swapped.
                log.exception("model_version_poll_failed")

"""Model versions in the database: store, verify, activate, load; and the one that a process serves.

A version's file is kept in chunks with a SHA-256 over the whole. Nothing is unpickled. The active version
is a pointer in a table of one row, so that activation is one transaction; every move of it is recorded.
"""

import hashlib
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import count, pairwise
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import cursors
from app.database import Database
from app.errors import Conflict, CorruptModelVersion, HarmoniumError, NotFound, PreconditionFailed
from app.learning import model_file
from app.learning.crowd import Crowd
from app.learning.machines import Machines
from app.ratings import pack_keys
from app.tables import Activation, ActiveVersion, ModelVersion, ModelVersionChunk

log = structlog.get_logger()

CHUNK_BYTES = 4 * 1024**2
LONGEST_NOTE = 1_000  # characters

Cause = Literal["gate", "request", "rollback"]
"""Why a version became active: it won at the gate, somebody asked for it, or somebody undid the last one."""


@dataclass(frozen=True)
class Serving:
    """A version in memory, ready to recommend; one request uses one of these from beginning to end."""

    version: int
    generation: int
    machines: Machines

    @cached_property
    def crowd(self) -> Crowd:
        """The users that the version was trained with, as a whole."""
        return Crowd.of(self.machines)


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


def load(session: Session, version: int, *, kept_in: Path | None = None) -> Machines:
    """Read, verify and build a version; `NotFound`, or `CorruptModelVersion` saying what is wrong.

    Args:
        kept_in: a folder to keep the bytes in as a file, which is mapped into memory: processes that serve
            the same version share its pages, and the bytes are never in memory twice. Where the folder cannot
            be written to, or is None, they are read into memory.
    """
    row = get(session, version)
    content: bytes | mmap.mmap | None = None
    if kept_in is not None:
        try:
            content = _mapped(session, row, kept_in)
        except OSError as error:
            log.warning("model_version_not_mapped", version=version, folder=str(kept_in), reason=str(error))
    if content is None:
        content = b"".join(_chunks(session, row))
    _check_bytes(row, content)
    try:
        return model_file.load(content)
    except model_file.UnreadableModelFile as error:
        raise CorruptModelVersion(
            f"Model version {version} cannot be read: {error}. Activate another version, or retrain."
        ) from error


def _chunks(session: Session, row: ModelVersion) -> Iterator[bytes]:
    """A version's bytes in order, one SELECT each: a driver may fetch all rows of a result at once."""
    for number in count():
        chunk = session.scalar(
            select(ModelVersionChunk.content).where(
                ModelVersionChunk.version == row.version, ModelVersionChunk.number == number
            )
        )
        if chunk is None:
            return
        yield chunk


def _check_bytes(row: ModelVersion, content: bytes | mmap.mmap) -> None:
    if len(content) != row.n_bytes or hashlib.sha256(content).hexdigest() != row.sha256:
        raise CorruptModelVersion(
            f"The stored bytes of model version {row.version} do not match their SHA-256. "
            "Activate another version, or retrain."
        )


def _mapped(session: Session, row: ModelVersion, folder: Path) -> mmap.mmap:
    """The version's file in the folder, written if it is not there; the caller checks what is in it.

    Only the files of other versions are deleted. A process that still serves one of them keeps its pages.
    """
    path = folder / f"{row.sha256}.npz"
    if not path.exists() or path.stat().st_size != row.n_bytes or _sha256_of(path) != row.sha256:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        with NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            try:
                for chunk in _chunks(session, row):
                    file.write(chunk)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    for other in folder.glob("*.npz"):
        if other != path:
            with suppress(OSError):
                other.unlink()
    with path.open("rb") as file:
        if not row.n_bytes or path.stat().st_size != row.n_bytes:
            raise OSError(f"{path} has another length than version {row.version}")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    session: Session,
    version: int,
    *,
    if_match: str | None = None,
    force: bool = False,
    cause: Cause = "request",
) -> ActiveVersion:
    """Point at a version after verifying its bytes.

    Args:
        force: activate a candidate, which has not won at the gate, as well; without it that is a `Conflict`.
        if_match: the `etag` that the caller saw; `PreconditionFailed` when the pointer has moved since.
        cause: for the history.

    Raises `NotFound` and `CorruptModelVersion` as `load` does: the pointer never names what does not load.
    """
    pointer = _locked_pointer(session)
    _check_match(pointer, if_match)
    verdict = get(session, version).verdict
    if verdict.get("outcome") == "candidate" and not force:
        raise Conflict(
            f"Model version {version} did not win at the gate: {verdict['words']}. Use force to activate it."
        )
    load(session, version)
    return _point_at(session, pointer, version, cause)


def roll_back(session: Session, *, if_match: str | None = None) -> ActiveVersion:
    """Undo the last activation that was not undone yet, and activate the version that was active before it.

    Versions that have been deleted, or whose bytes cannot be used, are passed over. `Conflict` when nothing
    is left to go back to, `PreconditionFailed` when the pointer has moved.
    """
    pointer = _locked_pointer(session)
    _check_match(pointer, if_match)
    for version in _existing(session, _undo_order(_in_order(session))):
        try:
            load(session, version)
        except CorruptModelVersion as error:
            log.error("model_version_refused", version=version, reason=error.detail)
            continue
        return _point_at(session, pointer, version, "rollback")
    raise Conflict(
        "There is no earlier active version to roll back to. Activate one of the versions by its number."
    )


def history(
    session: Session, *, limit: int, cursor: str | None = None
) -> tuple[list[tuple[Activation, datetime | None]], str | None]:
    """Activations, newest first, each with the moment at which the next one ended it."""
    statement = select(Activation).order_by(Activation.generation.desc()).limit(limit + 1)
    ended: datetime | None = None
    if cursor is not None:
        (generation,) = cursors.read(cursor, 1)
        statement = statement.where(Activation.generation < generation)
        last = session.get(Activation, generation)
        ended = last.activated_at if last else None
    found = list(session.scalars(statement))
    ends = [ended, *(one.activated_at for one in found)]
    following = cursors.make(found[limit - 1].generation) if len(found) > limit else None
    return list(zip(found, ends, strict=False))[:limit], following


def annotate(session: Session, version: int, note: str | None) -> ModelVersion:
    """Replace the note, the one thing about a version that may change. `NotFound` when there is none."""
    row = get(session, version)
    row.note = note or None
    session.flush()
    return row


def remove(session: Session, version: int) -> None:
    """Delete a version for good; `NotFound`, or `Conflict` for the active one."""
    pointer = _locked_pointer(session)
    get(session, version)
    if pointer is not None and pointer.version == version:
        raise Conflict(f"Model version {version} is active. Activate another one before you delete it.")
    _delete(session, [version])


def prune(session: Session, *, keep: int, keep_active: timedelta) -> list[int]:
    """Delete old versions and return their numbers.

    What stays: the newest `keep`, the active one, the one that `roll_back` would activate, and every one that
    was active at some time in the last `keep_active`.
    """
    pointer = _locked_pointer(session)
    versions = list(session.scalars(select(ModelVersion.version).order_by(ModelVersion.version.desc())))
    kept = set(versions[:keep])
    activations = _in_order(session)
    since = datetime.now(UTC) - keep_active
    for one, following in pairwise(activations):
        if following.activated_at > since:  # until then it was active
            kept.add(one.version)
    kept.update(_existing(session, _undo_order(activations))[:1])
    if pointer is not None:
        kept.add(pointer.version)
    gone = [version for version in versions if version not in kept]
    _delete(session, gone)
    return gone


def _delete(session: Session, versions: Sequence[int]) -> None:
    if versions:
        session.execute(delete(ModelVersionChunk).where(ModelVersionChunk.version.in_(versions)))
        session.execute(delete(ModelVersion).where(ModelVersion.version.in_(versions)))


def _locked_pointer(session: Session) -> ActiveVersion | None:
    """The pointer, which nobody else moves until this transaction ends."""
    return session.scalar(select(ActiveVersion).with_for_update().execution_options(populate_existing=True))


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
        # There was no row to lock: somebody else has made the very first activation just now.
        raise PreconditionFailed(
            "Another version became active at the same moment. Read it again."
        ) from error
    return pointer


def _in_order(session: Session) -> list[Activation]:
    """Every activation, oldest first."""
    return list(session.scalars(select(Activation).order_by(Activation.generation)))


def _undo_order(activations: Iterable[Activation]) -> list[int]:
    """The versions that undoing activations leads to, one after the other, each named once.

    An activation that was undone is not gone back to: after 1, 2, 3 and two rollbacks, 1 is active and
    nothing is left, although 3 and 2 were active later.
    """
    stack: list[int] = []
    for one in activations:
        if one.cause == "rollback" and one.version in stack:
            while stack[-1] != one.version:
                stack.pop()
        elif not stack or stack[-1] != one.version:
            stack.append(one.version)
    return [version for version in dict.fromkeys(reversed(stack)) if version != stack[-1]]


def _existing(session: Session, versions: Sequence[int]) -> list[int]:
    """Those that have not been deleted, in the same order."""
    there = set(session.scalars(select(ModelVersion.version)))
    return [version for version in versions if version in there]


def _last_good_first(session: Session) -> list[int]:
    """What may serve instead of the active version: what `roll_back` would activate, then the rest."""
    activations = _in_order(session)
    latest = [one.version for one in reversed(activations)]
    return _existing(session, list(dict.fromkeys([*_undo_order(activations), *latest])))


class ActiveMachines:
    """The active version in memory, renewed by a thread that polls the pointer.

    Requests take `current` once and use it to their end, so a swap drops and mixes nothing. Instead of an
    active version whose bytes cannot be used, the last good one that was active serves, the same in every
    process, whenever it was started; `trouble` says so.
    """

    def __init__(self, database: Database, *, poll_seconds: float, kept_in: Path | None = None) -> None:
        self._database = database
        self._kept_in = kept_in
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: tuple[int, int] | None = None
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
        try:
            with self._database.reading() as session:
                pointer = active(session)
                if pointer is None or (pointer.generation, pointer.version) == self._seen:
                    return
                serving, trouble = self._choose(session, pointer)
        except HarmoniumError as error:
            log.warning("model_version_poll_failed", reason=error.detail)
            return
        if serving is not None:
            _ = serving.crowd, serving.machines.pairs.kept  # now, not in the first request
        self.current = serving
        self.trouble = trouble
        self._seen = (pointer.generation, pointer.version)
        if serving is not None:
            log.info("model_version_serving", version=serving.version, generation=pointer.generation)

    def _choose(self, session: Session, pointer: ActiveVersion) -> tuple[Serving | None, str | None]:
        """What to serve, and what is wrong with the active version if it is not that."""
        machines = self._machines(session, pointer.version)
        if isinstance(machines, Machines):
            return Serving(pointer.version, pointer.generation, machines), None
        reason = machines
        for version in _last_good_first(session):
            machines = self._machines(session, version)
            if isinstance(machines, Machines):
                words = f"{reason} Until then version {version}, which was active before, serves."
                return Serving(version, pointer.generation, machines), words
        if self.current is not None:
            return self.current, f"{reason} Until then version {self.current.version} serves from memory."
        return None, f"{reason} Until then lists are those of the popular movies: no other version can serve."

    def _machines(self, session: Session, version: int) -> Machines | str:
        """A version, from memory if it is there, or why it cannot be used."""
        if self.current is not None and self.current.version == version:
            return self.current.machines
        try:
            return load(session, version, kept_in=self._kept_in)
        except (CorruptModelVersion, NotFound) as error:
            log.error("model_version_refused", version=version, reason=error.detail)
            return error.detail

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:
                # The thread must outlive whatever a driver may raise: without it no version is ever swapped.
                log.exception("model_version_poll_failed")

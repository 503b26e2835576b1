"""Model versions in the database: write, read, verify.

A version's file is kept in chunks with a SHA-256 over the whole. Nothing is unpickled.
"""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import CorruptModelVersion, NotFound
from app.learning import model_file
from app.learning.trained_model import TrainedModel
from app.ratings.keys import pack_keys
from app.storage import cursors
from app.storage.cursors import Page
from app.storage.tables import ActiveVersion, ModelVersion, ModelVersionChunk

log = structlog.get_logger()

CHUNK_BYTES = 4 * 1024**2
LONGEST_NOTE = 1_000  # characters


def add(
    session: Session,
    model: TrainedModel,
    content: bytes,
    *,
    run_id: int,
    trained_user_keys: NDArray[np.int64],
    metrics: dict[str, Any],
    verdict: dict[str, Any],
    note: str | None = None,
) -> ModelVersion:
    """Store a version, not active yet.

    Args:
        model, content: the trained model and its `model_file.dump`, which takes a
            while: make it beforehand.
        trained_user_keys: ascending int64 of shape (n_users,).
        metrics, verdict: JSON-safe.
    """
    pointer = session.get(ActiveVersion, 1)
    row = ModelVersion(
        run_id=run_id,
        parent_version=pointer.version if pointer else None,
        sha256=hashlib.sha256(content).hexdigest(),
        n_bytes=len(content),
        n_movies=model.n_movies,
        configuration=model.configuration.as_dict(),
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


def get(session: Session, version: int) -> ModelVersion:
    """One version; `NotFound` when there is none."""
    row = session.get(ModelVersion, version)
    if row is None:
        raise NotFound(f"There is no model version {version}.")
    return row


def page(session: Session, *, limit: int, cursor: str | None = None) -> Page[ModelVersion]:
    """Versions, newest first."""
    statement = select(ModelVersion).order_by(ModelVersion.version.desc()).limit(limit + 1)
    if cursor is not None:
        (version,) = cursors.read(cursor, 1)
        statement = statement.where(ModelVersion.version < version)
    return Page.of(session.scalars(statement).all(), limit, lambda row: (row.version,))


def existing(session: Session, versions: Sequence[int]) -> list[int]:
    """The versions that have not been deleted, in the same order."""
    stored = set(session.scalars(select(ModelVersion.version)))
    return [version for version in versions if version in stored]


def of_runs(session: Session, run_ids: Sequence[int]) -> dict[int, int]:
    """The version of each training run, by run; runs without one are left out."""
    statement = select(ModelVersion.run_id, ModelVersion.version).where(ModelVersion.run_id.in_(run_ids))
    return dict(session.execute(statement).all())


def annotate(session: Session, version: int, note: str | None) -> ModelVersion:
    """Replace the note, the only field of a version that may change."""
    row = get(session, version)
    row.note = note or None
    session.flush()
    return row


def load(session: Session, version: int, *, kept_in: Path | None = None) -> TrainedModel:
    """Read, verify and build a version's trained model.

    Args:
        kept_in: a folder to keep the bytes in as a file, which is mapped into memory:
            processes that serve this version share its pages, and the bytes are never
            in memory twice. Where the folder cannot be written to, or is None, they are
            read into memory.

    Raises:
        NotFound: there is no such version.
        CorruptModelVersion: its bytes cannot be used; the message says why.
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
    if len(content) != row.n_bytes or hashlib.sha256(content).hexdigest() != row.sha256:
        raise CorruptModelVersion(
            f"The stored bytes of model version {version} do not match their SHA-256. "
            "Activate another version, or retrain."
        )
    try:
        return model_file.load(content)
    except model_file.UnreadableModelFile as error:
        raise CorruptModelVersion(
            f"Model version {version} cannot be read: {error}. Activate another version, or retrain."
        ) from error


def _chunks(session: Session, row: ModelVersion) -> Iterator[bytes]:
    """A version's bytes in order, one SELECT each: drivers may fetch all at once."""
    for number in count():
        chunk = session.scalar(
            select(ModelVersionChunk.content).where(
                ModelVersionChunk.version == row.version, ModelVersionChunk.number == number
            )
        )
        if chunk is None:
            return
        yield chunk


def _mapped(session: Session, row: ModelVersion, folder: Path) -> mmap.mmap:
    """The version's file in the folder, written unless it is there.

    The files of other versions are deleted. A process that still serves one of them
    keeps its pages.
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

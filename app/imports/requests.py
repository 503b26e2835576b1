"""Requests for imports: a spooled file becomes a job, whose state can be asked for."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, cast

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import FieldError, InvalidInput, NotFound
from app.imports import compression
from app.imports.data_file import recognise
from app.imports.fields import parse_scale
from app.imports.layouts import FORMATS, KINDS, parse_columns
from app.imports.spool import SpooledFile
from app.jobs import queue
from app.jobs.queue import State
from app.ratings.batch import Counts
from app.settings import Settings
from app.storage import cursors
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.storage.tables import Import, Job

JOB_KIND = "import"
_ON_ERROR = ("reject", "skip")


@dataclass(frozen=True)
class BadRow(Answer):
    """A bad row of a file."""

    location: Annotated[str, Field(examples=["line 17"])]
    message: Annotated[str, Field(examples=["stars 'five' are not a number"])]


@dataclass(frozen=True)
class ImportState(Answer):
    """An import; state, progress, error and times are those of its job."""

    id: Annotated[int, Field(examples=[3])]
    job_id: Annotated[int, Field(examples=[12])]
    state: State
    progress: Annotated[float, Field(examples=[1.0])]
    """0 to 1."""
    file_name: Annotated[str | None, Field(examples=["ratings.csv"])]
    """What the sender calls the file."""
    file_bytes: Annotated[int, Field(examples=[2_483_723])]
    """Size of the file as it was sent."""
    kind: Annotated[str, Field(examples=["ratings"])]
    """What was asked for, then what the file holds: `ratings`, `movies` or
    `movies+ratings`."""
    format: Annotated[str, Field(examples=["movielens-csv"])]
    """What was asked for, then what the file is in, as `csv` or `u.data+u.item`."""
    rows: Annotated[int, Field(examples=[100_836])]
    """Rows dealt with so far. Of a rejected file all rows; none was stored then."""
    rows_per_second: Annotated[float | None, Field(examples=[25_209.0])]
    """Rows over the seconds that they took in all attempts; None until the file is
    checked."""
    counts: Counts
    """Outcomes of the rows; they sum to `rows`, but for a rejected file."""
    errors: Annotated[tuple[BadRow, ...], Field(examples=[[]])]
    """The first 100 bad rows."""
    error: str | None
    """Why it failed, or why its last attempt did."""
    created_at: datetime
    """When it was requested."""
    started_at: datetime | None
    """When a worker last began with it."""
    finished_at: datetime | None
    """When it ended."""


def submit(
    session: Session,
    spooled: SpooledFile,
    *,
    file_name: str | None = None,
    kind: str = "auto",
    format: str = "auto",  # noqa: A002  (the name it has over HTTP)
    columns: str = "",
    scale: str = "",
    on_error: str = "reject",
    max_attempts: int = 3,
) -> Import:
    """Queue a spooled file.

    Until this is committed the file is the caller's to discard.

    Args:
        file_name: what the sender calls it; it is only displayed.
        kind, format, columns, scale: as `recognise` takes them.
        on_error: `reject` stores nothing of a file with a bad row; `skip` stores the
            good rows.

    Raises:
        InvalidInput: no such kind, format, columns, scale or on_error.
    """
    options = {"kind": kind, "format": format, "columns": columns, "scale": scale, "on_error": on_error}
    check_options(**options)
    job, _ = queue.enqueue(session, JOB_KIND, dict(options), max_attempts=max_attempts)
    record = Import(
        job_id=job.job_id,
        file_name=_display_name(file_name),
        spool_path=spooled.path.name,
        file_bytes=spooled.n_bytes,
        kind=kind,
        format=format,
        rows=0,
        inserted=0,
        updated=0,
        unchanged=0,
        superseded=0,
        rejected=0,
        errors=[],
        created_at=job.created_at,
    )
    session.add(record)
    session.flush()
    return record


def check_options(
    *,
    kind: str,
    format: str,  # noqa: A002
    on_error: str,
    columns: str = "",
    scale: str = "",
) -> None:
    """Raise `InvalidInput` for an option that does not exist or is wrongly written."""
    for name, value, known in (
        ("kind", kind, KINDS),
        ("format", format, FORMATS),
        ("on_error", on_error, _ON_ERROR),
    ):
        if value not in known:
            message = f"must be one of {', '.join(known)}"
            raise InvalidInput(f"{name} {message}.", errors=[FieldError(name, message)])
    parse_columns(columns)
    parse_scale(scale)


def refuse_oversized(spooled: SpooledFile, settings: Settings, **options: str) -> None:
    """Raise `TooLarge` for a packed file that unpacks to more than allowed.

    One that lies fails later, while it is read. What else may be wrong with a file is
    for its import to say.

    Args:
        options: those of `submit` that say what the file holds.
    """
    with suppress(InvalidInput):
        compression.refuse_large_gzip(spooled.path, settings.unpacked_limit)
        recognise(spooled.path, settings, **{k: v for k, v in options.items() if k != "on_error"})


def get(session: Session, import_id: int) -> ImportState:
    """One import; `NotFound` when there is none."""
    row = None
    if 0 < import_id < 2**63:
        row = session.execute(
            select(Import, Job)
            .join(Job, Job.job_id == Import.job_id)
            .where(Import.import_id == import_id)
            .execution_options(populate_existing=True)
        ).one_or_none()
    if row is None:
        raise NotFound(f"There is no import {import_id}.")
    return _state(*row)


def page(session: Session, *, limit: int, cursor: str | None = None) -> Page[ImportState]:
    """Imports, newest first.

    Raises `InvalidInput` for a cursor that no page has handed out.
    """
    statement = (
        select(Import, Job)
        .join(Job, Job.job_id == Import.job_id)
        .order_by(Import.import_id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        (before,) = cursors.read(cursor, 1)
        statement = statement.where(Import.import_id < before)
    states = [_state(record, job) for record, job in session.execute(statement)]
    return Page.of(states, limit, lambda state: (state.id,))


def counts_of(record: Import) -> Counts:
    return Counts(record.inserted, record.updated, record.unchanged, record.superseded, record.rejected)


def errors_of(record: Import) -> tuple[FieldError, ...]:
    return tuple(FieldError(error["location"], error["message"]) for error in record.errors)


def _state(record: Import, job: Job) -> ImportState:
    return ImportState(
        id=record.import_id,
        job_id=record.job_id,
        state=cast(State, job.state),
        progress=job.progress,
        file_name=record.file_name,
        file_bytes=record.file_bytes,
        kind=record.kind,
        format=record.format,
        rows=record.rows,
        rows_per_second=round(record.rows / record.seconds, 1) if record.seconds else None,
        counts=counts_of(record),
        errors=tuple(BadRow(error["location"], error["message"]) for error in record.errors),
        error=job.error,
        created_at=record.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _display_name(file_name: str | None) -> str | None:
    """The last part of what a sender calls a file, without what cannot be printed."""
    last = PurePosixPath((file_name or "").replace("\\", "/")).name
    return "".join(character for character in last if character.isprintable())[:255] or None

"""Imports: a file of ratings or movies on its way into the database.

An upload is spooled to a file, which API and worker share, and becomes a job. The job reads the file twice:
first it checks every row and stores nothing; then it stores slices of at most `SLICE_ROWS` rows, each in a
transaction of its own that also writes down how far it has come, while a thread reads the next ones. So no
write lock is held long, and a job that is killed and run again goes on behind its last slice: every row
counts exactly once.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import catalogue, cursors, jobs, packed_files, rating_files, ratings
from app.database import Database, in_parts
from app.errors import FieldError, InvalidInput, NotFound, StorageFull, TooLarge, Unavailable
from app.jobs import HeldJob, JobCancelled
from app.rating_files import DataFile, MovieChunk, RatingChunk
from app.ratings import Counts, Series
from app.settings import Settings
from app.tables import Import, Job

log = structlog.get_logger()

JOB_KIND = "import"
ON_ERROR = ("reject", "skip")

SLICE_ROWS = 50_000  # stored in one transaction at most
CHECKING_SHARE = 0.4  # of the progress; storing is the rest
ERRORS_LISTED = rating_files.ERRORS_LISTED

# Seconds to wait for a database that is away or busy before the attempt fails: a restart takes less.
PATIENCE = (0.1, 0.2, 0.5, *(1.0,) * 30)

CHECK_SPACE_EVERY = 16 * 1024**2  # bytes of an upload between two looks at the disk

POPULARITY_ROWS = 1_000  # movies whose popularity one transaction stores

ABANDONED_AFTER = 24 * 3600.0  # seconds without a write until a file that no import names is rubbish
SPOOL_NAME = re.compile(r"import-[0-9a-f]{32}")

_T = TypeVar("_T")


@dataclass(frozen=True)
class SpooledFile:
    """A complete upload that waits for its import."""

    path: Path
    n_bytes: int

    def discard(self) -> None:
        """Remove it, for when no import will."""
        self.path.unlink(missing_ok=True)


class Spool:
    """An upload being written to disk, block by block; whatever goes wrong, nothing of it stays.

        with Spool(settings) as spool:
            for block in blocks:
                spool.write(block)
            spooled = spool.close()

    Leaving the `with` block before `close` discards it. Each method may block on the disk, so asynchronous
    callers use a thread.

    Args:
        announced: bytes that the sender says will come, if it says so.

    Raises (every method):
        TooLarge: more than `settings.upload_limit` bytes.
        StorageFull: the disk is, or would have less than `settings.disk_reserve` bytes left.
        Unavailable: the spool folder cannot be written.
    """

    def __init__(self, settings: Settings, announced: int = 0) -> None:
        self._limit = settings.upload_limit
        self._reserve = settings.disk_reserve
        self._n_bytes = 0
        self._checked_bytes = 0
        # Unguessable, and made from nothing that the caller said.
        self._path = settings.spool_dir / f"import-{secrets.token_hex(16)}"
        try:
            settings.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _disk_trouble(error) from error
        self._file = os.fdopen(handle, "wb")
        self._check_space(announced)

    def write(self, block: bytes) -> None:
        self._n_bytes += len(block)
        if self._n_bytes > self._limit:
            self.discard()
            raise TooLarge(
                f"An import file may have {self._limit:,} bytes at most. Pack it with gzip, or split it."
            )
        if self._n_bytes - self._checked_bytes >= CHECK_SPACE_EVERY:
            self._checked_bytes = self._n_bytes
            self._check_space(0)
        try:
            self._file.write(block)
        except OSError as error:
            self.discard()
            raise _disk_trouble(error) from error

    def close(self) -> SpooledFile:
        """The complete file, safely on disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            self.discard()
            raise _disk_trouble(error) from error
        return SpooledFile(self._path, self._n_bytes)

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError):  # a full disk refuses the last buffer once more
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _check_space(self, n_bytes: int) -> None:
        """Refuse `n_bytes` more when they would eat into what the database needs to go on."""
        if shutil.disk_usage(self._path.parent).free < n_bytes + self._reserve:
            self.discard()
            raise StorageFull(
                "The disk has too little space left for the upload; nothing of it was kept. Free some space, "
                "or send the file packed. HARMONIUM_DISK_RESERVE is what must stay free."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self.discard()


@dataclass(frozen=True)
class ImportView:
    """An import as callers see it; state, progress, error and times are those of its job.

    Attributes:
        kind: what was asked for, then what was found: `ratings`, `movies` or `movies+ratings`.
        format: likewise, as `csv` or `u.data+u.item`.
        rows: rows dealt with so far; the counts sum to it. Of a rejected file: all rows, of which `rejected`
            are wrong and none was stored.
        rows_per_second: `rows` over the seconds that they took, reading and checking included, whatever lay
            between two attempts not; None until the file is checked.
        errors: the first bad rows, `ERRORS_LISTED` at most.
        error: why it failed, or why its last attempt did.
    """

    import_id: int
    job_id: int
    state: str
    progress: float
    file_name: str | None
    file_bytes: int
    kind: str
    format: str
    rows: int
    rows_per_second: float | None
    counts: Counts
    errors: tuple[FieldError, ...]
    error: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class ImportResult:
    """What became of a file. `errors` are the first bad rows; `counts` sum to `rows`."""

    kind: str
    format: str
    rows: int = 0
    counts: Counts = field(default_factory=Counts)
    errors: tuple[FieldError, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "format": self.format, "rows": self.rows, **self.counts.as_dict()}


def spool(settings: Settings, blocks: Iterable[bytes]) -> SpooledFile:
    """Write an upload to the spool folder; see `Spool` for what may go wrong."""
    with Spool(settings) as upload:
        for block in blocks:
            upload.write(block)
        return upload.close()


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
    """Queue a spooled file. Until this is committed the file is the caller's to discard.

    Args:
        file_name: what the sender calls it; only ever shown.
        kind, format, columns, scale: as `rating_files.recognise` takes them.
        on_error: `reject` stores nothing of a file with a bad row; `skip` stores the good rows.

    Raises:
        InvalidInput: no such kind, format, columns, scale or on_error.
    """
    check_options(kind=kind, format=format, columns=columns, scale=scale, on_error=on_error)
    payload = {"kind": kind, "format": format, "columns": columns, "scale": scale, "on_error": on_error}
    job, _ = jobs.enqueue(session, JOB_KIND, payload, max_attempts=max_attempts)
    record = Import(
        job_id=job.job_id,
        file_name=_shown_name(file_name),
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
    """Raise `InvalidInput` for a kind, format or on_error that does not exist, or wrongly written columns."""
    for name, value, known in (
        ("kind", kind, rating_files.KINDS),
        ("format", format, rating_files.FORMATS),
        ("on_error", on_error, ON_ERROR),
    ):
        if value not in known:
            message = f"must be one of {', '.join(known)}"
            raise InvalidInput(f"{name} {message}.", errors=[FieldError(name, message)])
    rating_files.parse_columns(columns)
    rating_files.parse_scale(scale)


def refuse_oversized(spooled: SpooledFile, settings: Settings, **options: str) -> None:
    """Raise `TooLarge` for a packed file that says itself that it unpacks to more than the limit.

    One that lies fails later, while it is read. What else may be wrong with a file is for its import to say.

    Args:
        options: those of `submit` that say what the file holds.
    """
    with suppress(InvalidInput):
        packed_files.refuse_large_gzip(spooled.path, settings.unpacked_limit)
        _recognise(spooled.path, settings, options)


def get(session: Session, import_id: int) -> ImportView:
    """One import; `NotFound` when there is none."""
    found = None
    if 0 < import_id < 2**63:
        found = session.execute(
            select(Import, Job)
            .join(Job, Job.job_id == Import.job_id)
            .where(Import.import_id == import_id)
            .execution_options(populate_existing=True)
        ).one_or_none()
    if found is None:
        raise NotFound(f"There is no import {import_id}.")
    return _view(*found)


def page(session: Session, *, limit: int, cursor: str | None = None) -> tuple[list[ImportView], str | None]:
    """Imports, newest first, and the cursor of the next page (None at the end).

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
    found = [_view(record, job) for record, job in session.execute(statement)]
    if len(found) <= limit:
        return found, None
    return found[:limit], cursors.make(found[limit - 1].import_id)


def run(held: HeldJob, database: Database, settings: Settings) -> dict[str, Any] | None:
    """The handler of import jobs: check the whole file, then store it slice by slice.

    Ends the job itself, as succeeded or, when the file is at fault, as failed. The spooled file is removed
    then, and kept for as long as the job may run again; `clean_spool` takes what stays.
    """
    with database.reading() as session:
        record = session.scalars(select(Import).where(Import.job_id == held.job_id)).one()
    path = settings.spool_dir / record.spool_path
    try:
        result = _run(held, database, settings, record, path)
    except (InvalidInput, TooLarge) as error:
        with database.writing() as session:
            held.finish(session, "failed", error=error.detail)
        _give_up(database, record, path)
        return None
    except JobCancelled:
        _give_up(database, record, path)
        raise
    # Only now: a job that was killed before it could say that it succeeded needs its file once more.
    path.unlink(missing_ok=True)
    return result.as_dict()


def import_file(
    database: Database,
    settings: Settings,
    path: Path,
    *,
    kind: str = "auto",
    format_: str = "auto",
    columns: str = "",
    scale: str = "",
    on_error: str = "reject",
    on_progress: Callable[[float], None] | None = None,
    on_rows: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Import a file here and now, in place, the way `run` does it; nothing is queued or spooled.

    Args:
        on_progress: called after every piece of work with a number from 0 to 1. What it raises ends the
            import; the slices stored before stay.
        on_rows: called before that with `checked` or `stored` and how many rows were so far.

    Returns:
        `kind` and `format` as found, `rows`, the five counts, which sum to it, and with `on_error="skip"` the
        first bad rows as `errors`.

    Raises:
        InvalidInput: the file cannot be read, or holds bad rows, the first of them in `errors`; nothing was
            stored.
        TooLarge: it unpacks to more than `settings.unpacked_limit`.
    """
    check_options(kind=kind, format=format_, columns=columns, scale=scale, on_error=on_error)
    received_at = datetime.now(UTC)
    report: Callable[[float], None] = on_progress or (lambda _: None)
    tell: Callable[[str, int], None] = on_rows or (lambda _words, _rows: None)
    data = _recognise(path, settings, {"kind": kind, "format": format_, "columns": columns, "scale": scale})
    survey = _survey(data, report, tell)
    if survey.counts.rejected and on_error == "reject":
        raise InvalidInput(_bad_rows(survey), errors=survey.errors)
    result = replace(survey, rows=0, counts=Counts())
    series = Series()
    with _popularity_of(database, series):
        for piece in _slices(data, 0):

            def store(piece: _Slice = piece) -> Counts:
                with database.writing() as session:
                    return piece.store(session, received_at, series)

            counts = _patiently(store, lambda: None)
            series.committed()
            result = replace(result, rows=result.rows + piece.n_rows, counts=result.counts + counts)
            _refuse_changed_file(result, on_error)
            tell("stored", result.rows)
            report(CHECKING_SHARE + (1 - CHECKING_SHARE) * piece.fraction)
    report(1.0)
    return result.as_dict() | {"errors": [_bad_row(error) for error in result.errors]}


def clean_spool(settings: Settings, database: Database) -> int:
    """Remove files that nobody will ask for: of imports that have ended, and uploads long abandoned.

    Where an import that failed or was cancelled has left its file, no attempt of it lived to its end, and the
    ratings of its movies are counted first; while another import is running, which would do it too, they
    wait. Returns how many files were removed. Files that no `Spool` has made are never touched.
    """
    if not settings.spool_dir.is_dir():
        return 0
    # Listed before the database is asked: an upload that finishes in between must not look abandoned.
    files = {path.name: path for path in settings.spool_dir.iterdir() if SPOOL_NAME.fullmatch(path.name)}
    states: dict[str, tuple[str, int]] = {}
    with database.reading() as session:
        for part in in_parts(sorted(files)):
            statement = (
                select(Import.spool_path, Job.state, Import.rows)
                .join(Job, Job.job_id == Import.job_id)
                .where(Import.spool_path.in_(part))
            )
            states |= {row.spool_path: (row.state, row.rows) for row in session.execute(statement)}
        is_running = session.scalar(
            select(Job.job_id).where(Job.kind == JOB_KIND, Job.state == "running").limit(1)
        )
    uncounted = {name for name, (state, rows) in states.items() if state in ("failed", "cancelled") and rows}
    if uncounted and is_running is None:
        _count_popularity(database)
        uncounted = set()
    removed = 0
    for name, path in sorted(files.items()):
        state, _ = states.get(name, (None, 0))
        with suppress(FileNotFoundError):  # its worker was quicker
            abandoned = state is None and time.time() - path.stat().st_mtime > ABANDONED_AFTER
            if abandoned or (state in ("succeeded", "failed", "cancelled") and name not in uncounted):
                path.unlink()
                removed += 1
    return removed


def _give_up(database: Database, record: Import, path: Path) -> None:
    """Remove the file of an import that will not be run again, once its ratings are counted.

    Args:
        record: as it was when the attempt began.
    """
    if record.rows:  # of an earlier attempt, which was killed: see `clean_spool`
        with suppress(Unavailable, StorageFull):
            _count_popularity(database)
            path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)


def _run(held: HeldJob, database: Database, settings: Settings, record: Import, path: Path) -> ImportResult:
    on_error = str(held.payload.get("on_error", "reject"))
    if not path.is_file():
        raise InvalidInput(
            "The uploaded file is not in the spool folder. Upload it again; if that does not help, API and "
            "worker do not share HARMONIUM_SPOOL_DIR."
        )
    data = _recognise(path, settings, held.payload)
    result = ImportResult(data.kind, data.format, record.rows, _counts(record), _errors(record))
    # By a clock that no one sets, and that says nothing about a pause between two attempts.
    clock_began = time.monotonic() - record.seconds
    if record.rows == 0:
        began = time.monotonic()
        survey = _survey(data, held.check)
        held.log(
            f"Checked {survey.rows:,} rows of {data.kind} ({data.format}) in "
            f"{time.monotonic() - began:.1f} s: {survey.counts.rejected:,} are wrong."
        )
        with database.writing() as session:
            record = _locked(session, record.import_id)
            record.kind, record.format = data.kind, data.format
            record.errors = [_bad_row(error) for error in survey.errors]
            record.seconds = time.monotonic() - clock_began
            if survey.counts.rejected and on_error == "reject":
                record.rows, record.rejected = survey.rows, survey.counts.rejected
                held.finish(session, "failed", error=_bad_rows(survey))
                return survey
            held.fence(session)
        result = replace(survey, rows=0, counts=Counts())
    else:
        held.log(f"Went on behind row {record.rows:,}, which an earlier attempt had reached.")

    began, rows_reached = time.monotonic(), result.rows
    series = Series()
    with _popularity_of(database, series):
        for piece in _slices(data, result.rows):
            held.check()

            def store(piece: _Slice = piece, rows_before: int = result.rows) -> Counts:
                with database.writing() as session:
                    locked = _locked(session, record.import_id)
                    counts = _counts(locked)
                    if locked.rows > rows_before:
                        # The connection was lost during the commit, which was done all the same.
                        held.fence(session)
                        return counts
                    counts += piece.store(session, held.created_at, series)
                    locked.rows += piece.n_rows
                    locked.seconds = time.monotonic() - clock_began
                    for name, count in counts.as_dict().items():
                        setattr(locked, name, count)
                    # Last, because it locks the job's row, for which the heartbeat would have to wait.
                    held.fence(session)
                    return counts

            counts = _patiently(store, held.check)
            series.committed()
            result = replace(result, rows=result.rows + piece.n_rows, counts=counts)
            _refuse_changed_file(result, on_error)
            held.check(CHECKING_SHARE + (1 - CHECKING_SHARE) * piece.fraction)
    seconds = time.monotonic() - began
    rows = result.rows - rows_reached
    held.log(f"Stored {rows:,} rows in {seconds:.1f} s, {rows / max(seconds, 1e-3):,.0f} a second.")
    if rows_reached:
        _patiently(lambda: _count_popularity(database), held.check)
    with database.writing() as session:
        held.finish(session, result=result.as_dict())
    return result


def _recognise(path: Path, settings: Settings, options: Mapping[str, Any]) -> DataFile:
    return rating_files.recognise(
        path,
        **{name: str(options[name]) for name in ("kind", "format", "columns", "scale") if name in options},
        stars_min=settings.stars_min,
        stars_max=settings.stars_max,
        unpacked_limit=settings.unpacked_limit,
    )


def _survey(
    data: DataFile,
    report: Callable[[float], None],
    tell: Callable[[str, int], None] = lambda _words, _rows: None,
) -> ImportResult:
    """Read the whole file and store nothing: how many rows, how many of them bad, and what is wrong."""
    rows = rejected = 0
    errors: list[FieldError] = []
    report(0.0)
    for chunk in data.chunks():
        rows += chunk.n_rows
        rejected += chunk.n_rejected
        errors += chunk.errors[: ERRORS_LISTED - len(errors)]
        tell("checked", rows)
        report(CHECKING_SHARE * chunk.fraction)
    return ImportResult(data.kind, data.format, rows, Counts(rejected=rejected), tuple(errors))


@contextmanager
def _popularity_of(database: Database, series: Series) -> Iterator[None]:
    """Store at the end, however it ends, how popular the ratings have made their movies.

    Not with every slice: the movies that everybody rates would be written all the time.
    """
    try:
        yield
    finally:
        # It is no reason for a failure: what an attempt that was killed has left out is counted by the next.
        with suppress(Unavailable, StorageFull):
            for part in _parts(series.inserted()):
                with database.writing() as session:
                    ratings.add_popularity(session, part)


def _count_popularity(database: Database) -> None:
    """Count the ratings of every movie anew: an earlier attempt may have been killed before it did it."""
    with database.reading() as session:
        missing = catalogue.uncounted_ratings(session)
    for part in _parts(missing):
        with database.writing() as session:
            ratings.add_popularity(session, part)


def _parts(by_movie: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """What one transaction may write at once, by ascending movie key."""
    items = sorted(by_movie.items())
    for start in range(0, len(items), POPULARITY_ROWS):
        yield dict(items[start : start + POPULARITY_ROWS])


@dataclass(frozen=True)
class _Slice:
    """Rows `start` up to `stop` of a chunk: what one transaction stores.

    Attributes:
        fraction: how much of the file is behind it, 0 to 1.
    """

    chunk: RatingChunk | MovieChunk
    start: int
    stop: int
    fraction: float

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    def store(self, session: Session, received_at: datetime, series: Series) -> Counts:
        """Write it; for `series` see `ratings.store`."""
        if isinstance(self.chunk, RatingChunk):
            batch = self.chunk.batch(self.start, self.stop)
            n_good = len(batch)
            counts = ratings.store(session, batch, received_at=received_at, series=series)
        else:
            entries = self.chunk.batch(self.start, self.stop)
            counts, n_good = catalogue.store(session, entries, now=datetime.now(UTC)), len(entries)
        return counts + Counts(rejected=self.n_rows - n_good)


def _slices(data: DataFile, done: int) -> Iterator[_Slice]:
    """What is to be stored after the first `done` rows."""
    position = 0  # in the file, of the chunk's first row
    fraction = 0.0  # of the file, before the chunk
    for chunk in _ahead(data.chunks()):
        start = min(max(0, done - position), chunk.n_rows)
        while start < chunk.n_rows:
            stop = min(start + SLICE_ROWS, chunk.n_rows)
            reached = fraction + (chunk.fraction - fraction) * stop / chunk.n_rows
            yield _Slice(chunk, start, stop, reached)
            start = stop
        position += chunk.n_rows
        fraction = chunk.fraction


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each made in a thread while the caller is busy with the one before it.

    Parsing and the database's work leave Python's lock to each other most of the time. Nothing is left
    running when the caller stops before the end.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="import-reader") as thread:
        coming: Future[Any] = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


def _patiently(action: Callable[[], _T], check: Callable[[], None]) -> _T:
    """Do it, and again for a while when the database is away or busy; `check` may end the waiting."""
    for pause in PATIENCE:
        try:
            return action()
        except Unavailable as error:
            log.info("import_waits", reason=error.detail)
        check()
        time.sleep(pause)
    return action()


def _bad_rows(survey: ImportResult) -> str:
    return (
        f"{survey.counts.rejected:,} of {survey.rows:,} rows are wrong, so nothing was stored. Correct them, "
        "or import the good rows alone with on_error=skip (on the command line: --on-error skip)."
    )


def _refuse_changed_file(result: ImportResult, on_error: str) -> None:
    if result.counts.rejected and on_error == "reject":
        raise InvalidInput(
            "The file has changed since its rows were checked; rows may have been stored. Import it again."
        )


def _locked(session: Session, import_id: int) -> Import:
    return session.scalars(select(Import).where(Import.import_id == import_id).with_for_update()).one()


def _counts(record: Import) -> Counts:
    return Counts(record.inserted, record.updated, record.unchanged, record.superseded, record.rejected)


def _bad_row(error: FieldError) -> dict[str, str]:
    return {"location": error.location, "message": error.message}


def _errors(record: Import) -> tuple[FieldError, ...]:
    return tuple(FieldError(error["location"], error["message"]) for error in record.errors)


def _view(record: Import, job: Job) -> ImportView:
    return ImportView(
        import_id=record.import_id,
        job_id=record.job_id,
        state=job.state,
        progress=job.progress,
        file_name=record.file_name,
        file_bytes=record.file_bytes,
        kind=record.kind,
        format=record.format,
        rows=record.rows,
        rows_per_second=round(record.rows / record.seconds, 1) if record.seconds else None,
        counts=_counts(record),
        errors=_errors(record),
        error=job.error,
        created_at=record.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _shown_name(file_name: str | None) -> str | None:
    """The last part of what a sender calls a file, without what cannot be printed."""
    last = PurePosixPath((file_name or "").replace("\\", "/")).name
    return "".join(character for character in last if character.isprintable())[:255] or None


def _disk_trouble(error: OSError) -> StorageFull | Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            "The disk has no space left for the upload; nothing of it was kept. Free some space."
        )
    return Unavailable(f"The spool folder cannot be written ({error.strerror}). See HARMONIUM_SPOOL_DIR.")

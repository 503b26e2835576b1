"""Imports: a file of ratings or movies on its way into the database.

The file is read twice: first every row is checked and nothing stored; then slices of at
most `SLICE_ROWS` rows are stored, each in a transaction of its own that also writes
down how far it has come, while a thread reads the next ones. So no write lock is held
long, and a job that is killed and run again goes on behind its last slice: every row
counts exactly once.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.catalogue import movies
from app.errors import FieldError, InvalidInput, StorageFull, TooLarge, Unavailable
from app.imports.data_file import DataFile, recognise
from app.imports.readers import ERRORS_LISTED, MovieChunk, RatingChunk
from app.imports.requests import JOB_KIND, check_options, counts_of, errors_of
from app.imports.spool import SPOOL_NAME
from app.jobs.held import HeldJob, JobCancelled
from app.ratings import store
from app.ratings.batch import Counts
from app.ratings.store import Upserted
from app.settings import Settings
from app.storage.database import Database, in_parts
from app.storage.tables import Import, Job

log = structlog.get_logger()

SLICE_ROWS = 50_000  # stored in one transaction at most
CHECKING_SHARE = 0.4  # of the progress; storing is the rest

# Seconds to wait for a database that is away or busy before the attempt fails: a
# restart takes less.
PATIENCE = (0.1, 0.2, 0.5, *(1.0,) * 30)

_POPULARITY_ROWS = 1_000  # movies whose popularity one transaction stores
_ABANDONED_AFTER = 24 * 3600.0  # seconds without a write until a file that no import names is removed

_T = TypeVar("_T")


@dataclass(frozen=True)
class ImportResult:
    """What became of a file."""

    kind: str
    """`ratings`, `movies` or `movies+ratings`."""
    format: str
    """As `csv` or `u.data+u.item`."""
    rows: int = 0
    """Rows dealt with; the counts sum to it."""
    counts: Counts = field(default_factory=Counts)
    """What became of them."""
    errors: tuple[FieldError, ...] = ()
    """The first bad rows, `ERRORS_LISTED` at most."""

    def as_dict(self) -> dict[str, Any]:
        """All but the errors, as JSON-safe values."""
        return {"kind": self.kind, "format": self.format, "rows": self.rows, **asdict(self.counts)}


class _Foreground:
    """Where an import in the foreground reports to. It leaves no record."""

    def __init__(
        self, on_progress: Callable[[float], None] | None, on_rows: Callable[[str, int], None] | None
    ) -> None:
        self._on_progress = on_progress
        self._on_rows = on_rows

    def check(self, fraction: float | None = None) -> None:
        """Report how much is done, 0 to 1; what it raises ends the import."""
        if self._on_progress is not None and fraction is not None:
            self._on_progress(fraction)

    def rows(self, verb: str, n_rows: int) -> None:
        """Report how many rows were `checked` or `stored`."""
        if self._on_rows is not None:
            self._on_rows(verb, n_rows)

    def has_stored(self, session: Session, before: ImportResult) -> bool:
        """Whether more rows are stored than `before` says."""
        return False

    def keep(self, session: Session, result: ImportResult) -> None:
        """Record what is stored after a slice, in the transaction of that slice."""


class _Record(_Foreground):
    """Where an import reports to: its row in `imports`, and the job that holds it."""

    def __init__(self, held: HeldJob, record: Import) -> None:
        self._held = held
        self._import_id = record.import_id
        # By a monotonic clock, and one that says nothing about a pause between two
        # attempts.
        self._began = time.monotonic() - record.seconds

    def check(self, fraction: float | None = None) -> None:
        self._held.check(fraction)

    def rows(self, verb: str, n_rows: int) -> None:
        pass

    def locked(self, session: Session) -> Import:
        """The row, locked until the transaction ends."""
        statement = select(Import).where(Import.import_id == self._import_id).with_for_update()
        return session.scalars(statement).one()

    def seconds(self) -> float:
        """How long the import has taken, over all attempts."""
        return time.monotonic() - self._began

    def has_stored(self, session: Session, before: ImportResult) -> bool:
        # When the connection is lost during a commit, it may be done all the same.
        if self.locked(session).rows == before.rows:
            return False
        self._held.fence(session)
        return True

    def keep(self, session: Session, result: ImportResult) -> None:
        record = self.locked(session)
        record.rows, record.seconds = result.rows, self.seconds()
        for name, count in asdict(result.counts).items():
            setattr(record, name, count)
        # Last, because it locks the job's row, for which the heartbeat would have to
        # wait.
        self._held.fence(session)


def run(held: HeldJob, database: Database, settings: Settings) -> dict[str, Any] | None:
    """The handler of import jobs: check the whole file, then store it slice by slice.

    Ends the job itself, as succeeded or, when the file is at fault, as failed. The
    spooled file is removed then, and kept for as long as the job may run again;
    `clean_spool` takes what stays.
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
    # Only now: a job that was killed before it could say that it succeeded needs its
    # file once more.
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
    """Import a file in place, as `run` does it, without queue and spool.

    Args:
        on_progress: called after every piece of work with a number from 0 to 1. What it
            raises ends the import; the slices stored before stay.
        on_rows: called before that with `checked` or `stored` and how many rows were so
            far.

    Returns:
        `kind` and `format` of what the file holds, `rows`, the five counts, which sum
        to it, and with `on_error="skip"` the first bad rows as `errors`.

    Raises:
        InvalidInput: the file cannot be read, or holds bad rows, the first of them in
            `errors`; nothing was stored.
        TooLarge: it unpacks to more than `settings.unpacked_limit`.
    """
    check_options(kind=kind, format=format_, columns=columns, scale=scale, on_error=on_error)
    received_at = datetime.now(UTC)
    report = _Foreground(on_progress, on_rows)
    data = recognise(path, settings, kind=kind, format=format_, columns=columns, scale=scale)
    survey = _survey(data, report)
    if survey.counts.rejected and on_error == "reject":
        raise InvalidInput(_bad_rows(survey), errors=survey.errors)
    result = _store(
        database, data, replace(survey, rows=0, counts=Counts()), report, received_at, on_error=on_error
    )
    report.check(1.0)
    return result.as_dict() | {"errors": [_bad_row(error) for error in result.errors]}


def clean_spool(settings: Settings, database: Database) -> int:
    """Remove files of ended imports and long abandoned uploads; return how many.

    Where an import that failed or was cancelled has left its file, no attempt of it
    lived to its end, and the ratings of its movies are counted first; while another
    import is running, which would do it too, they wait. Files that no `Spool` has made
    are never touched.
    """
    if not settings.spool_dir.is_dir():
        return 0
    # Listed before the database is asked: an upload that finishes in between must not
    # look abandoned.
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
            abandoned = state is None and time.time() - path.stat().st_mtime > _ABANDONED_AFTER
            if abandoned or (state in ("succeeded", "failed", "cancelled") and name not in uncounted):
                path.unlink()
                removed += 1
    return removed


def _give_up(database: Database, record: Import, path: Path) -> None:
    """Remove the file of an import that will not run again, its ratings being counted.

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
    options = ("kind", "format", "columns", "scale")
    data = recognise(
        path, settings, **{name: str(held.payload[name]) for name in options if name in held.payload}
    )
    reached = ImportResult(data.kind, data.format, record.rows, counts_of(record), errors_of(record))
    report = _Record(held, record)
    if reached.rows == 0:
        survey = _survey(data, report)
        held.log(
            f"Checked {survey.rows:,} rows of {data.kind} ({data.format}) in {report.seconds():.1f} s: "
            f"{survey.counts.rejected:,} are wrong."
        )
        with database.writing() as session:
            record = report.locked(session)
            record.kind, record.format, record.seconds = data.kind, data.format, report.seconds()
            record.errors = [_bad_row(error) for error in survey.errors]
            if survey.counts.rejected and on_error == "reject":
                record.rows, record.rejected = survey.rows, survey.counts.rejected
                held.finish(session, "failed", error=_bad_rows(survey))
                return survey
            held.fence(session)
        reached = replace(survey, rows=0, counts=Counts())
    else:
        held.log(f"Went on behind row {reached.rows:,}, which an earlier attempt had reached.")
    began = time.monotonic()
    result = _store(database, data, reached, report, held.created_at, on_error=on_error)
    seconds = time.monotonic() - began
    rows = result.rows - reached.rows
    held.log(f"Stored {rows:,} rows in {seconds:.1f} s, {rows / max(seconds, 1e-3):,.0f} a second.")
    if reached.rows:
        _patiently(lambda: _count_popularity(database), held.check)
    with database.writing() as session:
        held.finish(session, result=result.as_dict())
    return result


def _survey(data: DataFile, report: _Foreground) -> ImportResult:
    """Read the whole file, store nothing; return the bad rows and what is wrong."""
    rows = rejected = 0
    errors: list[FieldError] = []
    report.check(0.0)
    for chunk in data.chunks():
        rows += chunk.n_rows
        rejected += chunk.n_rejected
        errors += chunk.errors[: ERRORS_LISTED - len(errors)]
        report.rows("checked", rows)
        report.check(CHECKING_SHARE * chunk.fraction)
    return ImportResult(data.kind, data.format, rows, Counts(rejected=rejected), tuple(errors))


def _store(
    database: Database,
    data: DataFile,
    result: ImportResult,
    report: _Foreground,
    received_at: datetime,
    *,
    on_error: str,
) -> ImportResult:
    """Store the rows behind those of `result`; return the result of all.

    How popular ratings have made their movies is stored at the end, however it ends.
    With every slice, the movies that most users rate would be written all the time.
    """
    known_movies: dict[str, int] = {}
    popularity = np.zeros(0, np.int64)  # by movie key, which counts from 1 without large gaps
    try:
        for piece in _slices(data, result.rows):
            report.check()
            tries: list[Upserted] = []

            def store_piece(
                piece: _Slice = piece, before: ImportResult = result, tries: list[Upserted] = tries
            ) -> None:
                with database.writing() as session:
                    if not report.has_stored(session, before):
                        tries.append(piece.store(session, received_at, known_movies))
                        report.keep(session, _after(before, piece, tries[-1]))

            _patiently(store_piece, report.check)
            result = _after(result, piece, tries[-1])
            popularity = _popularity(popularity, tries[-1])
            if result.counts.rejected and on_error == "reject":
                raise InvalidInput(
                    "The file has changed since its rows were checked; rows may have been stored. Import it "
                    "again."
                )
            report.rows("stored", result.rows)
            report.check(CHECKING_SHARE + (1 - CHECKING_SHARE) * piece.fraction)
    finally:
        # It is no reason for a failure: what an attempt that was killed has left out is
        # counted by the next.
        with suppress(Unavailable, StorageFull):
            movie_keys = np.flatnonzero(popularity)
            _add_popularity(database, movie_keys, popularity[movie_keys])
    return result


def _popularity(popularity: NDArray[np.int64], upserted: Upserted) -> NDArray[np.int64]:
    """How many ratings were inserted, by movie key, with those of one more slice."""
    size = int(upserted.movie_keys.max(initial=-1)) + 1
    total = np.pad(popularity, (0, max(0, size - len(popularity))))
    total[upserted.movie_keys] += upserted.n_inserted
    return total


def _add_popularity(database: Database, movie_keys: NDArray[np.int64], n_ratings: NDArray[np.int64]) -> None:
    """Add to the movies' numbers of ratings, `_POPULARITY_ROWS` in a transaction."""
    for start in range(0, len(movie_keys), _POPULARITY_ROWS):
        part = slice(start, start + _POPULARITY_ROWS)
        with database.writing() as session:
            store.add_popularity(session, movie_keys[part], n_ratings[part])


def _count_popularity(database: Database) -> None:
    """Count the ratings of every movie anew.

    An attempt that was killed has stored ratings without it.
    """
    with database.reading() as session:
        missing = sorted(movies.uncounted_ratings(session).items())
    _add_popularity(database, *np.array(missing, np.int64).reshape(-1, 2).T)


@dataclass(frozen=True)
class _Slice:
    """Some rows of a chunk: what one transaction stores."""

    chunk: RatingChunk | MovieChunk
    """What they are of."""
    start: int
    """The first row."""
    stop: int
    """The row behind the last."""
    fraction: float
    """How much of the file is behind it, 0 to 1."""

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    def store(self, session: Session, received_at: datetime, known_movies: dict[str, int]) -> Upserted:
        """Write it; for `known_movies` see `store.upsert_slice`."""
        if isinstance(self.chunk, RatingChunk):
            batch = self.chunk.batch(self.start, self.stop)
            n_good = len(batch)
            upserted = store.upsert_slice(session, batch, received_at=received_at, known_movies=known_movies)
        else:
            entries = self.chunk.batch(self.start, self.stop)
            n_good = len(entries)
            counts = movies.store(session, entries, now=datetime.now(UTC))
            upserted = Upserted(counts, *np.empty((2, 0), np.int64))
        return replace(upserted, counts=upserted.counts + Counts(rejected=self.n_rows - n_good))


def _after(result: ImportResult, piece: _Slice, upserted: Upserted) -> ImportResult:
    """The result once a slice is stored as well."""
    return replace(result, rows=result.rows + piece.n_rows, counts=result.counts + upserted.counts)


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
    """The items, each made in a thread while the caller is busy with the one before it.

    Parsing and the database's work leave Python's lock to each other most of the time.
    Nothing is left running when the caller stops before the end.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="import-reader") as thread:
        coming: Future[Any] = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


def _patiently(action: Callable[[], None], check: Callable[[], None]) -> None:
    """Repeat an action while the database is away or busy; `check` may end that."""
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


def _bad_row(error: FieldError) -> dict[str, str]:
    return {"location": error.location, "message": error.message}

"""The durable queue: one table, for SQLite and PostgreSQL alike.

A worker *claims* a job and holds it as (job_id, attempt). Every claim raises `attempt`, and every later word
of the holder is checked against it, so a worker that was paused, cut off or given up for dead cannot touch a
job that another one has since taken: its statements find no row and raise `LostJob`.

The holder raises a counter, `heartbeat`. Whoever watches (`Rescuer`) believes it dead after seeing the same
count for long enough on the watcher's own monotonic clock. No decision about who holds what compares wall
clocks, so neither a jump nor clocks that differ between machines can steal a job.

These functions flush and never commit: the edges do, so that a job and what it did are stored together. Call
all that write within `Database.writing()`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, event, exists, func, insert, not_, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app import cursors
from app.database import Database
from app.errors import Conflict, LostJob, NotFound, Unavailable
from app.tables import Job, JobLogLine

FinalState = Literal["succeeded", "failed", "cancelled"]
LogLevel = Literal["debug", "info", "warning", "error"]

FIRST_BACKOFF = 2.0  # seconds before a failed job is tried again; doubled for every further failure
LONGEST_BACKOFF = 60.0  # seconds

LONGEST_MESSAGE = 10_000  # characters of an error or a log line

# Any fixed number: it names claims of jobs that run one at a time among PostgreSQL's advisory locks.
ALONE_LOCK = 0x4861726D6F6A6F62

JOIN_TRIES = 20  # the queued job can be claimed, and the next one queued, under our hands; not for ever


class JobCancelled(Exception):
    """Someone asked for this job to be cancelled. Let it pass: the worker records it."""


class JobReleased(Exception):
    """The worker is stopping. Let it pass: the job goes back to the queue."""


def now() -> datetime:
    """The wall clock, for what people read and for `run_after`; never for who holds a job."""
    return datetime.now(UTC)


def backoff_seconds(failures: int) -> float:
    """How long a job rests after it has failed so many times."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (failures - 1)) if failures > 0 else 0.0


def enqueue(
    session: Session,
    kind: str,
    payload: dict[str, Any],
    *,
    dedupe_key: str | None = None,
    max_attempts: int = 3,
    run_after: datetime | None = None,
) -> tuple[Job, bool]:
    """Queue a job, or join the queued one that has the same `dedupe_key`.

    A running job is not joined: it may have read its input already. Whether the joined job's payload is what
    the caller wanted is for the caller to compare.

    Args:
        run_after: not before this moment; None is at once.

    Returns:
        The job, and whether it is new.
    """
    values = {
        "kind": kind,
        "state": "queued",
        "dedupe_key": dedupe_key,
        "payload": payload,
        "attempt": 0,
        "failures": 0,
        "max_attempts": max_attempts,
        "heartbeat": 0,
        "progress": 0.0,
        "cancel_requested": False,
        "run_after": run_after,
        "created_at": now(),
    }
    if dedupe_key is None:
        return session.scalars(insert(Job).values(values).returning(Job)).one(), True
    # Two requests at once must not both find nothing and both insert: the partial unique index decides.
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    insert_unless_queued = (
        dialect.insert(Job)
        .values(values)
        .on_conflict_do_nothing(
            index_elements=["dedupe_key"],
            index_where=text("state = 'queued' AND dedupe_key IS NOT NULL"),
        )
        .returning(Job)
    )
    find_queued = (
        select(Job)
        .where(Job.dedupe_key == dedupe_key, Job.state == "queued")
        .execution_options(populate_existing=True)
    )
    for _ in range(JOIN_TRIES):
        created = session.scalars(insert_unless_queued).one_or_none()
        if created is not None:
            return created, True
        queued = session.scalars(find_queued).one_or_none()
        if queued is not None:
            return queued, False
        # It was claimed between the two statements: now the key is free.
    raise Unavailable("The queue is too busy to join the job. Try again shortly.")


def due_kinds(session: Session, kinds: Sequence[str], *, alone: Collection[str] = ()) -> set[str]:
    """The kinds that have a job to claim: a look that takes no write lock. `alone` is `claim`'s."""
    return set(session.scalars(select(Job.kind).where(*_due(kinds), *_not_beside(alone)).distinct()))


def active(session: Session, kind: str) -> list[Job]:
    """The jobs of a kind that are queued or running, oldest first."""
    statement = select(Job).where(Job.kind == kind, Job.state.in_(("queued", "running")))
    return list(session.scalars(statement.order_by(Job.job_id)))


def counts(session: Session) -> dict[str, dict[str, int]]:
    """How many jobs of each kind are queued and running."""
    statement = (
        select(Job.kind, Job.state, func.count())
        .where(Job.state.in_(("queued", "running")))
        .group_by(Job.kind, Job.state)
        .order_by(Job.kind)
    )
    found: dict[str, dict[str, int]] = {}
    for kind, state, number in session.execute(statement):
        found.setdefault(kind, {"queued": 0, "running": 0})[state] = number
    return found


def claim(
    session: Session,
    kinds: Sequence[str],
    worker_name: str,
    *,
    job_id: int | None = None,
    alone: Collection[str] = (),
) -> Job | None:
    """Take the oldest due job of these kinds, or the one given; None when there is none.

    Args:
        alone: kinds of which one job at a time may run, whichever worker has it. Whoever asks for one job by
            its id decides for themselves.

    PostgreSQL skips rows that another claim has locked. SQLite has no such lock; there `Database.writing()`
    holds the only write lock from its beginning. The update is guarded all the same.
    """
    conditions = _due(kinds)
    if job_id is not None:
        conditions.append(Job.job_id == job_id)
    elif not set(alone).isdisjoint(kinds):
        if session.get_bind().dialect.name == "postgresql":
            # Two workers that claim two jobs at once would each see none running.
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ALONE_LOCK})
        conditions += _not_beside(alone)
    oldest = session.scalar(
        select(Job.job_id)
        .where(*conditions)
        .order_by(Job.job_id)
        .limit(1)
        # key_share: a transaction that merely refers to the job does not hide it.
        .with_for_update(skip_locked=True, key_share=True)
    )
    if oldest is None:
        return None
    return _update(
        session,
        [Job.job_id == oldest, Job.state == "queued"],
        {
            "state": "running",
            "attempt": Job.attempt + 1,
            "worker": worker_name,
            "heartbeat": 0,
            "progress": 0.0,
            "cancel_requested": False,
            "run_after": None,
            "started_at": now(),
        },
    )


def heartbeat(session: Session, job_id: int, attempt: int, progress: float | None = None) -> bool:
    """Show that the holder lives; return whether cancellation was requested.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    values: dict[str, Any] = {"heartbeat": Job.heartbeat + 1}
    if progress is not None:
        values["progress"] = progress
    job = _update(session, _held(job_id, attempt), values)
    if job is None:
        raise _lost(job_id, attempt)
    return job.cancel_requested


def finish(
    session: Session,
    job_id: int,
    attempt: int,
    state: FinalState,
    *,
    result: dict[str, Any] | None = None,
    error: str | None = None,
) -> Job:
    """End the job for good. In the same transaction as the job's effect, there is at most one effect.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    values: dict[str, Any] = {
        "state": state,
        "result": result,
        "error": None if error is None else _storable(error),
        "finished_at": now(),
    }
    if state == "succeeded":
        values["progress"] = 1.0
    job = _update(session, _held(job_id, attempt), values)
    if job is None:
        raise _lost(job_id, attempt)
    return job


def release(session: Session, job_id: int, attempt: int) -> Job:
    """Give the job back unharmed, as a stopping worker does; it costs none of `max_attempts`.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    job = _lock_held(session, job_id, attempt)
    return _put_back(session, job, failures=job.failures, error=None, wait=0.0)


def retry(session: Session, job_id: int, attempt: int, error: str) -> Job:
    """Record that the attempt failed: back to the queue after a rest, or failed when that was the last one.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    job = _lock_held(session, job_id, attempt)
    failures = job.failures + 1
    wait = backoff_seconds(failures)
    return _put_back(session, job, failures=failures, error=_storable(error), wait=wait)


def rescue_from(session: Session, worker_name: str) -> list[int]:
    """Take back every job of a worker that is known to be dead, without waiting for its heartbeat.

    Only for whoever started that process under that name and has seen it end.
    """
    running = session.scalars(
        select(Job)
        .where(Job.state == "running", Job.worker == worker_name)
        .order_by(Job.job_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for job in running:
        _take_back(session, job, f"The worker {worker_name} ended while it ran this job.")
    return [job.job_id for job in running]


def request_cancel(session: Session, job_id: int) -> Job:
    """Cancel a queued job at once; ask the holder of a running one to stop, which takes it a heartbeat.

    Raises:
        NotFound: there is no such job.
        Conflict: it has ended already.
    """
    job = session.scalar(
        select(Job)
        .where(Job.job_id == job_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise _not_found(job_id)
    if job.state == "queued":
        job.state = "cancelled"
        job.finished_at = now()
    elif job.state == "running":
        job.cancel_requested = True
    else:
        raise Conflict(f"Job {job_id} has {job.state} already; there is nothing left to cancel.")
    session.flush()
    return job


def get(session: Session, job_id: int) -> Job:
    """The job as it is in the database now.

    Raises:
        NotFound: there is no such job.
    """
    job = session.get(Job, job_id, populate_existing=True)
    if job is None:
        raise _not_found(job_id)
    return job


def page(
    session: Session,
    *,
    state: str | None = None,
    kind: str | None = None,
    limit: int,
    cursor: str | None = None,
) -> tuple[list[Job], str | None]:
    """Jobs, newest first, and the cursor of the next page, None on the last."""
    statement = select(Job).order_by(Job.job_id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.where(Job.state == state)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    if cursor is not None:
        (job_id,) = cursors.read(cursor, 1)
        statement = statement.where(Job.job_id < job_id)
    found = list(session.scalars(statement))
    return found[:limit], cursors.make(found[limit - 1].job_id) if len(found) > limit else None


def log_line(
    session: Session,
    job_id: int,
    attempt: int,
    message: str,
    level: LogLevel = "info",
    *,
    logged_at: datetime | None = None,
) -> None:
    session.add(
        JobLogLine(
            job_id=job_id,
            attempt=attempt,
            level=level,
            message=_storable(message),
            logged_at=logged_at or now(),
        )
    )
    session.flush()


def log_lines(
    session: Session, job_id: int, *, after: int | None = None, limit: int = 1000
) -> list[JobLogLine]:
    """What the job's attempts had to say, oldest first; `after` is the last line_id already read."""
    statement = select(JobLogLine).where(JobLogLine.job_id == job_id)
    if after is not None:
        statement = statement.where(JobLogLine.line_id > after)
    return list(session.scalars(statement.order_by(JobLogLine.line_id).limit(limit)))


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A running job as the rescuer saw it, and for how many seconds it has seen just that."""

    attempt: int
    heartbeat: int
    still_for: float


@dataclass(frozen=True, slots=True)
class _Rest:
    """A queued job that rests until `run_after`; when first seen, `seconds` were left of that."""

    attempt: int
    run_after: datetime
    seconds: float
    watched_for: float


class Rescuer:
    """Takes jobs back from workers that have died, judged by this observer's monotonic clock alone.

    A job is taken when its heartbeat was seen unchanged for `rescue_after` seconds. One look counts for a
    third of that at most: an observer that was itself paused, or cut off from the database together with
    everyone else, learns nothing from the time that it did not watch. So look at least three times as often.

    It also ends the rest of a queued job by the same clock, for a wall clock that jumped back an hour would
    otherwise hold up a retry that was meant to rest for seconds.

    Args:
        rescue_after: seconds that a heartbeat must stand still.
        clock: monotonic seconds; tests bring their own.
    """

    def __init__(self, rescue_after: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rescue_after = rescue_after
        self._clock = clock
        self._looked_at = clock()
        self._running: dict[int, _Sighting] = {}
        self._resting: dict[int, _Rest] = {}

    def observe(self, session: Session) -> bool:
        """Look without touching; return whether `rescue` would find something to do."""
        looked_at = self._clock()
        watched = min(looked_at - self._looked_at, self.rescue_after / 3)
        self._looked_at = looked_at
        running: dict[int, _Sighting] = {}
        for job_id, attempt, beats in session.execute(
            select(Job.job_id, Job.attempt, Job.heartbeat).where(Job.state == "running")
        ):
            before = self._running.get(job_id)
            still_for = 0.0
            if before is not None and (before.attempt, before.heartbeat) == (attempt, beats):
                still_for = before.still_for + watched
            running[job_id] = _Sighting(attempt, beats, still_for)
        self._running = running
        resting: dict[int, _Rest] = {}
        wall = now()
        for job in session.scalars(
            select(Job)
            .where(Job.state == "queued", Job.run_after > wall)
            .execution_options(populate_existing=True)
        ):
            run_after = job.run_after or wall
            rest = self._resting.get(job.job_id)
            if rest is not None and (rest.attempt, rest.run_after) == (job.attempt, run_after):
                resting[job.job_id] = replace(rest, watched_for=rest.watched_for + watched)
                continue
            seconds = (run_after - wall).total_seconds()
            if job.attempt > 0:  # a retry: the clock may have jumped back before this first look
                seconds = min(seconds, LONGEST_BACKOFF)
            resting[job.job_id] = _Rest(job.attempt, run_after, seconds, 0.0)
        self._resting = resting
        return bool(self._dead() or self._rested())

    def rescue(self, session: Session) -> list[int]:
        """Look, and put the jobs of dead workers back, or fail those without an attempt left."""
        self.observe(session)
        taken = []
        for job_id, seen in self._dead():
            # skip_locked: whoever has the row locked is alive and in the middle of a transaction.
            job = session.scalar(
                select(Job)
                .where(*_held(job_id, seen.attempt), Job.heartbeat == seen.heartbeat)
                .with_for_update(skip_locked=True, key_share=True)
                .execution_options(populate_existing=True)
            )
            if job is not None:
                _take_back(
                    session,
                    job,
                    f"The worker {job.worker} showed no sign of life for {seen.still_for:.0f} s "
                    "and lost this job.",
                )
                taken.append(job_id)
        for job_id, rest in self._rested():
            _update(
                session,
                [Job.job_id == job_id, Job.state == "queued", Job.attempt == rest.attempt],
                {"run_after": None},
            )
        return taken

    def _dead(self) -> list[tuple[int, _Sighting]]:
        return [item for item in self._running.items() if item[1].still_for >= self.rescue_after]

    def _rested(self) -> list[tuple[int, _Rest]]:
        return [item for item in self._resting.items() if item[1].watched_for >= item[1].seconds]


class HeldJob:
    """A claimed job in the hands of its handler.

    The handler calls `check` often, and stores its effect in one transaction that begins with `fence` or
    ends with `finish`. A thread of the worker calls `beat`. Neither `check` nor `log` touches the database,
    so both may be called within a transaction.
    """

    def __init__(self, database: Database, job: Job) -> None:
        self.job_id = job.job_id
        self.attempt = job.attempt
        self.kind = job.kind
        self.payload: dict[str, Any] = job.payload
        self.created_at = job.created_at
        # Set when there is something to store before the next regular heartbeat.
        self.wake = threading.Event()
        self._database = database
        self._progress = 0.0
        self._cancelled = False
        self._released = False
        self._lost = False
        self._finishing = False
        self._finished = False
        self._lines: deque[tuple[str, LogLevel, datetime]] = deque()
        # One transaction at a time stores log lines, or a line would be stored twice.
        self._storing = threading.Lock()

    def __repr__(self) -> str:
        return f"HeldJob(job_id={self.job_id}, attempt={self.attempt}, kind={self.kind!r})"

    @property
    def progress(self) -> float:
        """What the handler last reported, 0 to 1."""
        return self._progress

    @property
    def is_finished(self) -> bool:
        """Whether the handler has ended the job itself, in a transaction that was committed."""
        return self._finished

    def check(self, progress: float | None = None) -> None:
        """Report progress and learn whether to go on. Cheap: call it after every minibatch.

        Raises:
            LostJob: another worker has the job; whatever is stored now would be refused.
            JobCancelled: someone asked to cancel it.
            JobReleased: this worker is stopping.
        """
        if progress is not None:
            self._progress = min(1.0, max(0.0, progress))
        if self._lost:
            raise _lost(self.job_id, self.attempt)
        if self._cancelled:
            raise JobCancelled
        if self._released:
            raise JobReleased

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Say something to whoever reads the job's log; the worker's thread stores it shortly."""
        self._lines.append((message, level, now()))
        self.wake.set()

    def fence(self, session: Session) -> None:
        """Begin a transaction that only the job's holder may commit: locks the job until it ends.

        It is a heartbeat, too, so that a rescuer that waited for the transaction finds the job alive.

        Raises:
            LostJob: this attempt no longer holds the job.
        """
        self._learn(heartbeat(session, self.job_id, self.attempt, self._progress))

    def finish(
        self,
        session: Session,
        state: FinalState = "succeeded",
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """End the job in the transaction that stores its effect: both happen or neither.

        Raises:
            LostJob: this attempt no longer holds the job.
        """
        finish(session, self.job_id, self.attempt, state, result=result, error=error)
        self._finishing = True

        def committed(session: Session) -> None:
            if not session.in_nested_transaction():  # a savepoint's end decides nothing
                self._finished = True

        event.listen(session, "after_commit", committed)

    def cancel(self) -> None:
        """Let the next `check` raise JobCancelled: for a foreground run that is interrupted."""
        self._cancelled = True

    def give_back(self) -> None:
        """Let the next `check` raise JobReleased."""
        self._released = True

    def abandon(self) -> None:
        """Let the next `check` raise LostJob: the worker waits no longer."""
        self._lost = True

    def beat(self) -> None:
        """One heartbeat in a transaction of its own, with the latest progress and the log lines so far.

        Raises:
            Unavailable, StorageFull: not stored; the next beat tries again.
        """
        self._store(beat=True)

    def store_log(self) -> None:
        """Store the log lines that no heartbeat has taken along."""
        if self._lines:
            self._store(beat=False)

    def _store(self, *, beat: bool) -> None:
        with self._storing:
            lines = list(self._lines)
            if self._lost and not lines:
                return
            with self._database.writing() as session:
                for message, level, logged_at in lines:
                    log_line(session, self.job_id, self.attempt, message, level, logged_at=logged_at)
                if beat and not self._lost:
                    try:
                        self._learn(heartbeat(session, self.job_id, self.attempt, self._progress))
                    except LostJob:  # the lines are stored all the same
                        self._lost = not self._finishing
            for _ in lines:
                self._lines.popleft()

    def _learn(self, cancel_requested: bool) -> None:
        # Never back to False: cancel() may have been called in this process.
        if cancel_requested:
            self._cancelled = True


def _due(kinds: Sequence[str]) -> list[ColumnElement[bool]]:
    return [
        Job.state == "queued",
        Job.kind.in_(kinds),
        or_(Job.run_after.is_(None), Job.run_after <= now()),
    ]


def _not_beside(alone: Collection[str]) -> list[ColumnElement[bool]]:
    if not alone:
        return []
    other = aliased(Job)
    return [
        or_(Job.kind.not_in(alone), not_(exists().where(other.kind == Job.kind, other.state == "running")))
    ]


def _held(job_id: int, attempt: int) -> list[ColumnElement[bool]]:
    return [Job.job_id == job_id, Job.attempt == attempt, Job.state == "running"]


def _update(session: Session, conditions: list[ColumnElement[bool]], values: dict[str, Any]) -> Job | None:
    """Update one job under conditions; return it as it is now, or None when they do not hold."""
    return session.scalars(
        update(Job)
        .where(*conditions)
        .values(values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()


def _lock_held(session: Session, job_id: int, attempt: int) -> Job:
    job = session.scalar(
        select(Job)
        .where(*_held(job_id, attempt))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise _lost(job_id, attempt)
    return job


def _take_back(session: Session, job: Job, what_happened: str) -> None:
    """Count a dead worker against the job. The first time it may run again at once."""
    log_line(session, job.job_id, job.attempt, what_happened, "warning")
    failures = job.failures + 1
    error = what_happened
    if failures >= job.max_attempts:
        error += (
            f" That was failed attempt {failures} of {job.max_attempts}, so it is not tried again. "
            "The worker's log, or the machine running out of memory, may tell why."
        )
    _put_back(session, job, failures=failures, error=error, wait=backoff_seconds(failures - 1))


def _put_back(session: Session, job: Job, *, failures: int, error: str | None, wait: float) -> Job:
    """End an attempt that did not finish: cancelled if asked for, failed if it was the last, else queued."""
    conditions = _held(job.job_id, job.attempt)
    values: dict[str, Any] = {"failures": failures, "error": error}
    if job.cancel_requested:
        values |= {"state": "cancelled", "finished_at": now()}
    elif failures >= job.max_attempts:
        values |= {"state": "failed", "finished_at": now()}
    else:
        values |= {
            "state": "queued",
            "worker": None,
            "progress": 0.0,
            "run_after": now() + timedelta(seconds=wait) if wait > 0 else None,
        }
    try:
        with session.begin_nested():
            changed = _update(session, conditions, values)
    except IntegrityError:
        # A follow-up was queued under the same key meanwhile. Both shall run, this one first; requests go
        # on joining the follow-up.
        changed = _update(session, conditions, values | {"dedupe_key": None})
    if changed is None:
        raise _lost(job.job_id, job.attempt)
    return changed


def _storable(message: str) -> str:
    """The message without what PostgreSQL's text cannot hold, and not of any length."""
    message = message.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + " …"


def _lost(job_id: int, attempt: int) -> LostJob:
    return LostJob(f"Attempt {attempt} no longer holds job {job_id}: it was taken over or has ended.")


def _not_found(job_id: int) -> NotFound:
    return NotFound(f"There is no job {job_id}.")

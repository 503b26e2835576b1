"""The durable queue: one table, for SQLite and PostgreSQL alike.

A worker *claims* a job and holds it as (job_id, attempt). Every claim raises `attempt`,
and every later statement of the holder is checked against it, so a worker that was
paused, cut off or taken for dead cannot touch a job that another one has since taken:
its statements find no row and raise `LostJob`.

The holder raises a counter, `heartbeat`. A `Rescuer` takes the holder for dead after
seeing an unchanged count for long enough on its own monotonic clock. Who holds a job
never depends on wall clocks, so neither a jump nor clocks that differ between machines
can steal a job. A claimed job is never deleted.

These functions flush and never commit: the edges do, so that a job and its effect are
stored together. Call all that write within `Database.writing()`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field
from sqlalchemy import ColumnElement, exists, func, insert, not_, or_, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app.errors import Conflict, LostJob, NotFound, Unavailable
from app.storage import cursors
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.storage.database import insert_of, is_postgresql
from app.storage.tables import Job, JobLogLine

FinalState = Literal[
    "succeeded",  # its effect is stored
    "failed",  # refused, or out of attempts; `error` says why
    "cancelled",  # on request, before it had an effect
]
State = Literal[
    "queued",  # waits for a worker, not before `run_after`
    "running",  # held by `worker` as `attempt`
    FinalState,
]
LogLevel = Literal["debug", "info", "warning", "error"]

FIRST_BACKOFF = 2.0  # seconds before a failed job is tried again; doubled for every further failure
LONGEST_BACKOFF = 60.0  # seconds
LONGEST_MESSAGE = 10_000  # characters of an error or a log line
JOIN_TRIES = 20  # the queued job can be claimed, and the next one queued, between two statements

# Any fixed number: it names claims of exclusive kinds among PostgreSQL's advisory
# locks.
EXCLUSIVE_LOCK = 0x4861726D6F6A6F62


@dataclass(frozen=True)
class JobCounts(Answer):
    """How many jobs of a kind are queued and running."""

    queued: Annotated[int, Field(examples=[0])] = 0
    running: Annotated[int, Field(examples=[1])] = 0


class Enqueued(NamedTuple):
    """A queued job, and whether it is new or was joined."""

    job: Job
    is_new: bool


def now() -> datetime:
    """The wall clock, for people and for `run_after`; never for who holds a job."""
    return datetime.now(UTC)


def backoff_seconds(failures: int) -> float:
    """Seconds that a job rests after so many failures."""
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (failures - 1)) if failures > 0 else 0.0


def enqueue(
    session: Session,
    kind: str,
    payload: dict[str, Any],
    *,
    dedupe_key: str | None = None,
    max_attempts: int = 3,
    run_after: datetime | None = None,
) -> Enqueued:
    """Queue a job, or join the queued one with this `dedupe_key`.

    A running job is not joined: it may have read its input already. The caller compares
    the payload of a joined job with its own.

    Args:
        run_after: not before this moment; None is at once.
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
        return Enqueued(session.scalars(insert(Job).values(values).returning(Job)).one(), is_new=True)
    # Two requests at once must not both find nothing and both insert: the partial
    # unique index decides.
    insert_unless_queued = (
        insert_of(session, Job)
        .values(values)
        .on_conflict_do_nothing(
            index_elements=["dedupe_key"],
            index_where=text("state = 'queued' AND dedupe_key IS NOT NULL"),
        )
        .returning(Job.job_id)
    )
    find_queued = (
        select(Job)
        .where(Job.dedupe_key == dedupe_key, Job.state == "queued")
        .execution_options(populate_existing=True)
    )
    for _ in range(JOIN_TRIES):
        created = session.scalars(insert_unless_queued).one_or_none()
        if created is not None:
            return Enqueued(get(session, created), is_new=True)
        queued = session.scalars(find_queued).one_or_none()
        if queued is not None:
            return Enqueued(queued, is_new=False)
        # It was claimed between the two statements: now the key is free.
    raise Unavailable("The queue is too busy to join the job. Try again shortly.")


def due_kinds(session: Session, kinds: Sequence[str], *, exclusive: Collection[str] = ()) -> set[str]:
    """The kinds that have a job to claim, read without a write lock."""
    return set(session.scalars(select(Job.kind).where(*_due(kinds), *_not_beside(exclusive)).distinct()))


def active(session: Session, kind: str) -> list[Job]:
    """The jobs of a kind that are queued or running, oldest first."""
    statement = select(Job).where(Job.kind == kind, Job.state.in_(("queued", "running")))
    return list(session.scalars(statement.order_by(Job.job_id)))


def counts(session: Session) -> dict[str, JobCounts]:
    """How many jobs of each kind are queued and running."""
    statement = (
        select(Job.kind, Job.state, func.count())
        .where(Job.state.in_(("queued", "running")))
        .group_by(Job.kind, Job.state)
        .order_by(Job.kind)
    )
    by_kind: dict[str, JobCounts] = {}
    for kind, state, number in session.execute(statement):
        by_kind[kind] = replace(by_kind.get(kind, JobCounts()), **{state: number})
    return by_kind


def claim(
    session: Session,
    kinds: Sequence[str],
    worker_name: str,
    *,
    job_id: int | None = None,
    exclusive: Collection[str] = (),
) -> Job | None:
    """Take the oldest due job of these kinds, or job `job_id`; None when there is none.

    Args:
        exclusive: kinds of which one job at a time may run on all workers. A claim by
            `job_id` passes this over.

    PostgreSQL skips rows that another claim has locked. SQLite has no such lock; there
    `Database.writing()` holds the only write lock from its beginning. The update is
    guarded all the same.
    """
    conditions = _due(kinds)
    if job_id is not None:
        conditions.append(Job.job_id == job_id)
    elif not set(exclusive).isdisjoint(kinds):
        if is_postgresql(session):
            # Two workers that claim two jobs at once would each see none running.
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": EXCLUSIVE_LOCK})
        conditions += _not_beside(exclusive)
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
    """Raise the counter that keeps the job; return whether cancellation was requested.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    values: dict[str, Any] = {"heartbeat": Job.heartbeat + 1}
    if progress is not None:
        values["progress"] = progress
    return _update_held(session, job_id, attempt, values).cancel_requested


def finish(
    session: Session,
    job_id: int,
    attempt: int,
    state: FinalState,
    *,
    result: dict[str, Any] | None = None,
    error: str | None = None,
) -> Job:
    """End the job for good, in the transaction of its effect: so it has at most one.

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
    return _update_held(session, job_id, attempt, values)


def release(session: Session, job_id: int, attempt: int) -> Job:
    """Give the job back, as a stopping worker does; it costs none of `max_attempts`.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    job = _lock_held(session, job_id, attempt)
    return _put_back(session, job, failures=job.failures, error=None, wait=0.0)


def retry(session: Session, job_id: int, attempt: int, error: str, *, wait: float | None = None) -> Job:
    """Record a failed attempt: queue the job after a rest, or fail it at the last one.

    Args:
        wait: seconds of rest; None: `backoff_seconds`.

    Raises:
        LostJob: this attempt no longer holds the job.
    """
    job = _lock_held(session, job_id, attempt)
    failures = job.failures + 1
    wait = backoff_seconds(failures) if wait is None else wait
    return _put_back(session, job, failures=failures, error=_storable(error), wait=wait)


def request_cancel(session: Session, job_id: int) -> Job:
    """Cancel a queued job at once, a running one at its holder's next heartbeat.

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
) -> Page[Job]:
    """Jobs, newest first."""
    statement = select(Job).order_by(Job.job_id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.where(Job.state == state)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    if cursor is not None:
        (job_id,) = cursors.read(cursor, 1)
        statement = statement.where(Job.job_id < job_id)
    return Page.of(session.scalars(statement).all(), limit, lambda job: (job.job_id,))


def log_line(
    session: Session,
    job_id: int,
    attempt: int,
    message: str,
    level: LogLevel = "info",
    *,
    logged_at: datetime | None = None,
) -> None:
    """Add a line to the job's log; `logged_at` None is this moment."""
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
    """Lines of the job's log, oldest first, after the line_id `after`."""
    statement = select(JobLogLine).where(JobLogLine.job_id == job_id)
    if after is not None:
        statement = statement.where(JobLogLine.line_id > after)
    return list(session.scalars(statement.order_by(JobLogLine.line_id).limit(limit)))


def _due(kinds: Sequence[str]) -> list[ColumnElement[bool]]:
    return [
        Job.state == "queued",
        Job.kind.in_(kinds),
        or_(Job.run_after.is_(None), Job.run_after <= now()),
    ]


def _not_beside(exclusive: Collection[str]) -> list[ColumnElement[bool]]:
    if not exclusive:
        return []
    other = aliased(Job)
    return [
        or_(
            Job.kind.not_in(exclusive), not_(exists().where(other.kind == Job.kind, other.state == "running"))
        )
    ]


def _held(job_id: int, attempt: int) -> list[ColumnElement[bool]]:
    return [Job.job_id == job_id, Job.attempt == attempt, Job.state == "running"]


def _update(session: Session, conditions: list[ColumnElement[bool]], values: dict[str, Any]) -> Job | None:
    """Update one job under conditions; return it, or None when they do not hold."""
    return session.scalars(
        update(Job)
        .where(*conditions)
        .values(values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    ).one_or_none()


def _update_held(session: Session, job_id: int, attempt: int, values: dict[str, Any]) -> Job:
    job = _update(session, _held(job_id, attempt), values)
    if job is None:
        raise lost(job_id, attempt)
    return job


def _lock_held(session: Session, job_id: int, attempt: int) -> Job:
    job = session.scalar(
        select(Job)
        .where(*_held(job_id, attempt))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise lost(job_id, attempt)
    return job


def _put_back(session: Session, job: Job, *, failures: int, error: str | None, wait: float) -> Job:
    """End an unfinished attempt: cancelled on request, failed if last, else queued."""
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
            return _update_held(session, job.job_id, job.attempt, values)
    except IntegrityError:
        # A follow-up was queued under the same key meanwhile. Both shall run, this one
        # first; requests go on joining the follow-up.
        return _update_held(session, job.job_id, job.attempt, values | {"dedupe_key": None})


def _storable(message: str) -> str:
    """The message as PostgreSQL's text can hold it, cut to `LONGEST_MESSAGE`."""
    message = message.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return message if len(message) <= LONGEST_MESSAGE else message[:LONGEST_MESSAGE] + " …"


def lost(job_id: int, attempt: int) -> LostJob:
    """The error that a former holder of the job meets."""
    return LostJob(f"Attempt {attempt} no longer holds job {job_id}: it was taken over or has ended.")


def _not_found(job_id: int) -> NotFound:
    return NotFound(f"There is no job {job_id}.")

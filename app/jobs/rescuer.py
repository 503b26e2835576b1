"""Takes jobs back from workers that have died."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.jobs import queue
from app.storage.tables import Job


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A running job's counter, and the seconds for which it has been seen unchanged."""

    attempt: int
    heartbeat: int
    still_for: float


@dataclass(frozen=True, slots=True)
class _Rest:
    """A queued job that rests until `run_after`, `seconds` after it was first seen."""

    attempt: int
    run_after: datetime
    seconds: float
    watched_for: float


class Rescuer:
    """Finds dead workers by its own monotonic clock, and takes their jobs back.

    A job is taken when its heartbeat was seen unchanged for `rescue_after` seconds. One
    look counts for a third of that at most: an observer that was itself paused, or cut
    off from the database together with everyone else, learns nothing from the time that
    it did not watch. So look at least three times as often.

    It also ends the rest of a queued job by this clock, for a wall clock that jumped
    back an hour would otherwise hold up a retry that was meant to rest for seconds.

    Args:
        rescue_after: seconds that a heartbeat must stand still.
        clock: monotonic seconds.
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
        self._running = self._sightings(session, watched)
        self._resting = self._rests(session, watched)
        return bool(self._dead() or self._rested())

    def rescue(self, session: Session) -> list[int]:
        """Put the jobs of dead workers back; return their ids."""
        self.observe(session)
        taken = []
        for job_id, seen in self._dead():
            # skip_locked: a holder that has the row locked is alive and in the middle
            # of a transaction.
            job = session.scalar(
                select(Job)
                .where(
                    Job.job_id == job_id,
                    Job.state == "running",
                    Job.attempt == seen.attempt,
                    Job.heartbeat == seen.heartbeat,
                )
                .with_for_update(skip_locked=True, key_share=True)
                .execution_options(populate_existing=True)
            )
            if job is not None:
                reason = (
                    f"The worker {job.worker} stored no heartbeat for {seen.still_for:.0f} s "
                    "and lost this job."
                )
                _take_back(session, job, reason)
                taken.append(job_id)
        for job_id, rest in self._rested():
            session.execute(
                update(Job)
                .where(Job.job_id == job_id, Job.state == "queued", Job.attempt == rest.attempt)
                .values(run_after=None)
            )
        return taken

    def _sightings(self, session: Session, watched: float) -> dict[int, _Sighting]:
        running: dict[int, _Sighting] = {}
        for job_id, attempt, heartbeat in session.execute(
            select(Job.job_id, Job.attempt, Job.heartbeat).where(Job.state == "running")
        ):
            before = self._running.get(job_id)
            still_for = 0.0
            if before is not None and (before.attempt, before.heartbeat) == (attempt, heartbeat):
                still_for = before.still_for + watched
            running[job_id] = _Sighting(attempt, heartbeat, still_for)
        return running

    def _rests(self, session: Session, watched: float) -> dict[int, _Rest]:
        resting: dict[int, _Rest] = {}
        wall = queue.now()
        for job_id, attempt, run_after in session.execute(
            select(Job.job_id, Job.attempt, Job.run_after).where(Job.state == "queued", Job.run_after > wall)
        ):
            assert run_after is not None  # noqa: S101  (the statement says so)
            before = self._resting.get(job_id)
            if before is not None and (before.attempt, before.run_after) == (attempt, run_after):
                resting[job_id] = replace(before, watched_for=before.watched_for + watched)
                continue
            seconds = (run_after - wall).total_seconds()
            if attempt > 0:  # a retry: the clock may have jumped back before this first look
                seconds = min(seconds, queue.LONGEST_BACKOFF)
            resting[job_id] = _Rest(attempt, run_after, seconds, 0.0)
        return resting

    def _dead(self) -> list[tuple[int, _Sighting]]:
        return [item for item in self._running.items() if item[1].still_for >= self.rescue_after]

    def _rested(self) -> list[tuple[int, _Rest]]:
        return [item for item in self._resting.items() if item[1].watched_for >= item[1].seconds]


def rescue_from(session: Session, worker_name: str) -> list[int]:
    """Take back every job of a worker that is known to be dead, at once.

    Only the supervisor that started that process under that name, and has seen it end,
    may call this.
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


def _take_back(session: Session, job: Job, reason: str) -> None:
    """Count a dead worker against the job. The first time it may run again at once."""
    queue.log_line(session, job.job_id, job.attempt, reason, "warning")
    failures = job.failures + 1
    error = reason
    if failures >= job.max_attempts:
        error += (
            f" That was failed attempt {failures} of {job.max_attempts}, so it is not tried again. "
            "The worker's log, or the machine running out of memory, may tell why."
        )
    queue.retry(session, job.job_id, job.attempt, error, wait=queue.backoff_seconds(failures - 1))

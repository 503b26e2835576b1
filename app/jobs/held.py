"""A claimed job in the hands of its handler: progress, log, cancellation, fencing."""

import threading
from collections import deque
from datetime import datetime
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from app.errors import LostJob
from app.jobs import queue
from app.jobs.queue import FinalState, LogLevel
from app.storage.database import Database
from app.storage.tables import Job


class JobCancelled(Exception):
    """The job is to be cancelled. Let it pass: the worker records it."""


class JobReleased(Exception):
    """The worker is stopping. Let it pass: the job goes back to the queue."""


class HeldJob:
    """One attempt at a job, held by this process.

    The handler calls `check` often, and stores its effect in one transaction that
    begins with `fence` or ends with `finish`. A thread of the worker calls `beat`.
    Neither `check` nor `log` touches the database, so both may be called within a
    transaction.
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
        """The share of the work done, 0 to 1, as the handler last reported it."""
        return self._progress

    @property
    def is_finished(self) -> bool:
        """Whether the handler itself has ended the job, and that is committed."""
        return self._finished

    def check(self, progress: float | None = None) -> None:
        """Report progress and raise unless the job is to go on. Cheap: call it often.

        Raises:
            LostJob: another worker has the job; whatever is stored would be refused.
            JobCancelled: the job is to be cancelled.
            JobReleased: this worker is stopping.
        """
        if progress is not None:
            self._progress = min(1.0, max(0.0, progress))
        if self._lost:
            raise queue.lost(self.job_id, self.attempt)
        if self._cancelled:
            raise JobCancelled
        if self._released:
            raise JobReleased

    def log(self, message: str, level: LogLevel = "info") -> None:
        """Add a line to the job's log; the worker's thread stores it shortly."""
        self._lines.append((message, level, queue.now()))
        self.wake.set()

    def fence(self, session: Session) -> None:
        """Lock the job in a transaction that only its holder may commit.

        It is a heartbeat, too, so that a rescuer that waited for the transaction finds
        the job alive.

        Raises:
            LostJob: this attempt no longer holds the job.
        """
        self._heartbeat(session)

    def finish(
        self,
        session: Session,
        state: FinalState = "succeeded",
        *,
        result: dict[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """End the job in the transaction of its effect: both happen or neither.

        Raises:
            LostJob: this attempt no longer holds the job.
        """
        queue.finish(session, self.job_id, self.attempt, state, result=result, error=error)
        self._finishing = True

        def committed(session: Session) -> None:
            if not session.in_nested_transaction():  # a savepoint's end decides nothing
                self._finished = True

        event.listen(session, "after_commit", committed)

    def cancel(self) -> None:
        """Let the next `check` raise JobCancelled."""
        self._cancelled = True

    def give_back(self) -> None:
        """Let the next `check` raise JobReleased."""
        self._released = True

    def abandon(self) -> None:
        """Let the next `check` raise LostJob: the worker waits no longer."""
        self._lost = True

    def beat(self) -> None:
        """Store a heartbeat, the progress and the log lines in a transaction.

        Raises:
            Unavailable, StorageFull: not stored; the next beat tries again.
        """
        self._store(beat=True)

    def store_log(self) -> None:
        """Store the log lines that no heartbeat has stored."""
        if self._lines:
            self._store(beat=False)

    def _store(self, *, beat: bool) -> None:
        with self._storing:
            lines = list(self._lines)
            if self._lost and not lines:
                return
            with self._database.writing() as session:
                for message, level, logged_at in lines:
                    queue.log_line(session, self.job_id, self.attempt, message, level, logged_at=logged_at)
                if beat and not self._lost:
                    try:
                        self._heartbeat(session)
                    except LostJob:  # the lines are stored all the same
                        self._lost = not self._finishing
            for _ in lines:
                self._lines.popleft()

    def _heartbeat(self, session: Session) -> None:
        # Never back to False: cancel() may have been called in this process.
        if queue.heartbeat(session, self.job_id, self.attempt, self._progress):
            self._cancelled = True

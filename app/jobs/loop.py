"""The worker's loop: claims jobs, runs their handlers, repeats its chores.

Jobs wait in queues with a concurrency of 1: one job at a time of each queue, the queues
side by side. An *exclusive* kind has a queue of its own, and one job of it runs at a
time on all workers of a database; all other kinds share one queue. So a short job need
not wait for one of hours.

Three threads share the work of a queue, because a fit can sit in one matrix product for
seconds. The handler has a thread of its own. Another raises the heartbeat. The queue's
thread waits, so that it can give the job back in time when the worker is to stop, even
if the handler never calls `check`. One more thread does the chores, the first of which
is to rescue the jobs of dead workers.
"""

import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.errors import HarmoniumError, LostJob, StorageFull, Unavailable
from app.jobs import queue
from app.jobs.held import HeldJob, JobCancelled, JobReleased
from app.jobs.rescuer import Rescuer
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Job

log = structlog.get_logger()

Handler = Callable[[HeldJob, Database, Settings], dict[str, Any] | None]
"""Does a job's work. It returns the job's result, or ends the job itself through
`HeldJob.finish`."""

Ending = Callable[[Session], object]
"""Writes how a job ended."""

WAIT_SLICE = 0.1  # seconds between two looks of a queue's thread at a running handler
LONGEST_PAUSE = 5.0  # seconds between two tries to reach a database that is away
ROUND_WITHIN = 30.0  # seconds; a queue whose thread is silent for longer no longer counts as alive
HANDLERS_SHARE_OF_GRACE = 0.7  # the rest of the grace time is for giving the job back


@dataclass(frozen=True)
class Chore:
    """Periodic work of every worker: short, and harmless if two do it."""

    name: str
    every_seconds: float
    run: Callable[[Database, Settings], object]


class Pauses:
    """Growing pauses between tries, in seconds."""

    def __init__(self, first: float = 0.2, longest: float = LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def longer(self) -> float:
        """The next pause, twice as long as the last one."""
        pause = self._next
        self._next = min(self._longest, 2 * pause)
        return pause

    def reset(self) -> None:
        self._next = self._first


def unique_name(role: str) -> str:
    """A name that no other worker has or had, for the job's row."""
    return f"{role}-{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(3)}"


class Worker:
    """Runs jobs until `stop`, which is for good: it does not start again.

    Kinds of one queue take turns: of those with a job that is due, the one claimed
    longest ago goes first, and within a kind the oldest job. So a hundred jobs of one
    kind do not keep the others waiting.

    Args:
        handlers: by kind of job; other kinds are left to other workers.
        name: for the job's row; by default unique to this process.
        exclusive: kinds with a queue of their own, of which one job runs at a time on
            all workers.
        chores: repeated beside the jobs.
        on_round: called by the main thread every now and then while all queues' threads
            go round.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        handlers: Mapping[str, Handler],
        name: str | None = None,
        *,
        exclusive: Collection[str] = (),
        chores: Sequence[Chore] = (),
        on_round: Callable[[], object] = lambda: None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.handlers = dict(handlers)
        self.name = name or unique_name("worker")
        self.stopping = threading.Event()
        # Whether a handler is still running although its job was given back: the
        # process must end.
        self.has_abandoned_a_handler = False
        self._exclusive = frozenset(exclusive)
        self._chores = chores
        self._on_round = on_round
        # When each queue's thread last went round, in monotonic seconds.
        self._rounds: dict[int, float] = {}
        self._stop_at = 0.0

    def stop(self) -> None:
        """Claim no more; running jobs go back to the queue.

        Any thread may call this.
        """
        if not self.stopping.is_set():
            self._stop_at = time.monotonic()
            self.stopping.set()

    def deadline(self, share: float = 1.0) -> float:
        """When so large a share of the grace time is over, in monotonic seconds."""
        return self._stop_at + share * self.settings.shutdown_grace_seconds

    def go_round(self) -> None:
        """Note that the calling queue's thread is alive."""
        self._rounds[threading.get_ident()] = time.monotonic()

    def wait_for_database(self) -> None:
        """Return once the database answers and has this code's schema, or on `stop`."""
        pauses = Pauses()
        while not self.stopping.is_set():
            self._on_round()
            try:
                if self.database.is_current():
                    return
                log.warning("database_not_migrated", remedy="harmonium db upgrade")
            except (Unavailable, StorageFull) as error:
                log.warning("database_away", error=error.detail)
            self.stopping.wait(pauses.longer())

    def run(self, *, until_idle: bool = False) -> None:
        """Claim and run jobs until `stop`, or until there is none to claim."""
        errors: list[BaseException] = []

        def run_queue(kinds: list[str]) -> None:
            try:
                self._run_queue(kinds, until_idle=until_idle)
            except BaseException as error:
                errors.append(error)  # a worker that lacks a queue would be noticed late
                self.stop()

        queues = self._queues()
        threads = [
            threading.Thread(target=run_queue, args=(kinds,), name=f"queue-{'-'.join(kinds)}", daemon=True)
            for kinds in queues
        ]
        chores = threading.Thread(target=self._do_chores, name="chores", daemon=True)
        chores.start()
        log.info("worker_started", worker=self.name, queues=queues)
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(timeout=self.settings.worker_poll_seconds)
                threads.append(threads.pop(0))
                oldest = time.monotonic() - ROUND_WITHIN
                if all(round_at > oldest for round_at in list(self._rounds.values())):
                    self._on_round()
        finally:
            self.stop()
            for thread in threads:
                if thread.is_alive():
                    thread.join(timeout=self.settings.shutdown_grace_seconds)
            chores.join(timeout=1.0)
            log.info("worker_stopped", worker=self.name)
        if errors:
            raise errors[0]

    def run_claimed(self, job: Job, on_progress: Callable[[float], None] | None = None) -> Job:
        """Run a job claimed under this worker's name; return it as it is afterwards.

        An attempt that failed for a passing reason leaves the job queued for its next
        one. A KeyboardInterrupt, or whatever `on_progress` raises, cancels the job and
        then passes on.
        """
        _Attempt(self, job).run(on_progress)
        with self.database.reading() as session:
            return queue.get(session, job.job_id)

    def _queues(self) -> list[list[str]]:
        """The kinds of each queue, the kind whose turn it is first."""
        shared = [kind for kind in self.handlers if kind not in self._exclusive]
        queues = [[kind] for kind in self.handlers if kind in self._exclusive]
        return [*queues, shared] if shared else queues

    def _run_queue(self, kinds: list[str], *, until_idle: bool) -> None:
        pauses = Pauses()
        while not self.stopping.is_set():
            self.go_round()
            try:
                job = self._claim_next(kinds)
            except (Unavailable, StorageFull) as error:
                log.warning("claim_failed", worker=self.name, error=error.detail)
                self.stopping.wait(pauses.longer())
                continue
            pauses.reset()
            if job is not None:
                _Attempt(self, job).run()
            elif until_idle:
                break
            else:
                self.stopping.wait(self.settings.worker_poll_seconds)
        self._rounds.pop(threading.get_ident(), None)

    def _claim_next(self, kinds: list[str]) -> Job | None:
        # A look first: on SQLite a claim takes the only write lock, and an idle worker
        # must not.
        with self.database.reading() as session:
            due = queue.due_kinds(session, kinds, exclusive=self._exclusive)
        for kind in [kind for kind in kinds if kind in due]:
            with self.database.writing() as session:
                job = queue.claim(session, [kind], self.name, exclusive=self._exclusive)
            if job is not None:
                kinds.remove(kind)
                kinds.append(kind)
                return job
        return None

    def _do_chores(self) -> None:
        rescuer = Rescuer(self.settings.rescue_after_seconds)
        chores = [Chore("rescue", 0.0, lambda database, _: self._rescue(rescuer, database)), *self._chores]
        done_at = {chore.name: -math.inf for chore in chores}
        while not self.stopping.wait(self.settings.heartbeat_seconds):
            for chore in chores:
                if time.monotonic() - done_at[chore.name] < chore.every_seconds:
                    continue
                done_at[chore.name] = time.monotonic()
                try:
                    chore.run(self.database, self.settings)
                except (Unavailable, StorageFull) as error:
                    log.warning("chore_failed", worker=self.name, chore=chore.name, error=error.detail)
                except Exception:
                    # A worker that no longer rescues would be noticed only when it is
                    # needed.
                    log.exception("chore_failed", worker=self.name, chore=chore.name)

    def _rescue(self, rescuer: Rescuer, database: Database) -> None:
        with database.reading() as session:
            is_needed = rescuer.observe(session)
        if is_needed:
            with database.writing() as session:
                rescued = rescuer.rescue(session)
            if rescued:
                log.warning("jobs_rescued", worker=self.name, job_ids=rescued)


class _Attempt:
    """One attempt at a claimed job: its handler, its heartbeat, its end."""

    def __init__(self, worker: Worker, job: Job) -> None:
        self._worker = worker
        self._held = HeldJob(worker.database, job)
        self._log = log.bind(worker=worker.name, job_id=job.job_id, kind=job.kind, attempt=job.attempt)
        self._handled = threading.Event()  # the handler has ended, and `_write_end` says how
        self._settled = threading.Event()  # the job's end is stored, or was given up
        self._write_end: Ending | None = None

    def run(self, on_progress: Callable[[float], None] | None = None) -> None:
        held = self._held
        self._log.info("job_started")
        started_at = time.monotonic()
        beating = threading.Thread(target=self._beat, name=f"heartbeat-{held.job_id}", daemon=True)
        beating.start()
        threading.Thread(target=self._handle, name=f"job-{held.job_id}", daemon=True).start()
        try:
            try:
                self._wait(on_progress)
            except BaseException:
                held.cancel()
                self._worker.stop()
                self._wait(None)
                raise
            finally:
                if self._handled.is_set():
                    self._settle(self._write_end)
                else:
                    self._abandon()
        finally:
            self._settled.set()
            held.wake.set()
            beating.join(timeout=1.0)
        self._log.info("job_ended", seconds=round(time.monotonic() - started_at, 3))

    def _wait(self, on_progress: Callable[[float], None] | None) -> None:
        """Wait until the handler has ended or its part of the grace time is over."""
        reported = -1.0
        is_over = False
        while not is_over:
            is_over = self._handled.wait(WAIT_SLICE)
            self._worker.go_round()
            if on_progress is not None and self._held.progress != reported:
                reported = self._held.progress
                on_progress(reported)
            if self._worker.stopping.is_set():
                self._held.give_back()
                is_over |= time.monotonic() > self._worker.deadline(HANDLERS_SHARE_OF_GRACE)

    def _handle(self) -> None:
        try:
            self._write_end = self._outcome()
        finally:
            self._handled.set()

    def _outcome(self) -> Ending | None:
        """Call the handler; return what writes the job's end, None to write nothing."""
        held, worker = self._held, self._worker
        job_id, attempt = held.job_id, held.attempt
        try:
            result = worker.handlers[held.kind](held, worker.database, worker.settings)
            # A result that no database can hold is the handler's mistake; it is better
            # raised here.
            json.dumps(result, allow_nan=False)
        except LostJob as error:
            self._log.warning("job_lost", error=error.detail)
            return None
        except JobCancelled:
            self._log.info("job_cancelled")
            return lambda session: queue.finish(session, job_id, attempt, "cancelled")
        except JobReleased:
            self._log.info("job_released")
            return self._release
        except (Unavailable, StorageFull) as error:
            self._log.warning("job_attempt_failed", error=error.detail)
            reason = error.detail
            return lambda session: queue.retry(session, job_id, attempt, reason)
        except HarmoniumError as error:
            # The next attempt would meet this refusal again.
            self._log.warning("job_failed", error=error.detail)
            reason = error.detail
            return lambda session: queue.finish(session, job_id, attempt, "failed", error=reason)
        except BaseException as error:
            # SystemExit and the like, too: nothing that a handler raises may leave its
            # job without an end.
            self._log.exception("job_attempt_failed")
            reason = f"{type(error).__name__}: {error}"
            return lambda session: queue.retry(session, job_id, attempt, reason)
        if held.is_finished:
            return None
        return lambda session: queue.finish(session, job_id, attempt, "succeeded", result=result)

    def _release(self, session: Session) -> object:
        return queue.release(session, self._held.job_id, self._held.attempt)

    def _abandon(self) -> None:
        """Give the job back while its handler runs; the fence keeps out its effect."""
        self._log.warning("handler_abandoned")
        self._worker.has_abandoned_a_handler = True
        self._held.abandon()
        # The handler may hold the job's row locked, so not even this is waited for
        # endlessly.
        settling = threading.Thread(
            target=self._settle, args=(self._release,), name=f"release-{self._held.job_id}", daemon=True
        )
        settling.start()
        settling.join(timeout=max(0.1, self._worker.deadline() - time.monotonic()))

    def _settle(self, write_end: Ending | None) -> None:
        """Write the job's end and its last log lines, even if the database is away.

        The heartbeat goes on meanwhile. A worker that is stopping gives up when its
        grace time is over; then the job is rescued like a dead worker's.
        """
        pauses = Pauses()
        while True:
            try:
                self._held.store_log()
                if write_end is not None:
                    with self._worker.database.writing() as session:
                        write_end(session)
                return
            except LostJob as error:
                self._log.warning("job_lost", error=error.detail)
                return
            except (Unavailable, StorageFull) as error:
                self._log.warning("job_end_not_stored", error=error.detail)
                if self._worker.stopping.is_set() and time.monotonic() > self._worker.deadline():
                    return
                time.sleep(pauses.longer())

    def _beat(self) -> None:
        held, every = self._held, self._worker.settings.heartbeat_seconds
        while True:
            held.wake.wait(every)
            held.wake.clear()
            if self._settled.is_set():
                return
            try:
                held.beat()
            except (Unavailable, StorageFull) as error:
                self._log.warning("heartbeat_failed", error=error.detail)
                # A line that cannot be stored must not make this spin.
                self._settled.wait(min(1.0, every))
            except Exception:
                # Without this thread the job would be taken over; the next beat may
                # succeed.
                self._log.exception("heartbeat_failed")
                self._settled.wait(every)

"""The worker: claims jobs and runs their handlers; and the supervisor that keeps one running.

Jobs run in *lanes*: within a lane one at a time, lanes side by side. Training has a lane to itself, so that a
file uploaded during a fit of hours is imported meanwhile.

Three threads share the work of a lane, because a fit can sit in one matrix product for seconds. The handler
has a thread of its own. Another raises the heartbeat. The lane's thread waits, so that it can give the job
back in time when the worker is told to stop, even if the handler never looks up. One more thread rescues the
jobs of dead workers and watches the schedule.
"""

import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
import threadpoolctl
from sqlalchemy.orm import Session

from app import imports, jobs, schedule, training_runs
from app.database import Database
from app.errors import Conflict, HarmoniumError, LostJob, StorageFull, Unavailable
from app.jobs import HeldJob, JobCancelled, JobReleased
from app.settings import Settings
from app.signs_of_life import SignOfLife
from app.tables import Job

log = structlog.get_logger()

Handler = Callable[[HeldJob, Database, Settings], dict[str, Any] | None]
"""Does the job's work. It returns the job's result, or ends the job itself through `HeldJob.finish`."""

Ending = Callable[[Session], object]
"""Writes how a job ended."""


# Who does which kind of job.
JOB_HANDLERS: Mapping[str, Handler] = {
    imports.JOB_KIND: imports.run,
    training_runs.JOB_KIND: training_runs.run,
}

# Kinds with a lane to themselves; all others share one. One job of such a kind runs at a time on all workers
# of a database: two fits at once would only take twice the memory.
OWN_LANES = (training_runs.JOB_KIND,)

WAIT_SLICE = 0.1  # seconds between two looks of the main thread at a running handler
LONGEST_PAUSE = 5.0  # seconds between two tries to reach a database that is away
SWEEP_EVERY = 3600.0  # seconds between two looks for spooled files that no job will ask for
LANE_GOES_ROUND_WITHIN = 30.0  # seconds; a lane silent for longer no longer counts as alive
SUPERVISED_NICENESS = 10  # above the supervisor's 0: a fit may use every core that requests leave idle
HANDLERS_SHARE_OF_GRACE = 0.7  # the rest of the grace time is for giving the job back
LONGEST_RESTART_PAUSE = 60.0  # seconds
HEALTHY_AFTER = 60.0  # seconds that a supervised worker must live for its next restart to be quick again


class Worker:
    """Runs jobs until told to stop, which is for good: it does not start again.

    Kinds of one lane take turns: of those with a job that is due, the one claimed longest ago goes first, and
    within a kind the oldest job. So a hundred jobs of one kind do not keep the others waiting.

    Args:
        handlers: what each kind of job calls; other kinds are left to other workers.
        name: what the job's row shows; unique to this process unless given.
        lanes: the kinds of each lane; None: all kinds share one.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        handlers: Mapping[str, Handler],
        name: str | None = None,
        lanes: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.database = database
        self.settings = settings
        self.handlers = dict(handlers)
        self.name = name or unique_name("worker")
        # Whether a handler is still running although its job was given back: the process must end.
        self.has_abandoned_a_handler = False
        # Each lane's kinds, the one whose turn it is first.
        self._lanes = [list(kinds) for kinds in lanes or [list(self.handlers)]]
        # When each lane's thread last went round, in monotonic seconds.
        self._rounds: dict[int, float] = {}
        self._stopping = threading.Event()
        self._stop_at = 0.0
        self._sign_of_life: SignOfLife | None = None

    def stop(self) -> None:
        """Claim no more; the running job goes back to the queue. Any thread may call this."""
        if not self._stopping.is_set():
            self._stop_at = time.monotonic()
            self._stopping.set()

    def run(self, *, until_idle: bool = False) -> None:
        """Claim and run jobs until `stop`, or until there is none to claim."""
        self._show_signs_of_life()
        rescuing = threading.Thread(target=self._rescue_until_stopped, name="rescuer", daemon=True)
        rescuing.start()
        failures: list[BaseException] = []

        def run_lane(kinds: list[str]) -> None:
            try:
                self._run_lane(kinds, until_idle=until_idle)
            except BaseException as error:
                failures.append(error)  # a worker with a lane less would be found out late
                self.stop()

        lanes = [
            threading.Thread(target=run_lane, args=(kinds,), name=f"lane of {', '.join(kinds)}", daemon=True)
            for kinds in self._lanes
        ]
        log.info("worker_started", worker=self.name, lanes=self._lanes)
        try:
            # Set once for all lanes: a lane that set back what it found would change the others' threads.
            with self._blas_threads():
                for lane in lanes:
                    lane.start()
                while any(lane.is_alive() for lane in lanes):
                    lanes[0].join(timeout=self.settings.worker_poll_seconds)
                    lanes.append(lanes.pop(0))
                    self._show_alive()
        finally:
            self.stop()
            for lane in lanes:
                if lane.is_alive():
                    lane.join(timeout=self.settings.shutdown_grace_seconds)
            rescuing.join(timeout=1.0)
            if self._sign_of_life is not None:
                self._sign_of_life.remove()
            log.info("worker_stopped", worker=self.name)
        if failures:
            raise failures[0]

    def _run_lane(self, kinds: list[str], *, until_idle: bool) -> None:
        pauses = _Pauses()
        while not self._stopping.is_set():
            self._go_round()
            try:
                job = self._claim_next(kinds)
            except (Unavailable, StorageFull) as error:
                log.warning("claim_failed", worker=self.name, error=error.detail)
                self._stopping.wait(pauses.longer())
                continue
            pauses.reset()
            if job is not None:
                self._run(job)
            elif until_idle:
                break
            else:
                self._stopping.wait(self.settings.worker_poll_seconds)
        self._rounds.pop(threading.get_ident(), None)

    def wait_for_database(self) -> None:
        """Return once the database answers and has today's schema, or when the worker is to stop."""
        self._show_signs_of_life()
        pauses = _Pauses()
        while not self._stopping.is_set():
            self._show_alive()
            try:
                if self.database.is_current():
                    return
                log.warning("database_not_migrated", remedy="harmonium db upgrade")
            except (Unavailable, StorageFull) as error:
                log.warning("database_away", error=error.detail)
            self._stopping.wait(pauses.longer())

    def run_job(self, job_id: int, on_progress: Callable[[float], None] | None = None) -> Job:
        """Claim this queued job and run it here and now; return it as it is afterwards.

        Raises:
            NotFound: there is no such job.
            Conflict: it cannot be claimed: another worker has it, or it has ended.
        """
        with self.database.writing() as session:
            job = jobs.claim(session, list(self.handlers), self.name, job_id=job_id)
            if job is None:
                found = jobs.get(session, job_id)
                raise Conflict(f"Job {job_id} ({found.kind}) is {found.state} and cannot be run here.")
        return self.run_claimed(job, on_progress)

    def run_claimed(self, job: Job, on_progress: Callable[[float], None] | None = None) -> Job:
        """Run a job that was claimed under this worker's name; return it as it is afterwards.

        An attempt that failed for a passing reason leaves the job queued for its next one. A
        KeyboardInterrupt (the user has had enough), or whatever `on_progress` raises, cancels the job and
        then passes on.
        """
        self._run(job, on_progress)
        with self.database.reading() as session:
            return jobs.get(session, job.job_id)

    def _run(self, job: Job, on_progress: Callable[[float], None] | None = None) -> None:
        held = HeldJob(self.database, job)
        events = log.bind(worker=self.name, job_id=job.job_id, kind=job.kind, attempt=job.attempt)
        events.info("job_started")
        started_at = time.monotonic()
        ended = threading.Event()
        settled = threading.Event()
        outcome: list[Ending | None] = []

        def handle() -> None:
            try:
                outcome.append(self._handle(held, events))
            finally:
                ended.set()

        beating = threading.Thread(
            target=self._beat_until, args=(settled, held, events), name=f"heartbeat-{job.job_id}", daemon=True
        )
        beating.start()
        threading.Thread(target=handle, name=f"job-{job.job_id}", daemon=True).start()
        try:
            try:
                self._wait_for(ended, held, on_progress)
            except BaseException:
                held.cancel()
                self.stop()
                self._wait_for(ended, held, None)
                raise
            finally:
                self._settle_outcome(ended, held, outcome, events)
        finally:
            settled.set()
            held.wake.set()
            beating.join(timeout=1.0)
        events.info("job_ended", seconds=round(time.monotonic() - started_at, 3))

    def _claim_next(self, kinds: list[str]) -> Job | None:
        # A look first: on SQLite a claim takes the only write lock, and an idle worker must not.
        with self.database.reading() as session:
            due = jobs.due_kinds(session, kinds, alone=OWN_LANES)
        for kind in [kind for kind in kinds if kind in due]:
            with self.database.writing() as session:
                job = jobs.claim(session, [kind], self.name, alone=OWN_LANES)
            if job is not None:
                kinds.remove(kind)
                kinds.append(kind)
                return job
        return None

    def _wait_for(
        self, ended: threading.Event, held: HeldJob, on_progress: Callable[[float], None] | None
    ) -> None:
        """Wait until the handler has ended, or has used up its part of the grace time."""
        shown = -1.0
        while not ended.wait(WAIT_SLICE):
            self._go_round()
            if on_progress is not None and held.progress != shown:
                shown = held.progress
                on_progress(shown)
            if self._stopping.is_set():
                held.give_back()
                if time.monotonic() > self._deadline(HANDLERS_SHARE_OF_GRACE):
                    return
        if on_progress is not None and held.progress != shown:
            on_progress(held.progress)

    def _handle(self, held: HeldJob, events: structlog.stdlib.BoundLogger) -> Ending | None:
        """Call the handler; return what is to be written about its end, None where nothing is."""
        job_id, attempt = held.job_id, held.attempt
        try:
            with self._blas_threads():
                result = self.handlers[held.kind](held, self.database, self.settings)
            # A result that no database can hold is the handler's mistake; better told here than at the end.
            json.dumps(result, allow_nan=False)
        except LostJob as error:
            events.warning("job_lost", error=error.detail)
            return None
        except JobCancelled:
            events.info("job_cancelled")
            return lambda session: jobs.finish(session, job_id, attempt, "cancelled")
        except JobReleased:
            events.info("job_released")
            return lambda session: jobs.release(session, job_id, attempt)
        except (Unavailable, StorageFull) as error:
            events.warning("job_attempt_failed", error=error.detail)
            reason = error.detail
            return lambda session: jobs.retry(session, job_id, attempt, reason)
        except HarmoniumError as error:
            # The same input would meet the same refusal again.
            events.warning("job_failed", error=error.detail)
            reason = error.detail
            return lambda session: jobs.finish(session, job_id, attempt, "failed", error=reason)
        except BaseException as error:
            # SystemExit and the like, too: nothing that a handler raises may leave its job without an end.
            events.exception("job_attempt_failed")
            reason = f"{type(error).__name__}: {error}"
            return lambda session: jobs.retry(session, job_id, attempt, reason)
        if held.is_finished:
            return None
        return lambda session: jobs.finish(session, job_id, attempt, "succeeded", result=result)

    def _settle_outcome(
        self,
        ended: threading.Event,
        held: HeldJob,
        outcome: Sequence[Ending | None],
        events: structlog.stdlib.BoundLogger,
    ) -> None:
        if ended.is_set():
            self._settle(held, outcome[0], events)
            return
        # The handler goes on somewhere; its job is given back over its head, and the fence keeps what it may
        # still do from counting. It may hold the job's row locked, so not even this is waited for endlessly.
        events.warning("handler_abandoned")
        self.has_abandoned_a_handler = True
        held.abandon()
        settling = threading.Thread(
            target=self._settle,
            args=(held, lambda session: jobs.release(session, held.job_id, held.attempt), events),
            name=f"release-{held.job_id}",
            daemon=True,
        )
        settling.start()
        settling.join(timeout=max(0.1, self._deadline() - time.monotonic()))

    def _settle(self, held: HeldJob, end: Ending | None, events: structlog.stdlib.BoundLogger) -> None:
        """Write the job's end and its last log lines, however long the database stays away.

        The heartbeat goes on meanwhile. A worker that is stopping gives up when its grace time is over; then
        the job is rescued like a dead worker's.
        """
        pauses = _Pauses()
        while True:
            try:
                held.store_log()
                if end is not None:
                    with self.database.writing() as session:
                        end(session)
                return
            except LostJob as error:
                events.warning("job_lost", error=error.detail)
                return
            except (Unavailable, StorageFull) as error:
                events.warning("job_end_not_stored", error=error.detail)
                if self._stopping.is_set() and time.monotonic() > self._deadline():
                    return
                time.sleep(pauses.longer())

    def _beat_until(
        self, settled: threading.Event, held: HeldJob, events: structlog.stdlib.BoundLogger
    ) -> None:
        while True:
            held.wake.wait(self.settings.heartbeat_seconds)
            held.wake.clear()
            if settled.is_set():
                return
            try:
                held.beat()
            except (Unavailable, StorageFull) as error:
                events.warning("heartbeat_failed", error=error.detail)
                # A line that cannot be stored must not make this spin.
                settled.wait(min(1.0, self.settings.heartbeat_seconds))
            except Exception:
                # Without this thread the job would be taken over; whatever it is may pass.
                events.exception("heartbeat_failed")
                settled.wait(self.settings.heartbeat_seconds)

    def _rescue_until_stopped(self) -> None:
        rescuer = jobs.Rescuer(self.settings.rescue_after_seconds)
        swept_at = scheduled_at = -math.inf
        while not self._stopping.wait(self.settings.heartbeat_seconds):
            try:
                with self.database.reading() as session:
                    needed = rescuer.observe(session)
                if needed:
                    with self.database.writing() as session:
                        rescued = rescuer.rescue(session)
                    if rescued:
                        log.warning("jobs_rescued", worker=self.name, job_ids=rescued)
                if time.monotonic() - swept_at > SWEEP_EVERY:
                    swept_at = time.monotonic()
                    swept = imports.clean_spool(self.settings, self.database)
                    if swept:
                        log.info("spool_swept", worker=self.name, files=swept)
                if (
                    training_runs.JOB_KIND in self.handlers
                    and time.monotonic() - scheduled_at > schedule.LOOK_EVERY
                ):
                    scheduled_at = time.monotonic()
                    run_id = schedule.tick(self.database, self.settings)
                    if run_id is not None:
                        log.info("retraining_scheduled", worker=self.name, run_id=run_id)
            except (Unavailable, StorageFull) as error:
                log.warning("rescue_failed", worker=self.name, error=error.detail)
            except Exception:
                # A worker that no longer rescues would be found out only when it is needed.
                log.exception("rescue_failed", worker=self.name)

    def _show_signs_of_life(self) -> None:
        if self._sign_of_life is None:
            self._sign_of_life = SignOfLife(self.settings, self.name)

    def _show_alive(self) -> None:
        """Show a sign of life unless a lane has stopped going round."""
        oldest = time.monotonic() - LANE_GOES_ROUND_WITHIN
        if self._sign_of_life is not None and all(at > oldest for at in list(self._rounds.values())):
            self._sign_of_life.show()

    def _go_round(self) -> None:
        self._rounds[threading.get_ident()] = time.monotonic()

    def _blas_threads(self) -> Any:
        threads = self.settings.training_threads or usable_cores()
        return threadpoolctl.threadpool_limits(limits=threads, user_api="blas")

    def _deadline(self, share: float = 1.0) -> float:
        return self._stop_at + share * self.settings.shutdown_grace_seconds


class _Pauses:
    """Growing pauses between tries."""

    def __init__(self, first: float = 0.2, longest: float = LONGEST_PAUSE) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def longer(self) -> float:
        pause = self._next
        self._next = min(self._longest, 2 * pause)
        return pause

    def reset(self) -> None:
        self._next = self._first


def run_worker(
    settings: Settings,
    *,
    name: str | None = None,
    stop_with_stdin: bool = False,
    handlers: Mapping[str, Handler] | None = None,
) -> int:
    """Be a worker process: run until SIGTERM or SIGINT; return the exit code.

    Call it from the main thread, the only one that may say what a signal does.

    Args:
        stop_with_stdin: stop as well when standard input ends, as it does when the process that supervises
            this one dies in whatever way.
    """
    database = Database.from_settings(settings)
    worker = _with_lanes(database, settings, JOB_HANDLERS if handlers is None else handlers, name)
    wake_up, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def stop_on_signal() -> None:
        # A Python signal handler would wait until the main thread is back from the database. The wake-up
        # pipe is written in the moment of the signal, whichever thread it reaches (BLAS has its own).
        received = os.read(wake_up, 1)[0]
        log.info("worker_stopping", worker=worker.name, reason=signal.Signals(received).name)
        worker.stop()

    threading.Thread(target=stop_on_signal, name="signals", daemon=True).start()
    if stop_with_stdin:

        def stop_on_end_of_stdin() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                pass
            log.info("worker_stopping", worker=worker.name, reason="supervisor is gone")
            worker.stop()

        threading.Thread(target=stop_on_end_of_stdin, name="supervisor-watch", daemon=True).start()
    worker.wait_for_database()
    worker.run()
    if worker.has_abandoned_a_handler:
        # Its thread cannot be stopped, and must not go on while the interpreter is taken down around it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    database.close()
    return 0


def _with_lanes(
    database: Database, settings: Settings, handlers: Mapping[str, Handler], name: str | None
) -> Worker:
    shared = [kind for kind in handlers if kind not in OWN_LANES]
    lanes = [[kind] for kind in OWN_LANES if kind in handlers] + ([shared] if shared else [])
    return Worker(database, settings, handlers, name, lanes)


class SupervisedWorker:
    """A worker process that `serve` keeps running beside itself; a thread watches it, never the event loop.

    When the process dies, its jobs are freed at once, for nobody knows better that it is dead, and it is
    started again after a pause that grows while it keeps dying. The worker has a session of its own, so that
    Ctrl-C reaches only this process, and it stops when its standard input ends, so that it never outlives
    this one.

    Args:
        command: what to start; the options that run_worker's callers know are appended.
    """

    def __init__(self, settings: Settings, database: Database, command: Sequence[str] | None = None) -> None:
        self.settings = settings
        self.database = database
        self.command = list(command or (sys.executable, "-m", "app", "worker"))
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, name="worker-supervisor", daemon=True)
        self.name = unique_name("serve")

    @property
    def pid(self) -> int | None:
        """The process id of the running worker, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace time. Blocks: from a coroutine call it in a thread."""
        self._stopping.set()
        with self._starting:
            process = self._process
        if process is not None:
            # Through the Popen object: it knows whether the id still belongs to our process.
            process.terminate()
            try:
                process.wait(self.settings.shutdown_grace_seconds + 1.0)
            except subprocess.TimeoutExpired:
                log.warning("worker_killed", pid=process.pid)
                process.kill()
        if self._thread.is_alive():
            self._thread.join(timeout=self.settings.database_timeout + 1.0)

    def _supervise(self) -> None:
        pauses = _Pauses(0.5, LONGEST_RESTART_PAUSE)
        while not self._stopping.is_set():
            name = f"{self.name}-{self.starts + 1}"
            started_at = time.monotonic()
            try:
                process = self._start(name)
            except OSError as error:
                log.exception("worker_not_started", error=str(error))
                self._stopping.wait(pauses.longer())
                continue
            if process is None:
                return
            exit_code = process.wait()
            if process.stdin is not None:
                process.stdin.close()
            self._free_jobs(name)
            if self._stopping.is_set():
                return
            log.error("worker_died", worker=name, exit_code=exit_code)
            if time.monotonic() - started_at > HEALTHY_AFTER:
                pauses.reset()
            self._stopping.wait(pauses.longer())

    def _start(self, name: str) -> subprocess.Popen[bytes] | None:
        with self._starting:
            if self._stopping.is_set():
                return None
            self._process = subprocess.Popen(  # noqa: S603
                [*self.command, "--name", name, "--stop-with-stdin"],
                stdin=subprocess.PIPE,
                env=os.environ | _as_environment(self.settings),
                start_new_session=True,
            )
            self.starts += 1
            try:
                # It shares the machine with this process, whose requests go first. Set from here, before it
                # has loaded NumPy: on Linux the threads of BLAS get theirs from whoever starts them.
                os.setpriority(os.PRIO_PROCESS, self._process.pid, SUPERVISED_NICENESS)
            except OSError as error:
                log.warning("worker_priority_not_set", pid=self._process.pid, error=str(error))
            log.info("worker_process_started", worker=name, pid=self._process.pid)
            return self._process

    def _free_jobs(self, name: str) -> None:
        pauses = _Pauses()
        while True:
            try:
                with self.database.writing() as session:
                    rescued = jobs.rescue_from(session, name)
                if rescued:
                    log.warning("jobs_rescued", worker=name, job_ids=rescued)
                return
            except (Unavailable, StorageFull) as error:
                log.warning("rescue_failed", worker=name, error=error.detail)
                if self._stopping.wait(pauses.longer()):
                    return  # another worker's rescuer will find them


def unique_name(role: str) -> str:
    """A name that no other worker has or had, for the job's row."""
    return f"{role}-{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(3)}"


def usable_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _as_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables: the child must have this process's, wherever they came from."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {
        f"HARMONIUM_{field.upper()}": value if isinstance(value, str) else json.dumps(value)
        for field, value in values.items()
    }

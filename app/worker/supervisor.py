"""A worker process that `harmonium serve` keeps running beside the API."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import structlog

from app.errors import StorageFull, Unavailable
from app.jobs.loop import Pauses, unique_name
from app.jobs.rescuer import rescue_from
from app.settings import Settings
from app.storage.database import Database

log = structlog.get_logger()

NICENESS = 10  # above the supervisor's 0: a fit may use every core that requests leave idle
LONGEST_RESTART_PAUSE = 60.0  # seconds
BEYOND_GRACE = 1.0  # seconds that a process gets to end after the grace time
HEALTHY_AFTER = 60.0  # seconds that a worker must live for its next restart to be quick again


class SupervisedWorker:
    """Starts a worker process, and starts it again when it dies; a thread watches it.

    When the process dies, its jobs are freed at once, for this process knows that it is
    dead, and it is started again after a pause that grows while it keeps dying. The
    worker has a session of its own, so that Ctrl-C reaches only this process, and it
    stops when its standard input ends, so that it never outlives this one.

    Args:
        command: what to start; `--name NAME --stop-with-stdin` is appended.
    """

    def __init__(self, settings: Settings, database: Database, command: Sequence[str] | None = None) -> None:
        self.settings = settings
        self.database = database
        self.command = list(command or (sys.executable, "-m", "app", "worker"))
        self.name = unique_name("serve")
        self._starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._supervise, name="worker-supervisor", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process id of the running worker, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after the grace time; blocks until then."""
        self._stopping.set()
        with self._starting:
            process = self._process
        if process is not None:
            # Through the Popen object: it knows whether the id still belongs to our
            # process.
            process.terminate()
            try:
                process.wait(self.settings.shutdown_grace_seconds + BEYOND_GRACE)
            except subprocess.TimeoutExpired:
                log.warning("worker_killed", pid=process.pid)
                process.kill()
        if self._thread.is_alive():
            self._thread.join(timeout=self.settings.database_timeout + 1.0)

    def _supervise(self) -> None:
        pauses = Pauses(0.5, LONGEST_RESTART_PAUSE)
        while not self._stopping.is_set():
            name = f"{self.name}-{self._starts + 1}"
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
            self._starts += 1
            try:
                # It shares the machine with this process, whose requests go first. Set
                # from here, before it has loaded NumPy: on Linux the threads of BLAS
                # inherit it from the thread that starts them.
                os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
            except OSError as error:
                log.warning("worker_priority_not_set", pid=self._process.pid, error=str(error))
            log.info("worker_process_started", worker=name, pid=self._process.pid)
            return self._process

    def _free_jobs(self, name: str) -> None:
        pauses = Pauses()
        while True:
            try:
                with self.database.writing() as session:
                    rescued = rescue_from(session, name)
                if rescued:
                    log.warning("jobs_rescued", worker=name, job_ids=rescued)
                return
            except (Unavailable, StorageFull) as error:
                log.warning("rescue_failed", worker=name, error=error.detail)
                if self._stopping.wait(pauses.longer()):
                    return  # another worker's rescuer will take them back


def _as_environment(settings: Settings) -> dict[str, str]:
    """This process's settings as variables, for the child."""
    values = settings.model_dump(mode="json", exclude_none=True)
    return {
        f"HARMONIUM_{field.upper()}": value if isinstance(value, str) else json.dumps(value)
        for field, value in values.items()
    }

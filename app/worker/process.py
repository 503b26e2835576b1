"""The worker process: the loop with every handler and chore, stopped by signals."""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

import structlog

from app.imports import requests as import_requests
from app.imports import run as import_run
from app.jobs.loop import Chore, Handler, Worker, unique_name
from app.settings import Settings
from app.storage.database import Database
from app.training import requests, schedule
from app.training import run as training_run
from app.worker.liveness import LivenessFile

log = structlog.get_logger()

JOB_HANDLERS: Mapping[str, Handler] = {
    import_requests.JOB_KIND: import_run.run,
    requests.JOB_KIND: training_run.run,
}

# Two fits at once would only take twice the memory.
EXCLUSIVE_KINDS = (requests.JOB_KIND,)

SWEEP_EVERY = 3600.0  # seconds between two looks for spooled files that no job will ask for


def sweep_spool(database: Database, settings: Settings) -> None:
    """Delete spooled files that no job will ask for."""
    n_files = import_run.clean_spool(settings, database)
    if n_files:
        log.info("spool_swept", files=n_files)


def retrain_by_schedule(database: Database, settings: Settings) -> None:
    """Request a training run if one is due."""
    run_id = schedule.tick(database, settings)
    if run_id is not None:
        log.info("retraining_scheduled", run_id=run_id)


CHORES = (
    Chore("sweep_spool", SWEEP_EVERY, sweep_spool),
    Chore("retrain_by_schedule", schedule.LOOK_EVERY, retrain_by_schedule),
)


def run_worker(
    settings: Settings,
    *,
    name: str | None = None,
    stop_with_stdin: bool = False,
    handlers: Mapping[str, Handler] = JOB_HANDLERS,
    chores: Sequence[Chore] = CHORES,
) -> int:
    """Be a worker process: run until SIGTERM or SIGINT; return the exit code.

    Call it from the main thread, the only one that may say what a signal does.

    Args:
        name: for the rows of its jobs; unique by default.
        stop_with_stdin: stop as well when standard input ends, as it does when the
            process that supervises this one dies in whatever way.
        handlers, chores: by default all that the service has.
    """
    name = name or unique_name("worker")
    database = Database.from_settings(settings)
    liveness = LivenessFile(settings, name)
    worker = Worker(
        database,
        settings,
        handlers,
        name,
        exclusive=EXCLUSIVE_KINDS,
        chores=chores,
        on_round=liveness.update,
    )
    _stop_on_signals(worker)
    if stop_with_stdin:
        threading.Thread(target=_stop_at_end_of_stdin, args=(worker,), name="stdin", daemon=True).start()
    try:
        worker.wait_for_database()
        worker.run()
    finally:
        liveness.remove()
    if worker.has_abandoned_a_handler:
        # Its thread cannot be stopped, and must not go on while the interpreter is
        # taken down around it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    database.close()
    return 0


def _stop_on_signals(worker: Worker) -> None:
    wake_up, signalled = os.pipe()
    os.set_blocking(signalled, False)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def stop() -> None:
        # A Python signal handler would wait until the main thread is back from the
        # database. The wake-up pipe is written in the moment of the signal, whichever
        # thread it reaches (BLAS has its own).
        received = os.read(wake_up, 1)[0]
        log.info("worker_stopping", worker=worker.name, reason=signal.Signals(received).name)
        worker.stop()

    threading.Thread(target=stop, name="signals", daemon=True).start()


def _stop_at_end_of_stdin(worker: Worker) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    log.info("worker_stopping", worker=worker.name, reason="supervisor is gone")
    worker.stop()

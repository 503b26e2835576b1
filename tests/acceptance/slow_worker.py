"""A worker process with the real loop, whose handlers tests pause and count.

Run as `python slow_worker.py [--name NAME] [--stop-with-stdin] [--clock-offset
SECONDS]`; settings come from the environment. The effect of a job is a user named for
it, stored in the transaction that ends the job.
"""

import argparse
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta

from app.jobs import queue as jobs
from app.jobs.held import HeldJob
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import User
from app.worker.process import run_worker


def slow(held: HeldJob, database: Database, settings: Settings) -> None:
    """Works for `seconds`, looking up all the time."""
    began = time.monotonic()
    seconds = float(held.payload["seconds"])
    while (worked := time.monotonic() - began) < seconds:
        held.check(worked / seconds)
        time.sleep(0.01)
    quick(held, database, settings)


def quick(held: HeldJob, database: Database, _settings: Settings) -> None:
    with database.writing() as session:
        session.add(User(user_id=f"effect-{held.job_id}-{held.attempt}", created_at=jobs.now()))
        held.finish(session)


def poison(_held: HeldJob, _database: Database, _settings: Settings) -> None:
    """Takes the process with it, as running out of memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


def deaf(held: HeldJob, database: Database, settings: Settings) -> None:
    """Never looks up, not even when told to stop."""
    time.sleep(float(held.payload["seconds"]))
    quick(held, database, settings)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name")
    parser.add_argument("--stop-with-stdin", action="store_true")
    parser.add_argument("--clock-offset", type=float, default=0.0)
    options = parser.parse_args()
    if options.clock_offset:
        offset = timedelta(seconds=options.clock_offset)
        jobs.now = lambda: datetime.now(UTC) + offset
    return run_worker(
        Settings(),
        name=options.name,
        stop_with_stdin=options.stop_with_stdin,
        handlers={"slow": slow, "quick": quick, "poison": poison, "deaf": deaf},
        chores=(),
    )


if __name__ == "__main__":
    sys.exit(main())

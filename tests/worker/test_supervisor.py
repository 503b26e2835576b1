"""The supervisor's treatment of a process; acceptance/ tests it with real workers."""

import os
import sys
from pathlib import Path

import pytest

from app.jobs import queue
from app.settings import Settings
from app.storage.database import Database
from app.worker import supervisor as supervision
from app.worker.supervisor import SupervisedWorker
from tests.jobs.jobs import add, look
from tests.jobs.waiting import wait_until

CHILD = """
import os, sys
with open(f"{sys.argv[2]}.part", "w") as file:
    file.write(os.environ["HARMONIUM_JOB_MAX_ATTEMPTS"])
os.rename(f"{sys.argv[2]}.part", f"{sys.argv[2]}.started")
if os.path.exists("die"):
    sys.exit(7)
sys.stdin.read()
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("ready", "w")
time.sleep(60)
"""


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, shutdown_grace_seconds=0.1, job_max_attempts=17)


def test_a_dead_workers_jobs_are_freed_at_once_and_it_is_started_again(
    database: Database, settings: Settings
) -> None:
    Path("die").touch()
    supervisor = SupervisedWorker(settings, database, [sys.executable, "-c", CHILD])
    job_id = add(database)
    with database.writing() as session:
        queue.claim(session, ["training"], f"{supervisor.name}-1")
    supervisor.start()
    wait_until(lambda: look(database, job_id).state == "queued")
    Path("die").unlink()
    wait_until(lambda: Path(f"{supervisor.name}-2.started").exists())
    assert Path(f"{supervisor.name}-2.started").read_text() == "17"
    pid = supervisor.pid
    assert pid is not None
    supervisor.stop()
    assert supervisor.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_worker_that_will_not_stop_is_killed(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "BEYOND_GRACE", 0.1)
    supervisor = SupervisedWorker(settings, database, [sys.executable, "-c", STUBBORN])
    supervisor.start()
    wait_until(lambda: Path("ready").exists())
    supervisor.stop()
    assert supervisor.pid is None


def test_a_command_that_cannot_be_started_is_tried_again_and_can_be_stopped(
    database: Database, settings: Settings
) -> None:
    supervisor = SupervisedWorker(settings, database, ["/no/such/program"])
    supervisor.start()
    supervisor.stop()
    assert supervisor.pid is None

"""Faults of real worker processes: killed, paused and stopped.

Each test runs on SQLite and on PostgreSQL. Times are shortened by settings; nothing
else differs from the worker that people run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.jobs import queue as jobs
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Job, User
from app.worker.liveness import is_alive
from app.worker.supervisor import NICENESS, SupervisedWorker

pytestmark = pytest.mark.acceptance

PROGRAM = str(Path(__file__).with_name("slow_worker.py"))
RACER = str(Path(__file__).with_name("racer.py"))
PATIENCE = 120.0  # seconds until a test gives up waiting
GRACE = 4.0  # seconds

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "DATABASE_URL": database_url,
        "SPOOL_DIR": str(tmp_path / "spool"),
        "WORKER_POLL_SECONDS": "0.05",
        "HEARTBEAT_SECONDS": "0.2",
        "RESCUE_AFTER_SECONDS": "2.0",
        "SHUTDOWN_GRACE_SECONDS": str(GRACE),
    }.items():
        monkeypatch.setenv(f"HARMONIUM_{name}", value)
    return Settings()


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    """Starts a worker process; whatever is left of it at the end is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen([sys.executable, PROGRAM, *arguments], stdin=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def wait_until(condition: Callable[[], object], within: float = PATIENCE) -> float:
    """Wait for the condition; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - began


def add(database: Database, kind: str, *, max_attempts: int = 9, **payload: Any) -> int:
    with database.writing() as session:
        return jobs.enqueue(session, kind, payload, max_attempts=max_attempts)[0].job_id


def look(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return jobs.get(session, job_id)


def is_held_by(database: Database, job_id: int, worker: str) -> bool:
    job = look(database, job_id)
    return job.state == "running" and job.worker == worker and job.heartbeat > 0


def has_ended(database: Database, job_id: int) -> bool:
    return look(database, job_id).state in ("succeeded", "failed", "cancelled")


def effects(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(User.user_id).order_by(User.user_key)))


def test_a_killed_workers_job_is_taken_over_and_has_one_effect(
    database: Database, settings: Settings, start: Start
) -> None:
    job_id = add(database, "slow", seconds=1.0)
    victim = start("--name", "victim")
    wait_until(lambda: is_held_by(database, job_id, "victim"))
    victim.kill()
    victim.wait()
    start("--name", "heir")
    wait_until(lambda: has_ended(database, job_id))
    job = look(database, job_id)
    assert (job.state, job.worker) == ("succeeded", "heir")
    assert job.attempt >= 2
    assert effects(database) == [f"effect-{job_id}-{job.attempt}"]


def test_a_killed_worker_under_supervision_is_replaced_at_once(
    database: Database, settings: Settings
) -> None:
    # So long that only the supervisor can have freed the job.
    settings = settings.model_copy(update={"rescue_after_seconds": 600.0})
    supervisor = SupervisedWorker(settings, database, [sys.executable, PROGRAM])
    supervisor.start()
    try:
        job_id = add(database, "slow", seconds=0.5)
        wait_until(lambda: is_held_by(database, job_id, f"{supervisor.name}-1"))
        pid = supervisor.pid
        assert pid is not None
        priorities = {
            os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in Path(f"/proc/{pid}/task").glob("*")
        }
        assert priorities <= {NICENESS}  # of BLAS's threads, too
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: look(database, job_id).worker != f"{supervisor.name}-1", within=3.0)
        wait_until(lambda: has_ended(database, job_id))
        job = look(database, job_id)
        assert (job.state, job.attempt, job.failures) == ("succeeded", 2, 1)
        assert job.worker == f"{supervisor.name}-2"
        assert effects(database) == [f"effect-{job_id}-2"]
    finally:
        supervisor.stop()


def test_a_worker_paused_beyond_its_lease_is_refused_when_it_wakes(
    database: Database, settings: Settings, start: Start
) -> None:
    job_id = add(database, "slow", seconds=1.0)
    sleeper = start("--name", "sleeper")
    wait_until(lambda: is_held_by(database, job_id, "sleeper"))
    sleeper.send_signal(signal.SIGSTOP)
    start("--name", "heir")
    wait_until(lambda: has_ended(database, job_id))
    after = look(database, job_id)
    sleeper.send_signal(signal.SIGCONT)
    # The sleeper's own work takes a moment yet, and it must still be of use afterwards.
    next_ids = [add(database, "slow", seconds=1.0) for _ in range(3)]
    wait_until(lambda: all(has_ended(database, each) for each in next_ids))
    job = look(database, job_id)
    assert (job.state, job.worker, job.finished_at) == ("succeeded", "heir", after.finished_at)
    assert "sleeper" in {look(database, each).worker for each in next_ids}
    assert sleeper.poll() is None
    assert len(effects(database)) == 4
    assert len([effect for effect in effects(database) if effect.startswith(f"effect-{job_id}-")]) == 1


def test_a_job_that_kills_its_worker_fails_and_the_queue_goes_on(
    database: Database, settings: Settings
) -> None:
    poison = add(database, "poison", max_attempts=2)
    healthy = add(database, "quick")
    supervisor = SupervisedWorker(settings, database, [sys.executable, PROGRAM])
    supervisor.start()
    try:
        wait_until(lambda: has_ended(database, poison) and has_ended(database, healthy))
    finally:
        supervisor.stop()
    job = look(database, poison)
    assert (job.state, job.attempt, job.failures) == ("failed", 2, 2)
    assert "failed attempt 2 of 2" in (job.error or "")
    assert look(database, healthy).state == "succeeded"


def test_twenty_processes_that_race_for_200_jobs_have_one_winner_each(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    with database.writing() as session:
        expected = {jobs.enqueue(session, "quick", {})[0].job_id for _ in range(200)}
    gun = tmp_path / "start"
    racers = [
        subprocess.Popen([sys.executable, RACER, database_url, f"racer{number}", str(gun)])
        for number in range(20)
    ]
    try:
        wait_until(lambda: len(list(tmp_path.glob("start.racer*"))) == 20)
        gun.touch()
        for racer in racers:
            assert racer.wait(PATIENCE) == 0
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
    winners = [effect.split("-") for effect in effects(database)]
    assert sorted(int(job_id) for _, job_id, _, _ in winners) == sorted(expected)
    assert {attempt for _, _, attempt, _ in winners} == {"1"}
    assert len({winner for _, _, _, winner in winners}) > 1


@pytest.mark.parametrize("kind", ["slow", "deaf"])
def test_a_worker_told_to_stop_gives_its_job_back_and_exits_in_time(
    database: Database, settings: Settings, start: Start, kind: str
) -> None:
    job_id = add(database, kind, seconds=60, max_attempts=1)
    worker = start("--name", "stopped")
    wait_until(lambda: is_held_by(database, job_id, "stopped"))
    wait_until(lambda: is_alive(settings))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(GRACE) == 0
    job = look(database, job_id)
    assert (job.state, job.attempt, job.failures) == ("queued", 1, 0)
    assert effects(database) == []
    assert not is_alive(settings)


def test_a_worker_stops_when_its_supervisor_is_gone(
    database: Database, settings: Settings, start: Start
) -> None:
    job_id = add(database, "slow", seconds=60)
    worker = start("--name", "orphan", "--stop-with-stdin")
    wait_until(lambda: is_held_by(database, job_id, "orphan"))
    assert worker.stdin is not None
    worker.stdin.close()  # as the system does when a supervisor dies, in whatever way
    assert worker.wait(GRACE) == 0
    assert look(database, job_id).state == "queued"


def test_clocks_hours_apart_neither_steal_nor_stick_a_job(
    database: Database, settings: Settings, start: Start
) -> None:
    start("--name", "ahead", "--clock-offset", "3600")
    start("--name", "behind", "--clock-offset", "-3600")
    wait_until(lambda: len(list((settings.spool_dir / "workers").glob("*.json"))) == 2)
    # Longer than it takes to rescue a job: a rescuer by the wall clock would take
    # it.
    job_ids = [add(database, "slow", seconds=3.0) for _ in range(2)]
    wait_until(lambda: all(has_ended(database, job_id) for job_id in job_ids))
    assert sorted(effects(database)) == [f"effect-{job_id}-1" for job_id in job_ids]
    assert {look(database, job_id).worker for job_id in job_ids} == {"ahead", "behind"}

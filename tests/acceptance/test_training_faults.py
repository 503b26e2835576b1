"""Faults of real fits: killed, stopped and cancelled in the middle of an epoch.

Each test runs on SQLite and on PostgreSQL, with the service or the worker as people
start them.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from app.jobs import queue as jobs
from app.model_versions import activation, store
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import ModelVersion
from app.training import requests as training_runs
from tests.acceptance.service import Service
from tests.tastes import store_tastes, train_version

pytestmark = pytest.mark.acceptance

PROGRAM = str(Path(__file__).with_name("failing_worker.py"))
PATIENCE = 120.0  # seconds
LONG = {"epochs": 100_000, "hidden_units": 20}


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in {
        "DATABASE_URL": database_url,
        "SPOOL_DIR": str(tmp_path / "spool"),
        "WORKER_POLL_SECONDS": "0.05",
        "HEARTBEAT_SECONDS": "0.2",
        "RESCUE_AFTER_SECONDS": "2.0",
        "SHUTDOWN_GRACE_SECONDS": "8",
    }.items():
        monkeypatch.setenv(f"HARMONIUM_{name}", value)
    return Settings()


def wait_for_end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()


def worker_pid(service: Service, number: int) -> int:
    """The process id of the service's n-th worker."""
    found: list[int] = []

    def has_started() -> bool:
        lines = [line for line in service.log.read_text().splitlines() if '"worker_process_started"' in line]
        found[:] = [int(line.split('"pid": ')[1].split(",")[0]) for line in lines]
        return len(found) >= number

    service.wait_until(has_started, PATIENCE)
    return found[number - 1]


def run_of(service: Service, path: str) -> dict[str, Any]:
    seen: dict[str, Any] = service.http.get(path).raise_for_status().json()
    return seen


def is_in_an_epoch(service: Service, path: str, attempt: int) -> bool:
    run = run_of(service, path)
    return run["state"] == "running" and run["attempt"] == attempt and len(run["epoch_reports"]) >= 2


def test_a_worker_killed_in_an_epoch_is_replaced_and_the_run_begins_anew(
    database: Database, tmp_path: Path
) -> None:
    store_tastes(database)
    with Service(tmp_path, str(database.engine.url.render_as_string(hide_password=False))) as service:
        path = service.http.post("/v1/admin/retrain", json=LONG).headers["Location"]
        service.wait_until(lambda: is_in_an_epoch(service, path, 1), PATIENCE)
        os.kill(worker_pid(service, 1), signal.SIGKILL)
        began = time.monotonic()
        service.wait_until(lambda: run_of(service, path)["attempt"] == 2, 40)
        assert time.monotonic() - began < 40
        service.wait_until(lambda: is_in_an_epoch(service, path, 2), PATIENCE)
        # Whatever the first attempt reported is not mixed with the second's.
        reports = run_of(service, path)["epoch_reports"]
        assert [one["epoch"] for one in reports] == list(range(1, len(reports) + 1))
        assert service.http.get("/health/ready").status_code == 200
        service.http.post(f"{path}/cancel").raise_for_status()
        assert service.finished(path, 20)["state"] == "cancelled"
        assert service.http.get("/v1/admin/model-versions").json()["items"] == []


@pytest.mark.parametrize("failpoint", ["store:1", "activate:1", "prune:1", "finish:1", "commit:6"])
def test_whenever_the_worker_is_killed_the_active_version_loads_and_the_run_has_one_result(
    database: Database, settings: Settings, failpoint: str
) -> None:
    store_tastes(database)
    first = train_version(database, settings, epochs=3)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"epochs": 3, "hidden_units": 20, "seed": 5}, settings)
    run_id = view.id
    killed = wait_for_end(subprocess.Popen([sys.executable, PROGRAM, failpoint], stdin=subprocess.DEVNULL))
    assert killed == -signal.SIGKILL
    with database.reading() as session:
        pointer = activation.active(session)
        assert pointer is not None
        store.load(session, pointer.version)  # its checksum is right
        state = jobs.get(session, view.job_id).state
        n_versions = session.scalar(select(func.count()).select_from(ModelVersion))
    # All or nothing: the version, its activation and the job's end are one transaction.
    assert (state, n_versions) in {("queued", 1), ("running", 1), ("succeeded", 2)}
    if state != "succeeded":
        assert pointer.version == first
    heir = subprocess.Popen([sys.executable, "-m", "app", "worker", "--name", "heir"])
    try:
        deadline = time.monotonic() + PATIENCE
        while state in ("queued", "running"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
            with database.reading() as session:
                state = jobs.get(session, view.job_id).state
    finally:
        heir.send_signal(signal.SIGTERM)
        assert heir.wait(PATIENCE) == 0
    with database.reading() as session:
        done = training_runs.get(session, run_id)
        pointer = activation.active(session)
        made = session.scalars(select(ModelVersion.version).where(ModelVersion.run_id == run_id)).all()
        assert pointer is not None
        store.load(session, pointer.version)
    assert (done.state, list(made)) == ("succeeded", [done.model_version])
    assert pointer.version == done.model_version


def test_a_worker_told_to_stop_in_an_epoch_gives_the_run_back_and_exits_in_time(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    with database.writing() as session:
        view, _ = training_runs.request(session, LONG, settings)
    worker = subprocess.Popen([sys.executable, "-m", "app", "worker", "--name", "stopped"])
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with database.reading() as session:
                if len(training_runs.with_reports(session, view.id).epoch_reports) > 2:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(settings.shutdown_grace_seconds + 2) == 0
    finally:
        worker.kill()
        worker.wait()
    with database.reading() as session:
        job = jobs.get(session, view.job_id)
    assert (job.state, job.attempt, job.failures) == ("queued", 1, 0)


def test_a_cancelled_run_stops_within_seconds_is_heard_to_the_end_and_keeps_its_reports(
    database: Database, tmp_path: Path
) -> None:
    store_tastes(database)
    url = str(database.engine.url.render_as_string(hide_password=False))
    with Service(tmp_path, url, database_pool_size=4) as service:
        path = service.http.post("/v1/admin/retrain", json=LONG).headers["Location"]
        # More listeners than the service has connections and threads.
        heard: list[list[str]] = [[] for _ in range(60)]

        def listen(lines: list[str]) -> None:
            with (
                httpx2.Client(base_url=service.http.base_url, timeout=PATIENCE) as http,
                http.stream("GET", f"{path}/events") as answer,
            ):
                assert answer.headers["content-type"].startswith("text/event-stream")
                for line in answer.iter_lines():
                    lines.append(line)

        listeners = [threading.Thread(target=listen, args=(lines,)) for lines in heard]
        for listener in listeners:
            listener.start()
        service.wait_until(lambda: is_in_an_epoch(service, path, 1), PATIENCE)
        # Others are served meanwhile.
        assert service.http.get("/v1/popular").status_code == 200
        service.wait_until(
            lambda: all(sum(line == "event: epoch" for line in lines) > 2 for lines in heard), PATIENCE
        )
        began = time.monotonic()
        service.http.post(f"{path}/cancel").raise_for_status()
        assert service.finished(path, 20)["state"] == "cancelled"
        assert time.monotonic() - began < 10
        for listener in listeners:
            listener.join(PATIENCE)
            assert not listener.is_alive()
        n_reports = len(run_of(service, path)["epoch_reports"])
        assert n_reports > 2
        for lines in heard:
            assert sum(line == "event: epoch" for line in lines) == n_reports
            assert lines.count("event: end") == 1


def test_listeners_end_when_the_service_stops_and_go_on_at_the_next(
    database: Database, tmp_path: Path
) -> None:
    store_tastes(database)
    url = str(database.engine.url.render_as_string(hide_password=False))
    lines: list[str] = []
    with Service(tmp_path, url) as service:
        path = service.http.post("/v1/admin/retrain", json=LONG).headers["Location"]
        with service.http.stream("GET", f"{path}/events") as answer:
            for line in answer.iter_lines():
                lines.append(line)
                if lines.count("event: epoch") == 3:
                    service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        assert "event: end" not in lines
    last = next(line.removeprefix("id: ") for line in reversed(lines) if line.startswith("id: "))
    attempt, epoch = last.split(".")[:2]
    with Service(tmp_path, url) as service:
        with service.http.stream("GET", f"{path}/events", headers={"Last-Event-ID": last}) as answer:
            first = [line for line, _ in zip(answer.iter_lines(), range(12), strict=False)]
        assert "event: state" in first  # the attempt has risen, or the state has
        state = next(line for line in first if line.startswith("data: "))
        assert f'"attempt":{attempt}' in state or f'"attempt":{int(attempt) + 1}' in state
        assert int(epoch) >= 3
        service.http.post(f"{path}/cancel").raise_for_status()
        service.finished(path, 30)


def test_a_file_is_imported_while_a_fit_goes_on(database: Database, tmp_path: Path) -> None:
    store_tastes(database)
    url = str(database.engine.url.render_as_string(hide_password=False))
    with Service(tmp_path, url) as service:
        path = service.http.post("/v1/admin/retrain", json=LONG).headers["Location"]
        service.wait_until(lambda: is_in_an_epoch(service, path, 1), PATIENCE)
        rows = "userId,movieId,rating\n" + "".join(f"u{n},m{n % 9},4\n" for n in range(200))
        made = service.http.post("/v1/imports", content=rows.encode()).json()
        assert service.finished(f"/v1/imports/{made['id']}", 60)["state"] == "succeeded"
        assert run_of(service, path)["state"] == "running"
        service.http.post(f"{path}/cancel").raise_for_status()
        assert service.finished(path, 20)["state"] == "cancelled"


def test_the_schedule_retrains_a_running_service(database: Database, tmp_path: Path) -> None:
    url = str(database.engine.url.render_as_string(hide_password=False))
    with Service(tmp_path, url, retrain_after_ratings=300) as service:
        store_tastes(database)
        service.wait_until(
            lambda: service.http.get("/v1/admin").json()["active_version"] is not None, PATIENCE
        )
        standing = service.http.get("/v1/admin").json()
        assert standing["active_version"]["changes_since"] == 0
        assert standing["schedule"]["next_run"]["is_warm_start"]
        (run,) = service.http.get("/v1/admin/training-runs").json()["items"]
        assert (run["trigger"], run["state"]) == ("schedule", "succeeded")

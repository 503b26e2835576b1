"""The worker's loop and the supervisor, on SQLite and on PostgreSQL; real kills are in acceptance/."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from app import jobs
from app.database import Database
from app.errors import Conflict, InvalidInput, LostJob, NotFound, Unavailable
from app.jobs import HeldJob
from app.settings import Settings
from app.signs_of_life import SignOfLife, is_alive
from app.tables import Job, User
from app.worker import Handler, SupervisedWorker, Worker, usable_cores

PATIENCE = 20.0  # seconds until a test gives up waiting


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A worker in a hurry."""
    return Settings(
        database_url=database_url,
        spool_dir=tmp_path / "spool",
        worker_poll_seconds=0.02,
        heartbeat_seconds=0.1,
        rescue_after_seconds=2.0,
        shutdown_grace_seconds=1.0,
    )


def add(database: Database, kind: str = "work", **options: Any) -> int:
    with database.writing() as session:
        return jobs.enqueue(session, kind, {"kind": kind}, **options)[0].job_id


def look(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return jobs.get(session, job_id)


def has_succeeded(database: Database, job_id: int) -> bool:
    return look(database, job_id).state == "succeeded"


def until_checked(held: HeldJob) -> None:
    """Work until told to stop, as a fit does."""
    while True:
        held.check(0.5)
        time.sleep(0.01)


class Running:
    """A worker in a thread."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.thread = threading.Thread(target=worker.run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.worker.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def start(database: Database, settings: Settings) -> Iterator[Callable[[Handler], Running]]:
    running: list[Running] = []

    def start(handler: Handler) -> Running:
        running.append(Running(Worker(database, settings, {"work": handler})))
        return running[-1]

    yield start
    for each in running:
        each.stop()


class TestOutcomes:
    def run(self, database: Database, settings: Settings, handler: Handler, **options: Any) -> Job:
        job_id = add(database, **options)
        Worker(database, settings, {"work": handler}).run(until_idle=True)
        return look(database, job_id)

    def test_what_the_handler_returns_is_the_jobs_result(
        self, database: Database, settings: Settings
    ) -> None:
        def handler(held: HeldJob, _database: Database, _settings: Settings) -> dict[str, Any]:
            held.log("half way")
            held.check(0.5)
            return {"kind": held.payload["kind"]}

        job = self.run(database, settings, handler)
        assert (job.state, job.progress, job.result) == ("succeeded", 1.0, {"kind": "work"})
        with database.reading() as session:
            assert [line.message for line in jobs.log_lines(session, job.job_id)] == ["half way"]

    def test_a_handler_may_end_the_job_together_with_its_effect(
        self, database: Database, settings: Settings
    ) -> None:
        def handler(held: HeldJob, database: Database, _settings: Settings) -> dict[str, Any]:
            with database.writing() as session:
                session.add(User(user_id="effect", created_at=jobs.now()))
                held.finish(session, result={"by": "handler"})
            held.log("afterwards")
            return {"by": "worker"}

        job = self.run(database, settings, handler)
        assert (job.state, job.result) == ("succeeded", {"by": "handler"})
        with database.reading() as session:
            assert [line.message for line in jobs.log_lines(session, job.job_id)] == ["afterwards"]

    def test_a_refusal_fails_the_job_at_once_with_its_reason(
        self, database: Database, settings: Settings
    ) -> None:
        def handler(*_: object) -> None:
            raise InvalidInput("That is no file of ratings.")

        job = self.run(database, settings, handler)
        assert (job.state, job.attempt, job.error) == ("failed", 1, "That is no file of ratings.")

    @pytest.mark.parametrize(
        ("trouble", "reason"),
        [
            (Unavailable("The database is away."), "The database is away."),
            (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
            (SystemExit(3), "SystemExit: 3"),
        ],
    )
    def test_trouble_is_tried_again_later(
        self, database: Database, settings: Settings, trouble: BaseException, reason: str
    ) -> None:
        def handler(*_: object) -> None:
            raise trouble

        job = self.run(database, settings, handler)
        assert (job.state, job.failures, job.error) == ("queued", 1, reason)
        assert job.run_after is not None
        assert job.run_after - jobs.now() < timedelta(seconds=2)

    def test_trouble_fails_the_job_when_no_attempt_is_left(
        self, database: Database, settings: Settings
    ) -> None:
        def handler(*_: object) -> None:
            raise Unavailable("The database is away.")

        assert self.run(database, settings, handler, max_attempts=1).state == "failed"

    def test_a_result_that_no_database_can_hold_is_the_handlers_failure(
        self, database: Database, settings: Settings
    ) -> None:
        def handler(*_: object) -> dict[str, Any]:
            return {"score": float("nan")}

        job = self.run(database, settings, handler, max_attempts=1)
        assert (job.state, job.result) == ("failed", None)
        assert "ValueError" in (job.error or "")

    def test_a_job_taken_over_meanwhile_is_left_to_its_new_holder(
        self, database: Database, settings: Settings
    ) -> None:
        worker = Worker(database, settings, {}, name="first")

        def handler(held: HeldJob, database: Database, _settings: Settings) -> dict[str, Any]:
            with database.writing() as session:
                jobs.rescue_from(session, "first")
                jobs.claim(session, ["work"], "second")
            with pytest.raises(LostJob):
                until_checked(held)
            return {"by": "first"}  # a handler that will not listen

        worker.handlers["work"] = handler
        job = worker.run_job(add(database))
        assert (job.state, job.attempt, job.worker, job.result) == ("running", 2, "second", None)

    def test_the_end_of_a_job_is_stored_even_if_the_database_is_away_for_a_while(
        self, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = iter([Unavailable("away"), Unavailable("away")])
        finish = jobs.finish

        def unreliable_finish(*positional: Any, **named: Any) -> Job:
            for failure in failures:
                raise failure
            return finish(*positional, **named)

        monkeypatch.setattr(jobs, "finish", unreliable_finish)
        assert self.run(database, settings, lambda *_: {"a": 1}).state == "succeeded"

    def test_a_heartbeat_that_fails_is_tried_again(
        self, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = iter([Unavailable("away"), RuntimeError("odd")])
        beat = HeldJob.beat

        def unreliable_beat(held: HeldJob) -> None:
            for failure in failures:
                raise failure
            beat(held)

        def handler(held: HeldJob, database: Database, _settings: Settings) -> None:
            wait_until(lambda: look(database, held.job_id).heartbeat > 1)

        monkeypatch.setattr(HeldJob, "beat", unreliable_beat)
        assert self.run(database, settings, handler).state == "succeeded"

    def test_the_blas_threads_are_those_of_the_settings(self, database: Database, settings: Settings) -> None:
        seen: list[int] = []
        np.dot(np.ones((2, 2)), np.ones((2, 2)))  # a BLAS that is not loaded has no threads

        def handler(*_: object) -> None:
            info = threadpool_info()
            seen.extend(pool["num_threads"] for pool in info if pool["user_api"] == "blas")

        for threads in (1, 0):
            self.run(database, settings.model_copy(update={"training_threads": threads}), handler)
        assert set(seen) <= {1, usable_cores()}
        assert seen[0] == 1


class TestLoop:
    def test_kinds_take_turns_and_within_a_kind_the_oldest_goes_first(
        self, database: Database, settings: Settings
    ) -> None:
        order: list[tuple[str, int]] = []

        def handler(held: HeldJob, _database: Database, _settings: Settings) -> None:
            order.append((held.kind, held.job_id))

        imports = [add(database, "import") for _ in range(4)]
        trainings = [add(database, "training") for _ in range(2)]
        Worker(database, settings, {"import": handler, "training": handler}).run(until_idle=True)
        assert [kind for kind, _ in order] == ["import", "training", "import", "training", "import", "import"]
        assert [job_id for kind, job_id in order if kind == "import"] == imports
        assert [job_id for kind, job_id in order if kind == "training"] == trainings

    def test_a_long_job_in_one_lane_holds_up_no_other_lane(
        self, database: Database, settings: Settings
    ) -> None:
        handlers: dict[str, Handler] = {
            "training": lambda held, *_: until_checked(held),
            "import": lambda *_: None,
        }
        long = add(database, "training")
        running = Running(Worker(database, settings, handlers, lanes=[["training"], ["import"]]))
        try:
            wait_until(lambda: look(database, long).state == "running")
            for _ in range(3):
                wait_until(partial(has_succeeded, database, add(database, "import")))
            assert look(database, long).state == "running"
        finally:
            running.stop()
        assert look(database, long).state == "queued"

    def test_a_lane_that_breaks_stops_the_worker(
        self, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(jobs, "due_kinds", broken)
        worker = Worker(
            database, settings, {"a": lambda *_: None, "b": lambda *_: None}, lanes=[["a"], ["b"]]
        )
        with pytest.raises(ZeroDivisionError):
            worker.run()

    def test_jobs_are_found_while_the_worker_waits(
        self, database: Database, start: Callable[[Handler], Running]
    ) -> None:
        start(lambda *_: None)
        for _ in range(2):
            job_id = add(database)
            wait_until(partial(has_succeeded, database, job_id))

    def test_a_cancelled_job_stops_within_a_heartbeat(
        self, database: Database, start: Callable[[Handler], Running]
    ) -> None:
        start(lambda held, *_: until_checked(held))
        job_id = add(database)
        wait_until(lambda: look(database, job_id).progress == 0.5)
        with database.writing() as session:
            jobs.request_cancel(session, job_id)
        wait_until(lambda: look(database, job_id).state == "cancelled")

    def test_a_stopping_worker_gives_its_job_back(
        self, database: Database, start: Callable[[Handler], Running]
    ) -> None:
        running = start(lambda held, *_: until_checked(held))
        job_id = add(database)
        wait_until(lambda: look(database, job_id).state == "running")
        running.stop()
        job = look(database, job_id)
        assert (job.state, job.attempt, job.failures) == ("queued", 1, 0)
        assert not running.worker.has_abandoned_a_handler

    def test_a_handler_that_never_looks_up_loses_its_job_within_the_grace_time(
        self, database: Database, start: Callable[[Handler], Running]
    ) -> None:
        forgotten = threading.Event()
        refused: list[bool] = []

        def handler(held: HeldJob, database: Database, _settings: Settings) -> None:
            forgotten.wait(PATIENCE)
            try:
                with database.writing() as session:
                    held.fence(session)
            except LostJob:
                refused.append(True)
                raise

        running = start(handler)
        job_id = add(database)
        wait_until(lambda: look(database, job_id).state == "running")
        stopped_at = time.monotonic()
        running.stop()
        assert time.monotonic() - stopped_at < 5.0
        assert running.worker.has_abandoned_a_handler
        assert look(database, job_id).state == "queued"
        forgotten.set()
        wait_until(lambda: refused)

    def test_one_worker_takes_over_from_another_that_no_longer_beats(
        self, database: Database, start: Callable[[Handler], Running]
    ) -> None:
        job_id = add(database)
        with database.writing() as session:
            jobs.claim(session, ["work"], "dead")
        start(lambda *_: {"by": "successor"})
        wait_until(lambda: look(database, job_id).state == "succeeded")
        assert look(database, job_id).attempt == 2

    def test_a_database_that_is_away_is_waited_for(
        self,
        database: Database,
        start: Callable[[Handler], Running],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        failures = iter([Unavailable("away")] * 2)
        claim = jobs.claim

        def unreliable_claim(*positional: Any, **named: Any) -> Job | None:
            for failure in failures:
                raise failure
            return claim(*positional, **named)

        monkeypatch.setattr(jobs, "claim", unreliable_claim)
        job_id = add(database)
        start(lambda *_: None)
        wait_until(lambda: look(database, job_id).state == "succeeded")

    def test_a_database_without_tables_is_waited_for(self, empty_database_url: str, tmp_path: Path) -> None:
        settings = Settings(database_url=empty_database_url, spool_dir=tmp_path)
        database = Database(empty_database_url)
        worker = Worker(database, settings, {})
        waiting = threading.Thread(target=worker.wait_for_database, daemon=True)
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        database.upgrade()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
        database.close()


class TestForeground:
    def test_one_given_job_is_run_with_its_progress(self, database: Database, settings: Settings) -> None:
        other = add(database)
        job_id = add(database)
        shown: list[float] = []

        def handler(held: HeldJob, _database: Database, _settings: Settings) -> dict[str, Any]:
            for progress in (0.25, 0.75):
                held.check(progress)
                wait_until(partial(shown.count, progress))
            held.check(1.0)
            return {"ran": held.job_id}

        job = Worker(database, settings, {"work": handler}).run_job(job_id, shown.append)
        assert (job.state, job.result) == ("succeeded", {"ran": job_id})
        assert [progress for progress in shown if progress] == [0.25, 0.75, 1.0]
        assert look(database, other).state == "queued"
        assert not is_alive(settings)

    def test_a_job_that_someone_has_is_refused(self, database: Database, settings: Settings) -> None:
        job_id = add(database)
        with database.writing() as session:
            jobs.claim(session, ["work"], "quicker")
        worker = Worker(database, settings, {"work": lambda *_: None})
        with pytest.raises(Conflict, match="is running"):
            worker.run_job(job_id)
        with pytest.raises(NotFound):
            worker.run_job(job_id + 1)

    def test_an_interrupt_cancels_the_job(self, database: Database, settings: Settings) -> None:
        def interrupt(_progress: float) -> None:
            raise KeyboardInterrupt

        job_id = add(database)
        worker = Worker(database, settings, {"work": lambda held, *_: until_checked(held)})
        with pytest.raises(KeyboardInterrupt):
            worker.run_job(job_id, interrupt)
        assert look(database, job_id).state == "cancelled"


class TestSignOfLife:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(spool_dir=tmp_path)

    def test_a_worker_that_goes_round_is_alive_until_it_goes(self, settings: Settings) -> None:
        assert not is_alive(settings)
        sign = SignOfLife(settings, "a/b worker")
        sign.show()
        assert is_alive(settings)
        sign.remove()
        assert not is_alive(settings)

    @pytest.mark.parametrize(
        "change",
        [
            {"monotonic": time.monotonic() - 61},
            {"monotonic": time.monotonic() + 3600},
            {"host": "another"},
            {"pid": 2**22 + 1},
            {"monotonic": "x"},
        ],
    )
    def test_a_stale_or_foreign_sign_does_not_count(
        self, settings: Settings, change: dict[str, object]
    ) -> None:
        SignOfLife(settings, "w").show()
        (path,) = (settings.spool_dir / "workers").iterdir()
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert not is_alive(settings)

    def test_signs_of_workers_killed_long_ago_are_swept_away(self, settings: Settings) -> None:
        SignOfLife(settings, "killed").show()
        (path,) = (settings.spool_dir / "workers").iterdir()
        os.utime(path, (0, 0))
        SignOfLife(settings, "next")
        assert not path.exists()

    def test_a_folder_that_cannot_be_written_stops_nobody(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        sign = SignOfLife(Settings(spool_dir=tmp_path / "file"), "w")
        sign.show()
        sign.remove()


CHILD = """
import os, sys, time
open(f"{sys.argv[2]}.started", "w").write(os.environ["HARMONIUM_JOB_MAX_ATTEMPTS"])
if os.path.exists("die"):
    sys.exit(7)
sys.stdin.read()
"""


class TestSupervisor:
    """What the supervisor does with a process; the real worker under it is tested in acceptance/."""

    def test_a_dead_workers_jobs_are_freed_at_once_and_it_is_started_again(
        self, database: Database, settings: Settings
    ) -> None:
        Path("die").touch()
        settings = settings.model_copy(update={"job_max_attempts": 17})
        supervisor = SupervisedWorker(settings, database, [sys.executable, "-c", CHILD])
        job_id = add(database)
        with database.writing() as session:
            jobs.claim(session, ["work"], f"{supervisor.name}-1")
        supervisor.start()
        wait_until(lambda: look(database, job_id).state == "queued")
        Path("die").unlink()
        wait_until(lambda: Path(f"{supervisor.name}-2.started").exists())
        assert Path(f"{supervisor.name}-2.started").read_text() in ("", "17")
        pid = supervisor.pid
        assert pid is not None
        supervisor.stop()
        assert supervisor.pid is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_a_worker_that_will_not_stop_is_killed(self, database: Database, settings: Settings) -> None:
        stubborn = (
            "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "open('ready', 'w'); time.sleep(60)"
        )
        supervisor = SupervisedWorker(settings, database, [sys.executable, "-c", stubborn])
        supervisor.start()
        wait_until(lambda: Path("ready").exists())
        supervisor.stop()
        assert supervisor.pid is None

    def test_a_command_that_cannot_be_started_is_tried_again_and_can_be_stopped(
        self, database: Database, settings: Settings
    ) -> None:
        supervisor = SupervisedWorker(settings, database, ["/no/such/program"])
        supervisor.start()
        supervisor.stop()
        assert supervisor.pid is None


def test_a_running_worker_sweeps_the_spool(database: Database, settings: Settings) -> None:
    quick = settings.model_copy(update={"heartbeat_seconds": 0.05})
    settings.spool_dir.mkdir(parents=True)
    abandoned = settings.spool_dir / f"import-{'0' * 32}"
    abandoned.write_bytes(b"half an upload")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(abandoned, (two_days_ago, two_days_ago))
    fresh = settings.spool_dir / f"import-{'1' * 32}"
    fresh.write_bytes(b"an upload that goes on")
    worker = Worker(database, quick, {})
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while abandoned.exists():
            assert time.monotonic() < deadline, "not swept"
            time.sleep(0.02)
    finally:
        worker.stop()
        thread.join()
    assert fresh.exists()

"""The worker's loop, on SQLite and on PostgreSQL; real kills are in acceptance/."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidInput, LostJob, Unavailable
from app.jobs import loop, queue
from app.jobs.held import HeldJob
from app.jobs.loop import Chore, Handler, Pauses, Worker
from app.jobs.rescuer import rescue_from
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Job, User
from tests.jobs.jobs import look
from tests.jobs.waiting import PATIENCE, wait_until


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """A worker in a hurry."""
    return Settings(
        database_url=database_url,
        spool_dir=tmp_path / "spool",
        worker_poll_seconds=0.01,
        heartbeat_seconds=0.05,
        rescue_after_seconds=0.4,
        shutdown_grace_seconds=0.4,
    )


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pauses, "longer", lambda _: 0.01)


def add(database: Database, kind: str = "work", **options: Any) -> int:
    with database.writing() as session:
        return queue.enqueue(session, kind, {"kind": kind}, **options).job.job_id


def has_succeeded(database: Database, job_id: int) -> bool:
    return look(database, job_id).state == "succeeded"


def until_checked(held: HeldJob) -> None:
    """Work until `check` raises, as a fit does."""
    while True:
        held.check(0.5)
        time.sleep(0.005)


def run_one(worker: Worker, job_id: int, on_progress: Callable[[float], None] | None = None) -> Job:
    """Claim this job and run it in this thread."""
    with worker.database.writing() as session:
        job = queue.claim(session, list(worker.handlers), worker.name, job_id=job_id)
    assert job is not None
    return worker.run_claimed(job, on_progress)


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
    for job in running:
        job.stop()


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
            assert [line.message for line in queue.log_lines(session, job.job_id)] == ["half way"]

    def test_a_handler_may_end_the_job_together_with_its_effect(
        self, database: Database, settings: Settings
    ) -> None:
        def handler(held: HeldJob, database: Database, _settings: Settings) -> dict[str, Any]:
            with database.writing() as session:
                session.add(User(user_id="effect", created_at=queue.now()))
                held.finish(session, result={"by": "handler"})
            held.log("afterwards")
            return {"by": "worker"}

        job = self.run(database, settings, handler)
        assert (job.state, job.result) == ("succeeded", {"by": "handler"})
        with database.reading() as session:
            assert [line.message for line in queue.log_lines(session, job.job_id)] == ["afterwards"]

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
        assert job.run_after - queue.now() < timedelta(seconds=2)

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
                rescue_from(session, "first")
                queue.claim(session, ["work"], "second")
            with pytest.raises(LostJob):
                until_checked(held)
            return {"by": "first"}  # a handler that will not listen

        worker.handlers["work"] = handler
        job = run_one(worker, add(database))
        assert (job.state, job.attempt, job.worker, job.result) == ("running", 2, "second", None)

    def test_the_end_of_a_job_is_stored_even_if_the_database_is_away_for_a_while(
        self, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        failures = iter([Unavailable("away"), Unavailable("away")])
        finish = queue.finish

        def unreliable_finish(*positional: Any, **named: Any) -> Job:
            for failure in failures:
                raise failure
            return finish(*positional, **named)

        monkeypatch.setattr(queue, "finish", unreliable_finish)
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

    def test_a_long_job_of_one_queue_holds_up_no_other_queue(
        self, database: Database, settings: Settings
    ) -> None:
        handlers: dict[str, Handler] = {
            "training": lambda held, *_: until_checked(held),
            "import": lambda *_: None,
        }
        long = add(database, "training")
        running = Running(Worker(database, settings, handlers, exclusive=["training"]))
        try:
            wait_until(lambda: look(database, long).state == "running")
            for _ in range(3):
                wait_until(partial(has_succeeded, database, add(database, "import")))
            assert look(database, long).state == "running"
        finally:
            running.stop()
        assert look(database, long).state == "queued"

    def test_a_queue_that_breaks_stops_the_worker(
        self, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(queue, "due_kinds", broken)
        worker = Worker(database, settings, {"a": lambda *_: None, "b": lambda *_: None}, exclusive=["a"])
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
            queue.request_cancel(session, job_id)
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
            queue.claim(session, ["work"], "dead")
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
        claim = queue.claim

        def unreliable_claim(*positional: Any, **named: Any) -> Job | None:
            for failure in failures:
                raise failure
            return claim(*positional, **named)

        monkeypatch.setattr(queue, "claim", unreliable_claim)
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


class TestChores:
    def test_a_chore_is_repeated_and_outlives_errors(self, database: Database, settings: Settings) -> None:
        errors = iter([Unavailable("away"), ZeroDivisionError("odd")])
        done = threading.Event()

        def unreliable(_database: Database, _settings: Settings) -> None:
            for error in errors:
                raise error
            done.set()

        hourly: list[bool] = []
        chores = [
            Chore("hourly", 3600.0, lambda *_: hourly.append(True)),
            Chore("unreliable", 0.0, unreliable),
        ]
        quick = settings.model_copy(update={"heartbeat_seconds": 0.01})
        running = Running(Worker(database, quick, {"work": lambda *_: None}, chores=chores))
        try:
            assert done.wait(PATIENCE)
        finally:
            running.stop()
        assert hourly == [True]

    def test_a_worker_counts_as_alive_while_all_its_queues_go_round(
        self, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rounds = threading.Event()
        worker = Worker(database, settings, {"work": lambda *_: None}, on_round=rounds.set)
        running = Running(worker)
        try:
            assert rounds.wait(PATIENCE)
            monkeypatch.setattr(loop, "ROUND_WITHIN", -1.0)  # as if a queue's thread hung

            def no_longer() -> bool:
                rounds.clear()
                return not rounds.wait(0.1)

            wait_until(no_longer)
        finally:
            running.stop()


class TestForeground:
    def test_a_claimed_job_is_run_with_its_progress(self, database: Database, settings: Settings) -> None:
        other = add(database)
        job_id = add(database)
        reported: list[float] = []

        def handler(held: HeldJob, _database: Database, _settings: Settings) -> dict[str, Any]:
            for progress in (0.25, 0.75):
                held.check(progress)
                wait_until(partial(reported.count, progress))
            held.check(1.0)
            return {"ran": held.job_id}

        job = run_one(Worker(database, settings, {"work": handler}), job_id, reported.append)
        assert (job.state, job.result) == ("succeeded", {"ran": job_id})
        assert [progress for progress in reported if progress] == [0.25, 0.75, 1.0]
        assert look(database, other).state == "queued"

    def test_an_interrupt_cancels_the_job(self, database: Database, settings: Settings) -> None:
        def interrupt(_progress: float) -> None:
            raise KeyboardInterrupt

        job_id = add(database)
        worker = Worker(database, settings, {"work": lambda held, *_: until_checked(held)})
        with pytest.raises(KeyboardInterrupt):
            run_one(worker, job_id, interrupt)
        assert look(database, job_id).state == "cancelled"

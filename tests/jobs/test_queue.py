"""The queue, on SQLite and on PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.errors import Conflict, LostJob, NotFound
from app.jobs import queue
from app.jobs.rescuer import rescue_from
from app.storage.database import Database
from app.storage.tables import Job
from tests.jobs.clocks import WallClock
from tests.jobs.jobs import add, beat, end, look, take, take_one


@pytest.fixture
def busy_database(database_url: str) -> Iterator[Database]:
    """A database that twenty threads may use at once."""
    database = Database(database_url, pool_size=20, timeout=60)
    yield database
    database.close()


class TestEnqueue:
    def test_a_job_waits_as_it_was_requested(self, database: Database) -> None:
        with database.writing() as session:
            job, created = queue.enqueue(session, "import", {"rows": [1, "ä"]}, max_attempts=5)
        assert created
        result = look(database, job.job_id)
        assert (result.kind, result.state, result.payload) == ("import", "queued", {"rows": [1, "ä"]})
        assert (result.attempt, result.failures, result.max_attempts, result.progress) == (0, 0, 5, 0.0)

    def test_a_queued_job_with_the_same_key_is_joined(self, database: Database) -> None:
        with database.writing() as session:
            first, created = queue.enqueue(session, "training", {"epochs": 3}, dedupe_key="training")
            assert created
        with database.writing() as session:
            second, created = queue.enqueue(session, "training", {"epochs": 9}, dedupe_key="training")
            assert not created
            assert second.job_id == first.job_id
            assert second.payload == {"epochs": 3}

    def test_a_running_job_gets_one_follow_up(self, database: Database) -> None:
        running = add(database, dedupe_key="training")
        take_one(database)
        follow_up = add(database, dedupe_key="training")
        assert follow_up != running
        assert add(database, dedupe_key="training") == follow_up

    def test_without_a_key_every_job_is_its_own(self, database: Database) -> None:
        assert add(database) != add(database)

    def test_a_hundred_equal_requests_at_once_queue_one_job(self, busy_database: Database) -> None:
        def request(_: int) -> tuple[int, bool]:
            with busy_database.writing() as session:
                job, created = queue.enqueue(session, "training", {}, dedupe_key="training")
                return job.job_id, created

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(request, range(100)))
        assert len({job_id for job_id, _ in answers}) == 1
        assert [created for _, created in answers].count(True) == 1

    def test_equal_requests_while_a_worker_claims_never_queue_two(self, busy_database: Database) -> None:
        def request(number: int) -> None:
            if number % 10 == 0:
                take(busy_database)
            with busy_database.writing() as session:
                queue.enqueue(session, "training", {}, dedupe_key="training")
                queued = session.scalars(select(Job.job_id).where(Job.state == "queued")).all()
            assert len(queued) <= 1

        with ThreadPoolExecutor(10) as pool:
            list(pool.map(request, range(60)))


class TestClaim:
    def test_an_empty_queue_gives_nothing(self, database: Database) -> None:
        assert take(database) is None

    def test_the_oldest_job_comes_first(self, database: Database) -> None:
        added = [add(database) for _ in range(3)]
        assert [take_one(database).job_id for _ in range(3)] == added
        assert take(database) is None

    def test_a_claimed_job_shows_who_holds_it(self, database: Database) -> None:
        add(database)
        job = take_one(database, "worker-a")
        assert (job.state, job.attempt, job.worker, job.heartbeat) == ("running", 1, "worker-a", 0)
        assert job.started_at is not None

    def test_other_kinds_are_left_alone(self, database: Database) -> None:
        add(database, "cleaning")
        assert take(database) is None
        with database.reading() as session:
            assert queue.due_kinds(session, ["training", "import"]) == set()
            assert queue.due_kinds(session, ["cleaning", "import"]) == {"cleaning"}

    def test_a_chosen_job_can_be_claimed(self, database: Database) -> None:
        add(database)
        second = add(database)
        job = take(database, job_id=second)
        assert job is not None
        assert job.job_id == second
        assert take(database, job_id=second) is None

    def test_a_job_is_not_claimed_before_its_time(self, database: Database, wall: WallClock) -> None:
        add(database, run_after=wall() + timedelta(seconds=30))
        assert take(database) is None
        wall.jump(seconds=30)
        assert take(database) is not None

    def test_an_exclusive_kind_runs_one_job_at_a_time(self, database: Database) -> None:
        add(database)
        follow_up = add(database)
        imported = add(database, "import")
        only = {"exclusive": ["training"]}
        assert take(database, "one", **only) is not None
        with database.reading() as session:
            assert queue.due_kinds(session, ["training", "import"], **only) == {"import"}
        job = take(database, "two", **only)
        assert job is not None
        assert job.job_id == imported
        assert take(database, "two", **only) is None
        # A claim by its id passes that over.
        assert take(database, "two", job_id=follow_up, **only) is not None

    def test_twenty_workers_race_for_200_jobs_with_one_winner_each(self, busy_database: Database) -> None:
        with busy_database.writing() as session:
            expected = {queue.enqueue(session, "training", {}).job.job_id for _ in range(200)}
        start = threading.Barrier(20)

        def work(number: int) -> list[int]:
            start.wait()
            won: list[int] = []
            while True:
                with busy_database.writing() as session:
                    job = queue.claim(session, ["training"], f"w{number}")
                if job is None:
                    return won
                assert (job.attempt, job.worker) == (1, f"w{number}")
                won.append(job.job_id)

        with ThreadPoolExecutor(20) as pool:
            winners = Counter(job_id for won in pool.map(work, range(20)) for job_id in won)
        assert set(winners) == expected
        assert set(winners.values()) == {1}


class TestHolding:
    def test_a_heartbeat_counts_and_stores_progress(self, database: Database) -> None:
        add(database)
        job = take_one(database)
        with database.writing() as session:
            assert queue.heartbeat(session, job.job_id, job.attempt, 0.25) is False
        beat(database, job)
        result = look(database, job.job_id)
        assert (result.heartbeat, result.progress) == (2, 0.25)

    def test_success_is_complete_and_keeps_its_result(self, database: Database) -> None:
        add(database)
        job = take_one(database)
        with database.writing() as session:
            queue.finish(session, job.job_id, job.attempt, "succeeded", result={"version": 7})
        result = look(database, job.job_id)
        assert (result.state, result.progress, result.result, result.error) == (
            "succeeded",
            1.0,
            {"version": 7},
            None,
        )
        assert result.finished_at is not None

    @pytest.mark.parametrize(
        "action",
        [
            lambda session, job: queue.heartbeat(session, job.job_id, job.attempt),
            lambda session, job: queue.finish(session, job.job_id, job.attempt, "succeeded"),
            lambda session, job: queue.release(session, job.job_id, job.attempt),
            lambda session, job: queue.retry(session, job.job_id, job.attempt, "no"),
        ],
        ids=["heartbeat", "finish", "release", "retry"],
    )
    @pytest.mark.parametrize("meanwhile", ["ended", "taken over"])
    def test_a_worker_that_lost_the_job_is_refused(
        self, database: Database, action: Callable[..., object], meanwhile: str
    ) -> None:
        add(database)
        job = take_one(database)
        if meanwhile == "ended":
            end(database, job)
        else:
            with database.writing() as session:
                rescue_from(session, "w1")
            take_one(database, "w2")
        before = look(database, job.job_id)
        with pytest.raises(LostJob), database.writing() as session:
            action(session, job)
        after = look(database, job.job_id)
        assert (after.state, after.attempt, after.worker, after.heartbeat) == (
            before.state,
            before.attempt,
            before.worker,
            before.heartbeat,
        )

    def test_a_released_job_runs_again_at_once_and_it_costs_no_attempt(self, database: Database) -> None:
        add(database, max_attempts=1)
        for attempt in (1, 2, 3):
            job = take_one(database)
            assert job.attempt == attempt
            with database.writing() as session:
                released = queue.release(session, job.job_id, job.attempt)
            assert (released.state, released.failures, released.worker) == ("queued", 0, None)

    def test_a_failed_attempt_rests_ever_longer_until_none_is_left(
        self, database: Database, wall: WallClock
    ) -> None:
        job_id = add(database, max_attempts=3)
        for failures, rest in ((1, 2.0), (2, 4.0)):
            job = take_one(database)
            with database.writing() as session:
                waiting = queue.retry(session, job_id, job.attempt, "disk on fire")
            assert (waiting.state, waiting.failures, waiting.error) == ("queued", failures, "disk on fire")
            wall.jump(seconds=rest - 0.1)
            assert take(database) is None
            wall.jump(seconds=0.1)
        job = take_one(database)
        with database.writing() as session:
            failed = queue.retry(session, job_id, job.attempt, "disk on fire")
        assert (failed.state, failed.failures, failed.attempt, failed.error) == (
            "failed",
            3,
            3,
            "disk on fire",
        )
        assert failed.finished_at is not None

    def test_the_rest_never_grows_without_bound(self) -> None:
        assert [queue.backoff_seconds(n) for n in (0, 1, 2, 3, 100)] == [0.0, 2.0, 4.0, 8.0, 60.0]

    @pytest.mark.parametrize("way", ["release", "retry", "rescue"])
    def test_a_job_that_comes_back_beside_its_follow_up_runs_first(
        self, database: Database, wall: WallClock, way: str
    ) -> None:
        first = add(database, dedupe_key="training")
        job = take_one(database)
        follow_up = add(database, dedupe_key="training")
        with database.writing() as session:
            if way == "release":
                queue.release(session, first, job.attempt)
            elif way == "retry":
                queue.retry(session, first, job.attempt, "no")
            else:
                rescue_from(session, "w1")
        assert add(database, dedupe_key="training") == follow_up
        wall.jump(seconds=10)
        assert [take_one(database).job_id for _ in range(2)] == [first, follow_up]

    def test_a_message_that_postgresql_cannot_hold_is_stored_all_the_same(self, database: Database) -> None:
        job_id = add(database, max_attempts=1)
        job = take_one(database)
        with database.writing() as session:
            queue.log_line(session, job_id, 1, "a\0b \udc80")
            queue.retry(session, job.job_id, job.attempt, "x\0" * 20_000)
        assert len(look(database, job_id).error or "") < 10_010


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once(self, database: Database) -> None:
        job_id = add(database)
        with database.writing() as session:
            assert queue.request_cancel(session, job_id).state == "cancelled"
        assert take(database) is None
        assert look(database, job_id).finished_at is not None

    def test_the_holder_of_a_running_job_is_notified(self, database: Database) -> None:
        add(database)
        job = take_one(database)
        assert beat(database, job) is False
        with database.writing() as session:
            assert queue.request_cancel(session, job.job_id).state == "running"
        assert beat(database, job) is True
        end(database, job, "cancelled")
        assert look(database, job.job_id).state == "cancelled"

    @pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
    def test_an_ended_job_stays_as_it_is(self, database: Database, state: queue.FinalState) -> None:
        add(database)
        job = take_one(database)
        end(database, job, state)
        with pytest.raises(Conflict, match=f"has {state} already"), database.writing() as session:
            queue.request_cancel(session, job.job_id)
        assert look(database, job.job_id).state == state

    @pytest.mark.parametrize("way", ["release", "retry", "rescue"])
    def test_a_job_to_be_cancelled_is_not_queued_again(self, database: Database, way: str) -> None:
        add(database)
        job = take_one(database)
        with database.writing() as session:
            queue.request_cancel(session, job.job_id)
        with database.writing() as session:
            if way == "release":
                queue.release(session, job.job_id, job.attempt)
            elif way == "retry":
                queue.retry(session, job.job_id, job.attempt, "no")
            else:
                rescue_from(session, "w1")
        assert look(database, job.job_id).state == "cancelled"

    def test_a_job_that_is_not_there_is_not_found(self, database: Database) -> None:
        with database.writing() as session:
            with pytest.raises(NotFound):
                queue.request_cancel(session, 99)
            with pytest.raises(NotFound):
                queue.get(session, 99)


class TestPage:
    def test_jobs_are_listed_newest_first_and_filtered(self, database: Database) -> None:
        ids = [add(database, kind) for kind in ("import", "training", "import", "training", "import")]
        end(database, take_one(database))

        def listed(**filters: Any) -> list[int]:
            with database.reading() as session:
                return [job.job_id for job in queue.page(session, **filters).items]

        assert listed(limit=10) == ids[::-1]
        assert listed(limit=10, kind="training") == [ids[3], ids[1]]
        assert listed(limit=10, state="succeeded") == [ids[0]]
        assert listed(limit=10, state="queued", kind="import") == [ids[4], ids[2]]

    def test_pages_follow_one_another(self, database: Database) -> None:
        ids = [add(database) for _ in range(5)]
        seen: list[int] = []
        cursor = None
        with database.reading() as session:
            for last in (False, False, True):
                page = queue.page(session, limit=2, cursor=cursor)
                cursor = page.next_cursor
                seen += [job.job_id for job in page.items]
                assert (cursor is None) == last
        assert seen == ids[::-1]

    def test_log_lines_are_read_in_order_and_on_from_where_one_was(self, database: Database) -> None:
        job_id = add(database)
        with database.writing() as session:
            for number in range(4):
                queue.log_line(session, job_id, 1, f"line {number}", "warning")
        with database.reading() as session:
            first = queue.log_lines(session, job_id, limit=2)
            rest = queue.log_lines(session, job_id, after=first[-1].line_id)
        assert [line.message for line in first + rest] == [f"line {number}" for number in range(4)]
        assert {(line.level, line.attempt) for line in rest} == {("warning", 1)}

"""The queue, on SQLite and on PostgreSQL."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import jobs
from app.database import Database
from app.errors import Conflict, LostJob, NotFound
from app.jobs import HeldJob, JobCancelled, JobReleased, Rescuer
from app.tables import Job, User

RESCUE_AFTER = 20.0


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class WallClock:
    """What the machine believes the time to be."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def jump(self, **by: float) -> None:
        self.moment += timedelta(**by)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr(jobs, "now", clock)
    return clock


@pytest.fixture
def crowd(database_url: str) -> Iterator[Database]:
    """A database that twenty threads may use at once."""
    database = Database(database_url, pool_size=20, timeout=60)
    yield database
    database.close()


def add(database: Database, kind: str = "training", **options: Any) -> int:
    with database.writing() as session:
        job, _ = jobs.enqueue(session, kind, {"kind": kind}, **options)
        return job.job_id


def take(database: Database, worker: str = "w1", **options: Any) -> Job | None:
    with database.writing() as session:
        return jobs.claim(session, ["training", "import"], worker, **options)


def take_one(database: Database, worker: str = "w1") -> Job:
    job = take(database, worker)
    assert job is not None
    return job


def look(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return jobs.get(session, job_id)


def watch(database: Database, rescuer: Rescuer, clock: Clock, seconds: float) -> list[int]:
    """Let the rescuer look every second for so long; return what it took."""
    taken: list[int] = []
    for _ in range(int(seconds)):
        clock.seconds += 1.0
        with database.writing() as session:
            taken += rescuer.rescue(session)
    return taken


def beat(database: Database, job: Job) -> bool:
    with database.writing() as session:
        return jobs.heartbeat(session, job.job_id, job.attempt)


def end(database: Database, job: Job, state: jobs.FinalState = "succeeded") -> None:
    with database.writing() as session:
        jobs.finish(session, job.job_id, job.attempt, state)


class TestEnqueue:
    def test_a_job_waits_as_it_was_given(self, database: Database) -> None:
        with database.writing() as session:
            job, created = jobs.enqueue(session, "import", {"rows": [1, "ä"]}, max_attempts=5)
        assert created
        found = look(database, job.job_id)
        assert (found.kind, found.state, found.payload) == ("import", "queued", {"rows": [1, "ä"]})
        assert (found.attempt, found.failures, found.max_attempts, found.progress) == (0, 0, 5, 0.0)

    def test_a_queued_job_with_the_same_key_is_joined(self, database: Database) -> None:
        with database.writing() as session:
            first, created = jobs.enqueue(session, "training", {"epochs": 3}, dedupe_key="training")
            assert created
        with database.writing() as session:
            second, created = jobs.enqueue(session, "training", {"epochs": 9}, dedupe_key="training")
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

    def test_a_hundred_equal_requests_at_once_queue_one_job(self, crowd: Database) -> None:
        def request(_: int) -> tuple[int, bool]:
            with crowd.writing() as session:
                job, created = jobs.enqueue(session, "training", {}, dedupe_key="training")
                return job.job_id, created

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(request, range(100)))
        assert len({job_id for job_id, _ in answers}) == 1
        assert [created for _, created in answers].count(True) == 1

    def test_equal_requests_while_a_worker_claims_never_queue_two(self, crowd: Database) -> None:
        def request(number: int) -> None:
            if number % 10 == 0:
                take(crowd)
            with crowd.writing() as session:
                jobs.enqueue(session, "training", {}, dedupe_key="training")
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
            assert jobs.due_kinds(session, ["training", "import"]) == set()
            assert jobs.due_kinds(session, ["cleaning", "import"]) == {"cleaning"}

    def test_one_given_job_can_be_claimed(self, database: Database) -> None:
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

    def test_twenty_workers_race_for_200_jobs_with_one_winner_each(self, crowd: Database) -> None:
        with crowd.writing() as session:
            expected = {jobs.enqueue(session, "training", {})[0].job_id for _ in range(200)}
        start = threading.Barrier(20)

        def work(number: int) -> list[int]:
            start.wait()
            won: list[int] = []
            while True:
                with crowd.writing() as session:
                    job = jobs.claim(session, ["training"], f"w{number}")
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
            assert jobs.heartbeat(session, job.job_id, job.attempt, 0.25) is False
        beat(database, job)
        found = look(database, job.job_id)
        assert (found.heartbeat, found.progress) == (2, 0.25)

    def test_success_is_complete_and_keeps_its_result(self, database: Database) -> None:
        add(database)
        job = take_one(database)
        with database.writing() as session:
            jobs.finish(session, job.job_id, job.attempt, "succeeded", result={"version": 7})
        found = look(database, job.job_id)
        assert (found.state, found.progress, found.result, found.error) == (
            "succeeded",
            1.0,
            {"version": 7},
            None,
        )
        assert found.finished_at is not None

    @pytest.mark.parametrize(
        "action",
        [
            lambda session, job: jobs.heartbeat(session, job.job_id, job.attempt),
            lambda session, job: jobs.finish(session, job.job_id, job.attempt, "succeeded"),
            lambda session, job: jobs.release(session, job.job_id, job.attempt),
            lambda session, job: jobs.retry(session, job.job_id, job.attempt, "no"),
        ],
        ids=["heartbeat", "finish", "release", "retry"],
    )
    @pytest.mark.parametrize("meanwhile", ["ended", "taken over"])
    def test_whoever_lost_the_job_is_refused(
        self, database: Database, action: Callable[..., object], meanwhile: str
    ) -> None:
        add(database)
        job = take_one(database)
        if meanwhile == "ended":
            end(database, job)
        else:
            with database.writing() as session:
                jobs.rescue_from(session, "w1")
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
                released = jobs.release(session, job.job_id, job.attempt)
            assert (released.state, released.failures, released.worker) == ("queued", 0, None)

    def test_a_failed_attempt_rests_ever_longer_until_none_is_left(
        self, database: Database, wall: WallClock
    ) -> None:
        job_id = add(database, max_attempts=3)
        for failures, rest in ((1, 2.0), (2, 4.0)):
            job = take_one(database)
            with database.writing() as session:
                waiting = jobs.retry(session, job_id, job.attempt, "disk on fire")
            assert (waiting.state, waiting.failures, waiting.error) == ("queued", failures, "disk on fire")
            wall.jump(seconds=rest - 0.1)
            assert take(database) is None
            wall.jump(seconds=0.1)
        job = take_one(database)
        with database.writing() as session:
            failed = jobs.retry(session, job_id, job.attempt, "disk on fire")
        assert (failed.state, failed.failures, failed.attempt, failed.error) == (
            "failed",
            3,
            3,
            "disk on fire",
        )
        assert failed.finished_at is not None

    def test_the_rest_never_grows_without_bound(self) -> None:
        assert [jobs.backoff_seconds(n) for n in (0, 1, 2, 3, 100)] == [0.0, 2.0, 4.0, 8.0, 60.0]

    @pytest.mark.parametrize("way", ["release", "retry", "rescue"])
    def test_a_job_that_comes_back_beside_its_follow_up_runs_first(
        self, database: Database, wall: WallClock, way: str
    ) -> None:
        first = add(database, dedupe_key="training")
        job = take_one(database)
        follow_up = add(database, dedupe_key="training")
        with database.writing() as session:
            if way == "release":
                jobs.release(session, first, job.attempt)
            elif way == "retry":
                jobs.retry(session, first, job.attempt, "no")
            else:
                jobs.rescue_from(session, "w1")
        assert add(database, dedupe_key="training") == follow_up
        wall.jump(seconds=10)
        assert [take_one(database).job_id for _ in range(2)] == [first, follow_up]

    def test_a_message_that_postgresql_cannot_hold_is_stored_all_the_same(self, database: Database) -> None:
        job_id = add(database, max_attempts=1)
        job = take_one(database)
        with database.writing() as session:
            jobs.log_line(session, job_id, 1, "a\0b \udc80")
            jobs.retry(session, job.job_id, job.attempt, "x\0" * 20_000)
        assert len(look(database, job_id).error or "") < 10_010


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once(self, database: Database) -> None:
        job_id = add(database)
        with database.writing() as session:
            assert jobs.request_cancel(session, job_id).state == "cancelled"
        assert take(database) is None
        assert look(database, job_id).finished_at is not None

    def test_the_holder_of_a_running_job_is_told(self, database: Database) -> None:
        add(database)
        job = take_one(database)
        assert beat(database, job) is False
        with database.writing() as session:
            assert jobs.request_cancel(session, job.job_id).state == "running"
        assert beat(database, job) is True
        end(database, job, "cancelled")
        assert look(database, job.job_id).state == "cancelled"

    @pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
    def test_an_ended_job_stays_as_it_is(self, database: Database, state: jobs.FinalState) -> None:
        add(database)
        job = take_one(database)
        end(database, job, state)
        with pytest.raises(Conflict, match=f"has {state} already"), database.writing() as session:
            jobs.request_cancel(session, job.job_id)
        assert look(database, job.job_id).state == state

    @pytest.mark.parametrize("way", ["release", "retry", "rescue"])
    def test_a_job_to_be_cancelled_is_not_queued_again(self, database: Database, way: str) -> None:
        add(database)
        job = take_one(database)
        with database.writing() as session:
            jobs.request_cancel(session, job.job_id)
        with database.writing() as session:
            if way == "release":
                jobs.release(session, job.job_id, job.attempt)
            elif way == "retry":
                jobs.retry(session, job.job_id, job.attempt, "no")
            else:
                jobs.rescue_from(session, "w1")
        assert look(database, job.job_id).state == "cancelled"

    def test_a_job_that_is_not_there_is_not_found(self, database: Database) -> None:
        with database.writing() as session:
            with pytest.raises(NotFound):
                jobs.request_cancel(session, 99)
            with pytest.raises(NotFound):
                jobs.get(session, 99)


class TestPage:
    def test_jobs_are_listed_newest_first_and_filtered(self, database: Database) -> None:
        ids = [add(database, kind) for kind in ("import", "training", "import", "training", "import")]
        end(database, take_one(database))

        def listed(**filters: Any) -> list[int]:
            with database.reading() as session:
                return [job.job_id for job in jobs.page(session, **filters)[0]]

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
                found, cursor = jobs.page(session, limit=2, cursor=cursor)
                seen += [job.job_id for job in found]
                assert (cursor is None) == last
        assert seen == ids[::-1]

    def test_log_lines_are_read_in_order_and_on_from_where_one_was(self, database: Database) -> None:
        job_id = add(database)
        with database.writing() as session:
            for number in range(4):
                jobs.log_line(session, job_id, 1, f"line {number}", "warning")
        with database.reading() as session:
            first = jobs.log_lines(session, job_id, limit=2)
            rest = jobs.log_lines(session, job_id, after=first[-1].line_id)
        assert [line.message for line in first + rest] == [f"line {number}" for number in range(4)]
        assert {(line.level, line.attempt) for line in rest} == {("warning", 1)}


class TestRescuer:
    def test_a_job_whose_heartbeat_stands_still_is_taken_back(self, database: Database) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        job_id = add(database)
        job = take_one(database)
        assert watch(database, rescuer, clock, 20) == []
        assert watch(database, rescuer, clock, 1) == [job_id]
        found = look(database, job_id)
        assert (found.state, found.failures, found.worker) == ("queued", 1, None)
        assert "no sign of life" in (found.error or "")
        with pytest.raises(LostJob):
            beat(database, job)
        again = take_one(database, "w2")
        assert again.attempt == job.attempt + 1
        with database.reading() as session:
            assert "w1" in jobs.log_lines(session, job_id)[0].message

    def test_a_job_that_beats_is_left_alone(self, database: Database) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        job = take_one(database)
        for _ in range(6):
            assert watch(database, rescuer, clock, 15) == []
            beat(database, job)

    def test_the_next_attempt_is_watched_anew(self, database: Database) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        job = take_one(database)
        watch(database, rescuer, clock, 15)
        with database.writing() as session:
            jobs.release(session, job.job_id, job.attempt)
        take_one(database)
        assert watch(database, rescuer, clock, 15) == []

    def test_a_beat_between_the_look_and_the_rescue_saves_the_job(self, database: Database) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        job = take_one(database)
        watch(database, rescuer, clock, 20)
        clock.seconds += 1.0
        with database.reading() as session:
            assert rescuer.observe(session)
        beat(database, job)
        with database.writing() as session:
            assert rescuer.rescue(session) == []

    def test_an_observer_that_was_paused_itself_takes_nothing(self, database: Database) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        take_one(database)
        watch(database, rescuer, clock, 2)
        clock.seconds += 3600.0  # the whole machine was suspended, the job's holder with it
        with database.writing() as session:
            assert rescuer.rescue(session) == []

    def test_a_job_that_kills_its_workers_fails_and_the_queue_goes_on(
        self, database: Database, wall: WallClock
    ) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        poison = add(database, max_attempts=3)
        for attempt in (1, 2, 3):
            assert take_one(database).attempt == attempt
            assert watch(database, rescuer, clock, 21) == [poison]
            wall.jump(seconds=60)
        found = look(database, poison)
        assert (found.state, found.failures) == ("failed", 3)
        assert "failed attempt 3 of 3" in (found.error or "")
        assert found.finished_at is not None
        healthy = add(database)
        assert take_one(database).job_id == healthy

    def test_a_dead_workers_job_runs_again_at_once_the_second_time_after_a_rest(
        self, database: Database, wall: WallClock
    ) -> None:
        add(database)
        take_one(database)
        with database.writing() as session:
            jobs.rescue_from(session, "w1")
        take_one(database)
        with database.writing() as session:
            jobs.rescue_from(session, "w1")
        assert take(database) is None
        wall.jump(seconds=2)
        assert take(database) is not None

    def test_a_supervisor_frees_only_the_jobs_of_the_worker_that_ended(self, database: Database) -> None:
        mine, other = add(database), add(database)
        take_one(database, "mine")
        take_one(database, "other")
        with database.writing() as session:
            assert jobs.rescue_from(session, "mine") == [mine]
        assert look(database, mine).state == "queued"
        assert look(database, other).state == "running"

    def test_a_row_locked_by_its_living_holder_is_passed_over(self, database: Database) -> None:
        if database.is_sqlite:
            pytest.skip("SQLite has no row locks: its one writer keeps the rescuer out")
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        job = take_one(database)
        watch(database, rescuer, clock, 20)
        with database.writing() as holder:
            HeldJob(database, job).fence(holder)
            assert watch(database, rescuer, clock, 5) == []
        assert watch(database, rescuer, clock, 5) == []


class TestWallClock:
    @pytest.mark.parametrize("hours", [1, -1])
    def test_a_jump_steals_no_running_job(self, database: Database, wall: WallClock, hours: int) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        job = take_one(database)
        watch(database, rescuer, clock, 10)
        wall.jump(hours=hours)
        assert watch(database, rescuer, clock, 9) == []
        assert take(database) is None
        assert beat(database, job) is False
        end(database, job)

    @pytest.mark.parametrize("hours", [1, -1])
    def test_a_jump_holds_up_no_queued_job(self, database: Database, wall: WallClock, hours: int) -> None:
        add(database)
        wall.jump(hours=hours)
        assert take(database) is not None

    def test_a_jump_back_holds_up_no_released_job(self, database: Database, wall: WallClock) -> None:
        add(database)
        job = take_one(database)
        with database.writing() as session:
            jobs.release(session, job.job_id, job.attempt)
        wall.jump(hours=-1)
        assert take(database) is not None

    def test_a_jump_back_holds_up_no_dead_workers_job(self, database: Database, wall: WallClock) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        job_id = add(database)
        take_one(database)
        watch(database, rescuer, clock, 5)
        wall.jump(hours=-1)
        assert watch(database, rescuer, clock, 20) == [job_id]
        assert take(database) is not None

    @pytest.mark.parametrize("seen_before", [True, False])
    def test_a_retry_rests_no_longer_for_a_jump_back(
        self, database: Database, wall: WallClock, seen_before: bool
    ) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database)
        job = take_one(database)
        with database.writing() as session:
            jobs.retry(session, job.job_id, job.attempt, "no")
        if seen_before:
            watch(database, rescuer, clock, 1)
        wall.jump(hours=-1)
        watch(database, rescuer, clock, 5 if seen_before else 65)
        assert take(database) is not None

    def test_a_planned_job_keeps_its_distance_in_spite_of_a_jump(
        self, database: Database, wall: WallClock
    ) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        add(database, run_after=wall() + timedelta(seconds=100))
        watch(database, rescuer, clock, 50)
        wall.jump(hours=-1)
        watch(database, rescuer, clock, 40)
        assert take(database) is None
        watch(database, rescuer, clock, 15)
        assert take(database) is not None


class TestHeldJob:
    def held(self, database: Database, **options: Any) -> HeldJob:
        add(database, **options)
        return HeldJob(database, take_one(database))

    def test_progress_and_log_are_stored_by_the_next_beat(self, database: Database) -> None:
        held = self.held(database)
        held.check(0.5)
        held.log("epoch 3 of 6")
        held.log("that looks odd", "warning")
        assert held.wake.is_set()
        held.beat()
        found = look(database, held.job_id)
        assert (found.progress, found.heartbeat) == (0.5, 1)
        held.beat()
        with database.reading() as session:
            lines = jobs.log_lines(session, held.job_id)
        assert [(line.level, line.message) for line in lines] == [
            ("info", "epoch 3 of 6"),
            ("warning", "that looks odd"),
        ]

    @pytest.mark.parametrize(("given", "kept"), [(-1.0, 0.0), (2.0, 1.0), (float("nan"), 0.0)])
    def test_progress_stays_between_nothing_and_all(
        self, database: Database, given: float, kept: float
    ) -> None:
        held = self.held(database)
        held.check(given)
        assert held.progress == kept

    def test_cancellation_is_learnt_by_a_beat(self, database: Database) -> None:
        held = self.held(database)
        with database.writing() as session:
            jobs.request_cancel(session, held.job_id)
        held.check()
        held.beat()
        with pytest.raises(JobCancelled):
            held.check()

    def test_a_stopping_worker_makes_the_handler_give_the_job_back(self, database: Database) -> None:
        held = self.held(database)
        held.give_back()
        with pytest.raises(JobReleased):
            held.check()

    def test_a_lost_job_is_learnt_by_a_beat_and_its_last_words_are_kept(self, database: Database) -> None:
        held = self.held(database)
        with database.writing() as session:
            jobs.rescue_from(session, "w1")
        held.log("still here")
        held.beat()
        with pytest.raises(LostJob):
            held.check(0.9)
        with database.reading() as session:
            assert "still here" in [line.message for line in jobs.log_lines(session, held.job_id)]

    def test_the_fence_keeps_out_the_effect_of_whoever_lost_the_job(self, database: Database) -> None:
        late = self.held(database)
        with database.writing() as session:
            jobs.rescue_from(session, "w1")
        current = HeldJob(database, take_one(database, "w2"))

        def store(guard: Callable[[Session], None]) -> None:
            with database.writing() as session:
                session.add(User(user_id="late", created_at=jobs.now()))
                guard(session)

        with pytest.raises(LostJob):
            store(late.fence)
        with pytest.raises(LostJob):
            store(late.finish)
        with database.writing() as session:
            current.fence(session)
            session.add(User(user_id="current", created_at=jobs.now()))
            current.finish(session, result={"users": 1})
        with database.reading() as session:
            assert session.scalars(select(User.user_id)).all() == ["current"]
        assert look(database, current.job_id).result == {"users": 1}

    def test_finish_counts_only_once_its_transaction_is_committed(self, database: Database) -> None:
        held = self.held(database)

        def finish_and_fail() -> None:
            with database.writing() as session:
                held.finish(session)
                with session.begin_nested():
                    pass
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            finish_and_fail()
        assert not held.is_finished
        assert look(database, held.job_id).state == "running"
        with database.writing() as session:
            held.finish(session)
            assert not held.is_finished
        assert held.is_finished
        held.beat()
        held.check()  # a handler may still look up after it has finished

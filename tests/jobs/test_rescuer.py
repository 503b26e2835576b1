"""The rescuer, by a clock turned by hand, on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest

from app.errors import LostJob
from app.jobs import queue
from app.jobs.held import HeldJob
from app.jobs.rescuer import Rescuer, rescue_from
from app.storage.database import Database
from tests.jobs.clocks import Clock, WallClock
from tests.jobs.jobs import add, beat, end, look, take, take_one

RESCUE_AFTER = 20.0  # seconds


def watch(database: Database, rescuer: Rescuer, clock: Clock, seconds: float) -> list[int]:
    """Let the rescuer look every second for so long; return what it took."""
    taken: list[int] = []
    for _ in range(int(seconds)):
        clock.seconds += 1.0
        with database.writing() as session:
            taken += rescuer.rescue(session)
    return taken


class TestRescuer:
    def test_a_job_whose_heartbeat_stands_still_is_taken_back(self, database: Database) -> None:
        clock = Clock()
        rescuer = Rescuer(RESCUE_AFTER, clock)
        job_id = add(database)
        job = take_one(database)
        assert watch(database, rescuer, clock, 20) == []
        assert watch(database, rescuer, clock, 1) == [job_id]
        result = look(database, job_id)
        assert (result.state, result.failures, result.worker) == ("queued", 1, None)
        assert "no heartbeat" in (result.error or "")
        with pytest.raises(LostJob):
            beat(database, job)
        again = take_one(database, "w2")
        assert again.attempt == job.attempt + 1
        with database.reading() as session:
            assert "w1" in queue.log_lines(session, job_id)[0].message

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
            queue.release(session, job.job_id, job.attempt)
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
        result = look(database, poison)
        assert (result.state, result.failures) == ("failed", 3)
        assert "failed attempt 3 of 3" in (result.error or "")
        assert result.finished_at is not None
        healthy = add(database)
        assert take_one(database).job_id == healthy

    def test_a_dead_workers_job_runs_again_at_once_the_second_time_after_a_rest(
        self, database: Database, wall: WallClock
    ) -> None:
        add(database)
        take_one(database)
        with database.writing() as session:
            rescue_from(session, "w1")
        take_one(database)
        with database.writing() as session:
            rescue_from(session, "w1")
        assert take(database) is None
        wall.jump(seconds=2)
        assert take(database) is not None

    def test_a_supervisor_frees_only_the_jobs_of_the_worker_that_ended(self, database: Database) -> None:
        mine, other = add(database), add(database)
        take_one(database, "mine")
        take_one(database, "other")
        with database.writing() as session:
            assert rescue_from(session, "mine") == [mine]
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
            queue.release(session, job.job_id, job.attempt)
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
            queue.retry(session, job.job_id, job.attempt, "no")
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

"""A job in the hands of its handler, on SQLite and on PostgreSQL."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import LostJob
from app.jobs import queue
from app.jobs.held import HeldJob, JobCancelled, JobReleased
from app.jobs.rescuer import rescue_from
from app.storage.database import Database
from app.storage.tables import User
from tests.jobs.jobs import add, look, take_one


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
        result = look(database, held.job_id)
        assert (result.progress, result.heartbeat) == (0.5, 1)
        held.beat()
        with database.reading() as session:
            lines = queue.log_lines(session, held.job_id)
        assert [(line.level, line.message) for line in lines] == [
            ("info", "epoch 3 of 6"),
            ("warning", "that looks odd"),
        ]

    @pytest.mark.parametrize(("share", "kept"), [(-1.0, 0.0), (2.0, 1.0), (float("nan"), 0.0)])
    def test_progress_stays_between_nothing_and_all(
        self, database: Database, share: float, kept: float
    ) -> None:
        held = self.held(database)
        held.check(share)
        assert held.progress == kept

    def test_cancellation_is_learnt_by_a_beat(self, database: Database) -> None:
        held = self.held(database)
        with database.writing() as session:
            queue.request_cancel(session, held.job_id)
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
            rescue_from(session, "w1")
        held.log("still here")
        held.beat()
        with pytest.raises(LostJob):
            held.check(0.9)
        with database.reading() as session:
            assert "still here" in [line.message for line in queue.log_lines(session, held.job_id)]

    def test_the_fence_keeps_out_the_effect_of_a_holder_that_lost_the_job(self, database: Database) -> None:
        late = self.held(database)
        with database.writing() as session:
            rescue_from(session, "w1")
        current = HeldJob(database, take_one(database, "w2"))

        def store(guard: Callable[[Session], None]) -> None:
            with database.writing() as session:
                session.add(User(user_id="late", created_at=queue.now()))
                guard(session)

        with pytest.raises(LostJob):
            store(late.fence)
        with pytest.raises(LostJob):
            store(late.finish)
        with database.writing() as session:
            current.fence(session)
            session.add(User(user_id="current", created_at=queue.now()))
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

"""A run's snapshot, reserved users, result and refusals."""

import numpy as np
import pytest
from sqlalchemy import func, select

from app import jobs, model_registry, ratings, training_runs
from app.database import Database
from app.errors import Conflict, LostJob
from app.jobs import HeldJob
from app.settings import Settings
from app.tables import EpochReportRow, ModelVersion
from app.worker import JOB_HANDLERS, Worker
from tests.tastes import N_USERS, store_tastes, train_version


def test_reserved_users_stay_the_same_whoever_joins() -> None:
    ids = [f"user{n}" for n in range(20_000)]
    chosen = {ids[place] for place in training_runs.reserved_users(ids, share=0.05, most=10_000)}
    assert 0.045 < len(chosen) / len(ids) < 0.055
    fewer = ids[::3]
    again = {fewer[place] for place in training_runs.reserved_users(fewer, share=0.05, most=10_000)}
    assert again == chosen & set(fewer)
    capped = training_runs.reserved_users(ids, share=0.05, most=100)
    assert len(capped) == 100
    assert {ids[place] for place in capped} < chosen
    assert len(training_runs.reserved_users(ids, share=0.0, most=100)) == 0
    assert len(training_runs.reserved_users([], share=0.05, most=100)) == 0


def test_no_version_is_trained_with_a_reserved_user(database: Database, settings: Settings) -> None:
    store_tastes(database)
    half = settings.model_copy(update={"reserved_users_share": 0.5})
    version = train_version(database, half)
    with database.reading() as session:
        row = model_registry.get(session, version)
        packed = row.trained_user_keys
        taken = ratings.snapshot(session)
    reserved = set(training_runs.reserved_users(taken.user_ids, share=0.5, most=2000).tolist())
    assert 10 < len(reserved) < N_USERS - 10
    for place, key in enumerate(taken.user_keys.tolist()):
        assert ratings.holds_key(packed, key) == (place not in reserved)


def test_a_version_that_wins_at_the_gate_becomes_active(database: Database, settings: Settings) -> None:
    store_tastes(database, n_users=160)
    half = settings.model_copy(update={"reserved_users_share": 0.5})
    version = train_version(database, half)
    with database.reading() as session:
        row, pointer = model_registry.get(session, version), model_registry.active(session)
        run = training_runs.get(session, row.run_id)
    assert pointer is not None
    assert pointer.version == version
    assert row.verdict["outcome"] == "activated"
    assert row.metrics["machine"]["relevant"] > row.metrics["popularity"]["relevant"]
    assert row.metrics["popularity"]["difference"]["mean"] > 0
    honesty = row.metrics["like_probability"]
    assert 0 < honesty["brier"] < 1
    assert sum(one["n"] for one in honesty["reliability"]) == honesty["n_ratings"]
    curve = row.metrics["reliability"]
    assert len(curve["predicted"]) == len(curve["came_true"]) == len(curve["n"]) == 15
    assert 0 <= curve["calibration_error"] < 0.2
    assert row.verdict["words"] in str(run.run.evaluation)


def test_a_version_that_loses_at_the_gate_stays_a_candidate(database: Database, settings: Settings) -> None:
    store_tastes(database, n_users=160)
    half = settings.model_copy(update={"reserved_users_share": 0.5})
    good = train_version(database, half)
    # One hidden unit that hardly learns ranks like popularity at best.
    worse = train_version(database, half, hidden_units=1, epochs=1, learning_rate=1e-6)
    with database.reading() as session:
        row, pointer = model_registry.get(session, worse), model_registry.active(session)
    assert pointer is not None
    assert pointer.version == good
    assert row.verdict["outcome"] == "candidate"
    assert f"active version {good}" in row.verdict["words"]
    assert row.metrics["active"]["difference"]["high"] < 0
    with pytest.raises(Conflict, match="force"), database.writing() as session:
        model_registry.activate(session, worse)
    with database.writing() as session:
        assert model_registry.activate(session, worse, force=True).version == worse


def test_the_snapshots_digest_tells_ratings_apart(database: Database) -> None:
    store_tastes(database)

    def digest() -> str:
        with database.reading() as session:
            return str(training_runs.describe(ratings.snapshot(session), n_reserved=0)["sha256"])

    before = digest()
    assert digest() == before
    with database.writing() as session:
        ratings.remove(session, "even0", ratings.of_user(session, "even0")[0].movie_id)
    assert digest() != before


def test_the_environment_names_what_the_last_digits_depend_on() -> None:
    found = training_runs.environment()
    assert found["numpy"] == np.__version__
    assert all("num_threads" in pool for pool in found["blas"])


def test_a_run_that_lost_its_job_leaves_no_version(database: Database, settings: Settings) -> None:
    """The fencing token: a worker that was paused and overtaken has its result refused."""
    store_tastes(database)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"epochs": 3}, settings)
        job = jobs.claim(session, [training_runs.JOB_KIND], "slow", job_id=view.job.job_id)
    assert job is not None
    held = HeldJob(database, job)
    with database.writing() as session:
        assert jobs.rescue_from(session, "slow") == [job.job_id]
    with pytest.raises(LostJob):
        training_runs.run(held, database, settings)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(ModelVersion)) == 0
    Worker(database, settings, JOB_HANDLERS).run(until_idle=True)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(ModelVersion)) == 1
        again = training_runs.get(session, view.run.run_id)
        assert (again.job.state, again.job.attempt) == ("succeeded", 2)
        attempts = set(session.scalars(select(EpochReportRow.attempt)))
    assert attempts == {2}


def test_while_one_runs_one_follow_up_queues(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        first, created = training_runs.request(session, {}, settings)
        assert created
        assert jobs.claim(session, [training_runs.JOB_KIND], "w") is not None
        second, created = training_runs.request(session, {}, settings)
        assert created
        third, created = training_runs.request(session, {}, settings)
        assert not created
    assert second.run.run_id == third.run.run_id != first.run.run_id
    with pytest.raises(Conflict), database.writing() as session:
        training_runs.request(session, {"epochs": 9}, settings)


def test_a_cancelled_run_keeps_its_reports_and_makes_no_version(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    worker = Worker(database, settings, JOB_HANDLERS)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"epochs": 2_000}, settings)
        job = jobs.claim(session, [training_runs.JOB_KIND], worker.name, job_id=view.job.job_id)
    assert job is not None

    def interrupt(progress: float) -> None:
        if progress > 0.03:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run_claimed(job, interrupt)
    with database.reading() as session:
        stopped = training_runs.get(session, view.run.run_id)
        assert (stopped.job.state, stopped.model_version) == ("cancelled", None)
        assert 0 < len(training_runs.epoch_reports(session, view.run.run_id, 1)) < 2_000

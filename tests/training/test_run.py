"""What a training run leaves: snapshot, reports, version, verdict, or a rerun."""

import numpy as np
import pytest
from sqlalchemy import func, select
from threadpoolctl import threadpool_info

from app.errors import LostJob, TooLittleTrainingData
from app.jobs import queue
from app.jobs.held import HeldJob, JobCancelled
from app.jobs.rescuer import rescue_from
from app.model_versions import activation, store
from app.ratings import read
from app.ratings import store as ratings
from app.ratings.keys import holds_key
from app.ratings.snapshot import take_snapshot
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import EpochReportRow, Job, ModelVersion
from app.training import requests
from app.training import run as training_run
from app.training.costs import usable_cores
from app.training.requests import Run
from app.training.reserved_users import reserved_users
from tests.tastes import store_tastes
from tests.training.runs import run_now, work


def rerun(database: Database, settings: Settings, run_id: int) -> Run:
    with database.writing() as session:
        again = requests.request_rerun(session, run_id, settings)
    return work(database, settings, again.id)


def claimed(database: Database, settings: Settings, worker: str = "w", **overrides: object) -> HeldJob:
    """A training run in the hands of its handler."""
    with database.writing() as session:
        run = requests.request(session, overrides, settings).run
        job = queue.claim(session, [requests.JOB_KIND], worker, job_id=run.job_id)
    assert job is not None
    return HeldJob(database, job)


def remove_a_rating(database: Database) -> None:
    with database.writing() as session:
        ratings.delete(session, "even0", read.of_user(session, "even0")[0].movie_id)


def test_the_gate_decides_what_becomes_active(database: Database, settings: Settings) -> None:
    store_tastes(database, n_users=160)
    half = settings.model_copy(update={"reserved_users_share": 0.5})
    good = run_now(database, half, epochs=10)
    # One hidden unit that hardly learns ranks like popularity at best.
    nothing = {"hidden_units": 1, "linear_units": 0, "weighted_units": 0, "like_strength": 0}
    worse = run_now(database, half, **nothing, epochs=1, learning_rate=1e-6)
    assert good.model_version is not None
    assert worse.model_version is not None
    with database.reading() as session:
        rows = [store.get(session, version) for version in (good.model_version, worse.model_version)]
        pointer = activation.active(session)
        snapshot = take_snapshot(session)
        trained_user_keys = rows[0].trained_user_keys
    assert pointer is not None
    assert pointer.version == good.model_version
    assert [row.verdict["outcome"] for row in rows] == ["activated", "candidate"]
    assert [row.sha256 for row in rows] == [good.sha256, worse.sha256]
    assert rows[0].metrics["machine"]["relevant"] > rows[0].metrics["popularity"]["relevant"]
    assert 0 < rows[0].metrics["like_probability"]["brier"] < 1
    curve = rows[0].metrics["reliability"]
    assert len(curve["predicted"]) == len(curve["came_true"]) == len(curve["n"]) == 15
    assert rows[0].verdict["words"] == (good.evaluation or {})["words"]
    assert f"active version {good.model_version}" in rows[1].verdict["words"]
    assert rows[1].metrics["active"]["difference"]["high"] < 0
    # No reserved user was trained on.
    reserved = set(reserved_users(snapshot.user_ids, share=0.5, most=2000).tolist())
    assert 30 < len(reserved) < 130
    for place, key in enumerate(snapshot.user_keys.tolist()):
        assert holds_key(trained_user_keys, key) == (place not in reserved)


def test_the_snapshots_digest_tells_ratings_apart(database: Database) -> None:
    store_tastes(database)

    def digest() -> str:
        with database.reading() as session:
            return str(training_run.describe(take_snapshot(session), n_reserved=0)["sha256"])

    before = digest()
    assert digest() == before
    remove_a_rating(database)
    assert digest() != before


def test_a_run_that_lost_its_job_leaves_no_version(database: Database, settings: Settings) -> None:
    """The fencing token: a paused and overtaken worker's result is refused."""
    store_tastes(database)
    held = claimed(database, settings, "slow", epochs=3)
    with database.writing() as session:
        session.add(EpochReportRow(run_id=1, attempt=1, epoch=1, report={}, reported_at=queue.now()))
        assert rescue_from(session, "slow") == [held.job_id]
    with pytest.raises(LostJob):
        training_run.run(held, database, settings)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(ModelVersion)) == 0
    again = work(database, settings, 1)
    assert (again.state, again.attempt, again.model_version) == ("succeeded", 2, 1)
    with database.reading() as session:
        assert set(session.scalars(select(EpochReportRow.attempt))) == {2}


def test_a_cancelled_run_keeps_its_reports_and_makes_no_version(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    held = claimed(database, settings, epochs=2_000)
    check = held.check

    def cancel_after_two_reports(progress: float | None = None) -> None:
        with database.reading() as session:
            if len(requests.with_reports(session, 1).epoch_reports) == 2:
                held.cancel()
        check(progress)

    held.check = cancel_after_two_reports  # type: ignore[method-assign]
    with pytest.raises(JobCancelled):
        training_run.run(held, database, settings)
    with database.reading() as session:
        stopped = requests.with_reports(session, 1)
        assert stopped.model_version is None
        assert [row.epoch for row in stopped.epoch_reports] == [1, 2]


def test_too_few_ratings_of_enough_are_refused(database: Database, settings: Settings) -> None:
    """Enough ratings to queue a run, but every user is reserved."""
    store_tastes(database)
    held = claimed(database, settings)
    all_reserved = settings.model_copy(update={"reserved_users_share": 0.99})
    with pytest.raises(TooLittleTrainingData):
        training_run.run(held, database, all_reserved)


def test_a_rerun_gives_bitwise_equal_parameters_and_no_version(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    first = run_now(database, settings, seed=7)
    again = rerun(database, settings, first.id)
    assert again.state == "succeeded", again.error
    assert (again.trigger, again.rerun_of, again.model_version) == ("rerun", first.id, None)
    assert first.sha256 == again.sha256 is not None
    assert first.environment == again.environment
    assert (first.environment or {})["numpy"] == np.__version__
    evaluation = again.evaluation or {}
    assert evaluation["state"] == "reproduced"
    assert evaluation["rerun"] == {
        "of": first.id,
        "same_parameters": True,
        "same_ratings": True,
        "sha256_before": first.sha256,
        "sha256_now": first.sha256,
    }


def test_a_rerun_of_a_warm_start_starts_from_the_version_of_then(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    parent = run_now(database, settings)
    with database.writing() as session:
        warm_id = requests.request(session, {"warm_start": True, "seed": 3}, settings).run.id
    warm = work(database, settings, warm_id)
    assert (warm.warm_start, warm.parent_version) == (True, parent.model_version)
    assert (warm.configuration or {})["hidden_units"] == 5
    run_now(database, settings, seed=11)  # another version is active by now
    again = rerun(database, settings, warm.id)
    assert again.sha256 == warm.sha256 != parent.sha256


def test_a_rerun_says_that_the_ratings_have_changed(database: Database, settings: Settings) -> None:
    store_tastes(database)
    first = run_now(database, settings)
    remove_a_rating(database)
    again = rerun(database, settings, first.id)
    evaluation = again.evaluation or {}
    assert evaluation["state"] == "not_reproduced"
    assert (evaluation["rerun"]["same_parameters"], evaluation["rerun"]["same_ratings"]) == (False, False)
    assert "the ratings have changed" in evaluation["words"]
    assert again.model_version is None
    with database.reading() as session:
        pointer = activation.active(session)
        job = session.get_one(Job, again.job_id)
    assert pointer is not None
    assert pointer.version == first.model_version
    assert job.result == {"model_version": None, "outcome": "not_reproduced"}


def test_the_blas_threads_are_those_of_the_settings(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.dot(np.ones((2, 2)), np.ones((2, 2)))  # a BLAS that is not loaded has no threads
    seen: dict[int, set[int]] = {}
    for threads in (1, 0):
        blas = settings.model_copy(update={"training_threads": threads})

        def look(*_: object, threads: int = threads) -> None:
            pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
            seen[threads] = {pool["num_threads"] for pool in pools}

        monkeypatch.setattr(training_run, "_run", look)
        training_run.run(None, database, blas)  # type: ignore[arg-type]
    assert seen == {1: {1}, 0: {usable_cores()}}

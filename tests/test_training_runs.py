"""A run's snapshot, reserved users, result and refusals."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from app import jobs, model_registry, ratings, training_runs
from app.database import Database
from app.errors import Conflict, InvalidInput, LostJob, NotEnoughMemory
from app.jobs import HeldJob
from app.learning.configuration import TrainingConfiguration
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
    nothing = {"hidden_units": 1, "linear_units": 0, "weighted_units": 0, "like_strength": 0}
    worse = train_version(database, half, **nothing, epochs=1, learning_rate=1e-6)
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


def run_now(database: Database, settings: Settings, **overrides: Any) -> training_runs.RunView:
    with database.writing() as session:
        view, _ = training_runs.request(session, {"epochs": 5, "hidden_units": 10} | overrides, settings)
    return finish(database, settings, view.run.run_id)


def finish(database: Database, settings: Settings, run_id: int) -> training_runs.RunView:
    Worker(database, settings, JOB_HANDLERS).run(until_idle=True)
    with database.reading() as session:
        return training_runs.get(session, run_id)


def rerun(database: Database, settings: Settings, run_id: int) -> training_runs.RunView:
    with database.writing() as session:
        view = training_runs.request_rerun(session, run_id, settings)
    return finish(database, settings, view.run.run_id)


def test_a_rerun_gives_bitwise_the_same_and_no_version(database: Database, settings: Settings) -> None:
    store_tastes(database)
    first = run_now(database, settings, seed=7)
    again = rerun(database, settings, first.run.run_id)
    assert again.job.state == "succeeded", again.job.error
    assert first.run.sha256 == again.run.sha256 is not None
    assert again.model_version is None
    evaluation = again.run.evaluation or {}
    assert evaluation["state"] == "reproduced"
    assert evaluation["rerun"] | {"words": ""} == {
        "of": first.run.run_id,
        "same_parameters": True,
        "sha256_before": first.run.sha256,
        "sha256_now": first.run.sha256,
        "differences": [],
        "words": "",
    }


def test_a_rerun_of_a_warm_start_starts_from_the_same_version(database: Database, settings: Settings) -> None:
    store_tastes(database)
    parent = run_now(database, settings)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"warm_start": True, "seed": 3}, settings)
    warm = finish(database, settings, view.run.run_id)
    assert (warm.run.is_warm_start, warm.run.parent_version) == (True, parent.model_version)
    assert warm.model_version is not None
    run_now(database, settings, seed=11)  # another version is active now
    again = rerun(database, settings, warm.run.run_id)
    assert again.run.sha256 == warm.run.sha256 != parent.run.sha256


def test_a_rerun_says_what_differs_and_never_becomes_active(database: Database, settings: Settings) -> None:
    store_tastes(database)
    first = run_now(database, settings)
    with database.writing() as session:
        ratings.remove(session, "even0", ratings.of_user(session, "even0")[0].movie_id)
        # As if the first had run with another NumPy.
        run = training_runs.get(session, first.run.run_id).run
        run.environment = (run.environment or {}) | {"numpy": "1.0"}
    again = rerun(database, settings, first.run.run_id)
    found = (again.run.evaluation or {})["rerun"]
    assert not found["same_parameters"]
    differing = {one["what"]: (one["before"], one["now"]) for one in found["differences"]}
    assert differing["snapshot.n_ratings"] == (720, 719)
    assert differing["environment.numpy"] == ("1.0", np.__version__)
    assert "snapshot.n_ratings" in found["words"]
    assert "configuration.seed" not in differing
    with database.reading() as session:
        assert again.model_version is not None
        assert model_registry.get(session, again.model_version).verdict["outcome"] == "candidate"
        pointer = model_registry.active(session)
    assert pointer is not None
    assert pointer.version == first.model_version


def test_what_left_no_parameters_cannot_be_run_again(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        view, _ = training_runs.request(session, {}, settings)
        training_runs.cancel(session, view.run.run_id)
    with database.writing() as session, pytest.raises(Conflict, match="left no parameters"):
        training_runs.request_rerun(session, view.run.run_id, settings)


def test_a_warm_start_takes_a_fifth_of_the_epochs_and_keeps_the_machines_shape(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    full = run_now(database, settings, epochs=100, hidden_units=13, learning_rate=0.05)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"warm_start": True}, settings)
    warm = finish(database, settings, view.run.run_id)
    assert full.run.configuration is not None
    assert warm.run.configuration is not None
    defaults = TrainingConfiguration().resolved(57, 30, 684)
    assert warm.run.configuration["hidden_units"] == 13
    assert warm.run.configuration["learning_rate"] == defaults.learning_rate
    assert warm.run.configuration["epochs"] < (defaults.epochs or 0) / 4
    with database.writing() as session, pytest.raises(InvalidInput, match="goes on with 13") as refused:
        training_runs.request(session, {"warm_start": True, "hidden_units": 14}, settings)
    assert refused.value.errors[0].location == "hidden_units"


def test_without_a_version_there_is_nothing_to_start_from(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session, pytest.raises(Conflict, match="no active model version"):
        training_runs.request(session, {"warm_start": True}, settings)


def test_what_does_not_fit_is_refused_before_it_is_queued(database: Database, settings: Settings) -> None:
    store_tastes(database)
    tight = settings.model_copy(update={"training_memory_limit": 70_000_000})
    with database.writing() as session, pytest.raises(NotEnoughMemory, match="hidden_units") as refused:
        training_runs.request(session, {"hidden_units": 9_000}, tight)
    assert [one.location for one in refused.value.errors] == ["hidden_units"]
    with database.reading() as session:
        assert training_runs.page(session, limit=1) == ([], None)


def test_a_worker_with_less_memory_refuses_before_it_begins(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"hidden_units": 9_000}, settings)
    tight = settings.model_copy(update={"training_memory_limit": 70_000_000})
    run = finish(database, tight, view.run.run_id)
    assert run.job.state == "failed"
    assert "would fit in place of 9000" in (run.job.error or "")
    assert run.run.snapshot is None


def test_the_estimate_goes_by_the_runs_before(database: Database, settings: Settings) -> None:
    store_tastes(database)
    first = run_now(database, settings)
    assert (first.run.estimate or {})["seconds_from"] == "the usual speed of one core"
    second = run_now(database, settings, seed=2)
    costs = second.run.estimate or {}
    assert "last 1 finished" in costs["seconds_from"]
    assert costs["shape"] == {"n_users": 60, "n_movies": 30, "n_ratings": 720}
    assert 0 < costs["memory_bytes"] < costs["available_bytes"]


def test_two_fits_never_run_side_by_side(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        training_runs.request(session, {}, settings)
        assert jobs.claim(session, [training_runs.JOB_KIND], "one", alone=["training"]) is not None
        follow_up, created = training_runs.request(session, {}, settings)
    assert created
    with database.writing() as session:
        assert jobs.due_kinds(session, ["training"], alone=["training"]) == set()
        assert jobs.claim(session, ["training"], "two", alone=["training"]) is None
        # Whoever asks for it by its id has decided.
        job_id = follow_up.job.job_id
        assert jobs.claim(session, ["training"], "two", job_id=job_id, alone=["training"]) is not None

"""What is queued, joined and refused when a training run is requested."""

import pytest

from app.errors import Conflict, InvalidInput, NotEnoughMemory, NotFound
from app.jobs import queue
from app.learning.configuration import TrainingConfiguration
from app.settings import Settings
from app.storage.cursors import Page
from app.storage.database import Database
from app.training import requests
from tests.tastes import store_tastes
from tests.training.runs import run_now, work


def test_while_one_runs_one_follow_up_queues(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        first = requests.request(session, {}, settings)
        assert queue.claim(session, [requests.JOB_KIND], "w") is not None
        second = requests.request(session, {}, settings)
        third = requests.request(session, {}, settings)
    assert [requested.is_new for requested in (first, second, third)] == [True, True, False]
    assert second.run.id == third.run.id != first.run.id
    with pytest.raises(Conflict), database.writing() as session:
        requests.request(session, {"epochs": 9}, settings)


def test_runs_are_listed_newest_first_and_filtered(database: Database, settings: Settings) -> None:
    store_tastes(database)
    ids = []
    for epochs in (1, 2, 3):
        with database.writing() as session:
            ids.append(requests.request(session, {"epochs": epochs}, settings).run.id)
        if epochs < 3:
            with database.writing() as session:
                assert requests.cancel(session, ids[-1]).state == "cancelled"
    with database.reading() as session:
        first = requests.page(session, limit=2)
        rest = requests.page(session, limit=2, cursor=first.next_cursor)
        cancelled = requests.page(session, state="cancelled", limit=9)
    assert [run.id for run in [*first.items, *rest.items]] == ids[::-1]
    assert [run.id for run in cancelled.items] == [ids[1], ids[0]]
    with database.reading() as session, pytest.raises(NotFound):
        requests.get(session, 99)


def test_a_warm_start_takes_a_fifth_of_the_epochs_and_the_parents_units(
    database: Database, settings: Settings, version: int
) -> None:
    store_tastes(database)
    with database.writing() as session:
        run = requests.request(session, {"warm_start": True}, settings).run
    assert (run.warm_start, run.parent_version) == (True, version)
    configuration = requests.configuration_of(run.overrides, settings, {"hidden_units": 13, "epochs": 7})
    assert (configuration.hidden_units, configuration.epochs) == (13, None)
    full = configuration.resolved(57, 30, 684)
    warm = requests.warm_configuration(configuration, 57, 30, 684)
    assert warm.epochs == round((full.epochs or 0) / 5)
    named = requests.warm_configuration(TrainingConfiguration(epochs=3), 57, 30, 684)
    assert named.epochs == 3
    with database.writing() as session, pytest.raises(InvalidInput, match="goes on with 5") as refused:
        requests.request(session, {"warm_start": True, "hidden_units": 14}, settings)
    assert refused.value.errors[0].location == "hidden_units"


def test_without_a_version_there_is_nothing_to_start_from(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session, pytest.raises(Conflict, match="no active model version"):
        requests.request(session, {"warm_start": True}, settings)


def test_a_run_that_left_no_parameters_cannot_be_rerun(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        run_id = requests.request(session, {}, settings).run.id
        requests.cancel(session, run_id)
    with database.writing() as session, pytest.raises(Conflict, match="left no parameters"):
        requests.request_rerun(session, run_id, settings)


def test_what_does_not_fit_is_refused_before_it_is_queued(database: Database, settings: Settings) -> None:
    """Row 23 of the faults."""
    store_tastes(database)
    tight = settings.model_copy(update={"training_memory_limit": 70_000_000})
    with database.writing() as session, pytest.raises(NotEnoughMemory, match="hidden_units") as refused:
        requests.request(session, {"hidden_units": 9_000}, tight)
    assert [error.location for error in refused.value.errors] == ["hidden_units"]
    with database.reading() as session:
        assert requests.page(session, limit=1) == Page([], None)


def test_a_worker_with_less_memory_refuses_before_it_begins(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        run_id = requests.request(session, {"hidden_units": 9_000}, settings).run.id
    tight = settings.model_copy(update={"training_memory_limit": 70_000_000})
    run = work(database, tight, run_id)
    assert run.state == "failed"
    assert "would fit in place of 9000" in (run.error or "")
    assert run.snapshot is None


def test_the_estimate_goes_by_the_runs_before(database: Database, settings: Settings) -> None:
    store_tastes(database)
    first = run_now(database, settings).estimate
    assert first is not None
    assert first.seconds_from == "the usual speed of one core"
    with database.writing() as session:
        second = requests.request(session, {}, settings).run.estimate
    assert second is not None
    assert "last 1 finished" in second.seconds_from
    assert (second.shape.n_users, second.shape.n_movies, second.shape.n_ratings) == (60, 30, 720)
    assert second.available_bytes is None or 0 < second.memory_bytes < second.available_bytes

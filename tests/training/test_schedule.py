"""When retraining begins by itself, on SQLite and on PostgreSQL."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from app.jobs import queue
from app.learning.trained_model import TrainedModel
from app.ratings import changes as rating_changes
from app.ratings import read
from app.ratings import store as ratings
from app.ratings.batch import RatingBatch
from app.settings import Settings
from app.storage.database import Database
from app.training import requests, schedule
from tests.model_versions.stored import add_version
from tests.tastes import N_USERS, RATINGS_EACH, store_tastes
from tests.training.runs import SMALL, end_without_fit, run_now, work

STORED = N_USERS * RATINGS_EACH


def rate(database: Database, number: int, *, stars: float = 5.0, user: str = "even0") -> None:
    """Ratings of so many movies without ratings."""
    batch = RatingBatch.of((user, f"late{movie}", stars, None) for movie in range(number))
    with database.writing() as session:
        ratings.upsert(session, batch, received_at=datetime.now(UTC))


def plan(database: Database, settings: Settings, *, hours_later: float = 0.0) -> schedule.Plan:
    with database.reading() as session:
        return schedule.plan(session, settings, now=datetime.now(UTC) + timedelta(hours=hours_later))


def run_without_fit(database: Database, settings: Settings) -> None:
    with database.writing() as session:
        run_id = requests.request(session, {}, settings).run.id
    end_without_fit(database, run_id)


@pytest.fixture
def by_ratings(settings: Settings) -> Settings:
    return settings.model_copy(update={"retrain_after_ratings": 20, "retrain_every_hours": 0.0})


@pytest.fixture
def by_hours(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"retrain_after_ratings": 0, "retrain_every_hours": 6.0, "retrain_jitter": 0.5}
    )


def test_so_many_changed_ratings_start_a_run_and_the_count_begins_anew(
    database: Database, by_ratings: Settings
) -> None:
    store_tastes(database)
    run_now(database, by_ratings)
    assert plan(database, by_ratings).more_changes == 20
    rate(database, 19)
    seen = plan(database, by_ratings)
    assert (seen.due, seen.changes_since, seen.more_changes) == (None, 19, 1)
    assert schedule.tick(database, by_ratings) is None
    with database.writing() as session:
        ratings.delete(session, "even0", "late3")
    assert plan(database, by_ratings).due == "ratings"
    run_id = schedule.tick(database, by_ratings)
    assert run_id is not None
    with database.reading() as session:
        view = requests.get(session, run_id)
    assert (view.trigger, view.overrides) == ("schedule", {"warm_start": True})
    assert "20 are enough" in (view.note or "")
    seen = plan(database, by_ratings)
    assert (seen.due, seen.changes_since) == (None, 0)
    assert seen.waits_for == "a training run is queued"
    run = work(database, by_ratings, run_id)
    assert (run.state, run.warm_start) == ("succeeded", True)
    assert plan(database, by_ratings).waits_for is None


def test_ratings_that_arrive_while_the_run_waits_are_in_it(database: Database, by_ratings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        run_id = requests.request(session, SMALL, by_ratings).run.id
    rate(database, 7)
    assert plan(database, by_ratings).changes_since == 7
    work(database, by_ratings, run_id)
    assert plan(database, by_ratings).changes_since == 0


def test_the_first_run_comes_by_itself_too_and_is_a_full_fit(
    database: Database, by_ratings: Settings
) -> None:
    assert "least that can be trained on" in (plan(database, by_ratings).waits_for or "")
    store_tastes(database)
    run_id = schedule.tick(database, by_ratings)
    assert run_id is not None
    with database.reading() as session:
        assert requests.get(session, run_id).overrides == {}


def test_hours_start_a_run_only_if_a_rating_has_changed(database: Database, by_hours: Settings) -> None:
    store_tastes(database)
    run_without_fit(database, by_hours)
    assert plan(database, by_hours, hours_later=100).due is None
    assert plan(database, by_hours).next_at is None
    rate(database, 1)
    seen = plan(database, by_hours)
    assert seen.next_at is not None
    wait = seen.next_at - datetime.now(UTC)
    assert timedelta(hours=5.9) < wait <= timedelta(hours=9)
    assert plan(database, by_hours).next_at == seen.next_at  # drawn once for all who look
    assert plan(database, by_hours, hours_later=5.9).due is None
    assert plan(database, by_hours, hours_later=9.1).due == "hours"


def test_the_jitter_differs_from_run_to_run(database: Database, by_hours: Settings) -> None:
    store_tastes(database)
    distances = set()
    for epochs in (1, 2, 3):
        run_without_fit(database, by_hours)
        rate(database, epochs)
        seen = plan(database, by_hours)
        assert seen.next_at is not None
        with database.reading() as session:
            began = requests.page(session, limit=1).items[0].created_at
        distances.add(seen.next_at - began)
    assert len(distances) == 3


def test_every_so_manieth_run_is_a_full_fit(
    database: Database, by_ratings: Settings, model: TrainedModel
) -> None:
    third = by_ratings.model_copy(update={"full_fit_every": 3})
    store_tastes(database)
    kinds = []
    for number in range(5):
        rate(database, 20, stars=4.0 + number / 8)
        run_id = schedule.tick(database, third)
        assert run_id is not None
        end_without_fit(database, run_id)
        with database.reading() as session:
            kinds.append(requests.get(session, run_id).warm_start)
        if number == 0:
            add_version(database, model)
    assert kinds == [False, True, True, False, True]


def test_workers_that_look_at_once_ask_for_one_run(database_url: str, by_ratings: Settings) -> None:
    database = Database(database_url, pool_size=10, timeout=30)
    store_tastes(database)
    run_ids: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: run_ids.append(schedule.tick(database, by_ratings))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([run_id for run_id in run_ids if run_id is not None]) == 1
    assert len(run_ids) == 8
    with database.reading() as session:
        assert len(requests.page(session, limit=10).items) == 1
    database.close()


def test_a_failed_run_is_not_begun_again_at_once_but_by_the_hours(
    database: Database, settings: Settings
) -> None:
    both = settings.model_copy(update={"retrain_after_ratings": 20, "retrain_every_hours": 6.0})
    store_tastes(database)
    run_id = schedule.tick(database, both)
    assert run_id is not None
    end_without_fit(database, run_id, "failed")
    assert plan(database, both).due is None
    assert plan(database, both, hours_later=7).due == "hours"


def test_half_an_import_is_not_trained_on(database: Database, by_ratings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        queue.enqueue(session, "import", {})
        job = queue.claim(session, ["import"], "w")
    assert job is not None
    seen = plan(database, by_ratings)
    assert (seen.due, seen.waits_for) == (None, "a file is being imported")
    with database.writing() as session:
        queue.finish(session, job.job_id, job.attempt, "succeeded")
    assert plan(database, by_ratings).due == "ratings"


def test_a_refusal_is_kept_and_rests(database: Database, by_ratings: Settings) -> None:
    store_tastes(database)
    tight = by_ratings.model_copy(update={"training_memory_limit": 1_000_000})
    assert schedule.tick(database, tight) is None
    seen = plan(database, tight)
    assert seen.refusal is not None
    assert "of memory" in seen.refusal
    assert seen.refusal in (seen.waits_for or "")
    assert schedule.tick(database, by_ratings) is None  # rests
    assert plan(database, by_ratings, hours_later=1.1).due == "ratings"


def test_a_request_takes_the_place_of_what_the_schedule_has_queued(
    database: Database, by_ratings: Settings
) -> None:
    store_tastes(database)
    planned = schedule.tick(database, by_ratings)
    assert planned is not None
    with database.writing() as session:
        view, created = requests.request(session, {"epochs": 3}, by_ratings)
    assert created
    with database.reading() as session:
        assert requests.get(session, planned).state == "cancelled"
        assert requests.get(session, view.id).state == "queued"


def test_staleness_counts_what_the_active_version_has_not_seen(
    database: Database, settings: Settings
) -> None:
    with database.reading() as session:
        assert schedule.staleness(session) is None
    store_tastes(database)
    version = run_now(database, settings).model_version
    rate(database, 3)
    with database.writing() as session:
        ratings.delete(session, "even0", "late1")
    with database.reading() as session:
        seen = schedule.staleness(session)
    assert seen is not None
    assert (seen.version, seen.ratings, seen.changes_since) == (version, STORED, 4)


def test_switched_off_it_never_asks(database: Database, settings: Settings) -> None:
    off = settings.model_copy(update={"retrain_after_ratings": 0, "retrain_every_hours": 0.0})
    store_tastes(database)
    seen = plan(database, off, hours_later=1000)
    assert (seen.due, seen.more_changes, seen.next_at) == (None, None, None)
    assert "switched off" in seen.why
    assert schedule.tick(database, off) is None


def test_the_counted_changes_are_those_that_were_made(database: Database) -> None:
    store_tastes(database)
    rate(database, 5)
    rate(database, 5)  # the same again changes nothing
    rate(database, 2, stars=1.0)
    with database.writing() as session:
        ratings.delete(session, "even0", "late0")
        ratings.erase_user(session, "odd1")
    with database.reading() as session:
        seen, n_ratings = rating_changes.changes(session), read.count(session)
        rows = rating_changes.change_rows(session)
    assert (seen.inserted, seen.updated, seen.removed) == (STORED + 5, 2, 1 + RATINGS_EACH)
    assert seen.n_ratings == n_ratings
    with database.writing() as session:
        assert rating_changes.sum_up_changes(session) == rows
    with database.reading() as session:
        assert rating_changes.changes(session) == seen
        assert rating_changes.change_rows(session) == 1


def test_changes_are_summed_up_while_others_write(database_url: str) -> None:
    database = Database(database_url, pool_size=8, timeout=30)
    store_tastes(database)

    def write(number: int) -> None:
        for movie in range(10):
            batch = RatingBatch.of([(f"new{number}", f"m{movie}", 3.0, None)])
            with database.writing() as session:
                ratings.upsert(session, batch, received_at=datetime.now(UTC))

    def sum_up() -> None:
        for _ in range(10):
            with database.writing() as session:
                rating_changes.sum_up_changes(session)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=sum_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert rating_changes.changes(session).inserted == STORED + 40 == read.count(session)
    database.close()

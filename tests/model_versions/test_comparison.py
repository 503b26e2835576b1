"""Two versions side by side, with answers known in advance."""

import pytest

from app.errors import InvalidInput, NotFound
from app.learning.trained_model import TrainedModel
from app.model_versions import comparison, store
from app.model_versions.comparison import ComparedMetric, DifferingSetting
from app.model_versions.serving import LoadedVersion
from app.recommendations import lists as recommended
from app.recommendations.lists import ListQuery
from app.storage.database import Database
from tests.model_versions.stored import add_version
from tests.tastes import N_MOVIES, store_tastes


def test_a_version_beside_an_equal_one_differs_in_nothing(database: Database, model: TrainedModel) -> None:
    store_tastes(database)
    first, second = add_version(database, model), add_version(database, model)
    with database.reading() as session:
        compared = comparison.compare(session, first, second)
    assert (compared.first, compared.second) == (first, second)
    assert compared.settings == {}
    assert (compared.shared_movies, compared.only_first, compared.only_second) == (N_MOVIES, 0, 0)
    lists = compared.lists
    assert (lists.n_users, lists.length, lists.mean, lists.least) == (60, 10, 1.0, 1.0)
    assert (lists.identical, lists.disjoint) == (60, 0)


def test_lists_are_those_that_users_would_get(
    database: Database, model: TrainedModel, other_model: TrainedModel
) -> None:
    """Overlaps by way of the served lists, user by user, are the comparison's."""
    store_tastes(database)
    first, second = add_version(database, model), add_version(database, other_model)
    with database.reading() as session:
        users = comparison.sampled_users(session, 25)
        assert len(set(users)) == 25
        assert users == comparison.sampled_users(session, 25)
        served = [LoadedVersion(number, 1, store.load(session, number)) for number in (first, second)]
        shares, equal = [], 0
        for user in users:
            lists = [
                [
                    item.movie_id
                    for item in recommended.for_user(session, loaded, user, ListQuery(limit=10)).items
                ]
                for loaded in served
            ]
            shares.append(len(set(lists[0]) & set(lists[1])) / 10)
            equal += lists[0] == lists[1]
        compared = comparison.compare(session, first, second, n_users=25)
        mirrored = comparison.compare(session, second, first, n_users=25)
    assert compared.lists.mean == pytest.approx(sum(shares) / 25)
    assert 0 < sum(shares) / 25 < 1
    assert compared.lists.least == min(shares)
    assert (compared.lists.identical, compared.lists.disjoint) == (equal, shares.count(0))
    assert mirrored.lists == compared.lists
    assert compared.settings["epochs"] == DifferingSetting(10, 1)
    assert compared.settings["hidden_units"] == DifferingSetting(5, 2)
    assert "design" not in compared.settings


def test_metrics_are_paired_by_their_path(database: Database, model: TrainedModel) -> None:
    figures = {"machine": {"relevant": 0.5}, "n_users": 30, "state": "evaluated", "ok": True}
    compared_with = {"active": {"version": 1, "relevant": 0.4, "difference": {"mean": -0.1}}}
    first = add_version(database, model, metrics=figures)
    second = add_version(database, model, metrics={"machine": {"relevant": 0.25}} | compared_with)
    with database.reading() as session:
        compared = comparison.compare(session, first, second)
    assert compared.metrics == {
        "machine.relevant": ComparedMetric(0.5, 0.25, -0.25),
        "n_users": ComparedMetric(30, None, None),
        "active.relevant": ComparedMetric(None, 0.4, None),
        "active.difference.mean": ComparedMetric(None, -0.1, None),
    }


def test_what_cannot_be_compared_is_refused(database: Database, version: int) -> None:
    store_tastes(database)
    with database.reading() as session:
        with pytest.raises(NotFound, match="no model version 99"):
            comparison.compare(session, version, 99)
        for n_users in (0, comparison.MOST_SAMPLED_USERS + 1):
            with pytest.raises(InvalidInput, match="2,000"):
                comparison.compare(session, version, version, n_users=n_users)
        assert len(comparison.sampled_users(session, 1_000_000)) == 60

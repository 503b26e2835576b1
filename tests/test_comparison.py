"""Two versions side by side, with answers known in advance."""

import pytest

from app import comparison, model_registry, recommendations
from app.comparison import Metric
from app.database import Database
from app.errors import InvalidInput, NotFound
from app.model_registry import Serving
from app.recommendations import Wanted
from app.settings import Settings
from tests.tastes import N_MOVIES, store_tastes, train_version


def test_a_version_beside_one_with_the_same_settings_differs_in_nothing(
    database: Database, settings: Settings
) -> None:
    store_tastes(database)
    first, second = train_version(database, settings, epochs=5), train_version(database, settings, epochs=5)
    with database.reading() as session:
        found = comparison.compare(session, first, second)
    assert (found.first.version, found.second.version) == (first, second)
    assert found.settings == {}
    assert (found.shared_movies, found.only_first, found.only_second) == (N_MOVIES, 0, 0)
    lists = found.lists
    assert (lists.n_users, lists.length, lists.mean, lists.least) == (60, 10, 1.0, 1.0)
    assert (lists.identical, lists.disjoint) == (60, 0)


def test_lists_are_those_that_people_would_get(database: Database, settings: Settings) -> None:
    """Overlaps by way of the served lists, user by user, are the comparison's."""
    store_tastes(database)
    first = train_version(database, settings, epochs=40)
    second = train_version(database, settings, epochs=1, hidden_units=2, seed=9)
    with database.reading() as session:
        users = comparison.sampled_users(session, 25)
        assert len(set(users)) == 25
        assert users == comparison.sampled_users(session, 25)
        served = [Serving(one, 1, model_registry.load(session, one)) for one in (first, second)]
        shares, equal = [], 0
        for user in users:
            lists = [
                [
                    item.movie_id
                    for item in recommendations.for_user(session, one, user, Wanted(limit=10)).items
                ]
                for one in served
            ]
            shares.append(len(set(lists[0]) & set(lists[1])) / 10)
            equal += lists[0] == lists[1]
        found = comparison.compare(session, first, second, n_users=25)
        mirrored = comparison.compare(session, second, first, n_users=25)
    assert found.lists.mean == pytest.approx(sum(shares) / 25)
    assert 0 < sum(shares) / 25 < 1
    assert found.lists.least == min(shares)
    assert (found.lists.identical, found.lists.disjoint) == (equal, shares.count(0))
    assert mirrored.lists == found.lists
    assert found.settings["epochs"] == (40, 1)
    assert found.settings["hidden_units"] == (20, 2)
    assert "design" not in found.settings


def test_metrics_are_paired_by_their_path(database: Database, settings: Settings) -> None:
    store_tastes(database, n_users=300)
    shared = settings.model_copy(update={"reserved_users_share": 0.5})
    first, second = train_version(database, shared, epochs=30), train_version(database, shared, epochs=1)
    with database.reading() as session:
        found = comparison.compare(session, first, second)
        rows = [model_registry.get(session, one) for one in (first, second)]
    one, other = (row.metrics["machine"]["relevant"] for row in rows)
    assert found.metrics["machine.relevant"] == Metric(one, other, other - one)
    # Only the second was compared with an active version.
    assert found.metrics["active.relevant"].first is None
    assert found.metrics["active.relevant"].difference is None
    assert found.metrics["active.difference.mean"].second is not None
    assert "active.version" not in found.metrics


def test_what_cannot_be_compared_is_refused(database: Database, settings: Settings) -> None:
    store_tastes(database)
    version = train_version(database, settings, epochs=1)
    with database.reading() as session:
        with pytest.raises(NotFound, match="no model version 99"):
            comparison.compare(session, version, 99)
        for n_users in (0, comparison.MOST_SAMPLED_USERS + 1):
            with pytest.raises(InvalidInput, match="2,000"):
                comparison.compare(session, version, version, n_users=n_users)
        assert len(comparison.sampled_users(session, 1_000_000)) == 60

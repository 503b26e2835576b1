"""Ranking for one row of ratings: the strategies, what is left out, and what a dislike does."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app import model_registry, recommendations
from app.database import Database
from app.model_registry import Serving
from app.recommendations import RecommendationList, Wanted
from app.settings import Settings
from tests.tastes import N_MOVIES, store_tastes, train_version


@pytest.fixture
def serving(database: Database, settings: Settings) -> Serving:
    store_tastes(database)
    version = train_version(database, settings)
    with database.reading() as session:
        return Serving(version, 1, model_registry.load(session, version))


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.reading() as session:
        yield session


def ids(found: RecommendationList) -> list[str]:
    return [item.movie_id for item in found.items]


def test_the_strategy_follows_the_evidence(session: Session, serving: Serving) -> None:
    seen = [
        recommendations.for_ratings(
            session, serving, {f"even{n}": 5.0 for n in range(rated)}, Wanted()
        ).strategy
        for rated in range(7)
    ]
    assert seen == ["popular", *["blended"] * 4, "rbm", "rbm"]


def test_a_list_never_shows_what_is_rated_excluded_or_filtered_out(
    session: Session, serving: Serving
) -> None:
    rated = {"even0": 5.0, "odd0": 1.0}
    wanted = Wanted(limit=100, exclude=("even1", "unknown"), year_from=1981)
    found = recommendations.for_ratings(session, serving, rated, wanted)
    everything = {f"{half}{n}" for half in ("even", "odd") for n in range(N_MOVIES // 2)}
    assert set(ids(found)) == everything - {"even0", "odd0", "even1"}
    assert len(ids(found)) == len(set(ids(found)))


def test_more_is_never_another_order(session: Session, serving: Serving) -> None:
    rated = {f"even{n}": 5.0 for n in range(6)}
    long = ids(recommendations.for_ratings(session, serving, rated, Wanted(limit=20)))
    short = ids(recommendations.for_ratings(session, serving, rated, Wanted(limit=5)))
    assert long[:5] == short


def test_a_disliked_movie_moves_its_kind_down(session: Session, serving: Serving) -> None:
    def mean_place_of_odd(stars: float) -> float:
        order = ids(recommendations.for_ratings(session, serving, {"odd0": stars}, Wanted(limit=100)))
        places = [place for place, movie in enumerate(order) if movie.startswith("odd")]
        return sum(places) / len(places)

    assert mean_place_of_odd(1.0) > mean_place_of_odd(5.0)


def test_without_a_version_predictions_are_unknown(serving: Serving) -> None:
    (found,) = recommendations.predictions(None, {}, ["even0"])
    assert found.like_probability is None
    known, unknown = recommendations.predictions(serving, {}, ["even0", "never"])
    assert known.like_probability is not None
    assert unknown.like_probability is None

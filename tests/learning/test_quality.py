"""What the defaults reach on MovieLens 100K; one training serves all tests."""

from __future__ import annotations

import time

import numpy as np
import pytest

from app.learning.evaluation import metrics, splitting
from app.learning.evaluation.baselines import Popularity
from app.learning.evaluation.quality import ranking_quality
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import finish, ml_100k

pytestmark = pytest.mark.slow

Split = tuple[RatingRows, RatingRows, TrainedModel]


@pytest.fixture(scope="module")
def split() -> Split:
    """Training rows, test rows and the trained model: stratified, split seed 42."""
    train_rows, test_rows = splitting.stratified(ml_100k(), np.random.default_rng(42))
    started = time.perf_counter()
    model, reports = finish(train_rows)
    print(f"{len(reports)} epochs in {time.perf_counter() - started:.1f} s")  # noqa: T201 - shown by pytest -s
    return train_rows, test_rows, model


@pytest.mark.parametrize(("relevant_at_least", "least"), [(None, 0.465), (4.0, 0.395)])
def test_lists_are_far_better_than_popularity(
    split: Split, relevant_at_least: float | None, least: float
) -> None:
    profiles, test, model = split
    quality, popular = (
        ranking_quality(scores, profiles, test, relevant_at_least=relevant_at_least).means()["ndcg"]
        for scores in (model.scores, Popularity(profiles).scores)
    )
    assert quality > least
    assert quality > 1.7 * popular


def test_like_probability_ranks_and_is_calibrated(split: Split) -> None:
    profiles, test, model = split
    probability = model.like_probability(profiles)[test.users, test.indices]
    liked = test.stars >= model.liked_at_least
    assert metrics.auc(liked, probability) > 0.81
    assert metrics.auc(test.stars >= 4, probability) > 0.792
    assert metrics.brier(liked, probability) < 0.1115
    assert metrics.expected_calibration_error(liked, probability) < 0.015


def test_a_scorer_that_sees_nothing_of_the_user_has_no_share_in_the_test_ratings(split: Split) -> None:
    # A leak would show here: with the input masked, feeding the test rows as input must
    # score exactly 0.
    _, test, model = split
    quality = ranking_quality(model.scores, test, test)
    assert np.nanmax(quality.ndcg) == 0

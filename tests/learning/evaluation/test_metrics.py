"""Metrics against values worked out by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from app.learning.evaluation import metrics
from app.learning.rating_matrix import RatingRows

# Three users: hits at ranks 1 and 3 of 3 relevant; no hit of 1 relevant; nothing
# relevant at all.
HITS = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], np.bool_)
N_RELEVANT = np.array([3, 1, 0])


def test_hits_are_looked_up_by_user_and_movie() -> None:
    relevant = RatingRows.from_coordinates([0, 0, 2], [4, 1, 1], [1, 1, 1], 3, 5)
    ranked = np.array([[1, 2, 4], [1, 4, -1], [-1, 1, 0]])
    assert metrics.hits_of(ranked, relevant).tolist() == [
        [True, False, True],
        [False, False, False],
        [False, True, False],
    ]


def test_ndcg_by_hand() -> None:
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    expected = [(1 + 1 / np.log2(4)) / ideal, 0, np.nan]
    np.testing.assert_allclose(metrics.ndcg_at(HITS, N_RELEVANT, 4), expected)
    np.testing.assert_allclose(metrics.ndcg_at(HITS, N_RELEVANT, 10), expected)
    np.testing.assert_allclose(metrics.ndcg_at(HITS, N_RELEVANT, 1), [1, 0, np.nan])


def test_precision_recall_average_precision_and_reciprocal_rank_by_hand() -> None:
    np.testing.assert_allclose(metrics.precision_at(HITS, N_RELEVANT, 4), [2 / 4, 0, np.nan])
    np.testing.assert_allclose(metrics.precision_at(HITS, N_RELEVANT, 10), [2 / 10, 0, np.nan])
    np.testing.assert_allclose(metrics.recall_at(HITS, N_RELEVANT, 4), [2 / 3, 0, np.nan])
    np.testing.assert_allclose(metrics.recall_at(HITS, N_RELEVANT, 2), [1 / 3, 0, np.nan])
    average = (1 + 2 / 3) / 3
    np.testing.assert_allclose(metrics.average_precision(HITS, N_RELEVANT), [average, 0, np.nan])
    np.testing.assert_allclose(metrics.reciprocal_rank(HITS[:, 1:], N_RELEVANT), [1 / 2, 0, np.nan])


def test_ndcg_and_average_precision_equal_scikit_learn_on_full_rankings() -> None:
    rng = np.random.default_rng(0)
    score, relevant = rng.random((30, 25)), rng.random((30, 25)) < 0.2
    relevant[:, 0] = True
    hits = np.take_along_axis(relevant, np.argsort(-score, axis=1), axis=1)
    n_relevant = relevant.sum(axis=1)
    ndcg = [
        sklearn_metrics.ndcg_score([truth], [row], k=10) for truth, row in zip(relevant, score, strict=True)
    ]
    np.testing.assert_allclose(metrics.ndcg_at(hits, n_relevant, 10), ndcg)
    average = [
        sklearn_metrics.average_precision_score(truth, row)
        for truth, row in zip(relevant, score, strict=True)
    ]
    np.testing.assert_allclose(metrics.average_precision(hits, n_relevant), average)


def test_auc_and_brier_equal_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(1)
    outcome, score = rng.random(500) < 0.3, rng.integers(0, 20, 500) / 20
    assert metrics.auc(outcome, score) == pytest.approx(sklearn_metrics.roc_auc_score(outcome, score))
    assert metrics.brier(outcome, score) == pytest.approx(sklearn_metrics.brier_score_loss(outcome, score))


def test_weights_count_outcomes_several_times() -> None:
    rng = np.random.default_rng(2)
    outcome, score, times = rng.random(60) < 0.4, rng.integers(0, 9, 60) / 9, rng.integers(0, 3, 60)
    again = np.repeat(np.arange(60), times)
    for metric in (metrics.auc, metrics.brier, metrics.absolute_difference):
        weighted = metric(outcome, score, times.astype(np.float64))
        assert weighted == pytest.approx(metric(outcome[again], score[again]))


def test_auc_by_hand_and_with_one_class() -> None:
    assert metrics.auc(np.array([True, False]), np.array([0.7, 0.2])) == 1.0
    assert metrics.auc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5
    assert np.isnan(metrics.auc(np.array([True, True]), np.array([0.5, 0.4])))


def test_calibration_error_by_hand() -> None:
    # Two bins of two: predicted .1 and .8 on average, observed 0 and .5.
    probability, outcome = np.array([0.9, 0.1, 0.7, 0.1]), np.array([True, False, False, False])
    assert metrics.expected_calibration_error(outcome, probability, bins=2) == pytest.approx((0.1 + 0.3) / 2)
    assert metrics.expected_calibration_error(np.ones(40, np.bool_), np.ones(40)) == 0
    assert metrics.expected_calibration_error(np.array([True]), np.array([0.25])) == pytest.approx(0.75)


def test_coverage_by_hand() -> None:
    ranked = np.array([[0, 1], [1, 4], [1, -1]])  # 0, 1 and 4 of five movies
    groups = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], np.bool_)
    np.testing.assert_allclose(metrics.coverage(ranked, groups), [3 / 5, 1 / 2, 1, np.nan])
    np.testing.assert_allclose(metrics.coverage(np.full((2, 3), -1), groups), [0, 0, 0, np.nan])


def test_novelty_by_hand() -> None:
    information = metrics.self_information(np.array([8, 4, 1, 0]), n_users=8)
    np.testing.assert_allclose(information, [0, 1, 3, 3])  # an unrated movie counts as rated once
    ranked = np.array([[0, 1, 2], [1, -1, -1], [-1, -1, -1]])
    np.testing.assert_allclose(metrics.mean_over_list(ranked, information), [4 / 3, 1, np.nan])


def test_popularity_classes_by_hand() -> None:
    # 12 ratings; before each movie, the most rated first: 0, 5, 7, 9, 10, 11 -> thirds
    # 0, 1, 1, 2, 2, 2.
    counts = np.array([1, 5, 0, 2, 1, 2, 1])
    assert metrics.popularity_classes(counts).tolist() == [2, 0, 2, 1, 2, 1, 2]
    assert metrics.popularity_classes(np.array([1, 1, 1])).tolist() == [0, 1, 2]
    assert metrics.popularity_classes(np.array([9])).tolist() == [metrics.HEAD]
    assert metrics.popularity_classes(np.zeros(2, np.int64)).tolist() == [metrics.TAIL] * 2


def test_absolute_difference_by_hand_and_as_the_tutorial_draws_it() -> None:
    outcome, probability = np.array([True, False, True, False]), np.array([0.9, 0.2, 0.4, 0.5])
    expected = (0.1 + 0.2 + 0.6 + 0.5) / 4
    assert metrics.absolute_difference(outcome, probability) == pytest.approx(expected)
    drawn = np.random.default_rng(0).random((20_000, 4)) < probability
    assert np.abs(drawn.astype(float) - outcome).mean() == pytest.approx(expected, abs=0.005)
    # Rounding is rewarded: the Brier score would rise.
    sure = np.array([0.8] * 4), np.array([True, True, True, False])
    assert metrics.absolute_difference(sure[1], np.ones(4)) < metrics.absolute_difference(sure[1], sure[0])
    assert metrics.brier(sure[1], np.ones(4)) > metrics.brier(sure[1], sure[0])


def test_a_reliability_curve_by_hand() -> None:
    probability, outcome = np.array([0.9, 0.1, 0.7, 0.1]), np.array([True, False, False, False])
    curve = metrics.reliability(outcome, probability, bins=2)
    assert curve.predicted == pytest.approx((0.1, 0.8))
    assert curve.came_true == (0.0, 0.5)
    assert curve.n == (2, 2)
    assert curve.as_dict()["calibration_error"] == pytest.approx((0.1 + 0.3) / 2)
    assert metrics.reliability(outcome, probability).n == (1, 1, 1, 1)
    nothing = metrics.reliability(np.empty(0, np.bool_), np.empty(0))
    assert nothing.n == ()
    assert nothing.as_dict()["calibration_error"] is None


def test_intervals_hold_the_mean_and_leave_nan_out() -> None:
    values = np.array([1.0, 2.0, 3.0, np.nan])
    interval = metrics.normal_interval(values)
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.high - 2 == pytest.approx(1.96 / 3**0.5)
    nothing = np.array([np.nan])
    assert metrics.normal_interval(nothing).n == 0
    assert metrics.normal_interval(np.array([4.0])).high == np.inf

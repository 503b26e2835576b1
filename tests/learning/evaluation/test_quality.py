"""Ranking the full catalogue for users whose test ratings are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.learning.evaluation import metrics, quality
from app.learning.evaluation.baselines import Popularity
from app.learning.evaluation.quality import LikePredictions, list_quality, ranked_lists, ranking_quality
from app.learning.inference.ranking import Scores
from app.learning.rating_matrix import RatingRows


@pytest.fixture
def profiles() -> RatingRows:
    return RatingRows.from_coordinates([0, 1, 1], [0, 0, 1], [1, 1, 1], 2, 4)


@pytest.fixture
def test_rows() -> RatingRows:
    return RatingRows.from_coordinates([0, 0, 1], [2, 3, 3], [2, 5, 1], 2, 4)


def test_profiles_are_not_ranked(profiles: RatingRows, test_rows: RatingRows) -> None:
    def leftmost(rows: RatingRows) -> Scores:
        return np.tile([4.0, 3.0, 2.0, 1.0], (rows.n_users, 1))

    of_lists = ranking_quality(leftmost, profiles, test_rows, k=2)
    np.testing.assert_allclose(of_lists.reciprocal_rank, [1 / 2, 1 / 2])  # user 0: 1, 2; user 1: 2, 3
    np.testing.assert_allclose(of_lists.precision, [1 / 2, 1 / 2])
    assert of_lists.n_users == 2


def test_only_stars_that_reach_the_threshold_are_relevant(
    profiles: RatingRows, test_rows: RatingRows
) -> None:
    of_lists = ranking_quality(
        lambda rows: np.tile([0, 0, 9.0, 5.0], (rows.n_users, 1)),
        profiles,
        test_rows,
        relevant_at_least=4.0,
        k=2,
    )
    np.testing.assert_allclose(of_lists.ndcg, [1 / np.log2(3), np.nan])
    assert of_lists.n_users == 1
    assert of_lists.means()["recall"] == 1.0


def test_popularity_ranks_everyone_alike(profiles: RatingRows) -> None:
    scores = Popularity(profiles).scores(profiles)
    assert scores.tolist() == [[2, 1, 0, 0], [2, 1, 0, 0]]


def test_rows_of_different_users_are_refused(profiles: RatingRows) -> None:
    with pytest.raises(ValueError, match="same users"):
        ranking_quality(Popularity(profiles).scores, profiles, profiles.rows([0]))


def test_probabilities_come_in_the_order_of_the_test_ratings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbering:
        def like_probability(
            self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
        ) -> NDArray[np.float32]:
            return (rows.stars[rows.indptr[:-1], None] + np.arange(rows.n_movies) / 100).astype(np.float32)

    profiles = RatingRows.from_coordinates([0, 1, 2], [0, 0, 0], [1, 2, 3], 3, 4)
    test = RatingRows.from_coordinates([0, 2, 2], [3, 1, 2], [5, 5, 5], 3, 4)
    for cells in (1, 8, 1_000):
        monkeypatch.setattr(quality, "CELLS_AT_ONCE", cells)
        np.testing.assert_allclose(quality.probabilities(Numbering(), profiles, test), [1.03, 3.01, 3.02])


def test_a_deep_list_says_what_a_short_one_does() -> None:
    rng = np.random.default_rng(4)
    rated = rng.random((30, 60)) < 0.3
    is_test = rng.random((30, 60)) < 0.5
    profiles, test = (
        RatingRows.from_coordinates(
            cells.nonzero()[0], cells.nonzero()[1], rng.integers(1, 6, int(cells.sum())), 30, 60
        )
        for cells in (rated & ~is_test, rated & is_test)
    )
    scores = rng.random((30, 60))
    ranked = ranked_lists(lambda _: scores, profiles, 20)
    assert ranked.shape == (30, 20)
    for k in (10, 20):
        for least in (None, 4.0):
            deep = list_quality(ranked, test, relevant_at_least=least, k=k)
            short = ranking_quality(lambda _: scores, profiles, test, relevant_at_least=least, k=k)
            assert deep.k == k
            for name in quality.RANKING_METRICS:
                np.testing.assert_array_equal(getattr(deep, name), getattr(short, name))


class Saying:
    """Gives every user the same probabilities, one a movie."""

    def __init__(self, *probability: float) -> None:
        self.probability = np.array(probability, np.float32)

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        return np.tile(self.probability, (rows.n_users, 1))


def predictions_of(test: RatingRows, *probability: float) -> LikePredictions:
    profiles = test.where(np.zeros(test.n_ratings, np.bool_))
    return LikePredictions.of(Saying(*probability), profiles, test, liked_at_least=3.0, relevant_at_least=4.0)


@pytest.fixture
def many() -> RatingRows:
    rng = np.random.default_rng(8)
    users, movies = np.nonzero(rng.random((40, 12)) < 0.5)
    stars = np.clip(rng.integers(1, 6, users.size) + movies % 3, 1, 5)
    return RatingRows.from_coordinates(users, movies, stars, 40, 12)


SAID = tuple(np.round(np.linspace(0.2, 0.9, 12), 2).tolist())


def test_the_figures_of_probabilities_are_those_of_the_metrics(many: RatingRows) -> None:
    figures = predictions_of(many, *SAID).figures()
    probability = np.array(SAID, np.float32)[many.indices]
    liked, relevant = many.stars >= 3, many.stars >= 4
    assert figures["auc"] == pytest.approx(metrics.auc(liked, probability))
    assert figures["auc_relevant"] == pytest.approx(metrics.auc(relevant, probability))
    assert figures["brier"] == pytest.approx(metrics.brier(liked, probability))
    expected = metrics.expected_calibration_error(liked, probability)
    assert figures["calibration_error"] == pytest.approx(expected)
    assert figures["absolute_difference"] == pytest.approx(metrics.absolute_difference(liked, probability))


def test_a_user_who_counts_twice_is_a_user_who_is_there_twice(many: RatingRows) -> None:
    times = np.arange(40) % 3
    again = predictions_of(many.rows(np.repeat(np.arange(40), times)), *SAID).figures()
    weighted = predictions_of(many, *SAID).figures(times)
    for name in ("auc", "auc_relevant", "brier", "absolute_difference"):
        assert weighted[name] == pytest.approx(again[name]), name
    # The bins stay those of all ratings, so this one is near only.
    assert weighted["calibration_error"] == pytest.approx(again["calibration_error"], abs=0.05)
    assert all(
        np.isnan(value) for value in predictions_of(many, *SAID).figures(np.zeros(40, np.int64)).values()
    )


def test_a_reliability_curve_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "RELIABILITY_BINS", 2)
    # At .1: not liked, liked; at .3: not liked; at .8: liked; at 1: liked. Bins of
    # three and two.
    test = RatingRows.from_coordinates([0, 1, 0, 1, 1], [0, 0, 1, 2, 3], [1, 5, 2, 3, 4], 2, 4)
    predictions = predictions_of(test, 0.1, 0.3, 0.8, 1.0)
    curve = predictions.reliability()
    np.testing.assert_allclose(curve.predicted, [0.5 / 3, 0.9], rtol=1e-6)
    np.testing.assert_allclose(curve.came_true, [1 / 3, 1])
    assert curve.n == (3, 2)
    assert predictions.histogram()[[2, 6, 16, 19]].tolist() == [2, 1, 1, 1]
    assert predictions.histogram().sum() == 5
    gap = (3 * abs(0.5 / 3 - 1 / 3) + 2 * 0.1) / 5
    assert predictions.figures()["calibration_error"] == pytest.approx(gap)
    # User 0 alone disliked two of the first bin and is not in the second.
    again = predictions.resampled_shares(np.array([[1, 1], [1, 0], [0, 3]]))
    np.testing.assert_allclose(again, np.array([[1 / 3, 1], [0, np.nan], [1, 1]]))


def test_of_no_ratings_there_are_no_figures(many: RatingRows) -> None:
    nothing = predictions_of(many, *SAID).where(np.zeros(many.n_ratings, np.bool_))
    assert all(np.isnan(value) for value in nothing.figures().values())
    assert nothing.reliability().n == ()
    assert nothing.resampled_shares(np.ones((3, 40), np.int64)).shape == (3, 0)

"""Ranking the full catalogue for users whose test ratings are known."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.baselines import Popularity
from app.learning.evaluation import ranking_quality
from app.learning.preferences import RatingRows
from app.learning.ranking import Scores


@pytest.fixture
def given() -> RatingRows:
    return RatingRows.from_coordinates([0, 1, 1], [0, 0, 1], [1, 1, 1], 2, 4)


@pytest.fixture
def test_rows() -> RatingRows:
    return RatingRows.from_coordinates([0, 0, 1], [2, 3, 3], [2, 5, 1], 2, 4)


def test_what_is_given_is_not_ranked(given: RatingRows, test_rows: RatingRows) -> None:
    def leftmost(rows: RatingRows) -> Scores:
        return np.tile([4.0, 3.0, 2.0, 1.0], (rows.n_users, 1))

    quality = ranking_quality(leftmost, given, test_rows, k=2)
    np.testing.assert_allclose(quality.reciprocal_rank, [1 / 2, 1 / 2])  # user 0: 1, 2; user 1: 2, 3
    np.testing.assert_allclose(quality.precision, [1 / 2, 1 / 2])
    assert quality.n_users == 2


def test_only_stars_that_reach_the_threshold_are_relevant(given: RatingRows, test_rows: RatingRows) -> None:
    quality = ranking_quality(
        lambda rows: np.tile([0, 0, 9.0, 5.0], (rows.n_users, 1)),
        given,
        test_rows,
        relevant_at_least=4.0,
        k=2,
    )
    np.testing.assert_allclose(quality.ndcg, [1 / np.log2(3), np.nan])
    assert quality.n_users == 1
    assert quality.means()["recall"] == 1.0


def test_popularity_ranks_everyone_alike(given: RatingRows) -> None:
    scores = Popularity(given).scores(given)
    assert scores.tolist() == [[2, 1, 0, 0], [2, 1, 0, 0]]


def test_rows_of_different_users_are_refused(given: RatingRows) -> None:
    with pytest.raises(ValueError, match="same users"):
        ranking_quality(Popularity(given).scores, given, given.rows([0]))

"""What a rating counts by its stars."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.rating_matrix import RatingRows
from app.learning.star_weights import StarWeights

STARS = np.repeat([1, 2, 3, 4, 5], [6, 11, 27, 34, 22]).astype(np.float32)  # the shares in MovieLens 100K


def test_average_stars_count_one_better_ones_more_and_the_worst_against() -> None:
    star_weights = StarWeights.of(STARS, 0.22)
    weights = star_weights.weights(np.array([1, 2, 3, 4, 5], np.float32))
    assert (np.diff(weights) > 0).all()
    assert weights[0] < 0 < weights[1]
    assert weights[3] > 1 > weights[2]
    assert star_weights.weights(np.array([star_weights.mean])) == pytest.approx(1)
    assert float(star_weights.weights(STARS)[STARS >= 3].mean()) == pytest.approx(1, abs=0.1)


def test_it_does_not_matter_on_what_scale_stars_are() -> None:
    one, other = StarWeights.of(STARS, 0.22), StarWeights.of(STARS * 20 - 7, 0.22)
    np.testing.assert_allclose(one.weights(STARS), other.weights(STARS * 20 - 7), rtol=1e-5)


def test_equal_stars_all_count_one_and_a_dislike_among_them_speaks_against() -> None:
    star_weights = StarWeights.of(np.full(9, 5, np.float32), 0.22)
    np.testing.assert_array_equal(star_weights.weights(np.full(3, 5, np.float32)), 1)
    lowest = star_weights.weights(np.array([1, -1e6], np.float32))
    assert lowest[0] < 0
    assert lowest[0] == lowest[1]  # beyond a bound stars say nothing more


def test_no_slope_counts_all_ratings_alike() -> None:
    np.testing.assert_array_equal(StarWeights.of(STARS, 0.0).weights(STARS), 1)


def test_without_ratings_weights_are_finite() -> None:
    assert np.isfinite(StarWeights.of(np.array([], np.float32), 0.22).weights(STARS)).all()


def test_rows_hold_a_weight_for_each_rating() -> None:
    rows = RatingRows.from_coordinates([0, 0, 2], [3, 1, 0], [5, 1, 4], 3, 4)
    star_weights = StarWeights.of(STARS, 0.22)
    dense = star_weights.rows(rows).toarray()
    assert dense.shape == (3, 4)
    np.testing.assert_array_equal(
        dense[[0, 0, 2], [3, 1, 0]], star_weights.weights(np.array([5, 1, 4], np.float32))
    )
    assert np.count_nonzero(dense) == 3

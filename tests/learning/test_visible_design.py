"""From preferences to visible units and back to scores."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.preferences import Preferences, RatingRows
from app.learning.visible_design import DESIGNS, log_odds


@pytest.fixture
def preferences() -> Preferences:
    # User 0 likes movie 2 and not movie 0; user 1 has rated nothing; user 2 likes movies 0 and 1.
    rows = RatingRows.from_coordinates([0, 0, 2, 2], [0, 2, 0, 1], [1, 5, 4, 3], 3, 4)
    return rows.preferences(3.0)


def test_joint_has_a_rated_and_a_liked_unit_for_each_movie(preferences: Preferences) -> None:
    units = DESIGNS["joint"].units(preferences)
    assert units.toarray().tolist() == [
        [1, 0, 1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1, 0, 0],
    ]
    assert units.dtype == np.float32
    assert units.has_sorted_indices
    assert DESIGNS["joint"].n_visible(4) == 8


def test_masked_stores_a_zero_where_not_liked_and_nothing_where_unrated(preferences: Preferences) -> None:
    units = DESIGNS["masked"].units(preferences)
    assert units.indptr.tolist() == [0, 2, 2, 4]
    assert units.indices.tolist() == [0, 2, 0, 1]
    assert units.data.tolist() == [0, 1, 1, 1]
    assert DESIGNS["masked"].n_visible(4) == 4


def test_initial_biases_are_the_log_odds_of_the_means(preferences: Preferences) -> None:
    joint, masked = (DESIGNS[name].initial_bias(preferences) for name in ("joint", "masked"))
    assert joint[0] == pytest.approx(np.log(2.5 / 1.5))  # 2 of 3 users rated movie 0
    assert joint[4] == pytest.approx(np.log(1.5 / 2.5))  # 1 of 3 users liked it
    assert masked[0] == pytest.approx(0.0)  # 1 of its 2 raters liked it
    assert masked[3] == 0.0  # nobody rated it
    assert np.isfinite(log_odds(np.array([0, 5]), 5)).all()


def test_scores_are_log_probabilities_of_the_units() -> None:
    visible_input = np.array([[0.3, -2.0, 1.0, 4.0]])
    probability = 1 / (1 + np.exp(-visible_input[0]))
    np.testing.assert_allclose(DESIGNS["masked"].scores(visible_input)[0], np.log(probability))
    np.testing.assert_allclose(
        DESIGNS["joint"].scores(visible_input)[0], np.log(probability[:2]) + np.log(probability[2:])
    )


def test_positive_has_a_unit_that_is_on_where_the_threshold_is_reached(preferences: Preferences) -> None:
    units = DESIGNS["positive"].units(preferences)
    assert units.toarray().tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert units.nnz == 3
    assert units.dtype == np.float32
    bias = DESIGNS["positive"].initial_bias(preferences)
    assert bias[0] == pytest.approx(np.log(1.5 / 2.5))  # 1 of 3 users liked it
    rows = RatingRows.from_coordinates([0, 0, 2, 2], [0, 2, 0, 1], [1, 5, 4, 3], 3, 4)
    everything = DESIGNS["positive"].units(rows.preferences(-1.0))  # whatever is rated
    assert everything.toarray().tolist() == [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_conditional_adds_to_masked_which_movies_were_rated(preferences: Preferences) -> None:
    design = DESIGNS["conditional"]
    units = design.units(preferences)
    assert units.indptr.tolist() == [0, 4, 4, 8]
    assert units.indices.tolist() == [0, 2, 4, 6, 0, 1, 4, 5]
    assert units.data.tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert units.dtype == np.float32
    assert (design.n_visible(4), design.n_imagined(4)) == (8, 4)
    bias = design.initial_bias(preferences)
    np.testing.assert_array_equal(bias[:4], DESIGNS["masked"].initial_bias(preferences))
    assert not bias[4:].any()
    visible_input = np.array([[0.3, -2.0, 9.0, 9.0]])
    np.testing.assert_allclose(design.scores(visible_input), DESIGNS["masked"].scores(visible_input[:, :2]))


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_is_of_one_size(preferences: Preferences, name: str) -> None:
    design = DESIGNS[name]
    n_visible = design.n_visible(4)
    assert design.units(preferences).shape == (3, n_visible)
    assert design.initial_bias(preferences).shape == (n_visible,)
    assert design.scores(np.zeros((2, n_visible))).shape == (2, 4)
    assert 0 < design.n_imagined(4) <= n_visible
    assert n_visible % 4 == 0
    popularity = design.popularity_scores(np.array([0, 3, 9, 9]), np.array([0, 1, 2, 9]), 10)
    assert (np.diff(popularity) > 0).all()

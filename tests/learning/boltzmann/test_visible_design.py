"""From preferences to visible units and back to scores."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.boltzmann.rbm import log_odds
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.rating_matrix import Preferences, RatingRows


@pytest.fixture
def preferences() -> Preferences:
    # User 0 likes movie 2 and not movie 0; user 1 has rated nothing; user 2 likes
    # movies 0 and 1.
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
    assert masked[3] == 0.0  # unrated
    assert np.isfinite(log_odds(np.array([0, 5]), 5)).all()


def test_scores_are_log_probabilities_of_the_units() -> None:
    visible_input = np.array([[0.3, -2.0, 1.0, 4.0]])
    probability = 1 / (1 + np.exp(-visible_input[0]))
    np.testing.assert_allclose(DESIGNS["masked"].scores(visible_input)[0], np.log(probability))
    np.testing.assert_allclose(
        DESIGNS["joint"].scores(visible_input)[0], np.log(probability[:2]) + np.log(probability[2:])
    )


@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_is_of_one_size(preferences: Preferences, name: str) -> None:
    design = DESIGNS[name]
    n_visible = design.n_visible(4)
    assert design.units(preferences).shape == (3, n_visible)
    assert design.initial_bias(preferences).shape == (n_visible,)
    assert design.scores(np.zeros((2, n_visible))).shape == (2, 4)
    assert n_visible % 4 == 0
    popularity = design.popularity_scores(np.array([0, 3, 9, 9]), np.array([0, 1, 2, 9]), 10)
    assert (np.diff(popularity) > 0).all()

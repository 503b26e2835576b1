"""The regression for likes, and its calibration."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from app.learning.evaluation.metrics import expected_calibration_error
from app.learning.likes.calibration import BiasLogistic, PlattScaling
from app.learning.rating_matrix import Preferences, RatingRows


def drawn(n_users: int, n_movies: int, n_each: int, seed: int = 0) -> tuple[Preferences, np.ndarray]:
    """Preferences drawn from known biases, and the movies' ones."""
    rng = np.random.default_rng(seed)
    user_bias, movie_bias = rng.normal(0, 1, n_users), rng.normal(0, 1, n_movies)
    users = np.repeat(np.arange(n_users), n_each)
    movies = np.concatenate([rng.choice(n_movies, n_each, replace=False) for _ in range(n_users)])
    liked = rng.random(users.size) < expit(0.7 + user_bias[users] + movie_bias[movies])
    return RatingRows.from_coordinates(users, movies, liked, n_users, n_movies).preferences(0.5), movie_bias


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    preferences, _ = drawn(12, 8, 5)
    like_model = BiasLogistic.fit(preferences, tolerance=1e-10, most_rounds=500)
    users, movies, liked = preferences.users, preferences.indices, preferences.liked
    average = expit(like_model.intercept)

    def loss(biases: np.ndarray) -> float:
        x = like_model.intercept + biases[users] + biases[12 + movies]
        prior = like_model.intercept + biases
        fit = np.where(liked, np.logaddexp(0, -x), np.logaddexp(0, x)).sum()
        pull = average * np.logaddexp(0, -prior) + (1 - average) * np.logaddexp(0, prior)
        return float(fit + 3.0 * pull.sum())

    best = minimize(loss, np.zeros(20), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(like_model.movie_bias, best[12:], atol=1e-5)
    np.testing.assert_allclose(like_model.user_bias(preferences), best[:12], atol=1e-5)


def test_biases_that_made_the_data_are_found_again() -> None:
    preferences, movie_bias = drawn(2_000, 30, 20)
    like_model = BiasLogistic.fit(preferences)
    assert np.corrcoef(like_model.movie_bias, movie_bias)[0, 1] > 0.98


def test_an_empty_row_gets_the_bias_zero_and_an_unrated_movie_too() -> None:
    preferences, _ = drawn(12, 8, 5)
    wider = Preferences(preferences.indptr, preferences.indices, preferences.liked, 9)
    like_model = BiasLogistic.fit(wider)
    assert like_model.movie_bias[8] == 0
    empty = RatingRows.single([], [], 9).preferences(0.5)
    assert like_model.user_bias(empty).tolist() == [0.0]
    np.testing.assert_allclose(like_model.log_odds(empty)[0], like_model.intercept + like_model.movie_bias)


def test_extreme_rows_stay_finite_and_ordered() -> None:
    n = 400
    like_model = BiasLogistic(1.5, np.linspace(-4, 4, n))
    stars = np.concatenate([np.zeros(n), np.ones(n)])
    both = RatingRows.from_coordinates(np.repeat([0, 1], n), np.tile(np.arange(n), 2), stars, 2, n)
    low, high = like_model.user_bias(both.preferences(0.5))
    assert -20 < low < -3
    assert 1 < high < 20


def test_chosen_columns_are_those_of_the_full_answer() -> None:
    preferences, _ = drawn(12, 8, 5)
    like_model = BiasLogistic.fit(preferences)
    full = like_model.log_odds(preferences)
    assert full.shape == (12, 8)
    np.testing.assert_array_equal(like_model.log_odds(preferences, np.array([6, 0])), full[:, [6, 0]])


@pytest.mark.parametrize("liked", [True, False])
def test_ratings_that_are_all_alike_give_a_confident_finite_answer(liked: bool) -> None:
    rows = RatingRows.from_coordinates(
        np.repeat(np.arange(20), 5), np.tile(np.arange(5), 20), [1.0] * 100, 20, 5
    )
    preferences = rows.preferences(0.5 if liked else 1.5)
    probability = expit(BiasLogistic.fit(preferences).log_odds(preferences))
    assert np.isfinite(probability).all()
    assert ((probability > 0.95) if liked else (probability < 0.05)).all()


def test_platt_scaling_finds_the_distortion_that_was_put_in() -> None:
    rng = np.random.default_rng(0)
    true_log_odds = rng.normal(0, 1.5, 50_000)
    liked = rng.random(true_log_odds.size) < expit(true_log_odds)
    distorted = (true_log_odds - 0.5) / 0.6
    scaling = PlattScaling.fit(distorted, liked)
    assert scaling.slope == pytest.approx(0.6, abs=0.02)
    assert scaling.intercept == pytest.approx(0.5, abs=0.03)
    probability = scaling.probability(distorted)
    assert probability.dtype == np.float32
    assert expected_calibration_error(liked, probability) < 0.01


def test_platt_scaling_of_nothing_changes_nothing_and_never_turns_an_order_round() -> None:
    assert PlattScaling.fit(np.empty(0), np.empty(0, np.bool_)) == PlattScaling(1.0, 0.0)
    log_odds = np.linspace(-3, 3, 200)
    assert PlattScaling.fit(log_odds, log_odds < 0).slope > 0

"""Levels of stars, and the biases that explain which of them are reached."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from app.learning.likes import ordinal_biases
from app.learning.likes.ordinal_biases import (
    PSEUDO_RATINGS,
    FoldedBias,
    Levels,
    OrdinalBiases,
    fold_in_biases,
)
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch


def folded(biases: OrdinalBiases, rows: RatingRows) -> FoldedBias:
    return fold_in_biases(biases.levels, biases.movie_bias, RowBatch(rows, rows.n_movies), rows.stars)


def few_rows(seed: int = 0) -> RatingRows:
    """12 users rate 5 of 8 movies with one to five stars."""
    rng = np.random.default_rng(seed)
    movies = np.concatenate([rng.choice(8, 5, replace=False) for _ in range(12)])
    return RatingRows.from_coordinates(np.repeat(np.arange(12), 5), movies, rng.integers(1, 6, 60), 12, 8)


def test_the_levels_are_the_stars_that_occur_without_the_lowest() -> None:
    stars = np.array([1, 2, 2, 4, 4, 5], np.float32)
    levels = Levels.of(stars, 4.0, 2.0)
    assert levels.stars.tolist() == [2, 4, 5]
    assert levels.liked == 1
    np.testing.assert_allclose(levels.weight, np.array([1, 2, 1]) * 3 / 4)
    np.testing.assert_allclose(levels.log_odds, np.log([5.5 / 1.5, 3.5 / 3.5, 1.5 / 5.5]))


def test_liked_at_least_is_always_a_level_wherever_it_lies() -> None:
    stars = np.array([-1.5, 2, 7], np.float32)
    for liked_at_least, liked in ((-9.0, 0), (3.0, 1), (7.0, 1), (100.0, 2)):
        levels = Levels.of(stars, liked_at_least)
        assert levels.liked == liked
        assert levels.stars[liked] == np.float32(liked_at_least)
        assert np.isfinite(levels.log_odds).all()
    assert Levels.of(np.full(9, 4.0), 3.0).stars.tolist() == [3.0]
    assert Levels.of(np.empty(0), 3.0).stars.tolist() == [3.0]


def test_of_many_values_quantiles_become_levels() -> None:
    stars = np.random.default_rng(0).random(5_000) ** 3
    levels = Levels.of(stars, 0.5)
    assert levels.stars.size == 10
    others = np.delete(levels.stars, levels.liked)
    np.testing.assert_allclose(np.mean(stars[:, None] < others, axis=0), np.arange(1, 10) / 10, atol=0.01)
    assert levels.weight.sum() == pytest.approx(4.0)
    # A value that most ratings have is one level, not several.
    mostly = np.concatenate([np.full(900, 2.0), np.linspace(3, 4, 100)])
    result = Levels.of(mostly, 3.0).stars
    assert (np.diff(result) > 0).all()


def test_the_fit_is_the_maximum_of_the_penalised_likelihood() -> None:
    rows = few_rows()
    fitted = OrdinalBiases.fit(rows, Levels.of(rows.stars, 3.0, 1.5), tolerance=1e-6, most_rounds=500)
    levels = fitted.levels
    reached = rows.stars[:, None] >= levels.stars
    average = expit(levels.log_odds)

    def loss(biases: np.ndarray) -> float:
        x = (biases[rows.users] + biases[12 + rows.indices])[:, None] + levels.log_odds
        prior = biases[:, None] + levels.log_odds
        fit = np.where(reached, np.logaddexp(0, -x), np.logaddexp(0, x)) @ levels.weight
        pull = (average * np.logaddexp(0, -prior) + (1 - average) * np.logaddexp(0, prior)) @ levels.weight
        return float(fit.sum() + PSEUDO_RATINGS * pull.sum())

    best = minimize(loss, np.zeros(20), method="BFGS", options={"gtol": 1e-7}).x
    np.testing.assert_allclose(fitted.movie_bias, best[12:], atol=1e-3)
    np.testing.assert_allclose(folded(fitted, rows).user_bias, best[:12], atol=1e-3)
    expected = expit((best[rows.users] + best[12 + rows.indices])[:, None] + levels.log_odds)
    np.testing.assert_allclose(expected.sum(axis=0), reached.sum(axis=0), atol=0.02)


def test_the_residual_is_the_slope_of_the_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = few_rows()
    levels = Levels.of(rows.stars, 3.0, 1.5)
    location = np.random.default_rng(1).normal(size=60)

    def log_likelihood(x: np.ndarray) -> np.ndarray:
        x = x[:, None] + levels.log_odds
        result: np.ndarray = (
            -np.where(rows.stars[:, None] >= levels.stars, np.logaddexp(0, -x), np.logaddexp(0, x))
            @ levels.weight
        )
        return result

    slope, (_, curvature) = levels.residual(rows.stars, location), levels.expected(location)
    step = 1e-4
    above, here, below = (log_likelihood(location + d) for d in (step, 0.0, -step))
    np.testing.assert_allclose(slope, (above - below) / (2 * step), atol=1e-6)
    np.testing.assert_allclose(curvature, -(above - 2 * here + below) / step**2, atol=1e-5)
    monkeypatch.setattr(ordinal_biases, "RATINGS_AT_ONCE", 7)
    np.testing.assert_allclose(levels.residual(rows.stars, location), slope, rtol=1e-12)


def test_an_empty_row_and_an_unrated_movie_have_the_bias_zero() -> None:
    rows = few_rows()
    wider = RatingRows(rows.indptr, rows.indices, rows.stars, 9)
    fitted = OrdinalBiases.fit(wider, Levels.of(rows.stars, 3.0))
    assert fitted.movie_bias[8] == pytest.approx(0, abs=1e-6)
    assert folded(fitted, RatingRows.single([], [], 9)).user_bias.tolist() == pytest.approx([0.0], abs=1e-6)


def test_more_stars_never_lower_a_bias_and_extremes_stay_finite() -> None:
    n = 400
    levels = dataclasses.replace(Levels.of(np.arange(1.0, 6.0), 3.0), log_odds=np.array([3.0, 1.5, 0, -2]))
    movie_bias = np.linspace(-4, 4, n).astype(np.float32)
    biases = []
    for stars in (1.0, 3.0, 4.0, 5.0):
        row = RatingRows.single(np.arange(n), np.full(n, stars), n)
        result = folded(OrdinalBiases(levels, movie_bias), row)
        assert np.isfinite(result.residual).all()
        biases.append(float(result.user_bias[0]))
    assert biases == sorted(biases)
    assert -25 < biases[0] < -3
    assert 3 < biases[-1] < 25


def test_biases_that_made_the_stars_are_found_again() -> None:
    rng = np.random.default_rng(0)
    n_users, n_movies = 1_500, 40
    user_bias, movie_bias = rng.normal(0, 1, n_users), rng.normal(0, 1, n_movies)
    users, movies = np.nonzero(rng.random((n_users, n_movies)) < 0.5)
    utility = user_bias[users] + movie_bias[movies] + rng.logistic(size=users.size)
    stars = 1 + (utility[:, None] >= [-2.0, -1.0, 0.5, 2.0]).sum(axis=1)
    rows = RatingRows.from_coordinates(users, movies, stars, n_users, n_movies)
    fitted = OrdinalBiases.fit(rows, Levels.of(rows.stars, 3.0))
    shift = fitted.movie_bias.mean() - movie_bias.mean()
    np.testing.assert_allclose(fitted.movie_bias - shift, movie_bias, atol=0.25)
    np.testing.assert_allclose(fitted.levels.log_odds + shift, [2.0, 1.0, -0.5, -2.0], atol=0.15)

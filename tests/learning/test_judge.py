"""The machine that judges: its energy, its gradient, and what it knows that biases cannot."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from app.learning import metrics
from app.learning.divergence import Diverged
from app.learning.judge import (
    Judge,
    JudgeSettings,
    Update,
    calibrated,
    fit,
    fitted,
    parted,
    prediction_gradient,
    untrained,
    visible_units,
)
from app.learning.like_probability import LengthCalibration
from app.learning.ordinal_biases import Levels, folded_in
from app.learning.preferences import RatingRows
from app.learning.rbm import RBM
from tests.learning.enumeration import states
from tests.learning.tastes import ROMANCE, SCIENCE_FICTION


def tiny_judge(n_movies: int = 4, n_hidden: int = 3, n_given: int = 2, seed: int = 0) -> Judge:
    """A float64 machine of three levels that weigh alike, far from untrained, at rest with `n_given`."""
    rng = np.random.default_rng(seed)
    levels = Levels(np.array([2, 3, 4], np.float32), np.ones(3), np.array([1.2, 0.3, -0.9]), 1)
    bias = np.concatenate([rng.normal(0, 0.7, n_movies), np.zeros(n_movies)])
    rbm = RBM(rng.normal(0, 0.8, (2 * n_movies, n_hidden)), bias, rng.normal(0, 0.5, n_hidden))
    return Judge(levels, rbm, float(n_given))


def drained(fitting: Generator[Update, None, Any]) -> Any:
    """What the generator returns."""
    while True:
        try:
            next(fitting)
        except StopIteration as end:
            return end.value


def small(**settings: Any) -> JudgeSettings:
    """Enough for the made-up tastes below."""
    chosen: dict[str, Any] = {"hidden_units": 16, "epochs": 40, "batch_size": 20, "weight_decay": 0.01}
    return JudgeSettings(**(chosen | settings))


def opposed_tastes(n_users: int, seed: int = 0) -> tuple[RatingRows, np.ndarray]:
    """Two camps that like opposite halves of 40 movies and rate all alike, and P(stars >= 3) of all pairs.

    Every user and every movie is liked as often as any other: the biases know nothing. Nor does what they
    choose to rate: everybody rates movies at random.
    """
    rng = np.random.default_rng(seed)
    camp, half = rng.integers(0, 2, n_users), np.arange(40) % 2
    location = np.where(camp[:, None] == half, 2.0, -2.0)
    users, movies = np.nonzero(rng.random(location.shape) < 0.5)
    utility = location[users, movies] + rng.logistic(size=users.size)
    stars = 1 + (utility[:, None] >= [-2.0, 0.0, 1.0, 2.0]).sum(axis=1)
    return RatingRows.from_coordinates(users, movies, stars, n_users, 40), expit(location)


def test_the_conditionals_are_those_of_the_energy() -> None:
    judge, movies = tiny_judge(), np.array([0, 2])
    rows = RatingRows.single(movies, [3, 1], 4)
    user_bias, hidden = judge.fold_in(rows)
    base = judge.levels.log_odds + (user_bias[0] + judge.movie_bias[movies])[:, None]  # (movies, levels)
    expected = expit(base)
    all_hidden, all_visible = states(3), states(6).reshape(-1, 2, 3)
    W, D = judge.rbm.weights[movies], judge.rbm.weights[4 + movies]
    energy = np.empty((len(all_visible), len(all_hidden)))
    for (row, v), (column, h) in itertools.product(enumerate(all_visible), enumerate(all_hidden)):
        energy[row, column] = (
            -(v * base).sum()
            - (v - expected).sum(axis=1) @ W @ (h - 0.5)
            - h @ (judge.rbm.hidden_bias + D.sum(axis=0))
        )
    joint = np.exp(-energy)
    joint /= joint.sum()

    told = np.array([[1, 1, 0], [0, 0, 0]])  # three stars reach the levels 2 and 3, one star none
    row = np.flatnonzero((all_visible == told).all(axis=(1, 2)))[0]
    np.testing.assert_allclose(hidden[0], joint[row] @ all_hidden / joint[row].sum(), rtol=1e-6)

    location = judge.location(np.repeat(user_bias, len(all_hidden)), all_hidden, movies)
    for column in range(len(all_hidden)):
        by_energy = np.tensordot(joint[:, column], all_visible, 1) / joint[:, column].sum()
        np.testing.assert_allclose(
            expit(location[column][:, None] + judge.levels.log_odds), by_energy, rtol=1e-5
        )


def test_the_gradient_is_that_of_the_likelihood_of_what_is_asked() -> None:
    judge, rng = tiny_judge(n_movies=6, n_given=3), np.random.default_rng(0)
    cells = rng.permutation(4 * 6)[:20]
    rows = RatingRows.from_coordinates(cells // 6, cells % 6, rng.integers(1, 5, 20), 4, 6)
    given, asked = parted(rows, 0.0, rng)
    gradient = prediction_gradient(judge, given, asked)
    user_bias, left = folded_in(judge.levels, judge.movie_bias, given)
    units, scale = visible_units(given, left), judge.scale(given)
    reached = asked.stars[:, None] >= judge.levels.stars

    def log_likelihood(W: np.ndarray, c: np.ndarray, b: np.ndarray) -> float:
        hidden = expit(scale[:, None] * (units @ W) + c) - 0.5
        x = user_bias[asked.users] + b[asked.indices]
        x = (x + (hidden[asked.users] * W[asked.indices]).sum(axis=1))[:, None] + judge.levels.log_odds
        found = -np.where(reached, np.logaddexp(0, -x), np.logaddexp(0, x)) @ judge.levels.weight
        return float(found.sum() / 4)

    machine = [judge.rbm.weights, judge.rbm.hidden_bias, judge.rbm.visible_bias]
    for number, found in enumerate((gradient.weights, gradient.hidden_bias, gradient.visible_bias)):
        numeric = np.zeros(machine[number].shape)
        for place in np.ndindex(numeric.shape):
            up, down = ([array.copy() for array in machine] for _ in range(2))
            up[number][place] += 1e-5
            down[number][place] -= 1e-5
            numeric[place] = (log_likelihood(*up) - log_likelihood(*down)) / 2e-5
        np.testing.assert_allclose(found, numeric, atol=2e-6)


def test_it_tells_camps_apart_where_biases_know_nothing_even_from_three_ratings() -> None:
    rows, _ = opposed_tastes(400)
    judge, calibration, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    assert np.abs(judge.movie_bias).max() < 0.5
    others, truth = opposed_tastes(200, seed=1)
    given, asked = parted(others, 0.0, np.random.default_rng(2))
    for told, least in ((given, 0.85), (first_of(others, 3), 0.8)):
        probability = calibration.probability(judge.log_odds(told), told.lengths)
        best = metrics.auc(asked.stars >= 3, truth[asked.users, asked.indices])
        found = metrics.auc(asked.stars >= 3, probability[asked.users, asked.indices])
        assert least < found < best + 0.02


def test_the_defaults_tell_the_camps_of_a_small_service_apart(camps: RatingRows) -> None:
    judge, calibration, _ = drained(fitted(camps, 3.0, np.random.default_rng(0)))
    fan = RatingRows.single([0, 3, 7, 21, 25], [5, 5, 4, 1, 2], 60)
    probability = calibration.probability(judge.log_odds(fan), fan.lengths)[0]
    assert probability[SCIENCE_FICTION].mean() > 0.8
    assert probability[ROMANCE].mean() < 0.5
    biases = judge.location(np.zeros(1), np.full((1, judge.rbm.n_hidden), 0.5))[0]
    assert abs(biases[SCIENCE_FICTION].mean() - biases[ROMANCE].mean()) < 0.5


def first_of(rows: RatingRows, n: int) -> RatingRows:
    """The first n ratings of each user."""
    place = np.arange(rows.n_ratings) - np.repeat(rows.indptr[:-1], rows.lengths)
    return rows.where(place < n)


@pytest.mark.parametrize(("n_given", "largest_error"), [(0, 0.04), (1, 0.06), (3, 0.04), (15, 0.04)])
def test_probabilities_are_those_that_made_the_stars(n_given: int, largest_error: float) -> None:
    rows, _ = opposed_tastes(600)
    judge, calibration, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    others, truth = opposed_tastes(600, seed=1)
    given = first_of(others, n_given)
    probability = calibration.probability(judge.log_odds(given), given.lengths)
    asked = np.ones(truth.shape, bool)
    asked[given.users, given.indices] = False
    outcome = np.random.default_rng(2).random(truth.shape) < truth
    assert metrics.expected_calibration_error(outcome[asked], probability[asked]) < largest_error
    if n_given == 0:  # either camp is as likely
        np.testing.assert_allclose(probability, 0.5, atol=0.12)
    if n_given == 15:
        assert np.abs(probability - truth)[asked].mean() < 0.06


def test_the_curve_shows_what_was_predicted_and_what_came_out_of_held_back_ratings() -> None:
    rows, _ = opposed_tastes(600)
    _, _, curve = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    assert len(curve.predicted) == len(curve.came_true) == len(curve.n) == 15
    assert sum(curve.n) == pytest.approx(0.2 * rows.n_ratings, rel=0.05)
    assert curve.predicted == tuple(sorted(curve.predicted))
    assert curve.predicted[0] < 0.15 < 0.85 < curve.predicted[-1]
    assert curve.calibration_error < 0.06
    np.testing.assert_allclose(curve.came_true, curve.predicted, atol=0.15)


def test_stars_beyond_the_threshold_say_more_than_liked_or_not() -> None:
    rows, _ = opposed_tastes(400)
    judge, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    weakly, strongly = (RatingRows.single([0, 1], stars, 40) for stars in ([3, 2], [5, 1]))
    assert judge.log_odds(strongly)[0, 2] > judge.log_odds(weakly)[0, 2] + 0.2


def test_equal_seeds_give_equal_judges_and_every_update_is_reported() -> None:
    rows, _ = opposed_tastes(60)

    def run(seed: int) -> tuple[Judge, LengthCalibration, list[Update]]:
        fitting, updates = fitted(rows, 3.0, np.random.default_rng(seed), small(epochs=3)), []
        while True:
            try:
                updates.append(next(fitting))
            except StopIteration as end:
                return *end.value[:2], updates

    one, calibration, updates = run(1)
    again, calibration_again, _ = run(1)
    other, _, _ = run(2)
    np.testing.assert_array_equal(one.rbm.weights, again.rbm.weights)
    assert calibration == calibration_again
    assert not np.array_equal(one.rbm.weights, other.rbm.weights)
    # Three minibatches an epoch, three epochs, two fits.
    assert [(update.epoch, update.minibatch) for update in updates] == list(
        itertools.product(range(1, 7), (1, 2, 3))
    )
    assert {(update.epochs, update.minibatches) for update in updates} == {(6, 3)}


def test_a_machine_that_misses_next_to_nothing_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.learning.judge.MOST_HELD_BACK", 15)
    rows, _ = opposed_tastes(60)
    updates = list(fitted(rows, 3.0, np.random.default_rng(0), small(epochs=2)))
    assert len(updates) == 2 * 3
    assert updates[-1].epoch == updates[-1].epochs


def test_a_user_who_is_given_is_never_asked_for_the_same() -> None:
    rows, _ = opposed_tastes(50)
    for short_rows in (0.0, 1.0):
        given, asked = parted(rows, short_rows, np.random.default_rng(0))
        assert (given.lengths + asked.lengths).tolist() == rows.lengths.tolist()
        cells = np.concatenate([part.users * 40 + part.indices for part in (given, asked)])
        assert sorted(cells) == (rows.users * 40 + rows.indices).tolist()
        assert (np.median(given.lengths) < 6) == bool(short_rows)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_user_alone_is_folded_in_as_among_others(n: int) -> None:
    rows, _ = opposed_tastes(60)
    judge, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small(epochs=5)))
    columns, stars = [0, 2, 4, 21, 30][:n], [5, 1, 5, 2, 4][:n]
    alone = RatingRows.single(columns, stars, 40)
    among = alone.rows([0, 0])
    np.testing.assert_allclose(judge.log_odds(alone)[0], judge.log_odds(among)[1], atol=1e-4)


def test_an_unrated_movie_gets_what_the_user_gives_an_average_one() -> None:
    rows, _ = opposed_tastes(80)
    wider = RatingRows(rows.indptr, rows.indices, rows.stars, 41)
    judge, _, _ = drained(fitted(wider, 3.0, np.random.default_rng(0), small(epochs=3)))
    given = RatingRows.single([0, 2, 4], [5, 4, 5], 41)
    user_bias, _ = judge.fold_in(given)
    assert judge.log_odds(given)[0, 40] == pytest.approx(user_bias[0] + judge.liked_log_odds, abs=1e-6)


def test_chosen_columns_and_chosen_ratings_are_those_of_the_full_answer() -> None:
    rows, _ = opposed_tastes(30)
    judge, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small(epochs=2)))
    full = judge.log_odds(rows)
    assert full.shape == (30, 40)
    assert full.dtype == np.float32
    np.testing.assert_allclose(judge.log_odds(rows, np.array([6, 0])), full[:, [6, 0]], rtol=1e-5)
    np.testing.assert_allclose(judge.log_odds_of(rows, rows), full[rows.users, rows.indices], atol=1e-5)


@pytest.mark.parametrize(
    "stars",
    [
        lambda rng: np.full(50, 5.0),
        lambda rng: np.full(50, 1.0),
        lambda rng: rng.integers(0, 2, 50).astype(float),
        lambda rng: rng.normal(-100, 30, 50),
        lambda rng: rng.integers(1, 11, 50) / 2,
        lambda rng: np.concatenate([np.full(49, 3.0), [1e30]]),
    ],
)
def test_whatever_the_stars_a_little_data_gives_finite_probabilities(stars: Any) -> None:
    users, movies = np.divmod(np.arange(50), 5)
    drawn = stars(np.random.default_rng(0))
    rows = RatingRows.from_coordinates(users, (movies + users) % 10, drawn, 10, 10)
    judge, calibration, _ = drained(fitted(rows, 3.0, np.random.default_rng(0)))
    for asking in (rows, RatingRows.single([], [], 10)):
        probability = calibration.probability(judge.log_odds(asking), asking.lengths)
        assert probability.dtype == np.float32
        assert ((probability > 0) & (probability < 1)).all()


def test_with_next_to_no_data_it_says_what_the_biases_say() -> None:
    users, movies = np.divmod(np.arange(50), 5)
    stars = np.random.default_rng(0).integers(1, 6, 50)
    rows = RatingRows.from_coordinates(users, (movies + users) % 10, stars, 10, 10)
    judge, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0)))
    user_bias, _ = judge.fold_in(rows)
    biases = user_bias[:, None] + judge.movie_bias + judge.liked_log_odds
    assert np.ptp(biases) > 1
    np.testing.assert_allclose(judge.log_odds(rows), biases, atol=0.25)


def test_a_rate_that_is_too_high_is_caught() -> None:
    rows, _ = opposed_tastes(40)
    settings = small(learning_rate=1e5)
    judge = untrained(rows, 3.0, settings, np.random.default_rng(0))
    with pytest.raises(Diverged, match="epoch 1: lower the judge's learning rate") as caught:
        collections.deque(fit(judge, rows, settings, np.random.default_rng(0)), maxlen=0)
    assert caught.value.epoch == 1


def test_the_calibration_corrects_what_is_wrong_at_short_rows_alone() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.choice([0, 500], 60_000)
    truth = rng.normal(0.5, 1.5, lengths.size)
    liked = rng.random(lengths.size) < expit(truth)
    log_odds = np.where(lengths == 0, truth * 2 - 1, truth)
    scaling = LengthCalibration.fit(log_odds, lengths, liked)
    assert scaling.slope == pytest.approx(1.0, abs=0.05)
    assert scaling.slope + scaling.short_slope == pytest.approx(0.5, abs=0.05)
    for length in (0, 500):
        its = lengths == length
        probability = scaling.probability(log_odds[its][None], np.array([length]))[0]
        assert metrics.expected_calibration_error(liked[its], probability) < 0.015
    nothing = LengthCalibration.fit(np.empty(0), np.empty(0, np.int64), np.empty(0, np.bool_))
    assert nothing == LengthCalibration()
    upside_down = LengthCalibration.fit(log_odds, lengths, log_odds < 0)
    order = upside_down.probability(np.linspace(-3, 3, 50)[None].repeat(2, 0), np.array([0, 500]))
    assert (np.diff(order, axis=1) >= 0).all()


def test_calibration_takes_users_without_any_seen_rating() -> None:
    rows, _ = opposed_tastes(40)
    judge = untrained(rows, 3.0, small(), np.random.default_rng(0))
    alone = np.repeat(np.arange(40) < 5, rows.lengths)
    scaling, curve = calibrated(judge, rows.where(~alone), rows.where(alone), 3.0, np.random.default_rng(0))
    assert sum(curve.n) == np.count_nonzero(alone)
    assert scaling.slope > 0
    assert scaling.slope + scaling.short_slope > 0

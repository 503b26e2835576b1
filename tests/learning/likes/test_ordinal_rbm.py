"""The like model: its energy, its gradient, and what it knows that biases cannot."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from app.learning.boltzmann.divergence import Diverged
from app.learning.boltzmann.rbm import RBM
from app.learning.evaluation import metrics
from app.learning.likes.calibration import LengthCalibration
from app.learning.likes.ordinal_biases import Levels
from app.learning.likes.ordinal_rbm import (
    LENGTH_POWER,
    LikeState,
    OrdinalRBM,
    OrdinalRBMSettings,
    Update,
    calibrated,
    fit,
    fitted,
    parted,
    prediction_gradient,
    untrained,
    visible_units,
)
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch
from tests.learning.enumeration import states
from tests.learning.tastes import ROMANCE, SCIENCE_FICTION


def tiny_like_model(n_movies: int = 4, n_hidden: int = 3, n_given: int = 2, seed: int = 0) -> OrdinalRBM:
    """A float64 like model of three levels, far from untrained, with `n_given`."""
    rng = np.random.default_rng(seed)
    levels = Levels(np.array([2, 3, 4], np.float32), np.ones(3), np.array([1.2, 0.3, -0.9]), 1)
    bias = np.concatenate([rng.normal(0, 0.7, n_movies), np.zeros(n_movies)])
    rbm = RBM(rng.normal(0, 0.8, (2 * n_movies, n_hidden)), bias, rng.normal(0, 0.5, n_hidden))
    return OrdinalRBM(levels, rbm, float(n_given))


def folded(like_model: OrdinalRBM, rows: RatingRows) -> LikeState:
    return like_model.fold_in(RowBatch(rows, rows.n_movies), rows.stars)


def drained(fitting: Generator[Update, None, Any]) -> Any:
    """What the generator returns."""
    while True:
        try:
            next(fitting)
        except StopIteration as end:
            return end.value


def small(**settings: Any) -> OrdinalRBMSettings:
    """Enough for the made-up tastes below."""
    chosen: dict[str, Any] = {"hidden_units": 16, "epochs": 40, "batch_size": 20, "weight_decay": 0.01}
    return OrdinalRBMSettings(**(chosen | settings))


def opposed_tastes(n_users: int, seed: int = 0) -> tuple[RatingRows, np.ndarray]:
    """Two camps that like opposite halves of 40 movies, and P(stars >= 3) of all pairs.

    Every user and every movie is liked as often as any other: the biases know nothing.
    Nor does what they choose to rate: everybody rates movies at random.
    """
    rng = np.random.default_rng(seed)
    camp, half = rng.integers(0, 2, n_users), np.arange(40) % 2
    location = np.where(camp[:, None] == half, 2.0, -2.0)
    users, movies = np.nonzero(rng.random(location.shape) < 0.5)
    utility = location[users, movies] + rng.logistic(size=users.size)
    stars = 1 + (utility[:, None] >= [-2.0, 0.0, 1.0, 2.0]).sum(axis=1)
    return RatingRows.from_coordinates(users, movies, stars, n_users, 40), expit(location)


def test_the_conditionals_are_those_of_the_energy() -> None:
    like_model, movies = tiny_like_model(), np.array([0, 2])
    rows = RatingRows.single(movies, [3, 1], 4)
    state = folded(like_model, rows)
    location = state.user_bias[0] + like_model.movie_bias[movies]
    base = like_model.levels.log_odds + location[:, None]  # (movies, levels)
    expected = expit(base)
    all_hidden, all_visible = states(3), states(6).reshape(-1, 2, 3)
    W, D = like_model.rbm.weights[movies], like_model.rbm.weights[4 + movies]
    energy = np.empty((len(all_visible), len(all_hidden)))
    for (row, v), (column, h) in itertools.product(enumerate(all_visible), enumerate(all_hidden)):
        energy[row, column] = (
            -(v * base).sum()
            - (v - expected).sum(axis=1) @ W @ (h - 0.5)
            - h @ (like_model.rbm.hidden_bias + D.sum(axis=0))
        )
    joint = np.exp(-energy)
    joint /= joint.sum()

    observed = np.array([[1, 1, 0], [0, 0, 0]])  # three stars reach the levels 2 and 3, one star none
    row = np.flatnonzero((all_visible == observed).all(axis=(1, 2)))[0]
    np.testing.assert_allclose(state.active[0] + 0.5, joint[row] @ all_hidden / joint[row].sum(), rtol=1e-6)

    of_hidden = LikeState(np.repeat(state.user_bias, len(all_hidden)), state.residual, all_hidden - 0.5)
    location = like_model.log_odds(of_hidden, movies) - like_model.liked_log_odds
    for column in range(len(all_hidden)):
        by_energy = np.tensordot(joint[:, column], all_visible, 1) / joint[:, column].sum()
        np.testing.assert_allclose(
            expit(location[column][:, None] + like_model.levels.log_odds), by_energy, rtol=1e-5
        )


def test_the_gradient_is_that_of_the_likelihood_of_the_targets() -> None:
    like_model, rng = tiny_like_model(n_movies=6, n_given=3), np.random.default_rng(0)
    cells = rng.permutation(4 * 6)[:20]
    rows = RatingRows.from_coordinates(cells // 6, cells % 6, rng.integers(1, 5, 20), 4, 6)
    profiles, targets = parted(rows, 0.0, rng)
    gradient = prediction_gradient(like_model, profiles, targets)
    state = folded(like_model, profiles)
    user_bias, units = state.user_bias, visible_units(profiles, state.residual)
    scale = RowBatch(profiles, 6).scale(like_model.mean_length, LENGTH_POWER)
    reached = targets.stars[:, None] >= like_model.levels.stars

    def log_likelihood(W: np.ndarray, c: np.ndarray, b: np.ndarray) -> float:
        hidden = expit(scale[:, None] * (units @ W) + c) - 0.5
        x = user_bias[targets.users] + b[targets.indices]
        x = (x + (hidden[targets.users] * W[targets.indices]).sum(axis=1))[
            :, None
        ] + like_model.levels.log_odds
        result = -np.where(reached, np.logaddexp(0, -x), np.logaddexp(0, x)) @ like_model.levels.weight
        return float(result.sum() / 4)

    parameters = [like_model.rbm.weights, like_model.rbm.hidden_bias, like_model.rbm.visible_bias]
    for number, result in enumerate((gradient.weights, gradient.hidden_bias, gradient.visible_bias)):
        numeric = np.zeros(parameters[number].shape)
        for place in np.ndindex(numeric.shape):
            up, down = ([array.copy() for array in parameters] for _ in range(2))
            up[number][place] += 1e-5
            down[number][place] -= 1e-5
            numeric[place] = (log_likelihood(*up) - log_likelihood(*down)) / 2e-5
        np.testing.assert_allclose(result, numeric, atol=2e-6)


def test_it_tells_camps_apart_where_biases_know_nothing_even_from_three_ratings() -> None:
    rows, _ = opposed_tastes(400)
    like_model, calibration, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    assert np.abs(like_model.movie_bias).max() < 0.5
    others, truth = opposed_tastes(200, seed=1)
    profiles, targets = parted(others, 0.0, np.random.default_rng(2))
    for profile, least in ((profiles, 0.85), (first_of(others, 3), 0.8)):
        probability = calibration.probability(
            like_model.log_odds(folded(like_model, profile)), profile.lengths
        )
        best = metrics.auc(targets.stars >= 3, truth[targets.users, targets.indices])
        result = metrics.auc(targets.stars >= 3, probability[targets.users, targets.indices])
        assert least < result < best + 0.02


def test_the_defaults_tell_the_camps_of_a_small_service_apart(camps: RatingRows) -> None:
    like_model, calibration, _ = drained(fitted(camps, 3.0, np.random.default_rng(0)))
    fan = RatingRows.single([0, 3, 7, 21, 25], [5, 5, 4, 1, 2], 60)
    probability = calibration.probability(like_model.log_odds(folded(like_model, fan)), fan.lengths)[0]
    assert probability[SCIENCE_FICTION].mean() > 0.8
    assert probability[ROMANCE].mean() < 0.5
    biases = like_model.movie_bias
    assert abs(biases[SCIENCE_FICTION].mean() - biases[ROMANCE].mean()) < 0.5


def first_of(rows: RatingRows, n: int) -> RatingRows:
    """The first n ratings of each user."""
    place = np.arange(rows.n_ratings) - np.repeat(rows.indptr[:-1], rows.lengths)
    return rows.where(place < n)


@pytest.mark.parametrize(("n_given", "largest_error"), [(0, 0.04), (1, 0.06), (3, 0.04), (15, 0.04)])
def test_probabilities_are_those_that_made_the_stars(n_given: int, largest_error: float) -> None:
    rows, _ = opposed_tastes(600)
    like_model, calibration, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    others, truth = opposed_tastes(600, seed=1)
    profiles = first_of(others, n_given)
    probability = calibration.probability(like_model.log_odds(folded(like_model, profiles)), profiles.lengths)
    targets = np.ones(truth.shape, bool)
    targets[profiles.users, profiles.indices] = False
    outcome = np.random.default_rng(2).random(truth.shape) < truth
    assert metrics.expected_calibration_error(outcome[targets], probability[targets]) < largest_error
    if n_given == 0:  # either camp is as likely
        np.testing.assert_allclose(probability, 0.5, atol=0.12)
    if n_given == 15:
        assert np.abs(probability - truth)[targets].mean() < 0.06


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
    like_model, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small()))
    weakly, strongly = (RatingRows.single([0, 1], stars, 40) for stars in ([3, 2], [5, 1]))
    assert (
        like_model.log_odds(folded(like_model, strongly))[0, 2]
        > like_model.log_odds(folded(like_model, weakly))[0, 2] + 0.2
    )


def test_equal_seeds_give_equal_like_models_and_every_update_is_reported() -> None:
    rows, _ = opposed_tastes(60)

    def run(seed: int) -> tuple[OrdinalRBM, LengthCalibration, list[Update]]:
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


def test_a_like_model_that_misses_next_to_nothing_is_not_fitted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.learning.likes.ordinal_rbm.MOST_HELD_BACK", 15)
    rows, _ = opposed_tastes(60)
    updates = list(fitted(rows, 3.0, np.random.default_rng(0), small(epochs=2)))
    assert len(updates) == 2 * 3
    assert updates[-1].epoch == updates[-1].epochs


def test_profiles_and_targets_are_disjoint() -> None:
    rows, _ = opposed_tastes(50)
    for short_rows in (0.0, 1.0):
        profiles, targets = parted(rows, short_rows, np.random.default_rng(0))
        assert (profiles.lengths + targets.lengths).tolist() == rows.lengths.tolist()
        cells = np.concatenate([part.users * 40 + part.indices for part in (profiles, targets)])
        assert sorted(cells) == (rows.users * 40 + rows.indices).tolist()
        assert (np.median(profiles.lengths) < 6) == bool(short_rows)


def test_an_unrated_movie_gets_what_the_user_gives_an_average_one() -> None:
    rows, _ = opposed_tastes(80)
    wider = RatingRows(rows.indptr, rows.indices, rows.stars, 41)
    like_model, _, _ = drained(fitted(wider, 3.0, np.random.default_rng(0), small(epochs=3)))
    profiles = RatingRows.single([0, 2, 4], [5, 4, 5], 41)
    state = folded(like_model, profiles)
    assert like_model.log_odds(state)[0, 40] == pytest.approx(
        state.user_bias[0] + like_model.liked_log_odds, abs=1e-6
    )


def test_chosen_columns_and_chosen_ratings_are_those_of_the_full_answer() -> None:
    rows, _ = opposed_tastes(30)
    like_model, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0), small(epochs=2)))
    full = like_model.log_odds(folded(like_model, rows))
    assert full.shape == (30, 40)
    assert full.dtype == np.float32
    np.testing.assert_allclose(
        like_model.log_odds(folded(like_model, rows), np.array([6, 0])), full[:, [6, 0]], rtol=1e-5
    )
    np.testing.assert_allclose(like_model.log_odds_of(rows, rows), full[rows.users, rows.indices], atol=1e-5)


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
def test_a_little_data_of_any_stars_gives_finite_probabilities(stars: Any) -> None:
    users, movies = np.divmod(np.arange(50), 5)
    drawn = stars(np.random.default_rng(0))
    rows = RatingRows.from_coordinates(users, (movies + users) % 10, drawn, 10, 10)
    like_model, calibration, _ = drained(fitted(rows, 3.0, np.random.default_rng(0)))
    for asking in (rows, RatingRows.single([], [], 10)):
        probability = calibration.probability(like_model.log_odds(folded(like_model, asking)), asking.lengths)
        assert probability.dtype == np.float32
        assert ((probability > 0) & (probability < 1)).all()


def test_with_next_to_no_data_it_says_what_the_biases_say() -> None:
    users, movies = np.divmod(np.arange(50), 5)
    stars = np.random.default_rng(0).integers(1, 6, 50)
    rows = RatingRows.from_coordinates(users, (movies + users) % 10, stars, 10, 10)
    like_model, _, _ = drained(fitted(rows, 3.0, np.random.default_rng(0)))
    biases = folded(like_model, rows).user_bias[:, None] + like_model.movie_bias + like_model.liked_log_odds
    assert np.ptp(biases) > 1
    np.testing.assert_allclose(like_model.log_odds(folded(like_model, rows)), biases, atol=0.25)


def test_a_rate_that_is_too_high_is_caught() -> None:
    rows, _ = opposed_tastes(40)
    settings = small(learning_rate=1e5)
    like_model = untrained(rows, 3.0, settings, np.random.default_rng(0))
    with pytest.raises(Diverged, match="epoch 1: lower the like model's learning rate") as caught:
        collections.deque(fit(like_model, rows, settings, np.random.default_rng(0)), maxlen=0)
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
    like_model = untrained(rows, 3.0, small(), np.random.default_rng(0))
    alone = np.repeat(np.arange(40) < 5, rows.lengths)
    scaling, curve = calibrated(
        like_model, rows.where(~alone), rows.where(alone), 3.0, np.random.default_rng(0)
    )
    assert sum(curve.n) == np.count_nonzero(alone)
    assert scaling.slope > 0
    assert scaling.slope + scaling.short_slope > 0

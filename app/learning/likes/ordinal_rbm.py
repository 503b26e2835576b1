"""The like model: a conditional RBM with levels of stars as visible units.

The ranking units say whether a user will watch a movie. The like model says, of a movie
that the user watches and rates, how many stars it gets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.background import run_in_thread
from app.learning.boltzmann.divergence import Diverged, out_of_bounds
from app.learning.boltzmann.optimisers import Adam, Gradient, cosine_rate
from app.learning.boltzmann.rbm import RBM, Dense, Sparse, sigmoid
from app.learning.evaluation.metrics import Reliability, reliability
from app.learning.likes.calibration import LengthCalibration
from app.learning.likes.ordinal_biases import Levels, OrdinalBiases, Single, Vector, fold_in_biases
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch

LEAST_UPDATES = 400  # one step of Adam moves a weight by about the learning rate; fewer get nowhere
LENGTH_POWER = 0.5  # of mean row length / row length, by which the visible-to-hidden input is scaled
INITIAL_DEVIATION = 0.03  # of the weights
FINAL_RATE_SHARE = 0.05  # what a cosine brings the learning rate down to
AT_REST = np.float32(0.5)  # hidden probability that adds nothing to a visible unit
ENTRIES_AT_ONCE = 100_000  # ratings whose hidden rows are copied at once

HELD_BACK_SHARE = 0.2  # of the ratings, for the calibration
MOST_HELD_BACK = 100_000  # ratings, which are enough for four parameters
MOST_USERS = 20_000  # that the calibration folds in at once, which bounds its memory
NEGLIGIBLE_SHARE = 0.02  # of the ratings; a like model that lacks so few need not be fitted again
CALIBRATION_ROUNDS = 4  # random parts of each row, of all lengths, that held-back ratings are predicted from


@dataclass(frozen=True)
class OrdinalRBMSettings:
    """How a like model is fitted.

    Attributes:
        hidden_units: number of hidden units.
        epochs: passes over the users.
        batch_size: users per minibatch.
        learning_rate: of Adam, at the start.
        weight_decay: pull of the weights towards zero, beside the mean log-likelihood
            of a user's ratings.
        emphasis: weight of the level that like_probability is about, and of the one
            that splits the ratings in halves; the other levels have 1.
        short_rows: share of the rows of which only a few ratings are folded in during
            training.
    """

    hidden_units: int
    epochs: int
    batch_size: int
    learning_rate: float = 0.003
    weight_decay: float = 0.015
    emphasis: float = 1.5
    short_rows: float = 0.25

    @classmethod
    def by_shape(cls, n_users: int, n_movies: int, n_ratings: int) -> Self:
        """Settings for data of this shape, with a constant number of updates.

        Measured on ML-100K.

        The weights' prior weighs as much as some ratings do, so its share falls with
        the number of users; of a handful of users the weights learn nothing, and the
        biases answer.
        """
        n_users = max(n_users, 1)
        batch_size = min(round(min(max(1.6 * math.sqrt(n_users), 10), 500)), n_users)
        wide, little = (n_movies / 1_682) ** 0.35, min(1.0, (n_ratings / 75_000) ** 0.5)
        updates = max(600 * wide * little, LEAST_UPDATES)
        return cls(
            hidden_units=min(max(round(math.sqrt(n_ratings) / 2), 8), 150),
            epochs=max(2, math.ceil(updates * batch_size / n_users)),
            batch_size=batch_size,
            weight_decay=0.015 * math.sqrt(943 / n_users) * max(1.0, math.sqrt(100 / n_users)),
        )


@dataclass(frozen=True)
class Update:
    """One update was made; all numbers count from 1.

    Minibatch 0: the biases are being fitted.
    """

    epoch: int
    epochs: int
    minibatch: int
    minibatches: int


@dataclass(frozen=True, eq=False)
class OrdinalRBM:
    """A conditional RBM with a shared weight for all levels of a movie's stars.

    For a user who rated the movies R, with v_ik = 1 where the stars of movie i reach
    level k, and hidden h:

        E(v, h | R) = - sum over i in R, k of v_ik (level_k + user + movie_i)
                      - sum over i in R, k of (v_ik - p_ik) W_i (h - 1/2)
                      - h (c + sum over i in R of D_i)

        P(h_j = 1 | v, R) = sigmoid(c + sum over i in R of D_i
                                      + sum over i in R, k of (v_ik - p_ik) W_i)_j
        P(v_ik = 1 | h)   = sigmoid(level_k + user + movie_i + W_i (h - 1/2))

    where p_ik = sigmoid(level_k + user + movie_i) is what the biases alone expect. So
    it is an RBM that is centred at the biases (Montavon and Müller, 2012), whose
    visible units are ordinal (Truyen, Phung and Venkatesh, 2009), some levels weighing
    more than others, and in which what was rated conditions the hidden units
    (Salakhutdinov, Mnih and Hinton, 2007). As in the ranking units, what the ratings
    say to the hidden units is scaled by (mean row length / this row's length) ** power:
    long rows would saturate them.

    Attributes:
        levels: of the stars.
        rbm: W above D, float32 of shape (2 n_movies, n_hidden); the movies' biases, and
            as many zeros for the conditions; c. A user's bias is folded in.
        mean_length: mean number of ratings of the users it was trained with.
    """

    levels: Levels
    rbm: RBM
    mean_length: float

    @property
    def n_movies(self) -> int:
        """Number of columns."""
        return self.rbm.n_visible // 2

    @property
    def movie_bias(self) -> Single:
        """Log-odds that come on top for each movie, a view of shape (n_movies,)."""
        bias: Any = self.rbm.visible_bias
        return cast(Single, bias[: self.n_movies])

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        return self.rbm.nbytes

    def fold_in(self, batch: RowBatch, stars: Single) -> LikeState:
        """The state that each row gives rise to.

        Args:
            batch: n rows of ratings.
            stars: of each rating.
        """
        biases = fold_in_biases(self.levels, self.movie_bias, batch, stars)
        rated = np.ones(stars.size, np.float32)
        hidden = batch.times(biases.residual, self.rbm.weights[: self.n_movies])
        hidden += batch.times(rated, self.rbm.weights[self.n_movies :])
        hidden *= batch.scale(self.mean_length, LENGTH_POWER)[:, None]
        hidden += self.rbm.hidden_bias
        return LikeState(biases.user_bias, biases.residual, sigmoid(hidden) - AT_REST)

    def vectors(self) -> Dense:
        """W beside the movies' biases, an always-on unit: (n_movies, n_hidden + 1)."""
        return np.concatenate([self.rbm.weights[: self.n_movies], self.movie_bias[:, None]], axis=1)

    def log_odds(self, state: LikeState, columns: NDArray[np.integer[Any]] | None = None) -> Single:
        """Log-odds that each user likes each movie, if they rate it.

            liked level + user + movie_i + W_i (h - 1/2)

        Args:
            state: of n users.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n, m or n_movies).
        """
        movies = slice(self.n_movies) if columns is None else columns
        result = state.active @ self.rbm.weights[movies].T
        result += self.movie_bias[movies]
        result += (state.user_bias + self.liked_log_odds).astype(np.float32)[:, None]
        return cast(Single, result)

    def log_odds_of(self, profiles: RatingRows, targets: RatingRows) -> Single:
        """`log_odds` of each target rating from its user's profile; (n_ratings,)."""
        state = self.fold_in(RowBatch(profiles, self.n_movies), profiles.stars)
        users, result = targets.users, np.empty(targets.n_ratings, np.float32)
        for start in range(0, targets.n_ratings, ENTRIES_AT_ONCE):
            block = slice(start, start + ENTRIES_AT_ONCE)
            result[block] = self.locations(state, users[block], targets.indices[block])
        result += np.float32(self.liked_log_odds)
        return result

    def locations(
        self, state: LikeState, users: NDArray[np.integer[Any]], movies: NDArray[np.integer[Any]]
    ) -> Single:
        """user + movie_i + W_i (h - 1/2) of single ratings, shape (n_ratings,)."""
        location = np.einsum("nj,nj->n", state.active[users], self.rbm.weights[movies])
        location += state.user_bias.astype(np.float32)[users] + self.movie_bias[movies]
        return cast(Single, location)

    @property
    def liked_log_odds(self) -> float:
        """Log-odds that the average rating reaches `liked_at_least`."""
        return float(self.levels.log_odds[self.levels.liked])


@dataclass(frozen=True, eq=False)
class LikeState:
    """Rows of ratings, folded into a like model."""

    user_bias: Vector
    """Log-odds that come on top for each user, shape (n_users,)."""
    residual: Single
    """What each rating says beyond the biases, shape (n_ratings,)."""
    active: Dense
    """h - 1/2, float32 of shape (n_users, n_hidden)."""


def fitted(
    rows: RatingRows,
    liked_at_least: float,
    rng: np.random.Generator,
    settings: OrdinalRBMSettings | None = None,
) -> Generator[Update, None, tuple[OrdinalRBM, LengthCalibration, Reliability]]:
    """A like model fitted on all ratings, calibrated on ratings held back from a copy.

    The model is fitted without a fifth of the ratings (a hundred thousand, if that is
    less), which then are predicted from random parts of the same users' other ratings,
    long and short ones. Then it is fitted again on all ratings, and ships with that
    calibration; unless next to nothing was held back.

    Args:
        rows: the ratings; at least one.
        liked_at_least: what like_probability is about.
        rng: of every random choice.
        settings: None: by the shape of the rows.

    Yields:
        An Update after every update, and a few times a second while the biases are
        being fitted.

    Returns:
        The like model, its calibration and the reliability curve of held-back ratings,
        as the value of StopIteration.

    Raises:
        Diverged: within the epoch in which it happens.
    """
    if settings is None:
        settings = OrdinalRBMSettings.by_shape(rows.n_users, rows.n_movies, rows.n_ratings)
    held_back = rng.random(rows.n_ratings) < min(HELD_BACK_SHARE, MOST_HELD_BACK / rows.n_ratings)
    seen, unseen = rows.where(~held_back), rows.where(held_back)
    again = bool(unseen.n_ratings > NEGLIGIBLE_SHARE * rows.n_ratings)
    epochs, minibatches = (1 + again) * settings.epochs, math.ceil(rows.n_users / settings.batch_size)

    def begun(rows: RatingRows, before: int) -> Generator[Update, None, OrdinalRBM]:
        biases = run_in_thread(lambda: untrained(rows, liked_at_least, settings, rng))
        while True:
            try:
                next(biases)
            except StopIteration as end:
                result: OrdinalRBM = end.value
                return result
            yield Update(before + 1, epochs, 0, minibatches)

    like_model = yield from begun(seen, 0)
    for update in fit(like_model, seen, settings, rng):
        yield dataclasses.replace(update, epochs=epochs)
    calibration, curve = calibrated(like_model, seen, unseen, liked_at_least, rng)
    if again:
        like_model = yield from begun(rows, settings.epochs)
        for update in fit(like_model, rows, settings, rng):
            yield dataclasses.replace(update, epoch=settings.epochs + update.epoch, epochs=epochs)
    return like_model, calibration, curve


def calibrated(
    like_model: OrdinalRBM,
    seen: RatingRows,
    unseen: RatingRows,
    liked_at_least: float,
    rng: np.random.Generator,
) -> tuple[LengthCalibration, Reliability]:
    """A like model's calibration by held-out ratings, from all lengths of rows.

    The reliability curve is of the unseen ratings as predicted from all that is seen.
    Each half of them is calibrated by the other one, so that no rating is measured by a
    calibration that knows it.
    """
    users = np.flatnonzero(unseen.lengths)
    if users.size > MOST_USERS:
        users = np.sort(rng.choice(users, MOST_USERS, replace=False))
    seen, unseen = seen.rows(users), unseen.rows(users)
    log_odds, lengths = [like_model.log_odds_of(seen, unseen)], [seen.lengths[unseen.users]]
    for _ in range(CALIBRATION_ROUNDS):
        share = few_of(seen.lengths, rng)
        profiles = seen.where(rng.random(seen.n_ratings) < np.repeat(share, seen.lengths))
        log_odds.append(like_model.log_odds_of(profiles, unseen))
        lengths.append(profiles.lengths[unseen.users])
    x, n = np.array(log_odds), np.array(lengths)  # (rounds, n_ratings)
    liked = unseen.stars >= np.float32(liked_at_least)

    def by(ratings: NDArray[np.bool_]) -> LengthCalibration:
        outcomes = np.tile(liked[ratings], len(x))
        return LengthCalibration.fit(x[:, ratings].ravel(), n[:, ratings].ravel(), outcomes, 1 / len(x))

    half = rng.random(liked.size) < 0.5
    probability = np.empty(liked.size, np.float32)
    for measured, fitted_on in ((half, ~half), (~half, half)):
        calibration = by(fitted_on)
        probability[measured] = calibration.probability(x[0, measured][:, None], n[0, measured])[:, 0]
    return by(np.ones(liked.size, np.bool_)), reliability(liked, probability)


def few_of(lengths: NDArray[np.int64], rng: np.random.Generator) -> Vector:
    """Log-uniform shares of rows, (n_users,): few ratings are as likely as many."""
    few = np.expm1(rng.random(lengths.size) * np.log1p(lengths))
    share: Vector = few / np.maximum(lengths, 1)
    return share


def visible_units(rows: RatingRows, residual: Single) -> Sparse:
    """Each rating's residual, and a one as condition; CSR (n_users, 2 n_movies)."""
    lengths, indptr = rows.lengths, rows.indptr
    place = np.arange(rows.n_ratings) + np.repeat(indptr[:-1], lengths)
    columns, values = np.empty(2 * rows.n_ratings, np.int32), np.ones(2 * rows.n_ratings, np.float32)
    columns[place], values[place] = rows.indices, residual
    columns[place + np.repeat(lengths, lengths)] = rows.indices + rows.n_movies
    return sp.csr_array((values, columns, 2 * indptr), shape=(rows.n_users, 2 * rows.n_movies))


def fit(
    like_model: OrdinalRBM,
    rows: RatingRows,
    settings: OrdinalRBMSettings,
    rng: np.random.Generator,
) -> Iterator[Update]:
    """Train a like model, in place, to predict ratings from others of the same user.

    At every update each row of the minibatch is parted at random into a profile and
    targets. The profile is folded in, and the log-likelihood of the targets is ascended
    through the hidden units (multi-prediction training of a Boltzmann machine:
    Goodfellow, Mirza, Courville and Bengio, 2013, with one step of mean field, which is
    exact for the hidden units of a restricted one). Contrastive divergence on this
    model predicts worse (docs/experiments.md). Every step of Adam is bounded, and so
    are the parameters; still they are looked at after every epoch.

    Args:
        like_model: `untrained`; its arrays change.
        rows: the ratings.
        settings: of the fit.
        rng: of every random choice.

    Yields:
        An Update after every update.

    Raises:
        Diverged: within the epoch in which it happens.
    """
    rbm = like_model.rbm
    optimiser = Adam(weight_decay=settings.weight_decay)
    minibatches = math.ceil(rows.n_users / settings.batch_size)
    for epoch in range(1, settings.epochs + 1):
        order = rng.permutation(rows.n_users)
        for minibatch, users in enumerate(np.array_split(order, minibatches), start=1):
            done = ((epoch - 1) * minibatches + minibatch - 1) / (settings.epochs * minibatches)
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                profiles, targets = parted(rows.rows(users), settings.short_rows, rng)
                gradient = prediction_gradient(like_model, profiles, targets)
                rate = cosine_rate(settings.learning_rate, FINAL_RATE_SHARE, done)
                optimiser.ascend(rbm, gradient, rate)
            yield Update(epoch, settings.epochs, minibatch, minibatches)
        if out_of_bounds(rbm):
            raise Diverged(epoch, "the like model's learning rate", settings.learning_rate, 0.003)


def untrained(
    rows: RatingRows, liked_at_least: float, settings: OrdinalRBMSettings, rng: np.random.Generator
) -> OrdinalRBM:
    """A like model of biases alone, with small random weights for the rated movies."""
    levels = Levels.of(rows.stars, liked_at_least, settings.emphasis)
    biases = OrdinalBiases.fit(rows, levels)
    bias = np.concatenate([biases.movie_bias, np.zeros_like(biases.movie_bias)])
    rbm = RBM.initial(bias, settings.hidden_units, rng, deviation=INITIAL_DEVIATION)
    rbm.weights.reshape(2, rows.n_movies, -1)[:, rows.ratings_per_movie() == 0] = 0
    return OrdinalRBM(biases.levels, rbm, max(float(rows.lengths.mean()), 1.0))


def parted(rows: RatingRows, short_rows: float, rng: np.random.Generator) -> tuple[RatingRows, RatingRows]:
    """Each user's ratings at random in two: profiles and targets.

    Mostly a share of 0.1 to 0.95 is profile. Of `short_rows` of the users it is only a
    few ratings, or none, as new users have.
    """
    share = rng.uniform(0.1, 0.95, rows.n_users)
    short = rng.random(rows.n_users) < short_rows
    share[short] = few_of(rows.lengths[short], rng)
    in_profile = rng.random(rows.n_ratings) < np.repeat(share, rows.lengths)
    return rows.where(in_profile), rows.where(~in_profile)


def prediction_gradient(like_model: OrdinalRBM, profiles: RatingRows, targets: RatingRows) -> Gradient:
    """The direction in which the targets become likelier, by the folded-in profiles.

    It is that of sum over targets, levels k of weight_k log P(v_ik | hidden
    probabilities), divided by the number of users, with the user's bias and the
    residuals of the profiles held fixed.
    """
    rbm, n = like_model.rbm, np.float32(profiles.n_users)
    batch = RowBatch(profiles, like_model.n_movies)
    state, scale = (
        like_model.fold_in(batch, profiles.stars),
        batch.scale(like_model.mean_length, LENGTH_POWER),
    )
    location = like_model.locations(state, targets.users, targets.indices)
    error = like_model.levels.residual(targets.stars, location) / n
    slope = RowBatch(targets, like_model.n_movies).times(error, rbm.weights[: like_model.n_movies])
    slope *= 0.25 - np.square(state.active)  # h (1 - h), shape (n_users, n_hidden)
    # The weights are used twice, below the profiles and above the targets: one product
    # for both.
    units = visible_units(profiles, state.residual)
    both = sp.csc_array(
        (
            np.concatenate((units.data * np.repeat(scale, np.diff(units.indptr)), error)),
            np.concatenate((units.indices, targets.indices)),
            np.concatenate((units.indptr, targets.indptr[1:] + units.indptr[-1])),
        ),
        shape=(rbm.n_visible, 2 * profiles.n_users),
    )
    return Gradient(
        both @ np.concatenate((slope, state.active)),
        np.bincount(targets.indices, error, rbm.n_visible).astype(np.float32),
        slope.sum(axis=0),
    )

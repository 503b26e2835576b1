"""The machine that judges: a conditional Boltzmann machine whose visible units are levels of stars.

The machine that ranks asks whether somebody will watch a movie *and* like it. This one is told that they
watch it, and asks how they like it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.ascent import adam_step, cosine
from app.learning.aside import aside
from app.learning.contrastive_divergence import Gradient
from app.learning.divergence import Diverged, out_of_bounds
from app.learning.like_probability import LengthCalibration
from app.learning.metrics import Reliability, reliability
from app.learning.ordinal_biases import Levels, OrdinalBiases, Single, Vector, folded_in
from app.learning.preferences import RatingRows
from app.learning.rbm import RBM, Dense, Sparse, sigmoid

LEAST_UPDATES = 400  # one step of Adam moves a weight by about the learning rate; fewer get nowhere
LENGTH_POWER = 0.5  # of mean row length / row length, by which the visible-to-hidden input is scaled
INITIAL_DEVIATION = 0.03  # of the weights
FINAL_RATE_SHARE = 0.05  # what a cosine brings the learning rate down to
AT_REST = 0.5  # hidden probability that adds nothing to a visible unit
ENTRIES_AT_ONCE = 100_000  # ratings whose hidden rows are copied at once

HELD_BACK_SHARE = 0.2  # of the ratings, for the calibration
MOST_HELD_BACK = 100_000  # ratings, which are enough for four parameters
MOST_USERS = 20_000  # that the calibration folds in at once, which bounds its memory
NEGLIGIBLE_SHARE = 0.02  # of the ratings; a judge that has not seen so few of them need not be fitted again
CALIBRATION_ROUNDS = 4  # random parts of each row, of all lengths, that held-back ratings are predicted from


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge is fitted.

    Attributes:
        hidden_units: number of hidden units.
        epochs: passes over the users.
        batch_size: users per minibatch.
        learning_rate: of Adam, at the start.
        weight_decay: pull of the weights towards zero, beside the mean log-likelihood of a user's ratings.
        emphasis: weight of the level that like_probability is about, and of the one that splits the ratings
            in halves; the other levels have 1.
        short_rows: share of the rows of which only a few ratings are given in training.
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
        """Settings for data of this shape; what stays alike is the number of updates (measured on ML-100K).

        The weights' prior weighs as much as some ratings do, so its share falls with the number of users; of
        a handful of users the weights learn nothing, and the biases answer.
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
    """One update was made; all numbers count from 1. Minibatch 0: the biases are being found."""

    epoch: int
    epochs: int
    minibatch: int
    minibatches: int


@dataclass(frozen=True, eq=False)
class Judge:
    """A conditional restricted Boltzmann machine with a shared weight for all levels of a movie's stars.

    For a user who rated the movies R, with v_ik = 1 where the stars of movie i reach level k, and hidden h:

        E(v, h | R) = - sum over i in R, k of v_ik (level_k + user + movie_i)
                      - sum over i in R, k of (v_ik - p_ik) W_i (h - 1/2)  -  h (c + sum over i in R of D_i)

        P(h_j = 1 | v, R) = sigmoid(c + sum over i in R of D_i + sum over i in R, k of (v_ik - p_ik) W_i)_j
        P(v_ik = 1 | h)   = sigmoid(level_k + user + movie_i + W_i (h - 1/2))

    where p_ik = sigmoid(level_k + user + movie_i) is what the biases alone expect. So it is an RBM that is
    centred at the biases (Montavon and Müller, 2012), whose visible units are ordinal (Truyen, Phung and
    Venkatesh, 2009), some levels weighing more than others, and in which what was rated conditions the hidden
    units (Salakhutdinov, Mnih and Hinton, 2007). As in the machine that ranks, what the ratings say to the
    hidden units is scaled by (mean row length / this row's length) ** power: long rows would saturate them.

    Attributes:
        levels: of the stars.
        rbm: W above D, float32 of shape (2 n_movies, n_hidden); the movies' biases, and as many zeros for
            the conditions; c. A user's bias is folded in.
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

    def fold_in(
        self, rows: RatingRows, lengths: NDArray[np.integer[Any]] | None = None
    ) -> tuple[Vector, Dense]:
        """Each user's bias and hidden probabilities.

        Args:
            rows: what is known of the users.
            lengths: shape (n_users,); each row stands for so many ratings like its own. None: for its own.

        Returns:
            float64 of shape (n_users,) and float32 of shape (n_users, n_hidden).
        """
        bias, left = folded_in(self.levels, self.movie_bias, rows)
        if rows.n_users == 1:  # the same sums without a sparse matrix, which takes longer to make than to use
            rbm, movies = self.rbm, rows.indices
            inputs = left @ rbm.weights[movies]
            inputs += rbm.weights[movies + self.n_movies].sum(axis=0)
            inputs *= self.scale(rows, lengths)
            inputs += rbm.hidden_bias
            return bias, sigmoid(inputs[None])
        return bias, self.rbm.hidden_probability(visible_units(rows, left), self.scale(rows, lengths))

    def scale(self, rows: RatingRows, lengths: NDArray[np.integer[Any]] | None = None) -> Single:
        """What each user's visible-to-hidden input is multiplied by, shape (n_users,); see `fold_in`."""
        of_rows = np.maximum(rows.lengths, 1)
        if lengths is None:
            scale: Vector = (self.mean_length / of_rows) ** LENGTH_POWER
        else:
            scale = (self.mean_length / np.maximum(lengths, 1)) ** LENGTH_POWER * (lengths / of_rows)
        return scale.astype(np.float32)

    def log_odds(self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None) -> Single:
        """Log-odds that each user likes each movie (or each of the chosen columns), if they rate it.

        Args:
            rows: what is known of the users.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n_users, m or n_movies).
        """
        user_bias, hidden = self.fold_in(rows)
        return self.location(user_bias, hidden, columns) + self.liked_log_odds

    def movie_log_odds(
        self,
        rows: RatingRows,
        columns: NDArray[np.integer[Any]] | None = None,
        lengths: NDArray[np.integer[Any]] | None = None,
    ) -> Single:
        """The part of `log_odds` that tells a user's movies apart: without the user's bias and the level's.

        Args:
            rows: what is known of the users.
            columns: m movie columns; None for all.
            lengths: as in `fold_in`.

        Returns:
            float32 of shape (n_users, m or n_movies).
        """
        user_bias, hidden = self.fold_in(rows, lengths)
        return self.location(np.zeros_like(user_bias), hidden, columns)

    def location(
        self, user_bias: Vector, hidden: Dense, columns: NDArray[np.integer[Any]] | None = None
    ) -> Single:
        """What each user and movie add to the log-odds of every level: user + movie + W (h - 1/2).

        Args:
            user_bias: shape (n_users,).
            hidden: shape (n_users, n_hidden).
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n_users, m or n_movies).
        """
        movies = slice(self.n_movies) if columns is None else columns
        result = (hidden - np.float32(AT_REST)) @ self.rbm.weights[movies].T
        result += self.movie_bias[movies]
        result += user_bias.astype(np.float32)[:, None]
        return cast(Single, result)

    @property
    def liked_log_odds(self) -> np.float32:
        """Log-odds that the average rating reaches `liked_at_least`."""
        return np.float32(self.levels.log_odds[self.levels.liked])

    def log_odds_of(self, given: RatingRows, asked: RatingRows) -> Single:
        """The same of the ratings in `asked` alone, from the same users' `given`; shape (n_ratings,)."""
        user_bias, hidden = self.fold_in(given)
        users, result = asked.users, np.empty(asked.n_ratings, np.float32)
        hidden -= np.float32(AT_REST)
        for start in range(0, asked.n_ratings, ENTRIES_AT_ONCE):
            its = slice(start, start + ENTRIES_AT_ONCE)
            movies = asked.indices[its]
            result[its] = np.einsum("nj,nj->n", hidden[users[its]], self.rbm.weights[movies])
            result[its] += user_bias[users[its]].astype(np.float32) + self.movie_bias[movies]
        result += self.liked_log_odds
        return result


def fitted(
    rows: RatingRows,
    liked_at_least: float,
    rng: np.random.Generator,
    settings: JudgeSettings | None = None,
) -> Generator[Update, None, tuple[Judge, LengthCalibration, Reliability]]:
    """A judge fitted on all ratings, and its calibration, fitted on ratings that its like had not seen.

    A judge is fitted without a fifth of the ratings (a hundred thousand, if that is less), which then are
    predicted from random parts of the same users' other ratings, long and short ones. Then a judge is fitted
    on all ratings, and ships with that calibration; unless next to nothing was held back.

    Args:
        rows: the ratings; at least one.
        liked_at_least: what like_probability is about.
        rng: of every random choice.
        settings: None: by the shape of the rows.

    Yields:
        An Update after every update, and a few times a second while the biases are being found.

    Returns:
        The judge, its calibration and the reliability curve of held-back ratings, as the value of
        StopIteration.

    Raises:
        Diverged: within the epoch in which it happens.
    """
    if settings is None:
        settings = JudgeSettings.by_shape(rows.n_users, rows.n_movies, rows.n_ratings)
    held_back = rng.random(rows.n_ratings) < min(HELD_BACK_SHARE, MOST_HELD_BACK / rows.n_ratings)
    seen, unseen = rows.where(~held_back), rows.where(held_back)
    again = bool(unseen.n_ratings > NEGLIGIBLE_SHARE * rows.n_ratings)
    epochs, minibatches = (1 + again) * settings.epochs, math.ceil(rows.n_users / settings.batch_size)

    def begun(rows: RatingRows, before: int) -> Generator[Update, None, Judge]:
        biases = aside(lambda: untrained(rows, liked_at_least, settings, rng))
        while True:
            try:
                next(biases)
            except StopIteration as end:
                result: Judge = end.value
                return result
            yield Update(before + 1, epochs, 0, minibatches)

    judge = yield from begun(seen, 0)
    for update in fit(judge, seen, settings, rng):
        yield dataclasses.replace(update, epochs=epochs)
    calibration, curve = calibrated(judge, seen, unseen, liked_at_least, rng)
    if again:
        judge = yield from begun(rows, settings.epochs)
        for update in fit(judge, rows, settings, rng):
            yield dataclasses.replace(update, epoch=settings.epochs + update.epoch, epochs=epochs)
    return judge, calibration, curve


def calibrated(
    judge: Judge, seen: RatingRows, unseen: RatingRows, liked_at_least: float, rng: np.random.Generator
) -> tuple[LengthCalibration, Reliability]:
    """The calibration of a judge by ratings that it has not seen, predicted from all lengths of rows.

    The reliability curve is of the unseen ratings as predicted from all that is seen. Each half of them is
    calibrated by the other one, so that no rating is measured by a calibration that knows it.
    """
    users = np.flatnonzero(unseen.lengths)
    if users.size > MOST_USERS:
        users = np.sort(rng.choice(users, MOST_USERS, replace=False))
    seen, unseen = seen.rows(users), unseen.rows(users)
    log_odds, lengths = [judge.log_odds_of(seen, unseen)], [seen.lengths[unseen.users]]
    for _ in range(CALIBRATION_ROUNDS):
        share = few_of(seen.lengths, rng)
        given = seen.where(rng.random(seen.n_ratings) < np.repeat(share, seen.lengths))
        log_odds.append(judge.log_odds_of(given, unseen))
        lengths.append(given.lengths[unseen.users])
    x, n = np.array(log_odds), np.array(lengths)  # (rounds, n_ratings)
    liked = unseen.stars >= np.float32(liked_at_least)

    def by(ratings: NDArray[np.bool_]) -> LengthCalibration:
        outcomes = np.tile(liked[ratings], len(x))
        return LengthCalibration.fit(x[:, ratings].ravel(), n[:, ratings].ravel(), outcomes, 1 / len(x))

    half = rng.random(liked.size) < 0.5
    probability = np.empty(liked.size, np.float32)
    for one, other in ((half, ~half), (~half, half)):
        probability[one] = by(other).probability(x[0, one][:, None], n[0, one])[:, 0]
    return by(np.ones(liked.size, np.bool_)), reliability(liked, probability)


def few_of(lengths: NDArray[np.int64], rng: np.random.Generator) -> Vector:
    """Shares of rows, shape (n_users,), by which few ratings are as likely as many: their log is uniform."""
    few = np.expm1(rng.random(lengths.size) * np.log1p(lengths))
    share: Vector = few / np.maximum(lengths, 1)
    return share


def visible_units(rows: RatingRows, left: Single) -> Sparse:
    """Of each rating what is left beyond the biases, and a one as condition; shape (n_users, 2 n_movies)."""
    lengths, indptr = rows.lengths, rows.indptr
    place = np.arange(rows.n_ratings) + np.repeat(indptr[:-1], lengths)
    columns, values = np.empty(2 * rows.n_ratings, np.int32), np.ones(2 * rows.n_ratings, np.float32)
    columns[place], values[place] = rows.indices, left
    columns[place + np.repeat(lengths, lengths)] = rows.indices + rows.n_movies
    return sp.csr_array((values, columns, 2 * indptr), shape=(rows.n_users, 2 * rows.n_movies))


GradientOf: TypeAlias = Callable[[Judge, RatingRows], Gradient]
"""(judge, a minibatch) -> the direction to go, before weight decay."""


def fit(
    judge: Judge,
    rows: RatingRows,
    settings: JudgeSettings,
    rng: np.random.Generator,
    gradient_of: GradientOf | None = None,
) -> Iterator[Update]:
    """Train an untrained judge, in place, to predict ratings from other ratings of the same user.

    At every update each row of the minibatch is parted at random into ratings that are given and ratings that
    are asked for. The given ones are folded in, and the log-likelihood of the others is ascended through the
    hidden units (multi-prediction training of a Boltzmann machine: Goodfellow, Mirza, Courville and Bengio,
    2013, with one step of mean field, which is exact for the hidden units of a restricted one). Contrastive
    divergence on the same machine predicts worse (docs/experiments-judge.md). Every step of Adam is bounded,
    and so are the parameters; still they are looked at after every epoch.

    Args:
        judge: `untrained`; its arrays change.
        rows: the ratings.
        settings: of the fit.
        rng: of every random choice.
        gradient_of: another way of learning than the one described, for comparison.

    Yields:
        An Update after every update.

    Raises:
        Diverged: within the epoch in which it happens.
    """
    rbm = judge.rbm
    if gradient_of is None:
        gradient_of = multi_prediction(settings.short_rows, rng)
    step = adam_step(rbm, cosine(settings.learning_rate, FINAL_RATE_SHARE))
    minibatches = math.ceil(rows.n_users / settings.batch_size)
    for epoch in range(1, settings.epochs + 1):
        order = rng.permutation(rows.n_users)
        for minibatch, users in enumerate(np.array_split(order, minibatches), start=1):
            done = ((epoch - 1) * minibatches + minibatch - 1) / (settings.epochs * minibatches)
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                gradient = gradient_of(judge, rows.rows(users))
                gradient.weights[...] -= np.float32(settings.weight_decay) * rbm.weights
                step(rbm, gradient, done)
            yield Update(epoch, settings.epochs, minibatch, minibatches)
        if out_of_bounds(rbm):
            raise Diverged(epoch, "the judge's learning rate", settings.learning_rate, 0.003)


def untrained(
    rows: RatingRows, liked_at_least: float, settings: JudgeSettings, rng: np.random.Generator
) -> Judge:
    """A judge that knows the biases alone, with small random weights for the movies that are rated."""
    levels = Levels.of(rows.stars, liked_at_least, settings.emphasis)
    biases = OrdinalBiases.fit(rows, levels)
    bias = np.concatenate([biases.movie_bias, np.zeros_like(biases.movie_bias)])
    rbm = RBM.initial(bias, settings.hidden_units, rng, deviation=INITIAL_DEVIATION)
    rbm.weights.reshape(2, rows.n_movies, -1)[:, rows.ratings_per_movie() == 0] = 0
    return Judge(biases.levels, rbm, max(float(rows.lengths.mean()), 1.0))


def multi_prediction(short_rows: float, rng: np.random.Generator) -> GradientOf:
    """`prediction_gradient` of rows that are parted anew each time."""
    return lambda judge, rows: prediction_gradient(judge, *parted(rows, short_rows, rng))


def parted(rows: RatingRows, short_rows: float, rng: np.random.Generator) -> tuple[RatingRows, RatingRows]:
    """Each user's ratings at random in two: those that are given and those that are asked for.

    Mostly a share of 0.1 to 0.95 is given. Of `short_rows` of them it is only a few ratings, or none, as new
    users have.
    """
    share = rng.uniform(0.1, 0.95, rows.n_users)
    short = rng.random(rows.n_users) < short_rows
    share[short] = few_of(rows.lengths[short], rng)
    given = rng.random(rows.n_ratings) < np.repeat(share, rows.lengths)
    return rows.where(given), rows.where(~given)


def prediction_gradient(judge: Judge, given: RatingRows, asked: RatingRows) -> Gradient:
    """The direction in which the asked ratings become likelier, after the given ones were folded in.

    It is that of sum over asked ratings, levels k of weight_k log P(v_ik | hidden probabilities), divided by
    the number of users, with the user's bias and the residuals of the given ratings held fixed.
    """
    rbm, n = judge.rbm, np.float32(given.n_users)
    user_bias, left = folded_in(judge.levels, judge.movie_bias, given)
    units, scale = visible_units(given, left), judge.scale(given)
    hidden = rbm.hidden_probability(units, scale)
    active = hidden - np.float32(AT_REST)
    users, movies = asked.users, asked.indices
    location = np.einsum("nj,nj->n", active[users], rbm.weights[movies])
    location += user_bias.astype(np.float32)[users] + judge.movie_bias[movies]
    error = judge.levels.residual(asked.stars, location)[0] / n
    errors = sp.csr_array((error, movies, asked.indptr), shape=units.shape)
    slope: Dense = errors @ rbm.weights
    slope *= hidden * (1 - hidden)  # (n_users, n_hidden)
    # The weights are used twice, below the given ratings and above the asked ones: one product for both.
    both = sp.csc_array(
        (
            np.concatenate((units.data * np.repeat(scale, np.diff(units.indptr)), errors.data)),
            np.concatenate((units.indices, errors.indices)),
            np.concatenate((units.indptr, errors.indptr[1:] + units.indptr[-1])),
        ),
        shape=(rbm.n_visible, 2 * given.n_users),
    )
    return Gradient(
        both @ np.concatenate((slope, active)),
        np.bincount(movies, error, rbm.n_visible).astype(np.float32),
        slope.sum(axis=0),
    )

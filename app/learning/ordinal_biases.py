"""How generous a user is and how well liked a movie is, told from the stars themselves.

A rating becomes one binary unit for each level of stars: did it reach that level? (A thermometer, as in the
cumulative logit model of McCullagh, 1980.) The levels are found in the data, so any scale of stars will do.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.learning.preferences import RatingRows
from app.learning.rbm import sigmoid

MOST_LEVELS = 9  # half stars from 0.5 to 5 have so many above the lowest
MOST_UNITS = 4.0  # what all levels of one rating may weigh together: they say much the same
PSEUDO_RATINGS = 5.0  # average ratings that every user and movie is thought to have besides the real ones
LARGEST_NEWTON_STEP = 2.0  # in log-odds; a full step can overshoot where the logistic curve is flat
FOLD_IN_STEPS = 8  # Newton steps; the 1-dimensional problem is concave and converges in 3 to 5
CONVERGED = 1e-4  # log-odds; a last Newton step of this size leaves an error of its square
RATINGS_AT_ONCE = 50_000  # of which all levels are looked at together

Vector = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of stars that a rating may reach or not.

    Attributes:
        stars: float32 of shape (n_levels,), rising.
        weight: float64 of shape (n_levels,); how much each counts in the likelihood.
        log_odds: float64 of shape (n_levels,); of reaching each, for the average rating.
        liked: which of them is `liked_at_least`.
    """

    stars: Single
    weight: Vector
    log_odds: Vector
    liked: int

    @classmethod
    def of(cls, stars: NDArray[np.floating[Any]], liked_at_least: float, emphasis: float = 1.0) -> Self:
        """`liked_at_least` and the values that occur, without the lowest; of many values, quantiles.

        Args:
            stars: all ratings, shape (n,).
            liked_at_least: always a level, even if no rating or every rating reaches it.
            emphasis: weight of that level and of the one that comes nearest to splitting the ratings in
                halves, which says most; the other levels have 1.
        """
        values, counts = np.unique(stars.astype(np.float32), return_counts=True)
        if values.size - 1 > MOST_LEVELS:
            below = np.cumsum(counts[:-1]) / stars.size  # share below values[1:]
            wanted = np.arange(1, MOST_LEVELS + 1) / (MOST_LEVELS + 1)
            values = values[np.unique(np.searchsorted(below, wanted).clip(0, values.size - 2)) + 1]
        else:
            values = values[1:]
        levels = np.union1d(values, np.float32(liked_at_least)).astype(np.float32)
        liked = int(np.searchsorted(levels, np.float32(liked_at_least)))
        reached = np.array([np.count_nonzero(stars >= level) for level in levels])
        weight = np.ones(levels.size)
        halves = int(np.abs(reached - stars.size / 2).argmin())
        weight[liked] = weight[halves] = emphasis
        weight *= min(levels.size, MOST_UNITS) / weight.sum()
        log_odds = np.log(reached + 0.5) - np.log(stars.size - reached + 0.5)
        return cls(levels, weight, log_odds, liked)

    def residual(self, stars: Single, location: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """What the stars say beyond what was expected, and how much that could vary.

        The weighted sum over levels of (reached - P(reached)) is the slope of a rating's log-likelihood along
        its location: positive where the stars are higher than the location makes likely.

        Args:
            stars: shape (n,).
            location: log-odds by which a rating is likelier to reach any level than the average one.

        Returns:
            In the dtype of the location, shape (2, n): the slope, and minus the curvature.
        """
        dtype = location.dtype
        weight, log_odds = self.weight.astype(dtype), self.log_odds.astype(dtype)[:, None]
        result = np.empty((2, stars.size), dtype)
        for start in range(0, stars.size, RATINGS_AT_ONCE):
            its = slice(start, start + RATINGS_AT_ONCE)
            expected = sigmoid(location[its] + log_odds)  # (n_levels, ratings at once)
            result[0, its] = weight @ ((stars[its] >= self.stars[:, None]) - expected)
            expected *= 1 - expected
            result[1, its] = weight @ expected
        return result

    def refitted(self, stars: Single, location: NDArray[np.floating[Any]]) -> Self:
        """With log-odds one Newton step nearer to those that fit the stars at these locations."""
        result = self.log_odds.copy()
        for number, level in enumerate(self.stars):
            expected = sigmoid(location + location.dtype.type(result[number]))
            missing = np.count_nonzero(stars >= level) - expected.sum(dtype=np.float64)
            expected *= 1 - expected
            # The 1 keeps a level that hardly any rating separates where it is.
            step = missing / (expected.sum(dtype=np.float64) + 1)
            result[number] += np.clip(step, -LARGEST_NEWTON_STEP, LARGEST_NEWTON_STEP)
        return dataclasses.replace(self, log_odds=result)

    def prior(self, bias: Vector) -> Vector:
        """The same for one average rating and each bias, shape (2, n)."""
        average, own = sigmoid(self.log_odds), sigmoid(bias[:, None] + self.log_odds)
        return np.stack([(average - own) @ self.weight, (own * (1 - own)) @ self.weight])


@dataclass(frozen=True, eq=False)
class OrdinalBiases:
    """log-odds of reaching a level = the level's + user's bias + movie's bias.

    Fitted by maximum likelihood, with a prior on each bias worth `PSEUDO_RATINGS` average ratings. A user's
    bias is not stored: it is folded in from whatever ratings are given.

    Attributes:
        levels: of the stars.
        movie_bias: float32 of shape (n_movies,); 0 where nobody rated.
    """

    levels: Levels
    movie_bias: Single

    @classmethod
    def fit(cls, rows: RatingRows, levels: Levels, *, tolerance: float = 0.02, most_rounds: int = 25) -> Self:
        """Alternate Newton steps for all users and for all movies until no bias moves.

        Args:
            rows: the ratings to fit.
            levels: of their stars; the result has their log-odds fitted beside the biases.
            tolerance: largest last change of a bias, in log-odds.
            most_rounds: stop after so many rounds in any case.
        """
        users, movies = rows.users, rows.indices
        user_bias, movie_bias = np.zeros(rows.n_users), np.zeros(rows.n_movies)
        for _ in range(most_rounds):
            moved = 0.0
            for bias, owner in ((user_bias, users), (movie_bias, movies)):
                location = (user_bias.astype(np.float32))[users]
                location += (movie_bias.astype(np.float32))[movies]
                step = _newton_step(bias, owner, levels.residual(rows.stars, location), levels)
                bias += step
                moved = max(moved, float(np.abs(step).max(initial=0.0)))
            levels = levels.refitted(rows.stars, location)
            if moved < tolerance:
                break
        return cls(levels, movie_bias.astype(np.float32))

    def user_bias(self, rows: RatingRows) -> Vector:
        """The bias that explains each user's ratings best, shape (n_users,); 0 without ratings."""
        return folded_in(self.levels, self.movie_bias, rows)[0]


def folded_in(levels: Levels, movie_bias: Single, rows: RatingRows) -> tuple[Vector, Single]:
    """Each user's bias, shape (n_users,), and what is then left of each rating, shape (n_ratings,).

    See `Levels.residual` for the second.
    """
    if rows.n_users == 1:
        one, left_of_one = _folded_in_alone(levels, movie_bias[rows.indices], rows.stars)
        return np.array([one]), left_of_one
    users = rows.users
    location = movie_bias[rows.indices].astype(np.float64)
    bias = np.zeros(rows.n_users)
    for _ in range(FOLD_IN_STEPS):
        step = _newton_step(bias, users, levels.residual(rows.stars, location + bias[users]), levels)
        bias += step
        if np.abs(step).max(initial=0.0) < CONVERGED:
            break
    left = levels.residual(rows.stars, location + bias[users])[0]
    return bias, left.astype(np.float32)


def _folded_in_alone(levels: Levels, location: Single, stars: Single) -> tuple[float, Single]:
    """The same for one user, in a third of the time: one bias, so every sum over ratings is one product.

    Args:
        levels: of the stars.
        location: the bias of each rated movie, shape (n,).
        stars: shape (n,).
    """
    n = stars.size
    # The last column is the average rating that the prior is made of, as often as it is thought to be there.
    times = np.ones(n + 1)
    times[n] = PSEUDO_RATINGS
    reached = np.empty((levels.log_odds.size, n + 1))
    np.greater_equal(stars, levels.stars[:, None], out=reached[:, :n], casting="unsafe")
    reached[:, n] = sigmoid(levels.log_odds)
    unbiased = np.zeros(n + 1)
    unbiased[:n] = location
    log_odds = unbiased + levels.log_odds[:, None]
    wanted = float(levels.weight @ (reached @ times))
    bias = 0.0
    for _ in range(FOLD_IN_STEPS):
        expected = sigmoid(log_odds + bias)
        slope = wanted - float(levels.weight @ (expected @ times))
        expected *= 1 - expected
        curvature = max(float(levels.weight @ (expected @ times)), 1e-9)
        step = min(max(slope / curvature, -LARGEST_NEWTON_STEP), LARGEST_NEWTON_STEP)
        bias += step
        if abs(step) < CONVERGED:
            break
    left = levels.weight @ (reached[:, :n] - sigmoid(log_odds[:, :n] + bias))
    return bias, left.astype(np.float32)


def _newton_step(
    bias: Vector,
    owner: NDArray[np.integer[Any]],
    residual: NDArray[np.floating[Any]],
    levels: Levels,
) -> Vector:
    """One Newton step of every bias at once; `owner` says which bias each rating belongs to."""
    prior = PSEUDO_RATINGS * levels.prior(bias)
    slope = np.bincount(owner, residual[0], bias.size) + prior[0]
    curvature = np.bincount(owner, residual[1], bias.size) + prior[1]
    # The floor is for biases so extreme that their curvature underflows.
    step: Vector = np.clip(slope / np.maximum(curvature, 1e-9), -LARGEST_NEWTON_STEP, LARGEST_NEWTON_STEP)
    return step

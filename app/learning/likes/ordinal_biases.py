"""How generous users are and how well liked movies are, by levels of stars.

A rating becomes one binary unit for each level of stars: did it reach that level? (A
thermometer, as in the cumulative logit model of McCullagh, 1980.) The levels come from
the data, so any scale of stars will do.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import sigmoid
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch

MOST_LEVELS = 9  # half stars from 0.5 to 5 have so many above the lowest
MOST_UNITS = 4.0  # what all levels of one rating may weigh together: they say much the same
PSEUDO_RATINGS = 5.0  # average ratings that every user and movie has as a prior
LARGEST_NEWTON_STEP = 2.0  # in log-odds; a full step can overshoot where the logistic curve is flat
FOLD_IN_STEPS = 8  # Newton steps; the 1-dimensional problem is concave and converges in 3 to 5
CONVERGED = 1e-3  # log-odds; a last Newton step of this size leaves an error of its square
RATINGS_AT_ONCE = 50_000  # of which all levels are looked at together

Vector = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of stars that a rating may reach or not.

    Attributes:
        stars: float32 of shape (n_levels,), rising.
        weight: float64 of shape (n_levels,); how much each counts in the likelihood.
        log_odds: float64 of shape (n_levels,); of reaching each, for the average
            rating.
        liked: which of them is `liked_at_least`.
    """

    stars: Single
    weight: Vector
    log_odds: Vector
    liked: int

    @classmethod
    def of(cls, stars: NDArray[np.floating[Any]], liked_at_least: float, emphasis: float = 1.0) -> Self:
        """`liked_at_least` and the values above the lowest; of many values, quantiles.

        Args:
            stars: all ratings, shape (n,).
            liked_at_least: always a level, even if no rating or every rating reaches
                it.
            emphasis: weight of that level and of the one that comes nearest to
                splitting the ratings in halves, which says most; the other levels have
                1.
        """
        values, counts = np.unique(stars.astype(np.float32), return_counts=True)
        if values.size - 1 > MOST_LEVELS:
            below = np.cumsum(counts[:-1]) / stars.size  # share below values[1:]
            quantiles = np.arange(1, MOST_LEVELS + 1) / (MOST_LEVELS + 1)
            values = values[np.unique(np.searchsorted(below, quantiles).clip(0, values.size - 2)) + 1]
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

    def reached(self, stars: Single) -> Vector:
        """The summed weights of the levels that stars reach, in the stars' shape."""
        below = np.concatenate(([0.0], np.cumsum(self.weight)))
        total: Vector = below[np.searchsorted(self.stars, stars, side="right")]
        return total

    def expected(self, location: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """The mean of `reached` at each location, and its derivative, in its dtype.

        Args:
            location: log-odds by which a rating is likelier to reach any level than the
                average one, shape (n,).

        Returns:
            Shape (2, n).
        """
        dtype = location.dtype
        weight, log_odds = self.weight.astype(dtype), self.log_odds.astype(dtype)[:, None]
        result = np.empty((2, location.size), dtype)
        for start in range(0, location.size, RATINGS_AT_ONCE):
            block = slice(start, start + RATINGS_AT_ONCE)
            probability = sigmoid(location[block] + log_odds)  # (n_levels, ratings at once)
            result[0, block] = weight @ probability
            probability *= 1 - probability
            result[1, block] = weight @ probability
        return result

    def residual(self, stars: Single, location: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """`reached` minus its mean: positive where the stars are higher than expected.

        It is the derivative of a rating's log-likelihood by its location, shape (n,).
        """
        residual: NDArray[np.floating[Any]] = self.reached(stars).astype(location.dtype)
        residual -= self.expected(location)[0]
        return residual

    def refitted(self, stars: Single, location: NDArray[np.floating[Any]]) -> Self:
        """With log-odds one Newton step nearer to those that fit the stars here."""
        result = self.log_odds.copy()
        for number, level in enumerate(self.stars):
            expected = sigmoid(location + location.dtype.type(result[number]))
            missing = np.count_nonzero(stars >= level) - expected.sum(dtype=np.float64)
            expected *= 1 - expected
            # The 1 keeps a level that hardly any rating separates where it is.
            step = missing / (expected.sum(dtype=np.float64) + 1)
            result[number] += np.clip(step, -LARGEST_NEWTON_STEP, LARGEST_NEWTON_STEP)
        return dataclasses.replace(self, log_odds=result)


@dataclass(frozen=True, eq=False)
class OrdinalBiases:
    """log-odds of reaching a level = the level's + user's bias + movie's bias.

    Fitted by maximum likelihood, with a prior on each bias worth `PSEUDO_RATINGS`
    average ratings. A user's bias is not stored: it is folded in from the user's
    ratings.

    Attributes:
        levels: of the stars.
        movie_bias: float32 of shape (n_movies,); 0 if unrated.
    """

    levels: Levels
    movie_bias: Single

    @classmethod
    def fit(cls, rows: RatingRows, levels: Levels, *, tolerance: float = 0.02, most_rounds: int = 25) -> Self:
        """Alternate Newton steps for all users and for all movies until no bias moves.

        Args:
            rows: the ratings to fit.
            levels: of their stars; the result has their log-odds fitted beside the
                biases.
            tolerance: largest last change of a bias, in log-odds.
            most_rounds: stop after so many rounds in any case.
        """
        users, movies = rows.users, rows.indices
        user_bias, movie_bias = np.zeros(rows.n_users), np.zeros(rows.n_movies)
        for _ in range(most_rounds):
            moved = 0.0
            reached = levels.reached(rows.stars)
            for bias, owners in ((user_bias, users), (movie_bias, movies)):
                location = user_bias.astype(np.float32)[users]
                location += movie_bias.astype(np.float32)[movies]
                step = _newton_step(
                    levels, bias, owners, _total_reached(levels, owners, reached, bias.size), location
                )
                bias += step
                moved = max(moved, float(np.abs(step).max(initial=0.0)))
            levels = levels.refitted(rows.stars, location)
            if moved < tolerance:
                break
        return cls(levels, movie_bias.astype(np.float32))


@dataclass(frozen=True, eq=False)
class FoldedBias:
    """Users' biases and what their ratings say beyond all biases."""

    user_bias: Vector
    """The bias that explains each user's ratings best, (n_users,); 0 if none."""
    residual: Single
    """`Levels.residual` of each rating at its biases, shape (n_ratings,)."""


def fold_in_biases(levels: Levels, movie_bias: Single, batch: RowBatch, stars: Single) -> FoldedBias:
    """The biases of the users of a batch of rows, by Newton's method.

    Args:
        levels: of the stars.
        movie_bias: shape (n_movies,).
        batch: rows of ratings.
        stars: of each rating.
    """
    location, owners = movie_bias[batch.indices], batch.owners
    reached, bias = levels.reached(stars), np.zeros(batch.n_rows)
    total_reached = _total_reached(levels, owners, reached, bias.size)
    for _ in range(FOLD_IN_STEPS):
        step = _newton_step(levels, bias, owners, total_reached, location + bias.astype(np.float32)[owners])
        bias += step
        if np.abs(step).max(initial=0.0) < CONVERGED:
            break
    residual = reached - levels.expected(location + bias.astype(np.float32)[owners])[0]
    return FoldedBias(bias, residual.astype(np.float32))


def _total_reached(levels: Levels, owners: NDArray[np.integer[Any]], reached: Vector, n: int) -> Vector:
    """`Levels.reached` summed over each bias's ratings and over its prior's."""
    prior: Vector = PSEUDO_RATINGS * (levels.weight @ sigmoid(levels.log_odds))
    return np.bincount(owners, reached, n) + prior


def _newton_step(
    levels: Levels, bias: Vector, owners: NDArray[np.integer[Any]], total_reached: Vector, location: Single
) -> Vector:
    """One Newton step of every bias, shape (n,).

    Args:
        levels: of the stars.
        bias: shape (n,).
        owners: which bias each rating belongs to.
        total_reached: see `_total_reached`, shape (n,).
        location: of each rating, its owner's bias included.
    """
    n_ratings, n = location.size, bias.size
    # The last ratings are the prior's: average ratings of a movie whose bias is 0.
    expected = levels.expected(np.concatenate((location, bias.astype(np.float32))))
    mean, variance = expected[:, n_ratings:] * PSEUDO_RATINGS
    mean = mean + np.bincount(owners, expected[0, :n_ratings], n)
    variance = variance + np.bincount(owners, expected[1, :n_ratings], n)
    # The floor is for biases so extreme that their variance underflows.
    step: Vector = (total_reached - mean) / np.maximum(variance, 1e-9)
    return np.minimum(np.maximum(step, -LARGEST_NEWTON_STEP), LARGEST_NEWTON_STEP)

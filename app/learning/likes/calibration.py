"""The probability that a user likes a movie that they watch and rate.

Scores answer another question (will they watch it *and* like it?) and are far from
calibrated for this one. Here is what makes probabilities of a like model's log-odds, by
ratings that it was not fitted to, and the logistic regression that any like model has
to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from app.learning.rating_matrix import Preferences

PSEUDO_RATINGS = 3.0  # average ratings that every user and every movie has as a prior
LARGEST_NEWTON_STEP = 2.0  # in log-odds; a full step can overshoot where the logistic curve is flat
SHORT_LENGTH = 10.0  # ratings; the length at which half of what is due to shortness is gone
FOLD_IN_STEPS = 8  # Newton steps; the 1-dimensional problem is concave and converges in 4 or 5
FOLDED_IN = 1e-6  # log-odds; the step after one so small would be about its square

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BiasLogistic:
    """log-odds of liking = intercept + user's bias + movie's bias.

    Fitted by maximum likelihood, with a prior on each bias worth `PSEUDO_RATINGS`
    ratings that came out as the average rating does. A user's bias is not stored: it is
    folded in from the user's ratings.

    Attributes:
        intercept: log-odds of the share of liked ratings.
        movie_bias: float64 of shape (n_movies,); 0 if unrated.
    """

    intercept: float
    movie_bias: Vector

    @classmethod
    def fit(
        cls,
        preferences: Preferences,
        *,
        tolerance: float = 0.01,
        most_rounds: int = 50,
    ) -> Self:
        """Alternate Newton steps for all users and for all movies until no bias moves.

        Args:
            preferences: the ratings to fit.
            tolerance: largest last change of a bias, in log-odds.
            most_rounds: stop after so many rounds in any case.
        """
        users, movies, liked = preferences.users, preferences.indices, preferences.liked.astype(np.float64)
        n_liked = liked.sum()
        intercept = float(np.log(n_liked + 0.5) - np.log(liked.size - n_liked + 0.5))
        user_bias, movie_bias = np.zeros(preferences.n_users), np.zeros(preferences.n_movies)
        for _ in range(most_rounds):
            moved = 0.0
            for bias, owner in ((user_bias, users), (movie_bias, movies)):
                predicted = expit(intercept + user_bias[users] + movie_bias[movies])
                step = _newton_step(bias, owner, liked, predicted, intercept)
                bias += step
                moved = max(moved, float(np.abs(step).max(initial=0.0)))
            if moved < tolerance:
                break
        return cls(intercept, movie_bias)

    def user_bias(self, preferences: Preferences) -> Vector:
        """The bias that explains each user's ratings best, (n_users,); 0 if none."""
        users, liked = preferences.users, preferences.liked.astype(np.float64)
        offset = self.intercept + self.movie_bias[preferences.indices]
        bias = np.zeros(preferences.n_users)
        for _ in range(FOLD_IN_STEPS):
            predicted = expit(offset + bias[users])
            step = _newton_step(bias, users, liked, predicted, self.intercept)
            bias += step
            if np.abs(step).max(initial=0.0) < FOLDED_IN:
                break
        return bias

    def log_odds(self, preferences: Preferences, columns: NDArray[np.integer[Any]] | None = None) -> Vector:
        """Log-odds that each user likes each movie or chosen column, if rated.

        Args:
            preferences: what is known of the users.
            columns: m movie columns; None for all.

        Returns:
            Shape (n_users, m or n_movies).
        """
        movie_bias = self.movie_bias if columns is None else self.movie_bias[columns]
        return self.intercept + self.user_bias(preferences)[:, None] + movie_bias


def _newton_step(
    bias: Vector,
    owner: NDArray[np.integer[Any]],
    liked: Vector,
    predicted: Vector,
    intercept: float,
) -> Vector:
    """One Newton step of every bias at once; `owner` is the bias of each rating."""
    average, own = expit(intercept), expit(intercept + bias)
    slope = np.bincount(owner, liked - predicted, bias.size) + PSEUDO_RATINGS * (average - own)
    curvature = np.bincount(owner, predicted * (1 - predicted), bias.size) + PSEUDO_RATINGS * own * (1 - own)
    # The floor is for biases so extreme that their curvature underflows.
    step: Vector = np.clip(slope / np.maximum(curvature, 1e-9), -LARGEST_NEWTON_STEP, LARGEST_NEWTON_STEP)
    return step


def _logistic_regression(
    inputs: Vector, liked: NDArray[np.bool_], *, precision: float, weight: float = 1.0
) -> Vector:
    """Coefficients by Newton's method; a normal prior pulls them to (1, 0, …).

    Args:
        inputs: shape (n, d).
        liked: outcomes, shape (n,).
        precision: of the prior.
        weight: of each outcome.
    """
    prior = np.eye(1, inputs.shape[1])[0]
    parameters: Vector = prior
    for _ in range(50):
        predicted = expit(inputs @ parameters)
        slope = weight * (inputs.T @ (liked - predicted)) - precision * (parameters - prior)
        variance = weight * predicted * (1 - predicted)
        curvature = (inputs * variance[:, None]).T @ inputs + precision * np.eye(len(prior))
        step = np.clip(np.linalg.solve(curvature, slope), -1.0, 1.0)
        parameters = parameters + step
        if np.abs(step).max() < 1e-8:
            break
    return parameters


@dataclass(frozen=True)
class PlattScaling:
    """Platt's calibration (1999) of log-odds x: sigmoid(slope * x + intercept).

    Attributes:
        slope: positive, so that calibration never changes an order.
        intercept: in log-odds.
    """

    slope: float = 1.0
    intercept: float = 0.0

    @classmethod
    def fit(cls, log_odds: Vector, liked: NDArray[np.bool_]) -> Self:
        """Newton's method on outcomes that the log-odds were not fitted to.

        A prior of one unit precision at slope 1, intercept 0 keeps a handful of
        outcomes from saying much.

        Args:
            log_odds: shape (n,).
            liked: what came out, shape (n,).
        """
        inputs = np.stack([log_odds, np.ones_like(log_odds)], axis=1)  # (n, 2)
        slope, intercept = _logistic_regression(inputs, liked, precision=1.0).tolist()
        return cls(max(slope, 0.01), intercept)

    def probability(self, log_odds: Vector) -> NDArray[np.float32]:
        """Calibrated probabilities in the shape of the log-odds."""
        return expit(self.slope * log_odds + self.intercept).astype(np.float32)


@dataclass(frozen=True)
class LengthCalibration:
    """Platt scaling (1999) of log-odds that depends on a row's number of ratings.

        sigmoid((slope + s short_slope) x + intercept + s short_intercept)
        s = 1 / (1 + n / SHORT_LENGTH)

    A bias that is folded in from three ratings is shrunk towards the mean, and the mean
    user is not the one who rates most: what short rows predict is off in another way
    than what long ones do.

    Attributes:
        slope: positive, and so is its sum with `short_slope`: calibration never changes
            an order.
        intercept: in log-odds.
        short_slope: what an empty row has besides.
        short_intercept: what an empty row has besides, in log-odds.
    """

    slope: float = 1.0
    intercept: float = 0.0
    short_slope: float = 0.0
    short_intercept: float = 0.0

    @classmethod
    def fit(
        cls,
        log_odds: NDArray[np.floating[Any]],
        lengths: NDArray[np.integer[Any]],
        liked: NDArray[np.bool_],
        weight: float = 1.0,
    ) -> Self:
        """Newton's method on outcomes that the log-odds were not fitted to.

        A prior of ten units precision at doing nothing keeps a handful of outcomes from
        saying much.

        Args:
            log_odds: shape (n,).
            lengths: of the row that each was predicted from, shape (n,).
            liked: what came out, shape (n,).
            weight: of each outcome; below 1 where outcomes are there several times.
        """
        shortness = cls._shortness(lengths)
        x = log_odds.astype(np.float64)
        inputs = np.stack([x, np.ones_like(x), shortness * x, shortness], axis=1)  # (n, 4)
        parameters = _logistic_regression(inputs, liked, precision=10.0, weight=weight)
        slope, intercept, short_slope, short_intercept = parameters.tolist()
        slope = max(slope, 0.01)
        return cls(slope, intercept, max(short_slope, 0.01 - slope), short_intercept)

    def probability(
        self, log_odds: NDArray[np.floating[Any]], lengths: NDArray[np.integer[Any]]
    ) -> NDArray[np.float32]:
        """Calibrated probabilities.

        Args:
            log_odds: shape (n_users, m).
            lengths: number of ratings of each user, shape (n_users,).
        """
        shortness = self._shortness(lengths)[:, None].astype(np.float32)
        slope = np.float32(self.slope) + shortness * np.float32(self.short_slope)
        intercept = np.float32(self.intercept) + shortness * np.float32(self.short_intercept)
        result: NDArray[np.float32] = expit(slope * log_odds + intercept).astype(np.float32, copy=False)
        return result

    @staticmethod
    def _shortness(lengths: NDArray[np.integer[Any]]) -> Vector:
        return 1 / (1 + lengths / SHORT_LENGTH)

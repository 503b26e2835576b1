"""Metrics of rankings and of probabilities.

A ranking metric has one number for each user.

A ranking is `hits` of shape (n_users, depth): whether the movie at each rank is
relevant to the user, best rank first, and `n_relevant` of shape (n_users,): the number
of the user's relevant movies. Users without a relevant movie get NaN; the intervals
below and NumPy's nanmean leave them out.

Metrics of probabilities take `weight` of shape (n,), how often each outcome counts;
None: once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.rating_matrix import RatingRows

Vector = NDArray[np.float64]
Hits = NDArray[np.bool_]
Counts = NDArray[np.integer[Any]]


def hits_of(ranked: NDArray[np.integer[Any]], relevant: RatingRows) -> Hits:
    """Whether each ranked movie is relevant, bool of shape (n_users, depth).

    Args:
        ranked: columns, best first, shape (n_users, depth); -1 for an empty rank.
        relevant: the relevant movies of these users; the stars do not matter.
    """
    rows = np.arange(relevant.n_users)[:, None]
    cells = np.where(ranked < 0, -1, rows * relevant.n_movies + ranked)
    return np.isin(cells, relevant.users * relevant.n_movies + relevant.indices)


def ndcg_at(hits: Hits, n_relevant: Counts, k: int = 10) -> Vector:
    """Normalised discounted cumulative gain with binary relevance, shape (n_users,).

    sum over hits at rank r <= k of 1 / log2(r + 1), divided by the sum of the best
    possible ranking (Järvelin and Kekäläinen 2002).
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate(([0.0], np.cumsum(discount)))[np.minimum(n_relevant, k)]
    return _ratio(hits[:, :k] @ discount[: hits.shape[1]], ideal)


def precision_at(hits: Hits, n_relevant: Counts, k: int = 10) -> Vector:
    """Share of relevant movies in the first k ranks, (n_users,); empty ranks miss."""
    return np.where(np.asarray(n_relevant) > 0, hits[:, :k].sum(axis=1) / k, np.nan)


def recall_at(hits: Hits, n_relevant: Counts, k: int = 10) -> Vector:
    """Share of the relevant movies that are among the first k, shape (n_users,)."""
    return _ratio(hits[:, :k].sum(axis=1), n_relevant)


def average_precision(hits: Hits, n_relevant: Counts) -> Vector:
    """Mean of the precision at the rank of each relevant movie, shape (n_users,).

    A relevant movie without a rank counts 0. The mean over users is MAP.
    """
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return _ratio((precision * hits).sum(axis=1), n_relevant)


def reciprocal_rank(hits: Hits, n_relevant: Counts) -> Vector:
    """1 / rank of the first relevant movie, 0 if none is ranked. Shape (n_users,)."""
    first = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    return np.where(np.asarray(n_relevant) > 0, first, np.nan)


def coverage(ranked: NDArray[np.integer[Any]], groups: NDArray[np.bool_]) -> Vector:
    """Share of each group's movies that at least one list holds, shape (n_groups,).

    Args:
        ranked: columns of each user's list, shape (n_users, depth); -1 for an empty
            rank.
        groups: the movies of each group, bool of shape (n_groups, n_movies); NaN for an
            empty group.
    """
    listed = np.zeros(groups.shape[1], np.bool_)
    listed[ranked[ranked >= 0]] = True
    return _ratio((groups & listed).sum(axis=1), groups.sum(axis=1))


def self_information(n_raters: Counts, n_users: int) -> Vector:
    """-log2 of the share of users who rated each movie, in bits; shape (n_movies,).

    A movie without ratings counts as if one user had rated it. The mean over a list is
    its *novelty* (Zhou et al., "Solving the apparent diversity-accuracy dilemma", PNAS
    2010).
    """
    result: Vector = np.log2(n_users) - np.log2(np.maximum(np.asarray(n_raters, np.float64), 1))
    return result


def mean_over_list(ranked: NDArray[np.integer[Any]], value: NDArray[Any]) -> Vector:
    """Mean of a movie's value over each user's list, (n_users,); NaN if empty.

    Args:
        ranked: shape (n_users, depth); -1 for an empty rank.
        value: shape (n_movies,).
    """
    listed = ranked >= 0
    return _ratio(np.where(listed, np.asarray(value, np.float64)[ranked], 0).sum(axis=1), listed.sum(axis=1))


HEAD, MIDDLE, TAIL = range(3)


def popularity_classes(n_ratings: Counts) -> NDArray[np.int64]:
    """HEAD, MIDDLE or TAIL of each movie, a third of the ratings each; (n_movies,).

    The head holds the most rated movies. A movie on a border belongs to the class
    before it. Equally popular movies go by column; movies without ratings are in the
    tail.

    Args:
        n_ratings: of each movie, shape (n_movies,).
    """
    counts = np.asarray(n_ratings, np.int64)
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # ratings of all more popular movies
    result = np.empty(counts.size, np.int64)
    result[order] = np.where(
        counts[order] > 0, np.minimum(3 * before // max(int(counts.sum()), 1), TAIL), TAIL
    )
    return result


def _ratio(numerator: NDArray[Any], denominator: NDArray[Any]) -> Vector:
    """The quotient, NaN where the denominator is 0."""
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result


def auc(outcome: NDArray[np.bool_], score: NDArray[np.floating[Any]], weight: Vector | None = None) -> float:
    """Probability that a positive scores above a negative, ties counting half.

    Args:
        outcome: shape (n,).
        score: shape (n,).
        weight: shape (n,).

    Returns:
        NaN unless both classes occur.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(score, np.float64)[order], prepend=-np.inf))  # of equal scores
    weight = np.ones(outcome.size) if weight is None else weight[order]
    positive = np.add.reduceat(weight * outcome[order], starts)
    negative = np.add.reduceat(weight, starts) - positive
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2  # negatives with a lower score, ties counting half
    return float(positive @ below / pairs) if pairs else float("nan")


def brier(
    outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]], weight: Vector | None = None
) -> float:
    """Mean squared difference of probability and outcome; lower is better."""
    return float(np.average(np.square(np.asarray(probability, np.float64) - outcome), weights=weight))


def absolute_difference(
    outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]], weight: Vector | None = None
) -> float:
    """Mean |v - v'| of outcome and probability; lower is better, but it is improper.

    It is the test loss of the usual tutorial on RBMs for ratings, which draws v' as 0
    or 1 with that probability: the expectation is equal. Unlike the Brier score it
    rewards exaggeration: rounding every probability to 0 or 1 gives the least.
    """
    return float(np.average(np.abs(np.asarray(probability, np.float64) - outcome), weights=weight))


def expected_calibration_error(
    outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]], bins: int = 15
) -> float:
    """Mean gap of predicted probability and observed share, over bins of equal mass."""
    return reliability(outcome, probability, bins).calibration_error


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: predicted and observed shares, by bins of equal mass.

    Attributes:
        predicted: mean probability of each bin, rising.
        came_true: share of the bin's outcomes that came true.
        n: outcomes in each bin.
    """

    predicted: tuple[float, ...]
    came_true: tuple[float, ...]
    n: tuple[int, ...]

    @property
    def calibration_error(self) -> float:
        """Mean gap between the two by outcome; NaN without outcomes."""
        gaps = sum(
            abs(predicted - observed) * n
            for predicted, observed, n in zip(self.predicted, self.came_true, self.n, strict=True)
        )
        return gaps / sum(self.n) if self.n else float("nan")

    def as_dict(self) -> dict[str, list[float] | list[int] | float | None]:
        """The fields and the calibration error as JSON-safe values."""
        return {
            "predicted": list(self.predicted),
            "came_true": list(self.came_true),
            "n": list(self.n),
            "calibration_error": self.calibration_error if self.n else None,
        }


def reliability(
    outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]], bins: int = 15
) -> Reliability:
    """The curve of outcomes, shape (n,), and probabilities, shape (n,).

    A bin holds n / bins outcomes, give or take one; fewer outcomes than bins make a bin
    each.
    """
    order = np.argsort(probability, kind="stable")
    predicted, observed = np.asarray(probability, np.float64), np.asarray(outcome, np.float64)
    filled = [part for part in np.array_split(order, bins) if part.size]
    return Reliability(
        tuple(float(predicted[part].mean()) for part in filled),
        tuple(float(observed[part].mean()) for part in filled),
        tuple(part.size for part in filled),
    )


@dataclass(frozen=True)
class Interval:
    """A mean with the ends of its confidence interval, over the n defined values."""

    mean: float
    low: float
    high: float
    n: int


def normal_interval(values: NDArray[np.floating[Any]], z: float = 1.96) -> Interval:
    """The mean, give or take z standard errors (1.96: 95 %), without the NaN values."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    error = z * float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else float("inf")
    return Interval(mean, mean - error, mean + error, values.size)

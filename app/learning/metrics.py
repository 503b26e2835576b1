"""How good a ranking or a probability is. Every ranking metric gives one number for each user.

A ranking comes in as `hits` of shape (n_users, depth): whether the movie at each rank is relevant to the
user, best rank first, and `n_relevant` of shape (n_users,): how many relevant movies there are in all. Users
without any have no defined value and get NaN; the intervals below and NumPy's nanmean leave them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.preferences import RatingRows

Vector = NDArray[np.float64]
Hits = NDArray[np.bool_]
Counts = NDArray[np.integer[Any]]


def hits_of(ranked: NDArray[np.integer[Any]], relevant: RatingRows) -> Hits:
    """Which ranked movies are relevant.

    Args:
        ranked: columns, best first, shape (n_users, depth); -1 where there is none.
        relevant: the same users' relevant movies; the stars do not matter.

    Returns:
        bool of shape (n_users, depth).
    """
    rows = np.arange(relevant.n_users)[:, None]
    cells = np.where(ranked < 0, -1, rows * relevant.n_movies + ranked)
    return np.isin(cells, relevant.users * relevant.n_movies + relevant.indices)


def ndcg_at(hits: Hits, n_relevant: Counts, k: int = 10) -> Vector:
    """Normalised discounted cumulative gain with binary relevance, shape (n_users,).

    sum over hits at rank r <= k of 1 / log2(r + 1), divided by what the best possible ranking would have.
    """
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate(([0.0], np.cumsum(discount)))[np.minimum(n_relevant, k)]
    return _ratio(hits[:, :k] @ discount[: hits.shape[1]], ideal)


def precision_at(hits: Hits, n_relevant: Counts, k: int = 10) -> Vector:
    """Share of the first k ranks that are relevant, shape (n_users,); an empty rank counts as a miss."""
    return np.where(np.asarray(n_relevant) > 0, hits[:, :k].sum(axis=1) / k, np.nan)


def recall_at(hits: Hits, n_relevant: Counts, k: int = 10) -> Vector:
    """Share of the relevant movies that are among the first k, shape (n_users,)."""
    return _ratio(hits[:, :k].sum(axis=1), n_relevant)


def average_precision(hits: Hits, n_relevant: Counts) -> Vector:
    """Mean over the relevant movies of the precision at their rank; 0 for those not ranked. Shape (n_users,).

    Its mean over users is MAP.
    """
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    return _ratio((precision * hits).sum(axis=1), n_relevant)


def reciprocal_rank(hits: Hits, n_relevant: Counts) -> Vector:
    """1 / rank of the first relevant movie, 0 if none is ranked. Shape (n_users,)."""
    first = np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0)
    return np.where(np.asarray(n_relevant) > 0, first, np.nan)


def coverage(ranked: NDArray[np.integer[Any]], groups: NDArray[np.bool_]) -> Vector:
    """Share of the movies of each group that at least one user is shown, shape (n_groups,).

    Args:
        ranked: the columns that each user is shown, shape (n_users, depth); -1 where there is none.
        groups: which movies are in each group, shape (n_groups, n_movies). An empty group has NaN.
    """
    shown = np.zeros(groups.shape[1], np.bool_)
    shown[ranked[ranked >= 0]] = True
    return _ratio((groups & shown).sum(axis=1), groups.sum(axis=1))


def self_information(n_raters: Counts, n_users: int) -> Vector:
    """How surprising it is that a user rated a movie: -log2 of the share of users who did, in bits.

    A movie that nobody rated counts as if one user had. Its mean over what is shown is *novelty* (Zhou et
    al., "Solving the apparent diversity-accuracy dilemma", PNAS 2010). Shape (n_movies,).
    """
    result: Vector = np.log2(n_users) - np.log2(np.maximum(np.asarray(n_raters, np.float64), 1))
    return result


def mean_over_shown(ranked: NDArray[np.integer[Any]], value: NDArray[Any]) -> Vector:
    """The mean of a value of movies over what each user is shown, shape (n_users,); NaN with nothing shown.

    Args:
        ranked: shape (n_users, depth); -1 where there is none.
        value: shape (n_movies,).
    """
    shown = ranked >= 0
    return _ratio(np.where(shown, np.asarray(value, np.float64)[ranked], 0).sum(axis=1), shown.sum(axis=1))


HEAD, MIDDLE, TAIL = range(3)


def popularity_classes(n_ratings: Counts) -> NDArray[np.int64]:
    """Head, middle or tail of the catalogue, each with a third of all ratings, the most rated movies first.

    A movie on which a border falls belongs to the class before the border. Equally popular movies go by
    column; movies without ratings are in the tail.

    Args:
        n_ratings: of each movie, shape (n_movies,).

    Returns:
        HEAD, MIDDLE or TAIL of each movie, shape (n_movies,).
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


def auc(outcome: NDArray[np.bool_], score: NDArray[np.floating[Any]]) -> float:
    """Probability that a positive scores above a negative, ties counting half. NaN with one class only.

    Args:
        outcome: shape (n,).
        score: shape (n,).
    """
    outcome = np.asarray(outcome, dtype=np.bool_)
    n_positive = int(outcome.sum())
    n_negative = outcome.size - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    _, group, count = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # of each group of equal scores, from 1
    rank_sum = mean_rank[group[outcome]].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def brier(outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]]) -> float:
    """Mean squared difference of probability and outcome; lower is better."""
    return float(np.square(np.asarray(probability, np.float64) - outcome).mean())


def absolute_difference(outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]]) -> float:
    """Mean |v - v'| of what came out, 0 or 1, and its probability; lower is better, but not honest.

    It is the test loss of the usual tutorial on RBMs for ratings, which takes a 0 or 1 drawn with that
    probability for v': the expectation is the same. Unlike the Brier score it rewards exaggeration: the least
    is reached by rounding every probability to 0 or 1.
    """
    return float(np.abs(np.asarray(probability, np.float64) - outcome).mean())


def expected_calibration_error(
    outcome: NDArray[np.bool_], probability: NDArray[np.floating[Any]], bins: int = 15
) -> float:
    """Mean gap between predicted probability and observed share, over bins of equal mass.

    Args:
        outcome: shape (n,).
        probability: shape (n,).
        bins: number of bins; each holds n / bins predictions, give or take one.
    """
    return reliability(outcome, probability, bins).calibration_error


@dataclass(frozen=True)
class Reliability:
    """A reliability curve: what was predicted and what came out, bin by bin of equal mass.

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
        """Mean gap between the two, each outcome counting alike; NaN without any."""
        gaps = sum(
            abs(said - came) * n for said, came, n in zip(self.predicted, self.came_true, self.n, strict=True)
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
    """The curve of predictions, shape (n,), and outcomes, shape (n,); fewer than `bins` make a bin each."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, bins)
    said, came = np.asarray(probability, np.float64), np.asarray(outcome, np.float64)
    filled = [part for part in parts if part.size]
    return Reliability(
        tuple(float(said[part].mean()) for part in filled),
        tuple(float(came[part].mean()) for part in filled),
        tuple(part.size for part in filled),
    )


@dataclass(frozen=True)
class Interval:
    """A mean with a confidence interval.

    Attributes:
        mean: of the values that are defined.
        low: lower end.
        high: upper end.
        n: number of values that are defined.
    """

    mean: float
    low: float
    high: float
    n: int


def normal_interval(values: NDArray[np.floating[Any]], z: float = 1.96) -> Interval:
    """The mean, give or take z standard errors (1.96: 95 %); NaN values are left out."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    error = z * float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else float("inf")
    return Interval(mean, mean - error, mean + error, values.size)


def bootstrap_interval(
    values: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """The mean, and the central `level` of the means of resamples; NaN values are left out."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    means = np.array([rng.choice(values, values.size).mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), values.size)

"""Rank the full catalogue for users whose test ratings are known, judge those ratings, and measure both.

Training runs (the gate) and `harmonium evaluate` measure with these functions and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.learning import metrics
from app.learning.preferences import RatingRows
from app.learning.ranking import Scores, top_rows

USERS_AT_ONCE = 512  # bounds the block of scores, never all users x movies
CELLS_AT_ONCE = 4_000_000  # users x movies of one block of probabilities
RELIABILITY_BINS = 15  # of equal mass, as in the calibration error
HISTOGRAM_BINS = 20  # of equal width

RANKING_METRICS = ("ndcg", "precision", "recall", "average_precision", "reciprocal_rank")


class Judge(Protocol):
    """What gives probabilities."""

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """Shape (n_users, m or n_movies)."""


@dataclass(frozen=True, eq=False)
class RankingQuality:
    """Quality of the first k ranks for each user, NaN where the user has no relevant test movie.

    Attributes:
        ndcg, precision, recall, average_precision, reciprocal_rank: float64 of shape (n_users,). The last two
            see the first k ranks only.
        k: number of ranks.
    """

    ndcg: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]
    k: int

    @property
    def n_users(self) -> int:
        """Users who have a relevant test movie, and so count."""
        return int(np.count_nonzero(~np.isnan(self.ndcg)))

    def means(self) -> dict[str, float]:
        """Each metric averaged over the users who count, by name; NaN if nobody does."""
        return {name: metrics.normal_interval(getattr(self, name)).mean for name in RANKING_METRICS}


def ranked_lists(scores: Callable[[RatingRows], Scores], given: RatingRows, depth: int) -> NDArray[np.int64]:
    """Rank every movie that a user has not rated in `given`.

    Args:
        scores: a function of rating rows to scores of shape (n_users, n_movies), higher is better, such as
            `Machines.blended_scores`; it sees `given` and nothing else.
        given: input rows; what they rate is not ranked.
        depth: how many ranks.

    Returns:
        Columns, best first, shape (n_users, depth); -1 where no movie is left.
    """
    ranked = np.empty((given.n_users, depth), np.int64)
    for start in range(0, given.n_users, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, given.n_users))
        block = given.rows(users)
        ranked[users] = top_rows(scores(block), depth, block)
    return ranked


def list_quality(
    ranked: NDArray[np.int64], test: RatingRows, *, relevant_at_least: float | None = None, k: int = 10
) -> RankingQuality:
    """Look for the users' test movies among the first k ranks of their lists.

    Args:
        ranked: what `ranked_lists` gives, k deep or deeper.
        test: rows of the same users.
        relevant_at_least: stars from which a test rating is relevant; None: every test rating is.
        k: how many ranks count.
    """
    relevant = relevant_rows(test, relevant_at_least)
    hits, n_relevant = metrics.hits_of(ranked[:, :k], relevant), relevant.lengths
    return RankingQuality(
        ndcg=metrics.ndcg_at(hits, n_relevant, k),
        precision=metrics.precision_at(hits, n_relevant, k),
        recall=metrics.recall_at(hits, n_relevant, k),
        average_precision=metrics.average_precision(hits, n_relevant),
        reciprocal_rank=metrics.reciprocal_rank(hits, n_relevant),
        k=k,
    )


def ranking_quality(
    scores: Callable[[RatingRows], Scores],
    given: RatingRows,
    test: RatingRows,
    *,
    relevant_at_least: float | None = None,
    k: int = 10,
) -> RankingQuality:
    """Rank every movie that a user has not rated in `given`, and look for the user's test movies.

    The arguments are those of `ranked_lists` and `list_quality`.
    """
    if given.n_users != test.n_users or given.n_movies != test.n_movies:
        raise ValueError("given and test must be rows of the same users over the same movies")
    return list_quality(ranked_lists(scores, given, k), test, relevant_at_least=relevant_at_least, k=k)


def relevant_rows(test: RatingRows, relevant_at_least: float | None) -> RatingRows:
    """The test ratings that a list should find; all of them where there is no threshold."""
    return test if relevant_at_least is None else test.where(test.stars >= np.float32(relevant_at_least))


def probabilities(judge: Judge, given: RatingRows, test: RatingRows) -> NDArray[np.float32]:
    """like_probability of every test rating from the same users' given ratings, shape (n_ratings,)."""
    result = np.empty(test.n_ratings, np.float32)
    block = max(1, CELLS_AT_ONCE // max(test.n_movies, 1))
    for start in range(0, test.n_users, block):
        users = np.arange(start, min(start + block, test.n_users))
        asked = test.rows(users)
        its = slice(test.indptr[users[0]], test.indptr[users[-1] + 1])
        result[its] = judge.like_probability(given.rows(users))[asked.users, asked.indices]
    return result


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often movies were liked that were given a probability, over bins of equal mass.

    Attributes:
        predicted: mean probability of each bin, rising; shape (n_bins,).
        observed: share of liked ratings in each bin; shape (n_bins,).
        n: ratings in each bin; shape (n_bins,).
        histogram: ratings by probability, from 0 to 1 in steps of equal width; shape (HISTOGRAM_BINS,).
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    n: NDArray[np.int64]
    histogram: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Judged:
    """Probabilities of test ratings beside what came out, lowest probability first.

    Every figure can be asked for with some users counted several times and others not at all, which is what
    resampling users needs; sorting once keeps that cheap.

    Attributes:
        users: row number of each rating, shape (n_ratings,).
        movies: column of each rating, shape (n_ratings,).
        liked: whether its stars reach `liked_at_least`, shape (n_ratings,).
        relevant: whether they reach `relevant_at_least`, shape (n_ratings,).
        probability: float64 of shape (n_ratings,), rising.
        n_users: number of rows.
    """

    users: NDArray[np.int64]
    movies: NDArray[np.int64]
    liked: NDArray[np.bool_]
    relevant: NDArray[np.bool_]
    probability: NDArray[np.float64]
    n_users: int

    @classmethod
    def of(
        cls,
        judge: Judge,
        given: RatingRows,
        test: RatingRows,
        *,
        liked_at_least: float,
        relevant_at_least: float,
    ) -> Judged:
        """Ask a judge, who sees `given` and nothing else, for every test rating of the same users."""
        probability = probabilities(judge, given, test)
        order = np.argsort(probability, kind="stable")
        stars = test.stars[order]
        return cls(
            users=test.users[order],
            movies=test.indices[order].astype(np.int64),
            liked=stars >= np.float32(liked_at_least),
            relevant=stars >= np.float32(relevant_at_least),
            probability=probability[order].astype(np.float64),
            n_users=test.n_users,
        )

    def where(self, chosen: NDArray[np.bool_]) -> Judged:
        """Only the chosen ratings; `chosen` has shape (n_ratings,)."""
        return Judged(
            self.users[chosen],
            self.movies[chosen],
            self.liked[chosen],
            self.relevant[chosen],
            self.probability[chosen],
            self.n_users,
        )

    def figures(self, times: NDArray[np.integer[Any]] | None = None) -> dict[str, float]:
        """auc, auc_relevant, brier, calibration_error and absolute_difference (see `metrics`), by name.

        Args:
            times: how often each user counts, shape (n_users,); None: once. NaN where nothing counts.
        """
        weight = np.ones(self.users.size) if times is None else times[self.users].astype(np.float64)
        total = float(weight.sum())
        if not total:
            names = ("auc", "auc_relevant", "brier", "calibration_error", "absolute_difference")
            return dict.fromkeys(names, float("nan"))
        starts = np.flatnonzero(np.diff(self.probability, prepend=-1.0))  # of each group of equal ones
        surplus = self.probability - self.liked
        gaps = np.bincount(self._bins, weight * surplus)
        return {
            "auc": _auc(self.liked, weight, starts),
            "auc_relevant": _auc(self.relevant, weight, starts),
            "brier": float(weight @ np.square(surplus)) / total,
            "calibration_error": float(np.abs(gaps).sum()) / total,
            "absolute_difference": float(weight @ np.abs(surplus)) / total,
        }

    def reliability(self) -> Reliability:
        """The curve that the calibration error sums up."""
        bins = self._bins
        n = np.bincount(bins)
        return Reliability(
            predicted=np.bincount(bins, self.probability) / n,
            observed=np.bincount(bins, self.liked) / n,
            n=n,
            histogram=np.histogram(self.probability, HISTOGRAM_BINS, (0.0, 1.0))[0].astype(np.int64),
        )

    def observed_again(self, times: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """`observed` of the same bins in resamples, shape (n_resamples, n_bins); NaN where a bin is empty.

        Args:
            times: how often each user counts, shape (n_resamples, n_users).
        """
        n_bins = self._bins[-1] + 1 if self._bins.size else 0
        cell = self.users * n_bins + self._bins
        of_user = np.bincount(cell, minlength=self.n_users * n_bins).reshape(self.n_users, n_bins)
        liked = np.bincount(cell, self.liked, self.n_users * n_bins).reshape(self.n_users, n_bins)
        n = times @ of_user
        result = np.full(n.shape, np.nan)
        np.divide(times @ liked, n, out=result, where=n > 0)
        return result

    @property
    def _bins(self) -> NDArray[np.int64]:
        """The bin of each rating, shape (n_ratings,): of equal mass, give or take one, and none is empty."""
        parts = np.array_split(np.arange(self.users.size), RELIABILITY_BINS)
        sizes = np.array([part.size for part in parts if part.size], np.int64)
        return np.repeat(np.arange(sizes.size), sizes)


def _auc(outcome: NDArray[np.bool_], weight: NDArray[np.float64], starts: NDArray[np.int64]) -> float:
    """`metrics.auc` of weighted outcomes in the order of their scores; equal scores begin at `starts`."""
    positive = np.add.reduceat(weight * outcome, starts)
    negative = np.add.reduceat(weight, starts) - positive
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative / 2  # negatives that score lower, ties counting half
    return float(positive @ below / pairs) if pairs else float("nan")

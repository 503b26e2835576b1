"""Quality of lists over the full catalogue and of like probabilities.

The gate of training and `harmonium evaluate` both measure with these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from app.learning.evaluation import metrics
from app.learning.inference.ranking import Scores, top_rows
from app.learning.rating_matrix import RatingRows

USERS_AT_ONCE = 512  # bounds the block of scores, never all users x movies
CELLS_AT_ONCE = 4_000_000  # users x movies of one block of probabilities
RELIABILITY_BINS = 15  # of equal mass, as in the calibration error
HISTOGRAM_BINS = 20  # of equal width

RANKING_METRICS = ("ndcg", "precision", "recall", "average_precision", "reciprocal_rank")
LIKE_METRICS = ("auc", "auc_relevant", "brier", "calibration_error", "absolute_difference")


class LikeModel(Protocol):
    """A model of like probabilities: the trained model, or a baseline."""

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """P(liked) of each user and movie, shape (n_users, m or n_movies)."""


@dataclass(frozen=True, eq=False)
class RankingQuality:
    """Quality of each user's first k ranks, NaN without a relevant test movie.

    Attributes:
        ndcg, precision, recall, average_precision, reciprocal_rank: float64 of shape
            (n_users,). The last two look at the first k ranks only.
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
        """Number of users with a relevant test movie."""
        return int(np.count_nonzero(~np.isnan(self.ndcg)))

    def means(self) -> dict[str, float]:
        """Mean of each metric over these users, by name; NaN without users."""
        return {name: metrics.normal_interval(getattr(self, name)).mean for name in RANKING_METRICS}


def ranked_lists(
    scores: Callable[[RatingRows], Scores], profiles: RatingRows, depth: int
) -> NDArray[np.int64]:
    """Columns of each user's list, best first, (n_users, depth); -1 for an empty rank.

    Args:
        scores: a function of rating rows to scores of shape (n_users, n_movies), higher
            is better, such as `TrainedModel.scores`.
        profiles: the rows to score; their rated movies are not ranked.
        depth: number of ranks.
    """
    ranked = np.empty((profiles.n_users, depth), np.int64)
    for start in range(0, profiles.n_users, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, profiles.n_users))
        block = profiles.rows(users)
        ranked[users] = top_rows(scores(block), depth, block)
    return ranked


def list_quality(
    ranked: NDArray[np.int64], test: RatingRows, *, relevant_at_least: float | None = None, k: int = 10
) -> RankingQuality:
    """Quality of the first k ranks of lists.

    Args:
        ranked: as of `ranked_lists`, k deep or deeper.
        test: rows of the same users.
        relevant_at_least: stars from which a test rating is relevant; None: all are.
        k: number of ranks.
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
    profiles: RatingRows,
    test: RatingRows,
    *,
    relevant_at_least: float | None = None,
    k: int = 10,
) -> RankingQuality:
    """`list_quality` of the `ranked_lists` of a scoring function."""
    if profiles.n_users != test.n_users or profiles.n_movies != test.n_movies:
        raise ValueError("profiles and test must be rows of the same users over the same movies")
    return list_quality(ranked_lists(scores, profiles, k), test, relevant_at_least=relevant_at_least, k=k)


def relevant_rows(test: RatingRows, relevant_at_least: float | None) -> RatingRows:
    """The test ratings of at least these stars; all of them without a threshold."""
    return test if relevant_at_least is None else test.where(test.stars >= np.float32(relevant_at_least))


def probabilities(like_model: LikeModel, profiles: RatingRows, test: RatingRows) -> NDArray[np.float32]:
    """like_probability of every test rating from the user's profile, (n_ratings,)."""
    result = np.empty(test.n_ratings, np.float32)
    block = max(1, CELLS_AT_ONCE // max(test.n_movies, 1))
    for start in range(0, test.n_users, block):
        users = np.arange(start, min(start + block, test.n_users))
        part = test.rows(users)
        ratings = slice(test.indptr[users[0]], test.indptr[users[-1] + 1])
        result[ratings] = like_model.like_probability(profiles.rows(users))[part.users, part.indices]
    return result


@dataclass(frozen=True, eq=False)
class LikePredictions:
    """Probabilities of test ratings beside their outcomes, lowest probability first.

    Every figure can count some users several times and others not at all, which is what
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
        like_model: LikeModel,
        profiles: RatingRows,
        test: RatingRows,
        *,
        liked_at_least: float,
        relevant_at_least: float,
    ) -> LikePredictions:
        """A like model's predictions from the profiles, for all test ratings."""
        probability = probabilities(like_model, profiles, test)
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

    def where(self, chosen: NDArray[np.bool_]) -> LikePredictions:
        """Only the chosen ratings; `chosen` has shape (n_ratings,)."""
        return LikePredictions(
            self.users[chosen],
            self.movies[chosen],
            self.liked[chosen],
            self.relevant[chosen],
            self.probability[chosen],
            self.n_users,
        )

    def figures(self, times: NDArray[np.integer[Any]] | None = None) -> dict[str, float]:
        """The `LIKE_METRICS` by name (see `metrics`); NaN without ratings.

        Args:
            times: how often each user counts, shape (n_users,); None: once.
        """
        weight = np.ones(self.users.size) if times is None else times[self.users].astype(np.float64)
        total = float(weight.sum())
        if not total:
            return dict.fromkeys(LIKE_METRICS, float("nan"))
        gaps = np.bincount(self._bins, weight * (self.probability - self.liked))
        return {
            "auc": metrics.auc(self.liked, self.probability, weight),
            "auc_relevant": metrics.auc(self.relevant, self.probability, weight),
            "brier": metrics.brier(self.liked, self.probability, weight),
            "calibration_error": float(np.abs(gaps).sum()) / total,
            "absolute_difference": metrics.absolute_difference(self.liked, self.probability, weight),
        }

    def reliability(self) -> metrics.Reliability:
        """The curve that the calibration error sums up."""
        return metrics.reliability(self.liked, self.probability, RELIABILITY_BINS)

    def histogram(self) -> NDArray[np.int64]:
        """Ratings by probability, in equal steps from 0 to 1; (HISTOGRAM_BINS,)."""
        return np.histogram(self.probability, HISTOGRAM_BINS, (0.0, 1.0))[0].astype(np.int64)

    def resampled_shares(self, times: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Liked share of each reliability bin in resamples, (n_resamples, n_bins).

        Args:
            times: how often each user counts, shape (n_resamples, n_users). NaN where a
                bin is empty.
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
        """Reliability bin of each rating, shape (n_ratings,)."""
        sizes = [part.size for part in np.array_split(self.users, RELIABILITY_BINS) if part.size]
        return np.repeat(np.arange(len(sizes)), sizes)

"""Rank the full catalogue for users whose test ratings are known, and measure it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.learning import metrics
from app.learning.preferences import RatingRows
from app.learning.ranking import Scores, top_rows

USERS_AT_ONCE = 512  # bounds the block of scores, never all users x movies


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
        names = ("ndcg", "precision", "recall", "average_precision", "reciprocal_rank")
        return {name: metrics.normal_interval(getattr(self, name)).mean for name in names}


def ranking_quality(
    scores: Callable[[RatingRows], Scores],
    given: RatingRows,
    test: RatingRows,
    *,
    relevant_at_least: float | None = None,
    k: int = 10,
) -> RankingQuality:
    """Rank every movie that a user has not rated in `given`, and look for the user's test movies.

    Args:
        scores: a function of rating rows to scores of shape (n_users, n_movies), higher is better, such as
            `Machines.blended_scores`; it sees `given` and nothing else.
        given: input rows; what they rate is not ranked.
        test: rows of the same users.
        relevant_at_least: stars from which a test rating is relevant; None: every test rating is.
        k: how many ranks count.
    """
    if given.n_users != test.n_users or given.n_movies != test.n_movies:
        raise ValueError("given and test must be rows of the same users over the same movies")
    relevant = test if relevant_at_least is None else test.where(test.stars >= np.float32(relevant_at_least))
    hits = np.zeros((given.n_users, k), np.bool_)
    for start in range(0, given.n_users, USERS_AT_ONCE):
        users = np.arange(start, min(start + USERS_AT_ONCE, given.n_users))
        block = given.rows(users)
        hits[users] = metrics.hits_of(top_rows(scores(block), k, block), relevant.rows(users))
    n_relevant = relevant.lengths
    return RankingQuality(
        ndcg=metrics.ndcg_at(hits, n_relevant, k),
        precision=metrics.precision_at(hits, n_relevant, k),
        recall=metrics.recall_at(hits, n_relevant, k),
        average_precision=metrics.average_precision(hits, n_relevant),
        reciprocal_rank=metrics.reciprocal_rank(hits, n_relevant),
        k=k,
    )

"""Why a movie is on a list: what its score would be without each of the user's ratings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.geometry import unit_vectors
from app.learning.machines import Machines
from app.learning.preferences import RatingRows

# Ratings of all the rows of one explanation. A profile of 1,000 ratings is tried without each of them; of a
# longer one only those ratings are left out whose movies are the most like the listed ones, or the least.
ENTRIES = 1_000_000


@dataclass(frozen=True)
class Effects:
    """What ratings do to scores.

    Attributes:
        columns: int64 of shape (n,), the movies of the ratings that were tried.
        change: float32 of shape (n, m): the score of each of m movies with all ratings, minus its score
            without this one. Above 0 the rating speaks for the movie.
    """

    columns: NDArray[np.int64]
    change: NDArray[np.float32]


def effects(machines: Machines, row: RatingRows, columns: NDArray[np.integer[Any]]) -> Effects:
    """Leave out one rating at a time, fold in the rest, and look how the scores change: exact, no estimate.

    Args:
        machines: what scores; `blended_scores` is what lists are made from, and what changes here.
        row: one user's ratings, n of them.
        columns: the m movies to explain.
    """
    n = row.n_ratings
    tried = _most_telling(machines, row, columns, ENTRIES // max(n, 1))
    whole = machines.blended_scores(row, columns)
    rest = machines.blended_scores_without_each(row, tried, columns)
    return Effects(row.indices[tried].astype(np.int64), whole - rest)


def _most_telling(
    machines: Machines, row: RatingRows, columns: NDArray[np.integer[Any]], limit: int
) -> NDArray[np.int64]:
    """Positions of at most `limit` ratings, rising."""
    if row.n_ratings <= limit:
        return np.arange(row.n_ratings)
    vectors = unit_vectors(machines)
    likeness = np.abs(vectors[row.indices] @ vectors[columns].T).max(axis=1, initial=0.0)
    return np.sort(np.argsort(-likeness, kind="stable")[:limit])

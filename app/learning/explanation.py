"""Why a movie is on a list: what its score would be without each of the user's ratings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.folded_in import FoldedIn
from app.learning.geometry import unit_vectors

# Ratings that are left out, one at a time; of a longer profile only those whose movies are the most like the
# listed ones, or the least.
MOST_TRIED = 1_000


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


def effects(folded: FoldedIn, columns: NDArray[np.integer[Any]]) -> Effects:
    """Leave out one rating at a time, fold in the rest, and look how the scores change: exact, no estimate.

    Args:
        folded: one user's ratings, n of them.
        columns: the m movies to explain.
    """
    n = folded.n_ratings
    tried = _most_telling(folded, columns, MOST_TRIED)
    whole = folded.of_parts(np.ones((1, n), np.bool_), columns)
    rest = folded.without_each(tried, columns)
    return Effects(folded.columns[tried].astype(np.int64), whole - rest)


def _most_telling(folded: FoldedIn, columns: NDArray[np.integer[Any]], limit: int) -> NDArray[np.int64]:
    """Positions of at most `limit` ratings, rising."""
    if folded.n_ratings <= limit:
        return np.arange(folded.n_ratings)
    vectors = unit_vectors(folded.machines)
    likeness = np.abs(vectors[folded.columns] @ vectors[columns].T).max(axis=1, initial=0.0)
    return np.sort(np.argsort(-likeness, kind="stable")[:limit])

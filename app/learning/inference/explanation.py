"""Explanations: a movie's score without each of the user's ratings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.inference.similarity import unit_vectors
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel

# Ratings that are left out, one at a time; of a longer profile only those whose movies
# are the most like the listed ones, or the least.
MOST_TRIED = 1_000


@dataclass(frozen=True)
class Effects:
    """What ratings do to scores.

    Attributes:
        columns: int64 of shape (n,), the movies of the ratings that were tried.
        change: float32 of shape (n, m): the score of each of m movies with all ratings,
            minus its score without this one. Above 0 the rating speaks for the movie.
    """

    columns: NDArray[np.int64]
    change: NDArray[np.float32]


def effects(model: TrainedModel, row: RatingRows, columns: NDArray[np.integer[Any]]) -> Effects:
    """Leave out one rating at a time, fold in the rest: exact changes of the scores.

    Args:
        model: what the scores are of.
        row: one user's ratings, n of them.
        columns: the m movies to explain.
    """
    tried = _candidates(model, row, columns, MOST_TRIED)
    is_kept = np.ones((tried.size + 1, row.n_ratings), np.bool_)  # the first row has all ratings
    is_kept[np.arange(tried.size) + 1, tried] = False
    places = np.nonzero(is_kept)[1]
    indptr = np.concatenate(([0], np.cumsum(np.count_nonzero(is_kept, axis=1))))
    rows = RatingRows.unchecked(indptr, row.indices[places], row.stars[places], row.n_movies)
    scores = model.fold_in(rows).scores(columns)
    return Effects(row.indices[tried].astype(np.int64), scores[0] - scores[1:])


def _candidates(
    model: TrainedModel, row: RatingRows, columns: NDArray[np.integer[Any]], limit: int
) -> NDArray[np.int64]:
    """Positions of at most `limit` ratings, rising."""
    if row.n_ratings <= limit:
        return np.arange(row.n_ratings)
    vectors = unit_vectors(model)
    likeness = np.abs(vectors[row.indices] @ vectors[columns].T).max(axis=1, initial=0.0)
    return np.sort(np.argsort(-likeness, kind="stable")[:limit])

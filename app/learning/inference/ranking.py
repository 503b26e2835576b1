"""From scores to ranked movies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.rating_matrix import RatingRows

Scores = NDArray[np.floating[Any]]


def top(scores: Scores, limit: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """The columns of the highest scores, best first; equal scores go by column.

    Args:
        scores: shape (n_movies,). A NaN ranks below everything.
        limit: how many at most.
        allowed: shape (n_movies,); False leaves a movie out. None allows all.

    Returns:
        At most `limit` columns, fewer where fewer are allowed.
    """
    candidates = np.arange(scores.size) if allowed is None else np.flatnonzero(allowed)
    limit = min(max(limit, 0), candidates.size)
    if limit == 0:
        return np.empty(0, np.int64)
    descending = -scores[candidates]
    descending[np.isnan(descending)] = np.inf
    if limit < candidates.size:
        # Everything up to the limit-th value, ties included, so that the sort below
        # decides among them.
        last = np.partition(descending, limit - 1)[limit - 1]
        contenders = np.flatnonzero(descending <= last)
        candidates, descending = candidates[contenders], descending[contenders]
    best: NDArray[np.int64] = candidates[np.argsort(descending, kind="stable")[:limit]]
    return best


def top_rows(scores: Scores, limit: int, excluded: RatingRows | None = None) -> NDArray[np.int64]:
    """The best columns of every row, best first, without the rated ones.

    Args:
        scores: shape (n_users, n_movies).
        limit: how many a row.
        excluded: rows of the same users, whose movies are left out.

    Returns:
        int64 of shape (n_users, limit); -1 fills a row up where fewer movies are left.
    """
    n_users, n_movies = scores.shape
    allowed = np.ones((n_users, n_movies), np.bool_)
    if excluded is not None:
        allowed[excluded.users, excluded.indices] = False
    result = np.full((n_users, limit), -1, np.int64)
    for user in range(n_users):
        best = top(scores[user], limit, allowed[user])
        result[user, : best.size] = best
    return result


def ordered(
    scores: Scores,
    length: int,
    allowed: NDArray[np.bool_],
    preferred: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """The best allowed columns, all preferred ones before all others.

    Args:
        scores: shape (n_movies,).
        length: how many at most.
        allowed: shape (n_movies,); False leaves a movie out.
        preferred: shape (n_movies,); False puts a movie behind all that are True. None
            prefers all.

    Returns:
        At most `length` columns, the first ones of what a larger length would give.
    """
    if preferred is None:
        return top(scores, length, allowed)
    first = top(scores, length, allowed & preferred)
    if first.size == length:
        return first
    return np.concatenate([first, top(scores, length - first.size, allowed & ~preferred)])

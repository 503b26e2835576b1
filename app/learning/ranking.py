"""From scores to ranked movies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.preferences import RatingRows

LITTLE_EVIDENCE = 5  # ratings; with fewer a list is called blended: by default popularity weighs half or more

Scores = NDArray[np.floating[Any]]


def top(scores: Scores, limit: int, allowed: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """The columns of the highest scores, best first; equal scores go by column, so the order is certain.

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
        # Everything up to the limit-th value, ties included, so that the sort below decides among them.
        last = np.partition(descending, limit - 1)[limit - 1]
        contenders = np.flatnonzero(descending <= last)
        candidates, descending = candidates[contenders], descending[contenders]
    best: NDArray[np.int64] = candidates[np.argsort(descending, kind="stable")[:limit]]
    return best


def top_rows(scores: Scores, limit: int, excluded: RatingRows | None = None) -> NDArray[np.int64]:
    """The best columns of every row, best first, without those that the row's user has rated.

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


def machine_weight(
    n_ratings: int | NDArray[np.integer[Any]], popularity_ratings: float
) -> NDArray[np.float64]:
    """The weight n / (n + popularity_ratings) of the machine's score beside popularity's, for n ratings.

    So popularity counts as some ratings that agree with everyone.
    """
    n = np.asarray(n_ratings, dtype=np.float64)
    weight: NDArray[np.float64] = n / np.maximum(n + popularity_ratings, 1e-9)  # without either: no machine
    return weight


def blended(
    machine_scores: Scores,
    popularity_scores: Scores,
    n_ratings: int | NDArray[np.integer[Any]],
    popularity_ratings: float,
) -> NDArray[np.float32]:
    """Lean on popularity while little is known of a user: a weighted mean of two scores on one scale.

    Both are log-odds (of the rated design) or log-probabilities, so this is a geometric mean of odds or of
    probabilities, weighted by `machine_weight`.

    Args:
        machine_scores: shape (n_movies,) or (n_users, n_movies).
        popularity_scores: shape (n_movies,).
        n_ratings: how many ratings the machine's scores are folded in from; one number, or one for each user.
        popularity_ratings: what popularity weighs, in such ratings.

    Returns:
        float32 in the shape of `machine_scores`.
    """
    weight = machine_weight(n_ratings, popularity_ratings).astype(np.float32)[..., None]
    return (weight * machine_scores + (1 - weight) * popularity_scores).astype(np.float32, copy=False)


def ordered(
    scores: Scores,
    length: int,
    allowed: NDArray[np.bool_],
    judged: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """The best allowed columns, those that can be judged before all others.

    Args:
        scores: shape (n_movies,).
        length: how many at most.
        allowed: shape (n_movies,); False leaves a movie out.
        judged: shape (n_movies,); False puts a movie behind all that are True. None judges all.

    Returns:
        At most `length` columns, the same ones whatever more is asked for.
    """
    if judged is None:
        return top(scores, length, allowed)
    first = top(scores, length, allowed & judged)
    if first.size == length:
        return first
    return np.concatenate([first, top(scores, length - first.size, allowed & ~judged)])

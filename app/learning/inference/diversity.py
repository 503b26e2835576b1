"""Lists whose movies are not all of one kind: maximal marginal relevance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.learning.inference.ranking import Scores, ordered, top

POOL = 100  # best movies that are put into another order; the rest stays in order of score


def diversified(
    scores: Scores, vectors: NDArray[np.float32], diversity: float, length: int | None = None
) -> NDArray[np.int64]:
    """An order in which every movie is good and unlike those before it.

    Greedily, the next is the movie with the highest

        (1 - diversity) * relevance - diversity * (highest cosine to a chosen movie),

    where relevance is the score, stretched so that it runs from 0 to 1 over these
    movies. The first is the best by score. Carbonell and Goldstein, "The use of MMR,
    diversity-based reranking for reordering documents and producing summaries" (1998).

    Args:
        scores: shape (n,), of the movies to order, best first.
        vectors: shape (n, d), rows of length 1.
        diversity: from 0, which keeps the order, to 1, which looks at likeness only.
        length: how many at most; None for all.

    Returns:
        The first `length` of the positions 0 to n - 1 in their new order. Equal values
        go by position.
    """
    n = len(scores)
    length = n if length is None else min(length, n)
    if length == 0 or diversity == 0:
        return np.arange(length)
    spread = float(scores.max() - scores.min())
    relevance = (scores - scores.min()) / (spread if spread > 0 else 1.0)
    order = np.empty(length, np.int64)
    order[0] = np.argmax(relevance)
    nearest = vectors @ vectors[order[0]]
    is_left = np.ones(n, np.bool_)
    is_left[order[0]] = False
    for place in range(1, length):
        value = (1 - diversity) * relevance - diversity * nearest
        value[~is_left] = -np.inf
        order[place] = chosen = int(np.argmax(value))
        is_left[chosen] = False
        np.maximum(nearest, vectors @ vectors[chosen], out=nearest)
    return order


def ordered_diversely(
    scores: Scores,
    length: int,
    allowed: NDArray[np.bool_],
    preferred: NDArray[np.bool_],
    vectors: NDArray[np.float32],
    diversity: float,
) -> NDArray[np.int64]:
    """`ranking.ordered`, the best `POOL` preferred movies in a diverse order.

    Args:
        scores: shape (n_movies,).
        length: how many at most.
        allowed: shape (n_movies,); False leaves a movie out.
        preferred: shape (n_movies,); False puts a movie behind all that are True.
        vectors: shape (n_movies, d), rows of length 1.
        diversity: from 0 to 1; see `diversified`.

    Returns:
        At most `length` columns, the first ones of what a larger length would give.
    """
    if diversity == 0:
        return ordered(scores, length, allowed, preferred)
    pool = top(scores, POOL, allowed & preferred)
    first = pool[diversified(scores[pool], vectors[pool], diversity, length)]
    if first.size == length:
        return first
    others = allowed.copy()
    others[pool] = False
    return np.concatenate([first, ordered(scores, length - first.size, others, preferred)])


def mean_likeness(vectors: NDArray[np.float32]) -> float:
    """The mean cosine of a list's pairs, rows of (n, d) of length 1; NaN below two."""
    n = len(vectors)
    if n < 2:
        return float("nan")
    total = vectors.sum(axis=0, dtype=np.float64)
    own = float(np.square(vectors, dtype=np.float64).sum())
    return float((total @ total - own) / (n * (n - 1)))

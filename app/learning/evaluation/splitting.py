"""Splits of ratings into a known part and a test part (docs/benchmarks.md)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.learning.rating_matrix import RatingRows


class Split(NamedTuple):
    """Two disjoint parts of the ratings.

    Attributes:
        known: rows that train, or that are folded in.
        test: rows that the lists are compared with.
    """

    known: RatingRows
    test: RatingRows


def stratified(rows: RatingRows, rng: np.random.Generator, test_share: float = 0.25) -> Split:
    """Every user's ratings split at random; both parts hold every user.

    Args:
        rows: all ratings.
        rng: decides which ratings test.
        test_share: of each user's ratings, rounded to the nearest whole number (halves
            down).
    """
    n_test = np.ceil(rows.lengths * test_share - 0.5).astype(np.int64)
    return _split(rows, ~(_place_in_row(rows, rng) < np.repeat(n_test, rows.lengths)))


def temporal(rows: RatingRows, rated_at: NDArray[Any], test_share: float = 0.25) -> Split:
    """The newest ratings test. Users may have no known ratings, or no test ratings.

    Args:
        rows: all ratings.
        rated_at: time of each stored rating, shape (n_ratings,), of any type that
            sorts. Equal times stay in their stored order.
        test_share: of all ratings.
    """
    newest = np.argsort(rated_at, kind="stable")[rows.n_ratings - round(rows.n_ratings * test_share) :]
    known = np.ones(rows.n_ratings, np.bool_)
    known[newest] = False
    return _split(rows, known)


def new_users(rows: RatingRows, rng: np.random.Generator, held_out_share: float = 0.125) -> Split:
    """Whole users held out as `test`, to be split by `profiles`; others are `known`."""
    order = rng.permutation(rows.n_users)
    n_held_out = round(rows.n_users * held_out_share)
    return Split(rows.rows(np.sort(order[n_held_out:])), rows.rows(np.sort(order[:n_held_out])))


def profiles(rows: RatingRows, rng: np.random.Generator, n_known: int | None, least_test: int = 1) -> Split:
    """The first ratings of held-out users, at random, and the rest of their ratings.

    Args:
        rows: held-out users.
        rng: decides which ratings are known.
        n_known: ratings in a profile; None for half of the user's (rounded down).
        least_test: users with fewer test ratings than this are left out of both parts.
    """
    lengths = rows.lengths // 2 if n_known is None else np.full(rows.n_users, n_known)
    enough = np.flatnonzero(rows.lengths - lengths >= least_test)
    rows, lengths = rows.rows(enough), lengths[enough]
    return _split(rows, _place_in_row(rows, rng) < np.repeat(lengths, rows.lengths))


def _split(rows: RatingRows, known: NDArray[np.bool_]) -> Split:
    return Split(rows.where(known), rows.where(~known))


def _place_in_row(rows: RatingRows, rng: np.random.Generator) -> NDArray[np.int64]:
    """Place of each rating in a random order within its row, from 0; (n_ratings,)."""
    shuffled = np.lexsort((rng.random(rows.n_ratings), rows.users))
    place = np.empty(rows.n_ratings, np.int64)
    place[shuffled] = np.arange(rows.n_ratings) - np.repeat(rows.indptr[:-1], rows.lengths)
    return place

"""The three protocols of evaluation: what trains, what is given, what is asked (docs/benchmarks.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.preferences import RatingRows


def stratified(
    rows: RatingRows, rng: np.random.Generator, test_share: float = 0.25
) -> tuple[RatingRows, RatingRows]:
    """Split every user's ratings at random: training rows and test rows of the same users.

    Args:
        rows: all ratings.
        rng: decides which.
        test_share: of each user's ratings, rounded to the nearest whole number (halves down).
    """
    place = _place_in_row(rows, rng)
    n_test = np.ceil(rows.lengths * test_share - 0.5).astype(np.int64)
    test = place < np.repeat(n_test, rows.lengths)
    return rows.where(~test), rows.where(test)


def temporal(
    rows: RatingRows, rated_at: NDArray[Any], test_share: float = 0.25
) -> tuple[RatingRows, RatingRows]:
    """The newest ratings of all are the test; users may have no training ratings, or no test ratings.

    Args:
        rows: all ratings.
        rated_at: time of each stored rating, shape (n_ratings,), anything that sorts. Equal times stay in
            their stored order.
        test_share: of all ratings.
    """
    newest = np.argsort(rated_at, kind="stable")[rows.n_ratings - round(rows.n_ratings * test_share) :]
    test = np.zeros(rows.n_ratings, np.bool_)
    test[newest] = True
    return rows.where(~test), rows.where(test)


def new_users(
    rows: RatingRows, rng: np.random.Generator, held_out_share: float = 0.125
) -> tuple[RatingRows, RatingRows]:
    """Hold out whole users: the rows that train, and those of the held-out users, to be split by `given`."""
    order = rng.permutation(rows.n_users)
    n_held_out = round(rows.n_users * held_out_share)
    return rows.rows(np.sort(order[n_held_out:])), rows.rows(np.sort(order[:n_held_out]))


def given(
    rows: RatingRows, rng: np.random.Generator, n_given: int | None, least_test: int = 1
) -> tuple[RatingRows, RatingRows]:
    """What new users have told so far, and the rest of their ratings, which is the test.

    Args:
        rows: held-out users.
        rng: decides which ratings are told.
        n_given: how many a user tells; None for half of them (rounded down).
        least_test: users with fewer test ratings than this are left out of both results.
    """
    told = rows.lengths // 2 if n_given is None else np.full(rows.n_users, n_given)
    enough = np.flatnonzero(rows.lengths - told >= least_test)
    rows, told = rows.rows(enough), told[enough]
    is_given = _place_in_row(rows, rng) < np.repeat(told, rows.lengths)
    return rows.where(is_given), rows.where(~is_given)


def _place_in_row(rows: RatingRows, rng: np.random.Generator) -> NDArray[np.int64]:
    """The place of each rating in a random order of its user's ratings, from 0; shape (n_ratings,)."""
    shuffled = np.lexsort((rng.random(rows.n_ratings), rows.users))
    place = np.empty(rows.n_ratings, np.int64)
    place[shuffled] = np.arange(rows.n_ratings) - np.repeat(rows.indptr[:-1], rows.lengths)
    return place

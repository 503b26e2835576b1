"""Imagined raters: their shares are the crowd's, and equal rows have equal random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.crowd import Crowd, distinct_rows, rng_of
from app.learning.machines import Machines
from app.learning.preferences import RatingRows


def test_movies_and_likes_are_drawn_by_their_shares(trained: Machines) -> None:
    crowd = Crowd.of(trained)
    columns, stars = crowd.draw(np.random.default_rng(0), (200_000,))
    drawn = np.bincount(columns, minlength=trained.n_movies) / columns.size
    expected = (trained.popularity + 0.5) / (trained.popularity + 0.5).sum()
    np.testing.assert_allclose(drawn, expected, atol=0.002)
    liked = np.bincount(columns, stars == crowd.liked_stars, minlength=trained.n_movies)
    np.testing.assert_allclose(liked / np.bincount(columns), crowd.like_share, atol=0.04)
    threshold = trained.configuration.rank_liked_at_least
    assert threshold is not None
    assert crowd.liked_stars > max(threshold, trained.liked_at_least)
    assert crowd.disliked_stars < min(threshold, trained.liked_at_least)


def test_of_a_movie_drawn_twice_the_first_counts() -> None:
    columns = np.array([[3, 1, 3], [2, 2, 2]])
    stars = np.array([[5, 4, 1], [1, 5, 5]], np.float32)
    rows = distinct_rows(columns, stars, 5)
    assert rows.indptr.tolist() == [0, 2, 3]
    assert rows.indices.tolist() == [1, 3, 2]
    assert rows.stars.tolist() == [4, 5, 1]


def test_rows_of_imagined_raters_are_rows(trained: Machines) -> None:
    rows = Crowd.of(trained).rows(np.random.default_rng(1), 7, 12)
    assert rows.n_users == 7
    assert 1 <= rows.lengths.min() <= rows.lengths.max() <= 12


@pytest.mark.parametrize(
    "other", [RatingRows.single([1, 2], [5, 4], 9), RatingRows.single([1, 3], [4, 5], 9)]
)
def test_random_numbers_belong_to_the_row(other: RatingRows) -> None:
    row = RatingRows.single([2, 1], [5, 4], 9)
    same = RatingRows.single([1, 2], [4, 5], 9)
    drawn, again, others = (rng_of(one.indices, one.stars).random() for one in (row, same, other))
    assert drawn == again != others

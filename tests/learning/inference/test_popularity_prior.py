"""Reference profiles have all users' shares, and equal rows equal random numbers."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.inference.popularity_prior import PopularityPrior, distinct_rows, rng_of
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel


def test_movies_and_likes_are_drawn_by_their_shares(trained: TrainedModel) -> None:
    popularity_prior = PopularityPrior.of(trained)
    columns, stars = popularity_prior.draw(np.random.default_rng(0), (200_000,))
    drawn = np.bincount(columns, minlength=trained.n_movies) / columns.size
    expected = (trained.popularity + 0.5) / (trained.popularity + 0.5).sum()
    np.testing.assert_allclose(drawn, expected, atol=0.002)
    liked = np.bincount(columns, stars == popularity_prior.liked_stars, minlength=trained.n_movies)
    np.testing.assert_allclose(liked / np.bincount(columns), popularity_prior.like_share, atol=0.04)
    threshold = trained.configuration.rank_liked_at_least
    assert threshold is not None
    assert popularity_prior.liked_stars > max(threshold, trained.liked_at_least)
    assert popularity_prior.disliked_stars < min(threshold, trained.liked_at_least)


def test_of_a_movie_drawn_twice_the_first_counts() -> None:
    owners, columns = np.array([0, 0, 0, 1, 1, 1]), np.array([3, 1, 3, 2, 2, 2])
    rows = distinct_rows(owners, columns, np.array([5, 4, 1, 1, 5, 5], np.float32), 2, 5)
    assert rows.indptr.tolist() == [0, 2, 3]
    assert rows.indices.tolist() == [1, 3, 2]
    assert rows.stars.tolist() == [4, 5, 1]


def test_rows_of_imagined_raters_are_rows(trained: TrainedModel) -> None:
    rows = PopularityPrior.of(trained).rows(np.random.default_rng(1), 7, 12)
    assert rows.n_users == 7
    assert 1 <= rows.lengths.min() <= rows.lengths.max() <= 12


@pytest.mark.parametrize(
    "other", [RatingRows.single([1, 2], [5, 4], 9), RatingRows.single([1, 3], [4, 5], 9)]
)
def test_random_numbers_belong_to_the_row(other: RatingRows) -> None:
    row = RatingRows.single([2, 1], [5, 4], 9)
    same = RatingRows.single([1, 2], [4, 5], 9)
    drawn, again, others = (rng_of(profile.indices, profile.stars).random() for profile in (row, same, other))
    assert drawn == again != others

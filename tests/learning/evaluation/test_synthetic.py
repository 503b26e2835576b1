"""Synthetic ratings: of the exact shape, reproducible, and with long tails."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.evaluation.synthetic import LARGEST_SHARE, synthetic_ratings


@pytest.mark.parametrize("shape", [(1, 4, 2), (30, 20, 30), (30, 20, 300), (300, 500, 9_000)])
def test_the_shape_is_exactly_the_requested_one(shape: tuple[int, int, int]) -> None:
    rows = synthetic_ratings(*shape)
    assert (rows.n_users, rows.n_movies, rows.n_ratings) == shape
    assert rows.lengths.min() >= 1
    assert rows.lengths.max() <= LARGEST_SHARE * rows.n_movies
    cells = rows.users * rows.n_movies + rows.indices
    assert (np.diff(cells) > 0).all()  # rising within each user, none twice
    assert set(np.unique(rows.stars)) <= {1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_seed_decides_everything() -> None:
    one, again, other = (synthetic_ratings(200, 300, 6_000, seed) for seed in (5, 5, 6))
    assert (one.indices == again.indices).all()
    assert (one.stars == again.stars).all()
    assert not np.array_equal(one.indices, other.indices)


def test_blocks_of_users_change_the_draws_but_not_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.learning.evaluation.synthetic.CELLS_AT_ONCE", 2_000)
    rows = synthetic_ratings(200, 300, 6_000)
    assert rows.n_ratings == 6_000
    assert rows.lengths.min() >= 1


def test_lengths_and_popularity_have_the_tails_of_movielens_100k() -> None:
    rows = synthetic_ratings(943, 1_682, 100_000)
    lengths, popularity = rows.lengths, rows.ratings_per_movie()
    assert 50 < np.median(lengths) < 90  # there 65, with a mean of 106
    assert 500 < lengths.max() < 842  # 737
    assert 15 < np.median(popularity) < 40  # 27, with a mean of 59
    assert popularity.max() > 300  # 583
    assert 0.4 < (rows.stars >= 4).mean() < 0.65  # 0.55


def test_people_rate_what_they_like_and_like_what_their_kind_likes() -> None:
    rows = synthetic_ratings(400, 320, 16_000)
    rated = np.zeros((400, 320))
    rated[rows.users, rows.indices] = 1
    likeness = np.atleast_2d(np.corrcoef(rated.T))[np.triu_indices(320, 1)]
    shuffled = np.random.default_rng(0).permuted(rated, axis=0)
    by_chance = np.atleast_2d(np.corrcoef(shuffled.T))[np.triu_indices(320, 1)]
    assert likeness.std() > 1.5 * by_chance.std()


@pytest.mark.parametrize("shape", [(10, 10, 9), (10, 10, 51), (0, 10, 0)])
def test_an_impossible_shape_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="there must be at least one a user"):
        synthetic_ratings(*shape)

"""Splits: no rating is lost, none is in both parts."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.evaluation import splitting
from app.learning.rating_matrix import RatingRows


@pytest.fixture
def rows() -> RatingRows:
    rng = np.random.default_rng(0)
    lengths = [0, 1, 2, 3, 4, 10, 30]
    users = np.repeat(np.arange(7), lengths)
    movies = np.concatenate([rng.choice(40, n, replace=False) for n in lengths])
    return RatingRows.from_coordinates(users, movies, np.arange(50), 7, 40)


def cells(*parts: RatingRows) -> list[int]:
    """Every (user, movie) of the parts as one number, sorted."""
    return sorted(np.concatenate([part.users * part.n_movies + part.indices for part in parts]).tolist())


def test_stratified_takes_a_quarter_of_every_user(rows: RatingRows) -> None:
    train, test = splitting.stratified(rows, np.random.default_rng(42))
    assert test.lengths.tolist() == [0, 0, 0, 1, 1, 2, 7]
    assert cells(train, test) == cells(rows)
    again, _ = splitting.stratified(rows, np.random.default_rng(42))
    other, _ = splitting.stratified(rows, np.random.default_rng(43))
    assert cells(again) == cells(train)
    assert cells(other) != cells(train)


def test_stratified_chooses_every_rating_equally_often(rows: RatingRows) -> None:
    chosen = np.zeros(40)
    for seed in range(200):
        _, test = splitting.stratified(rows.rows([6]), np.random.default_rng(seed))
        chosen[test.indices] += 1
    rated = chosen[rows.rows([6]).indices]
    assert rated.min() > 25
    assert rated.max() < 70
    assert rated.sum() == 200 * 7


def test_temporal_tests_the_newest_of_all(rows: RatingRows) -> None:
    train, test = splitting.temporal(rows, rows.stars)  # the stars are 0 to 49 in the order of the users
    assert train.n_ratings == 38
    assert test.n_ratings == 12
    assert train.stars.max() < test.stars.min()
    assert cells(train, test) == cells(rows)
    nothing = splitting.temporal(rows, rows.stars, test_share=0.0)[1]
    assert nothing.n_ratings == 0


def test_new_users_holds_whole_users_out(rows: RatingRows) -> None:
    train, held_out = splitting.new_users(rows, np.random.default_rng(0), 0.4)
    assert (train.n_users, held_out.n_users) == (4, 3)
    assert sorted([*train.stars.tolist(), *held_out.stars.tolist()]) == list(range(50))


def test_profiles_have_n_ratings_and_leave_out_users_with_too_few(rows: RatingRows) -> None:
    known, test = splitting.profiles(rows, np.random.default_rng(0), 3, least_test=5)
    assert known.lengths.tolist() == [3, 3]
    assert test.lengths.tolist() == [7, 27]
    assert len(set(cells(known, test))) == 40
    half, rest = splitting.profiles(rows, np.random.default_rng(0), None)
    assert half.lengths.tolist() == [0, 1, 1, 2, 5, 15]
    assert rest.lengths.tolist() == [1, 1, 2, 2, 5, 15]

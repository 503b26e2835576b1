"""Rows of ratings: unrated, not liked and a star of 0 are three different things."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.rating_matrix import Preferences, RatingRows

INVALID_ROWS = [
    ([1, 2], [0], [1.0], "starts with 0"),
    ([0, 2], [0], [1.0], "rise to the number"),
    ([0, 2, 1], [0], [1.0], "rise to the number"),
    ([0, 1], [0], [1.0, 2.0], "equal length"),
    ([0, 1], [3], [1.0], "outside 0 to 2"),
    ([0, 1], [-1], [1.0], "outside 0 to 2"),
    ([0, 1], [0], [np.nan], "finite"),
]


@pytest.fixture
def rows() -> RatingRows:
    return RatingRows.from_coordinates([2, 0, 2, 0], [1, 3, 0, 0], [0.0, 5.0, -1.0, 3.0], 4, 5)


def test_coordinates_in_any_order_become_rows_with_rising_columns(rows: RatingRows) -> None:
    assert rows.indptr.tolist() == [0, 2, 2, 4, 4]
    assert rows.indices.tolist() == [0, 3, 0, 1]
    assert rows.stars.tolist() == [3.0, 5.0, -1.0, 0.0]
    assert (rows.n_users, rows.n_movies, rows.n_ratings) == (4, 5, 4)
    dtypes = [array.dtype.name for array in (rows.indptr, rows.indices, rows.stars)]
    assert dtypes == ["int64", "int32", "float32"]
    assert rows.users.tolist() == [0, 0, 2, 2]
    assert rows.lengths.tolist() == [2, 0, 2, 0]
    assert rows.ratings_per_movie().tolist() == [2, 1, 0, 1, 0]


def test_a_star_of_zero_is_a_rating(rows: RatingRows) -> None:
    assert rows.preferences(0.0).liked.tolist() == [True, True, False, True]
    assert rows.preferences(3.0).liked.tolist() == [True, True, False, False]
    assert rows.preferences(3.0).likes_per_movie().tolist() == [1, 0, 0, 1, 0]


def test_chosen_rows_come_in_the_requested_order_repeated_or_empty(rows: RatingRows) -> None:
    chosen = rows.rows([2, 1, 2])
    assert chosen.indptr.tolist() == [0, 2, 2, 4]
    assert chosen.stars.tolist() == [-1.0, 0.0, -1.0, 0.0]
    preferences = rows.preferences(0.0).rows(np.array([2, 0]))
    assert preferences.liked.tolist() == [False, True, True, True]
    assert rows.rows([]).n_users == 0


def test_chosen_ratings_keep_all_users(rows: RatingRows) -> None:
    kept = rows.where(rows.stars > 0)
    assert kept.indptr.tolist() == [0, 2, 2, 2, 2]
    assert kept.indices.tolist() == [0, 3]


def test_a_single_row_sorts_its_columns_and_may_be_empty() -> None:
    row = RatingRows.single([4, 1], [2.0, 5.0], 6)
    assert row.indices.tolist() == [1, 4]
    assert row.stars.tolist() == [5.0, 2.0]
    assert RatingRows.single([], [], 6).n_ratings == 0


def test_a_second_rating_of_one_movie_by_one_user_is_refused() -> None:
    with pytest.raises(ValueError, match="user 1 rates movie 2 more than once"):
        RatingRows.from_coordinates([1, 0, 1], [2, 2, 2], [1, 2, 3], 2, 3)


@pytest.mark.parametrize(("user", "movie"), [(2, 0), (-1, 0), (0, 3), (0, -1)])
def test_numbers_out_of_range_are_refused(user: int, movie: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        RatingRows.from_coordinates([user], [movie], [1.0], 2, 3)


@pytest.mark.parametrize(("indptr", "indices", "stars", "message"), INVALID_ROWS)
def test_rows_that_contradict_themselves_are_refused(
    indptr: list[int], indices: list[int], stars: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RatingRows(np.array(indptr), np.array(indices, np.int32), np.array(stars, np.float32), 3)
    if message != "finite":
        with pytest.raises(ValueError, match=message.replace("stars", "liked")):
            Preferences(np.array(indptr), np.array(indices, np.int32), np.array(stars) > 0, 3)

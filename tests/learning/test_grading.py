"""What a rating counts by its stars."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.grading import Grading
from app.learning.preferences import RatingRows

STARS = np.repeat([1, 2, 3, 4, 5], [6, 11, 27, 34, 22]).astype(np.float32)  # the shares in MovieLens 100K


def test_average_stars_count_one_better_ones_more_and_the_worst_against() -> None:
    grading = Grading.of(STARS, 0.22)
    grades = grading.grades(np.array([1, 2, 3, 4, 5], np.float32))
    assert (np.diff(grades) > 0).all()
    assert grades[0] < 0 < grades[1]
    assert grades[3] > 1 > grades[2]
    assert grading.grades(np.array([grading.mean])) == pytest.approx(1)
    assert float(grading.grades(STARS)[STARS >= 3].mean()) == pytest.approx(1, abs=0.1)


def test_it_does_not_matter_on_what_scale_stars_are_given() -> None:
    one, other = Grading.of(STARS, 0.22), Grading.of(STARS * 20 - 7, 0.22)
    np.testing.assert_allclose(one.grades(STARS), other.grades(STARS * 20 - 7), rtol=1e-5)


def test_equal_stars_all_count_one_and_a_dislike_among_them_speaks_against() -> None:
    grading = Grading.of(np.full(9, 5, np.float32), 0.22)
    np.testing.assert_array_equal(grading.grades(np.full(3, 5, np.float32)), 1)
    lowest = grading.grades(np.array([1, -1e6], np.float32))
    assert lowest[0] < 0
    assert lowest[0] == lowest[1]  # beyond a bound stars say nothing more


def test_no_slope_counts_all_ratings_alike() -> None:
    np.testing.assert_array_equal(Grading.of(STARS, 0.0).grades(STARS), 1)


def test_nobodys_stars_are_graded_all_the_same() -> None:
    assert np.isfinite(Grading.of(np.array([], np.float32), 0.22).grades(STARS)).all()


def test_rows_hold_a_grade_for_each_rating() -> None:
    rows = RatingRows.from_coordinates([0, 0, 2], [3, 1, 0], [5, 1, 4], 3, 4)
    grading = Grading.of(STARS, 0.22)
    dense = grading.rows(rows).toarray()
    assert dense.shape == (3, 4)
    np.testing.assert_array_equal(
        dense[[0, 0, 2], [3, 1, 0]], grading.grades(np.array([5, 1, 4], np.float32))
    )
    assert np.count_nonzero(dense) == 3

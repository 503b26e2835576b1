"""Ranked lists: certain order, exclusions, and the blend with popularity."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.learning.inference.ranking import ordered, top, top_rows
from app.learning.rating_matrix import RatingRows


def test_best_first_and_ties_by_column() -> None:
    scores = np.array([1.0, 3.0, 3.0, -2.0, 3.0])
    assert top(scores, 3).tolist() == [1, 2, 4]
    assert top(scores, 2).tolist() == [1, 2]
    assert top(scores, 99).tolist() == [1, 2, 4, 0, 3]


def test_only_allowed_columns_are_ranked() -> None:
    scores = np.array([5.0, 4.0, 3.0])
    assert top(scores, 2, np.array([False, True, True])).tolist() == [1, 2]
    assert top(scores, 2, np.zeros(3, np.bool_)).tolist() == []
    assert top(scores, 0).tolist() == []
    assert top(scores, -1).tolist() == []


def test_what_is_no_number_ranks_last() -> None:
    assert top(np.array([np.nan, -np.inf, 0.0, np.inf]), 4).tolist()[:2] == [3, 2]
    assert top(np.array([np.nan, 1.0, 0.0]), 2).tolist() == [1, 2]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 45))
def test_top_equals_a_full_stable_sort(values: list[int], limit: int) -> None:
    scores = np.array(values, np.float32)
    assert top(scores, limit).tolist() == np.argsort(-scores, kind="stable")[:limit].tolist()


def test_rows_leave_out_what_is_excluded_and_fill_up_with_minus_one() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    rated = RatingRows.from_coordinates([0, 1, 1], [0, 1, 2], [1, 1, 1], 2, 3)
    assert top_rows(scores, 2, rated).tolist() == [[1, 2], [0, -1]]
    assert top_rows(scores, 1).tolist() == [[0], [2]]


def test_what_is_not_preferred_comes_after_all_others() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    preferred = np.array([False, True, True, False, True])
    allowed = np.array([True, True, True, True, False])
    assert ordered(scores, 4, allowed, preferred).tolist() == [1, 2, 0, 3]
    assert ordered(scores, 2, allowed, preferred).tolist() == [1, 2]
    assert ordered(scores, 3, allowed, preferred).tolist() == [1, 2, 0]
    assert ordered(scores, 9, allowed).tolist() == [0, 1, 2, 3]

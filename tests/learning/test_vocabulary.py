"""The order of the movies."""

from __future__ import annotations

import pytest

from app.learning.vocabulary import Vocabulary


def test_columns_follow_the_order_of_the_ids_and_are_minus_one_where_unknown() -> None:
    vocabulary = Vocabulary(["50", "tt0076759", "ö"])
    assert vocabulary.columns(["ö", "50", "nothing", "50"]).tolist() == [2, 0, -1, 0]
    assert vocabulary.columns([]).shape == (0,)
    assert vocabulary.movie_ids == ("50", "tt0076759", "ö")


def test_length_membership_and_equality() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert len(vocabulary) == 2
    assert "a" in vocabulary
    assert "c" not in vocabulary
    assert 1 not in vocabulary
    assert vocabulary == Vocabulary(("a", "b"))
    assert hash(vocabulary) == hash(Vocabulary(("a", "b")))
    assert vocabulary != Vocabulary(["b", "a"])
    assert vocabulary != ("a", "b")


def test_a_repeated_id_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'b' occurs more than once"):
        Vocabulary(["a", "b", "c", "b"])

"""Cursors return the numbers they were made of; nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.storage import cursors

Numbers = st.lists(st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1), min_size=1, max_size=3)


@given(Numbers)
def test_a_cursor_is_read_as_it_was_made(numbers: list[int]) -> None:
    cursor = cursors.make(*numbers)
    assert cursors.read(cursor, len(numbers)) == numbers
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?#% ")
    with pytest.raises(InvalidInput):
        cursors.read(cursor, len(numbers) + 1)


@pytest.mark.parametrize("cursor", ["", "x", "é", "MS4y", "MWUz", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_what_no_list_has_handed_out_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        cursors.read(cursor, 1)


@given(st.sets(st.integers(min_value=1, max_value=2**63 - 1), min_size=1, max_size=50))
def test_a_set_is_read_as_it_was_made(numbers: set[int]) -> None:
    cursor = cursors.make_set(numbers)
    assert cursors.read_set(cursor, 50) == sorted(numbers)
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&?#% ")
    with pytest.raises(InvalidInput):
        cursors.read_set(cursor, len(numbers) - 1)


def test_a_thousand_seen_movies_fit_into_a_url() -> None:
    assert len(cursors.make_set(range(1, 60_001, 60))) < 1_500


@given(st.text(max_size=30))
def test_any_text_is_a_set_or_is_refused(cursor: str) -> None:
    try:
        numbers = cursors.read_set(cursor, 20)
    except InvalidInput:
        return
    assert numbers == sorted(set(numbers))
    assert 0 < numbers[0] <= numbers[-1] < 2**63


# In turn: nothing, no base64, a letter outside it, a step of 0, an unfinished number, a
# number too large.
@pytest.mark.parametrize("cursor", ["", "x", "é", "AA", "gA", "__________9_AQ"])
def test_what_is_no_set_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        cursors.read_set(cursor, 10)

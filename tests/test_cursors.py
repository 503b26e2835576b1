"""Cursors come back as the numbers they were made of, and nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import cursors
from app.errors import InvalidInput

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

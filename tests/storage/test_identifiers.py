"""Ids come back exactly or are refused with a reason."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.storage.identifiers import clean_id


@pytest.mark.parametrize(
    ("given_id", "stored"),
    [
        ("42", "42"),
        (42, "42"),
        (-7, "-7"),
        (2**63, "9223372036854775808"),
        ("x" * 128, "x" * 128),
        ("Am\u0065\u0301lie", "Am\u00e9lie"),
        ("'; DROP TABLE ratings; --", "'; DROP TABLE ratings; --"),
        (" spaced ", " spaced "),
        ("...", "..."),
        ("日本", "日本"),
    ],
)
def test_an_id_becomes_its_stored_form(given_id: object, stored: str) -> None:
    assert clean_id(given_id) == stored


@pytest.mark.parametrize(
    ("given_id", "reason"),
    [
        ("", "empty"),
        ("x" * 129, "128"),
        ("x" * 10**6, "128"),
        (10**400, "128"),
        ("a/b", "/"),
        (".", "not be ."),
        ("..", "not be ."),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\x9fb", "control"),
        ("\ud800", "surrogates"),
        (None, "string or an integer"),
        (True, "string or an integer"),
        (1.5, "string or an integer"),
        ([], "string or an integer"),
    ],
)
def test_an_id_that_could_not_come_back_is_refused(given_id: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        clean_id(given_id)


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    try:
        cleaned = clean_id(text)
    except ValueError:
        return
    assert clean_id(cleaned) == cleaned == unicodedata.normalize("NFC", text)

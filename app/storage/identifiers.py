"""Ids that callers choose for users and movies, one rule for every way in."""

import unicodedata

LONGEST = 128  # characters


def clean_id(value: object) -> str:
    """The id as it is stored: a string of 1 to 128 characters in Unicode's NFC form.

    Integers become their decimal string. Raises `ValueError` with a message for callers
    for other types and for strings that are empty, too long, `.` or `..`, or that
    contain `/`, control characters or lone surrogates: such an id could not stand in a
    URL or come back unchanged.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("an id is a string or an integer")
    if isinstance(value, int):
        # Python refuses to print integers of thousands of digits.
        if abs(value) >= 10**LONGEST:
            raise ValueError(f"an id has at most {LONGEST} characters")
        value = str(value)
    if len(value) > 4 * LONGEST:
        raise ValueError(f"an id has at most {LONGEST} characters")
    cleaned = unicodedata.normalize("NFC", value)
    if not cleaned:
        raise ValueError("an id must not be empty")
    if len(cleaned) > LONGEST:
        raise ValueError(f"an id has at most {LONGEST} characters")
    if cleaned in (".", ".."):
        raise ValueError("an id must not be . or ..")
    for character in cleaned:
        if character == "/":
            raise ValueError("an id must not contain /")
        if unicodedata.category(character) in ("Cc", "Cs"):
            raise ValueError("an id must not contain control characters or lone surrogates")
    return cleaned

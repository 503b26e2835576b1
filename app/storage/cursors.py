"""Positions in a list, as opaque strings for callers."""

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import Field

from app.errors import FieldError, InvalidInput
from app.storage.answers import Answer

NOT_A_CURSOR = "The cursor is not one that a list has handed out. Start again without a cursor."

Item = TypeVar("Item")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Page(Answer, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next_cursor: Annotated[str | None, Field(examples=[None])]
    """Pass it as `cursor` for the next page; None at the end."""

    @classmethod
    def of(
        cls, rows: Sequence[Item], limit: int, sort_key: Callable[[Item], tuple[int, ...]]
    ) -> "Page[Item]":
        """The first `limit` of rows that were read with `LIMIT limit + 1`."""
        next_cursor = make(*sort_key(rows[limit - 1])) if len(rows) > limit else None
        return cls(list(rows[:limit]), next_cursor)

    def map(self, function: Callable[[Item], Other]) -> "Page[Other]":
        """The page with the function's value in place of each item."""
        return Page([function(item) for item in self.items], self.next_cursor)


def make(*numbers: int) -> str:
    """A cursor of the sort keys of the last item on a page."""
    return base64.urlsafe_b64encode(".".join(map(str, numbers)).encode()).decode().rstrip("=")


def read(cursor: str, length: int) -> list[int]:
    """The numbers of a cursor from `make`; `InvalidInput` for any other string."""
    try:
        numbers = [
            int(part)
            for part in base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(".")
        ]
    except (ValueError, binascii.Error):
        numbers = []
    if len(numbers) != length or any(abs(number) >= 2**63 for number in numbers):
        raise InvalidInput(NOT_A_CURSOR)
    return numbers


def make_set(numbers: Iterable[int]) -> str:
    """A cursor of the keys listed so far: numbers from 1 on, in any order."""
    packed = bytearray()
    before = 0
    for number in sorted(set(numbers)):
        step, before = number - before, number
        # Steps between rising numbers are small: seven bits a byte, the eighth says
        # that more follow.
        while step >= 0x80:
            packed.append(step & 0x7F | 0x80)
            step >>= 7
        packed.append(step)
    return base64.urlsafe_b64encode(bytes(packed)).decode().rstrip("=")


def read_set(cursor: str, most: int) -> list[int]:
    """The rising numbers of a cursor from `make_set`, at most `most` of them.

    Raises `InvalidInput` for any other string.
    """
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        packed = b""
    numbers: list[int] = []
    step = shift = before = 0
    for byte in packed:
        step |= (byte & 0x7F) << shift
        if byte & 0x80 and shift < 56:
            shift += 7
            continue
        before += step
        if byte & 0x80 or step == 0 or before >= 2**63 or len(numbers) == most:
            numbers, shift = [], 0
            break
        numbers.append(before)
        step = shift = 0
    if not numbers or shift:
        raise InvalidInput(NOT_A_CURSOR, errors=[FieldError("cursor", NOT_A_CURSOR)])
    return numbers

"""Places in a list, handed to callers as opaque strings."""

import base64
import binascii
from collections.abc import Iterable

from app.errors import FieldError, InvalidInput


def make(*numbers: int) -> str:
    """An opaque place in a list: the sort keys of the last item shown."""
    return base64.urlsafe_b64encode(".".join(map(str, numbers)).encode()).decode().rstrip("=")


def read(cursor: str, length: int) -> list[int]:
    """The numbers that `make` was given; `InvalidInput` when it was not made there."""
    try:
        numbers = [
            int(part)
            for part in base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(".")
        ]
    except (ValueError, binascii.Error):
        numbers = []
    if len(numbers) != length or any(abs(number) >= 2**63 for number in numbers):
        raise InvalidInput("The cursor is not one that a list has handed out. Start again without a cursor.")
    return numbers


def make_set(numbers: Iterable[int]) -> str:
    """What a list has shown so far, whatever its order: numbers from 1 on, a byte or two each."""
    packed = bytearray()
    before = 0
    for number in sorted(set(numbers)):
        step, before = number - before, number
        # Steps between rising numbers are small: seven bits a byte, the eighth says that more follow.
        while step >= 0x80:
            packed.append(step & 0x7F | 0x80)
            step >>= 7
        packed.append(step)
    return base64.urlsafe_b64encode(bytes(packed)).decode().rstrip("=")


def read_set(cursor: str, most: int) -> list[int]:
    """The numbers that `make_set` was given, rising; `InvalidInput` when it was not made there.

    Args:
        most: how many numbers such a cursor holds at most.
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
        message = "The cursor is not one that a list has handed out. Start again without a cursor."
        raise InvalidInput(message, errors=[FieldError("cursor", message)])
    return numbers

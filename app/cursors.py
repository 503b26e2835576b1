"""Places in a list, handed to callers as opaque strings."""

import base64
import binascii

from app.errors import InvalidInput


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

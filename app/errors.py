"""What can go wrong, as types. A class's docstring is its title; `detail` says what happened and what to do.

The HTTP status of each lives in `app.api.problems`, the exit code in `app.cli`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One mistake in the input: where it stands (`ratings[3].stars`, `line 17`) and what is wrong there.

    `candidates` are what may have been meant, as JSON-safe values.
    """

    location: str
    message: str
    candidates: Sequence[Mapping[str, str | int | None]] = ()


class HarmoniumError(Exception):
    """Something went wrong"""

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)

    @classmethod
    def title(cls) -> str:
        return (cls.__doc__ or cls.__name__).strip().rstrip(".")


class InvalidInput(HarmoniumError):
    """The input is not valid"""


class NotFound(HarmoniumError):
    """There is no such thing"""


class Conflict(HarmoniumError):
    """The request conflicts with the present state"""


class PreconditionFailed(HarmoniumError):
    """The state has changed since you read it"""


class TooLarge(HarmoniumError):
    """The content is too large"""


class TooLittleTrainingData(HarmoniumError):
    """There is too little data to train on"""


class NotEnoughMemory(HarmoniumError):
    """There is not enough memory for this fit"""


class TrainingDiverged(HarmoniumError):
    """Training left the range of numbers"""


class Unauthenticated(HarmoniumError):
    """An API key is needed"""


class Forbidden(HarmoniumError):
    """The API key may not do this"""


class TooManyFailures(HarmoniumError):
    """Too many API keys that are not in force came from this address"""

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StorageFull(HarmoniumError):
    """There is no space left to store this"""


class Unavailable(HarmoniumError):
    """The service cannot answer just now"""

    retry_after_seconds = 2


class CorruptModelVersion(HarmoniumError):
    """The stored bytes of a model version cannot be used"""


class LostJob(HarmoniumError):
    """The job was taken over by another worker"""


class Misconfigured(HarmoniumError):
    """The settings do not allow this"""

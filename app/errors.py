"""The errors that callers meet.

A class's docstring is its title and says what to do next.

`detail` says what happened in this case. `app.api.problems` has the HTTP status of each
class, `app.cli` the exit code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """A mistake in the input."""

    location: str
    """Where it stands: `ratings[3].stars`, `line 17`."""
    message: str
    """What is wrong there."""
    candidates: Sequence[Mapping[str, str | int | None]] = ()
    """What may have been meant, JSON-safe."""


class HarmoniumError(Exception):
    """Something went wrong"""

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)

    @classmethod
    def title(cls) -> str:
        """The first line of the class's docstring."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]


class InvalidInput(HarmoniumError):
    """The input is not valid

    Correct what `errors` names and send it again.
    """


class NotFound(HarmoniumError):
    """There is no such thing

    Check the id.
    """


class Conflict(HarmoniumError):
    """The request conflicts with the present state

    Read the state; the request may be right later.
    """


class PreconditionFailed(HarmoniumError):
    """The state has changed since you read it

    Read it again, decide anew and send the new ETag.
    """


class TooLarge(HarmoniumError):
    """The content is too large

    Send it in parts, or raise the limit that `detail` names.
    """


class TooLittleTrainingData(HarmoniumError):
    """There is too little data to train on

    Import more ratings.
    """


class NotEnoughMemory(HarmoniumError):
    """There is not enough memory for this fit

    Choose a smaller model, or give the worker more memory.
    """


class TrainingDiverged(HarmoniumError):
    """Training left the range of numbers

    Choose a smaller learning rate.
    """


class Unauthenticated(HarmoniumError):
    """An API key is needed

    Send one that is in force as `Authorization: Bearer KEY`.
    """


class Forbidden(HarmoniumError):
    """The API key may not do this

    Use a key with the role that `detail` names.
    """


class TooManyFailures(HarmoniumError):
    """Too many API keys that are not in force came from this address

    Wait for `retry_after_seconds`.
    """

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StorageFull(HarmoniumError):
    """There is no space left to store this

    Free some space and send it again.
    """


class Unavailable(HarmoniumError):
    """The service cannot answer just now

    Try again after `retry_after_seconds`.
    """

    retry_after_seconds = 2


class CorruptModelVersion(HarmoniumError):
    """The stored bytes of a model version cannot be used

    Activate another version, or restore the database from a backup.
    """


class LostJob(HarmoniumError):
    """The job was taken over by another worker

    Stop working on it and store nothing.
    """


class Misconfigured(HarmoniumError):
    """The settings do not allow this

    Change the setting that `detail` names.
    """

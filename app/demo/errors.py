"""What can go wrong with the demo's data; as in `app.errors`, `detail` says what happened and what to do."""

from app.errors import HarmoniumError


class DemoError(HarmoniumError):
    """The demo's data cannot be had"""


class UnknownSet(DemoError):
    """There is no such MovieLens set"""


class FetchFailed(DemoError):
    """The MovieLens set could not be fetched"""


class WrongChecksum(FetchFailed):
    """What was fetched is not what GroupLens published"""


class NotMovieLens(DemoError):
    """The file is no zip archive of a MovieLens set"""

"""Clocks that tests turn by hand."""

from datetime import UTC, datetime, timedelta


class Clock:
    """Monotonic seconds."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class WallClock:
    """What the machine takes the time to be."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment

    def jump(self, **by: float) -> None:
        self.moment += timedelta(**by)

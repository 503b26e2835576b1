"""The wall clock of the queue, turned by hand."""

import pytest

from app.jobs import queue
from tests.jobs.clocks import WallClock


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    clock = WallClock()
    monkeypatch.setattr(queue, "now", clock)
    return clock

"""Waiting for what other threads and processes do."""

import time
from collections.abc import Callable

PATIENCE = 20.0  # seconds until a test gives up waiting


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)

"""Long steps of a fit that cannot be cut into small ones, without keeping whoever drives it waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")

SECONDS_BETWEEN = 0.2  # two yields


def aside(work: Callable[[], Result]) -> Generator[None, None, Result]:
    """Work in a thread of its own, and yield a few times a second until it is done.

    NumPy and SciPy let other threads run while they compute, so a heartbeat or a cancellation need not wait
    for the end of one large decomposition. Who closes the generator is free at once: the work goes on to its
    end and is forgotten. It does not keep the process alive.

    Args:
        work: takes nothing; what it raises is raised here.

    Returns:
        What the work returned, as the value of StopIteration.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=run, name="aside", daemon=True)
    thread.start()
    while True:
        thread.join(SECONDS_BETWEEN)
        if not thread.is_alive():
            break
        yield
    if errors:
        raise errors[0]
    return results[0]

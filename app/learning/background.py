"""Long steps of a fit that cannot be cut into small ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")

SECONDS_BETWEEN = 0.2  # two yields


def run_in_thread(work: Callable[[], Result]) -> Generator[None, None, Result]:
    """Do the work in a thread, yielding a few times a second until it is done.

    NumPy and SciPy let other threads run while they compute, so a heartbeat or a
    cancellation need not wait for the end of one large decomposition. Closing the
    generator returns at once: the work goes on to its end and is forgotten. It does not
    keep the process alive.

    Args:
        work: takes no arguments; its exception is raised here.

    Returns:
        The result of the work, as the value of StopIteration.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again below, in the calling thread
            errors.append(error)

    thread = threading.Thread(target=run, name="run_in_thread", daemon=True)
    thread.start()
    while True:
        thread.join(SECONDS_BETWEEN)
        if not thread.is_alive():
            break
        yield
    if errors:
        raise errors[0]
    return results[0]

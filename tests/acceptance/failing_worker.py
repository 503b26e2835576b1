"""The worker that people run, which is killed at the n-th pass of a failpoint: `failing_worker.py NAME:n`.

Failpoints lie around everything that a training run does in its last transaction, and after its end. The
passes are counted in this process alone, so the worker that comes after it is not killed again.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from app import model_registry
from app.jobs import HeldJob
from app.settings import Settings
from app.worker import run_worker


def killed_before(owner: Any, name: str, at: int) -> None:
    """Let the process be killed as it is about to call this function for the n-th time."""
    real: Callable[..., Any] = getattr(owner, name)
    passes = itertools.count(1)

    def called(*arguments: Any, **named: Any) -> Any:
        if next(passes) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(owner, name, called)


FAILPOINTS: dict[str, tuple[Any, str]] = {
    "store": (model_registry, "store"),
    "activate": (model_registry, "activate"),
    "load": (model_registry, "load"),
    "prune": (model_registry, "prune"),
    "finish": (HeldJob, "finish"),
    "commit": (Session, "commit"),
    "check": (HeldJob, "check"),
}


if __name__ == "__main__":
    failpoint, number = sys.argv[1].split(":")
    killed_before(*FAILPOINTS[failpoint], int(number))
    sys.exit(run_worker(Settings(), name=f"killed-at-{failpoint}-{number}"))

"""The worker that people run, which is killed at the n-th pass of a failpoint:

`failing_worker.py NAME:n`.

Failpoints lie around everything that a training run does in its last transaction, and
after its end. The passes are counted in this process alone, so the worker that comes
after it is not killed again.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from app.jobs.held import HeldJob
from app.model_versions import activation, retention, store
from app.settings import Settings
from app.worker.process import run_worker


def killed_before(owner: Any, name: str, at: int) -> None:
    """Kill the process before its n-th call of this function."""
    real: Callable[..., Any] = getattr(owner, name)
    passes = itertools.count(1)

    def called(*arguments: Any, **named: Any) -> Any:
        if next(passes) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(owner, name, called)


FAILPOINTS: dict[str, tuple[Any, str]] = {
    "store": (store, "add"),
    "activate": (activation, "activate"),
    "load": (store, "load"),
    "prune": (retention, "prune"),
    "finish": (HeldJob, "finish"),
    "commit": (Session, "commit"),
    "check": (HeldJob, "check"),
}


if __name__ == "__main__":
    failpoint, number = sys.argv[1].split(":")
    killed_before(*FAILPOINTS[failpoint], int(number))
    sys.exit(run_worker(Settings(), name=f"killed-at-{failpoint}-{number}"))

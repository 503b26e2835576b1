"""Whether a worker lives, for healthchecks: `python -m app.signs_of_life` exits with 0 if one does.

A module of its own that imports next to nothing, because the check runs every few seconds.
"""

import json
import os
import re
import socket
import sys
import time
from pathlib import Path

import structlog

from app.settings import Settings

log = structlog.get_logger()

ALIVE_WITHIN = 60.0  # seconds; longer than the main thread ever waits for a database
SHOW_ALIVE_EVERY = 2.0  # seconds
FORGOTTEN_AFTER = 24 * 3600.0  # seconds


class SignOfLife:
    """A small file that a worker rewrites while its main thread goes round, for a container's healthcheck.

    It holds monotonic time, which all processes of a machine share, and the process id: so neither a jump of
    the wall clock nor a file left over from a killed worker deceives.
    """

    def __init__(self, settings: Settings, worker_name: str) -> None:
        self._folder = _signs_folder(settings)
        self._path = self._folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', worker_name)}.json"
        self._shown_at = -SHOW_ALIVE_EVERY
        self._in_trouble = False
        self._forget_the_dead()

    def show(self) -> None:
        shown_at = time.monotonic()
        if shown_at - self._shown_at < SHOW_ALIVE_EVERY:
            return
        self._shown_at = shown_at
        sign = {"host": socket.gethostname(), "pid": os.getpid(), "monotonic": shown_at}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = self._path.with_suffix(".part")
            unfinished.write_text(json.dumps(sign))
            unfinished.replace(self._path)
            self._in_trouble = False
        except OSError as error:
            # A full disk may end the healthcheck, but not the job at work.
            if not self._in_trouble:
                log.warning("sign_of_life_failed", path=str(self._path), error=str(error))
            self._in_trouble = True

    def _forget_the_dead(self) -> None:
        """Killed workers leave their files behind; a living one's is never old."""
        try:
            for path in self._folder.glob("*.json"):
                if time.time() - path.stat().st_mtime > FORGOTTEN_AFTER:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("sign_of_life_failed", path=str(self._folder), error=str(error))

    def remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("sign_of_life_failed", path=str(self._path), error=str(error))


def is_alive(settings: Settings) -> bool:
    """Whether a worker of this machine (in a container: of this container) goes round."""
    for path in _signs_folder(settings).glob("*.json"):
        try:
            sign = json.loads(path.read_text())
            age = time.monotonic() - float(sign["monotonic"])
            if sign["host"] == socket.gethostname() and 0 <= age < ALIVE_WITHIN and _exists(int(sign["pid"])):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue  # removed just now, or not a sign of ours
    return False


def _signs_folder(settings: Settings) -> Path:
    return settings.spool_dir / "workers"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(0 if is_alive(Settings()) else 1)

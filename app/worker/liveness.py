"""Whether a worker lives: `python -m app.worker.liveness` exits with 0 if so.

It imports next to nothing, because the check runs every few seconds.
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
UPDATE_EVERY = 2.0  # seconds
FORGOTTEN_AFTER = 24 * 3600.0  # seconds


class LivenessFile:
    """A small file that a worker rewrites while its main thread goes round.

    It holds monotonic time, which all processes of a machine share, and the process id:
    so neither a jump of the wall clock nor a file left over from a killed worker
    deceives.
    """

    def __init__(self, settings: Settings, worker_name: str) -> None:
        self._folder = _folder(settings)
        self._path = self._folder / f"{re.sub(r'[^A-Za-z0-9.-]', '_', worker_name)}.json"
        self._updated_at = -UPDATE_EVERY
        self._in_trouble = False
        self._delete_old_files()

    def update(self) -> None:
        """Rewrite the file, at most every UPDATE_EVERY seconds."""
        updated_at = time.monotonic()
        if updated_at - self._updated_at < UPDATE_EVERY:
            return
        self._updated_at = updated_at
        content = {"host": socket.gethostname(), "pid": os.getpid(), "monotonic": updated_at}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = self._path.with_suffix(".part")
            unfinished.write_text(json.dumps(content))
            unfinished.replace(self._path)
            self._in_trouble = False
        except OSError as error:
            # A full disk may end the healthcheck, but not the job at work.
            if not self._in_trouble:
                log.warning("liveness_file_failed", path=str(self._path), error=str(error))
            self._in_trouble = True

    def remove(self) -> None:
        """Delete the file: the worker ends."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("liveness_file_failed", path=str(self._path), error=str(error))

    def _delete_old_files(self) -> None:
        """Delete what killed workers left; a living worker's file is never old."""
        try:
            for path in self._folder.glob("*.json"):
                if time.time() - path.stat().st_mtime > FORGOTTEN_AFTER:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("liveness_file_failed", path=str(self._folder), error=str(error))


def is_alive(settings: Settings) -> bool:
    """Whether a worker of this machine (or of this container) goes round."""
    for path in _folder(settings).glob("*.json"):
        try:
            content = json.loads(path.read_text())
            age = time.monotonic() - float(content["monotonic"])
            if (
                content["host"] == socket.gethostname()
                and 0 <= age < ALIVE_WITHIN
                and _exists(int(content["pid"]))
            ):
                return True
        except (OSError, ValueError, KeyError, TypeError):
            continue  # removed meanwhile, or not a file of ours
    return False


def _folder(settings: Settings) -> Path:
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

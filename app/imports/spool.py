"""Uploads on their way to disk: files in a folder that API and worker share."""

import errno
import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from app.errors import StorageFull, TooLarge, Unavailable
from app.settings import Settings

CHECK_SPACE_EVERY = 16 * 1024**2  # bytes of an upload between two looks at the disk
SPOOL_NAME = re.compile(r"import-[0-9a-f]{32}")


@dataclass(frozen=True)
class SpooledFile:
    """A complete upload that waits for its import."""

    path: Path
    """Where it lies."""
    n_bytes: int
    """Its size, as it was sent."""

    def discard(self) -> None:
        """Remove it, for when no import will."""
        self.path.unlink(missing_ok=True)


class Spool:
    """An upload being written to disk; whatever goes wrong, nothing of it stays.

        with Spool(settings) as spool:
            for block in blocks:
                spool.write(block)
            spooled = spool.close()

    Leaving the `with` block before `close` discards it. Each method may block on the
    disk, so asynchronous callers use a thread.

    Args:
        announced: bytes that the sender says will come, if it says so.

    Raises (every method): TooLarge: more than `settings.upload_limit` bytes.
        StorageFull: the disk is, or would have less than `settings.disk_reserve` bytes
        left. Unavailable: the spool folder cannot be written.
    """

    def __init__(self, settings: Settings, announced: int = 0) -> None:
        self._limit = settings.upload_limit
        self._reserve = settings.disk_reserve
        self._n_bytes = 0
        self._checked_bytes = 0
        # Unguessable, and made from nothing that the caller said.
        self._path = settings.spool_dir / f"import-{secrets.token_hex(16)}"
        try:
            settings.spool_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise _disk_trouble(error) from error
        self._file = os.fdopen(handle, "wb")
        self._check_space(announced)

    def write(self, block: bytes) -> None:
        self._n_bytes += len(block)
        if self._n_bytes > self._limit:
            self.discard()
            raise TooLarge(
                f"An import file may have {self._limit:,} bytes at most. Pack it with gzip, or split it."
            )
        if self._n_bytes - self._checked_bytes >= CHECK_SPACE_EVERY:
            self._checked_bytes = self._n_bytes
            self._check_space(0)
        try:
            self._file.write(block)
        except OSError as error:
            self.discard()
            raise _disk_trouble(error) from error

    def close(self) -> SpooledFile:
        """The complete file, safely on disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            self.discard()
            raise _disk_trouble(error) from error
        return SpooledFile(self._path, self._n_bytes)

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError):  # a full disk refuses the last buffer once more
            self._file.close()
        self._path.unlink(missing_ok=True)

    def _check_space(self, n_bytes: int) -> None:
        """Refuse `n_bytes` more if they would take space that the database needs."""
        if shutil.disk_usage(self._path.parent).free < n_bytes + self._reserve:
            self.discard()
            raise StorageFull(
                "The disk has too little space left for the upload; nothing of it was kept. Free some space, "
                "or send the file packed. HARMONIUM_DISK_RESERVE is what must stay free."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            self.discard()


def _disk_trouble(error: OSError) -> StorageFull | Unavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            "The disk has no space left for the upload; nothing of it was kept. Free some space."
        )
    return Unavailable(f"The spool folder cannot be written ({error.strerror}). See HARMONIUM_SPOOL_DIR.")

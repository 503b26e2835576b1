"""A file on disk as blocks of whole lines: plain, gzip, or a member of a zip.

Bounded in memory, whatever the file claims about itself; nothing is ever extracted to
disk.
"""

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from app.errors import InvalidInput, TooLarge

BLOCK_BYTES = 2 * 1024**2  # read at a time, and the longest line
_SAMPLE_BYTES = 64 * 1024  # looked at to recognise a format
_PIECE_BYTES = 256 * 1024  # requested of an unpacker at once

_SHORTEST_GZIP = 18  # bytes: its header, and the sum and size behind its content

# The directory of a zip is read in one go: this bounds it to some 20,000 members.
_LARGEST_ZIP_READ = 1024**2  # bytes

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Source:
    """The unpacked bytes of one data file, counted and bounded.

    Args:
        stream: where they come from.
        consumed: how far the packed file has been read; without it, unpacked bytes are
            counted.
        unpacked_limit: bytes at most; None for a file that is not packed.
    """

    def __init__(
        self, stream: IO[bytes], consumed: Callable[[], int] | None = None, unpacked_limit: int | None = None
    ) -> None:
        self.unpacked = 0
        self._stream = stream
        self._consumed = consumed
        self._limit = unpacked_limit
        self._carry = b""
        self._begun = False
        self._ended = False

    def consumed(self) -> int:
        """Bytes read so far: of the packed file, or of a zip's unpacked member."""
        return self._consumed() if self._consumed else self.unpacked

    def sample(self) -> bytes:
        """The first whole lines, about `_SAMPLE_BYTES`, of a source not yet read."""
        sample = self._read(_SAMPLE_BYTES).removeprefix(_BYTE_ORDER_MARK)
        end = sample.rfind(b"\n") + 1
        return sample if self._ended or end == 0 else sample[:end]

    def block(self) -> bytes:
        """Whole lines, about `BLOCK_BYTES` of them; empty at the end of the file."""
        block = self._carry + self._read(BLOCK_BYTES - len(self._carry))
        if not self._begun:
            block = block.removeprefix(_BYTE_ORDER_MARK)
            self._begun = True
        end = len(block) if self._ended else block.rfind(b"\n") + 1
        if end == 0 and block:
            raise InvalidInput(
                f"A line is longer than {BLOCK_BYTES // 1024**2} MiB, which no known format has. Is it text?"
            )
        self._carry = block[end:]
        return block[:end]

    def line(self) -> bytes:
        """The next line with its newline; empty at the end of the file."""
        head, newline, rest = self.block().partition(b"\n")
        self._carry = rest + self._carry
        return head + newline

    def _read(self, size: int) -> bytes:
        pieces = []
        while size > 0:
            piece = self._stream.read(min(size, _PIECE_BYTES))
            if not piece:
                self._ended = True
                break
            pieces.append(piece)
            size -= len(piece)
            self.unpacked += len(piece)
            if self._limit is not None and self.unpacked > self._limit:
                raise TooLarge(
                    "The file unpacks to more than HARMONIUM_UNPACKED_LIMIT allows. Split it, or raise it."
                )
        return b"".join(pieces)


def container(path: Path) -> str:
    """`plain`, `gzip` or `zip`, by the first bytes."""
    with path.open("rb") as file:
        magic = file.read(4)
    if magic[:2] == b"\x1f\x8b":
        return "gzip"
    return "zip" if magic in (b"PK\x03\x04", b"PK\x05\x06") else "plain"


def refuse_large_gzip(path: Path, unpacked_limit: int) -> None:
    """Raise `TooLarge` for a gzip file that says that it unpacks to more, and does.

    What it says is the size of its last member, modulo 4 GiB, so it may be silent; of a
    file that is cut off it is anything, so it is unpacked before it is believed. Raises
    `InvalidInput` when it cannot be.
    """
    if container(path) != "gzip" or path.stat().st_size < _SHORTEST_GZIP:
        return
    with path.open("rb") as file:
        file.seek(-4, io.SEEK_END)
        says = int.from_bytes(file.read(4), "little")
    if says > unpacked_limit:
        with opened(path, unpacked_limit=unpacked_limit) as source:
            while source.block():
                pass


@contextmanager
def opened(path: Path, *, unpacked_limit: int, position: int | None = None) -> Iterator[Source]:
    """A data file, or the member at `position` of a zip's directory, as a source.

    What is torn or wrong in packed bytes comes out as `InvalidInput`, then or while
    reading.
    """
    with _readable():
        if position is not None:
            with _CautiousFile(path) as file:
                with _archive(file) as archive:
                    stream = archive.open(_checked(archive.infolist()[position]))
                with stream:
                    yield Source(stream, unpacked_limit=unpacked_limit)
        elif container(path) == "gzip":
            with path.open("rb") as raw, gzip.open(raw) as unpacked:
                yield Source(unpacked, raw.tell, unpacked_limit)  # type: ignore[arg-type]  # it is an IO[bytes]
        else:
            with path.open("rb") as raw:
                yield Source(raw, raw.tell)


def members(path: Path) -> list[tuple[int, zipfile.ZipInfo]]:
    """The files in a zip, each with its position, but for folders and hidden files."""
    with _readable(), _CautiousFile(path) as file, _archive(file) as archive:
        return [
            (position, info)
            for position, info in enumerate(archive.infolist())
            if not info.is_dir() and not _is_hidden(info.filename)
        ]


def display_name(name: str) -> str:
    """The name of a zip's member, for messages."""
    printable = "".join(character for character in PurePosixPath(name).name if character.isprintable())
    return printable[:100] or "file"


def decoded(block: bytes) -> str:
    """The text of whole lines: UTF-8, and Windows-1252 for every line that is not.

    Each line for itself, because files patched together from several encodings exist.
    Windows-1252 prints whatever latin-1 prints.
    """
    try:
        return block.decode()
    except UnicodeDecodeError:
        return "\n".join(map(_decoded_line, block.split(b"\n")))


def _decoded_line(line: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")


class _CautiousFile(io.FileIO):
    """Refuses the read of a zip's directory if it is as long as the whole file."""

    def read(self, size: int | None = -1, /) -> Any:
        if size is not None and size > _LARGEST_ZIP_READ:
            raise InvalidInput("The zip holds too many files. Pack only ratings and movies.")
        return super().read(size)


@contextmanager
def _readable() -> Iterator[None]:
    """Say in one way that packed bytes are torn or wrong."""
    try:
        yield
    except EOFError as error:
        raise InvalidInput(
            "The file is cut off: its packed content ends too early. Send it again."
        ) from error
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(f"The file cannot be unpacked: {error}. Send it again.") from error


@contextmanager
def _archive(file: io.FileIO) -> Iterator[zipfile.ZipFile]:
    """A zip while its directory is read, where wrong bytes raise nearly anything."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise InvalidInput(f"The zip cannot be read: {error}. Pack it again.") from error


def _checked(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Refuse bzip2 and LZMA, which zipfile unpacks at once and without bounds."""
    if info.flag_bits & 0x1:
        raise InvalidInput(
            f"{display_name(info.filename)} in the zip is encrypted. Send it without a password."
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InvalidInput(
            f"{display_name(info.filename)} in the zip is packed in an unusual way. Use deflate."
        )
    return info


def _is_hidden(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts

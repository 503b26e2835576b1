"""MovieLens sets, fetched from GroupLens and verified.

Nothing of MovieLens is bundled: its licence does not allow that. An archive is used
only if its MD5 is the one that GroupLens publishes beside it. That guards against
broken transfers; HTTPS guards against attackers.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final
from urllib import error, request
from urllib.parse import urlsplit

from app.errors import HarmoniumError, InvalidInput

BASE_URL: Final = "https://files.grouplens.org/datasets/movielens/"

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all, None if the server does not say."""

_TIMEOUT: Final = 30.0  # seconds without a byte
_CHUNK: Final = 256 * 1024  # bytes
_LARGEST_CHECKSUM_FILE: Final = 4096  # bytes
_SLACK: Final = 4  # times its known size that an archive may have

_BY_HAND: Final = (
    "fetch the zip by hand from https://grouplens.org/datasets/movielens/ on a machine that can, and pass it "
    "with --file PATH."
)
_CHECKSUM_FORMS: Final = (
    re.compile(r"^MD5 \(.*\) = ([0-9a-fA-F]{32})$"),  # BSD's md5
    re.compile(r"^\\?([0-9a-fA-F]{32})(?:\s+\*?\S.*)?$"),  # md5sum, or the bare digest
)


class FetchFailed(HarmoniumError):
    """The MovieLens set could not be fetched"""


@dataclass(frozen=True, slots=True)
class MovieLensSet:
    """A published set. Sizes are approximate: GroupLens renews `small` now and then."""

    name: str
    """What the command line calls it."""
    archive: str
    """The file's name on the server and on disk."""
    size: int
    """Bytes of the archive."""
    ratings: int
    users: int
    movies: int


SETS: Final[Mapping[str, MovieLensSet]] = MappingProxyType(
    {
        movielens.name: movielens
        for movielens in (
            MovieLensSet("small", "ml-latest-small.zip", 978_000, 100_836, 610, 9_742),
            MovieLensSet("100k", "ml-100k.zip", 4_924_000, 100_000, 943, 1_682),
            MovieLensSet("1m", "ml-1m.zip", 5_918_000, 1_000_209, 6_040, 3_883),
            MovieLensSet("25m", "ml-25m.zip", 261_979_000, 25_000_095, 162_541, 62_423),
            MovieLensSet("32m", "ml-32m.zip", 239_000_000, 32_000_204, 200_948, 87_585),
        )
    }
)


def movielens_set(name: str) -> MovieLensSet:
    """The set of that name; `InvalidInput` if there is none."""
    try:
        return SETS[name]
    except KeyError:
        raise InvalidInput(f"{name!r} is not a MovieLens set; choose one of {', '.join(SETS)}.") from None


def licence_notice(name: str) -> str:
    """What to know before fetching the set; the README in the archive is binding."""
    movielens = movielens_set(name)
    return (
        f"MovieLens {movielens.name} ({movielens.archive}, about {_megabytes(movielens.size)}, "
        f"{movielens.ratings:,} ratings) is data of GroupLens Research at the University of Minnesota, "
        "not a part of Harmonium.\n"
        "- It is for research. Commercial or revenue-bearing use needs the permission of GroupLens first.\n"
        "- Do not pass the data on without separate permission, unless the README of this very set allows "
        "it.\n"
        "- Do not suggest that the University of Minnesota or GroupLens endorses you. They warrant nothing.\n"
        "- Publications that use it must acknowledge it and cite: F. Maxwell Harper and Joseph A. Konstan. "
        "2015. The MovieLens Datasets: History and Context. ACM Transactions on Interactive Intelligent "
        "Systems (TiiS) 5, 4, Article 19. https://doi.org/10.1145/2827872\n"
        "The full licence is the README inside the archive; by importing the set you accept it."
    )


def fetch(
    name: str,
    target_dir: Path,
    *,
    base_url: str = BASE_URL,
    on_progress: OnProgress | None = None,
    timeout: float = _TIMEOUT,
) -> Path:
    """The path of a set's verified archive in `target_dir`; downloads it if missing.

    The published checksum is kept beside the archive, so that a second call works
    offline. The archive appears under its name in one step, when it is whole and
    verified; a failure leaves nothing behind, and an archive that was there untouched.

    Raises:
        InvalidInput: there is no such set.
        FetchFailed: the network, the server or the disk failed, or the checksum
            differs.
    """
    movielens = movielens_set(name)
    if not _is_http(base_url):
        raise FetchFailed(f"{base_url!r} is no http or https address. Leave it out to ask GroupLens.")
    url = f"{base_url.rstrip('/')}/{movielens.archive}"
    target = target_dir / movielens.archive
    kept_checksum = target_dir / f"{movielens.archive}.md5"
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        if target.is_file() and kept_checksum.is_file():
            with suppress(ValueError):
                if _md5_of(target) == _parse_checksum(kept_checksum.read_bytes()):
                    return target

        expected = _published_checksum(f"{url}.md5", timeout)
        if not (target.is_file() and _md5_of(target) == expected):
            with _temporary(target) as partial:
                digest = _download(url, partial, movielens, on_progress, timeout)
                if digest != expected:
                    raise FetchFailed(
                        f"{url} has the MD5 {digest}, but {url}.md5 says {expected}. The transfer was "
                        "damaged, or something between here and GroupLens changed it; it was deleted. "
                        f"Try again, or {_BY_HAND}"
                    )
                partial.replace(target)
        with _temporary(kept_checksum) as partial:
            partial.write_text(f"{expected}  {movielens.archive}\n", encoding="ascii")
            partial.replace(kept_checksum)
    except OSError as problem:  # the disk's; the network's are FetchFailed already
        raise FetchFailed(
            f"{movielens.archive} could not be stored in {target_dir}: {_reason(problem)}. "
            "Make room or choose another folder, and try again."
        ) from problem
    return target


def _published_checksum(url: str, timeout: float) -> str:
    """The MD5 at the address, in lower-case hexadecimal digits."""
    with _response(url, timeout) as response:
        text = _read(response, _LARGEST_CHECKSUM_FILE, url)
    try:
        return _parse_checksum(text)
    except ValueError:
        raise FetchFailed(
            f"{url} does not hold an MD5 checksum, so the archive could not be verified (a proxy or a "
            f"login page may have answered instead of GroupLens). Try again later, or {_BY_HAND}"
        ) from None


def _download(
    url: str, target: Path, movielens: MovieLensSet, on_progress: OnProgress | None, timeout: float
) -> str:
    """Write the archive and return its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    limit = _SLACK * movielens.size
    report = on_progress or (lambda _done, _total: None)
    with _response(url, timeout) as response, target.open("wb") as file:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        report(0, total)
        while chunk := _read(response, _CHUNK, url):
            done += len(chunk)
            if done > limit:
                raise FetchFailed(
                    f"{url} goes on beyond {_megabytes(limit)}, where about {_megabytes(movielens.size)} "
                    f"were expected: that is not {movielens.archive}. Try again later, or {_BY_HAND}"
                )
            file.write(chunk)
            digest.update(chunk)
            report(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:  # a sized read does not complain of it
        raise FetchFailed(f"{url} broke off after {done:,} of {total:,} bytes. Try again, or {_BY_HAND}")
    return digest.hexdigest()


@contextmanager
def _response(url: str, timeout: float) -> Iterator[HTTPResponse]:
    opener = request.build_opener(_SafeRedirects)
    headers = {"User-Agent": "harmonium-demo", "Accept-Encoding": "identity"}
    try:
        response: HTTPResponse = opener.open(request.Request(url, headers=headers), timeout=timeout)  # noqa: S310 - `fetch` takes http addresses only
    except error.HTTPError as refusal:
        refusal.close()
        raise FetchFailed(
            f"{url} answered {refusal.code} {refusal.reason}. Try again later, or {_BY_HAND}"
        ) from refusal
    except (OSError, HTTPException, ValueError) as problem:
        raise _unreachable(url, problem) from problem
    with response:
        yield response


def _read(response: HTTPResponse, size: int, url: str) -> bytes:
    try:
        return response.read(size)
    except (OSError, HTTPException) as problem:
        raise _unreachable(url, problem) from problem


def _unreachable(url: str, problem: Exception) -> FetchFailed:
    return FetchFailed(
        f"{url} could not be fetched: {_reason(problem)}. Check that this machine is online (a proxy is "
        f"taken from HTTPS_PROXY), or {_BY_HAND}"
    )


class _SafeRedirects(request.HTTPRedirectHandler):
    """Follows redirects within http and https, and never from https back to http."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        if not _is_http(newurl) or (req.type == "https" and urlsplit(newurl).scheme != "https"):
            raise error.URLError(f"it redirects to {newurl}, which is not safe to follow")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A new file that replaces the target in one step; deleted after a failure."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        partial.chmod(0o644)
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _parse_checksum(text: bytes) -> str:
    """The digest of `MD5 (ml-25m.zip) = hex` or `hex  ml-25m.zip`, or ValueError."""
    for line in text.decode("ascii").splitlines():
        for form in _CHECKSUM_FORMS:
            if match := form.match(line.strip()):
                return match[1].lower()
    raise ValueError("no MD5 in it")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _reason(problem: Exception) -> str:
    if isinstance(problem, error.URLError) and problem.reason:
        return str(problem.reason)
    return str(problem) or type(problem).__name__


def _megabytes(size: int) -> str:
    return f"{max(size / 1e6, 0.1):,.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"

"""The real MovieLens sets of GroupLens, for people who are online: fetched, verified, read without unpacking.

Nothing of MovieLens is bundled: its licence does not allow that. An archive is used only once its MD5 is the
one that GroupLens publishes beside it. That guards against broken transfers; HTTPS guards against strangers.
"""

import hashlib
import os
import re
import ssl
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Final, Literal
from urllib import error, request
from urllib.parse import urljoin, urlsplit

from app.demo.errors import FetchFailed, NotMovieLens, UnknownSet, WrongChecksum

DEFAULT_BASE_URL: Final = "https://files.grouplens.org/datasets/movielens/"

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes done and, where the server tells it, the bytes in all."""

_TIMEOUT: Final = 30.0  # seconds without a byte
_CHUNK: Final = 256 * 1024  # bytes
_LARGEST_CHECKSUM_FILE: Final = 4096  # bytes
_LARGEST_README: Final = 256 * 1024  # bytes
_SLACK: Final = 4  # an archive may be so many times its known size before it is given up

_BY_HAND: Final = (
    "fetch the zip by hand from https://grouplens.org/datasets/movielens/ on a machine that can, and pass it "
    "with --file PATH."
)
_WHERE_TO_GET_ONE: Final = "The archives are at https://grouplens.org/datasets/movielens/."
_LAYOUTS: Final = (
    ("movies.csv", "ratings.csv", "links.csv"),
    ("movies.dat", "ratings.dat", None),
    ("u.item", "u.data", None),
)
_README_NAMES: Final = frozenset({"readme", "readme.txt", "readme.md", "readme.html"})
_CHECKSUM_FORMS: Final = (
    re.compile(r"^MD5 \(.*\) = ([0-9a-fA-F]{32})$"),  # BSD's md5
    re.compile(r"^\\?([0-9a-fA-F]{32})(?:\s+\*?\S.*)?$"),  # md5sum, or the bare digest
)


@dataclass(frozen=True, slots=True)
class MovieLensSet:
    """One of the published sets. Sizes are approximate: GroupLens renews `small` now and then."""

    name: str
    archive: str
    """The file's name on the server, and the name it keeps here."""
    size: int
    """Bytes of the archive, roughly."""
    ratings: int
    users: int
    movies: int

    def url(self, base_url: str = DEFAULT_BASE_URL) -> str:
        return urljoin(_folder(base_url), self.archive)

    def checksum_url(self, base_url: str = DEFAULT_BASE_URL) -> str:
        return f"{self.url(base_url)}.md5"


SETS: Final[Mapping[str, MovieLensSet]] = MappingProxyType(
    {
        found.name: found
        for found in (
            MovieLensSet("small", "ml-latest-small.zip", 978_000, 100_836, 610, 9_742),
            MovieLensSet("100k", "ml-100k.zip", 4_924_000, 100_000, 943, 1_682),
            MovieLensSet("1m", "ml-1m.zip", 5_918_000, 1_000_209, 6_040, 3_883),
            MovieLensSet("25m", "ml-25m.zip", 261_979_000, 25_000_095, 162_541, 62_423),
            MovieLensSet("32m", "ml-32m.zip", 239_000_000, 32_000_204, 200_948, 87_585),
        )
    }
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an archive that is worth importing."""

    kind: Literal["movies", "links", "ratings"]
    name: str
    """As the archive spells it, folder included: for `open_member`, never for a path on disk."""


def movielens_set(name: str) -> MovieLensSet:
    """The set of that name; raises UnknownSet."""
    try:
        return SETS[name]
    except KeyError:
        raise UnknownSet(f"{name!r} is not a MovieLens set; choose one of {', '.join(SETS)}.") from None


def licence_notice(name: str) -> str:
    """What somebody who fetches the set must know first; what binds is the README in the archive."""
    chosen = movielens_set(name)
    return (
        f"MovieLens {chosen.name} ({chosen.archive}, about {_megabytes(chosen.size)}, {chosen.ratings:,} "
        "ratings) is data of GroupLens Research at the University of Minnesota, not a part of Harmonium.\n"
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
    base_url: str = DEFAULT_BASE_URL,
    on_progress: OnProgress | None = None,
    timeout: float = _TIMEOUT,
) -> Path:
    """The verified archive of a set in `target_dir`, from the network only where it is not there yet.

    The published checksum is kept beside the archive, so that a second call works offline. The archive
    appears under its name in one step, when it is whole and verified; whatever fails leaves nothing behind,
    and an archive that was there untouched. Raises UnknownSet, FetchFailed or WrongChecksum.
    """
    chosen = movielens_set(name)
    target = target_dir / chosen.archive
    kept_checksum = target_dir / f"{chosen.archive}.md5"
    try:
        target_dir.mkdir(parents=True, exist_ok=True)
        if target.is_file() and kept_checksum.is_file():
            with suppress(ValueError):
                if _md5_of(target) == _parse_checksum(kept_checksum.read_bytes()):
                    return target

        fetcher = _Fetcher(chosen, base_url, timeout)
        expected = fetcher.checksum()
        if not (target.is_file() and _md5_of(target) == expected):
            with _temporary(target) as partial:
                found = fetcher.archive(partial, on_progress)
                if found != expected:
                    raise WrongChecksum(
                        f"{chosen.url(base_url)} has the MD5 {found}, but {chosen.checksum_url(base_url)} "
                        f"says {expected}. The transfer was damaged, or something between here and GroupLens "
                        f"changed it; it was deleted. Try again, or {_BY_HAND}"
                    )
                partial.replace(target)
        with _temporary(kept_checksum) as partial:
            partial.write_text(f"{expected}  {chosen.archive}\n", encoding="ascii")
            partial.replace(kept_checksum)
    except OSError as problem:  # the disk's; the network's are FetchFailed already
        raise FetchFailed(
            f"{chosen.archive} could not be stored in {target_dir}: {_reason(problem)}. "
            "Make room or choose another folder, and try again."
        ) from problem
    return target


def members(archive: Path) -> tuple[Member, ...]:
    """What to import from a MovieLens archive, in the order to do it: movies, any links, ratings.

    Knows the csv sets (`small`, `20m` and later), the `::` sets (`1m`, `10m`) and `100k`, in a folder or not.
    Raises NotMovieLens for anything else.
    """
    with _opened(archive) as zipped:
        folders: dict[PurePosixPath, dict[str, str]] = {}
        for info in zipped.infolist():
            path = PurePosixPath(info.filename)
            if info.is_dir() or "__MACOSX" in path.parts or path.name.startswith("."):
                continue
            if info.flag_bits & 0x1:
                raise NotMovieLens(f"{archive} is encrypted; MovieLens archives are not. {_WHERE_TO_GET_ONE}")
            folders.setdefault(path.parent, {})[path.name] = info.filename
    for folder in sorted(folders, key=lambda path: len(path.parts)):
        inside = folders[folder]
        for movies, ratings, links in _LAYOUTS:
            if movies in inside and ratings in inside:
                found = [Member("movies", inside[movies]), Member("ratings", inside[ratings])]
                if links in inside:
                    found.insert(1, Member("links", inside[links]))
                return tuple(found)
    wanted = ", or ".join(f"{movies} and {ratings}" for movies, ratings, _ in _LAYOUTS)
    raise NotMovieLens(f"{archive} holds no MovieLens set: no folder in it has {wanted}. {_WHERE_TO_GET_ONE}")


@contextmanager
def open_member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """A member as a stream of its unpacked bytes.

    Nothing is unpacked to disk, so a member's name cannot lead anywhere. Damage inside the archive shows as
    NotMovieLens when the reading reaches it.
    """
    with _opened(archive) as zipped:
        try:
            stream = zipped.open(name)
        except KeyError:
            raise NotMovieLens(f"{archive} has no member {name!r}. {_WHERE_TO_GET_ONE}") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as problem:
            raise _damaged(archive, problem) from problem
        try:
            with stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError) as problem:
            raise _damaged(archive, problem) from problem


def readme_of(archive: Path) -> str | None:
    """The README inside the archive, which holds the licence; None where there is none."""
    with _opened(archive) as zipped:
        found = [
            info
            for info in zipped.infolist()
            if not info.is_dir() and PurePosixPath(info.filename).name.lower() in _README_NAMES
        ]
        if not found:
            return None
        outermost = min(found, key=lambda info: len(PurePosixPath(info.filename).parts))
        with open_member(archive, outermost.filename) as stream:
            text = stream.read(_LARGEST_README)
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")


class _Fetcher:
    """Talks to one server about one set, and turns whatever goes wrong into FetchFailed."""

    def __init__(self, chosen: MovieLensSet, base_url: str, timeout: float) -> None:
        if not _is_http(base_url):
            raise FetchFailed(f"{base_url!r} is no http or https address. Leave it out to ask GroupLens.")
        self._set = chosen
        self._base_url = base_url
        self._timeout = timeout
        # Put together by hand: `build_opener` would also open files, FTP and data URLs.
        self._opener = request.OpenerDirector()
        for handler in (
            request.ProxyHandler(),
            request.HTTPHandler(),
            request.HTTPSHandler(context=ssl.create_default_context()),
            request.HTTPDefaultErrorHandler(),
            request.HTTPErrorProcessor(),
            request.UnknownHandler(),
            _CarefulRedirects(),
        ):
            self._opener.add_handler(handler)

    def checksum(self) -> str:
        """The published MD5, in lower-case hexadecimal digits."""
        url = self._set.checksum_url(self._base_url)
        with self._get(url) as response:
            text = self._read(response, _LARGEST_CHECKSUM_FILE, url)
        try:
            return _parse_checksum(text)
        except ValueError:
            raise FetchFailed(
                f"{url} does not hold an MD5 checksum, so the archive could not be verified (a proxy or a "
                f"login page may have answered instead of GroupLens). Try again later, or {_BY_HAND}"
            ) from None

    def archive(self, into: Path, on_progress: OnProgress | None) -> str:
        """Write the archive and tell its MD5."""
        url = self._set.url(self._base_url)
        digest = hashlib.md5(usedforsecurity=False)
        done = 0
        limit = _SLACK * self._set.size
        with self._get(url) as response, into.open("wb") as file:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
            if on_progress is not None:
                on_progress(0, total)
            while chunk := self._read(response, _CHUNK, url):
                done += len(chunk)
                if done > limit:
                    raise FetchFailed(
                        f"{url} goes on beyond {_megabytes(limit)}, where about {_megabytes(self._set.size)} "
                        f"were expected: that is not {self._set.archive}. Try again later, or {_BY_HAND}"
                    )
                file.write(chunk)
                digest.update(chunk)
                if on_progress is not None:
                    on_progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and done != total:  # a sized read does not complain of it
            raise FetchFailed(f"{url} broke off after {done:,} of {total:,} bytes. Try again, or {_BY_HAND}")
        return digest.hexdigest()

    @contextmanager
    def _get(self, url: str) -> Iterator[HTTPResponse]:
        asked = request.Request(url, headers={"User-Agent": "harmonium-demo", "Accept-Encoding": "identity"})  # noqa: S310 - _is_http has seen it
        try:
            response: HTTPResponse = self._opener.open(asked, timeout=self._timeout)
        except error.HTTPError as refused:
            refused.close()
            raise FetchFailed(
                f"{url} answered {refused.code} {refused.reason}. Try again later, or {_BY_HAND}"
            ) from refused
        except (OSError, HTTPException, ValueError) as problem:
            raise self._unreachable(url, problem) from problem
        with response:
            yield response

    def _read(self, response: HTTPResponse, size: int, url: str) -> bytes:
        try:
            return response.read(size)
        except (OSError, HTTPException) as problem:
            raise self._unreachable(url, problem) from problem

    def _unreachable(self, url: str, problem: Exception) -> FetchFailed:
        return FetchFailed(
            f"{url} could not be fetched: {_reason(problem)}. Check that this machine is online (a proxy is "
            f"taken from HTTPS_PROXY), or {_BY_HAND}"
        )


class _CarefulRedirects(request.HTTPRedirectHandler):
    """Follows redirects within http and https, and never from https back to http."""

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        if not _is_http(newurl) or (req.type == "https" and urlsplit(newurl).scheme != "https"):
            raise error.URLError(f"it redirects to {newurl}, which is not safe to follow")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except FileNotFoundError:
        raise NotMovieLens(f"There is no file {archive}. {_WHERE_TO_GET_ONE}") from None
    except (zipfile.BadZipFile, OSError) as problem:
        raise _damaged(archive, problem) from problem


def _damaged(archive: Path, problem: Exception) -> NotMovieLens:
    return NotMovieLens(
        f"{archive} is not a zip archive, or a damaged one: {_reason(problem)}. {_WHERE_TO_GET_ONE}"
    )


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A new file beside the target, so that replacing it is one step; gone after whatever fails."""
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
    """The digest in either usual form: `MD5 (ml-25m.zip) = hex` or `hex  ml-25m.zip`. Raises ValueError."""
    for line in text.decode("ascii").splitlines():
        for form in _CHECKSUM_FORMS:
            if found := form.match(line.strip()):
                return found[1].lower()
    raise ValueError("no MD5 in it")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _folder(base_url: str) -> str:
    return base_url if base_url.endswith("/") else f"{base_url}/"


def _reason(problem: Exception) -> str:
    if isinstance(problem, error.URLError) and problem.reason:
        return str(problem.reason)
    return str(problem) or type(problem).__name__


def _megabytes(size: int) -> str:
    return f"{max(size / 1e6, 0.1):,.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"

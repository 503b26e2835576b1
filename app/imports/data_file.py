"""A data file: plain, gzip, or a zip of one or several files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from app.errors import InvalidInput, TooLarge
from app.imports import compression
from app.imports.fields import Scale, parse_scale
from app.imports.layouts import FORMATS, KINDS, KNOWN_FORMATS, Layout, layout_of, parse_columns
from app.imports.readers import MovieChunk, RatingChunk, read
from app.settings import Settings

_MOST_ZIP_MEMBERS = 100  # looked into

# The files that a MovieLens zip is about; the 100K one also holds its ratings cut into
# ten other pieces.
_MOVIELENS_MEMBERS = frozenset(
    {"u.data", "u.item", "ratings.dat", "movies.dat", "ratings.csv", "movies.csv", "links.csv"}
)

# glibc learns from blocks below 32 MiB, and keeps at most twice as much for later.
_PASSING_BYTES = 31 * 1024**2


@dataclass(frozen=True)
class Part:
    """One file of rows: the whole of a data file, or a member of a zip."""

    member: str | None
    """Its name in the zip."""
    position: int | None
    """Its place in the zip's directory, because two members may have one name."""
    layout: Layout
    """How its rows are written down."""
    n_bytes: int
    """Its size, packed for gzip and unpacked for zip: its share of the progress."""


@dataclass(frozen=True)
class DataFile:
    """A file that was recognised. `chunks` may be called any number of times."""

    path: Path
    """Where it lies."""
    parts: tuple[Part, ...]
    """The files inside, movies before ratings."""
    scale: Scale
    """The marks that it gives."""
    unpacked_limit: int
    """Bytes that it may unpack to."""

    @property
    def kind(self) -> str:
        """`ratings`, `movies` or `movies+ratings`."""
        return "+".join(sorted({part.layout.kind for part in self.parts}))

    @property
    def format(self) -> str:
        """The formats of the files inside, as `csv` or `u.data+u.item`."""
        return "+".join(sorted({part.layout.format for part in self.parts}))

    def chunks(self) -> Iterator[RatingChunk | MovieChunk]:
        """The rows in their order, movies before ratings, in bounded memory.

        Bad rows are listed in the chunks. Raises `InvalidInput` when the file cannot be
        read on (truncated or corrupt, or a line longer than `BLOCK_BYTES`) and
        `TooLarge` when it unpacks to more than the limit.
        """
        # glibc hands freed memory back to the system, which then has to clear every
        # page anew: a fifth of the time of parsing. It stops when it sees larger blocks
        # come and go, as this one, of which no page is touched.
        bytearray(_PASSING_BYTES)
        total = max(1, sum(part.n_bytes for part in self.parts))
        unpacked_left = self.unpacked_limit
        done = 0
        for part in self.parts:
            prefix = f"{part.member} line" if part.member else "line"
            with compression.opened(
                self.path, unpacked_limit=unpacked_left, position=part.position
            ) as source:
                for chunk in read(source, part.layout, self.scale, prefix):
                    yield replace(chunk, fraction=min(1.0, (done + source.consumed()) / total))
                unpacked_left -= source.unpacked
            done += part.n_bytes


def recognise(
    path: Path,
    settings: Settings,
    *,
    kind: str = "auto",
    format: str = "auto",  # noqa: A002  (the name it has over HTTP)
    columns: str = "",
    scale: str = "",
) -> DataFile:
    """What a file holds, by its content.

    Args:
        kind: take only `ratings` or only `movies`; `auto` takes both.
        format: one of `FORMATS`; everything but `auto` is believed without a look.
        columns: as `parse_columns` takes it: what columns of a CSV, TSV or JSON lines
            file are called.
        scale: as `parse_scale` takes it: the marks that the file gives; by default they
            are stars.

    Raises:
        InvalidInput: there is no such file, or it is in no known format, or not of that
            kind, or has not the columns.
        TooLarge: it says itself that it unpacks to more than the limit.
    """
    if kind not in KINDS:
        raise InvalidInput(f"There is no kind {kind!r}; kinds are {', '.join(KINDS)}.")
    if format not in FORMATS:
        raise InvalidInput(f"There is no format {format!r}; formats are {', '.join(FORMATS)}.")
    named = parse_columns(columns)
    low, high = parse_scale(scale) or (settings.stars_min, settings.stars_max)
    if not path.is_file():
        # Two passes are made over a file, so that a pipe will not do.
        raise InvalidInput(f"There is no file {str(path)!r}.")
    limit = settings.unpacked_limit
    if compression.container(path) == "zip":
        parts = _zip_parts(path, kind, format, named, limit)
    else:
        with compression.opened(path, unpacked_limit=limit) as source:
            layout = layout_of(source.sample(), format, named)
        _check_kind(layout, kind)
        parts = (Part(None, None, layout, path.stat().st_size),)
    return DataFile(path, parts, Scale(low, high, settings.stars_min, settings.stars_max), limit)


def _zip_parts(
    path: Path, kind: str, format_: str, named: Mapping[str, str], unpacked_limit: int
) -> tuple[Part, ...]:
    """The data files of a zip, movies first; what is no data file is passed over."""
    files = compression.members(path)
    known = [
        (position, info)
        for position, info in files
        if PurePosixPath(info.filename).name.lower() in _MOVIELENS_MEMBERS
    ]
    candidates = known or files
    if not candidates:
        raise InvalidInput("The zip holds no file.")
    if len(candidates) > _MOST_ZIP_MEMBERS:
        raise InvalidInput("The zip holds too many files. Pack only ratings and movies.")
    is_only = len(candidates) == 1
    parts = []
    for position, info in candidates:
        name = compression.display_name(info.filename)
        try:
            with compression.opened(path, unpacked_limit=unpacked_limit, position=position) as source:
                # A format that is said of several files selects those that are in it.
                layout = layout_of(source.sample(), format_ if is_only else "auto", named)
            if is_only:
                _check_kind(layout, kind)
        except InvalidInput as error:
            if known or is_only:
                raise InvalidInput(f"{name} in the zip: {error.detail}") from error
            continue
        if kind in ("auto", layout.kind) and format_ in ("auto", layout.format):
            parts.append(Part(name, position, layout, info.file_size))
    if not parts:
        rows = "ratings or movies" if kind == "auto" else kind
        known_format = "a known format" if format_ == "auto" else f"the format {format_}"
        raise InvalidInput(f"The zip holds no file of {rows} in {known_format}. Known are {KNOWN_FORMATS}.")
    if sum(part.n_bytes for part in parts) > unpacked_limit:
        raise TooLarge(f"The zip unpacks to more than {unpacked_limit:,} bytes (HARMONIUM_UNPACKED_LIMIT).")
    return tuple(sorted(parts, key=lambda part: part.layout.kind == "ratings"))


def _check_kind(layout: Layout, kind: str) -> None:
    if kind not in ("auto", layout.kind):
        raise InvalidInput(f"The file holds {layout.kind}, not {kind}.")

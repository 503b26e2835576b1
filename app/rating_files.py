"""Files of ratings and movies: which format a file is in, and its rows, checked, a chunk at a time.

Formats are told from content, never from the name:

- `u.data`: MovieLens 100K, tab: user, movie, stars, seconds since 1970; no header.
- `u.item`: MovieLens 100K, pipe: id, title, release date, …, 19 genre flags; no header.
- `ratings.dat`, `movies.dat`: MovieLens 1M and 10M, separated by `::`; no header.
- `csv`: comma, tab, semicolon or pipe, with a header that names its columns: `ratings.csv`, `movies.csv` and
  `links.csv` of MovieLens, Harmonium's own export, and whatever spells its columns as `SPELLINGS` does.
- `jsonl`: one JSON object a line with user_id, movie_id, stars and perhaps rated_at.

Each plain, as gzip, or as a zip of one or several of them; UTF-8 with or without a byte order mark, and
Windows-1252 (which prints whatever latin-1 prints) for the lines that are not UTF-8.

A file is read in blocks of whole lines. A block of clean numbers, as MovieLens has them, goes through pandas'
C parser. A block that is some other rectangle of fields is split at once; in any other one, each line is
split by itself, and the csv module reads what is quoted. All three read the same rows out of the same bytes;
the latter two also say what is wrong, and where.

Line numbers count from 1 and count every line of the unpacked file as an editor shows it, blank ones and the
header too; a quoted field may span lines, then its row has the number of its first. Blank lines are no rows.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app import file_fields, packed_files
from app.catalogue import MovieEntry
from app.errors import FieldError, InvalidInput, TooLarge
from app.packed_files import Source
from app.ratings import UNTIMED, RatingBatch

KINDS = ("auto", "ratings", "movies")
FORMATS = ("auto", "u.data", "u.item", "ratings.dat", "movies.dat", "csv", "jsonl")

SAMPLE_LINES = 100
ERRORS_LISTED = 100  # of a chunk, and of a file

LONGEST_ROW = 100  # lines that one row with quoted newlines may span; more is a quotation mark left open
MOST_ZIP_MEMBERS = 100  # looked into

# glibc learns from blocks below 32 MiB, and keeps at most twice as much for later.
PASSING_BYTES = 31 * 1024**2

# The files that a MovieLens zip is about; the 100K one also holds its ratings cut into ten other pieces.
MOVIELENS_MEMBERS = frozenset(
    {"u.data", "u.item", "ratings.dat", "movies.dat", "ratings.csv", "movies.csv", "links.csv"}
)

# What a header may call a column, without case, blanks, `_` and `-`. Where several occur, the first wins.
SPELLINGS = {
    "user": ("userid", "uid", "user"),
    "movie": ("movieid", "itemid", "filmid", "mid", "movie", "item", "film"),
    "stars": ("stars", "rating", "score"),
    "time": ("ratedat", "timestamp", "datetime", "time", "date"),
    "title": ("title", "movietitle"),
    "plain_title": ("plaintitle",),  # as it is, without a year at its end: Harmonium's own export
    "year": ("year", "releaseyear"),
    "genres": ("genres", "genre"),
    "imdb": ("imdbid", "imdb"),
    "tmdb": ("tmdbid", "tmdb"),
}

# The members of a JSON object, by what they mean.
MEMBERS = {"user": "user_id", "movie": "movie_id", "stars": "stars", "time": "rated_at"}

# Scales that go by their highest mark.
USUAL_SCALES = {"10": (1.0, 10.0), "100": (0.0, 100.0)}

ITEM_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
ITEM_FIELDS = 5 + len(ITEM_GENRES)

KNOWN_FORMATS = (
    "MovieLens u.data and u.item, ratings.dat and movies.dat (separated by ::), ratings.csv, movies.csv and "
    "links.csv; any CSV or TSV whose header names columns such as userId, movieId, rating and timestamp; "
    "JSON lines with user_id, movie_id, stars and rated_at. Each plain, as gzip or as zip"
)

_RELEASE_DATE = re.compile(r"\d{1,2}-[A-Za-z]{3}-(\d{4})", re.ASCII)

_DOT, _ZERO, _NEWLINE, _QUOTE = b'.0\n"'

_T = TypeVar("_T")


@dataclass(frozen=True)
class Layout:
    """How one data file is laid out.

    Attributes:
        format: one of `FORMATS` but `auto`.
        kind: what its rows are.
        delimiter: between fields; empty for JSON lines.
        columns: the position of each column that has a meaning (the keys of `SPELLINGS`).
        members: the name of each member of a JSON object that has one.
        n_fields: fields of a row, those without a meaning too.
        quoted: whether `"` quotes a field.
        header_lines: lines before the first row.
    """

    format: str
    kind: Literal["ratings", "movies"]
    delimiter: str
    columns: dict[str, int] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=lambda: MEMBERS)
    n_fields: int = 0
    quoted: bool = False
    header_lines: int = 0


_RATING_COLUMNS = {"user": 0, "movie": 1, "stars": 2, "time": 3}

LAYOUTS = {
    "u.data": Layout("u.data", "ratings", "\t", _RATING_COLUMNS, n_fields=4),
    "u.item": Layout("u.item", "movies", "|", {"movie": 0, "title": 1}, n_fields=ITEM_FIELDS),
    "ratings.dat": Layout(
        "ratings.dat", "ratings", "::", {"user": 0, "movie": 1, "stars": 2, "time": 3}, n_fields=4
    ),
    "movies.dat": Layout("movies.dat", "movies", "::", {"movie": 0, "title": 1, "genres": 2}, n_fields=3),
    "jsonl": Layout("jsonl", "ratings", ""),
}


@dataclass(frozen=True)
class Part:
    """One data file: the whole of it, or a member of a zip.

    Attributes:
        member: its name in the zip, or None.
        position: its place in the zip's directory, because two members may have one name; or None.
        n_bytes: its size, packed for gzip and unpacked for zip: its share of the progress.
    """

    member: str | None
    position: int | None
    layout: Layout
    n_bytes: int


@dataclass(frozen=True)
class Scale:
    """The marks that a file gives, and the stars that they become: the least the least, linearly.

    Attributes:
        low, high: marks outside are bad rows.
        stars_min, stars_max: what `low` and `high` become.
    """

    low: float
    high: float
    stars_min: float
    stars_max: float

    def contains(self, marks: NDArray[np.float64]) -> bool:
        """Whether none lies outside; NaN does."""
        return bool(((marks >= self.low) & (marks <= self.high)).all())

    def stars(self, marks: NDArray[np.float64]) -> NDArray[np.float64]:
        """The stars of marks that lie within."""
        if (self.low, self.high) == (self.stars_min, self.stars_max):
            return marks
        stars = self.stars_min + (marks - self.low) * (self.stars_max - self.stars_min) / (
            self.high - self.low
        )
        return np.clip(stars, self.stars_min, self.stars_max)

    def checked(self, mark: float) -> float:
        """One mark, unchanged; `ValueError` when it lies outside."""
        if not self.low <= mark <= self.high:
            raise ValueError(f"stars must lie between {self.low:g} and {self.high:g}, not {mark:g}")
        return mark


def parse_scale(text: str) -> tuple[float, float] | None:
    """The least and the highest mark of a scale: `10` (1 to 10), `100` (0 to 100), `LOW-HIGH`, or nothing.

    Raises:
        InvalidInput: it is something else.
    """
    if not text.strip():
        return None
    if text.strip() in USUAL_SCALES:
        return USUAL_SCALES[text.strip()]
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)", text.strip(), re.ASCII)
    if not found or not float(found[1]) < float(found[2]):
        message = "must be 10 (marks from 1 to 10), 100 (from 0 to 100), or LOW-HIGH as in 0-20"
        raise InvalidInput(f"scale {message}.", errors=[FieldError("scale", message)])
    return float(found[1]), float(found[2])


def parse_columns(text: str) -> dict[str, str]:
    """The names of columns by what they mean, out of `user=uid,movie=mid,stars=score`.

    Raises:
        InvalidInput: it is not written so, or a meaning does not exist or occurs twice.
    """
    columns: dict[str, str] = {}
    for pair in filter(None, (one.strip() for one in text.split(","))):
        role, equals, name = (part.strip() for part in pair.partition("="))
        message = ""
        if not equals or not name:
            message = f"{pair!r} is not like user=uid"
        elif role not in SPELLINGS:
            message = f"there is no {role!r}; before the = stands one of {', '.join(SPELLINGS)}"
        elif role in columns or name in columns.values():
            message = f"{role if role in columns else name!r} occurs twice"
        if message:
            raise InvalidInput(f"columns: {message}.", errors=[FieldError("columns", message)])
        columns[role] = name
    return columns


@dataclass(frozen=True)
class RatingChunk:
    """Consecutive rows of a file of ratings.

    Attributes:
        n_rows: rows, good and bad.
        offsets: int64 (n_good,), ascending: which of the rows are good.
        users, movies: ids, those of the good rows among them.
        user_codes, movie_codes: int64 (n_good,), positions in `users` and `movies`.
        stars: float64 (n_good,), finite and within the bounds.
        rated_at: int64 (n_good,), microseconds since 1970, `UNTIMED` without a time.
        errors: what is wrong with the bad rows, `ERRORS_LISTED` of them at most.
        fraction: how much of the whole file has been read at the end of the chunk, 0 to 1.
    """

    n_rows: int
    offsets: NDArray[np.int64]
    users: Sequence[str]
    user_codes: NDArray[np.int64]
    movies: Sequence[str]
    movie_codes: NDArray[np.int64]
    stars: NDArray[np.float64]
    rated_at: NDArray[np.int64]
    errors: tuple[FieldError, ...]
    fraction: float = 0.0

    @property
    def n_rejected(self) -> int:
        return self.n_rows - len(self.offsets)

    def batch(self, start: int, stop: int) -> RatingBatch:
        """The good ones among the rows from `start` up to but not including `stop`."""
        low, high = np.searchsorted(self.offsets, (start, stop))
        return RatingBatch(
            *_occurring(self.users, self.user_codes[low:high]),
            *_occurring(self.movies, self.movie_codes[low:high]),
            self.stars[low:high],
            self.rated_at[low:high],
        )


@dataclass(frozen=True)
class MovieChunk:
    """Consecutive rows of a file of movies; the fields are those of `RatingChunk`.

    Attributes:
        entries: the good rows (n_good).
    """

    n_rows: int
    offsets: NDArray[np.int64]
    entries: Sequence[MovieEntry]
    errors: tuple[FieldError, ...]
    fraction: float = 0.0

    @property
    def n_rejected(self) -> int:
        return self.n_rows - len(self.offsets)

    def batch(self, start: int, stop: int) -> Sequence[MovieEntry]:
        """The good ones among the rows from `start` up to but not including `stop`."""
        low, high = np.searchsorted(self.offsets, (start, stop))
        return self.entries[low:high]


@dataclass(frozen=True)
class DataFile:
    """A file that was recognised. `chunks` may be called any number of times and always says the same."""

    path: Path
    parts: tuple[Part, ...]
    scale: Scale
    unpacked_limit: int

    @property
    def kind(self) -> str:
        """`ratings`, `movies` or `movies+ratings`."""
        return "+".join(sorted({part.layout.kind for part in self.parts}))

    @property
    def format(self) -> str:
        """The formats found inside, as `csv` or `u.data+u.item`."""
        return "+".join(sorted({part.layout.format for part in self.parts}))

    def chunks(self) -> Iterator[RatingChunk | MovieChunk]:
        """The rows in their order, movies before ratings, in bounded memory.

        Bad rows are listed in the chunks. Raises `InvalidInput` when the file cannot be read on (truncated or
        corrupt, or a line longer than `BLOCK_BYTES`) and `TooLarge` when it unpacks to more than the limit.
        """
        _let_freed_memory_stay()
        total = max(1, sum(part.n_bytes for part in self.parts))
        unpacked_left = self.unpacked_limit
        done = 0
        for part in self.parts:
            prefix = f"{part.member} line" if part.member else "line"
            rows = _Reader(part.layout, prefix, self.scale)
            with packed_files.opened(
                self.path, unpacked_limit=unpacked_left, position=part.position
            ) as source:
                for chunk in rows.chunks(source):
                    yield _at(chunk, min(1.0, (done + source.consumed()) / total))
                unpacked_left -= source.unpacked
            done += part.n_bytes


def recognise(
    path: Path,
    *,
    kind: str = "auto",
    format: str = "auto",  # noqa: A002  (the name it has over HTTP)
    columns: str = "",
    scale: str = "",
    stars_min: float,
    stars_max: float,
    unpacked_limit: int,
) -> DataFile:
    """Find out what a file holds.

    Args:
        kind: take only `ratings` or only `movies`; `auto` takes what is there.
        format: one of `FORMATS`; everything but `auto` is believed without a look.
        columns: as `parse_columns` takes it: what columns of a CSV, TSV or JSON lines file are called.
        scale: as `parse_scale` takes it: the marks that the file gives; by default they are stars.
        stars_min, stars_max: ratings outside are bad rows.
        unpacked_limit: bytes that a packed file may unpack to.

    Raises:
        InvalidInput: there is no such file, or it is in no known format, or not of that kind, or has not the
            columns.
        TooLarge: it says itself that it unpacks to more than the limit.
    """
    if kind not in KINDS:
        raise InvalidInput(f"There is no kind {kind!r}; kinds are {', '.join(KINDS)}.")
    if format not in FORMATS:
        raise InvalidInput(f"There is no format {format!r}; formats are {', '.join(FORMATS)}.")
    given, marks = parse_columns(columns), parse_scale(scale) or (stars_min, stars_max)
    if not path.is_file():
        # Two passes are made over a file, so that a pipe will not do.
        raise InvalidInput(f"There is no file {str(path)!r}.")
    if packed_files.container(path) == "zip":
        parts = _zip_parts(path, kind, format, given, unpacked_limit)
    else:
        with packed_files.opened(path, unpacked_limit=unpacked_limit) as source:
            layout = _layout_of(source.sample(), format, given)
        _check_kind(layout, kind)
        parts = (Part(None, None, layout, path.stat().st_size),)
    return DataFile(path, parts, Scale(*marks, stars_min, stars_max), unpacked_limit)


def _zip_parts(
    path: Path, kind: str, format_: str, given: Mapping[str, str], unpacked_limit: int
) -> tuple[Part, ...]:
    """The data files of a zip, movies first; what is no data file is passed over."""
    files = packed_files.members(path)
    known = [one for one in files if PurePosixPath(one[1].filename).name.lower() in MOVIELENS_MEMBERS]
    candidates = known or files
    if not candidates:
        raise InvalidInput("The zip holds no file.")
    if len(candidates) > MOST_ZIP_MEMBERS:
        raise InvalidInput("The zip holds too many files. Pack only ratings and movies.")
    parts = []
    for position, info in candidates:
        name = packed_files.shown_name(info.filename)
        try:
            with packed_files.opened(path, unpacked_limit=unpacked_limit, position=position) as source:
                # One format given for several files picks those that are in it.
                layout = _layout_of(source.sample(), format_ if len(candidates) == 1 else "auto", given)
            if len(candidates) == 1:
                _check_kind(layout, kind)
        except InvalidInput as error:
            if known or len(candidates) == 1:
                raise InvalidInput(f"{name} in the zip: {error.detail}") from error
            continue
        if kind in ("auto", layout.kind) and format_ in ("auto", layout.format):
            parts.append(Part(name, position, layout, info.file_size))
    if not parts:
        wanted = "ratings or movies" if kind == "auto" else kind
        shown = "a known format" if format_ == "auto" else f"the format {format_}"
        raise InvalidInput(f"The zip holds no file of {wanted} in {shown}. Known are {KNOWN_FORMATS}.")
    if sum(part.n_bytes for part in parts) > unpacked_limit:
        raise TooLarge(f"The zip unpacks to more than {unpacked_limit:,} bytes (HARMONIUM_UNPACKED_LIMIT).")
    return tuple(sorted(parts, key=lambda part: part.layout.kind == "ratings"))


# Recognising.


def _layout_of(sample: bytes, format_: str, given: Mapping[str, str]) -> Layout:
    """The layout of a data file that begins like this; `given` are its columns, as far as they were named."""
    if not sample.strip():
        raise InvalidInput("The file is empty.")
    lines = [line.removesuffix("\r") for line in packed_files.decoded(sample).split("\n")[:SAMPLE_LINES]]
    if format_ == "jsonl" or (format_ == "auto" and given and _is_object(lines)):
        if unknown := given.keys() - MEMBERS.keys():
            raise InvalidInput(
                f"JSON lines have the columns {', '.join(MEMBERS)}, but not {', '.join(sorted(unknown))}."
            )
        return replace(LAYOUTS["jsonl"], members={**MEMBERS, **given})
    if format_ == "csv" or (format_ == "auto" and given):
        layout = _layout_of_header(lines, given)
    elif given:
        raise InvalidInput(
            f"The columns of {format_} are known. Name columns for CSV, TSV or JSON lines only."
        )
    elif format_ != "auto":
        return LAYOUTS[format_]
    else:
        layout = _guessed_layout(lines)
    if layout is None:
        raise InvalidInput(_unknown(sample, lines))
    return layout


def _unknown(sample: bytes, lines: list[str]) -> str:
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "The file is UTF-16. Save it as UTF-8."
    first = file_fields.shown(next((line for line in lines if line.strip()), ""), 80)
    return (
        f"The content is in no known format; it begins with {first}. Known are {KNOWN_FORMATS}. A table in "
        "another order needs a header."
    )


def _guessed_layout(lines: list[str]) -> Layout | None:
    rows = [line for line in lines if line.strip()]
    if not rows:
        return None
    # First: below a header, a table of the same columns looks like u.data.
    if (layout := _layout_of_header(lines, {})) is not None:
        return layout
    # A row or two may be bad; that is for the row errors to say, with their lines.
    for name, resembles in _RESEMBLES.items():
        if 2 * sum(map(resembles, rows)) >= len(rows):
            return LAYOUTS[name]
    return None


def _resembles_ratings(delimiter: str) -> Callable[[str], bool]:
    def resembles(row: str) -> bool:
        fields = row.split(delimiter)
        return (
            len(fields) == 4
            and bool(fields[0] and fields[1])
            and file_fields.NUMBER.fullmatch(fields[2]) is not None
            and file_fields.SECONDS.fullmatch(fields[3]) is not None
        )

    return resembles


def _resembles_item(row: str) -> bool:
    fields = row.split("|")
    return len(fields) == ITEM_FIELDS and all(flag in ("0", "1") for flag in fields[5:])


def _resembles_movies(row: str) -> bool:
    fields = row.split("::")
    return len(fields) == 3 and bool(fields[0])


def _is_object(lines: list[str]) -> bool:
    return next((line for line in lines if line.strip()), "").startswith("{")


def _resembles_object(row: str) -> bool:
    if not row.startswith("{"):
        return False
    try:
        found = file_fields.json_object(row)
    except ValueError:
        return False
    return "user_id" in found and "movie_id" in found


_RESEMBLES: dict[str, Callable[[str], bool]] = {
    "jsonl": _resembles_object,
    "u.data": _resembles_ratings("\t"),
    "ratings.dat": _resembles_ratings("::"),
    "movies.dat": _resembles_movies,
    "u.item": _resembles_item,
}


def _layout_of_header(lines: list[str], given: Mapping[str, str]) -> Layout | None:
    """The layout that the first line that is not blank describes, or None when it is no header we know.

    Args:
        given: names of columns by what they mean; what it leaves out goes by its spelling.

    Raises `InvalidInput` when the header has not the columns that are given.
    """
    number, header = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (1, ""))
    best: list[str] = []
    for delimiter in (",", "\t", ";", "|"):
        try:
            names = next(csv.reader([header], delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        best = max(best, names, key=len)
        plain = [_plain(name) for name in names]
        columns = {
            role: position
            for role, name in given.items()
            if (position := _position_of(name, names, plain)) is not None
        }
        if len(columns) < len(given):
            continue
        for role, spellings in SPELLINGS.items():
            spelled = next((one for one in spellings if one in plain), None)
            if role not in given and spelled is not None and plain.index(spelled) not in columns.values():
                columns[role] = plain.index(spelled)
        kind = _kind_of(columns)
        if kind is None:
            continue
        for role, position in columns.items():
            if role not in given and plain.count(plain[position]) > 1:
                raise InvalidInput(f"The header has two columns named {names[position]!r} for the {role}.")
        return Layout("csv", kind, delimiter, columns, n_fields=len(names), quoted=True, header_lines=number)
    if given:
        raise InvalidInput(_columns_missing(given, best))
    return None


def _position_of(name: str, names: Sequence[str], plain: Sequence[str]) -> int | None:
    """Where the column of this name is: as it is spelled, or else but for case, blanks, `_` and `-`."""
    stripped = [one.strip() for one in names]
    if name in stripped:
        return stripped.index(name)
    return plain.index(_plain(name)) if _plain(name) in plain else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _columns_missing(given: Mapping[str, str], names: Sequence[str]) -> str:
    plain = [_plain(name) for name in names]
    missing = [name for name in given.values() if _position_of(name, names, plain) is None]
    there = ", ".join(file_fields.shown(name.strip()) for name in names[:50])
    if missing:
        return f"The header has no column {', '.join(map(repr, missing))}; its columns are {there}."
    return (
        f"With these columns the file is neither ratings (user, movie, stars) nor movies (movie, and title, "
        f"year, genres, imdb or tmdb). Its columns are {there}."
    )


def _kind_of(columns: dict[str, int]) -> Literal["ratings", "movies"] | None:
    if {"user", "movie", "stars"} <= columns.keys():
        return "ratings"
    # A file that names users but no stars, like MovieLens' tags.csv, says nothing about movies either.
    if (
        "movie" in columns
        and "user" not in columns
        and columns.keys() & {"title", "plain_title", "genres", "year", "imdb", "tmdb"}
    ):
        return "movies"
    return None


def _check_kind(layout: Layout, kind: str) -> None:
    if kind not in ("auto", layout.kind):
        raise InvalidInput(f"The file holds {layout.kind}, not {kind}.")


# Reading.


class _Reader:
    """Rows of one data file out of its lines."""

    def __init__(self, layout: Layout, prefix: str, scale: Scale) -> None:
        self.layout = layout
        self.prefix = prefix
        self.scale = scale

    def chunks(self, source: Source) -> Iterator[RatingChunk | MovieChunk]:
        number = 1  # of the next line
        while number <= self.layout.header_lines:
            source.line()
            number += 1
        while block := source.block():
            block = _with_plain_ends(block)
            rectangle = _rectangle(block, self.layout) if self.layout.kind == "ratings" else None
            if rectangle is not None:
                yield self.numeric_ratings(rectangle) or self.text_ratings(rectangle, number)
                number += len(rectangle.ends)
                continue
            lines = _lines(block)
            chunk: RatingChunk | MovieChunk
            if self.layout.format == "jsonl":
                chunk = self.rating_objects(lines, number)
            else:
                rows = _split_rows(lines, number, self.layout, source)
                chunk = self.ratings(rows) if self.layout.kind == "ratings" else self.movies(rows)
            yield chunk
            number += len(lines)

    def numeric_ratings(self, rectangle: "_Rectangle") -> RatingChunk | None:
        """A block of ratings that is nothing but clean numbers; None sends it a slower way.

        Only what every way reads alike may pass: ids that are integers without leading zeros, so that their
        decimal string is what stands in the file; stars within bounds; whole seconds.
        """
        block, delimiter, ends = rectangle.block, rectangle.delimiter, rectangle.ends
        if block.translate(None, b"0123456789.\n" + delimiter):
            return None
        n_fields = self.layout.n_fields
        columns = self.layout.columns
        integers = [columns[role] for role in ("user", "movie", "time") if role in columns]
        characters = np.frombuffer(block, dtype=np.uint8)
        starts = np.concatenate(([0], ends.ravel()[:-1] + 1)).reshape(-1, n_fields)[:, integers]
        lengths = ends[:, integers] - starts
        # 18 digits always fit an int64.
        if lengths.min() < 1 or lengths.max() > 18:
            return None
        if ((characters[starts] == _ZERO) & (lengths > 1)).any():
            return None
        dots = np.flatnonzero(characters == _DOT)
        if np.isin(np.searchsorted(ends.ravel(), dots) % n_fields, integers).any():
            return None

        types = dict.fromkeys(integers, "int64") | {columns["stars"]: "float64"}
        try:
            # The default way to read a float is exact since pandas 3.1; `usecols` would hide long rows.
            frame = pd.read_csv(
                io.BytesIO(block),
                sep=delimiter.decode(),
                header=None,
                engine="c",
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                skip_blank_lines=False,
                dtype={column: types.get(column, "str") for column in range(n_fields)},
            )
        except (ValueError, OverflowError):
            return None
        if frame.shape != ends.shape:
            return None
        stars = frame[columns["stars"]].to_numpy(dtype=np.float64)
        if not self.scale.contains(stars):
            return None
        rated_at = np.full(len(stars), UNTIMED, dtype=np.int64)
        if "time" in columns:
            seconds = frame[columns["time"]].to_numpy(dtype=np.int64)
            if seconds.max() > file_fields.LATEST // 1_000_000:
                return None
            rated_at = seconds * 1_000_000
        user_codes, users = pd.factorize(frame[columns["user"]].to_numpy(dtype=np.int64))
        movie_codes, movies = pd.factorize(frame[columns["movie"]].to_numpy(dtype=np.int64))
        return RatingChunk(
            n_rows=len(stars),
            offsets=np.arange(len(stars), dtype=np.int64),
            users=list(map(str, users.tolist())),
            user_codes=user_codes.astype(np.int64, copy=False),
            movies=list(map(str, movies.tolist())),
            movie_codes=movie_codes.astype(np.int64, copy=False),
            stars=self.scale.stars(stars),
            rated_at=rated_at,
            errors=(),
        )

    def text_ratings(self, rectangle: "_Rectangle", first: int) -> RatingChunk:
        """A block of ratings with the right number of fields on every line."""
        n_rows, n_fields = rectangle.ends.shape
        text = packed_files.decoded(rectangle.block)
        delimiter = rectangle.delimiter.decode()
        # One list for the block: a list for each row would keep the garbage collector busy.
        flat = text.removesuffix("\n").replace("\n", delimiter).split(delimiter)
        rows = _Rows(range(first, first + n_rows), [], {})
        fields = [flat[column::n_fields] for column in range(n_fields)]
        return self._checked_ratings(rows, np.arange(n_rows, dtype=np.int64), fields)

    def ratings(self, rows: "_Rows") -> RatingChunk:
        """Any block of delimited ratings."""
        good = rows.well_formed(self.layout.n_fields)
        fields = [[rows.fields[offset][column] for offset in good] for column in range(self.layout.n_fields)]
        return self._checked_ratings(rows, np.array(good, dtype=np.int64), fields)

    def _checked_ratings(
        self, rows: "_Rows", good: NDArray[np.int64], fields: Sequence[Sequence[str]]
    ) -> RatingChunk:
        """Check the fields of the rows that have the right number of them, each distinct spelling once."""
        columns = self.layout.columns
        times = fields[columns["time"]] if "time" in columns else ("",) * len(good)
        return self._rating_chunk(
            rows,
            good,
            _Checked.of(fields[columns["user"]], file_fields.user_id),
            _Checked.of(fields[columns["movie"]], file_fields.movie_id),
            _Checked.of(fields[columns["stars"]], lambda text: self.scale.checked(file_fields.number(text))),
            _Checked.of(times, file_fields.instant),
        )

    def rating_objects(self, lines: list[str], first: int) -> RatingChunk:
        """A block of JSON lines."""
        names = self.layout.members
        numbers: list[int] = []
        rows = _Rows(numbers, [], {})
        good: list[int] = []
        users: list[str] = []
        movies: list[str] = []
        stars: list[float] = []
        times: list[int] = []
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            offset = len(numbers)
            numbers.append(number)
            try:
                found = file_fields.json_object(line)
                user = file_fields.user_id(file_fields.needed(found, names["user"]))
                movie = file_fields.movie_id(file_fields.needed(found, names["movie"]))
                given = self.scale.checked(
                    file_fields.json_number(file_fields.needed(found, names["stars"]), names["stars"])
                )
                time = file_fields.json_instant(found.get(names["time"]))
            except ValueError as error:
                rows.broken[offset] = str(error)
                continue
            good.append(offset)
            users.append(user)
            movies.append(movie)
            stars.append(given)
            times.append(time)
        return self._rating_chunk(
            rows,
            np.array(good, dtype=np.int64),
            _Checked.of(users, str),
            _Checked.of(movies, str),
            _Checked(np.arange(len(good)), stars, {}),
            _Checked(np.arange(len(good)), times, {}),
        )

    def movies(self, rows: "_Rows") -> MovieChunk:
        """A block of delimited movies."""
        entry_of = self._item_entry if self.layout.format == "u.item" else self._movie_entry
        good: list[int] = []
        entries: list[MovieEntry] = []
        for offset in rows.well_formed(self.layout.n_fields):
            try:
                entries.append(entry_of(rows.fields[offset]))
            except ValueError as error:
                rows.broken[offset] = str(error)
            else:
                good.append(offset)
        return MovieChunk(
            n_rows=len(rows.numbers),
            offsets=np.array(good, dtype=np.int64),
            entries=entries,
            errors=rows.errors(self.prefix),
        )

    def _rating_chunk(
        self,
        rows: "_Rows",
        offsets: NDArray[np.int64],
        users: "_Checked[str]",
        movies: "_Checked[str]",
        stars: "_Checked[float]",
        times: "_Checked[int]",
    ) -> RatingChunk:
        columns: tuple[_Checked[Any], ...] = (users, movies, stars, times)
        is_good = np.ones(len(offsets), dtype=bool)
        for column in columns:
            if column.wrong:
                is_good &= ~np.isin(column.codes, list(column.wrong))
        for position in np.flatnonzero(~is_good).tolist():
            # One message a row: that of its first bad field.
            rows.broken[int(offsets[position])] = next(
                column.wrong[column.codes[position]]
                for column in columns
                if int(column.codes[position]) in column.wrong
            )
        return RatingChunk(
            n_rows=len(rows.numbers),
            offsets=offsets[is_good],
            users=users.values,
            user_codes=users.codes[is_good],
            movies=movies.values,
            movie_codes=movies.codes[is_good],
            stars=self.scale.stars(np.array(stars.values, dtype=np.float64)[stars.codes[is_good]]),
            rated_at=np.array(times.values, dtype=np.int64)[times.codes[is_good]],
            errors=rows.errors(self.prefix),
        )

    def _movie_entry(self, fields: list[str]) -> MovieEntry:
        """A movie of a table with a header, or of movies.dat."""
        columns = self.layout.columns

        def cell(role: str) -> str:
            return fields[columns[role]].strip() if role in columns else ""

        movie_id = file_fields.movie_id(fields[columns["movie"]])
        if "plain_title" in columns:
            title, year = file_fields.plain_title(cell("plain_title")), None
        else:
            title, year = file_fields.title(cell("title"))
        if cell("year"):
            year = file_fields.year(cell("year"))
        return MovieEntry(
            movie_id=movie_id,
            # An empty cell does not know: it leaves what is stored.
            title=title or None,
            year=year,
            genres=file_fields.genres(cell("genres")) if cell("genres") else None,
            imdb_id=file_fields.imdb_id(cell("imdb")) if cell("imdb") else None,
            tmdb_id=file_fields.tmdb_id(cell("tmdb")) if cell("tmdb") else None,
        )

    def _item_entry(self, fields: list[str]) -> MovieEntry:
        """A movie of u.item."""
        title, year = file_fields.title(fields[1])
        if year is None and (released := _RELEASE_DATE.fullmatch(fields[2].strip())):
            year = file_fields.year(released[1])
        flags = fields[-len(ITEM_GENRES) :]
        if any(flag not in ("0", "1") for flag in flags):
            raise ValueError("a genre flag is neither 0 nor 1")
        return MovieEntry(
            movie_id=file_fields.movie_id(fields[0]),
            title=title or None,
            year=year,
            genres=tuple(
                genre
                for genre, flag in zip(ITEM_GENRES, flags, strict=True)
                if flag == "1" and genre != "unknown"
            ),
        )


@dataclass(frozen=True)
class _Rectangle:
    """A block in which every line has the right number of fields, none is blank and nothing is quoted.

    Attributes:
        block: whole lines.
        delimiter: one byte.
        ends: int64 (n_rows, n_fields), the position in the block just after each field.
    """

    block: bytes
    delimiter: bytes
    ends: NDArray[np.int64]


@dataclass
class _Rows:
    """The rows of a block before their fields are understood; blank lines are left out.

    Attributes:
        numbers: the line that each row begins on.
        fields: the fields of each row; empty where the row is in `broken` already.
        broken: what is wrong, by the offset of the row.
    """

    numbers: Sequence[int]
    fields: list[list[str]]
    broken: dict[int, str]

    def well_formed(self, n_fields: int) -> list[int]:
        """The offsets of the rows with the right number of fields; the others are broken from now on."""
        for offset, fields in enumerate(self.fields):
            if len(fields) != n_fields and offset not in self.broken:
                self.broken[offset] = f"{n_fields} fields expected, {len(fields)} found"
        return [offset for offset in range(len(self.fields)) if offset not in self.broken]

    def errors(self, prefix: str) -> tuple[FieldError, ...]:
        """The first `ERRORS_LISTED` broken rows."""
        first = sorted(self.broken)[:ERRORS_LISTED]
        return tuple(FieldError(f"{prefix} {self.numbers[offset]}", self.broken[offset]) for offset in first)


@dataclass(frozen=True)
class _Checked(Generic[_T]):
    """A column of which each distinct spelling was checked once.

    Attributes:
        codes: int64 (n,), the position of each field's spelling in `values`.
        values: what each spelling means; a placeholder where it is wrong.
        wrong: what is wrong, by position in `values`.
    """

    codes: NDArray[np.int64]
    values: list[_T]
    wrong: dict[int, str]

    @classmethod
    def of(cls, column: Sequence[str], check: Callable[[str], _T]) -> "_Checked[_T]":
        texts = np.empty(len(column), dtype=object)
        texts[:] = column
        codes, spellings = pd.factorize(texts)
        values: list[_T] = []
        wrong: dict[int, str] = {}
        placeholder: Any = 0
        for position, spelling in enumerate(spellings.tolist()):
            try:
                values.append(check(spelling))
            except ValueError as error:
                wrong[position] = str(error)
                values.append(placeholder)
        return cls(codes.astype(np.int64, copy=False), values, wrong)


def _occurring(ids: Sequence[str], codes: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The ids that the codes name, and the codes as positions among them."""
    occurs = np.zeros(len(ids), dtype=np.bool_)
    occurs[codes] = True
    chosen = np.flatnonzero(occurs)
    return [ids[code] for code in chosen.tolist()], (np.cumsum(occurs) - 1)[codes]


def _let_freed_memory_stay() -> None:
    """Make the C library keep the memory of one block for the next one.

    glibc hands freed memory back to the system, which then has to clear every page anew: a fifth of the time
    of parsing. It stops when it sees larger blocks come and go, as this one, of which no page is touched.
    """
    bytearray(PASSING_BYTES)


def _at(chunk: RatingChunk | MovieChunk, fraction: float) -> RatingChunk | MovieChunk:
    """The chunk, knowing how far into the file it reaches; it is nobody else's yet."""
    object.__setattr__(chunk, "fraction", fraction)
    return chunk


def _with_plain_ends(block: bytes) -> bytes:
    """The same lines, each ending with a newline alone, the last one too."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").removesuffix(b"\r")
    return block if block.endswith(b"\n") else block + b"\n"


def _lines(block: bytes) -> list[str]:
    """The lines of a block. Not `splitlines`, which also splits at form feeds and more."""
    return packed_files.decoded(block).split("\n")[:-1]


def _rectangle(block: bytes, layout: Layout) -> _Rectangle | None:
    """The block as a rectangle of fields, or None when it is none, or when only the csv module can tell."""
    delimiter = layout.delimiter.encode()
    if len(delimiter) > 1:
        if b"\t" in block:
            return None
        block, delimiter = block.replace(delimiter, b"\t"), b"\t"
    if not delimiter:
        return None
    characters = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero((characters == delimiter[0]) | (characters == _NEWLINE))
    if len(ends) % layout.n_fields:
        return None
    by_row = ends.reshape(-1, layout.n_fields)
    is_newline = characters[by_row] == _NEWLINE
    if not is_newline[:, -1].all() or is_newline[:, :-1].any():
        return None
    if not layout.quoted or b'"' not in block:
        return _Rectangle(block, delimiter, by_row)

    # Quotes around whole fields, none of which holds a quote, a delimiter or a newline, are but decoration.
    quotes = np.flatnonzero(characters == _QUOTE)
    if len(quotes) % 2:
        return None
    opening, closing = quotes[::2], quotes[1::2]
    field_of_opening = np.searchsorted(ends, opening)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (opening != starts[field_of_opening]).any() or (closing + 1 != ends[field_of_opening]).any():
        return None
    ends = ends - np.searchsorted(quotes, ends)
    return _Rectangle(block.translate(None, b'"'), delimiter, ends.reshape(-1, layout.n_fields))


def _split_rows(lines: list[str], first: int, layout: Layout, source: Source) -> _Rows:
    """The fields of the rows that begin in these lines.

    When the last row's quoted field goes on beyond the block, its further lines are taken from `source` and
    appended to `lines`.
    """
    delimiter = layout.delimiter
    numbers: list[int] = []
    rows = _Rows(numbers, [], {})
    position = 0
    while position < len(lines):
        line = lines[position]
        start, position = position, position + 1
        if not line:
            continue
        numbers.append(first + start)
        if not layout.quoted or '"' not in line:
            rows.fields.append(line.split(delimiter))
            continue
        while True:
            try:
                rows.fields.append(next(csv.reader([line], delimiter=delimiter, strict=True)))
                break
            except csv.Error as error:
                problem = str(error)
            # The csv module has no other way to tell that a quoted field goes on.
            if problem == "unexpected end of data":
                further, position = _until_quote(lines, position, start + LONGEST_ROW, source)
                if further is not None:
                    line = f"{line}\n{further}"
                    continue
                problem = "a quotation mark is opened and not closed"
            # Give up on this line only: what follows it may be sound.
            position = start + 1
            rows.broken[len(rows.fields)] = f"not valid CSV: {problem}"
            rows.fields.append([])
            break
    return rows


def _until_quote(lines: list[str], position: int, limit: int, source: Source) -> tuple[str | None, int]:
    """The lines from `position` up to one that has a quotation mark, and the position after it.

    None when there is no such line before `limit`.
    """
    taken = []
    while position < limit:
        if position == len(lines):
            more = source.line()
            if not more:
                break
            lines.extend(_lines(_with_plain_ends(more)))
        taken.append(lines[position])
        position += 1
        if '"' in taken[-1]:
            return "\n".join(taken), position
    return None, position

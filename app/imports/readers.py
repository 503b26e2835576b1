"""The two readers of rows: pandas for clean numbers, text for everything else.

A file is read in blocks of whole lines. A block of clean numbers, as MovieLens has
them, goes through pandas' C parser; in any other block each line is split by itself,
and the csv module reads what is quoted. Both read equal rows out of equal bytes; only
the second says what is wrong, and where.

Line numbers count from 1 and count every line of the unpacked file as an editor shows
it, blank ones and the header too; a quoted field may span lines, then its row has the
number of its first. Blank lines are no rows.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app.catalogue.movies import MovieEntry
from app.errors import FieldError
from app.imports import fields
from app.imports.compression import Source, decoded
from app.imports.fields import Scale
from app.imports.layouts import ITEM_GENRES, Layout
from app.ratings.batch import UNTIMED, RatingBatch

ERRORS_LISTED = 100  # of a chunk, and of a file
_LONGEST_ROW = 100  # lines that one row with quoted newlines may span; more is a quotation mark left open

_RELEASE_DATE = re.compile(r"\d{1,2}-[A-Za-z]{3}-(\d{4})", re.ASCII)
_DOT, _ZERO, _NEWLINE = b".0\n"

_T = TypeVar("_T")


@dataclass(frozen=True)
class RatingChunk:
    """Consecutive rows of a file of ratings."""

    n_rows: int
    """Rows, good and bad."""
    offsets: NDArray[np.int64]
    """int64 (n_good,), ascending: which of the rows are good."""
    users: Sequence[str]
    """User ids, those of the good rows among them."""
    user_codes: NDArray[np.int64]
    """int64 (n_good,): positions in `users`."""
    movies: Sequence[str]
    """Movie ids, those of the good rows among them."""
    movie_codes: NDArray[np.int64]
    """int64 (n_good,): positions in `movies`."""
    stars: NDArray[np.float64]
    """float64 (n_good,), finite and within the bounds."""
    rated_at: NDArray[np.int64]
    """int64 (n_good,): microseconds since 1970, `UNTIMED` without a time."""
    errors: tuple[FieldError, ...] = ()
    """What is wrong with the bad rows, `ERRORS_LISTED` of them at most."""
    fraction: float = 0.0
    """How much of the whole file has been read at the end of the chunk, 0 to 1."""

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
    """Consecutive rows of a file of movies; the fields are those of `RatingChunk`."""

    n_rows: int
    """Rows, good and bad."""
    offsets: NDArray[np.int64]
    """int64 (n_good,), ascending: which of the rows are good."""
    entries: Sequence[MovieEntry]
    """The good rows."""
    errors: tuple[FieldError, ...] = ()
    """What is wrong with the bad rows, `ERRORS_LISTED` of them at most."""
    fraction: float = 0.0
    """How much of the whole file has been read at the end of the chunk, 0 to 1."""

    @property
    def n_rejected(self) -> int:
        return self.n_rows - len(self.offsets)

    def batch(self, start: int, stop: int) -> Sequence[MovieEntry]:
        """The good ones among the rows from `start` up to but not including `stop`."""
        low, high = np.searchsorted(self.offsets, (start, stop))
        return self.entries[low:high]


def read(source: Source, layout: Layout, scale: Scale, prefix: str) -> Iterator[RatingChunk | MovieChunk]:
    """The rows of a file of rows, a chunk a block.

    Args:
        scale: the marks that ratings have.
        prefix: what stands before the number of a line in errors.
    """
    number = 1  # of the next line
    while number <= layout.header_lines:
        source.line()
        number += 1
    while block := source.block():
        block = _with_plain_ends(block)
        if layout.kind == "ratings" and (chunk := read_numbers(block, layout, scale)) is not None:
            number += chunk.n_rows
            yield chunk
            continue
        lines = _lines(block)
        if layout.format == "jsonl":
            yield _objects(lines, number, layout, scale, prefix)
        else:
            rows = _split_rows(lines, number, layout, source)
            yield (
                _ratings(rows, layout, scale, prefix)
                if layout.kind == "ratings"
                else _movies(rows, layout, prefix)
            )
        number += len(lines)


# Clean numbers.


def read_numbers(block: bytes, layout: Layout, scale: Scale) -> RatingChunk | None:
    """A block of ratings in clean numbers; None leaves it to the other reader.

    Only what both read alike may pass: ids that are integers without leading zeros, so
    that their decimal string is what stands in the file; stars within bounds; whole
    seconds.
    """
    delimiter = layout.delimiter.encode()
    if len(delimiter) > 1 and b"\t" not in block:
        block, delimiter = block.replace(delimiter, b"\t"), b"\t"
    columns = layout.columns
    integers = [columns[role] for role in ("user", "movie", "time") if role in columns]
    if len(delimiter) != 1 or not _is_clean(block, delimiter, layout.n_fields, integers):
        return None
    try:
        # The default way to read a float is exact since pandas 3.1.
        frame = pd.read_csv(
            io.BytesIO(block),
            sep=delimiter.decode(),
            header=None,
            names=list(range(layout.n_fields)),
            usecols=[*integers, columns["stars"]],
            engine="c",
            na_filter=False,
            quoting=csv.QUOTE_NONE,
            dtype=dict.fromkeys(integers, "int64") | {columns["stars"]: "float64"},
        )
    except (ValueError, OverflowError):
        return None
    marks = frame[columns["stars"]].to_numpy(dtype=np.float64)
    rated_at = np.full(len(marks), UNTIMED, dtype=np.int64)
    if "time" in columns:
        seconds = frame[columns["time"]].to_numpy(dtype=np.int64)
        if seconds.max() > fields.LATEST // 1_000_000:
            return None
        rated_at = seconds * 1_000_000
    if not scale.contains(marks):
        return None
    user_codes, users = pd.factorize(frame[columns["user"]].to_numpy(dtype=np.int64))
    movie_codes, movies = pd.factorize(frame[columns["movie"]].to_numpy(dtype=np.int64))
    return RatingChunk(
        n_rows=len(marks),
        offsets=np.arange(len(marks), dtype=np.int64),
        users=list(map(str, users.tolist())),
        user_codes=user_codes.astype(np.int64, copy=False),
        movies=list(map(str, movies.tolist())),
        movie_codes=movie_codes.astype(np.int64, copy=False),
        stars=scale.stars(marks),
        rated_at=rated_at,
    )


def _is_clean(block: bytes, delimiter: bytes, n_fields: int, integers: Sequence[int]) -> bool:
    """Whether every line has `n_fields` numbers, integers in these columns."""
    if block.translate(None, b"0123456789.\n" + delimiter):
        return False
    characters = np.frombuffer(block, dtype=np.uint8)
    flat_ends = np.flatnonzero((characters == delimiter[0]) | (characters == _NEWLINE))
    if len(flat_ends) % n_fields:
        return False
    ends = flat_ends.reshape(-1, n_fields)
    is_newline = characters[ends] == _NEWLINE
    if not is_newline[:, -1].all() or is_newline[:, :-1].any():
        return False
    starts = np.concatenate(([0], flat_ends[:-1] + 1)).reshape(-1, n_fields)[:, integers]
    lengths = ends[:, integers] - starts
    # 18 digits always fit an int64.
    if lengths.min() < 1 or lengths.max() > 18 or ((characters[starts] == _ZERO) & (lengths > 1)).any():
        return False
    dots = np.flatnonzero(characters == _DOT)
    return not np.isin(np.searchsorted(flat_ends, dots) % n_fields, integers).any()


# Text.


@dataclass
class _Rows:
    """The rows of a block before their fields are parsed, without blank lines."""

    numbers: list[int] = field(default_factory=list)
    """The line that each row begins on."""
    cells: list[list[str]] = field(default_factory=list)
    """The fields of each row; empty where the row is in `broken` already."""
    broken: dict[int, str] = field(default_factory=dict)
    """What is wrong, by the offset of the row."""

    def well_formed(self, n_fields: int) -> list[int]:
        """Offsets of rows with the right number of fields; others become broken."""
        for offset, cells in enumerate(self.cells):
            if len(cells) != n_fields and offset not in self.broken:
                self.broken[offset] = f"{n_fields} fields expected, {len(cells)} found"
        return [offset for offset in range(len(self.cells)) if offset not in self.broken]

    def errors(self, prefix: str) -> tuple[FieldError, ...]:
        """The first `ERRORS_LISTED` broken rows."""
        first = sorted(self.broken)[:ERRORS_LISTED]
        return tuple(FieldError(f"{prefix} {self.numbers[offset]}", self.broken[offset]) for offset in first)


@dataclass(frozen=True)
class _Column(Generic[_T]):
    """A column of which each distinct spelling was checked once."""

    codes: NDArray[np.int64]
    """int64 (n,): the position of each field's spelling in `values`."""
    values: list[_T]
    """What each spelling means; a placeholder where it is wrong."""
    wrong: dict[int, str]
    """What is wrong, by position in `values`."""

    @classmethod
    def of(cls, column: Sequence[_T] | Sequence[str], check: Callable[[Any], _T]) -> "_Column[_T]":
        spellings = np.empty(len(column), dtype=object)
        spellings[:] = column
        codes, distinct = pd.factorize(spellings)
        values: list[_T] = []
        wrong: dict[int, str] = {}
        placeholder: Any = 0
        for position, spelling in enumerate(distinct.tolist()):
            try:
                values.append(check(spelling))
            except ValueError as error:
                wrong[position] = str(error)
                values.append(placeholder)
        return cls(codes.astype(np.int64, copy=False), values, wrong)


def _ratings(rows: _Rows, layout: Layout, scale: Scale, prefix: str) -> RatingChunk:
    """Any block of delimited ratings."""
    offsets = rows.well_formed(layout.n_fields)
    cells = list(zip(*(rows.cells[offset] for offset in offsets), strict=True)) or [()] * layout.n_fields
    columns = layout.columns
    return _rating_chunk(
        rows,
        np.array(offsets, dtype=np.int64),
        _Column.of(cells[columns["user"]], fields.user_id),
        _Column.of(cells[columns["movie"]], fields.movie_id),
        _Column.of(cells[columns["stars"]], lambda text: scale.checked(fields.number(text))),
        _Column.of(cells[columns["time"]] if "time" in columns else ("",) * len(offsets), fields.instant),
        scale,
        prefix,
    )


def _objects(lines: Sequence[str], first: int, layout: Layout, scale: Scale, prefix: str) -> RatingChunk:
    """A block of JSON lines; the first has the number `first`."""
    names = layout.members
    rows = _Rows()
    offsets: list[int] = []
    values: list[tuple[str, str, float, int]] = []
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        offset = len(rows.numbers)
        rows.numbers.append(number)
        try:
            members = fields.json_object(line)
            user = fields.user_id(fields.needed(members, names["user"]))
            movie = fields.movie_id(fields.needed(members, names["movie"]))
            stars = fields.json_number(fields.needed(members, names["stars"]), names["stars"])
            values.append(
                (user, movie, scale.checked(stars), fields.json_instant(members.get(names["time"])))
            )
            offsets.append(offset)
        except ValueError as error:
            rows.broken[offset] = str(error)
    users, movies, marks, times = zip(*values, strict=True) if values else ((),) * 4
    return _rating_chunk(
        rows,
        np.array(offsets, dtype=np.int64),
        _Column.of(users, str),
        _Column.of(movies, str),
        _Column.of(marks, float),
        _Column.of(times, int),
        scale,
        prefix,
    )


def _rating_chunk(
    rows: _Rows,
    offsets: NDArray[np.int64],
    users: _Column[str],
    movies: _Column[str],
    marks: _Column[float],
    times: _Column[int],
    scale: Scale,
    prefix: str,
) -> RatingChunk:
    """The chunk of the rows at these offsets; each has a field in every column."""
    columns: tuple[_Column[Any], ...] = (users, movies, marks, times)
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
        stars=scale.stars(np.array(marks.values, dtype=np.float64)[marks.codes[is_good]]),
        rated_at=np.array(times.values, dtype=np.int64)[times.codes[is_good]],
        errors=rows.errors(prefix),
    )


def _movies(rows: _Rows, layout: Layout, prefix: str) -> MovieChunk:
    """A block of delimited movies."""
    entry_of = _item_entry if layout.format == "u.item" else _movie_entry
    good: list[int] = []
    entries: list[MovieEntry] = []
    for offset in rows.well_formed(layout.n_fields):
        try:
            entries.append(entry_of(rows.cells[offset], layout))
            good.append(offset)
        except ValueError as error:
            rows.broken[offset] = str(error)
    return MovieChunk(len(rows.numbers), np.array(good, dtype=np.int64), entries, rows.errors(prefix))


def _movie_entry(cells: Sequence[str], layout: Layout) -> MovieEntry:
    """A movie of a table with a header, or of movies.dat."""

    def cell(role: str) -> str:
        return cells[layout.columns[role]].strip() if role in layout.columns else ""

    movie_id = fields.movie_id(cells[layout.columns["movie"]])
    if "plain_title" in layout.columns:
        title, year = fields.plain_title(cell("plain_title")), None
    else:
        title, year = fields.title(cell("title"))
    if cell("year"):
        year = fields.year(cell("year"))
    return MovieEntry(
        movie_id=movie_id,
        # An empty cell does not know: it leaves what is stored.
        title=title or None,
        year=year,
        genres=fields.genres(cell("genres")) if cell("genres") else None,
        imdb_id=fields.imdb_id(cell("imdb")) if cell("imdb") else None,
        tmdb_id=fields.tmdb_id(cell("tmdb")) if cell("tmdb") else None,
    )


def _item_entry(cells: Sequence[str], _layout: Layout) -> MovieEntry:
    """A movie of u.item."""
    title, year = fields.title(cells[1])
    if year is None and (released := _RELEASE_DATE.fullmatch(cells[2].strip())):
        year = fields.year(released[1])
    flags = cells[-len(ITEM_GENRES) :]
    if any(flag not in ("0", "1") for flag in flags):
        raise ValueError("a genre flag is neither 0 nor 1")
    flagged = [genre for genre, flag in zip(ITEM_GENRES, flags, strict=True) if flag == "1"]
    return MovieEntry(
        movie_id=fields.movie_id(cells[0]),
        title=title or None,
        year=year,
        genres=tuple(genre for genre in flagged if genre != "unknown"),
    )


# Lines.


def _split_rows(lines: list[str], first: int, layout: Layout, source: Source) -> _Rows:
    """The fields of the rows that begin in these lines.

    The first line has the number `first`. When the last row's quoted field goes on
    beyond the block, its further lines are taken from `source` and appended to `lines`.
    """
    rows = _Rows()
    position = 0
    while position < len(lines):
        line = lines[position]
        start, position = position, position + 1
        if not line:
            continue
        rows.numbers.append(first + start)
        if not layout.is_quoted or '"' not in line:
            rows.cells.append(line.split(layout.delimiter))
            continue
        while True:
            try:
                rows.cells.append(next(csv.reader([line], delimiter=layout.delimiter, strict=True)))
                break
            except csv.Error as error:
                problem = str(error)
            # The csv module has no other way to tell that a quoted field goes on.
            if problem == "unexpected end of data":
                further, position = _until_quote(lines, position, start + _LONGEST_ROW, source)
                if further is not None:
                    line = f"{line}\n{further}"
                    continue
                problem = "a quotation mark is opened and not closed"
            # Give up on this line only: what follows it may be sound.
            position = start + 1
            rows.broken[len(rows.cells)] = f"not valid CSV: {problem}"
            rows.cells.append([])
            break
    return rows


def _until_quote(lines: list[str], position: int, limit: int, source: Source) -> tuple[str | None, int]:
    """The lines up to the next that has a quotation mark, and the position after it.

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


def _lines(block: bytes) -> list[str]:
    """The lines of a block.

    Not `splitlines`, which also splits at form feeds and more.
    """
    return decoded(block).split("\n")[:-1]


def _with_plain_ends(block: bytes) -> bytes:
    """The block with a newline alone at the end of each line, the last one too."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n").removesuffix(b"\r")
    return block if block.endswith(b"\n") else block + b"\n"


def _occurring(ids: Sequence[str], codes: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The ids that occur, and the codes as positions among them, int64 (n,)."""
    occurs = np.zeros(len(ids), dtype=np.bool_)
    occurs[codes] = True
    return [ids[code] for code in np.flatnonzero(occurs).tolist()], (np.cumsum(occurs) - 1)[codes]

"""Layouts of data files, recognised from a file's first lines.

Never from its name:

- `u.data`: MovieLens 100K, tab: user, movie, stars, seconds since 1970; no header.
- `u.item`: MovieLens 100K, pipe: id, title, release date, …, 19 genre flags; no header.
- `ratings.dat`, `movies.dat`: MovieLens 1M and 10M, separated by `::`; no header.
- `csv`: comma, tab, semicolon or pipe, with a header that names its columns:
  `ratings.csv`, `movies.csv` and `links.csv` of MovieLens, Harmonium's own export, and
  whatever spells its columns as `SPELLINGS` does.
- `jsonl`: one JSON object a line with user_id, movie_id, stars and perhaps rated_at.

A new dialect of CSV is a delimiter in `DELIMITERS` or a spelling in `SPELLINGS`.
"""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from app.errors import FieldError, InvalidInput
from app.imports import fields
from app.imports.compression import decoded

KINDS = ("auto", "ratings", "movies")
FORMATS = ("auto", "u.data", "u.item", "ratings.dat", "movies.dat", "csv", "jsonl")

_SAMPLE_LINES = 100  # looked at

DELIMITERS = (",", "\t", ";", "|")  # of a table with a header

# What a header may call a column, without case, blanks, `_` and `-`. Where several
# occur, the first wins.
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

ITEM_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip

KNOWN_FORMATS = (
    "MovieLens u.data and u.item, ratings.dat and movies.dat (separated by ::), ratings.csv, movies.csv and "
    "links.csv; any CSV or TSV whose header names columns such as userId, movieId, rating and timestamp; "
    "JSON lines with user_id, movie_id, stars and rated_at. Each plain, as gzip or as zip"
)

Kind = Literal["ratings", "movies"]


@dataclass(frozen=True)
class Layout:
    """How the rows of a data file are written: all that readers know of a format."""

    format: str
    """One of `FORMATS` but `auto`."""
    kind: Kind
    """What the rows are."""
    delimiter: str
    """Between fields; empty for JSON lines."""
    columns: dict[str, int] = field(default_factory=dict)
    """The position of each column that has a meaning (the keys of `SPELLINGS`)."""
    members: dict[str, str] = field(default_factory=lambda: MEMBERS)
    """The name of each member of a JSON object that has one."""
    n_fields: int = 0
    """Fields of a row, those without a meaning too."""
    is_quoted: bool = False
    """Whether `"` quotes a field."""
    header_lines: int = 0
    """Lines before the first row."""


_RATING_COLUMNS = {"user": 0, "movie": 1, "stars": 2, "time": 3}
_ITEM_FIELDS = 5 + len(ITEM_GENRES)

LAYOUTS = {
    "u.data": Layout("u.data", "ratings", "\t", _RATING_COLUMNS, n_fields=4),
    "u.item": Layout("u.item", "movies", "|", {"movie": 0, "title": 1}, n_fields=_ITEM_FIELDS),
    "ratings.dat": Layout("ratings.dat", "ratings", "::", _RATING_COLUMNS, n_fields=4),
    "movies.dat": Layout("movies.dat", "movies", "::", {"movie": 0, "title": 1, "genres": 2}, n_fields=3),
    "jsonl": Layout("jsonl", "ratings", ""),
}


def parse_columns(text: str) -> dict[str, str]:
    """The names of columns by what they mean, out of `user=uid,movie=mid,stars=score`.

    Raises:
        InvalidInput: it is not written so, or a meaning does not exist or occurs twice.
    """
    columns: dict[str, str] = {}
    for pair in filter(None, (pair.strip() for pair in text.split(","))):
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


def layout_of(sample: bytes, format_: str, named: Mapping[str, str]) -> Layout:
    """The layout of a data file that begins with these lines.

    Args:
        format_: one of `FORMATS`; everything but `auto` is believed without a look.
        named: names of columns by what they mean, as `parse_columns` returns them.

    Raises:
        InvalidInput: no format is like this, or the columns are not there.
    """
    if not sample.strip():
        raise InvalidInput("The file is empty.")
    lines = [line.removesuffix("\r") for line in decoded(sample).split("\n")[:_SAMPLE_LINES]]
    rows = [line for line in lines if line.strip()]
    if format_ == "jsonl" or (format_ == "auto" and named and rows and rows[0].startswith("{")):
        if unknown := named.keys() - MEMBERS.keys():
            raise InvalidInput(
                f"JSON lines have the columns {', '.join(MEMBERS)}, but not {', '.join(sorted(unknown))}."
            )
        return replace(LAYOUTS["jsonl"], members={**MEMBERS, **named})
    if format_ == "csv" or (format_ == "auto" and named):
        layout = _layout_of_header(lines, named)
    elif named:
        raise InvalidInput(
            f"The columns of {format_} are known. Name columns for CSV, TSV or JSON lines only."
        )
    elif format_ != "auto":
        return LAYOUTS[format_]
    else:
        # The header first: below it, a table of equal columns looks like u.data.
        layout = _layout_of_header(lines, {}) or _layout_of_rows(rows)
    if layout is not None:
        return layout
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidInput("The file is UTF-16. Save it as UTF-8.")
    raise InvalidInput(
        f"The content is in no known format; it begins with {fields.quoted(rows[0] if rows else '', 80)}. "
        f"Known are {KNOWN_FORMATS}. A table in another order needs a header."
    )


def _layout_of_rows(rows: Sequence[str]) -> Layout | None:
    """The layout without a header that at least half of the rows resemble."""
    # A row or two may be bad; that is for the row errors to say, with their lines.
    for name, resembles in _RESEMBLES.items():
        if rows and 2 * sum(map(resembles, rows)) >= len(rows):
            return LAYOUTS[name]
    return None


def _resembles_ratings(delimiter: str) -> Callable[[str], bool]:
    def resembles(row: str) -> bool:
        user, movie, stars, time = cells if len(cells := row.split(delimiter)) == 4 else ("",) * 4
        return bool(user and movie and fields.NUMBER.fullmatch(stars) and fields.SECONDS.fullmatch(time))

    return resembles


def _resembles_item(row: str) -> bool:
    cells = row.split("|")
    return len(cells) == _ITEM_FIELDS and all(flag in ("0", "1") for flag in cells[5:])


def _resembles_movies(row: str) -> bool:
    cells = row.split("::")
    return len(cells) == 3 and bool(cells[0])


def _resembles_object(row: str) -> bool:
    try:
        return row.startswith("{") and {"user_id", "movie_id"} <= fields.json_object(row).keys()
    except ValueError:
        return False


_RESEMBLES: dict[str, Callable[[str], bool]] = {
    "jsonl": _resembles_object,
    "u.data": _resembles_ratings("\t"),
    "ratings.dat": _resembles_ratings("::"),
    "movies.dat": _resembles_movies,
    "u.item": _resembles_item,
}


def _layout_of_header(lines: Sequence[str], named: Mapping[str, str]) -> Layout | None:
    """The layout that the header describes, or None when it is no known header.

    The header is the first line that is not blank.

    Args:
        named: names of columns by what they mean; what it leaves out goes by its
            spelling.

    Raises `InvalidInput` when the header has not the columns that are named.
    """
    number, header = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (1, ""))
    best: list[str] = []
    for delimiter in DELIMITERS:
        try:
            names = next(csv.reader([header], delimiter=delimiter, strict=True))
        except csv.Error:
            continue
        best = max(best, names, key=len)
        columns = _columns_of(names, named)
        kind = _kind_of(columns)
        if kind is not None and named.keys() <= columns.keys():
            return Layout(
                "csv", kind, delimiter, columns, n_fields=len(names), is_quoted=True, header_lines=number
            )
    if named:
        raise InvalidInput(_columns_missing(best, named))
    return None


def _columns_of(names: Sequence[str], named: Mapping[str, str]) -> dict[str, int]:
    """The position of each column that has a meaning, by it."""
    plain = [_plain(name) for name in names]
    columns = {
        role: position for role, name in named.items() if (position := _position_of(name, names)) is not None
    }
    for role, spellings in SPELLINGS.items():
        spelling = next((spelling for spelling in spellings if spelling in plain), None)
        if role in named or spelling is None or plain.index(spelling) in columns.values():
            continue
        columns[role] = plain.index(spelling)
    if _kind_of(columns) is not None and named.keys() <= columns.keys():
        for role, position in columns.items():
            if role not in named and plain.count(plain[position]) > 1:
                raise InvalidInput(f"The header has two columns named {names[position]!r} for the {role}.")
    return columns


def _position_of(name: str, names: Sequence[str]) -> int | None:
    """The position of the column of this name, or None.

    The name as it is spelled, or else but for case, blanks, `_` and `-`.
    """
    stripped, plain = [name.strip() for name in names], [_plain(name) for name in names]
    if name in stripped:
        return stripped.index(name)
    return plain.index(_plain(name)) if _plain(name) in plain else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _columns_missing(names: Sequence[str], named: Mapping[str, str]) -> str:
    missing = [name for name in named.values() if _position_of(name, names) is None]
    columns = ", ".join(fields.quoted(name.strip()) for name in names[:50])
    if missing:
        return f"The header has no column {', '.join(map(repr, missing))}; its columns are {columns}."
    return (
        f"With these columns the file is neither ratings (user, movie, stars) nor movies (movie, and title, "
        f"year, genres, imdb or tmdb). Its columns are {columns}."
    )


def _kind_of(columns: Mapping[str, int]) -> Kind | None:
    if {"user", "movie", "stars"} <= columns.keys():
        return "ratings"
    # A file that names users but no stars, like MovieLens' tags.csv, says nothing about
    # movies either.
    if (
        "movie" in columns
        and "user" not in columns
        and columns.keys() & {"title", "plain_title", "genres", "year", "imdb", "tmdb"}
    ):
        return "movies"
    return None

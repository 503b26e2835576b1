"""Fields of rating and movie files, from text to values.

A field that is wrong raises `ValueError` with the reason.
"""

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.catalogue.movies import YEARS
from app.errors import FieldError, InvalidInput
from app.ratings.batch import UNTIMED
from app.storage.identifiers import clean_id
from app.storage.tables import EPOCH, to_microseconds

_LONGEST_TITLE = 1000  # characters
_LONGEST_GENRE = 64  # characters

# Instants that a datetime can hold, in microseconds since 1970.
_EARLIEST = to_microseconds(datetime.min.replace(tzinfo=UTC))
LATEST = to_microseconds(datetime.max.replace(tzinfo=UTC))

# Scales that go by their highest mark.
_USUAL_SCALES = {"10": (1.0, 10.0), "100": (0.0, 100.0)}

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
SECONDS = re.compile(r"-?\d{1,20}(\.\d{1,20})?", re.ASCII)

# Certainly clean, whatever else `clean_id` allows: most ids need no look at every
# character.
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:@-]{0,127}", re.ASCII)
# The year may be a span, and (V) or (TV) may follow it, as in `Babylon 5 (1993-1998)
# (TV)`.
_YEAR_AT_END = re.compile(
    r"\s*\(\s*(\d{4})\s*(?:[-\u2013]\s*(?:\d{4})?\s*)?\)\s*(?:\((?:V|TV|VG)\)\s*)?$", re.ASCII
)
_ARTICLE_AT_END = re.compile(
    r"(.*\S),\s+(The|A|An|La|Le|Les|L'|Une|Un|Il|Lo|Gli|I|El|Los|Las|Una|Uno|Der|Die|Das|Ein|Eine|Den|Det|De"
    r"|Het|En|Ett|O|Os|As)"
)
_PARENTHESES = re.compile(r"\(([^()]*)\)")
_ALSO_KNOWN_AS = re.compile(r"a\.?k\.?a\.?\s+", re.IGNORECASE)
# Spreadsheets and pandas turn a column of integers with gaps into floats.
_YEAR = re.compile(r"(\d{1,4})(?:\.0)?", re.ASCII)
_TMDB_ID = re.compile(r"(\d{1,15})(?:\.0)?", re.ASCII)
_IMDB_ID = re.compile(r"(?:tt)?(\d{1,15})", re.ASCII)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


@dataclass(frozen=True)
class Scale:
    """The marks of a file and their stars, linearly: least mark to least stars."""

    low: float
    """The least mark; a row with less is bad."""
    high: float
    """The highest mark; a row with more is bad."""
    stars_min: float
    """What `low` becomes."""
    stars_max: float
    """What `high` becomes."""

    def contains(self, marks: NDArray[np.float64]) -> bool:
        """Whether none lies outside; NaN does."""
        return bool(((marks >= self.low) & (marks <= self.high)).all())

    def stars(self, marks: NDArray[np.float64]) -> NDArray[np.float64]:
        """The stars of marks that lie within."""
        if (self.low, self.high) == (self.stars_min, self.stars_max):
            return marks
        above = (marks - self.low) * (self.stars_max - self.stars_min) / (self.high - self.low)
        return np.clip(self.stars_min + above, self.stars_min, self.stars_max)

    def checked(self, mark: float) -> float:
        """One mark, unchanged; `ValueError` when it lies outside."""
        if not self.low <= mark <= self.high:
            raise ValueError(f"stars must lie between {self.low:g} and {self.high:g}, not {mark:g}")
        return mark


def parse_scale(text: str) -> tuple[float, float] | None:
    """The least and the highest mark of a scale, or None for an empty text.

    A scale is `10` (1 to 10), `100` (0 to 100), or `LOW-HIGH`.

    Raises:
        InvalidInput: it is something else.
    """
    if not text.strip():
        return None
    if text.strip() in _USUAL_SCALES:
        return _USUAL_SCALES[text.strip()]
    marks = re.fullmatch(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)", text.strip(), re.ASCII)
    if not marks or not float(marks[1]) < float(marks[2]):
        message = "must be 10 (marks from 1 to 10), 100 (from 0 to 100), or LOW-HIGH as in 0-20"
        raise InvalidInput(f"scale {message}.", errors=[FieldError("scale", message)])
    return float(marks[1]), float(marks[2])


def user_id(value: object) -> str:
    """The id of a user, trimmed and in NFC."""
    return _id(value, "user")


def movie_id(value: object) -> str:
    """The id of a movie, trimmed and in NFC."""
    return _id(value, "movie")


def number(text: str) -> float:
    """Stars, finite or not; whether they lie within the bounds is another question."""
    text = text.strip()
    if not text:
        raise ValueError("stars are missing")
    # `float` alone would take nan, inf, 1_000 and the digits of other scripts.
    if not NUMBER.fullmatch(text):
        raise ValueError(f"stars {quoted(text)} are not a number")
    return float(text)


def instant(text: str) -> int:
    """Microseconds since 1970 of unix seconds or an ISO 8601 time.

    A time is UTC unless it says otherwise. An empty field is `UNTIMED`.
    """
    text = text.strip()
    if not text:
        return UNTIMED
    if text[4:5] != "-" and SECONDS.fullmatch(text):
        whole, _, fraction = text.partition(".")
        microseconds = int(fraction[:6].ljust(6, "0"))
        microseconds = int(whole) * 1_000_000 + (-microseconds if whole.startswith("-") else microseconds)
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"time {quoted(text)} is neither seconds since 1970 nor an ISO 8601 time"
            ) from None
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
        # `to_microseconds`, twice as fast: files have millions of times.
        microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return _within_calendar(microseconds, text)


def title(text: str) -> tuple[str, int | None]:
    """A title and its year: `Matrix, The (1999)` is The Matrix of 1999.

    Articles at the end of the title, or of another name in parentheses, come to the
    front; the year at the end is taken off.
    """
    cleaned = _printable(text, "the title", _LONGEST_TITLE)
    year_ = None
    at_end = _YEAR_AT_END.search(cleaned)
    if at_end and at_end.start() > 0 and int(at_end[1]) in YEARS:
        cleaned, year_ = cleaned[: at_end.start()], int(at_end[1])
    # The title proper ends where the first parenthesis begins.
    begin = cleaned.find("(")
    head = (cleaned if begin < 0 else cleaned[:begin]).rstrip()
    tail = cleaned[len(head) :]
    return _article_first(head) + _PARENTHESES.sub(lambda match: f"({_other_name(match[1])})", tail), year_


def plain_title(text: str) -> str:
    """A title that is already written as it is displayed."""
    return _printable(text, "the title", _LONGEST_TITLE)


def genres(text: str) -> tuple[str, ...]:
    """Genre names, each once, separated by `|`, or else by commas or semicolons.

    Between bars, as in `|Drama|War|`, they are taken as they are.
    """
    if len(text) > 1 and text[0] == text[-1] == "|":
        return tuple(
            dict.fromkeys(_printable(name, "a genre", _LONGEST_GENRE) for name in text[1:-1].split("|"))
        )
    if text.strip() == "(no genres listed)":
        return ()
    names = text.split("|") if "|" in text else re.split("[,;]", text)
    cleaned = (_printable(name, "a genre", _LONGEST_GENRE) for name in names)
    # The newer MovieLens sets say Children, the older ones Children's: one genre needs
    # one name.
    return tuple(dict.fromkeys("Children" if name == "Children's" else name for name in cleaned if name))


def year(text: str) -> int:
    """A year of `YEARS`."""
    digits = _YEAR.fullmatch(text)
    if not digits or int(digits[1]) not in YEARS:
        raise ValueError(f"year {quoted(text)} is not between {YEARS.start} and {YEARS.stop - 1}")
    return int(digits[1])


def imdb_id(text: str) -> str:
    """An IMDb id as in tt0114709."""
    digits = _IMDB_ID.fullmatch(text)
    if not digits:
        raise ValueError(f"imdb id {quoted(text)} is not like tt0114709 or 0114709")
    return f"tt{digits[1].zfill(7)}"


def tmdb_id(text: str) -> str:
    """A TMDB id: digits."""
    digits = _TMDB_ID.fullmatch(text)
    if not digits:
        raise ValueError(f"tmdb id {quoted(text)} is not a number")
    return digits[1]


def json_object(line: str) -> dict[str, Any]:
    """The JSON object that a line holds."""
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}"[:200]) from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def needed(members: dict[str, Any], name: str) -> Any:
    """A member of a JSON object that must be there."""
    if members.get(name) is None:
        raise ValueError(f"{name} is missing")
    return members[name]


def json_number(value: object, name: str) -> float:
    """A JSON number, and neither a truth value nor a number in quotes."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def json_instant(value: object) -> int:
    """`instant` for a JSON value: null, a string, or seconds since 1970."""
    if value is None:
        return UNTIMED
    if isinstance(value, str):
        return instant(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _within_calendar(value * 1_000_000, value)
    seconds = json_number(value, "rated_at")
    # Compared as seconds: an infinity cannot become an integer.
    if not _EARLIEST / 1e6 <= seconds <= LATEST / 1e6:
        return _within_calendar(LATEST + 1, value)
    return _within_calendar(round(seconds * 1e6), value)


def quoted(value: object, longest: int = 40) -> str:
    """For a message: quoted, without control characters, shortened."""
    try:
        text = str(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = "a very large number"
    return repr(text if len(text) <= longest else text[: longest - 1] + "…")


def _id(value: object, whose: str) -> str:
    if isinstance(value, str) and _PLAIN_ID.fullmatch(value):
        return value
    try:
        return clean_id(value)
    except ValueError as error:
        raise ValueError(f"{whose} id: {error}") from error


def _within_calendar(microseconds: int, written: object) -> int:
    if not _EARLIEST <= microseconds <= LATEST:
        raise ValueError(
            f"time {quoted(written)} is not within the years 1 to 9999; unix times are in seconds"
        )
    return microseconds


def _article_first(name: str) -> str:
    parts = _ARTICLE_AT_END.fullmatch(name)
    if not parts:
        return name
    return f"{parts[2]}{parts[1]}" if parts[2].endswith("'") else f"{parts[2]} {parts[1]}"


def _other_name(name: str) -> str:
    """A name in parentheses, which may begin with `a.k.a.`"""
    introduced = _ALSO_KNOWN_AS.match(name)
    begin = introduced.end() if introduced else 0
    return name[:begin] + _article_first(name[begin:])


def _printable(text: str, what: str, longest: int) -> str:
    """In NFC with single blanks; tabs and newlines of quoted fields count as blanks."""
    cleaned = " ".join(unicodedata.normalize("NFC", text).split())
    if len(cleaned) > longest:
        raise ValueError(f"{what} has more than {longest} characters")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in cleaned):
        raise ValueError(f"{what} contains control characters")
    return cleaned

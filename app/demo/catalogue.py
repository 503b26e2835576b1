"""Well-known films, some for every taste: facts only, read from films.csv beside this file.

The last column, `fame`, is this project's own guess at how many people have seen a film; the synthetic
raters watch by it, so that the demo has the long tail of a real catalogue.
"""

import csv
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

GENRES: Final = (
    "Action",
    "Adventure",
    "Animation",
    "Children",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The words of MovieLens, so that demo films and imported ones can be filtered alike."""

ID_PREFIX: Final = "demo-"
"""Every id of the demo starts so, to be told from a site's own movies at a glance."""


@dataclass(frozen=True, slots=True)
class Film:
    """A film of the bundled catalogue."""

    movie_id: str
    """`demo-` and a slug of title and year; it never changes while those two stand."""
    title: str
    """Without the year."""
    year: int
    genres: tuple[str, ...]
    """Words of GENRES, in alphabetical order."""
    fame: int
    """1 (seen by those who seek it out) to 5 (seen by nearly everyone)."""


def films() -> list[Film]:
    """Every film of the catalogue, oldest first."""
    return list(_films())


def movie_id(title: str, year: int) -> str:
    """The demo id of a film: ASCII, lower case, such as `demo-la-confidential-1997`.

    Marks inside a word (It's, L.A., M*A*S*H) vanish; whatever else is no letter or digit becomes one hyphen.
    """
    spelled_out = title.replace("&", " and ").replace("½", " 1 2")
    ascii_only = unicodedata.normalize("NFKD", spelled_out).encode("ascii", "ignore").decode("ascii").lower()
    words = re.sub(r"['.*]", "", ascii_only)
    return f"{ID_PREFIX}{re.sub(r'[^a-z0-9]+', '-', words).strip('-')}-{year}"


@cache
def _films() -> tuple[Film, ...]:
    source = resources.files("app.demo").joinpath("films.csv")
    with source.open(encoding="utf-8") as lines:
        return tuple(
            Film(
                movie_id=movie_id(row["title"], int(row["year"])),
                title=row["title"],
                year=int(row["year"]),
                genres=tuple(row["genres"].split("|")),
                fame=int(row["fame"]),
            )
            for row in csv.DictReader(lines)
        )

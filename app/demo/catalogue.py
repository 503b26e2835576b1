"""The demo's films, read from films.csv beside this file: facts only.

The column `fame` is this project's own guess at how many people have seen a film; the
synthetic raters watch by it, so that the demo has the long tail of a real catalogue.
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
"""MovieLens' names, so that demo films and imported ones can be filtered alike."""

ID_PREFIX: Final = "demo-"
"""Begins every id of the demo, which sets them apart from a site's own movies."""


@dataclass(frozen=True, slots=True)
class Film:
    """A film of the bundled catalogue."""

    movie_id: str
    """`demo-` and a slug of title and year."""
    title: str
    """Without the year."""
    year: int
    genres: tuple[str, ...]
    """Names of GENRES, in alphabetical order."""
    fame: int
    """1 (seen by few) to 5 (seen by nearly everyone)."""


def films() -> list[Film]:
    """Every film of the catalogue, oldest first."""
    return list(_films())


def movie_id(title: str, year: int) -> str:
    """The demo id of a film: ASCII, lower case, such as `demo-la-confidential-1997`.

    Marks inside a word (It's, L.A., M*A*S*H) are dropped; any other run of such becomes
    a hyphen.
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

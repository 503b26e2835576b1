"""Ratings as somebody tells them: the movie by its id or its title, what is said of it by stars or a like."""

from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy.orm import Session

from app import catalogue
from app.errors import FieldError, InvalidInput
from app.settings import Settings

CANDIDATES = 10  # movies named for a title that does not tell which is meant
SUGGESTED_FOR = 10  # titles that nobody has, for which movies that look alike are named


class Given(Protocol):
    """A rating that is not stored. Either `movie_id` or `title` is there, and either `stars` or `liked`."""

    @property
    def movie_id(self) -> str | None: ...

    @property
    def title(self) -> str | None: ...

    @property
    def year(self) -> int | None:
        """Tells movies of one title apart."""
        ...

    @property
    def stars(self) -> float | None: ...

    @property
    def liked(self) -> bool | None: ...


def stars_by_movie(
    given: Sequence[Given], settings: Settings, session: Session, name: str = "ratings"
) -> dict[str, float]:
    """Movie id -> stars; of several ratings of a movie the last counts. A like is full stars.

    Raises `InvalidInput` with the location of every rating whose stars are out of bounds, and of every title
    that means no movie or several, with those that it may mean.
    """
    check_stars([one.stars for one in given], settings, lambda n: f"{name}[{n}].stars")
    movie_ids = _resolved_ids(given, session, name)
    return {
        movie_id: one.stars
        if one.stars is not None
        else (settings.stars_max if one.liked else settings.stars_min)
        for movie_id, one in zip(movie_ids, given, strict=True)
    }


def movie_ids_of(session: Session, named: Sequence[str], name: str) -> list[str]:
    """The movies that somebody named by their ids or, where no movie has that id, by their titles.

    Raises `InvalidInput` as `stars_by_movie` does, with locations such as `exclude[2]`.
    """
    known = catalogue.of_ids(session, named)
    titles = [(f"{name}[{place}]", one, None) for place, one in enumerate(named) if one not in known]
    meant = iter(_of_titles(session, titles))
    return [one if one in known else next(meant) for one in named]


def check_stars(stars: list[float | None], settings: Settings, location: Callable[[int], str]) -> None:
    """Refuse stars outside the settings' bounds, naming each by `location(position)`."""
    mistakes = [
        FieldError(location(position), f"stars lie between {settings.stars_min:g} and {settings.stars_max:g}")
        for position, value in enumerate(stars)
        if value is not None and not settings.stars_min <= value <= settings.stars_max
    ]
    if mistakes:
        raise InvalidInput(
            f"{mistakes[0].location}: {mistakes[0].message}; nothing was stored.", errors=mistakes
        )


def _resolved_ids(given: Sequence[Given], session: Session, name: str) -> list[str]:
    """The id of the movie that each rating is of."""
    titles = [
        (f"{name}[{place}].title", one.title, one.year)
        for place, one in enumerate(given)
        if one.title is not None
    ]
    meant = iter(_of_titles(session, titles))
    return [str(one.movie_id) if one.title is None else next(meant) for one in given]


def _of_titles(session: Session, titles: Sequence[tuple[str, str, int | None]]) -> list[str]:
    """The id of the one movie that each (location, title, year) means."""
    if not titles:
        return []
    movie_ids: list[str] = []
    mistakes: list[FieldError] = []
    found = catalogue.of_titles(session, [(title, year) for _, title, year in titles])
    for (location, title, year), nearest in zip(titles, found, strict=True):
        if len(nearest) == 1:
            movie_ids.append(nearest[0].movie_id)
            continue
        message = f"{len(nearest)} movies have this title; say its year, or movie_id instead"
        if not nearest:
            message = "no movie has this title" + ("" if year is None else " and year")
            # Looking for what was meant takes a while, and a long list of strangers needs no more of it.
            nearest = catalogue.like_title(session, title) if len(mistakes) < SUGGESTED_FOR else []
        candidates = [
            {"movie_id": movie.movie_id, "title": movie.title, "year": movie.year}
            for movie in nearest[:CANDIDATES]
        ]
        mistakes.append(FieldError(location, message, candidates))
    if mistakes:
        first = mistakes[0]
        likely = ", ".join(f"{one['title']} ({one['year']}): {one['movie_id']}" for one in first.candidates)
        detail = f"{first.location}: {first.message}" + (f"; candidates: {likely}" if likely else "")
        raise InvalidInput(f"{detail}.", errors=mistakes)
    return movie_ids

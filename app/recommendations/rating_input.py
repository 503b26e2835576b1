"""The ratings of an answer: stored ones, or those of a request by id or title."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from sqlalchemy.orm import Session

from app.catalogue import movies, search
from app.catalogue.titles import TitleQuery, resolve
from app.errors import FieldError, InvalidInput
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.ratings import read
from app.settings import Settings

CANDIDATES = 10  # movies named for a title that may mean several
SUGGESTED_FOR = 10  # titles without a movie, for which movies that look alike are named

Stars = Mapping[str, float]
"""Movie id -> stars of one user."""


class RatingInput(Protocol):
    """A rating that is not stored: `movie_id` or `title`, and `stars` or `liked`."""

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


@dataclass(frozen=True)
class InputRows:
    """Several users' ratings, ready to fold in."""

    rows: RatingRows
    """Over the columns of a version's vocabulary."""
    ignored: list[list[str]]
    """Of each user, the ids of rated movies that the vocabulary lacks."""


def rows_of(model: TrainedModel, users: Sequence[Stars]) -> InputRows:
    """The ratings of users as rows, in their order."""
    movie_ids = [movie_id for stars in users for movie_id in stars]
    values = np.fromiter((value for stars in users for value in stars.values()), np.float32, len(movie_ids))
    columns = model.vocabulary.columns(movie_ids)
    owners = np.repeat(np.arange(len(users)), [len(stars) for stars in users])
    is_known = columns >= 0
    ignored: list[list[str]] = [[] for _ in users]
    if not is_known.all():
        for place in np.flatnonzero(~is_known).tolist():
            ignored[owners[place]].append(movie_ids[place])
        owners, columns, values = owners[is_known], columns[is_known], values[is_known]
    # A movie is there once for each user, so the columns only have to be put in order.
    order = (owners * model.n_movies + columns).argsort()
    indptr = np.zeros(len(users) + 1, np.int64)
    np.cumsum(np.bincount(owners, minlength=len(users)), out=indptr[1:])
    rows = RatingRows.unchecked(indptr, columns[order].astype(np.int32), values[order], model.n_movies)
    return InputRows(rows, ignored)


def stored_of_users(session: Session, user_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """Movie id -> stars of each user in one query; empty for an unknown user."""
    stored = read.of_users(session, list(dict.fromkeys(user_ids)))
    return {user_id: dict(rated) for user_id, rated in stored.items()}


def stored_of(session: Session, user_id: str) -> dict[str, float]:
    """The stored ratings of one user, movie id -> stars."""
    return read.profile(session, user_id)


def stars_by_movie(
    ratings: Sequence[RatingInput], settings: Settings, session: Session, name: str = "ratings"
) -> dict[str, float]:
    """Movie id -> stars; of several ratings of a movie the last counts.

    A like is full stars.

    Raises `InvalidInput` with the location of every rating whose stars are out of
    bounds, and of every title that means no movie or several, with those that it may
    mean.
    """
    check_stars([rating.stars for rating in ratings], settings, lambda n: f"{name}[{n}].stars")
    titles = [
        (f"{name}[{place}].title", rating.title, rating.year)
        for place, rating in enumerate(ratings)
        if rating.title is not None
    ]
    ids_of_titles = iter(_of_titles(session, titles))
    stars: dict[str, float] = {}
    for rating in ratings:
        movie_id = str(rating.movie_id) if rating.title is None else next(ids_of_titles)
        of_like = settings.stars_max if rating.liked else settings.stars_min
        stars[movie_id] = of_like if rating.stars is None else rating.stars
    return stars


def movie_ids_of(session: Session, names: Sequence[str], field: str) -> list[str]:
    """The movies with these ids or, where no movie has that id, with these titles.

    Raises `InvalidInput` as `stars_by_movie` does, with locations such as `exclude[2]`.
    """
    known = movies.of_ids(session, names)
    titles = [(f"{field}[{place}]", name, None) for place, name in enumerate(names) if name not in known]
    ids_of_titles = iter(_of_titles(session, titles))
    return [name if name in known else next(ids_of_titles) for name in names]


def check_stars(stars: list[float | None], settings: Settings, location: Callable[[int], str]) -> None:
    """Refuse stars out of bounds, naming each by `location(position)`."""
    mistakes = [
        FieldError(location(position), f"stars lie between {settings.stars_min:g} and {settings.stars_max:g}")
        for position, value in enumerate(stars)
        if value is not None and not settings.stars_min <= value <= settings.stars_max
    ]
    if mistakes:
        raise InvalidInput(
            f"{mistakes[0].location}: {mistakes[0].message}; nothing was stored.", errors=mistakes
        )


def _of_titles(session: Session, titles: Sequence[tuple[str, str, int | None]]) -> list[str]:
    """The id of the one movie that each (location, title, year) means."""
    if not titles:
        return []
    movie_ids: list[str] = []
    mistakes: list[FieldError] = []
    matches = resolve(session, [TitleQuery(title, year) for _, title, year in titles])
    for (location, title, year), nearest in zip(titles, matches, strict=True):
        if len(nearest) == 1:
            movie_ids.append(nearest[0].movie_id)
            continue
        message = f"{len(nearest)} movies have this title; say its year, or movie_id instead"
        if not nearest:
            message = "no movie has this title" + ("" if year is None else " and year")
            # Looking for what was meant takes a while, and a long list of unknown
            # titles needs no more of it.
            nearest = search.suggest(session, title) if len(mistakes) < SUGGESTED_FOR else []
        candidates = [
            {"movie_id": movie.movie_id, "title": movie.title, "year": movie.year}
            for movie in nearest[:CANDIDATES]
        ]
        mistakes.append(FieldError(location, message, candidates))
    if mistakes:
        first = mistakes[0]
        likely = ", ".join(
            f"{movie['title']} ({movie['year']}): {movie['movie_id']}" for movie in first.candidates
        )
        detail = f"{first.location}: {first.message}" + (f"; candidates: {likely}" if likely else "")
        raise InvalidInput(f"{detail}.", errors=mistakes)
    return movie_ids

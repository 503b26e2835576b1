"""What lists say of a movie, kept in memory while the catalogue does not change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.storage.database import CATALOGUE_GENERATION, ONE_MOMENT, in_parts
from app.storage.tables import CatalogueState, Movie

CARDS_KEPT = 200_000  # movies in memory, about 0.5 kB each


@dataclass(frozen=True, slots=True)
class MovieCard:
    """A movie in a list."""

    movie_key: int
    """The database's own key."""
    movie_id: str
    """The id that callers use."""
    title: str
    """Empty while only ratings have named the movie."""
    year: int | None
    """The year of release, None if unknown."""
    genres: list[str]
    """Genre names, in the order of the catalogue."""


# Cards by engine, with the generation that they are of. Replaced whole, so requests
# need no lock.
_kept: WeakKeyDictionary[Any, tuple[int, dict[str, MovieCard]]] = WeakKeyDictionary()
_GENERATION = select(CatalogueState.generation)


def generation(session: Session) -> int:
    """The catalogue's generation, a number that rises with every change."""
    known: int | None = session.info.get(CATALOGUE_GENERATION)
    if known is None:
        known = session.scalars(_GENERATION).one()
        if session.info.get(ONE_MOMENT):
            session.info[CATALOGUE_GENERATION] = known
    return known


def cards_of(session: Session, movie_ids: Sequence[str]) -> dict[str, MovieCard]:
    """Cards by movie id; ids without a movie are left out.

    A reading session sees its generation and its movies at one moment, so cards kept
    under a generation are what the database says.
    """
    if not session.info.get(ONE_MOMENT):
        return _read(session, movie_ids)
    kept = _kept_cards(session, generation(session))
    missing = [movie_id for movie_id in movie_ids if movie_id not in kept]
    if missing:
        if len(kept) + len(missing) > CARDS_KEPT:
            kept.clear()
            missing = list(movie_ids)
        kept.update(_read(session, missing))
    return {movie_id: kept[movie_id] for movie_id in movie_ids if movie_id in kept}


def _read(session: Session, movie_ids: Sequence[str]) -> dict[str, MovieCard]:
    cards: dict[str, MovieCard] = {}
    for part in in_parts(sorted(set(movie_ids))):
        statement = select(Movie.movie_key, Movie.movie_id, Movie.title, Movie.year, Movie.genres)
        for row in session.execute(statement.where(Movie.movie_id.in_(part))):
            cards[row.movie_id] = MovieCard(*row)
    return cards


def _kept_cards(session: Session, current: int) -> dict[str, MovieCard]:
    """The cards of the current generation; those of an older one are dropped."""
    engine = session.get_bind()
    kept = _kept.get(engine)
    if kept is not None and kept[0] == current:
        return kept[1]
    fresh: dict[str, MovieCard] = {}
    # A session that began before the last change must not replace newer cards.
    if kept is None or kept[0] < current:
        _kept[engine] = (current, fresh)
    return fresh

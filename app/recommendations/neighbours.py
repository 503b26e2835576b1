"""Movies like a movie."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app import catalogue
from app.learning.geometry import neighbours
from app.learning.ranking import ordered
from app.model_registry import Serving
from app.recommendations.lists import Choice, Shown, Wanted


@dataclass(frozen=True)
class SimilarMovie:
    """A neighbour.

    Attributes:
        similarity: cosine of what the two movies say of somebody who loves them, from -1 to 1.
        score: what neighbours are ranked by: the similarity and a little popularity.
    """

    rank: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    similarity: float
    score: float


@dataclass(frozen=True)
class SimilarMovies:
    """The neighbours of a movie; none where no version knows it."""

    movie_id: str
    title: str
    model_version: int | None
    items: list[SimilarMovie]


def similar(session: Session, serving: Serving | None, movie_id: str, wanted: Wanted) -> SimilarMovies:
    """The neighbours of a movie by the active version's geometry; `NotFound` for an unknown movie."""
    movie = catalogue.get(session, movie_id)
    version = None if serving is None else serving.version
    column = -1 if serving is None else int(serving.machines.vocabulary.columns([movie_id])[0])
    if serving is None or column < 0:
        return SimilarMovies(movie_id, movie.title, version, [])
    machines = serving.machines
    near = neighbours(machines, column)
    choice = Choice.of(session, machines, wanted, Shown.by(session, None))
    choice.allowed[column] = False
    columns = ordered(near.score, wanted.limit, choice.allowed, choice.judged)
    movie_ids = [machines.vocabulary.movie_ids[one] for one in columns]
    movies = catalogue.cards(session, movie_ids)
    items = []
    for rank, (one, found_id) in enumerate(zip(columns.tolist(), movie_ids, strict=True), start=1):
        found = movies.get(found_id)
        items.append(
            SimilarMovie(
                rank=rank,
                movie_id=found_id,
                title=found.title if found else "",
                year=found.year if found else None,
                genres=found.genres if found else [],
                similarity=float(near.similarity[one]),
                score=float(near.score[one]),
            )
        )
    return SimilarMovies(movie_id, movie.title, version, items)

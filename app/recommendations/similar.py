"""Movies like a movie."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from sqlalchemy.orm import Session

from app.catalogue import movies
from app.catalogue.cards import cards_of
from app.learning.inference.ranking import ordered
from app.learning.inference.similarity import neighbours
from app.model_versions.serving import LoadedVersion
from app.recommendations.lists import Choice, ListQuery, NamedMovie, Ranked, SeenMovies, card_fields
from app.storage.answers import Answer


@dataclass(frozen=True)
class SimilarMovie(NamedMovie, Ranked):
    """A neighbour of a movie."""

    similarity: Annotated[float, Field(examples=[0.61])]
    """Cosine of the hidden layers of two users who each love one of the movies, from -1
    to 1."""
    score: Annotated[float, Field(examples=[0.43])]
    """What neighbours are ranked by: the similarity and a little popularity."""


@dataclass(frozen=True)
class SimilarMovies(Answer):
    """The neighbours of a movie; none where no version knows it."""

    movie_id: Annotated[str, Field(examples=["172"])]
    title: Annotated[str, Field(examples=["Alien"])]
    model_version: Annotated[int | None, Field(examples=[7])]
    """The version that ranked; None before the first."""
    items: list[SimilarMovie]
    """Nearest first."""


def similar(session: Session, loaded: LoadedVersion | None, movie_id: str, query: ListQuery) -> SimilarMovies:
    """The neighbours of a movie by the active version;

    `NotFound` for an unknown movie.
    """
    movie = movies.get(session, movie_id)
    version = None if loaded is None else loaded.version
    column = -1 if loaded is None else int(loaded.model.vocabulary.columns([movie_id])[0])
    if loaded is None or column < 0:
        return SimilarMovies(movie_id, movie.title, version, [])
    model = loaded.model
    near = neighbours(model, column)
    choice = Choice.of(session, model, query, SeenMovies.of(session, None))
    choice.allowed[column] = False
    columns = ordered(near.score, query.limit, choice.allowed, choice.preferred)
    movie_ids = [model.vocabulary.movie_ids[neighbour] for neighbour in columns]
    cards = cards_of(session, movie_ids)
    items = [
        SimilarMovie(
            rank=rank,
            **card_fields(cards, neighbour_id),
            similarity=float(near.similarity[neighbour]),
            score=float(near.score[neighbour]),
        )
        for rank, (neighbour, neighbour_id) in enumerate(
            zip(columns.tolist(), movie_ids, strict=True), start=1
        )
    ]
    return SimilarMovies(movie_id, movie.title, version, items)

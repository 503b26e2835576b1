"""What to ask a user next, with titles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import Field
from sqlalchemy.orm import Session

from app.catalogue.cards import cards_of
from app.learning.inference.questions import questions
from app.model_versions.serving import LoadedVersion
from app.ratings import read
from app.recommendations import rating_input
from app.recommendations.lists import NamedMovie, card_fields
from app.recommendations.rating_input import Stars
from app.storage.answers import Answer


@dataclass(frozen=True)
class QuestionMovie(NamedMovie):
    """A movie to ask about; without a version the numbers are None."""

    information: Annotated[float | None, Field(examples=[1.9])] = None
    """Expected change of the entropy of the hidden units by the answer, in nats."""
    seen_probability: Annotated[float | None, Field(examples=[0.61])] = None
    """P(the user has seen it, and so has an answer)."""
    like_probability: Annotated[float | None, Field(examples=[0.84])] = None
    """P(the answer is a like, if there is one)."""


@dataclass(frozen=True)
class QuestionList(Answer):
    """The movies to ask a user about next."""

    user_id: Annotated[str | None, Field(examples=["42"])]
    """Who is asked; None for ratings in a request."""
    model_version: Annotated[int | None, Field(examples=[7])]
    """The version that chose; None before the first: then these are the movies with the
    most ratings."""
    items: list[QuestionMovie] = field(default_factory=list)
    """Best question first."""


def ask(
    session: Session,
    loaded: LoadedVersion | None,
    stars: Stars,
    *,
    limit: int,
    exclude: Sequence[str] = (),
    user_id: str | None = None,
) -> QuestionList:
    """The movies to ask about next, none of them rated or excluded.

    Before the first version these are the movies with the most ratings, which most
    users can answer.
    """
    if loaded is None:
        hidden = {*stars, *exclude}
        popular = [movie_id for movie_id, _ in read.most_rated(session) if movie_id not in hidden][:limit]
        cards = cards_of(session, popular)
        return QuestionList(user_id, None, [QuestionMovie(**card_fields(cards, movie)) for movie in popular])
    model = loaded.model
    row = rating_input.rows_of(model, [stars]).rows
    allowed = np.ones(model.n_movies, np.bool_)
    excluded = model.vocabulary.columns(exclude)
    allowed[excluded[excluded >= 0]] = False
    best = questions(model, loaded.popularity_prior, row, limit=limit, allowed=allowed)
    movie_ids = [model.vocabulary.movie_ids[question.column] for question in best]
    cards = cards_of(session, movie_ids)
    items = [
        QuestionMovie(
            **card_fields(cards, movie_id),
            information=question.information,
            seen_probability=question.seen_probability,
            like_probability=question.like_probability,
        )
        for movie_id, question in zip(movie_ids, best, strict=True)
    ]
    return QuestionList(user_id, loaded.version, items)

"""One list for several users."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy.orm import Session

from app.catalogue.cards import cards_of
from app.learning.inference.ranking import Scores
from app.model_versions.serving import LoadedVersion
from app.recommendations import rating_input
from app.recommendations.lists import (
    Choice,
    ListQuery,
    NamedMovie,
    Ranked,
    SeenMovies,
    Strategy,
    card_fields,
    most_rated,
    strategy_of,
)
from app.recommendations.rating_input import Stars
from app.storage.answers import Answer

Agreement = Literal["average", "least_misery"]


@dataclass(frozen=True)
class Member:
    """A member of a group: a user, or ratings that are not stored."""

    user_id: str | None = None
    """Whose stored ratings count; None where `stars` do."""
    stars: Stars = field(default_factory=dict)
    """Movie id -> stars."""


@dataclass(frozen=True)
class GroupMember(Answer):
    """How a member's scores were made."""

    user_id: Annotated[str | None, Field(examples=["42"])]
    """The member's id, if there is one."""
    strategy: Strategy
    """How their scores were made, by the number of ratings that could be folded in."""
    ignored_movie_ids: Annotated[list[str], Field(examples=[[]])]
    """Rated movies that the version does not know."""


@dataclass(frozen=True)
class MemberLiking(Answer):
    """How likely a member is to like a movie."""

    user_id: Annotated[str | None, Field(examples=["42"])]
    """The member's id, if there is one."""
    like_probability: Annotated[float | None, Field(examples=[0.93])]
    """None without a version."""


@dataclass(frozen=True)
class GroupMovie(NamedMovie, Ranked):
    """A movie of a group's list."""

    score: Annotated[float, Field(examples=[1.9])]
    """Mean or least of the members' scores, each member's standardised over the movies
    that may be listed; comparable within one list."""
    like_probability: Annotated[float | None, Field(examples=[0.81])]
    """The members' mean, or their least."""
    members: list[MemberLiking]
    """Of each member, in the order of the request."""


@dataclass(frozen=True)
class GroupList(Answer):
    """A ranked list for all members."""

    model_version: Annotated[int | None, Field(examples=[7])]
    """The version that ranked; None before the first."""
    strategy: Agreement
    """How the members' scores were put together."""
    members: list[GroupMember]
    """In the order of the request."""
    items: list[GroupMovie]
    """Best first."""
    next_cursor: Annotated[str | None, Field(examples=["Mg"])] = None
    """Pass it as `cursor` for the movies that follow; None at the end."""


def for_group(
    session: Session,
    loaded: LoadedVersion | None,
    members: Sequence[Member],
    agreement: Agreement,
    query: ListQuery,
) -> GroupList:
    """The list of a group: what suits them on average, or the least pleased best.

    Each member's scores are standardised over the movies that may be listed (mean 0,
    standard deviation 1) before they are put together, so that no member counts for
    more because their scores are spread wider. What any member has rated is left out,
    unless the query includes rated movies.
    """
    user_ids = [member.user_id for member in members]
    stored = rating_input.stored_of_users(session, [user_id for user_id in user_ids if user_id is not None])
    stars_of_all: list[Stars] = [
        member.stars if member.user_id is None else stored[member.user_id] for member in members
    ]
    if loaded is None:
        return _most_rated_for(session, user_ids, stars_of_all, agreement, query)
    model = loaded.model
    inputs = rating_input.rows_of(model, stars_of_all)
    folded = model.fold_in(inputs.rows)
    seen = SeenMovies.of(session, query.cursor)
    choice = Choice.of(session, model, query, seen)
    together = in_agreement(folded.scores(), choice.allowed, agreement)
    columns, more = choice.best(model, together, np.unique(inputs.rows.indices), query)
    probabilities = folded.like_probability(columns)
    of_group = probabilities.mean(axis=0) if agreement == "average" else probabilities.min(axis=0)
    movie_ids = [model.vocabulary.movie_ids[column] for column in columns]
    cards = cards_of(session, movie_ids)
    movies = [
        GroupMovie(
            rank=len(seen.keys) + place + 1,
            **card_fields(cards, movie_id),
            score=float(together[columns[place]]),
            like_probability=float(of_group[place]),
            members=[
                MemberLiking(user_id, probability)
                for user_id, probability in zip(user_ids, probabilities[:, place].tolist(), strict=True)
            ],
        )
        for place, movie_id in enumerate(movie_ids)
    ]
    strategies = [strategy_of(n_ratings) for n_ratings in inputs.rows.lengths.tolist()]
    views = map(GroupMember, user_ids, strategies, inputs.ignored)
    return GroupList(loaded.version, agreement, list(views), movies, seen.next_cursor(movies, cards, more))


def _most_rated_for(
    session: Session,
    user_ids: Sequence[str | None],
    stars_of_all: Sequence[Stars],
    agreement: Agreement,
    query: ListQuery,
) -> GroupList:
    """The most rated movies that no member has rated, where there is no version yet."""
    ((items, next_cursor),) = most_rated(session, [set().union(*stars_of_all)], query)
    likings = [MemberLiking(user_id, None) for user_id in user_ids]
    movies = [
        GroupMovie(
            rank=item.rank,
            movie_id=item.movie_id,
            title=item.title,
            year=item.year,
            genres=item.genres,
            score=item.score,
            like_probability=item.like_probability,
            members=likings,
        )
        for item in items
    ]
    members = [GroupMember(user_id, "popular", []) for user_id in user_ids]
    return GroupList(None, agreement, members, movies, next_cursor)


def in_agreement(scores: Scores, allowed: NDArray[np.bool_], agreement: Agreement) -> NDArray[np.float32]:
    """One score a movie from those of all members.

    Args:
        scores: shape (n_members, n_movies).
        allowed: shape (n_movies,); what each member's scores are standardised over.

    Returns:
        float32 of shape (n_movies,): the mean or the least of the standardised scores.
    """
    among = scores[:, allowed] if allowed.any() else scores
    deviation = among.std(axis=1, keepdims=True)
    standard = (scores - among.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)
    together = standard.mean(axis=0) if agreement == "average" else standard.min(axis=0)
    result: NDArray[np.float32] = together.astype(np.float32, copy=False)
    return result

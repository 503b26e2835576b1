"""One list for several people."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app import catalogue
from app.learning.ranking import Scores
from app.model_registry import Serving
from app.recommendations import profiles
from app.recommendations.lists import Choice, RankedMovie, Shown, Wanted, most_rated, ranked_movie
from app.recommendations.profiles import Stars, Strategy

Agreement = Literal["average", "least_misery"]


@dataclass(frozen=True)
class Member:
    """Somebody in a group: a user with stored ratings, or given ratings (movie id -> stars)."""

    user_id: str | None = None
    stars: Stars = field(default_factory=dict)


@dataclass(frozen=True)
class MemberView:
    """Who was asked, and how their scores were made."""

    user_id: str | None
    strategy: Strategy
    ignored_movie_ids: list[str]


@dataclass(frozen=True)
class Liking:
    """How likely one member is to like a movie; None without a version."""

    user_id: str | None
    like_probability: float | None


@dataclass(frozen=True)
class GroupMovie(RankedMovie):
    """A movie of a group's list; `like_probability` is the members' mean or least, as the group agrees."""

    members: list[Liking] = field(default_factory=list)

    @classmethod
    def of(cls, movie: RankedMovie, members: list[Liking]) -> "GroupMovie":
        return cls(**{one.name: getattr(movie, one.name) for one in fields(movie)}, members=members)


@dataclass(frozen=True)
class GroupList:
    """Movies for all; `next_cursor` is None at the end."""

    model_version: int | None
    strategy: Agreement
    members: list[MemberView]
    items: list[GroupMovie]
    next_cursor: str | None = None


def for_group(
    session: Session,
    serving: Serving | None,
    members: Sequence[Member],
    agreement: Agreement,
    wanted: Wanted,
) -> GroupList:
    """The list of a group: what suits them on average, or what the least pleased of them likes best.

    Each member's scores are standardised over the movies that may be listed (mean 0, standard deviation 1)
    before they are put together, so that nobody counts for more because their scores are spread wider. What
    anybody has rated is left out, unless rated movies are wanted.
    """
    stored = profiles.of_users(session, [one.user_id for one in members if one.user_id is not None])
    people: list[Stars] = [one.stars if one.user_id is None else stored[one.user_id] for one in members]
    if serving is None:
        ((items, next_cursor),) = most_rated(session, [set().union(*people)], wanted)
        return GroupList(
            None,
            agreement,
            [MemberView(one.user_id, "popular", []) for one in members],
            [GroupMovie.of(item, [Liking(one.user_id, None) for one in members]) for item in items],
            next_cursor,
        )
    machines = serving.machines
    folded = profiles.folded(machines, people)
    shown = Shown.by(session, wanted.cursor)
    choice = Choice.of(session, machines, wanted, shown)
    rated = np.unique(folded.rows.indices)
    together = in_agreement(machines.blended_scores(folded.rows), choice.allowed, agreement)
    columns, more = choice.best(machines, together, rated, wanted)
    probabilities = machines.like_probability(folded.rows, columns)
    of_group = probabilities.mean(axis=0) if agreement == "average" else probabilities.min(axis=0)
    movie_ids = [machines.vocabulary.movie_ids[column] for column in columns]
    movies = catalogue.cards(session, movie_ids)
    items = [
        ranked_movie(
            len(shown.keys) + place + 1,
            movie_id,
            movies.get(movie_id),
            float(together[columns[place]]),
            float(of_group[place]),
        )
        for place, movie_id in enumerate(movie_ids)
    ]
    return GroupList(
        serving.version,
        agreement,
        [
            MemberView(one.user_id, strategy, ignored)
            for one, strategy, ignored in zip(members, folded.strategies, folded.ignored, strict=True)
        ],
        [
            GroupMovie.of(
                item,
                [Liking(one.user_id, probability) for one, probability in zip(members, of_all, strict=True)],
            )
            for item, of_all in zip(items, probabilities.T.tolist(), strict=True)
        ],
        shown.next_cursor(items, movies, more),
    )


def in_agreement(scores: Scores, allowed: NDArray[np.bool_], agreement: Agreement) -> NDArray[np.float32]:
    """One score a movie from everybody's.

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

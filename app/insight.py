"""What is known of a user, with titles: the taste that tells them from others, and what to ask them next."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app import catalogue, ratings
from app.catalogue import MovieCard
from app.learning.questions import questions
from app.learning.taste import Trait, labelling_columns, traits
from app.model_registry import Serving
from app.recommendations import profiles

LABELS = 20  # movies of a trait that its genres are counted in
SHOWN_MOVIES = 5
SHOWN_GENRES = 3
LEAST_OF_GENRE = 3  # movies among the labels
LEAST_SURPRISE = 2.0  # standard deviations above what chance would give


@dataclass(frozen=True)
class TraitMovie:
    """A movie that a trait speaks for; `effect` is how much it raises the score above the mean movie's."""

    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    effect: float


@dataclass(frozen=True)
class TraitGenre:
    """A genre that is more frequent among a trait's movies than among all that are well known."""

    genre: str
    share: float
    usual_share: float


@dataclass(frozen=True)
class LabelledTrait:
    """One hidden unit of a user (`learning.taste.Trait`), labelled."""

    unit: int
    activity: float
    usual_activity: float
    stability: float
    movies: list[TraitMovie]
    genres: list[TraitGenre]


@dataclass(frozen=True)
class Taste:
    """Clearest trait first; empty where nothing stable tells the user from others."""

    user_id: str
    model_version: int | None
    n_ratings: int
    items: list[LabelledTrait] = field(default_factory=list)


@dataclass(frozen=True)
class QuestionMovie:
    """A movie to ask about (`learning.questions.Question`); without a version the numbers are None."""

    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    information: float | None = None
    seen_probability: float | None = None
    like_probability: float | None = None


@dataclass(frozen=True)
class QuestionList:
    """Best question first."""

    user_id: str | None
    model_version: int | None
    items: list[QuestionMovie] = field(default_factory=list)


def taste(
    session: Session, serving: Serving | None, user_id: str, stars: Mapping[str, float], *, limit: int
) -> Taste:
    """What tells this user from others, by these ratings (movie id -> stars)."""
    if serving is None:
        return Taste(user_id, None, 0)
    machines = serving.machines
    row = profiles.folded(machines, [stars]).rows
    found = traits(machines, serving.crowd, row, limit=limit, n_movies_each=LABELS)
    if not found:
        return Taste(user_id, serving.version, row.n_ratings)
    movie_ids = machines.vocabulary.movie_ids
    well_known = [movie_ids[column] for column in labelling_columns(machines).tolist()]
    cards = catalogue.cards(session, well_known)
    usual = _genre_counts(cards, well_known)
    items = [_labelled(one, movie_ids, cards, usual, len(well_known)) for one in found]
    return Taste(user_id, serving.version, row.n_ratings, items)


def ask(
    session: Session,
    serving: Serving | None,
    stars: Mapping[str, float],
    *,
    limit: int,
    exclude: Sequence[str] = (),
    user_id: str | None = None,
) -> QuestionList:
    """The movies to ask about next, after these ratings; never what is rated or excluded.

    Before the first version these are the movies with the most ratings, which most people can answer.
    """
    if serving is None:
        hidden = {*stars, *exclude}
        popular = [movie_id for movie_id, _ in ratings.most_rated(session) if movie_id not in hidden][:limit]
        cards = catalogue.cards(session, popular)
        return QuestionList(user_id, None, [QuestionMovie(**_card(cards, one)) for one in popular])
    machines = serving.machines
    row = profiles.folded(machines, [stars]).rows
    allowed = np.ones(machines.n_movies, np.bool_)
    excluded = machines.vocabulary.columns(exclude)
    allowed[excluded[excluded >= 0]] = False
    found = questions(machines, serving.crowd, row, limit=limit, allowed=allowed)
    chosen = [machines.vocabulary.movie_ids[one.column] for one in found]
    cards = catalogue.cards(session, chosen)
    items = [
        QuestionMovie(
            **_card(cards, movie_id),
            information=one.information,
            seen_probability=one.seen_probability,
            like_probability=one.like_probability,
        )
        for movie_id, one in zip(chosen, found, strict=True)
    ]
    return QuestionList(user_id, serving.version, items)


def _labelled(
    trait: Trait,
    movie_ids: Sequence[str],
    cards: Mapping[str, MovieCard],
    usual: Counter[str],
    n_well_known: int,
) -> LabelledTrait:
    labels = [movie_ids[column] for column in trait.columns.tolist()]
    return LabelledTrait(
        unit=trait.unit,
        activity=trait.activity,
        usual_activity=trait.usual_activity,
        stability=trait.stability,
        movies=[
            TraitMovie(**_card(cards, movie_id), effect=effect)
            for movie_id, effect in zip(
                labels[:SHOWN_MOVIES], trait.effects[:SHOWN_MOVIES].tolist(), strict=True
            )
        ],
        genres=_telling_genres(_genre_counts(cards, labels), len(labels), usual, n_well_known),
    )


def _telling_genres(
    counts: Counter[str], n_labels: int, usual: Counter[str], n_well_known: int
) -> list[TraitGenre]:
    """Genres that the labels have more of than chance would give, most surprising first."""
    found: list[tuple[float, TraitGenre]] = []
    for genre, n in counts.items():
        usual_share = usual[genre] / n_well_known
        deviation = math.sqrt(n_labels * usual_share * (1 - usual_share))
        surprise = (n - n_labels * usual_share) / deviation if deviation else 0.0
        if n >= LEAST_OF_GENRE and surprise >= LEAST_SURPRISE:
            found.append((surprise, TraitGenre(genre, n / n_labels, usual_share)))
    found.sort(key=lambda one: (-one[0], one[1].genre))
    return [one for _, one in found[:SHOWN_GENRES]]


def _genre_counts(cards: Mapping[str, MovieCard], movie_ids: Sequence[str]) -> Counter[str]:
    return Counter(genre for movie_id in movie_ids if movie_id in cards for genre in cards[movie_id].genres)


def _card(cards: Mapping[str, MovieCard], movie_id: str) -> dict[str, Any]:
    card = cards.get(movie_id) or MovieCard(0, movie_id, "", None, [])
    return {"movie_id": card.movie_id, "title": card.title, "year": card.year, "genres": card.genres}

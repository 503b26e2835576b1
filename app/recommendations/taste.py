"""What distinguishes a user, with titles and genres."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from sqlalchemy.orm import Session

from app.catalogue.cards import MovieCard, cards_of
from app.learning.inference.taste import Trait, labelling_columns, traits
from app.model_versions.serving import LoadedVersion
from app.recommendations import rating_input
from app.recommendations.lists import NamedMovie, card_fields
from app.recommendations.rating_input import Stars
from app.storage.answers import Answer

LABELS = 20  # movies of a trait that its genres are counted in
MOST_MOVIES = 5  # of a trait in an answer
MOST_GENRES = 3
LEAST_OF_GENRE = 3  # movies among the labels
LEAST_SURPRISE = 2.0  # standard deviations above what chance would give


@dataclass(frozen=True)
class TraitMovie(NamedMovie):
    """A movie that a trait speaks for."""

    effect: Annotated[float, Field(examples=[0.47])]
    """How much the trait raises the movie's score above the mean movie's."""


@dataclass(frozen=True)
class TraitGenre(Answer):
    """A genre that is more frequent among a trait's movies than among known ones."""

    genre: Annotated[str, Field(examples=["Sci-Fi"])]
    share: Annotated[float, Field(examples=[0.55])]
    """Of the trait's twenty strongest movies that have it."""
    usual_share: Annotated[float, Field(examples=[0.07])]
    """Of the well-known movies that have it."""


@dataclass(frozen=True)
class LabelledTrait(Answer):
    """A hidden unit whose activity differs from that of users with as many ratings."""

    unit: Annotated[int, Field(examples=[118])]
    """Its number, which means something within one version only."""
    activity: Annotated[float, Field(examples=[0.92])]
    """Of this user, 0 to 1."""
    usual_activity: Annotated[float, Field(examples=[0.31])]
    """Mean of raters without a taste who have rated as much."""
    stability: Annotated[float, Field(examples=[1.0])]
    """How often the difference stays when a third of the ratings is left out; at least
    0.9."""
    movies: list[TraitMovie]
    """The movies that the trait speaks for, strongest first."""
    genres: list[TraitGenre]
    """More frequent among these movies than elsewhere, most surprising first; may be
    empty."""


@dataclass(frozen=True)
class Taste(Answer):
    """What distinguishes a user from others."""

    user_id: Annotated[str, Field(examples=["42"])]
    model_version: Annotated[int | None, Field(examples=[7])]
    """The version that this is by; None before the first."""
    n_ratings: Annotated[int, Field(examples=[31])]
    """Ratings that could be folded in."""
    items: list[LabelledTrait] = field(default_factory=list)
    """Clearest trait first; empty where nothing stable distinguishes the user."""


def taste(session: Session, loaded: LoadedVersion | None, user_id: str, stars: Stars, *, limit: int) -> Taste:
    """What distinguishes this user, by these ratings (movie id -> stars)."""
    if loaded is None:
        return Taste(user_id, None, 0)
    model = loaded.model
    row = rating_input.rows_of(model, [stars]).rows
    clearest = traits(model, loaded.popularity_prior, row, limit=limit, n_movies_each=LABELS)
    if not clearest:
        return Taste(user_id, loaded.version, row.n_ratings)
    movie_ids = model.vocabulary.movie_ids
    well_known = [movie_ids[column] for column in labelling_columns(model).tolist()]
    cards = cards_of(session, well_known)
    usual = _genre_counts(cards, well_known)
    items = [_labelled(trait, movie_ids, cards, usual, len(well_known)) for trait in clearest]
    return Taste(user_id, loaded.version, row.n_ratings, items)


def _labelled(
    trait: Trait,
    movie_ids: Sequence[str],
    cards: Mapping[str, MovieCard],
    usual: Counter[str],
    n_well_known: int,
) -> LabelledTrait:
    labels = [movie_ids[column] for column in trait.columns.tolist()]
    strongest = zip(labels[:MOST_MOVIES], trait.effects[:MOST_MOVIES].tolist(), strict=True)
    return LabelledTrait(
        unit=trait.unit,
        activity=trait.activity,
        usual_activity=trait.usual_activity,
        stability=trait.stability,
        movies=[TraitMovie(**card_fields(cards, movie_id), effect=effect) for movie_id, effect in strongest],
        genres=_frequent_genres(_genre_counts(cards, labels), len(labels), usual, n_well_known),
    )


def _frequent_genres(
    counts: Counter[str], n_labels: int, usual: Counter[str], n_well_known: int
) -> list[TraitGenre]:
    """Genres that are more frequent among the labels than chance would give."""
    surprises: list[tuple[float, TraitGenre]] = []
    for genre, n in counts.items():
        usual_share = usual[genre] / n_well_known
        deviation = math.sqrt(n_labels * usual_share * (1 - usual_share))
        surprise = (n - n_labels * usual_share) / deviation if deviation else 0.0
        if n >= LEAST_OF_GENRE and surprise >= LEAST_SURPRISE:
            surprises.append((surprise, TraitGenre(genre, n / n_labels, usual_share)))
    surprises.sort(key=lambda pair: (-pair[0], pair[1].genre))
    return [genre for _, genre in surprises[:MOST_GENRES]]


def _genre_counts(cards: Mapping[str, MovieCard], movie_ids: Sequence[str]) -> Counter[str]:
    return Counter(genre for movie_id in movie_ids if movie_id in cards for genre in cards[movie_id].genres)

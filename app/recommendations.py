"""From a user, or from given ratings, to ranked movies.

Ratings are folded into the hidden layer on every request, so a rating counts at once and nothing is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from app import catalogue, ratings
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import LITTLE_EVIDENCE, top
from app.model_registry import Serving

Strategy = Literal["rbm", "blended", "popular"]


@dataclass(frozen=True)
class Wanted:
    """What a list should hold.

    Attributes:
        limit: movies at most.
        exclude: ids of movies to leave out.
        genre, year_from, year_to: only movies that pass; filtered before ranking, so the list is still full.
        include_rated: rank rated movies too.
    """

    limit: int = 10
    exclude: Sequence[str] = ()
    genre: str | None = None
    year_from: int | None = None
    year_to: int | None = None
    include_rated: bool = False

    @property
    def filters(self) -> bool:
        return not (self.genre is None and self.year_from is None and self.year_to is None)


@dataclass(frozen=True)
class RankedMovie:
    """`score` ranks, within one version; without any version it is the number of ratings."""

    rank: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    score: float
    like_probability: float | None


@dataclass(frozen=True)
class RecommendationList:
    """Ranked movies, the version that ranked them and how."""

    user_id: str | None
    model_version: int | None
    strategy: Strategy
    ignored_movie_ids: list[str] = field(default_factory=list)
    items: list[RankedMovie] = field(default_factory=list)


@dataclass(frozen=True)
class Prediction:
    """`like_probability` is None for a movie that the version does not know."""

    movie_id: str
    like_probability: float | None


def for_user(session: Session, serving: Serving | None, user_id: str, wanted: Wanted) -> RecommendationList:
    """The list of a user by the ratings stored at this moment; an unknown user gets the popular movies."""
    stored = {one.movie_id: one.stars for one in ratings.of_user(session, user_id)}
    return for_ratings(session, serving, stored, wanted, user_id=user_id)


def for_ratings(
    session: Session,
    serving: Serving | None,
    stars: Mapping[str, float],
    wanted: Wanted,
    *,
    user_id: str | None = None,
) -> RecommendationList:
    """The list that these ratings (movie id -> stars) give rise to. Nothing is stored."""
    if serving is None:
        return _most_rated(session, stars, wanted, user_id)
    machines = serving.machines
    row, known, ignored = _folded_row(machines, stars)
    # Blended with popularity, the less the more is known; what has no rating at all is popularity alone.
    scores = machines.blended_scores(row)[0]
    strategy: Strategy = "rbm"
    if row.n_ratings < LITTLE_EVIDENCE:
        strategy = "blended" if row.n_ratings else "popular"

    columns = top(scores, wanted.limit, _allowed(session, machines, known, wanted))
    probabilities = machines.like_probability(row, columns)[0]
    movie_ids = [machines.vocabulary.movie_ids[column] for column in columns]
    return RecommendationList(
        user_id=user_id,
        model_version=serving.version,
        strategy=strategy,
        ignored_movie_ids=ignored,
        items=_items(session, movie_ids, scores[columns].tolist(), probabilities.tolist()),
    )


def popular(session: Session, serving: Serving | None, wanted: Wanted) -> RecommendationList:
    """What anybody gets of whom nothing is known."""
    return for_ratings(session, serving, {}, wanted)


def predictions_for_user(
    session: Session, serving: Serving | None, user_id: str, movie_ids: Sequence[str]
) -> list[Prediction]:
    """How likely a user is to like each movie, given that they watch and rate it."""
    stored = {one.movie_id: one.stars for one in ratings.of_user(session, user_id)}
    return predictions(serving, stored, movie_ids)


def predictions(
    serving: Serving | None, stars: Mapping[str, float], movie_ids: Sequence[str]
) -> list[Prediction]:
    """The same for given ratings (movie id -> stars)."""
    if serving is None:
        return [Prediction(movie_id, None) for movie_id in movie_ids]
    machines = serving.machines
    row, _, _ = _folded_row(machines, stars)
    columns = machines.vocabulary.columns(movie_ids)
    known = columns >= 0
    probabilities = np.full(len(movie_ids), np.nan)
    probabilities[known] = machines.like_probability(row, columns[known])[0]
    return [
        Prediction(movie_id, None if np.isnan(probability) else float(probability))
        for movie_id, probability in zip(movie_ids, probabilities, strict=True)
    ]


def _folded_row(
    machines: Machines, stars: Mapping[str, float]
) -> tuple[RatingRows, NDArray[np.int64], list[str]]:
    """The ratings as a row over the vocabulary, its columns, and the ids that the vocabulary lacks."""
    movie_ids = list(stars)
    columns = machines.vocabulary.columns(movie_ids)
    inside = columns >= 0
    values = np.fromiter(stars.values(), dtype=np.float32, count=len(stars))
    row = RatingRows.single(columns[inside], values[inside], machines.n_movies)
    ignored = [movie_id for movie_id, known in zip(movie_ids, inside, strict=True) if not known]
    return row, columns[inside], ignored


def _allowed(
    session: Session, machines: Machines, rated: NDArray[np.int64], wanted: Wanted
) -> NDArray[np.bool_]:
    """Which columns may be shown: bool of shape (n_movies,)."""
    if wanted.filters:
        allowed = np.zeros(machines.n_movies, dtype=bool)
        passing = catalogue.matching_ids(
            session, genre=wanted.genre, year_from=wanted.year_from, year_to=wanted.year_to
        )
        columns = machines.vocabulary.columns(passing)
        allowed[columns[columns >= 0]] = True
    else:
        allowed = np.ones(machines.n_movies, dtype=bool)
    if not wanted.include_rated:
        allowed[rated] = False
    excluded = machines.vocabulary.columns(wanted.exclude)
    allowed[excluded[excluded >= 0]] = False
    return allowed


def _most_rated(
    session: Session, stars: Mapping[str, float], wanted: Wanted, user_id: str | None
) -> RecommendationList:
    """The fallback before the first version: the movies with the most ratings."""
    hidden = set(wanted.exclude) if wanted.include_rated else {*wanted.exclude, *stars}
    passing = None
    if wanted.filters:
        passing = set(
            catalogue.matching_ids(
                session, genre=wanted.genre, year_from=wanted.year_from, year_to=wanted.year_to
            )
        )
    shown = [
        (movie_id, float(n))
        for movie_id, n in ratings.most_rated(session)
        if movie_id not in hidden and (passing is None or movie_id in passing)
    ][: wanted.limit]
    return RecommendationList(
        user_id=user_id,
        model_version=None,
        strategy="popular",
        ignored_movie_ids=[],
        items=_items(
            session, [movie_id for movie_id, _ in shown], [n for _, n in shown], [None] * len(shown)
        ),
    )


def _items(
    session: Session,
    movie_ids: Sequence[str],
    scores: Sequence[float],
    probabilities: Sequence[float | None],
) -> list[RankedMovie]:
    movies = catalogue.of_ids(session, movie_ids)
    items = []
    for rank, (movie_id, score, probability) in enumerate(
        zip(movie_ids, scores, probabilities, strict=True), start=1
    ):
        movie = movies.get(movie_id)
        items.append(
            RankedMovie(
                rank=rank,
                movie_id=movie_id,
                title=movie.title if movie else "",
                year=movie.year if movie else None,
                genres=movie.genres if movie else [],
                score=score,
                like_probability=probability,
            )
        )
    return items

"""How likely somebody is to like given movies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from app.model_registry import Serving
from app.recommendations import profiles


@dataclass(frozen=True)
class Prediction:
    """`like_probability` is None for a movie that the version does not know."""

    movie_id: str
    like_probability: float | None


def predictions_for_user(
    session: Session, serving: Serving | None, user_id: str, movie_ids: Sequence[str]
) -> list[Prediction]:
    """How likely a user is to like each movie, given that they watch and rate it."""
    return predictions(serving, profiles.of_user(session, user_id), movie_ids)


def predictions(
    serving: Serving | None, stars: Mapping[str, float], movie_ids: Sequence[str]
) -> list[Prediction]:
    """The same for given ratings (movie id -> stars)."""
    if serving is None:
        return [Prediction(movie_id, None) for movie_id in movie_ids]
    machines = serving.machines
    rows = profiles.folded(machines, [stars]).rows
    columns = machines.vocabulary.columns(movie_ids)
    known = columns >= 0
    probabilities = np.full(len(movie_ids), np.nan)
    probabilities[known] = machines.like_probability(rows, columns[known])[0]
    return [
        Prediction(movie_id, None if np.isnan(probability) else float(probability))
        for movie_id, probability in zip(movie_ids, probabilities, strict=True)
    ]

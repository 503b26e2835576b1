"""How likely a user is to like certain movies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from app.model_versions.serving import LoadedVersion
from app.recommendations import rating_input
from app.storage.answers import Answer


@dataclass(frozen=True)
class Prediction(Answer):
    """How likely a user is to like a movie that they watch and rate."""

    movie_id: Annotated[str, Field(examples=["172"])]
    like_probability: Annotated[float | None, Field(examples=[0.91])]
    """None for a movie that the version does not know."""


@dataclass(frozen=True)
class PredictionList(Answer):
    """How likely a user is to like each of some movies."""

    model_version: Annotated[int | None, Field(examples=[7])]
    """The version that predicted; None before the first."""
    items: list[Prediction]
    """In the order of the request."""


def predictions(
    loaded: LoadedVersion | None, stars: Mapping[str, float], movie_ids: Sequence[str]
) -> PredictionList:
    """Predictions by ratings (movie id -> stars), in the order of `movie_ids`."""
    if loaded is None:
        return PredictionList(None, [Prediction(movie_id, None) for movie_id in movie_ids])
    model = loaded.model
    rows = rating_input.rows_of(model, [stars]).rows
    columns = model.vocabulary.columns(movie_ids)
    is_known = columns >= 0
    probabilities = np.full(len(movie_ids), np.nan)
    probabilities[is_known] = model.like_probability(rows, columns[is_known])[0]
    items = [
        Prediction(movie_id, None if np.isnan(probability) else probability)
        for movie_id, probability in zip(movie_ids, probabilities.tolist(), strict=True)
    ]
    return PredictionList(loaded.version, items)

"""The methods that an evaluation compares: the trained model, then the baselines."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.evaluation import implicit_als
from app.learning.evaluation.baselines import (
    EASE,
    EASE_MEMORY_LIMIT,
    BiasedFactorisation,
    ItemNeighbours,
    LikeBiases,
    Popularity,
    Sum,
    TooManyMovies,
)
from app.learning.evaluation.quality import LikeModel
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.training import costs

Scores = Callable[[RatingRows], NDArray[np.float32]]


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Attributes:
        name: of the row.
        scores: ranks movies: rating rows -> scores of shape (n_users, n_movies).
        like_model: gives like_probability.
        skipped: why the method was left out.
    """

    name: str
    scores: Scores | None = None
    like_model: LikeModel | None = None
    skipped: str | None = None


def methods(
    model: TrainedModel, rows: RatingRows, liked_at_least: float, relevant_at_least: float, seed: int
) -> Iterator[Method]:
    """The model and its baselines; each baseline is fitted when its turn comes.

    Args:
        model: trained with `rows`.
        rows: training ratings.
        liked_at_least: stars of a liked movie.
        relevant_at_least: stars of a relevant movie.
        seed: of the baselines.
    """
    yield Method("machine", model.scores, model)
    yield Method("plain RBM", model.plain_scores)
    yield Method("popularity", Popularity(rows).scores)
    yield Method("item neighbours", ItemNeighbours(rows).scores)
    yield from _ease(rows, relevant_at_least)
    if implicit_als.missing is None:
        yield Method("implicit ALS", implicit_als.ImplicitALS(rows, seed=seed).scores)
    else:
        yield Method("implicit ALS", skipped=implicit_als.missing)
    rng = np.random.default_rng([seed, 2])
    yield Method("biases", like_model=LikeBiases(rows, liked_at_least=liked_at_least, rng=rng))
    yield Method(
        "factorisation", like_model=BiasedFactorisation(rows, liked_at_least=liked_at_least, rng=rng)
    )


def _ease(rows: RatingRows, relevant_at_least: float) -> Iterator[Method]:
    memory = min(EASE_MEMORY_LIMIT, spare_memory())
    try:
        rated = EASE(rows, memory_limit=memory)
        liked = EASE(rows, liked_at_least=relevant_at_least, memory_limit=memory)
    except (TooManyMovies, MemoryError) as error:
        for name in ("EASE rated", "EASE liked", "EASE summed"):
            yield Method(name, skipped=str(error) or "EASE does not fit into memory")
        return
    yield Method("EASE rated", rated.scores)
    yield Method("EASE liked", liked.scores)
    yield Method("EASE summed", Sum([rated, liked]).scores)


def spare_memory() -> int:
    """Bytes that this process may take: three quarters of the free memory, if known."""
    free = costs.free_memory()
    return sys.maxsize if free is None else free // 4 * 3

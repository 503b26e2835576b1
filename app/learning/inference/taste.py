"""What distinguishes a user: hidden units far from their usual activity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.learning.inference.popularity_prior import PopularityPrior, rng_of
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel

LEAST_DIFFERENCE = 0.15  # from the usual activity; a probability
LEAST_STABILITY = 0.9
DROPPED = 1 / 3  # of the ratings, in each replicate
REPLICATES = 60
IMAGINED = 200  # raters whose mean activity is the usual one
LONGEST_IMAGINED = 300  # ratings of each
LABELLING_MOVIES = 2_000  # the most popular ones; no user recognises a taste by the others


@dataclass(frozen=True, eq=False)
class Trait:
    """One hidden unit of a user.

    Attributes:
        unit: its number, among the binary units of the model.
        activity: of this user, 0 to 1.
        usual_activity: mean of raters without a taste who have rated as much.
        stability: share of the replicates, a third of the ratings dropped from each, in
            which the activity stays on the same side of the usual one and at least half
            as far from it.
        columns: movies that a user gets more of by this, strongest first.
        effects: float32 in the same shape; how much the trait raises each one's score
            above the mean movie's, shrunk where few have rated it.
    """

    unit: int
    activity: float
    usual_activity: float
    stability: float
    columns: NDArray[np.int64]
    effects: NDArray[np.float32]


def traits(
    model: TrainedModel, popularity_prior: PopularityPrior, row: RatingRows, *, limit: int, n_movies_each: int
) -> list[Trait]:
    """The stable hidden units that distinguish this user, clearest first; often none.

    A unit's sign has no meaning of its own: what is off with negative weights speaks
    for the same movies as what is on with positive ones. So a trait is labelled in the
    direction in which this user differs.

    Args:
        model: what ranks.
        popularity_prior: of the same model.
        row: one user's ratings.
        limit: traits at most.
        n_movies_each: labelling movies of each, at most.
    """
    if row.n_ratings == 0:
        return []
    rng = rng_of(row.indices, row.stars)
    length = min(row.n_ratings, max(1, row.n_movies // 2), LONGEST_IMAGINED)
    usual = model.fold_in(popularity_prior.rows(rng, IMAGINED, length)).hidden.mean(axis=0)
    activity = model.fold_in(row).hidden[0]
    difference = activity - usual
    stability = _stability(model, row, usual, difference, rng)
    is_trait = (np.abs(difference) >= LEAST_DIFFERENCE) & (stability >= LEAST_STABILITY)
    units = np.flatnonzero(is_trait)
    units = units[np.argsort(-np.abs(difference[units]), kind="stable")][:limit]
    if not units.size:
        return []
    columns, effects = _effects(model, units, np.sign(difference[units]), usual)
    result = []
    for unit, of_unit in zip(units.tolist(), effects, strict=True):
        strongest = np.argsort(-of_unit, kind="stable")[:n_movies_each]
        strongest = strongest[of_unit[strongest] > 0]
        result.append(
            Trait(
                unit=unit,
                activity=float(activity[unit]),
                usual_activity=float(usual[unit]),
                stability=float(stability[unit]),
                columns=columns[strongest],
                effects=of_unit[strongest],
            )
        )
    return result


def labelling_columns(model: TrainedModel) -> NDArray[np.int64]:
    """The movies that may label a trait, most popular first."""
    order = np.argsort(-model.popularity, kind="stable")
    return order[:LABELLING_MOVIES]


def _stability(
    model: TrainedModel,
    row: RatingRows,
    usual: NDArray[np.floating],
    difference: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Of each unit, shape (n_hidden,)."""
    replicated = row.rows(np.zeros(REPLICATES, np.int64))
    replicated = replicated.where(rng.random(replicated.n_ratings) >= DROPPED)
    without = model.fold_in(replicated).hidden - usual
    kept = without * np.sign(difference) >= np.abs(difference) / 2
    result: NDArray[np.float64] = kept.mean(axis=0)
    return result


def _effects(
    model: TrainedModel,
    units: NDArray[np.int64],
    direction: NDArray[np.floating],
    usual: NDArray[np.floating],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The labelling columns, and each unit's effects there, (n_units, n_columns)."""
    columns = labelling_columns(model)
    states = np.repeat(usual[None, :].astype(np.float32), 2 * units.size, axis=0)
    states[np.arange(units.size), units] = 1.0
    states[np.arange(units.size) + units.size, units] = 0.0
    scores = model.binary_scores(states, columns)
    effects = (scores[: units.size] - scores[units.size :]) * direction[:, None]
    popularity = model.popularity[columns].astype(np.float64)
    weight = popularity / max(popularity.sum(), 1.0)
    effects -= (effects @ weight)[:, None]
    effects *= popularity / (popularity + max(popularity.mean(), 1.0))
    return columns, effects.astype(np.float32)

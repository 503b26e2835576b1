"""What tells a user from others: hidden units far from their usual activity, and what they speak for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.learning.crowd import Crowd, rng_of
from app.learning.machines import Machines
from app.learning.preferences import RatingRows

LEAST_DIFFERENCE = 0.15  # from the usual activity; a probability
LEAST_STABILITY = 0.9
DROPPED = 1 / 3  # of the ratings, in each replicate
REPLICATES = 60
IMAGINED = 200  # raters whose mean activity is the usual one
LONGEST_IMAGINED = 300  # ratings of each
LABELLING_MOVIES = 2_000  # the most popular ones; nobody recognises a taste by the others


@dataclass(frozen=True, eq=False)
class Trait:
    """One hidden unit of a user.

    Attributes:
        unit: its number, over all the machines of the version.
        activity: of this user, 0 to 1.
        usual_activity: mean of raters without a taste who have rated as much.
        stability: share of the replicates, a third of the ratings dropped from each, in which the activity
            stays on the same side of the usual one and at least half as far from it.
        columns: movies that a user gets more of by this, strongest first.
        effects: float32 in the same shape; how much the trait raises each one's score above the mean
            movie's, shrunk where few have rated it.
    """

    unit: int
    activity: float
    usual_activity: float
    stability: float
    columns: NDArray[np.int64]
    effects: NDArray[np.float32]


def traits(
    machines: Machines, crowd: Crowd, row: RatingRows, *, limit: int, n_movies_each: int
) -> list[Trait]:
    """The stable hidden units that tell this user most clearly from others, clearest first; often none.

    A unit's sign has no meaning of its own: what is off with negative weights speaks for the same movies as
    what is on with positive ones. So a trait is labelled in the direction in which this user differs.

    Args:
        machines: what ranks.
        crowd: of the same version.
        row: one user's ratings.
        limit: traits at most.
        n_movies_each: labelling movies of each, at most.
    """
    if row.n_ratings == 0:
        return []
    rng = rng_of(row.indices, row.stars)
    length = min(row.n_ratings, max(1, row.n_movies // 2), LONGEST_IMAGINED)
    usual = machines.fold_in(crowd.rows(rng, IMAGINED, length)).mean(axis=0)
    activity = machines.fold_in(row)[0]
    difference = activity - usual
    stability = _stability(machines, row, usual, difference, rng)
    telling = (np.abs(difference) >= LEAST_DIFFERENCE) & (stability >= LEAST_STABILITY)
    units = np.flatnonzero(telling)
    units = units[np.argsort(-np.abs(difference[units]), kind="stable")][:limit]
    if not units.size:
        return []
    columns, effects = _effects(machines, units, np.sign(difference[units]), usual)
    found = []
    for unit, of_unit in zip(units.tolist(), effects, strict=True):
        strongest = np.argsort(-of_unit, kind="stable")[:n_movies_each]
        strongest = strongest[of_unit[strongest] > 0]
        found.append(
            Trait(
                unit=unit,
                activity=float(activity[unit]),
                usual_activity=float(usual[unit]),
                stability=float(stability[unit]),
                columns=columns[strongest],
                effects=of_unit[strongest],
            )
        )
    return found


def labelling_columns(machines: Machines) -> NDArray[np.int64]:
    """The movies that may label a trait, most popular first."""
    order = np.argsort(-machines.popularity, kind="stable")
    return order[:LABELLING_MOVIES]


def _stability(
    machines: Machines,
    row: RatingRows,
    usual: NDArray[np.floating],
    difference: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Of each unit, shape (n_hidden,)."""
    replicated = row.rows(np.zeros(REPLICATES, np.int64))
    replicated = replicated.where(rng.random(replicated.n_ratings) >= DROPPED)
    without = machines.fold_in(replicated) - usual
    kept = without * np.sign(difference) >= np.abs(difference) / 2
    result: NDArray[np.float64] = kept.mean(axis=0)
    return result


def _effects(
    machines: Machines,
    units: NDArray[np.int64],
    direction: NDArray[np.floating],
    usual: NDArray[np.floating],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The labelling movies' columns, and what each unit does to their scores: (n_units, n_columns)."""
    columns = labelling_columns(machines)
    states = np.repeat(usual[None, :].astype(np.float32), 2 * units.size, axis=0)
    states[np.arange(units.size), units] = 1.0
    states[np.arange(units.size) + units.size, units] = 0.0
    scores = machines.scores_of(states, columns)
    effects = (scores[: units.size] - scores[units.size :]) * direction[:, None]
    popularity = machines.popularity[columns].astype(np.float64)
    weight = popularity / max(popularity.sum(), 1.0)
    effects -= (effects @ weight)[:, None]
    effects *= popularity / (popularity + max(popularity.mean(), 1.0))
    return columns, effects.astype(np.float32)

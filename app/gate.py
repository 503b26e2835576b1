"""The gate: the comparison that a new version must win to become active by itself.

Reserved users, whom no version was trained with, are folded in with half of their ratings; the full catalogue
is ranked, and the other half is looked for. Users are compared in pairs, so that easy and hard ones do not
blur the difference. How honest `like_probability` is to them is measured in passing, and decides nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.learning import splitting
from app.learning.baselines import Popularity
from app.learning.evaluation import Judged, list_quality, ranked_lists
from app.learning.machines import Machines
from app.learning.metrics import normal_interval
from app.learning.preferences import RatingRows
from app.learning.ranking import Scores
from app.learning.vocabulary import Vocabulary

# Reserved users below which a comparison says nothing.
LEAST_USERS = 30
RANKS = 10  # that count

Outcome = Literal["activated", "candidate", "not_evaluated"]


@dataclass(frozen=True)
class Active:
    """The version to compare with.

    Attributes:
        version: its number.
        machines: what it scores with.
        trained_user_keys: int64, ascending; reserved users among them would flatter it.
    """

    version: int
    machines: Machines
    trained_user_keys: NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """What the gate says.

    Attributes:
        outcome: `activated`, `candidate` (it did not win, and waits), or `not_evaluated` (too few reserved
            users; it becomes active).
        words: the same with the figures, for people.
        figures: JSON-safe: `n_users`, and nDCG@10 *any* and *relevant* of the new version, of popularity and
            of the active version, with the mean paired difference to each and its 95 % interval;
            `like_probability` of the new version over the ratings that were looked for: AUC, Brier score,
            calibration error and the bins of its reliability curve.
    """

    outcome: Outcome
    words: str
    figures: dict[str, Any]

    @property
    def activates(self) -> bool:
        return self.outcome != "candidate"


def verdict_on(
    machines: Machines,
    training_rows: RatingRows,
    reserved_rows: RatingRows,
    reserved_user_keys: NDArray[np.int64],
    *,
    active: Active | None,
    relevant_at_least: float,
    seed: int,
) -> Verdict:
    """Compare new machines with popularity and with the active version.

    It wins if its nDCG@10 (*relevant*) is above popularity's and the interval of its difference to the active
    version does not lie wholly below zero.

    Args:
        machines: the new version's.
        training_rows: what it was trained with, over its vocabulary; popularity is counted in it.
        reserved_rows: the reserved users, over the same vocabulary.
        reserved_user_keys: int64 of shape (n_reserved,), in the order of the rows.
        seed: of the split into halves.
    """
    enough = np.flatnonzero(reserved_rows.lengths >= 2)
    given, test = splitting.given(reserved_rows.rows(enough), np.random.default_rng(seed), None)
    if given.n_users < LEAST_USERS:
        words = f"not evaluated: {given.n_users} reserved users are fewer than {LEAST_USERS}; activated"
        return Verdict("not_evaluated", words, {"state": "not_evaluated", "n_users": given.n_users})

    own = _Ndcg.of(machines.blended_scores, given, test, relevant_at_least)
    popular = _Ndcg.of(Popularity(training_rows).scores, given, test, relevant_at_least)
    figures: dict[str, Any] = {
        "state": "evaluated",
        "n_users": given.n_users,
        "relevant_at_least": relevant_at_least,
        "machine": own.means(),
        "popularity": popular.means() | {"difference": own.minus(popular)},
        "like_probability": _honesty(machines, given, test, relevant_at_least),
    }
    wins = own.mean > popular.mean
    against = f"popularity {popular.mean:.3f}"
    if active is not None:
        unseen = ~np.isin(reserved_user_keys[enough], active.trained_user_keys)
        if unseen.sum() < LEAST_USERS:
            against += f", not compared with version {active.version}, which knows most of these users"
        else:
            chosen = np.flatnonzero(unseen)
            scores = translated(active.machines, machines.vocabulary)
            old = _Ndcg.of(scores, given.rows(chosen), test.rows(chosen), relevant_at_least)
            difference = own.of_users(chosen).minus(old)
            figures["active"] = old.means() | {"version": active.version, "difference": difference}
            wins = wins and not (difference["high"] is not None and difference["high"] < 0)
            against = f"{old.mean:.3f} of active version {active.version}, {against}"
    outcome: Outcome = "activated" if wins else "candidate"
    words = (
        f"nDCG@10 {own.mean:.3f} against {against} (stars >= {relevant_at_least:g}, {given.n_users} reserved "
        f"users); {'activated' if wins else 'stays a candidate'}"
    )
    return Verdict(outcome, words, figures)


def _honesty(
    machines: Machines, given: RatingRows, test: RatingRows, relevant_at_least: float
) -> dict[str, Any]:
    """What like_probability says of the ratings looked for, beside what they were; JSON-safe."""
    judged = Judged.of(
        machines,
        given,
        test,
        liked_at_least=machines.liked_at_least,
        relevant_at_least=relevant_at_least,
    )
    curve = judged.reliability()
    bins = zip(curve.predicted.tolist(), curve.observed.tolist(), curve.n.tolist(), strict=True)
    return {
        "liked_at_least": machines.liked_at_least,
        "n_ratings": test.n_ratings,
        **{name: _finite(value) for name, value in judged.figures().items()},
        "reliability": [
            {"predicted": predicted, "observed": observed, "n": n} for predicted, observed, n in bins
        ],
    }


def translated(machines: Machines, vocabulary: Vocabulary) -> Callable[[RatingRows], Scores]:
    """Scores of machines in the columns of another vocabulary; movies that they do not know rank last."""
    own = machines.vocabulary.columns(vocabulary.movie_ids)
    known = own >= 0

    def scores(rows: RatingRows) -> Scores:
        kept = rows.where(known[rows.indices])
        theirs = RatingRows.from_coordinates(
            kept.users, own[kept.indices], kept.stars, n_users=rows.n_users, n_movies=machines.n_movies
        )
        result = np.full((rows.n_users, len(vocabulary)), -np.inf, dtype=np.float32)
        result[:, known] = machines.blended_scores(theirs)[:, own[known]]
        return result

    return scores


@dataclass(frozen=True)
class _Ndcg:
    """nDCG@10 of each user, NaN where nothing could be found: float64 of shape (n_users,)."""

    any: NDArray[np.float64]
    relevant: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        scores: Callable[[RatingRows], Scores],
        given: RatingRows,
        test: RatingRows,
        relevant_at_least: float,
    ) -> "_Ndcg":
        ranked = ranked_lists(scores, given, RANKS)
        return cls(
            any=list_quality(ranked, test, k=RANKS).ndcg,
            relevant=list_quality(ranked, test, relevant_at_least=relevant_at_least, k=RANKS).ndcg,
        )

    @property
    def mean(self) -> float:
        return normal_interval(self.relevant).mean

    def of_users(self, chosen: Sequence[int] | NDArray[np.int64]) -> "_Ndcg":
        return _Ndcg(self.any[chosen], self.relevant[chosen])

    def means(self) -> dict[str, float | None]:
        return {
            name: _finite(normal_interval(values).mean)
            for name, values in (("any", self.any), ("relevant", self.relevant))
        }

    def minus(self, other: "_Ndcg") -> dict[str, float | None]:
        """The mean difference of *relevant*, user by user, with its 95 % interval."""
        found = normal_interval(self.relevant - other.relevant)
        return {"mean": _finite(found.mean), "low": _finite(found.low), "high": _finite(found.high)}


def _finite(value: float) -> float | None:
    """JSON has no NaN: a mean over nobody is null."""
    return value if math.isfinite(value) else None

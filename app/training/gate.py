"""The gate: the comparison that a new version must win to become active by itself.

Reserved users, whom no version was trained with, are folded in with half of their
ratings; the full catalogue is ranked, and the other half is looked for. Differences are
taken user by user, so that easy and hard users do not blur them. The calibration of
`like_probability` is measured in passing, and decides nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.learning.evaluation import splitting
from app.learning.evaluation.baselines import Popularity
from app.learning.evaluation.metrics import normal_interval
from app.learning.evaluation.quality import LikePredictions, list_quality, ranked_lists
from app.learning.inference.ranking import Scores
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary

LEAST_USERS = 30  # reserved users, below which a comparison says nothing
RANKS = 10  # places of a list that count

Outcome = Literal["activated", "candidate", "not_evaluated"]


@dataclass(frozen=True)
class Active:
    """The active version, to compare with."""

    version: int
    model: TrainedModel
    trained_user_keys: NDArray[np.int64]
    """Ascending; reserved users among them would flatter it."""


@dataclass(frozen=True)
class Verdict:
    """What the gate decides."""

    outcome: Outcome
    """`activated`, `candidate` (did not win) or `not_evaluated` (too few reserved
    users; becomes active)."""
    words: str
    """The outcome with the figures, for people."""
    figures: dict[str, Any]
    """JSON-safe: `n_users`; nDCG@10 *any* and *relevant* of the new version
    (`machine`), of popularity and of the active version, with the mean paired
    difference to each and its 95 % interval; `like_probability` of the new version over
    the ratings held out: AUC, Brier score, calibration error and reliability curve."""

    @property
    def activates(self) -> bool:
        return self.outcome != "candidate"


def verdict_on(
    model: TrainedModel,
    training_rows: RatingRows,
    reserved_rows: RatingRows,
    reserved_user_keys: NDArray[np.int64],
    *,
    active: Active | None,
    relevant_at_least: float,
    seed: int,
) -> Verdict:
    """Compare a new version with popularity and with the active version.

    It wins if its nDCG@10 (*relevant*) is above popularity's and the interval of its
    difference to the active version does not lie wholly below zero.

    Args:
        model: the new version's.
        training_rows: the ratings that it was trained with, over its vocabulary;
            popularity counts them.
        reserved_rows: the reserved users, over the same vocabulary.
        reserved_user_keys: int64 of shape (n_reserved,), in the order of the rows.
        seed: of the split into halves.
    """
    enough = np.flatnonzero(reserved_rows.lengths >= 2)
    profile, test = splitting.profiles(reserved_rows.rows(enough), np.random.default_rng(seed), None)
    if profile.n_users < LEAST_USERS:
        words = f"not evaluated: {profile.n_users} reserved users are fewer than {LEAST_USERS}; activated"
        return Verdict("not_evaluated", words, {"state": "not_evaluated", "n_users": profile.n_users})

    own = _Ndcg.of(model.scores, profile, test, relevant_at_least)
    popular = _Ndcg.of(Popularity(training_rows).scores, profile, test, relevant_at_least)
    figures: dict[str, Any] = {
        "state": "evaluated",
        "n_users": profile.n_users,
        "relevant_at_least": relevant_at_least,
        "machine": own.means(),
        "popularity": popular.means() | {"difference": own.minus(popular)},
        "like_probability": _calibration(model, profile, test, relevant_at_least),
    }
    wins = own.mean > popular.mean
    against = f"popularity {popular.mean:.3f}"
    if active is not None:
        unseen = ~np.isin(reserved_user_keys[enough], active.trained_user_keys)
        if unseen.sum() < LEAST_USERS:
            against += f", not compared with version {active.version}, which knows most of these users"
        else:
            chosen = np.flatnonzero(unseen)
            scores = translated(active.model, model.vocabulary)
            old = _Ndcg.of(scores, profile.rows(chosen), test.rows(chosen), relevant_at_least)
            difference = own.of_users(chosen).minus(old)
            figures["active"] = old.means() | {"version": active.version, "difference": difference}
            wins = wins and not (difference["high"] is not None and difference["high"] < 0)
            against = f"{old.mean:.3f} of active version {active.version}, {against}"
    outcome: Outcome = "activated" if wins else "candidate"
    words = (
        f"nDCG@10 {own.mean:.3f} against {against} (stars >= {relevant_at_least:g}, "
        f"{profile.n_users} reserved users); {'activated' if wins else 'stays a candidate'}"
    )
    return Verdict(outcome, words, figures)


def _calibration(
    model: TrainedModel, profile: RatingRows, test: RatingRows, relevant_at_least: float
) -> dict[str, Any]:
    """How well `like_probability` agrees with the held-out ratings; JSON-safe."""
    predictions = LikePredictions.of(
        model,
        profile,
        test,
        liked_at_least=model.liked_at_least,
        relevant_at_least=relevant_at_least,
    )
    curve = predictions.reliability()
    bins = zip(curve.predicted, curve.came_true, curve.n, strict=True)
    return {
        "liked_at_least": model.liked_at_least,
        "n_ratings": test.n_ratings,
        **{name: _finite(value) for name, value in predictions.figures().items()},
        "reliability": [
            {"predicted": predicted, "observed": observed, "n": n} for predicted, observed, n in bins
        ],
    }


def translated(model: TrainedModel, vocabulary: Vocabulary) -> Callable[[RatingRows], Scores]:
    """A model's scores in another vocabulary's columns; unknown movies rank last."""
    own = model.vocabulary.columns(vocabulary.movie_ids)
    known = own >= 0

    def scores(rows: RatingRows) -> Scores:
        kept = rows.where(known[rows.indices])
        theirs = RatingRows.from_coordinates(
            kept.users, own[kept.indices], kept.stars, n_users=rows.n_users, n_movies=model.n_movies
        )
        result = np.full((rows.n_users, len(vocabulary)), -np.inf, dtype=np.float32)
        result[:, known] = model.scores(theirs)[:, own[known]]
        return result

    return scores


@dataclass(frozen=True)
class _Ndcg:
    """nDCG@10 of each user, NaN without a held-out rating: float64 (n_users,)."""

    any: NDArray[np.float64]
    relevant: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        scores: Callable[[RatingRows], Scores],
        profile: RatingRows,
        test: RatingRows,
        relevant_at_least: float,
    ) -> "_Ndcg":
        ranked = ranked_lists(scores, profile, RANKS)
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
        interval = normal_interval(self.relevant - other.relevant)
        return {name: _finite(getattr(interval, name)) for name in ("mean", "low", "high")}


def _finite(value: float) -> float | None:
    """JSON has no NaN: a mean over no users is null."""
    return value if math.isfinite(value) else None

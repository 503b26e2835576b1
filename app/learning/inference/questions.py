"""Questions to a user: the movies whose answer tells most of the hidden units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from app.learning.inference.popularity_prior import PopularityPrior
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import FoldedIn, TrainedModel

CANDIDATES = 200  # movies looked at closely: the likeliest to have been seen
SEEN_POWER = 4  # of P(seen) in what questions are ordered by
LARGEST_CHANGE = 4.0  # of the log-odds of having seen a movie, by what a user has rated


@dataclass(frozen=True)
class Question:
    """A movie to ask about.

    Attributes:
        column: of the movie.
        information: expected change of the entropy of the hidden units by the answer,
            in nats.
        seen_probability: that the user has seen it, and so has an answer.
        like_probability: that the answer, if there is one, is a like.
    """

    column: int
    information: float
    seen_probability: float
    like_probability: float


def questions(
    model: TrainedModel,
    popularity_prior: PopularityPrior,
    row: RatingRows,
    *,
    limit: int,
    allowed: NDArray[np.bool_] | None = None,
    candidates: int = CANDIDATES,
) -> list[Question]:
    """The movies to ask about next, best first.

    For each candidate both answers are folded in. The state before the question is the
    mean of all answers to all candidates, weighted by how likely they are: it already
    holds that one rating more is there, which by itself scales the fold-in of all
    others. A candidate's part of the expected change of the hidden units' entropy, from
    that mean to the state after the answer, then is

        P(seen) · [ P(like) KL(liked state || mean)
                    + P(dislike) KL(disliked state || mean) ]

    with KL of independent units. A movie that was never seen tells nothing, so
    questions are put in order with P(seen) to the fourth power in all: measured, lists
    are better the surer an answer comes, up to there (docs/benchmarks.md). After the
    first, each next question is discounted by how much it would move the same hidden
    units.

    Args:
        model: what ranks.
        popularity_prior: of the same model.
        row: the ratings of one user; an empty row is allowed.
        limit: questions at most.
        allowed: shape (n_movies,); False where not to ask. Rated movies are never in
            again.
        candidates: movies looked at closely.
    """
    possible = np.ones(row.n_movies, np.bool_) if allowed is None else allowed.copy()
    possible[row.indices] = False
    columns = np.flatnonzero(possible & (model.popularity > 0))
    if not columns.size or limit < 1:
        return []
    # Close looks go to movies that many know; the others cost too much and have no
    # answer.
    most = np.argsort(-model.popularity[columns], kind="stable")[: max(candidates, limit)]
    columns = columns[most]
    folded = model.fold_in(row)
    seen = _seen_probability(folded, columns)
    like = _like_probability(folded, popularity_prior, columns)
    after = model.fold_in(_with_answers(popularity_prior, row, columns)).hidden
    liked, disliked = after[: columns.size], after[columns.size :]
    mean = like[:, None] * liked + (1 - like[:, None]) * disliked
    before = (seen @ mean) / seen.sum()
    information = seen * (like * _divergence(liked, before) + (1 - like) * _divergence(disliked, before))
    order = _apart(seen ** (SEEN_POWER - 1) * information, mean - before, limit)
    return [
        Question(int(columns[place]), float(information[place]), float(seen[place]), float(like[place]))
        for place in order
    ]


def _seen_probability(folded: FoldedIn, columns: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Probability of being rated: all users' share, moved by the score's difference.

    The difference is to the popularity prior's score.
    """
    model = folded.model
    share = np.clip((model.popularity[columns] + 0.5) / (model.n_users + 1.0), 1e-6, 1 - 1e-6)
    scores = folded.scores(columns, of_watching=True)[0]
    change = (scores - model.popularity_scores[columns]).astype(float)
    if model.configuration.design != "rated":
        change /= 2  # there a score is the sum of two logarithms, of being rated and of being liked
    result: NDArray[np.float64] = expit(logit(share) + np.clip(change, -LARGEST_CHANGE, LARGEST_CHANGE))
    return result


def _like_probability(
    folded: FoldedIn, popularity_prior: PopularityPrior, columns: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """P(stars reach the ranking threshold): the prior's, moved by the like model."""
    empty = folded.model.fold_in(RatingRows.single([], [], folded.model.n_movies))
    of_user, of_average = (
        logit(np.clip(state.like_probability(columns)[0].astype(np.float64), 1e-6, 1 - 1e-6))
        for state in (folded, empty)
    )
    result: NDArray[np.float64] = expit(logit(popularity_prior.like_share[columns]) + of_user - of_average)
    return result


def _with_answers(
    popularity_prior: PopularityPrior, row: RatingRows, columns: NDArray[np.integer[Any]]
) -> RatingRows:
    """The row with each candidate liked, then with each disliked: 2 m rows."""
    n, m = row.n_ratings, columns.size
    answered = np.empty((2 * m, n + 1), np.int64)
    answered[:, :n] = row.indices
    answered[:, n] = np.tile(columns, 2)
    stars = np.empty((2 * m, n + 1), np.float32)
    stars[:, :n] = row.stars
    stars[:m, n] = popularity_prior.liked_stars
    stars[m:, n] = popularity_prior.disliked_stars
    order = np.argsort(answered, axis=1, kind="stable")
    return RatingRows(
        np.arange(0, answered.size + 1, n + 1),
        np.take_along_axis(answered, order, axis=1).ravel().astype(np.int32),
        np.take_along_axis(stars, order, axis=1).ravel(),
        row.n_movies,
    )


def _divergence(after: NDArray[np.floating[Any]], before: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """KL(after

    before) summed over units, in nats: (n, n_hidden), (n_hidden,) to (n,).
    """
    p, q = (np.clip(state.astype(np.float64), 1e-6, 1 - 1e-6) for state in (after, before))
    result: NDArray[np.float64] = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1)
    return result


def _apart(worth: NDArray[np.float64], direction: NDArray[np.floating[Any]], limit: int) -> list[int]:
    """Greedily the best, each discounted by its likeness to those chosen before."""
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    unit = np.divide(direction, length, out=np.zeros_like(direction), where=length > 0)
    left = worth.copy()
    chosen: list[int] = []
    for _ in range(min(limit, worth.size)):
        best = int(np.argmax(left))
        chosen.append(best)
        likeness = np.abs(unit @ unit[best])
        left = np.minimum(left, worth * (1 - likeness**2))
        left[chosen] = -np.inf
    return chosen

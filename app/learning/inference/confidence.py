"""How well a movie's score is supported by the user's and by the movie's ratings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.inference.popularity_prior import PopularityPrior, distinct_rows, rng_of
from app.learning.inference.ranking import Scores
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel

MEMBERS = 8  # of the ensemble; twice as many move a confidence by a few hundredths and cost twice as much
LONGEST_MEMBER = 64  # ratings of each, so that long profiles cost no more
COMPARED = 100  # best scores whose spread is the measure


def confidence(
    model: TrainedModel,
    popularity_prior: PopularityPrior,
    row: RatingRows,
    scores: Scores,
    columns: NDArray[np.integer[Any]],
) -> NDArray[np.float32]:
    """From 0 to 1: the share of the best scores' spread that is not uncertainty.

    It is S / (S + U + M), as in the reliability of a test:

    - S, the variance of this user's 100 best scores: how far apart the list's movies
      are at all.
    - U, the mean squared difference between the score and those of an ensemble of
      profiles, drawn as the Bayesian bootstrap draws them (Rubin 1981; with a prior, a
      Dirichlet process: Ferguson 1973): each of n + p ratings is one of the user's n
      with probability n / (n + p), else one of the popularity prior's; p is what
      popularity weighs in the scores, too. Ratings that agree make it small, and so do
      many. Of long profiles 64 ratings are drawn, and the difference is made smaller by
      as much as it is larger for that (the m out of n bootstrap: Bickel, Götze and van
      Zwet 1997).
    - M, the variance of the logarithms of the movie's own counts, 1 / ratings + 1 /
      likes: what a movie's weights and biases could be learned from.

    Equal ratings give equal numbers: the random numbers come from the row itself.

    Args:
        model: what the scores are of.
        popularity_prior: of the same model.
        row: one user's ratings; there may be none.
        scores: of all movies for these ratings, shape (n_movies,).
        columns: m movies in question.

    Returns:
        float32 of shape (m,).
    """
    if len(columns) == 0:
        return np.empty(0, np.float32)
    n_compared = min(COMPARED, scores.size)
    best = np.partition(scores, scores.size - n_compared)[-n_compared:].astype(np.float64)
    best -= best.mean()
    spread = float(best @ best) / n_compared
    length = row.n_ratings + model.configuration.popularity_ratings
    lengths = np.full(MEMBERS, row.n_ratings + round(model.configuration.popularity_ratings))
    members = _ensemble(popularity_prior, row, length, min(int(lengths[0]), LONGEST_MEMBER))
    of_members = model.fold_in(members, lengths).scores(columns)
    difference = (of_members - scores[columns]).astype(np.float64)
    uncertainty = np.einsum("nm,nm->m", difference, difference) / MEMBERS
    uncertainty *= min(1.0, LONGEST_MEMBER / max(length, 1.0))
    uncertainty += 1 / (model.popularity[columns] + 0.5) + 1 / (model.likes[columns] + 0.5)
    result: NDArray[np.float32] = (spread / (spread + uncertainty)).astype(np.float32)
    return result


def _ensemble(popularity_prior: PopularityPrior, row: RatingRows, length: float, n_drawn: int) -> RatingRows:
    """Profiles that this user might as well have had, `MEMBERS` rows.

    A movie drawn twice for one member counts once, by the user's own rating where there
    is one. Members stand for all n + p ratings: that they hold fewer different ones is
    no uncertainty.

    Args:
        popularity_prior: where ratings besides the user's own come from.
        row: one user's n ratings.
        length: n + p.
        n_drawn: ratings of each member.
    """
    rng, n = rng_of(row.indices, row.stars), row.n_ratings
    # A number from 0 to n + p is one of the user's ratings, or beyond n one of the
    # prior's.
    drawn = (rng.random((MEMBERS, n_drawn)) * length).astype(np.int64)
    owners, places = np.nonzero(drawn < n)
    own = drawn[owners, places]
    others = np.nonzero(drawn >= n)[0]
    columns, stars = popularity_prior.draw(rng, (others.size,))
    return distinct_rows(
        np.concatenate([owners, others]),
        np.concatenate([row.indices[own], columns]),
        np.concatenate([row.stars[own], stars]),
        MEMBERS,
        row.n_movies,
    )

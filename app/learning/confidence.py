"""How well the score of a movie is supported, by what a user has told and by what was known of the movie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.crowd import Crowd, distinct_rows, rng_of
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import POPULARITY_RATINGS, Scores

MEMBERS = 8  # of the ensemble; twice as many move a confidence by a few hundredths and cost twice as much
LONGEST_MEMBER = 64  # ratings of each, so that long profiles cost no more
COMPARED = 100  # best scores whose spread is the measure


def confidence(
    machines: Machines,
    crowd: Crowd,
    row: RatingRows,
    scores: Scores,
    columns: NDArray[np.integer[Any]],
) -> NDArray[np.float32]:
    """From 0 to 1: the share of the differences among the best scores that is not uncertainty of this score.

    It is S / (S + U + M), as in the reliability of a test:

    - S, the variance of this user's 100 best scores: how far apart the list's movies are at all.
    - U, the mean squared difference between the score and those of an ensemble of profiles, drawn as the
      Bayesian bootstrap draws them (Rubin 1981; with a prior, a Dirichlet process: Ferguson 1973): each of
      n + 2 ratings is one of the user's n with probability n / (n + 2), else one of the crowd. Two is what
      popularity weighs in the blend, too. Ratings that agree make it small, and so do many. Of long profiles
      64 ratings are drawn, and the difference is made smaller by as much as it is larger for that (the m out
      of n bootstrap: Bickel, Götze and van Zwet 1997).
    - M, the variance of the logarithms of the movie's own counts, 1 / ratings + 1 / likes: what a movie's
      weights and biases could be learned from.

    Equal ratings give equal numbers: the random numbers come from the row itself.

    Args:
        machines: what ranks.
        crowd: of the same version.
        row: one user's ratings; an empty row is allowed.
        scores: the blended scores of all movies for this row, shape (n_movies,).
        columns: m movies in question.

    Returns:
        float32 of shape (m,).
    """
    if len(columns) == 0:
        return np.empty(0, np.float32)
    shown = scores[columns]
    n_compared = min(COMPARED, scores.size)
    best = np.partition(scores, scores.size - n_compared)[-n_compared:].astype(np.float64)
    best -= best.mean()
    spread = float(best @ best) / n_compared
    imagined = machines.blended_scores(_ensemble(crowd, row), columns)
    difference = (imagined - shown).astype(np.float64)
    uncertainty = np.einsum("nm,nm->m", difference, difference) / MEMBERS
    uncertainty *= min(1.0, LONGEST_MEMBER / (row.n_ratings + POPULARITY_RATINGS))
    uncertainty += 1 / (machines.popularity[columns] + 0.5) + 1 / (machines.likes[columns] + 0.5)
    result: NDArray[np.float32] = (spread / (spread + uncertainty)).astype(np.float32)
    return result


def _ensemble(crowd: Crowd, row: RatingRows) -> RatingRows:
    """Profiles that this user might as well have had."""
    rng = rng_of(row)
    n = row.n_ratings
    length = min(n + round(POPULARITY_RATINGS), LONGEST_MEMBER)
    # A number from 0 to n + 2 is one of the user's ratings, or beyond n one of the crowd's.
    drawn = (rng.random((MEMBERS, length)) * (n + POPULARITY_RATINGS)).astype(np.int64)
    of_crowd = drawn >= n
    columns, stars = np.empty(drawn.shape, np.int64), np.empty(drawn.shape, np.float32)
    columns[of_crowd], stars[of_crowd] = crowd.draw(rng, (int(np.count_nonzero(of_crowd)),))
    if n:
        own = ~of_crowd
        chosen = drawn[own]
        columns[own], stars[own] = row.indices[chosen], row.stars[chosen]
    return distinct_rows(columns, stars, row.n_movies)

"""How well the score of a movie is supported, by what a user has told and by what was known of the movie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.crowd import Crowd, rng_of
from app.learning.folded_in import FoldedIn
from app.learning.ranking import Scores

MEMBERS = 8  # of the ensemble; twice as many move a confidence by a few hundredths and cost twice as much
LONGEST_MEMBER = 64  # ratings of each, so that long profiles cost no more
COMPARED = 100  # best scores whose spread is the measure


def confidence(
    folded: FoldedIn,
    crowd: Crowd,
    scores: Scores,
    columns: NDArray[np.integer[Any]],
) -> NDArray[np.float32]:
    """From 0 to 1: the share of the differences among the best scores that is not uncertainty of this score.

    It is S / (S + U + M), as in the reliability of a test:

    - S, the variance of this user's 100 best scores: how far apart the list's movies are at all.
    - U, the mean squared difference between the score and those of an ensemble of profiles, drawn as the
      Bayesian bootstrap draws them (Rubin 1981; with a prior, a Dirichlet process: Ferguson 1973): each of
      n + p ratings is one of the user's n with probability n / (n + p), else one of the crowd; p is what
      popularity weighs in the blend, too. Ratings that agree make it small, and so do many. Of long profiles
      64 ratings are drawn, and the difference is made smaller by as much as it is larger for that (the m out
      of n bootstrap: Bickel, Götze and van Zwet 1997).
    - M, the variance of the logarithms of the movie's own counts, 1 / ratings + 1 / likes: what a movie's
      weights and biases could be learned from.

    Equal ratings give equal numbers: the random numbers come from the row itself.

    Args:
        folded: one user's ratings; there may be none.
        crowd: of the same version.
        scores: the blended scores of all movies for these ratings, shape (n_movies,).
        columns: m movies in question.

    Returns:
        float32 of shape (m,).
    """
    if len(columns) == 0:
        return np.empty(0, np.float32)
    machines, shown = folded.machines, scores[columns]
    n_compared = min(COMPARED, scores.size)
    best = np.partition(scores, scores.size - n_compared)[-n_compared:].astype(np.float64)
    best -= best.mean()
    spread = float(best @ best) / n_compared
    difference = (_imagined(folded, crowd, columns) - shown).astype(np.float64)
    uncertainty = np.einsum("nm,nm->m", difference, difference) / MEMBERS
    uncertainty *= min(
        1.0, LONGEST_MEMBER / max(folded.n_ratings + machines.configuration.popularity_ratings, 1.0)
    )
    uncertainty += 1 / (machines.popularity[columns] + 0.5) + 1 / (machines.likes[columns] + 0.5)
    result: NDArray[np.float32] = (spread / (spread + uncertainty)).astype(np.float32)
    return result


def _imagined(folded: FoldedIn, crowd: Crowd, columns: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """The scores by profiles that this user might as well have had, shape (MEMBERS, m).

    A movie drawn twice for one member counts once, by the user's own rating where there is one. Members stand
    for all n + p ratings: that they hold fewer different ones is no uncertainty.
    """
    rng = rng_of(folded.columns, folded.stars)
    n, machines = folded.n_ratings, folded.machines
    others_weigh = machines.configuration.popularity_ratings
    stand_for = n + round(others_weigh)
    length = min(stand_for, LONGEST_MEMBER)
    # A number from 0 to n + p is one of the user's ratings, or beyond n one of the crowd's.
    drawn = (rng.random((MEMBERS, length)) * (n + others_weigh)).astype(np.int64)
    parts = np.zeros((MEMBERS, n + 1), np.bool_)
    parts[np.arange(MEMBERS)[:, None], np.minimum(drawn, n)] = True
    parts = parts[:, :n]
    members = np.nonzero(drawn >= n)[0].tolist()
    others, stars = crowd.draw(rng, (len(members),))
    # Each of the crowd's belongs to one member. There are too few of them for NumPy to be quicker.
    places = folded.columns.searchsorted(others).tolist()
    of_crowd = np.zeros((MEMBERS, len(members)), np.bool_)
    seen: set[tuple[int, int]] = set()
    for number, (member, column, place) in enumerate(zip(members, others.tolist(), places, strict=True)):
        is_own = place < n and folded.columns[place] == column and parts[member, place]
        if not is_own and (member, column) not in seen:
            of_crowd[member, number] = True
            seen.add((member, column))
    crowd_ratings = FoldedIn.of_ratings(machines, others.astype(np.int32), stars)
    return folded.of_parts(parts, columns, crowd_ratings, of_crowd, as_long_as=stand_for)

"""Visible layers over movies: from preferences to units, and from units to scores."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import Dense, Sparse, log_odds, softplus
from app.learning.rating_matrix import Preferences

LIKED_SHARE = 0.5  # weight of liked beside rated in the popularity scores of the rated design


class VisibleDesign(Protocol):
    """The visible layer of a model over movies."""

    unrated_units_take_part: bool
    """Whether every unit is observed in every row, or only the stored ones."""

    def n_visible(self, n_movies: int) -> int:
        """Number of visible units, in blocks of n_movies."""
        ...

    def units(self, preferences: Preferences) -> Sparse:
        """Visible rows, float32 (n_users, n_visible); a stored 0 is an observed 0."""
        ...

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Log-odds of each unit's mean, (n_visible,): the biases before training."""
        ...

    def scores(self, visible_input: Dense) -> Dense:
        """Scores of shape (n, n_movies) from log-odds of shape (n, n_visible)."""
        ...

    def popularity_scores(
        self, popularity: NDArray[np.int64], likes: NDArray[np.int64], n_users: int
    ) -> NDArray[np.float64]:
        """Scores of movies for a user without ratings, shape (n_movies,).

        Args:
            popularity: ratings of each movie.
            likes: those of them that reach the threshold.
            n_users: users who gave them.
        """
        ...


def _log_shares(n_users: int, *counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sum of the logarithms of the shares that the counts are of all users."""
    result = np.zeros(counts[0].size)
    for count in counts:
        result -= np.log1p(np.exp(-log_odds(count, n_users)))
    return result


class MaskedDesign:
    """One unit a movie, on if liked; unrated units take no part.

    Each user has a model of their own over the movies they rated, all sharing weights
    and biases (Salakhutdinov, Mnih and Hinton, 2007, without the conditional part). The
    score is log P(liked).
    """

    unrated_units_take_part = False

    def n_visible(self, n_movies: int) -> int:
        """One unit a movie."""
        return n_movies

    def units(self, preferences: Preferences) -> Sparse:
        """Stores a 1 where liked and a 0 where not liked."""
        return sp.csr_array(
            (preferences.liked.astype(np.float32), preferences.indices, preferences.indptr),
            shape=(preferences.n_users, preferences.n_movies),
        )

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Log-odds of liked among those who rated the movie."""
        return log_odds(preferences.likes_per_movie(), preferences.ratings_per_movie())

    def scores(self, visible_input: Dense) -> Dense:
        """log P(liked)."""
        return -softplus(-visible_input)

    def popularity_scores(
        self, popularity: NDArray[np.int64], likes: NDArray[np.int64], n_users: int
    ) -> NDArray[np.float64]:
        """log P(rated) + log P(liked): the latter alone favours the obscure."""
        return _log_shares(n_users, popularity, likes)


class RatedDesign:
    """One unit a movie, always observed: on where the movie was rated.

    What people choose to watch says more about them than their stars do. The score is
    the log-odds of rated. In training a rating is a 1; at fold-in it is its weight
    (`StarWeights`), so that a disliked movie does not speak for its kind.
    """

    unrated_units_take_part = True

    def n_visible(self, n_movies: int) -> int:
        """One unit a movie."""
        return n_movies

    def units(self, preferences: Preferences) -> Sparse:
        """Stores ones only."""
        return sp.csr_array(
            (np.ones(preferences.n_ratings, np.float32), preferences.indices, preferences.indptr),
            shape=(preferences.n_users, preferences.n_movies),
        )

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Log-odds of rated among all users."""
        return log_odds(preferences.ratings_per_movie(), preferences.n_users)

    def scores(self, visible_input: Dense) -> Dense:
        """The log-odds themselves."""
        return visible_input

    def popularity_scores(
        self, popularity: NDArray[np.int64], likes: NDArray[np.int64], n_users: int
    ) -> NDArray[np.float64]:
        """Weighted mean of the log-odds of rated and, half as heavily, of liked.

        It ranks better for users without ratings than popularity alone.
        """
        return (log_odds(popularity, n_users) + LIKED_SHARE * log_odds(likes, n_users)) / (1 + LIKED_SHARE)


class JointDesign:
    """Two units a movie, both always observed: rated (j) and liked (n_movies + j).

    (0, 0) is unrated, (1, 0) rated and not liked, (1, 1) liked. What people choose to
    watch says more about them than their stars do, so the score is log P(rated) + log
    P(liked).
    """

    unrated_units_take_part = True

    def n_visible(self, n_movies: int) -> int:
        """Two units a movie."""
        return 2 * n_movies

    def units(self, preferences: Preferences) -> Sparse:
        """Stores ones only: in each row first the rated units, then the liked ones."""
        indptr, indices, liked, n_movies = (
            preferences.indptr,
            preferences.indices,
            preferences.liked,
            preferences.n_movies,
        )
        likes_before = np.concatenate(([0], np.cumsum(liked)))  # of each entry
        likes_before_row = likes_before[indptr]
        row_of = preferences.users
        columns = np.empty(indices.size + likes_before[-1], dtype=np.int32)
        columns[np.arange(indices.size) + likes_before_row[row_of]] = indices
        columns[indptr[row_of[liked] + 1] + likes_before[:-1][liked]] = indices[liked] + n_movies
        return sp.csr_array(
            (np.ones(columns.size, np.float32), columns, indptr + likes_before_row),
            shape=(preferences.n_users, 2 * n_movies),
        )

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Log-odds of rated and of liked among all users."""
        n_on = np.concatenate([preferences.ratings_per_movie(), preferences.likes_per_movie()])
        return log_odds(n_on, preferences.n_users)

    def scores(self, visible_input: Dense) -> Dense:
        """log P(rated) + log P(liked)."""
        log_probability = softplus(-visible_input)
        np.negative(log_probability, out=log_probability)
        n_movies = visible_input.shape[1] // 2
        rated, liked = log_probability[:, :n_movies], log_probability[:, n_movies:]
        rated += liked
        return np.ascontiguousarray(rated)

    def popularity_scores(
        self, popularity: NDArray[np.int64], likes: NDArray[np.int64], n_users: int
    ) -> NDArray[np.float64]:
        """log P(rated) + log P(liked) by the shares of all users."""
        return _log_shares(n_users, popularity, likes)


DESIGNS: dict[str, VisibleDesign] = {
    "rated": RatedDesign(),
    "joint": JointDesign(),
    "masked": MaskedDesign(),
}
"""The designs by the name that `TrainingConfiguration.design` gives them."""

"""How a user's preferences become visible units, and how visible units become a score for each movie."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.preferences import Preferences
from app.learning.rbm import Dense, Sparse, softplus

LIKED_SHARE = 0.5  # weight of liked beside rated where the rated design knows nothing of a user


def log_odds(
    n_on: NDArray[np.integer[Any] | np.floating[Any]], n_rows: int | NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """log(p / (1 - p)) of p = (n_on + 1/2) / (n_rows + 1): of units that are on in n_on of n_rows rows.

    The half row each way keeps a unit that is always on, or never, finite.
    """
    result: NDArray[np.float64] = np.log(n_on + 0.5) - np.log(n_rows - n_on + 0.5)
    return result


class VisibleDesign(Protocol):
    """The visible layer of a machine over movies."""

    unrated_units_take_part: bool
    """Whether every unit is observed in every row; if not, only the units a row stores exist for that row."""

    def n_visible(self, n_movies: int) -> int:
        """Number of visible units: a whole number of them for each movie, in blocks of n_movies."""
        ...

    def n_imagined(self, n_movies: int) -> int:
        """Number of units that the machine predicts; those from there on are conditions, which are given."""
        ...

    def units(self, preferences: Preferences) -> Sparse:
        """The rows of visible units, float32 of shape (n_users, n_visible); a stored 0 is an observed 0."""
        ...

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Visible biases of a machine without weights: log-odds of each unit's mean, shape (n_visible,)."""
        ...

    def scores(self, visible_input: Dense) -> Dense:
        """What movies are ranked by, shape (n, n_movies), from log-odds of shape (n, n_visible)."""
        ...

    def popularity_scores(
        self, popularity: NDArray[np.int64], likes: NDArray[np.int64], n_users: int
    ) -> NDArray[np.float64]:
        """What movies are ranked by when nothing is known of a user, shape (n_movies,).

        Args:
            popularity: ratings of each movie.
            likes: those of them that reach the threshold.
            n_users: how many users gave them.
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

    Each user has a machine of their own over the movies they rated, all sharing weights and biases
    (Salakhutdinov, Mnih and Hinton, 2007, without the conditional part). The score is log P(liked).
    """

    unrated_units_take_part = False

    def n_visible(self, n_movies: int) -> int:
        """One unit a movie."""
        return n_movies

    def n_imagined(self, n_movies: int) -> int:
        """All of them."""
        return self.n_visible(n_movies)

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
        """log P(rated) + log P(liked): P(liked) among raters alone would put the obscure first."""
        return _log_shares(n_users, popularity, likes)


class ConditionalDesign(MaskedDesign):
    """As masked, and which movies were rated conditions the hidden units, whatever they were rated.

    Salakhutdinov, Mnih and Hinton (2007, section 4): P(h_j = 1 | v, r) = sigmoid(c_j + (v W)_j + (r D)_j).
    Unit n_movies + j is r_j: 1 where movie j was rated. It is an input and nothing else, so D simply is the
    second half of the machine's weights, and the second half of its visible biases stays 0.
    """

    def n_visible(self, n_movies: int) -> int:
        """A unit and a condition a movie."""
        return 2 * n_movies

    def n_imagined(self, n_movies: int) -> int:
        """The first half."""
        return n_movies

    def units(self, preferences: Preferences) -> Sparse:
        """In each row first a 1 where liked and a 0 where not liked, then a 1 where rated."""
        liked = super().units(preferences)
        rated = liked.copy()
        rated.data = np.ones_like(liked.data)
        both: Sparse = sp.hstack([liked, rated], format="csr")
        return both

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Log-odds of liked among those who rated the movie, and 0 for the conditions."""
        return np.concatenate([super().initial_bias(preferences), np.zeros(preferences.n_movies)])

    def scores(self, visible_input: Dense) -> Dense:
        """log P(liked)."""
        return super().scores(visible_input[:, : visible_input.shape[1] // 2])


class PositiveDesign:
    """One unit a movie, always observed: on where the stars reach the threshold, off elsewhere.

    With a threshold that every rating reaches, a unit says whether the movie was rated; with a higher one,
    whether it was liked. The score is the log of that probability.
    """

    unrated_units_take_part = True

    def n_visible(self, n_movies: int) -> int:
        """One unit a movie."""
        return n_movies

    def n_imagined(self, n_movies: int) -> int:
        """All of them."""
        return self.n_visible(n_movies)

    def units(self, preferences: Preferences) -> Sparse:
        """Stores ones only."""
        liked = preferences.liked
        likes_before = np.concatenate(([0], np.cumsum(liked)))
        columns = preferences.indices[liked]
        return sp.csr_array(
            (np.ones(columns.size, np.float32), columns, likes_before[preferences.indptr]),
            shape=(preferences.n_users, preferences.n_movies),
        )

    def initial_bias(self, preferences: Preferences) -> NDArray[np.float64]:
        """Log-odds of on among all users."""
        return log_odds(preferences.likes_per_movie(), preferences.n_users)

    def scores(self, visible_input: Dense) -> Dense:
        """log P(on)."""
        return -softplus(-visible_input)

    def popularity_scores(
        self, popularity: NDArray[np.int64], likes: NDArray[np.int64], n_users: int
    ) -> NDArray[np.float64]:
        """log P(on) by the shares of all users."""
        return _log_shares(n_users, likes)


class RatedDesign:
    """One unit a movie, always observed: on where the movie was rated, whatever the stars.

    What people choose to watch says more about them than their stars do. The score is the log-odds of rated.
    In training a rating is a 1; at fold-in it is its grade (`Grading`), so that a disliked movie does not
    speak for its kind.
    """

    unrated_units_take_part = True

    def n_visible(self, n_movies: int) -> int:
        """One unit a movie."""
        return n_movies

    def n_imagined(self, n_movies: int) -> int:
        """All of them."""
        return self.n_visible(n_movies)

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
        """Log-odds of rated, and half as heavily those of liked, by the shares of all users; their mean.

        Who is not known at all is served better by it than by popularity, *any* and *relevant*.
        """
        return (log_odds(popularity, n_users) + LIKED_SHARE * log_odds(likes, n_users)) / (1 + LIKED_SHARE)


class JointDesign:
    """Two units a movie, both always observed: rated (unit j) and liked (unit n_movies + j).

    (0, 0) is unrated, (1, 0) rated and not liked, (1, 1) liked. What people choose to watch says more about
    them than their stars do, so the score is log P(rated) + log P(liked).
    """

    unrated_units_take_part = True

    def n_visible(self, n_movies: int) -> int:
        """Two units a movie."""
        return 2 * n_movies

    def n_imagined(self, n_movies: int) -> int:
        """All of them."""
        return self.n_visible(n_movies)

    def units(self, preferences: Preferences) -> Sparse:
        """Stores ones only: in each row first those of the rated units, then those of the liked ones."""
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
    "positive": PositiveDesign(),
    "conditional": ConditionalDesign(),
}
"""The designs by the name that `TrainingConfiguration.design` gives them."""

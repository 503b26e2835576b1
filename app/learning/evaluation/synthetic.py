"""Synthetic ratings of any shape with realistic long tails, for benchmarks.

Training time depends on how uneven ratings are: a few users rate thousands of movies, a
few movies are rated by half of the users. Uniform random ratings have neither tail, and
flatter every cache.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app.learning.rating_matrix import RatingRows

LENGTH_SPREAD = 1.1  # standard deviation of log(ratings of a user); 1.0 to 1.2 in the MovieLens sets
LEAST_SHARE = 0.12  # a user's least ratings, as a share of the mean: 20 of 166 in ML-1M
LARGEST_SHARE = 0.5  # of the catalogue that one user may rate
ZIPF_EXPONENT = 2.1  # popularity of the movie of rank r is 1 / (r / n_movies + shift) ** ZIPF_EXPONENT
TASTES = 16  # groups of movies; users prefer some groups
LOYALTY = 0.25  # concentration of a user's tastes: smaller means fewer tastes for each user
CELLS_AT_ONCE = 50_000_000  # users x movies worked on at once, a byte each
ROUNDS_BY_TASTE = 6  # of drawing again what was drawn twice; after that any movie will do


def synthetic_ratings(n_users: int, n_movies: int, n_ratings: int, seed: int = 0) -> RatingRows:
    """Seeded ratings with log-normal lengths, Zipf-like popularity and latent tastes.

    Tastes decide both which movies a user rates and with how many stars.

    Args:
        n_users: rows; each has at least one rating.
        n_movies: columns; the rarest may have no rating.
        n_ratings: exactly so many, at least one a user and at most half of all cells.
        seed: of every random choice; equal arguments give equal ratings.

    Returns:
        Whole stars from 1 to 5, about half of them 4 or 5.
    """
    if not n_users <= n_ratings <= LARGEST_SHARE * n_users * n_movies or n_users < 1:
        raise ValueError(
            f"{n_ratings} ratings by {n_users} users of {n_movies} movies: there must be at least one a user "
            "and at most half of all pairs"
        )
    streams = np.random.SeedSequence(seed).spawn(3)
    for_lengths, for_movies, for_users = (np.random.default_rng(stream) for stream in streams)
    lengths = _lengths(n_users, n_movies, n_ratings, for_lengths)
    movies = _Movies(n_movies, for_movies)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    indices, stars = np.empty(n_ratings, np.int32), np.empty(n_ratings, np.float32)
    at_once = max(1, CELLS_AT_ONCE // n_movies)
    for first in range(0, n_users, at_once):
        last = min(first + at_once, n_users)
        entries = slice(indptr[first], indptr[last])
        indices[entries], stars[entries] = movies.rated_by(lengths[first:last], for_users)
    return RatingRows(indptr, indices, stars, n_movies)


def _lengths(n_users: int, n_movies: int, n_ratings: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ratings of each user, which sum to `n_ratings`."""
    mean, most = n_ratings / n_users, int(LARGEST_SHARE * n_movies)
    least = max(1, int(LEAST_SHARE * mean))
    drawn = rng.lognormal(0.0, LENGTH_SPREAD, n_users)
    drawn *= (mean - least) / drawn.mean()
    lengths = np.minimum(least + drawn.astype(np.int64), most)
    while missing := n_ratings - int(lengths.sum()):
        # Rounding and the cap took some away: hand them out, at most one a user and
        # turn.
        open_users = np.flatnonzero(lengths < most)
        chosen = rng.permutation(open_users)[:missing]
        lengths[chosen] += 1
    return lengths


class _Movies:
    """The catalogue: each movie's taste, popularity and quality."""

    def __init__(self, n_movies: int, rng: np.random.Generator) -> None:
        self.n_movies = n_movies
        rank = rng.permutation(n_movies)
        # Wider catalogues have longer tails: this fits ML-100K (shift 0.12) and ML-25M
        # (shift 0.01).
        shift = 0.12 * (1_682 / n_movies) ** 0.7
        popularity = (rank / n_movies + shift) ** -ZIPF_EXPONENT
        self._taste = rank % TASTES  # every taste has its hits and its rarities
        # Popular movies are a little better than the rest.
        self._quality = rng.normal(0.0, 0.4, n_movies) + 0.3 * (1 - 2 * rank / n_movies)
        # The movies by taste; a number t + u, u from 0 to 1, finds a movie of taste t
        # by its popularity.
        self._by_taste = np.argsort(self._taste, kind="stable")
        of_taste = self._taste[self._by_taste]
        total = np.bincount(self._taste, popularity, TASTES)
        share = np.cumsum(popularity[self._by_taste] / total[of_taste])
        self._reach = share / share[-1] * np.unique(of_taste).size
        self.n_tastes = int(np.unique(of_taste).size)

    def rated_by(
        self, lengths: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The movies of a block of users, rising within each, and their stars."""
        n_users = lengths.size
        liking = rng.dirichlet(np.full(self.n_tastes, LOYALTY), n_users) + 0.2 / self.n_tastes
        liking /= liking.sum(axis=1, keepdims=True)
        reach = np.cumsum(liking, axis=1)
        reach /= reach[:, -1:]
        reach += np.arange(n_users)[:, None]
        rated = np.zeros(n_users * self.n_movies, np.bool_)
        missing = lengths.copy()
        turn = 0
        while missing.any():
            users = np.repeat(np.arange(n_users), missing)
            if turn < ROUNDS_BY_TASTE:
                place = np.searchsorted(reach.ravel(), users + rng.random(users.size), side="right")
                taste = np.minimum(place - users * self.n_tastes, self.n_tastes - 1)
                position = np.searchsorted(self._reach, taste + rng.random(users.size), side="right")
                drawn = self._by_taste[np.minimum(position, self.n_movies - 1)]
            else:
                drawn = rng.integers(self.n_movies, size=users.size)
            cells = users * self.n_movies + drawn
            cells = np.unique(cells[~rated[cells]])
            rated[cells] = True
            missing -= np.bincount(cells // self.n_movies, minlength=n_users)
            turn += 1
        users, movies = np.divmod(np.flatnonzero(rated), self.n_movies)
        affinity = np.sqrt(liking[users, self._taste[movies]])
        mood = rng.normal(0.0, 0.4, n_users)[users] + rng.normal(0.0, 0.8, users.size)
        stars = np.rint(3.1 + self._quality[movies] + 1.0 * affinity + mood)
        return movies.astype(np.int32), np.clip(stars, 1, 5).astype(np.float32)

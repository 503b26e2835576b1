"""The training users as a whole: what somebody of whom nothing is known would rate, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.learning.machines import Machines
from app.learning.preferences import RatingRows


@dataclass(frozen=True, eq=False)
class Crowd:
    """Imagined raters without a taste: a movie by its share of all ratings, liked by its share of likes.

    Attributes:
        reach: float64 of shape (n_movies,); cumulated shares of all ratings, the last is 1.
        like_share: float64 of shape (n_movies,); likes among a movie's ratings, leaning on the mean share.
        liked_stars, disliked_stars: half a star above and below every threshold of the version.
    """

    reach: NDArray[np.float64]
    like_share: NDArray[np.float64]
    liked_stars: float
    disliked_stars: float

    @classmethod
    def of(cls, machines: Machines) -> Self:
        """The crowd that a version was trained with."""
        popularity, likes = machines.popularity, machines.likes
        thresholds = [machines.configuration.rank_liked_at_least or machines.liked_at_least]
        thresholds.append(machines.liked_at_least)
        # Half a rating more each keeps movies that nobody rated possible.
        reach = np.cumsum(popularity + 0.5)
        mean = (likes.sum() + 0.5) / (popularity.sum() + 1.0)
        return cls(
            reach=reach / reach[-1],
            like_share=(likes + 2.0 * mean) / (popularity + 2.0),
            liked_stars=max(thresholds) + 0.5,
            disliked_stars=min(thresholds) - 0.5,
        )

    @property
    def n_movies(self) -> int:
        """Number of movies."""
        return self.reach.size

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Independent ratings in the shape asked for: movie columns, and stars."""
        columns = np.searchsorted(self.reach, rng.random(shape), side="right")
        columns = np.minimum(columns, self.n_movies - 1)
        liked = rng.random(shape) < self.like_share[columns]
        return columns, np.where(liked, self.liked_stars, self.disliked_stars).astype(np.float32)

    def rows(self, rng: np.random.Generator, n_users: int, length: int) -> RatingRows:
        """Rows of imagined raters; a movie drawn twice counts once, so they may be a little shorter."""
        columns, stars = self.draw(rng, (n_users, length))
        return distinct_rows(columns, stars, self.n_movies)


def distinct_rows(columns: NDArray[np.int64], stars: NDArray[np.float32], n_movies: int) -> RatingRows:
    """Rows of equally many ratings each, of which only the first of each movie counts.

    Args:
        columns, stars: shape (n_users, length).
        n_movies: number of columns.
    """
    n_users = len(columns)
    starts = np.arange(n_users + 1) * n_movies  # of each row's cells
    cells = (columns + starts[:-1, None]).ravel()
    order = cells.argsort(kind="stable")
    cells = cells[order]
    is_first = np.ones(cells.size, np.bool_)
    np.not_equal(cells[1:], cells[:-1], out=is_first[1:])
    cells = cells[is_first]
    return RatingRows(
        np.searchsorted(cells, starts),
        (cells % n_movies).astype(np.int32),
        stars.ravel()[order[is_first]],
        n_movies,
    )


def rng_of(columns: NDArray[np.int32], stars: NDArray[np.float32]) -> np.random.Generator:
    """Random numbers that belong to a row: equal ratings give equal answers, on any process."""
    digest = hashlib.blake2b(columns.tobytes() + stars.tobytes(), digest_size=16).digest()
    # A key of Philox may be any number; spreading the seed of another generator takes longer than drawing.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))

"""The training users as a whole: what an unknown user would rate, and how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel


@dataclass(frozen=True, eq=False)
class PopularityPrior:
    """Reference profiles without a taste: movies and likes by their overall shares.

    Attributes:
        reach: float64 of shape (n_movies,); cumulated shares of all ratings, the last
            is 1.
        like_share: float64 of shape (n_movies,); likes among a movie's ratings, leaning
            on the mean share.
        liked_stars, disliked_stars: half a star above and below every threshold of the
        version.
    """

    reach: NDArray[np.float64]
    like_share: NDArray[np.float64]
    liked_stars: float
    disliked_stars: float

    @classmethod
    def of(cls, model: TrainedModel) -> Self:
        """The prior by the users that a model was trained with."""
        popularity, likes = model.popularity, model.likes
        thresholds = [model.configuration.rank_liked_at_least or model.liked_at_least]
        thresholds.append(model.liked_at_least)
        # Half a rating more each keeps movies without ratings possible.
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
        """Independent ratings of this shape: movie columns, and stars."""
        columns = np.searchsorted(self.reach, rng.random(shape), side="right")
        columns = np.minimum(columns, self.n_movies - 1)
        liked = rng.random(shape) < self.like_share[columns]
        return columns, np.where(liked, self.liked_stars, self.disliked_stars).astype(np.float32)

    def rows(self, rng: np.random.Generator, n_users: int, length: int) -> RatingRows:
        """Rows of reference profiles; shorter where a movie is drawn twice."""
        columns, stars = self.draw(rng, (n_users, length))
        owners = np.repeat(np.arange(n_users), length)
        return distinct_rows(owners, columns.ravel(), stars.ravel(), n_users, self.n_movies)


def distinct_rows(
    owners: NDArray[np.int64],
    columns: NDArray[np.integer[Any]],
    stars: NDArray[np.float32],
    n_users: int,
    n_movies: int,
) -> RatingRows:
    """Rows of ratings, of which only the first of each row and movie counts.

    Args:
        owners, columns, stars: row, movie column and stars of each rating, shape
        (n_ratings,).
        n_users, n_movies: number of rows and of columns.
    """
    cells = owners * n_movies + columns
    order = cells.argsort(kind="stable")
    cells = cells[order]
    is_first = np.ones(cells.size, np.bool_)
    np.not_equal(cells[1:], cells[:-1], out=is_first[1:])
    cells = cells[is_first]
    return RatingRows.unchecked(
        np.searchsorted(cells, np.arange(n_users + 1) * n_movies),
        (cells % n_movies).astype(np.int32),
        stars[order[is_first]],
        n_movies,
    )


def rng_of(columns: NDArray[np.int32], stars: NDArray[np.float32]) -> np.random.Generator:
    """Random numbers fixed by a row: equal ratings give equal answers anywhere."""
    digest = hashlib.blake2b(columns.tobytes() + stars.tobytes(), digest_size=16).digest()
    # A key of Philox may be any number; spreading the seed of another generator takes
    # longer than drawing.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))

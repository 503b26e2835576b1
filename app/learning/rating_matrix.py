"""Ratings as rows of users, and the preferences that a threshold makes of them.

Both classes store one entry for each rating and nothing where there is none, row after
row ("compressed sparse rows"). They are not SciPy matrices on purpose: there, a stored
0 and an absent entry are equal, while here *not liked* (or a star of 0) and *unrated*
are different facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


class _CompressedRows:
    """Sparse rows: `indptr[u]:indptr[u + 1]` are user u's entries in `indices`."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    n_movies: int

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return self.indptr.size - 1

    @property
    def n_ratings(self) -> int:
        """Number of stored entries."""
        return self.indices.size

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of ratings of each user, shape (n_users,)."""
        return self.indptr[1:] - self.indptr[:-1]  # np.diff takes several times as long for one row

    @property
    def users(self) -> NDArray[np.int64]:
        """The row number of each entry, shape (n_ratings,)."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    def ratings_per_movie(self) -> NDArray[np.int64]:
        """Number of ratings of each movie, shape (n_movies,)."""
        return np.bincount(self.indices, minlength=self.n_movies)

    def _check(self, values: NDArray[np.generic], name: str) -> None:
        if self.indptr.ndim != 1 or self.indptr.size == 0 or self.indptr[0] != 0:
            raise ValueError("indptr must be a vector that starts with 0")
        if (self.lengths < 0).any() or self.indptr[-1] != self.indices.size:
            raise ValueError(f"indptr must rise to the number of entries, {self.indices.size}")
        if values.shape != self.indices.shape or self.indices.ndim != 1:
            raise ValueError(f"indices and {name} must be vectors of equal length")
        if self.indices.size and (self.indices.min() < 0 or self.indices.max() >= self.n_movies):
            raise ValueError(f"a column lies outside 0 to {self.n_movies - 1}")

    def _positions(self, numbers: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The row pointers of the chosen rows, and where their entries lie."""
        numbers = np.asarray(numbers, dtype=np.int64)
        starts, lengths = self.indptr[numbers], self.lengths[numbers]
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        return indptr, np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])


@dataclass(frozen=True, eq=False)
class RatingRows(_CompressedRows):
    """Stars by user and movie.

    A star of 0 or below is as legal as any other finite number.

    Attributes:
        indptr: int64 of shape (n_users + 1,); user u owns the entries
            `indptr[u]:indptr[u + 1]`.
        indices: int32 of shape (n_ratings,); the movie column of each entry, rising
            within a user.
        stars: float32 of shape (n_ratings,).
        n_movies: number of columns, rated or not.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    stars: NDArray[np.float32]
    n_movies: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "indptr", np.asarray(self.indptr, dtype=np.int64))
        object.__setattr__(self, "indices", np.asarray(self.indices, dtype=np.int32))
        object.__setattr__(self, "stars", np.asarray(self.stars, dtype=np.float32))
        self._check(self.stars, "stars")
        if not np.isfinite(self.stars).all():
            raise ValueError("stars must be finite numbers")

    @classmethod
    def from_coordinates(
        cls, users: ArrayLike, movies: ArrayLike, stars: ArrayLike, n_users: int, n_movies: int
    ) -> RatingRows:
        """Rows from one (user, movie, stars) triple a rating, in any order.

        Args:
            users: row numbers, shape (n_ratings,).
            movies: column numbers, shape (n_ratings,).
            stars: shape (n_ratings,).
            n_users: number of rows to make.
            n_movies: number of columns.

        Raises:
            ValueError: a number out of range, or two ratings of one movie by one user.
        """
        users = np.asarray(users, dtype=np.int64)
        movies = np.asarray(movies, dtype=np.int64)
        for numbers, limit, noun in ((users, n_users, "user"), (movies, n_movies, "movie")):
            if numbers.size and (numbers.min() < 0 or numbers.max() >= limit):
                raise ValueError(f"a {noun} number lies outside 0 to {limit - 1}")
        cells = users * n_movies + movies
        order = np.argsort(cells, kind="stable")
        cells = cells[order]
        if (repeated := np.flatnonzero(cells[1:] == cells[:-1])).size:
            user, movie = divmod(int(cells[repeated[0]]), n_movies)
            raise ValueError(f"user {user} rates movie {movie} more than once")
        return cls(
            indptr=np.concatenate(([0], np.cumsum(np.bincount(users, minlength=n_users)))),
            indices=movies[order].astype(np.int32),
            stars=np.asarray(stars, dtype=np.float32)[order],
            n_movies=n_movies,
        )

    @classmethod
    def single(
        cls, columns: Sequence[int] | NDArray[np.integer], stars: ArrayLike, n_movies: int
    ) -> RatingRows:
        """The row of one user: movie columns and their stars, in any order."""
        return cls.from_coordinates(np.zeros(len(columns), np.int64), columns, stars, 1, n_movies)

    @classmethod
    def unchecked(
        cls, indptr: NDArray[np.int64], indices: NDArray[np.int32], stars: NDArray[np.float32], n_movies: int
    ) -> RatingRows:
        """Rows whose parts are known to be right, made without the checks."""
        result = object.__new__(cls)
        parts = {"indptr": indptr, "indices": indices, "stars": stars, "n_movies": n_movies}
        vars(result).update(parts)
        return result

    def rows(self, numbers: ArrayLike) -> RatingRows:
        """The users of these numbers, in their order; a number may be repeated."""
        indptr, positions = self._positions(numbers)
        return RatingRows(indptr, self.indices[positions], self.stars[positions], self.n_movies)

    def where(self, chosen: NDArray[np.bool_]) -> RatingRows:
        """The chosen ratings of all users; `chosen` has shape (n_ratings,)."""
        kept = np.concatenate(([0], np.cumsum(chosen)))
        return RatingRows(kept[self.indptr], self.indices[chosen], self.stars[chosen], self.n_movies)

    def preferences(self, liked_at_least: float) -> Preferences:
        """Liked where stars reach the threshold, not liked below, unrated elsewhere."""
        # The parts are checked already, and checking takes longer than comparing: lists
        # are made of one row.
        result = object.__new__(Preferences)
        liked = self.stars >= np.float32(liked_at_least)
        for name, value in (
            ("indptr", self.indptr),
            ("indices", self.indices),
            ("liked", liked),
            ("n_movies", self.n_movies),
        ):
            object.__setattr__(result, name, value)
        return result


@dataclass(frozen=True, eq=False)
class Preferences(_CompressedRows):
    """Three states by user and movie: liked, not liked, and unrated (not stored).

    Attributes:
        indptr: int64 of shape (n_users + 1,).
        indices: int32 of shape (n_ratings,); the movie column of each entry.
        liked: bool of shape (n_ratings,).
        n_movies: number of columns.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    liked: NDArray[np.bool_]
    n_movies: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "indptr", np.asarray(self.indptr, dtype=np.int64))
        object.__setattr__(self, "indices", np.asarray(self.indices, dtype=np.int32))
        object.__setattr__(self, "liked", np.asarray(self.liked, dtype=np.bool_))
        self._check(self.liked, "liked")

    def rows(self, numbers: ArrayLike) -> Preferences:
        """The users of these numbers, in their order; a number may be repeated."""
        indptr, positions = self._positions(numbers)
        return Preferences(indptr, self.indices[positions], self.liked[positions], self.n_movies)

    def likes_per_movie(self) -> NDArray[np.int64]:
        """Number of likes of each movie, shape (n_movies,)."""
        return np.bincount(self.indices[self.liked], minlength=self.n_movies)

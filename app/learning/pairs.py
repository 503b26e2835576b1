"""What one rated movie says about another by the linear hidden units, pair by pair.

`LinearUnits.expected` goes through the units and suits many users at once. One user's row, its parts and a
few movies in question are quicker by pairs: entry (j, i) is what a rating of grade 1 of movie j adds to what
is expected of movie i, before the scale by length. With weights A and variances v it is v_i (A_j · A_i) among
all units plus the same among the leading ones; a movie says nothing of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.learning.linear_units import LEADING, LinearUnits

Matrix = NDArray[np.float32]
Columns = NDArray[np.integer[Any]]

KEPT_TO = 2_000  # movies; up to here all pairs are kept, in 16 MB at most


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of one machine's linear units; those of a small catalogue are worked out once and kept."""

    linear: LinearUnits

    @cached_property
    def kept(self) -> Matrix | None:
        """All pairs, float32 of shape (n_movies, n_movies); None where the catalogue is too large for it."""
        n_movies = len(self.linear.weights)
        if not self.linear.n_units or n_movies > KEPT_TO:
            return None
        everything = np.arange(n_movies)
        return self._worked_out(everything, everything)

    def between(self, rated: Columns, asked: Columns) -> Matrix:
        """The pairs of n rated movies and m others, shape (n, m)."""
        if self.kept is not None:
            return self.kept[rated[:, None], asked]
        return self._worked_out(rated, asked)

    def towards_all(self, rated: Columns, grades: Matrix) -> Matrix:
        """What ratings of these grades say of every movie together, shape (n_movies,)."""
        if self.kept is not None:
            return cast(Matrix, grades @ self.kept[rated])
        weights = self.linear.weights
        of_rated = weights[rated]
        units = np.zeros((weights.shape[1], 2), np.float32)  # all of them, and the leading ones
        units[:, 0] = grades @ of_rated
        units[:LEADING, 1] = units[:LEADING, 0]
        both = weights @ units  # one pass over the weights for both machines
        result = self.linear.variance * both[:, 0]
        result += self.linear.leading_variance * both[:, 1]
        squares = np.square(of_rated)
        own = self.linear.variance[rated] * squares.sum(axis=1)
        own += self.linear.leading_variance[rated] * squares[:, :LEADING].sum(axis=1)
        np.subtract.at(result, rated, own * grades)
        return cast(Matrix, result)

    def _worked_out(self, rated: Columns, asked: Columns) -> Matrix:
        of_rated, of_asked = self.linear.weights[rated], self.linear.weights[asked]
        result = of_rated @ of_asked.T
        result *= self.linear.variance[asked]
        result += (of_rated[:, :LEADING] @ of_asked[:, :LEADING].T) * self.linear.leading_variance[asked]
        result[rated[:, None] == asked] = 0.0
        return cast(Matrix, result)

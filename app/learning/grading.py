"""From stars to how strongly a rating speaks for movies like this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.preferences import RatingRows
from app.learning.rbm import Sparse

LEAST_DEVIATION = 0.25  # stars; where everybody gives the same, half a star less is a lot
LARGEST_Z = 2.5  # deviations from the mean beyond which stars say nothing more
DISLIKED_BELOW = -1.0  # deviations from the mean below which a rating begins to speak against
DISLIKE_SLOPE = 0.5  # what the grade loses, besides, for each deviation below that


@dataclass(frozen=True)
class Grading:
    """The grade of a rating: 1 for average stars, more for better ones, below 0 for the worst.

    With z = (stars - mean) / deviation, in the ratings of everyone,

        grade = 1 + slope z + 0.5 min(0, z + 1)

    A rating says two things: that somebody chose this movie, and how they found it. The 1 is the choice. The
    last part makes a clear dislike speak against movies of its kind, although it was a choice as well.

    Attributes:
        mean: of all stars.
        deviation: of all stars.
        slope: what one deviation is worth; 0 grades every rating 1.
    """

    mean: float
    deviation: float
    slope: float

    @classmethod
    def of(cls, stars: NDArray[np.floating[Any]], slope: float) -> Self:
        """The grading that these stars ask for."""
        mean = float(stars.mean(dtype=np.float64)) if stars.size else 0.0
        deviation = float(stars.std(dtype=np.float64)) if stars.size else 0.0
        return cls(mean, max(deviation, LEAST_DEVIATION), slope)

    def grades(self, stars: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The grade of each of these stars, in their shape."""
        if not self.slope:
            return np.ones(stars.shape, np.float32)
        z = (stars.astype(np.float64) - self.mean) / self.deviation
        z = np.minimum(np.maximum(z, -LARGEST_Z), LARGEST_Z)  # np.clip takes twice as long for a short row
        grade = 1 + self.slope * z + DISLIKE_SLOPE * np.minimum(0, z - DISLIKED_BELOW)
        return grade.astype(np.float32)

    def rows(self, rows: RatingRows) -> Sparse:
        """The grade of every rating, CSR of shape (n_users, n_movies)."""
        return sp.csr_array(
            (self.grades(rows.stars), rows.indices, rows.indptr), shape=(rows.n_users, rows.n_movies)
        )

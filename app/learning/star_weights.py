"""From a rating's stars to its weight: how strongly it speaks for similar movies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import Sparse
from app.learning.rating_matrix import RatingRows

LEAST_DEVIATION = 0.25  # stars; where all ratings are alike, half a star less is a lot
LARGEST_Z = 2.5  # deviations from the mean beyond which stars say nothing more
DISLIKED_BELOW = -1.0  # deviations from the mean below which a rating begins to speak against
DISLIKE_SLOPE = 0.5  # what the weight loses, besides, for each deviation below that


@dataclass(frozen=True)
class StarWeights:
    """The weight of a rating: 1 for average stars, more above, below 0 for the worst.

    With z = (stars - mean) / deviation, over all ratings,

        weight = 1 + slope z + 0.5 min(0, z + 1)

    A rating says two things: that a user chose this movie, and how they liked it. The 1
    is the choice. The last part makes a clear dislike speak against movies of its kind,
    although it was a choice as well.
    """

    mean: float
    """Mean of all stars."""
    deviation: float
    """Standard deviation of all stars."""
    slope: float
    """What one deviation is worth; 0 gives every rating the weight 1."""

    @classmethod
    def of(cls, stars: NDArray[np.floating[Any]], slope: float) -> Self:
        """The weights by the mean and the deviation of these stars."""
        mean = float(stars.mean(dtype=np.float64)) if stars.size else 0.0
        deviation = float(stars.std(dtype=np.float64)) if stars.size else 0.0
        return cls(mean, max(deviation, LEAST_DEVIATION), slope)

    def weights(self, stars: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The weight of each rating, in the shape of the stars."""
        if not self.slope:
            return np.ones(stars.shape, np.float32)
        z = (stars.astype(np.float64) - self.mean) / self.deviation
        z = np.minimum(np.maximum(z, -LARGEST_Z), LARGEST_Z)  # np.clip takes twice as long for a short row
        weight = 1 + self.slope * z + DISLIKE_SLOPE * np.minimum(0, z - DISLIKED_BELOW)
        return weight.astype(np.float32)

    def rows(self, rows: RatingRows) -> Sparse:
        """The weight of every rating, CSR of shape (n_users, n_movies)."""
        return sp.csr_array(
            (self.weights(rows.stars), rows.indices, rows.indptr), shape=(rows.n_users, rows.n_movies)
        )

"""A baseline of another library: weighted matrix factorisation by `implicit`.

The package is the extra `bench`. Without it `missing` has the reason, and an evaluation
leaves the row out.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from app.learning.rating_matrix import RatingRows

try:
    from implicit.cpu.als import AlternatingLeastSquares
except ImportError:
    AlternatingLeastSquares = None

# Why the baseline is missing; None with the package.
missing: str | None = (
    None
    if AlternatingLeastSquares is not None
    else "implicit ALS needs the package implicit: pip install 'harmonium[bench]'"
)


class ImplicitALS:
    """Alternating least squares on the pattern of ratings, by `implicit`.

    Hu, Koren and Volinsky 2008.

    Every rating weighs `confidence` and counts as 1, every other pair weighs 1 and
    counts as 0. Users are not stored: one regression on the movies' factors folds a
    profile in.

    Args:
        rows: training ratings.
        seed: of the first factors.
        n_factors, regularisation, confidence, rounds: the best of 18 settings on one
        split of MovieLens 100K.
    """

    def __init__(
        self,
        rows: RatingRows,
        *,
        seed: int,
        n_factors: int = 64,
        regularisation: float = 30.0,
        confidence: float = 4.0,
        rounds: int = 10,
    ) -> None:
        self._confidence = confidence
        self._model = AlternatingLeastSquares(
            factors=n_factors,
            regularization=regularisation,
            alpha=1.0,
            iterations=rounds,
            use_cg=False,
            random_state=seed,
        )
        with threadpool_limits(1, user_api="blas"):  # it has threads of its own, and warns otherwise
            self._model.fit(self._confidences(rows), show_progress=False)

    def scores(self, rows: RatingRows) -> NDArray[np.float32]:
        """The product of the factors, shape (n_users, n_movies)."""
        with threadpool_limits(1, user_api="blas"):
            users = self._model.recalculate_user(np.arange(rows.n_users), self._confidences(rows))
        return np.asarray(users @ self._model.item_factors.T, np.float32)

    def _confidences(self, rows: RatingRows) -> sparse.csr_matrix:
        values = np.full(rows.n_ratings, self._confidence, np.float32)
        indices, indptr = rows.indices.astype(np.int32), rows.indptr.astype(np.int32)
        return sparse.csr_matrix((values, indices, indptr), shape=(rows.n_users, rows.n_movies))

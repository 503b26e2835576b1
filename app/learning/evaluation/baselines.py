"""Baselines of the trained model: fitted on rating rows, they score rating rows.

The input matrix X of shape (n_users, n_movies) is 1 where a user rated a movie (or,
with `liked_at_least`, rated it that high) and 0 elsewhere. Scores are comparable within
one user's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from app.learning.likes.calibration import BiasLogistic, PlattScaling
from app.learning.rating_matrix import RatingRows

EASE_MEMORY_LIMIT = 2 << 30  # bytes, while fitting: 9,200 movies
EASE_BYTES_PER_CELL = 25  # measured at the peak, where any two movies share a user
SCORED_AT_ONCE = 4_000_000  # cells of a dense block; 16 MB of float32
CALIBRATION_SHARE = 0.1  # of the ratings, which a calibrating fit does not see

Scores = NDArray[np.float32]
Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


class Scorer(Protocol):
    """A model that ranks movies."""

    def scores(self, rows: RatingRows) -> Scores:
        """Scores of all movies, float32 (n_users, n_movies); higher is better."""


class TooManyMovies(ValueError):
    """A square over the catalogue exceeds the allowed memory; leave the method out."""


class Popularity:
    """Every movie scored by its number of training ratings."""

    def __init__(self, rows: RatingRows) -> None:
        self._counts = rows.ratings_per_movie().astype(np.float32)

    def scores(self, rows: RatingRows) -> Scores:
        """Number of ratings, shape (n_users, n_movies), equal for all users."""
        return np.broadcast_to(self._counts, (rows.n_users, self._counts.size))


class ItemNeighbours:
    """Cosine neighbours of the movies that the user rated.

    Sarwar et al. 2001; Deshpande and Karypis 2004:

    score(u, i) = sum over j rated by u, j among the k nearest of i, of cos(i, j), where
    cos(i, j) = |users who rated both| / sqrt(|users who rated i| |users who rated j|)
    and cos(i, i) = 0.

    Args:
        rows: training ratings.
        n_neighbours: k; movies that tie with the k-th nearest count, too.
    """

    def __init__(self, rows: RatingRows, *, n_neighbours: int = 200) -> None:
        X = _ones(rows)
        length = np.sqrt(np.maximum(rows.ratings_per_movie(), 1))
        Y = X.multiply(1 / length).tocsr()
        Y_transposed = Y.T.tocsr()
        n_movies = rows.n_movies
        blocks = []
        for start in range(0, n_movies, step := max(1, SCORED_AT_ONCE // max(n_movies, 1))):
            movies = np.arange(start, min(start + step, n_movies))
            cosine = (Y_transposed[movies] @ Y).toarray()  # (block, n_movies)
            cosine[movies - start, movies] = 0
            if n_neighbours < n_movies:
                least = np.partition(cosine, n_movies - n_neighbours, axis=1)[:, n_movies - n_neighbours]
                cosine[cosine < least[:, None]] = 0
            blocks.append(sparse.csr_array(cosine.astype(np.float32)))
        self._to_movie = sparse.vstack(blocks, format="csr").T.tocsr()  # (n_movies, n_movies): from j to i

    def scores(self, rows: RatingRows) -> Scores:
        """Summed similarity to what each user rated, shape (n_users, n_movies)."""
        return np.asarray((_ones(rows) @ self._to_movie).toarray(), np.float32)


class EASE:
    """The linear autoencoder without self-similarity, in closed form.

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019:

    B = argmin |X - X B|^2 + regularisation |B|^2 subject to diag(B) = 0. With P = (X'X
    + regularisation I)^-1 it is B[i, j] = -P[i, j] / P[j, j] off the diagonal. Scores
    are X B.

    Args:
        rows: training ratings.
        liked_at_least: X is 1 from these stars on, in fitting and in scoring; None:
            wherever rated.
        regularisation: lambda of the paper; 300 to 500 is best on MovieLens 100K.
        memory_limit: bytes that fitting may take.

    Raises:
        TooManyMovies: the estimate of the memory is above the limit; nothing was
            allocated.
    """

    def __init__(
        self,
        rows: RatingRows,
        *,
        liked_at_least: float | None = None,
        regularisation: float = 300.0,
        memory_limit: int = EASE_MEMORY_LIMIT,
    ) -> None:
        needed = EASE_BYTES_PER_CELL * rows.n_movies**2
        if needed > memory_limit:
            raise TooManyMovies(
                f"EASE over {rows.n_movies:,} movies takes about {needed / 2**30:.1f} GiB, more than the "
                f"limit of {memory_limit / 2**30:.1f} GiB; its memory grows with the square of the catalogue"
            )
        self._liked_at_least = liked_at_least
        X = _ones(rows, liked_at_least).astype(np.float64)
        gram = (X.T @ X).toarray().T  # symmetric: itself, with the columns contiguous as LAPACK wants them
        gram[np.diag_indices_from(gram)] += regularisation
        # In place: the Cholesky factor, and from it the inverse, in the lower triangle;
        # then mirrored.
        factor = linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
        P, _ = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        for movie in range(rows.n_movies):
            P[movie, movie + 1 :] = P[movie + 1 :, movie]
        P /= -P.diagonal()
        P[np.diag_indices_from(P)] = 0
        self.weights: Scores = P.astype(np.float32)

    def scores(self, rows: RatingRows) -> Scores:
        """X B, shape (n_users, n_movies)."""
        return np.asarray(_ones(rows, self._liked_at_least) @ self.weights, np.float32)


class Sum:
    """Sum of several scorers on one scale."""

    def __init__(self, parts: Sequence[Scorer]) -> None:
        self._parts = parts

    def scores(self, rows: RatingRows) -> Scores:
        """Shape (n_users, n_movies)."""
        total = np.zeros((rows.n_users, rows.n_movies), np.float32)
        for part in self._parts:
            total += part.scores(rows)
        return total


class LikeBiases:
    """A like model of a user bias and a movie bias.

    log-odds of liking = intercept + user's bias + movie's bias, calibrated by a
    logistic on a tenth of the ratings, which a first fit leaves out.

    Args:
        rows: training ratings.
        liked_at_least: stars of a liked movie.
        rng: draws the tenth.
    """

    def __init__(self, rows: RatingRows, *, liked_at_least: float, rng: np.random.Generator) -> None:
        self._liked_at_least = liked_at_least
        held_back = rng.random(rows.n_ratings) < CALIBRATION_SHARE
        seen = rows.where(~held_back).preferences(liked_at_least)
        unseen = rows.where(held_back).preferences(liked_at_least)
        fit = BiasLogistic.fit(seen)
        log_odds = fit.intercept + fit.user_bias(seen)[unseen.users] + fit.movie_bias[unseen.indices]
        self.calibration = PlattScaling.fit(log_odds, unseen.liked)
        self._biases = BiasLogistic.fit(rows.preferences(liked_at_least))

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """P(stars >= liked_at_least | rated), shape (n_users, m or n_movies)."""
        preferences = rows.preferences(self._liked_at_least)
        return self.calibration.probability(self._biases.log_odds(preferences, columns))


class BiasedFactorisation:
    """Biases and factors that predict stars, by alternating least squares.

    Koren, Bell and Volinsky 2009:

    stars(u, i) = mu + b_u + b_i + p_u . q_i, which minimises

        sum over ratings (stars - stars(u, i))^2
            + bias_regularisation (sum b_u^2 + sum b_i^2)
            + sum over u, i of regularisation n (|p|^2, |q|^2)

    where n is the number of ratings of the user or movie (Zhou et al. 2008). With all
    movies fixed, a user's bias and factors are one ridge regression, and the other way
    round. Users are not stored: that regression folds a profile in.

    Stars become like_probability by a logistic on them, fitted on a tenth of the
    ratings, which a first fit leaves out.

    Args:
        rows: training ratings.
        liked_at_least: stars of a liked movie.
        rng: draws the first factors, and the tenth.
        n_factors: length of p and q.
        regularisation: of the factors, per rating.
        bias_regularisation: of the biases, in ratings.
        rounds: turns of solving for users, then for movies.
    """

    def __init__(
        self,
        rows: RatingRows,
        *,
        liked_at_least: float,
        rng: np.random.Generator,
        n_factors: int = 30,
        regularisation: float = 0.14,
        bias_regularisation: float = 3.0,
        rounds: int = 12,
    ) -> None:
        self._n_factors = n_factors
        self._regularisation = regularisation
        self._bias_regularisation = bias_regularisation
        self._rounds = rounds
        held_back = rng.random(rows.n_ratings) < CALIBRATION_SHARE
        seen, unseen = rows.where(~held_back), rows.where(held_back)
        self._fit(seen, rng)
        predicted = self.stars_of(seen, unseen)
        self.calibration = PlattScaling.fit(
            predicted.astype(np.float64) - liked_at_least, unseen.stars >= np.float32(liked_at_least)
        )
        self._liked_at_least = liked_at_least
        self._fit(rows, rng)

    def _fit(self, rows: RatingRows, rng: np.random.Generator) -> None:
        by_movie = _transposed(rows)
        self.mean = float(rows.stars.mean(dtype=np.float64)) if rows.n_ratings else 0.0
        self.movies: Matrix = rng.normal(0, 0.1, (rows.n_movies, 1 + self._n_factors))  # (bias, factors)
        self.movies[:, 0] = 0
        for _ in range(self._rounds):
            users = self._solved(rows, self.movies)
            self.movies = self._solved(by_movie, users)

    def _solved(self, rows: RatingRows, others: Matrix) -> Matrix:
        """Bias and factors of every row, (n_rows, 1 + n_factors), for fixed columns."""
        result = np.zeros((rows.n_users, others.shape[1]))
        target = rows.stars - self.mean - others[rows.indices, 0]
        for row in np.flatnonzero(rows.lengths):
            ratings = slice(rows.indptr[row], rows.indptr[row + 1])
            inputs = others[rows.indices[ratings]]  # (n, 1 + n_factors)
            inputs[:, 0] = 1
            normal = inputs.T @ inputs
            penalty = np.full(len(normal), self._regularisation * len(inputs))
            penalty[0] = self._bias_regularisation
            normal[np.diag_indices_from(normal)] += penalty
            result[row] = np.linalg.solve(normal, inputs.T @ target[ratings])
        return result

    def scores(self, rows: RatingRows) -> Scores:
        """Predicted stars, shape (n_users, n_movies), not clipped to the scale."""
        users = self._solved(rows, self.movies)
        stars = users[:, 1:] @ self.movies[:, 1:].T
        stars += self.mean + users[:, :1] + self.movies[:, 0]
        result: Scores = stars.astype(np.float32)
        return result

    def stars_of(self, profiles: RatingRows, test: RatingRows) -> NDArray[np.float32]:
        """Predicted stars of the test ratings from the profiles, (n_ratings,)."""
        users = self._solved(profiles, self.movies)[test.users]
        movies = self.movies[test.indices]
        stars = self.mean + users[:, 0] + movies[:, 0] + np.einsum("rf,rf->r", users[:, 1:], movies[:, 1:])
        result: NDArray[np.float32] = stars.astype(np.float32)
        return result

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """P(stars >= liked_at_least | rated), shape (n_users, m or n_movies)."""
        stars = self.scores(rows).astype(np.float64)
        if columns is not None:
            stars = stars[:, columns]
        return self.calibration.probability(stars - self._liked_at_least)


def _ones(rows: RatingRows, liked_at_least: float | None = None) -> sparse.csr_array[Any, tuple[int, int]]:
    """X: float32 of shape (n_users, n_movies), 1 where rated, or where liked."""
    if liked_at_least is not None:
        rows = rows.where(rows.stars >= np.float32(liked_at_least))
    ones = np.ones(rows.n_ratings, np.float32)
    return sparse.csr_array((ones, rows.indices, rows.indptr), shape=(rows.n_users, rows.n_movies))


def _transposed(rows: RatingRows) -> RatingRows:
    """The ratings with movies as rows and users as columns."""
    return RatingRows.from_coordinates(rows.indices, rows.users, rows.stars, rows.n_movies, rows.n_users)

"""Linear hidden units: what binary ones miss, in closed form, without a square over the catalogue.

Binary hidden units learn kinds of people. Much of what a user will rate next is simpler than that: this movie
goes with that one. Real-valued hidden units beside the binary ones hold exactly such pairs. With visible row
x and hidden row g (Welling, Rosen-Zvi and Hinton, "Exponential family harmoniums", 2004)

    E(x, g) = sum_i x_i^2 / (2 l_i) - x A g' + |g|^2 / 2

is a Boltzmann machine whose hidden units have the mean x A. With g integrated out, x is Gaussian with the
precision P = diag(1 / l) - A A', so A A' couples movies in pairs; what all other movies say about movie i is

    E[x_i | all others] = v_i ((x A)·A_i - x_i |A_i|^2)      v_i = 1 / P_ii = 1 / (1 / l_i - |A_i|^2)

Its likelihood is largest where P^-1 is the second moment of the data, here with a ridge: P^-1 = X' diag(w) X
+ diag(l). That has a closed form: with the singular values X diag(w)^1/2 diag(l)^-1/2 = U diag(s) V',
A = diag(l)^-1/2 V diag(s / sqrt(1 + s^2)). With all singular values E[x_i | all others] is EASE (Steck,
"Markov random fields for collaborative filtering", 2019); fewer take memory in proportion to the catalogue,
not to its square. The ridge grows with a movie's own mass, which stands for inputs that may be missing
(Steck, "Autoencoders that don't overfit towards the identity", 2020).

Few units, those of the largest singular values, hold broad tastes; many hold single pairs. Each kind ranks
well alone and both together better than either, and the few are among the many: so the *leading* units speak
twice, once among all and once as a machine of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.rbm import Dense, Sparse

# Users or movies, whichever are fewer: to here a square of them finds all singular values at once.
EXACT_TO = 1_000
EXACT_FOR_MANY_TO = 4_000  # where a quarter of them or more is wanted
POWER_ROUNDS = 4  # beyond that, rounds of subspace iteration
MORE_COLUMNS = 20  # of the subspace than units are wanted

LEADING = 30  # units
FOLD_IN_POWER = 0.25  # at fold-in x A is multiplied by (mean length / own length) ** this
RIDGE = 100.0  # l of a movie that nobody rated
RIDGE_BY_MASS = 2.0  # what l gains for each weighted squared rating of the movie
LENGTH_POWER = 0.75  # a user weighs (mean length / own length) ** this: people who rate everything say less


@dataclass(frozen=True, eq=False)
class LinearUnits:
    """Real-valued hidden units over the movies, with their closed-form weights, the leading units first.

    Attributes:
        weights: A, float32 of shape (n_movies, n_units).
        variance: v, float32 of shape (n_movies,): the variance of each movie given all others.
        leading_variance: the same of the machine that has the leading units only.
    """

    weights: Dense
    variance: Dense
    leading_variance: Dense

    def __post_init__(self) -> None:
        n_movies = self.weights.shape[:1]
        if self.weights.ndim != 2 or not self.variance.shape == self.leading_variance.shape == n_movies:
            raise ValueError(
                f"weights {self.weights.shape}, variance {self.variance.shape} and leading_variance "
                f"{self.leading_variance.shape} do not fit"
            )

    @classmethod
    def none(cls, n_movies: int) -> Self:
        """No unit at all: says 0 about everything."""
        ones = np.ones(n_movies, np.float32)
        return cls(np.zeros((n_movies, 0), np.float32), ones, ones)

    @classmethod
    def fit(cls, visible: Sparse, n_units: int, rng: np.random.Generator) -> Self:
        """The units of largest likelihood.

        Args:
            visible: CSR of shape (n_users, n_movies): graded ratings, nothing where unrated.
            n_units: how many; never more than there are users or movies.
            rng: starts the search for singular vectors where there are too many to find all.
        """
        n_users, n_movies = visible.shape
        n_units = min(n_units, n_users, n_movies)
        if not n_units or not np.any(visible.data):
            return cls.none(n_movies)
        rows: Any = visible.astype(np.float64)
        lengths = np.diff(rows.indptr)
        weight = (lengths.mean() / np.maximum(lengths, 1)) ** LENGTH_POWER
        mass = np.bincount(rows.indices, rows.data**2 * np.repeat(weight, lengths), n_movies)
        ridge = RIDGE + RIDGE_BY_MASS * mass
        scaled = sp.csr_array(
            (
                rows.data * np.sqrt(np.repeat(weight, lengths) / ridge[rows.indices]),
                rows.indices,
                rows.indptr,
            ),
            shape=rows.shape,
        )
        smaller = min(n_users, n_movies)
        if smaller <= (EXACT_FOR_MANY_TO if 4 * n_units >= smaller else EXACT_TO):
            right, squares = _all_singular(scaled, n_units)
        else:
            right, squares = _largest_singular(scaled, n_units, rng)
        weights = right * np.sqrt(squares / (1 + squares)) / np.sqrt(ridge)[:, None]
        variance, leading_variance = (
            1 / (1 / ridge - np.square(some).sum(axis=1)) for some in (weights, weights[:, :LEADING])
        )
        return cls(
            weights.astype(np.float32), variance.astype(np.float32), leading_variance.astype(np.float32)
        )

    @property
    def n_units(self) -> int:
        """Number of units."""
        n_units: int = self.weights.shape[1]
        return n_units

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        return self.weights.nbytes + self.variance.nbytes + self.leading_variance.nbytes

    def expected(
        self, visible: Sparse, mean_length: float, columns: NDArray[np.integer[Any]] | None = None
    ) -> Dense:
        """What all *other* movies of a row say about each movie: among all units plus among the leading ones.

        Times (mean length / the row's length) ** 0.25, as long rows add up to more.

        Args:
            visible: CSR rows of shape (n, n_movies).
            mean_length: of the rows in training.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n, m or n_movies).
        """
        chosen = slice(None) if columns is None else columns
        weights = self.weights[chosen]
        lengths = np.diff(visible.indptr)
        scale = (mean_length / np.maximum(lengths, 1)) ** FOLD_IN_POWER
        values = (visible.data * np.repeat(scale, lengths)).astype(np.float32)
        scaled = sp.csr_array((values, visible.indices, visible.indptr), shape=visible.shape)
        units = np.asarray(scaled @ self.weights)  # (n, n_units)
        result: Dense = units @ weights.T
        result *= self.variance[chosen]
        leading = units[:, :LEADING] @ weights[:, :LEADING].T
        leading *= self.leading_variance[chosen]
        result += leading
        own = sp.csr_array(
            (values * self._self_coupling(visible.indices), visible.indices, visible.indptr),
            shape=visible.shape,
        )
        if columns is None:
            result[np.repeat(np.arange(lengths.size), lengths), own.indices] -= own.data
        else:
            result -= own[:, columns].toarray()
        return result

    def _self_coupling(self, columns: NDArray[np.integer[Any]]) -> Dense:
        """What a movie of value 1 in the row adds to what is expected of itself, shape (m,)."""
        squares = np.square(self.weights[columns])
        result: Dense = self.variance[columns] * squares.sum(axis=1)
        result += self.leading_variance[columns] * squares[:, :LEADING].sum(axis=1)
        return result


def _all_singular(scaled: Any, n_units: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right singular vectors (n_movies, n) and squared singular values (n,), n <= n_units, the largest first.

    By the eigenvectors of the smaller of the two products of the matrix with itself.
    """
    by_users = scaled.shape[0] <= scaled.shape[1]
    product = (scaled @ scaled.T if by_users else scaled.T @ scaled).toarray()
    values, vectors = np.linalg.eigh(product)
    values, vectors = values[::-1][:n_units], vectors[:, ::-1][:, :n_units]
    there = values > values[0] * 1e-10
    values, vectors = values[there], vectors[:, there]
    if by_users:
        vectors = (scaled.T @ vectors) / np.sqrt(values)
    return vectors, values


def _largest_singular(
    scaled: Any, n_units: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same by subspace iteration from a random start (Halko, Martinsson and Tropp, 2011)."""
    n_columns = min(n_units + MORE_COLUMNS, *scaled.shape)
    basis = np.linalg.qr(scaled.T @ (scaled @ rng.standard_normal((scaled.shape[1], n_columns))))[0]
    for _ in range(POWER_ROUNDS - 1):
        basis = np.linalg.qr(scaled.T @ (scaled @ basis))[0]
    seen = scaled @ basis  # (n_users, n_columns)
    values, vectors = np.linalg.eigh(seen.T @ seen)
    values, vectors = values[::-1][:n_units], vectors[:, ::-1][:, :n_units]
    there = values > values[0] * 1e-10
    return basis @ vectors[:, there], values[there]

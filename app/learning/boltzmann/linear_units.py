"""Linear hidden units: what binary ones miss, in closed form.

No array is a square over the catalogue.

Binary hidden units learn kinds of people. Much of what a user will rate next is simpler
than that: this movie goes with that one. Real-valued hidden units beside the binary
ones hold exactly such pairs. With visible row x and hidden row g (Welling, Rosen-Zvi
and Hinton, "Exponential family harmoniums", 2004)

    E(x, g) = sum_i x_i^2 / (2 l_i) - x A g' + |g|^2 / 2

is a Boltzmann machine whose hidden units have the mean x A. With g integrated out, x is
Gaussian with the precision P = diag(1 / l) - A A', so A A' couples movies in pairs;
what all other movies say about movie i is

    E[x_i | all others] = v_i ((x A)·A_i - x_i |A_i|^2)
    v_i = 1 / P_ii = 1 / (1 / l_i - |A_i|^2)

Its likelihood is largest where P^-1 is the second moment of the data, here with a
ridge: P^-1 = X' diag(w) X + diag(l). That has a closed form: with the singular values X
diag(w)^1/2 diag(l)^-1/2 = U diag(s) V', A = diag(l)^-1/2 V diag(s / sqrt(1 + s^2)).
With all singular values E[x_i | all others] is EASE (Steck, "Markov random fields for
collaborative filtering", 2019); fewer take memory in proportion to the catalogue, not
to its square. The ridge grows with a movie's own mass, which stands for inputs that may
be missing (Steck, "Autoencoders that don't overfit towards the identity", 2020).

Few units, those of the largest singular values, hold broad tastes; many hold single
pairs. Each kind ranks well alone and both together better than either, and the few are
among the many: so the *leading* units count twice, once among all and once alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import Dense, Sparse
from app.learning.row_batch import RowBatch

# Users or movies, whichever are fewer: to here a square of them finds all singular
# values at once.
EXACT_TO = 1_000
EXACT_FOR_MANY_TO = 4_000  # where a quarter of them or more is needed
POWER_ROUNDS = 4  # beyond that, rounds of subspace iteration
MORE_COLUMNS = 20  # of the subspace than units

LEADING = 30  # units
FOLD_IN_POWER = 0.25  # at fold-in x A is multiplied by (mean length / own length) ** this
RIDGE = 100.0  # l of an unrated movie
RIDGE_BY_MASS = 2.0  # what l gains for each weighted squared rating of the movie
LENGTH_POWER = 0.75  # a user weighs (mean length / own length) ** this: people who rate everything say less


@dataclass(frozen=True, eq=False)
class LinearUnits:
    """Real-valued hidden units with closed-form weights to movies, leading units first.

        E[x_i | all others] = v_i ((x A)·A_i - x_i |A_i|^2), plus the leading units'

    Attributes:
        weights: A, float32 of shape (n_movies, n_units).
        variance: v, float32 of shape (n_movies,): the variance of each movie by all
            others.
        leading_variance: float32 of shape (n_movies,): that variance by the leading
            units alone.
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
        """No unit: says 0 of every movie."""
        ones = np.ones(n_movies, np.float32)
        return cls(np.zeros((n_movies, 0), np.float32), ones, ones)

    @classmethod
    def fit(cls, visible: Sparse, n_units: int, rng: np.random.Generator) -> Self:
        """The units of largest likelihood.

        Args:
            visible: CSR of shape (n_users, n_movies): the weights of all ratings.
            n_units: how many; never more than there are users or movies.
            rng: starts the search for singular vectors where there are too many to find
                all.
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
        return int(self.weights.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        return self.weights.nbytes + self.variance.nbytes + self.leading_variance.nbytes

    def state(self, batch: RowBatch, star_weights: Dense, mean_length: float) -> Dense:
        """The means x A of the hidden units, float32 of shape (n, n_units).

        Times (mean length / the row's length) ** 0.25, as long rows add up to more.

        Args:
            batch: n rows of ratings.
            star_weights: x, the weight of each rating, shape (n_ratings,).
            mean_length: of the rows in training.
        """
        result = batch.times(star_weights, self.weights)
        result *= batch.scale(mean_length, FOLD_IN_POWER)[:, None]
        return result

    def vectors(self) -> Dense:
        """What each unit says of each movie, shape (n_movies, n_units).

        Among all units plus among the leading ones. The product of a state with a
        movie's vector is what the whole row says of the movie. What the movie's own
        rating says of itself is part of that, and has to be taken away (see
        `FoldedIn.scores`).
        """
        result: Dense = self.weights * self.variance[:, None]
        result[:, :LEADING] += self.weights[:, :LEADING] * self.leading_variance[:, None]
        return result


def _all_singular(scaled: Any, n_units: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right singular vectors (n_movies, n) and squared singular values (n,), falling.

    n <= n_units.

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
    """`_all_singular` by subspace iteration (Halko, Martinsson and Tropp, 2011)."""
    n_columns = min(n_units + MORE_COLUMNS, *scaled.shape)
    basis = np.linalg.qr(scaled.T @ (scaled @ rng.standard_normal((scaled.shape[1], n_columns))))[0]
    for _ in range(POWER_ROUNDS - 1):
        basis = np.linalg.qr(scaled.T @ (scaled @ basis))[0]
    seen = scaled @ basis  # (n_users, n_columns)
    values, vectors = np.linalg.eigh(seen.T @ seen)
    values, vectors = values[::-1][:n_units], vectors[:, ::-1][:, :n_units]
    there = values > values[0] * 1e-10
    return basis @ vectors[:, there], values[there]

"""Weighted hidden units: real-valued ones to which a rating says more than an absence.

To binary and linear units every movie of a row is observed alike, rated or not. But that a movie is absent
may mean anything: it was not seen, not found, not released. Here a rated movie weighs 1 + CONFIDENCE times
what an absent one does. With visible row x, hidden row g and the weights A of shape (n_movies, n_units)

    E(x, g) = sum_i w_i (x_i - g·A_i)^2 / 2 + r |g|^2 / 2            w_i = 1 + CONFIDENCE if rated, else 1

is a harmonium with Gaussian units in both layers (Welling, Rosen-Zvi and Hinton, 2004) in which what was
rated conditions the precisions of the visible units, as in the conditional RBM it conditions the hidden ones.
Given a row the hidden units are Gaussian, with precision P = sum_i w_i A_i A_i' + r and mean

    g = P^-1 sum_i w_i x_i A_i

and reconstruct x_i as g·A_i. So folding anyone in is one ridge regression with as many unknowns as there are
units: the sum over all movies is the same for everybody, and only the rated ones come on top. Learning climbs
log P(x, g, A) over g and A in turns, each step in closed form (weighted matrix factorisation: Hu, Koren and
Volinsky, "Collaborative filtering for implicit feedback datasets", 2008). Rows and movies are pulled towards
zero in proportion to the root of their number of ratings (Zhou et al., "Large-scale parallel collaborative
filtering for the Netflix prize", 2008, take the number itself). At fold-in every row is pulled as one of mean
length was: how much somebody has told so far is no property of theirs.

A rated x is 1 + GRADE_SHARE (grade - 1), which makes some room for how people like what they choose. So a
movie that is disliked still speaks for its kind; among many that are liked it may, but whoever has told
nothing but dislikes has said what not to show. At fold-in, g is therefore shrunk to nothing as the row's mean
grade falls from ENOUGH to 0.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.rbm import Dense, Sparse

CONFIDENCE = 4.0  # what a rated movie weighs more than an absent one
RIDGE = 3.5  # of a row in training, of a user or of a movie, times the root of its number of ratings
GRADE_SHARE = 0.3  # how far rows follow the grades
ENOUGH = 0.8  # mean grade of a row whose choices are believed; on average it is 1
ROUNDS = 12  # of users and movies in turns
INITIAL_DEVIATION = 0.1
SOLVED_AT_ONCE = 256  # rows; bounds the memory of their matrices
ENTRIES_AT_ONCE = 65_536  # of a row whose weights are multiplied at once


@dataclass(frozen=True, eq=False)
class WeightedUnits:
    """Real-valued hidden units over the movies.

    Attributes:
        weights: A, float32 of shape (n_movies, n_units).
        ridge: r, of the hidden row of whoever is folded in.
    """

    weights: Dense
    ridge: float

    @classmethod
    def none(cls, n_movies: int) -> Self:
        """No unit at all: reconstructs 0 everywhere."""
        return cls(np.zeros((n_movies, 0), np.float32), RIDGE)

    @property
    def n_units(self) -> int:
        """Number of units."""
        n_units: int = self.weights.shape[1]
        return n_units

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        return self.weights.nbytes

    def hidden_mean(self, graded: Sparse) -> Dense:
        """g, the mean of the hidden units given each row, shrunk where grades are low, (n, n_units).

        Args:
            graded: CSR rows of shape (n, n_movies), the grades of all ratings.
        """
        n = graded.shape[0]
        if not self.n_units:
            return np.empty((n, 0), np.float32)
        mean = _ridge_regressions(_visible(graded), self.weights, self._everywhere, np.full(n, self.ridge))
        lengths = np.diff(graded.indptr)
        total = np.bincount(np.repeat(np.arange(n), lengths), graded.data, n)
        mean *= _belief(total, lengths)[:, None]
        return mean

    def reconstruction(self, hidden: Dense, columns: NDArray[np.integer[Any]] | None = None) -> Dense:
        """E[x | g], float32 of shape (n, m or n_movies); `columns` are m movie columns, None for all."""
        weights = self.weights if columns is None else self.weights[columns]
        result: Dense = hidden @ weights.T
        return result

    def above_mean(self, hidden: Dense, columns: NDArray[np.integer[Any]] | None = None) -> Dense:
        """`reconstruction` less each row's mean over all movies.

        Every rating lifts all of a row's reconstruction a little, as it tells of somebody who rates; what
        tells movies apart is only the rest.
        """
        result = self.reconstruction(hidden, columns)
        result -= (hidden @ self._mean_weights)[:, None]
        return result

    def hidden_mean_of_parts(
        self, columns: NDArray[np.integer[Any]], grades: NDArray[np.float32], times: NDArray[np.float32]
    ) -> Dense:
        """The hidden means of rows that are parts of the same n ratings.

        Args:
            columns: the rated movies, shape (n,).
            grades: of the ratings, shape (n,).
            times: how often each rating counts in each of k parts, shape (k, n); mostly 0 or 1.

        Returns:
            float32 of shape (k, n_units).
        """
        if not self.n_units:
            return np.empty((len(times), 0), np.float32)
        rated = self.weights[columns]
        precision = (times[:, None, :] * rated.T) @ rated  # (k, n_units, n_units)
        precision *= np.float32(CONFIDENCE)
        precision += self._everywhere
        diagonal = np.arange(self.n_units)
        precision[:, diagonal, diagonal] += np.float32(self.ridge)
        pull = (times * (np.float32(1 + CONFIDENCE) * _value(grades))) @ rated
        mean: Dense = np.linalg.solve(precision, pull[:, :, None])[:, :, 0]
        mean *= _belief(times @ grades, times.sum(axis=1))[:, None]
        return mean

    def hidden_mean_without_each(
        self,
        columns: NDArray[np.integer[Any]],
        grades: NDArray[np.float32],
        left_out: NDArray[np.integer[Any]],
    ) -> Dense:
        """The hidden means of one row after taking one rating out of it, for each of some ratings.

        With the whole row's P and b = sum_i w_i x_i A_i it is, before it is shrunk,

            (P - CONFIDENCE A_i A_i')^-1 (b - (1 + CONFIDENCE) x_i A_i)

        and where a matrix changes by the square of one vector, so does its inverse (Sherman and Morrison,
        1950). So it is exact, and costs two products in place of k regressions.

        Args:
            columns: the rated movies, shape (n,).
            grades: of the ratings, shape (n,).
            left_out: k places among them.

        Returns:
            float32 of shape (k, n_units).
        """
        if not self.n_units:
            return np.empty((len(left_out), 0), np.float32)
        rated = self.weights[columns].astype(np.float64)  # (n, n_units)
        precision = self._everywhere.astype(np.float64) + CONFIDENCE * (rated.T @ rated)
        precision[np.diag_indices_from(precision)] += self.ridge
        covariance = np.linalg.inv(precision)
        weighted = (1 + CONFIDENCE) * _value(grades.astype(np.float64))
        out = rated[left_out]  # (k, n_units)
        shifted = out @ covariance  # rows P^-1 A_i
        own = np.einsum("kf,kf->k", shifted, out)
        mean = covariance @ (weighted @ rated) - weighted[left_out, None] * shifted  # had P stayed
        # (P - c a a')^-1 r = P^-1 r + c P^-1 a (a' P^-1 r) / (1 - c a' P^-1 a)
        correction = CONFIDENCE * np.einsum("kf,kf->k", out, mean) / (1 - CONFIDENCE * own)
        result: Dense = (mean + correction[:, None] * shifted).astype(np.float32)
        total = float(grades.sum(dtype=np.float64)) - grades[left_out]
        result *= _belief(total, np.full(len(left_out), grades.size - 1))[:, None]
        return result

    @cached_property
    def _mean_weights(self) -> Dense:
        """Mean of the movies' weights, shape (n_units,)."""
        mean: Dense = self.weights.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    @cached_property
    def _everywhere(self) -> Dense:
        """The sum of A_i A_i' over all movies, which is part of everybody's precision."""
        return _square(self.weights)


def fitted(
    graded: Sparse, n_units: int, rng: np.random.Generator, start: Dense | None = None
) -> Generator[float, None, WeightedUnits]:
    """Learn the weights, as a generator that yields after every few hundred regressions.

    What is climbed has many summits, and where one starts decides which is found. The leading linear units
    are a good place: it ranks as well as several random ones together, and it is the same every time.

    Args:
        graded: CSR of shape (n_users, n_movies), the grades of all ratings.
        n_units: how many; never more than there are users or movies.
        rng: draws the weights to begin with, where `start` has none.
        start: of any scale and shape (n_movies, k); the first `n_units` columns are used.

    Yields:
        The share of the work that is done, 0 to 1.

    Returns:
        The units, as the value of StopIteration.
    """
    n_users, n_movies = graded.shape
    n_units = min(n_units, n_users, n_movies)
    if not n_units or not graded.nnz:
        return WeightedUnits.none(n_movies)
    by_user = _visible(graded)
    by_movie = sp.csr_array(by_user.T)
    movie_ridge, user_ridge = (
        RIDGE * np.sqrt(np.maximum(np.diff(rows.indptr), 1)) for rows in (by_movie, by_user)
    )
    users, movies = np.empty((n_users, n_units), np.float32), np.empty((n_movies, n_units), np.float32)
    movies[:] = rng.normal(0, INITIAL_DEVIATION, movies.shape)
    if start is not None and np.any(start):
        leading = start[:, :n_units]
        movies[:, : leading.shape[1]] = leading * (INITIAL_DEVIATION / np.sqrt(np.square(leading).mean()))
    blocks = -(-n_users // SOLVED_AT_ONCE) + -(-n_movies // SOLVED_AT_ONCE)
    done = 0
    for _ in range(ROUNDS):
        for rows, ridge, given, found in (
            (by_user, user_ridge, movies, users),
            (by_movie, movie_ridge, users, movies),
        ):
            everywhere = _square(given)
            for block in _blocks(rows.shape[0]):
                found[block] = _ridge_regressions(rows[block], given, everywhere, ridge[block])
                done += 1
                yield done / (ROUNDS * blocks)
    return WeightedUnits(movies, RIDGE * float(np.sqrt(max(graded.nnz / n_users, 1))))


def _visible(graded: Sparse) -> Sparse:
    """x of rows of grades; an entry that is stored counts as rated whatever its grade."""
    values = _value(graded.data).astype(np.float32, copy=False)
    return sp.csr_array((values, graded.indices, graded.indptr), shape=graded.shape)


def _value(grades: NDArray[Any]) -> NDArray[Any]:
    """x of ratings, in their shape and dtype."""
    values: NDArray[Any] = 1 + GRADE_SHARE * (grades - 1)
    return values


def _belief(total: NDArray[Any], lengths: NDArray[Any]) -> Dense:
    """What hidden rows are multiplied by, float32 in the shape of the rows' summed grades and lengths."""
    belief: Dense = np.clip(total / (ENOUGH * np.maximum(lengths, 1)), 0, 1).astype(np.float32)
    return belief


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + SOLVED_AT_ONCE) for start in range(0, n, SOLVED_AT_ONCE))


def _square(weights: Dense) -> Dense:
    """The sum of the squares A_i A_i' of all rows, added up in float64, as float32 of shape (f, f)."""
    total = np.zeros((weights.shape[1], weights.shape[1]))
    for start in range(0, len(weights), ENTRIES_AT_ONCE):
        part = weights[start : start + ENTRIES_AT_ONCE]
        total += part.T @ part
    return total.astype(np.float32)


def _ridge_regressions(
    rows: Sparse, weights: Dense, everywhere: Dense, ridge: NDArray[np.floating[Any]]
) -> Dense:
    """The g of each row that minimises sum_i w_i (x_i - g·A_i)^2 + ridge |g|^2.

    Args:
        rows: CSR of shape (n, m); what is stored is rated.
        weights: A, shape (m, f).
        everywhere: A'A, shape (f, f).
        ridge: of each row, shape (n,).

    Returns:
        float32 of shape (n, f).
    """
    n, f = rows.shape[0], weights.shape[1]
    found = np.empty((n, f), np.float32)
    pull: Dense = rows @ weights
    pull *= np.float32(1 + CONFIDENCE)
    diagonal = np.arange(f)
    for block in _blocks(n):
        starts, ends = rows.indptr[:-1][block], rows.indptr[1:][block]
        precision = np.empty((starts.size, f, f), np.float32)
        for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            if end - start > ENTRIES_AT_ONCE:
                precision[place] = _square(weights[rows.indices[start:end]])
                continue
            rated = weights[rows.indices[start:end]]
            np.matmul(rated.T, rated, out=precision[place])
        precision *= np.float32(CONFIDENCE)
        precision += everywhere
        precision[:, diagonal, diagonal] += ridge[block].astype(np.float32)[:, None]
        found[block] = np.linalg.solve(precision, pull[block][:, :, None])[:, :, 0]
    return found

"""Weighted hidden units: real-valued ones to which a rating says more than an absence.

To binary and linear units every movie of a row is observed alike, rated or not. But
that a movie is absent may mean anything: it was not seen, not available, not released.
Here a rated movie weighs 1 + CONFIDENCE times what an absent one does. With visible row
x, hidden row g and the weights A of shape (n_movies, n_units)

    E(x, g) = sum_i w_i (x_i - g·A_i)^2 / 2 + r |g|^2 / 2
    w_i = 1 + CONFIDENCE if rated, else 1

is a harmonium with Gaussian units in both layers (Welling, Rosen-Zvi and Hinton, 2004)
in which what was rated conditions the precisions of the visible units, as in the
conditional RBM it conditions the hidden ones. With a row fixed, the hidden units are
Gaussian, with precision P = sum_i w_i A_i A_i' + r and mean

    g = P^-1 sum_i w_i x_i A_i

and reconstruct x_i as g·A_i. So a fold-in is one ridge regression with as many unknowns
as there are units: the sum over all movies is the same for all rows, and only the rated
ones come on top. Learning climbs log P(x, g, A) over g and A in turns, each step in
closed form (weighted matrix factorisation: Hu, Koren and Volinsky, "Collaborative
filtering for implicit feedback datasets", 2008). Rows and movies are pulled towards
zero in proportion to the root of their number of ratings (Zhou et al., "Large-scale
parallel collaborative filtering for the Netflix prize", 2008, take the number itself).
At fold-in every row is pulled as one of mean length was: the number of ratings so
far is no property of a user.

A rated x is 1 + STAR_SHARE (star weight - 1), which makes some room for how users like
what they choose. So a movie that is disliked still speaks for its kind. Among many that
are liked it may; but a row of nothing but dislikes says what not to recommend. At
fold-in, g is therefore shrunk to 0 as the row's mean star weight falls from
UNSHRUNK_FROM to 0.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import Dense, Sparse
from app.learning.row_batch import RowBatch

CONFIDENCE = 4.0  # what a rated movie weighs more than an absent one
RIDGE = 3.5  # of a row in training, of a user or of a movie, times the root of its number of ratings
STAR_SHARE = 0.3  # how far rows follow the star weights
UNSHRUNK_FROM = 0.8  # mean star weight of a row from which g is not shrunk; on average it is 1
ROUNDS = 12  # of users and movies in turns
INITIAL_DEVIATION = 0.1
SOLVED_AT_ONCE = 256  # rows; bounds the memory of their matrices
ENTRIES_AT_ONCE = 65_536  # of a row whose weights are multiplied at once


@dataclass(frozen=True, eq=False)
class WeightedUnits:
    """Real-valued hidden units: g = P^-1 sum_i w_i x_i A_i, which expects g·A_i.

    Attributes:
        weights: A, float32 of shape (n_movies, n_units).
        ridge: r, of the hidden row that is folded in.
    """

    weights: Dense
    ridge: float

    @classmethod
    def none(cls, n_movies: int) -> Self:
        """No unit: reconstructs 0 everywhere."""
        return cls(np.zeros((n_movies, 0), np.float32), RIDGE)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return int(self.weights.shape[1])

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        return self.weights.nbytes

    def state(self, batch: RowBatch, star_weights: Dense) -> Dense:
        """g, the mean of the hidden units of each row, float32 (n, n_units).

        Shrunk towards 0 where the row's mean weight is low.

        Args:
            batch: n rows of ratings.
            star_weights: the weight of each rating, shape (n_ratings,).
        """
        n = batch.n_rows
        if not self.n_units:
            return np.empty((n, 0), np.float32)
        if n > 1 and _lack_one_at_most(batch):
            mean = self._downdated(batch, visible(star_weights))
        else:
            ridge = np.full(n, self.ridge)
            mean = _ridge_regressions(batch, visible(star_weights), self.weights, self._gram, ridge)
        total = np.bincount(batch.owners, star_weights, n)
        mean *= shrinkage(total / np.maximum(batch.n_entries, 1))[:, None]
        return mean

    def vectors(self) -> Dense:
        """A_i less the mean of all movies, shape (n_movies, n_units).

        Every rating lifts all of a row's reconstruction a little, as it tells of a user
        who rates; what tells movies apart is only the rest.
        """
        vectors: Dense = self.weights - self.weights.mean(axis=0, dtype=np.float64).astype(np.float32)
        return vectors

    def _downdated(self, batch: RowBatch, x: Dense) -> Dense:
        """The means of rows that have all columns of the batch but one at most.

        Where a matrix changes by the square of one vector, so does its inverse (Sherman
        and Morrison, 1950). With the precision P of a row that has all columns, and a
        row that lacks column i,

            (P - c A_i A_i')^-1 b =
                P^-1 b + c P^-1 A_i (A_i' P^-1 b) / (1 - c A_i' P^-1 A_i)

        So one inverse serves all rows, exactly. To leave out each of 200 ratings takes
        a sixth of the time.
        """
        rated = self.weights[batch.columns].astype(np.float64)
        precision = self._gram.astype(np.float64) + CONFIDENCE * (rated.T @ rated)
        precision[np.diag_indices_from(precision)] += self.ridge
        covariance = np.linalg.inv(precision)
        pull = (1 + CONFIDENCE) * batch.times(x, self.weights).astype(np.float64)
        lacking = (1 - batch.dense(np.ones(x.size))) @ rated  # A_i, or 0 where no column is lacking
        mean, shifted = pull @ covariance, lacking @ covariance
        change = np.einsum("nf,nf->n", lacking, mean) / (
            1 - CONFIDENCE * np.einsum("nf,nf->n", lacking, shifted)
        )
        result: Dense = (mean + CONFIDENCE * change[:, None] * shifted).astype(np.float32)
        return result

    @cached_property
    def _gram(self) -> Dense:
        """A'A, which is part of the precision of every row."""
        return gram(self.weights)


def fitted(
    star_weights: Sparse, n_units: int, rng: np.random.Generator, start: Dense | None = None
) -> Generator[float, None, WeightedUnits]:
    """Learn the weights: a generator that yields after every few hundred regressions.

    What is climbed has many summits, and where the search starts decides which it
    reaches. The leading linear units are a good place: it ranks as well as several
    random ones together, and it is equal every time.

    Args:
        star_weights: CSR of shape (n_users, n_movies), the weights of all ratings.
        n_units: how many; never more than there are users or movies.
        rng: draws the weights to begin with, where `start` has none.
        start: of any scale and shape (n_movies, k); the first `n_units` columns are
            used.

    Yields:
        The share of the work that is done, 0 to 1.

    Returns:
        The units, as the value of StopIteration.
    """
    n_users, n_movies = star_weights.shape
    n_units = min(n_units, n_users, n_movies)
    if not n_units or not star_weights.nnz:
        return WeightedUnits.none(n_movies)
    by_user = sp.csr_array(
        (visible(star_weights.data), star_weights.indices, star_weights.indptr), shape=star_weights.shape
    )
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
        for rows, ridge, fixed, solved in (
            (by_user, user_ridge, movies, users),
            (by_movie, movie_ridge, users, movies),
        ):
            gram_of_fixed = gram(fixed)
            for block in _blocks(rows.shape[0]):
                part = rows[block]
                batch = RowBatch(part, rows.shape[1])
                solved[block] = _ridge_regressions(
                    batch, np.asarray(part.data), fixed, gram_of_fixed, ridge[block]
                )
                done += 1
                yield done / (ROUNDS * blocks)
    return WeightedUnits(movies, RIDGE * float(np.sqrt(max(star_weights.nnz / n_users, 1))))


def visible(star_weights: NDArray[np.floating[Any]]) -> Dense:
    """x of ratings with these weights, float32 in their shape."""
    x: Dense = (1 + STAR_SHARE * (star_weights - 1)).astype(np.float32, copy=False)
    return x


def shrinkage(mean_weight: NDArray[np.floating[Any]]) -> Dense:
    """Factors for hidden rows, float32 in the shape of the rows' mean star weights."""
    factor: Dense = np.minimum(np.maximum(mean_weight / UNSHRUNK_FROM, 0), 1).astype(np.float32)
    return factor


def gram(weights: Dense) -> Dense:
    """A'A, added up in float64, as float32 of shape (n_units, n_units)."""
    total = np.zeros((weights.shape[1], weights.shape[1]))
    for start in range(0, len(weights), ENTRIES_AT_ONCE):
        part = weights[start : start + ENTRIES_AT_ONCE]
        total += part.T @ part
    return total.astype(np.float32)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + SOLVED_AT_ONCE) for start in range(0, n, SOLVED_AT_ONCE))


def _lack_one_at_most(batch: RowBatch) -> bool:
    """Whether rows stand for themselves and lack one of the columns at most."""
    lacking = batch.columns.size - batch.n_entries
    return bool((lacking <= 1).all() and (batch.repeats == 1).all())


def _ridge_regressions(
    batch: RowBatch, x: Dense, weights: Dense, gram_of_weights: Dense, ridge: NDArray[np.floating[Any]]
) -> Dense:
    """The g of each row that minimises sum_i w_i (x_i - g·A_i)^2 + ridge |g|^2.

    Args:
        batch: n rows; their entries are rated.
        x: of the entries.
        weights: A, shape (n_columns, f).
        gram_of_weights: A'A, shape (f, f).
        ridge: of each row, shape (n,).

    Returns:
        float32 of shape (n, f).
    """
    n, f = batch.n_rows, weights.shape[1]
    solved = np.empty((n, f), np.float32)
    pull = batch.times(x, weights)
    pull *= (np.float32(1 + CONFIDENCE) * batch.repeats)[:, None]
    diagonal = np.arange(f)
    for block in _blocks(n):
        starts, ends = batch.indptr[:-1][block].tolist(), batch.indptr[1:][block].tolist()
        precision = np.empty((len(starts), f, f), np.float32)
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end - start > ENTRIES_AT_ONCE:
                precision[row] = gram(weights[batch.indices[start:end]])
                continue
            rated = weights[batch.indices[start:end]]
            np.matmul(rated.T, rated, out=precision[row])
        precision *= (np.float32(CONFIDENCE) * batch.repeats[block])[:, None, None]
        precision += gram_of_weights
        precision[:, diagonal, diagonal] += ridge[block].astype(np.float32)[:, None]
        solved[block] = np.linalg.solve(precision, pull[block][:, :, None])[:, :, 0]
    return solved

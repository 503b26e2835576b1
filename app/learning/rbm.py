"""The restricted Boltzmann machine itself: its energy, its conditionals, its Gibbs chain; no learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.sparse_rows import Dense as Dense
from app.learning.sparse_rows import RowsByUnit
from app.learning.sparse_rows import Sparse as Sparse

Visible: TypeAlias = "Dense | Sparse"
"""Rows of visible units with values from 0 to 1; an entry that a CSR array does not store is 0."""

FEW_ROWS = 32  # so many that a transposed copy costs next to nothing
VERY_FEW_ROWS = 12  # so many that BLAS spends more time on rearranging the weights than on the product
SMALL_PRODUCT = 1_200  # entries of a result that OpenBLAS's AVX-512 kernels find without rearranging anything


def sigmoid(x: Dense) -> Dense:
    """1 / (1 + exp(-x)) by way of tanh, which NumPy vectorises and which cannot overflow."""
    result = np.multiply(x, 0.5)
    np.tanh(result, out=result)
    result *= 0.5
    result += 0.5
    return result


def softplus(x: Dense) -> Dense:
    """log(1 + exp(x)) without overflow."""
    # max(x, 0) + log(1 + exp(-|x|)) is the same number and, in float32, several times faster than logaddexp.
    result = np.abs(x)
    np.negative(result, out=result)
    np.exp(result, out=result)
    np.log1p(result, out=result)
    result += np.maximum(x, 0)
    return result


def bernoulli(probability: Dense, rng: np.random.Generator) -> Dense:
    """Independent draws of 0 or 1, in the shape and dtype of their probabilities."""
    uniform = rng.random(probability.shape, dtype=probability.dtype)
    return np.less(uniform, probability, out=uniform, casting="unsafe")


# The log-odds of 0, 1/256, … 255/256, a little lowered, so that rounding never loses a draw.
_LOG_ODDS_OF_256THS = np.array(
    [-np.inf, *(np.log(np.arange(1, 256) / np.arange(255, 0, -1)) - 1e-4)], dtype=np.float32
)


def bernoulli_ones(log_odds: Dense, rng: np.random.Generator) -> NDArray[np.intp]:
    """Where independent draws of 0 or 1 come out as 1, which is quick to find where few do.

    A draw is u < sigmoid(x) for a uniform u. Eight bits of u rule most entries out by one look into a table;
    the sigmoid and the other bits of u are needed for the rest only. The result is that of all the bits.

    Args:
        log_odds: x, of any shape.
        rng: draws u.

    Returns:
        Ascending places in `log_odds.ravel()`.
    """
    x = log_odds.ravel()
    # NumPy seeks the ones among mostly zeros byte by byte, which takes twice as long as noting down every
    # byte without a branch: it does that from a tenth on, and so an eighth of ones is appended.
    appended = x.size // 8 + 1
    is_possible = np.ones(x.size + appended, np.bool_)
    words = rng.integers(0, 2**64 - 1, (x.size + 7) // 8, dtype=np.uint64, endpoint=True)
    first_bits = words.view(np.uint8)[: x.size]
    np.greater(x, np.take(_LOG_ODDS_OF_256THS, first_bits, mode="wrap"), out=is_possible[: x.size])
    possible = np.flatnonzero(is_possible)[:-appended]
    u = rng.random(possible.size)
    u += first_bits.take(possible)
    u /= 256
    ones: NDArray[np.intp] = possible[u < sigmoid(x.take(possible))]
    return ones


def _times_transposed(weights: Dense, hidden: Dense) -> Dense:
    """W h', for very few rows in parts that are small products to OpenBLAS.

    With its AVX-512 kernels that takes .53 of the time for 10 rows and .4 for 4, as W is not rearranged
    first; with its AVX2 kernels, which know no small products, 1.0 to 1.07 of it.

    Args:
        weights: shape (n_visible, n_hidden).
        hidden: shape (n, n_hidden).

    Returns:
        Shape (n_visible, n).
    """
    (n_visible, n_hidden), n = weights.shape, hidden.shape[0]
    if not 1 < n <= VERY_FEW_ROWS or n_visible * n <= SMALL_PRODUCT:
        whole: Dense = weights @ hidden.T
        return whole
    at_once = SMALL_PRODUCT // n
    parts = n_visible // at_once
    even = parts * at_once
    result = np.empty((n_visible, n), np.result_type(weights, hidden))
    # NumPy multiplies a stack of matrices one by one.
    np.matmul(
        weights[:even].reshape(parts, at_once, n_hidden),
        hidden.T,
        out=result[:even].reshape(parts, at_once, n),
    )
    if even < n_visible:
        np.matmul(weights[even:], hidden.T, out=result[even:])
    return result


@dataclass(frozen=True, eq=False)
class Harmonium(ABC):
    """What all machines with binary hidden units share; a subclass says what its visible units are.

    Every method takes a batch of rows, dense or CSR, and computes in the dtype of the parameters. No method
    changes its arguments.

    Attributes:
        weights: W, shape (n_visible, n_hidden).
        visible_bias: b, shape (n_visible,).
        hidden_bias: c, shape (n_hidden,).
    """

    weights: Dense
    visible_bias: Dense
    hidden_bias: Dense

    def __post_init__(self) -> None:
        expected = (self.visible_bias.size, self.hidden_bias.size)
        if self.weights.shape != expected:
            raise ValueError(f"weights have shape {self.weights.shape}, the biases ask for {expected}")

    @classmethod
    def initial(
        cls,
        visible_bias: Dense,
        n_hidden: int,
        rng: np.random.Generator,
        *,
        deviation: float = 0.01,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> Self:
        """An untrained machine: small normal weights, hidden biases of 0, the given visible biases.

        Args:
            visible_bias: shape (n_visible,), best what makes each unit's mean that of the data:
                `fitting.log_odds_of_means` for Bernoulli units, the means for Gaussian ones.
            n_hidden: number of hidden units.
            rng: draws the weights.
            deviation: standard deviation of the weights.
            dtype: of all the parameters.
        """
        weights = rng.normal(0.0, deviation, (visible_bias.size, n_hidden)).astype(dtype)
        return cls(weights, visible_bias.astype(dtype), np.zeros(n_hidden, dtype))

    @property
    def n_visible(self) -> int:
        """Number of visible units."""
        return self.visible_bias.size

    @property
    def n_hidden(self) -> int:
        """Number of hidden units."""
        return self.hidden_bias.size

    @property
    def nbytes(self) -> int:
        """Memory that the parameters take, in bytes."""
        return self.weights.nbytes + self.visible_bias.nbytes + self.hidden_bias.nbytes

    def hidden_input(self, visible: Visible | RowsByUnit, scale: Dense | None = None) -> Dense:
        """What the hidden units receive, scale * (v W) + c: the log-odds of `hidden_probability`.

        Args:
            visible: shape (n, n_visible).
            scale: shape (n,), a factor for each row's visible part; the plain machine has none.

        Returns:
            Shape (n, n_hidden).
        """
        result: Dense = visible @ self.weights
        if scale is not None:
            result *= scale[:, None]
        result += self.hidden_bias
        return result

    def visible_input(self, hidden: Dense) -> Dense:
        """What the visible units receive, h W' + b: the log-odds of `visible_probability`.

        Args:
            hidden: shape (n, n_hidden).

        Returns:
            Shape (n, n_visible).
        """
        if hidden.shape[0] <= FEW_ROWS:
            return np.ascontiguousarray(self.visible_input_by_unit(hidden).T)
        result: Dense = hidden @ self.weights.T
        result += self.visible_bias
        return result

    def visible_input_by_unit(self, hidden: Dense) -> Dense:
        """`visible_input` with a row for each visible unit: W h' + b, for whom either layout will do.

        The product takes W as it lies, where h W' has to rearrange it: measured in turns at 1,682 x 256, it
        takes .6 of the time for 10 rows and .8 to .9 for 100.

        Args:
            hidden: shape (n, n_hidden).

        Returns:
            Shape (n_visible, n).
        """
        result = _times_transposed(self.weights, hidden)
        result += self.visible_bias[:, None]
        return result

    def hidden_probability(self, visible: Visible | RowsByUnit, scale: Dense | None = None) -> Dense:
        """P(h_j = 1 | v), shape (n, n_hidden), for visible rows of shape (n, n_visible)."""
        return sigmoid(self.hidden_input(visible, scale))

    def transform(self, visible: Visible) -> Dense:
        """Hidden features of each row, by which another machine or a classifier sees it: P(h_j = 1 | v)."""
        return self.hidden_probability(visible)

    @abstractmethod
    def visible_mean(self, hidden: Dense) -> Dense:
        """The mean of P(v | h), shape (n, n_visible), for hidden rows of shape (n, n_hidden)."""

    def sample_hidden(self, visible: Visible | RowsByUnit, rng: np.random.Generator) -> Dense:
        """h ~ P(h | v): zeros and ones of shape (n, n_hidden)."""
        return bernoulli(self.hidden_probability(visible), rng)

    @abstractmethod
    def sample_visible(self, hidden: Dense, rng: np.random.Generator) -> Dense:
        """v ~ P(v | h), shape (n, n_visible)."""

    def gibbs(self, visible: Visible, rng: np.random.Generator, steps: int = 1) -> Dense:
        """The visible rows after `steps` steps v -> h -> v of block Gibbs sampling, shape (n, n_visible)."""
        _refuse_no_step(steps)
        hidden = self.sample_hidden(visible, rng)
        if steps > 1:
            hidden = self.gibbs_from_hidden(hidden, rng, steps - 1)
        return self.sample_visible(hidden, rng)

    def gibbs_from_hidden(self, hidden: Dense, rng: np.random.Generator, steps: int = 1) -> Dense:
        """The hidden rows after `steps` steps h -> v -> h of block Gibbs sampling, shape (n, n_hidden)."""
        _refuse_no_step(steps)
        for _ in range(steps):
            hidden = self.sample_hidden(self.sample_visible(hidden, rng), rng)
        return hidden

    def sample(self, n: int, rng: np.random.Generator, steps: int = 1_000) -> Dense:
        """Fantasies: rows that the machine itself makes up, each from a Gibbs chain of its own.

        The chains start at random hidden states. How many steps they need to forget them depends on the
        machine; sharply trained ones mix slowly.

        Returns:
            Samples of the visible units, shape (n, n_visible).
        """
        start = bernoulli(np.full((n, self.n_hidden), 0.5, self.weights.dtype), rng)
        return self.sample_visible(self.gibbs_from_hidden(start, rng, steps), rng)

    def reconstruct(
        self,
        visible: Visible,
        scale: Dense | None = None,
        *,
        steps: int = 1,
        rng: np.random.Generator | None = None,
    ) -> Dense:
        """The visible means after `steps` steps v -> h -> v, shape (n, n_visible).

        Args:
            visible: shape (n, n_visible).
            scale: shape (n,), a factor for the visible part of the given rows (in the first step only).
            steps: how often to go up and down.
            rng: draws the states of the layers on the way; None passes probabilities on (mean field). The
                last visible layer is its mean either way; `gibbs` draws that one too.
        """
        _refuse_no_step(steps)
        hidden = self.hidden_probability(visible, scale)
        for _ in range(steps - 1):
            if rng is None:
                hidden = self.hidden_probability(self.visible_mean(hidden))
            else:
                hidden = self.hidden_probability(self.sample_visible(bernoulli(hidden, rng), rng))
        return self.visible_mean(hidden if rng is None else bernoulli(hidden, rng))

    @abstractmethod
    def visible_energy(self, visible: Visible) -> Dense:
        """The part of the energy that the visible units have alone, shape (n,)."""

    def energy(self, visible: Visible, hidden: Dense) -> Dense:
        """E(v, h) of each pair of rows, shape (n,)."""
        result: Dense = self.visible_energy(visible)
        result -= np.einsum("nj,nj->n", self.hidden_input(visible), hidden)
        return result

    def free_energy(self, visible: Visible) -> Dense:
        """F(v) = -log sum_h exp(-E(v, h)) of each row, shape (n,)."""
        result: Dense = self.visible_energy(visible)
        result -= softplus(self.hidden_input(visible)).sum(axis=1)
        return result


def _refuse_no_step(steps: int) -> None:
    if steps < 1:
        raise ValueError("a Gibbs chain takes at least one step")


@dataclass(frozen=True, eq=False)
class RBM(Harmonium):
    """A Bernoulli-Bernoulli restricted Boltzmann machine (Smolensky's harmonium, 1986).

    With visible row v and hidden row h it gives to each joint state the probability exp(-E(v, h)) / Z, where

        E(v, h) = -v·b - h·c - v W h'                           energy
        P(h_j = 1 | v) = sigmoid(c_j + (v W)_j)                 hidden_probability
        P(v_i = 1 | h) = sigmoid(b_i + (h W')_i)                visible_probability
        F(v) = -v·b - sum_j softplus(c_j + (v W)_j)             free_energy: P(v) = exp(-F(v)) / Z

    Values between 0 and 1 are taken as probabilities, so any matrix in [0, 1] can be learned.
    Hinton, "A practical guide to training restricted Boltzmann machines" (2010).
    """

    def visible_probability(self, hidden: Dense) -> Dense:
        """P(v_i = 1 | h), shape (n, n_visible), for hidden rows of shape (n, n_hidden)."""
        return sigmoid(self.visible_input(hidden))

    def visible_mean(self, hidden: Dense) -> Dense:
        """The same as `visible_probability`."""
        return self.visible_probability(hidden)

    def sample_visible(self, hidden: Dense, rng: np.random.Generator) -> Dense:
        """v ~ P(v | h): zeros and ones of shape (n, n_visible)."""
        return bernoulli(self.visible_probability(hidden), rng)

    def visible_energy(self, visible: Visible) -> Dense:
        """-v·b, shape (n,)."""
        result: Dense = -(visible @ self.visible_bias)
        return result

    def conditional_log_probability(self, visible: Visible, units: NDArray[np.integer[Any]]) -> Dense:
        """log P(v_i | all other visible units) of chosen units: the terms of the pseudo-log-likelihood.

        It is log sigmoid(F(v with unit i flipped) - F(v)), exactly.

        Args:
            visible: zeros and ones, shape (n, n_visible). A value p in between is flipped to 1 - p, as
                scikit-learn does; the result then is no probability, but still tells fits apart.
            units: the m chosen units of each row, shape (n, m).

        Returns:
            Shape (n, m).
        """
        rows = np.arange(units.shape[0])[:, None]
        chosen: Any = visible[np.broadcast_to(rows, units.shape), units]
        value = chosen.toarray() if sp.issparse(visible) else chosen
        flip = (1 - 2 * value).astype(self.weights.dtype)  # +1 switches the unit on, -1 off
        hidden_input = self.hidden_input(visible)
        before = softplus(hidden_input).sum(axis=1)
        rise = np.empty(units.shape, self.weights.dtype)  # F(flipped) - F(v)
        for column, unit in enumerate(units.T):
            change = flip[:, column]
            after = softplus(hidden_input + change[:, None] * self.weights[unit]).sum(axis=1)
            rise[:, column] = before - after - change * self.visible_bias[unit]
        return -softplus(-rise)

    def score_samples(self, visible: Visible, rng: np.random.Generator) -> Dense:
        """The pseudo-log-likelihood of each row, estimated from one random unit of it, in nats.

        n_visible * log P(v_i | all other units), the definition of scikit-learn's `BernoulliRBM`. Its mean is
        that of `pseudo_log_likelihood`, which has no noise and takes n_visible times as long.

        Args:
            visible: shape (n, n_visible).
            rng: draws the unit of each row.

        Returns:
            Shape (n,).
        """
        units = rng.integers(self.n_visible, size=(visible.shape[0], 1))
        return self.n_visible * self.conditional_log_probability(visible, units)[:, 0]

    def pseudo_log_likelihood(self, visible: Visible, units: NDArray[np.integer[Any]] | None = None) -> Dense:
        """sum_i log P(v_i | all other units) of each row over the chosen units, exactly, in nats.

        Args:
            visible: shape (n, n_visible).
            units: numbers of m visible units; None for all.

        Returns:
            Shape (n,).
        """
        chosen = np.arange(self.n_visible) if units is None else units
        everywhere = np.broadcast_to(chosen, (visible.shape[0], chosen.size))
        result: Dense = self.conditional_log_probability(visible, everywhere).sum(axis=1)
        return result


@dataclass(frozen=True, eq=False)
class GaussianRBM(Harmonium):
    """Visible units that are real numbers with standard deviation 1 around their mean; hidden ones binary.

        E(v, h) = |v - b|² / 2 - h·c - v W h'
        P(h_j = 1 | v) = sigmoid(c_j + (v W)_j)
        v | h ~ Normal(b + h W', 1)
        F(v) = |v - b|² / 2 - sum_j softplus(c_j + (v W)_j)     density p(v) = exp(-F(v)) / Z

    For standardised data (each column with mean 0 and deviation 1, see `fitting.standardised`). The variances
    are not learned: that is hard, and a noise of 1 works (Hinton, 2010, section 13.2). Learning rates must be
    about ten times smaller than with Bernoulli units, as nothing bounds a reconstruction.
    """

    def visible_mean(self, hidden: Dense) -> Dense:
        """b + h W', shape (n, n_visible), for hidden rows of shape (n, n_hidden)."""
        return self.visible_input(hidden)

    def sample_visible(self, hidden: Dense, rng: np.random.Generator) -> Dense:
        """v ~ p(v | h): real numbers of shape (n, n_visible)."""
        result = self.visible_input(hidden)
        result += rng.standard_normal(result.shape, dtype=result.dtype)
        return result

    def visible_energy(self, visible: Visible) -> Dense:
        """|v - b|² / 2, shape (n,)."""
        # Multiplied out, so that a CSR array needs no dense copy.
        squares = np.asarray((visible * visible).sum(axis=1))
        across: Dense = visible @ self.visible_bias
        result: Dense = squares / 2 - across + np.vdot(self.visible_bias, self.visible_bias) / 2
        return result

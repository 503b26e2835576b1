"""The restricted Boltzmann machine: energy, conditionals, Gibbs chain; no learning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Dense: TypeAlias = NDArray[np.floating[Any]]
Sparse: TypeAlias = "sp.csr_array[Any, tuple[int, int]]"
Visible: TypeAlias = "Dense | Sparse"
"""Rows of visible units; an entry that a CSR array does not store is 0."""


def sigmoid(x: Dense) -> Dense:
    """1 / (1 + exp(-x)) through tanh, which NumPy vectorises and cannot overflow."""
    result = np.multiply(x, 0.5)
    np.tanh(result, out=result)
    result *= 0.5
    result += 0.5
    return result


def softplus(x: Dense) -> Dense:
    """log(1 + exp(x)) without overflow."""
    # max(x, 0) + log(1 + exp(-|x|)) is, in float32, several times faster than
    # logaddexp.
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


def log_odds(
    n_on: NDArray[np.integer[Any] | np.floating[Any]], n_rows: int | NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """log(p / (1 - p)) of p = (n_on + 1/2) / (n_rows + 1): of units on in n_on rows.

    The half row each way keeps a unit that is always on, or never, finite. As visible
    biases they give each unit its mean before anything is learned (Hinton, 2010,
    section 8).
    """
    result: NDArray[np.float64] = np.log(n_on + 0.5) - np.log(n_rows - n_on + 0.5)
    return result


@dataclass(frozen=True, eq=False)
class Harmonium(ABC):
    """Base of all models with binary hidden units; subclasses define the visible units.

    Every method takes a batch of rows, dense or CSR, and computes in the dtype of the
    parameters. No method changes its arguments.

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
        """An untrained model: small normal weights, hidden biases of 0.

        Args:
            visible_bias: shape (n_visible,), best what makes each unit's mean that of
                the data: `log_odds` for Bernoulli units, the means for Gaussian ones.
            n_hidden: number of hidden units.
            rng: draws the weights.
            deviation: standard deviation of the weights.
            dtype: of all the parameters.
        """
        weights = rng.normal(0.0, deviation, (visible_bias.size, n_hidden)).astype(dtype)
        return cls(weights, visible_bias.astype(dtype), np.zeros(n_hidden, dtype))

    @property
    def parameters(self) -> tuple[Dense, Dense, Dense]:
        """Weights, visible biases and hidden biases: the arrays themselves."""
        return self.weights, self.visible_bias, self.hidden_bias

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
        """Memory of the parameters, in bytes."""
        return sum(parameter.nbytes for parameter in self.parameters)

    def hidden_input(self, visible: Visible) -> Dense:
        """Log-odds of the hidden units, v W + c: (n, n_visible) to (n, n_hidden)."""
        result: Dense = visible @ self.weights
        result += self.hidden_bias
        return result

    def hidden_probability(self, visible: Visible) -> Dense:
        """P(h_j = 1 | v), the hidden features: (n, n_visible) to (n, n_hidden)."""
        return sigmoid(self.hidden_input(visible))

    def sample_hidden(self, visible: Visible, rng: np.random.Generator) -> Dense:
        """h ~ P(h | v): zeros and ones of shape (n, n_hidden)."""
        return bernoulli(self.hidden_probability(visible), rng)

    def visible_input(self, hidden: Dense) -> Dense:
        """Input of the visible units from hidden rows (n, n_hidden): h W' + b.

        Returns:
            Shape (n, n_visible), laid out unit by unit: W h' takes the weights as they
            lie, where h W' would rearrange them first.
        """
        result: Dense = self.weights @ hidden.T  # (n_visible, n)
        result += self.visible_bias[:, None]
        return result.T

    @abstractmethod
    def visible_mean(self, hidden: Dense) -> Dense:
        """Mean of P(v | h): (n, n_hidden) to (n, n_visible)."""

    @abstractmethod
    def sample_visible(self, hidden: Dense, rng: np.random.Generator) -> Dense:
        """v ~ P(v | h), shape (n, n_visible)."""

    def gibbs(self, visible: Visible, rng: np.random.Generator, steps: int = 1) -> Dense:
        """Visible rows after `steps` of block Gibbs sampling, shape (n, n_visible)."""
        if steps < 1:
            raise ValueError("a Gibbs chain takes at least one step")
        state = visible
        for _ in range(steps):
            state = self.sample_visible(self.sample_hidden(state, rng), rng)
        return state  # type: ignore[return-value]

    def reconstruct(self, visible: Visible) -> Dense:
        """Visible means after one mean-field step v -> h -> v, shape (n, n_visible)."""
        return self.visible_mean(self.hidden_probability(visible))

    @abstractmethod
    def visible_energy(self, visible: Visible) -> Dense:
        """Part of the energy that depends on the visible units alone, shape (n,)."""

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


@dataclass(frozen=True, eq=False)
class RBM(Harmonium):
    """A Bernoulli-Bernoulli restricted Boltzmann machine (Smolensky's harmonium, 1986).

    With visible row v and hidden row h each joint state has probability exp(-E(v, h)) /
    Z, where

        E(v, h) = -v·b - h·c - v W h'                           energy
        P(h_j = 1 | v) = sigmoid(c_j + (v W)_j)                 hidden_probability
        P(v_i = 1 | h) = sigmoid(b_i + (h W')_i)                visible_mean
        F(v) = -v·b - sum_j softplus(c_j + (v W)_j)   free_energy: P(v) = exp(-F(v)) / Z

    Values between 0 and 1 are taken as probabilities, so any matrix in [0, 1] can be
    learned. Hinton, "A practical guide to training restricted Boltzmann machines"
    (2010).
    """

    def visible_mean(self, hidden: Dense) -> Dense:
        """P(v_i = 1 | h): (n, n_hidden) to (n, n_visible)."""
        return sigmoid(self.visible_input(hidden))

    def sample_visible(self, hidden: Dense, rng: np.random.Generator) -> Dense:
        """v ~ P(v | h): zeros and ones of shape (n, n_visible)."""
        return bernoulli(self.visible_mean(hidden), rng)

    def visible_energy(self, visible: Visible) -> Dense:
        """-v·b, shape (n,)."""
        result: Dense = -(visible @ self.visible_bias)
        return result

    def conditional_log_probability(self, visible: Visible, units: NDArray[np.integer[Any]]) -> Dense:
        """log P(v_i | all other visible units): the terms of the pseudo-log-likelihood.

        It is log sigmoid(F(v with unit i flipped) - F(v)), exactly.

        Args:
            visible: zeros and ones, shape (n, n_visible). A value p in between is
                flipped to 1 - p, as scikit-learn does; the result then is no
                probability, but still tells fits apart.
            units: m units of each row, shape (n, m).

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

    def pseudo_log_likelihood(self, visible: Visible) -> Dense:
        """sum_i log P(v_i | all other units) of each row, in nats, shape (n,)."""
        units = np.broadcast_to(np.arange(self.n_visible), visible.shape)
        result: Dense = self.conditional_log_probability(visible, units).sum(axis=1)
        return result

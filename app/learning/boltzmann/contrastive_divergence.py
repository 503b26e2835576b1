"""Learning: the gradient of the log-likelihood by contrastive divergence.

The gradient of the mean log-likelihood is a difference of two averages (Hinton, 2002):

    dW = <v h'> where v is data  -  <v h'> where v comes from the model
    (b: <v>, c: <h>)

The first is the positive phase. The second, the negative phase, would need the
model's own distribution; CD-k takes k Gibbs steps from the data instead, PCD
(Tieleman, 2008) goes on from chains that persist. `reference` has CD-k in a dozen lines
of plain NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.divergence import Diverged, out_of_bounds
from app.learning.boltzmann.optimisers import Gradient, Minibatch, Optimiser, minibatches
from app.learning.boltzmann.rbm import RBM, Dense, Harmonium, Sparse, Visible, bernoulli, sigmoid


class Algorithm(Protocol):
    """Gives the direction uphill for a minibatch."""

    def gradient(self, rbm: Any, visible: Any, rng: np.random.Generator) -> Gradient:
        """Gradient of the mean log-likelihood of rows of shape (n, n_visible)."""


@dataclass(frozen=True)
class ContrastiveDivergence:
    """CD-k where every visible unit is observed.

    The last half-step uses means in place of samples, which takes noise out of the
    gradient and changes what it tends to only slightly (Hinton, 2010, section 3).

    Attributes:
        k: Gibbs steps of the negative phase.
    """

    k: int = 1

    def gradient(self, rbm: Harmonium, visible: Visible, rng: np.random.Generator) -> Gradient:
        """Gradient by k Gibbs steps from the minibatch, shape (n, n_visible)."""
        hidden = rbm.hidden_probability(visible)
        state = bernoulli(hidden, rng)
        for _ in range(self.k - 1):
            state = rbm.sample_hidden(rbm.sample_visible(state, rng), rng)
        reconstruction = rbm.visible_mean(state)
        return _difference(visible, hidden, reconstruction, rbm.hidden_probability(reconstruction))


@dataclass(frozen=True)
class MaskedContrastiveDivergence:
    """CD-k where only the stored entries of a row are observed units.

    Each row has a model of its own over the units it stores, all sharing weights and
    biases (Salakhutdinov, Mnih and Hinton, 2007). A unit that no row of the minibatch
    stores gets a gradient of 0.

    Attributes:
        k: Gibbs steps of the negative phase.
    """

    k: int = 1

    def gradient(self, rbm: RBM, visible: Sparse, rng: np.random.Generator) -> Gradient:
        """Gradient by k Gibbs steps from the minibatch, CSR of shape (n, n_visible)."""
        hidden = rbm.hidden_probability(visible)
        state = bernoulli(hidden, rng)
        for _ in range(self.k - 1):
            sample = masked_visible_mean(rbm, state, visible)
            sample.data[:] = bernoulli(sample.data, rng)
            state = rbm.sample_hidden(sample, rng)
        reconstruction = masked_visible_mean(rbm, state, visible)
        return _difference(visible, hidden, reconstruction, rbm.hidden_probability(reconstruction))


class PersistentContrastiveDivergence:
    """PCD-k: the negative phase continues chains that follow the model as it learns.

    Attributes:
        k: Gibbs steps of every chain for each minibatch.
        hidden: states of the chains, zeros and ones of shape (n_chains, n_hidden).
    """

    def __init__(self, hidden: Dense, k: int = 1) -> None:
        self.hidden = hidden
        self.k = k

    def gradient(self, rbm: Harmonium, visible: Visible, rng: np.random.Generator) -> Gradient:
        """Gradient against the chains after k more Gibbs steps of each."""
        positive = rbm.hidden_probability(visible)
        for _ in range(self.k):
            sample = rbm.sample_visible(self.hidden, rng)
            negative = rbm.hidden_probability(sample)
            self.hidden = bernoulli(negative, rng)
        return _difference(visible, positive, sample, negative)


def random_chains(rbm: Harmonium, n_chains: int, rng: np.random.Generator) -> Dense:
    """Hidden states of chains to begin with, each unit on with probability 1/2."""
    return bernoulli(np.full((n_chains, rbm.n_hidden), 0.5, rbm.weights.dtype), rng)


def masked_visible_mean(rbm: RBM, hidden: Dense, mask: Sparse) -> Sparse:
    """P(v_i = 1 | h) at the entries that the mask stores, and nothing elsewhere.

    Args:
        rbm: the model.
        hidden: shape (n, n_hidden).
        mask: CSR of shape (n, n_visible); its values are not looked at.
    """
    rows = np.repeat(np.arange(mask.shape[0]), np.diff(mask.indptr))
    log_odds = np.einsum("ij,ij->i", hidden[rows], rbm.weights[mask.indices])
    log_odds += rbm.visible_bias[mask.indices]
    return sp.csr_array((sigmoid(log_odds), mask.indices, mask.indptr), shape=mask.shape)


def _difference(visible: Visible, hidden: Dense, visible_: Visible, hidden_: Dense) -> Gradient:
    """<v h'>, <v> and <h> of the positive phase minus those of the negative phase.

    Each phase is averaged over its own number of rows. Means of single units are taken
    in double precision: their difference is much smaller than they are.
    """
    weights: Dense = visible.T @ (hidden / hidden.shape[0])
    weights -= visible_.T @ (hidden_ / hidden_.shape[0])
    return Gradient(weights, _means(visible) - _means(visible_), _means(hidden) - _means(hidden_))


def _means(rows: Visible) -> NDArray[np.float64]:
    """Mean of each unit, float64 of shape (n_units,)."""
    means: NDArray[np.float64] = rows.sum(axis=0, dtype=np.float64) / rows.shape[0]
    return means


def fit(
    rbm: Harmonium,
    visible: Visible,
    rng: np.random.Generator,
    *,
    algorithm: Algorithm,
    optimiser: Optimiser,
    learning_rate: float,
    epochs: int = 10,
    batch_size: int = 10,
) -> Iterator[Minibatch]:
    """Ascend the log-likelihood of the rows; the model's parameters change in place.

    A generator that yields after every update, so that the caller may look, measure and
    stop; `collections.deque(fit(...), maxlen=0)` runs it to the end. Called again it
    goes on.

        rbm = RBM.initial(log_odds(rows.sum(axis=0), len(rows)), 256, rng)
        for update in fit(rbm, rows, rng, algorithm=ContrastiveDivergence(),
                          optimiser=SGD(momentum=0.5), learning_rate=0.05):
            if update.ends_epoch:
                print(update.epoch, rbm.pseudo_log_likelihood(rows[:100]).mean())

    Args:
        rbm: the model to train.
        visible: rows of shape (n, n_visible), dense or sparse; from 0 to 1 for an
            `RBM`.
        rng: shuffles the rows and draws the states.
        algorithm: gives the gradient.
        optimiser: takes the steps.
        learning_rate: of every step.
        epochs: passes over the rows.
        batch_size: rows in a minibatch.

    Raises:
        ValueError: no rows, rows of another width, values out of range or not finite.
        Diverged: at the end of the epoch in which it happens.
    """
    rows = checked(rbm, visible)
    for minibatch in minibatches(rows.shape[0], batch_size, epochs, rng):
        with np.errstate(over="ignore", invalid="ignore"):  # `out_of_bounds` looks for both
            optimiser.ascend(rbm, algorithm.gradient(rbm, rows[minibatch.rows], rng), learning_rate)
        if minibatch.ends_epoch and out_of_bounds(rbm):
            raise Diverged(minibatch.epoch, "learning_rate", learning_rate, learning_rate / 4)
        yield minibatch


def checked(rbm: Harmonium, visible: Visible) -> Visible:
    """The rows in the dtype of the model, as an array or a CSR array.

    Raises:
        ValueError: no rows, rows of another width, values out of range or not finite.
    """
    dtype: Any = rbm.weights.dtype
    source: Any = visible
    rows: Any = sp.csr_array(source, dtype=dtype) if sp.issparse(visible) else np.asarray(source, dtype)
    if rows.ndim != 2 or rows.shape[0] == 0 or rows.shape[1] != rbm.n_visible:
        raise ValueError(f"the rows have shape {rows.shape}, not (at least 1, {rbm.n_visible})")
    values = rows.data if isinstance(rows, sp.csr_array) else rows
    if not np.isfinite(values).all():
        raise ValueError("a value is not a finite number")
    if isinstance(rbm, RBM) and values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"Bernoulli units take values from 0 to 1, not {values.min():g} to {values.max():g}; "
            "scale the columns, or use a GaussianRBM"
        )
    result: Visible = rows
    return result

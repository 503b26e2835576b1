"""Contrastive divergence over a huge catalogue: an update costs what its minibatch rated, not what exists.

A minibatch rates a small part of tens of thousands of movies. The positive phase is as sparse as the ratings;
the negative one is dense and costs nearly everything. Here it touches the units that are on in the
minibatch, each for sure, and of all the others a random sample, chosen by popularity. A sampled unit i
that was included with probability π_i counts 1 / π_i times (Horvitz and Thompson, 1952), so that

    c + sum over touched i of w_i P(v_i = 1 | h) W_i        w_i = 1 in the minibatch, 1 / π_i in the sample

is on average exactly what the hidden units receive from the whole imagined row. Their probability is a
sigmoid of it and therefore a little off; how much is measured in docs/benchmarks.md.

Untouched weights still decay, and repeat their last step with momentum. Both are linear, and the same for
every row, so a row catches up with everything it missed when it is next touched, in one 2 x 2 product.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.contrastive_divergence import Gradient, phase_difference
from app.learning.rbm import RBM, Dense, Sparse, bernoulli

ROWS_AT_ONCE = 4_096  # weights rows that `settle` works on at once; bounds its temporaries


class SampledContrastiveDivergence:
    """CD-1 with momentum and weight decay whose negative phase is sampled; the machine changes in place.

    Between `settle`s the weights of untouched units are those of their last touch: look at the machine only
    after a `settle`, which is one pass over all weights, meant for the end of an epoch.

    Args:
        rbm: the machine; all visible units are observed in every row.
        popularity: how often each unit is on, shape (n_visible,); the sample is drawn in proportion.
        n_sampled: expected number of units that are touched beside those of the minibatch; n_visible or more
            takes every unit, which makes this plain CD-1.
        momentum: share of the last step that the next one repeats.
        weight_decay: pull of the weights towards zero, in units of the learning rate.
        rng: draws hidden states; the sample of units has a generator of its own, spawned from this one.
    """

    def __init__(
        self,
        rbm: RBM,
        popularity: NDArray[np.integer[Any]],
        n_sampled: int,
        *,
        momentum: float,
        weight_decay: float,
        rng: np.random.Generator,
    ) -> None:
        self._rbm = rbm
        self._attraction = popularity + 0.5  # a unit that was never on is imagined too, now and then
        self._n_sampled = n_sampled
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._rng = rng
        self._rng_of_units = rng.spawn(1)[0]
        self._step = Gradient.zeros(rbm)
        self._place = np.zeros(rbm.n_visible, np.int32)  # of a touched unit among the touched ones
        # _missed[t] leads from (weights, last step) after update t to where they stand now; see `_catch_up`.
        self._missed = np.eye(2)[None]
        self._current_at = np.zeros(rbm.n_visible, np.int64)  # the update after which each row was left

    def update(self, visible: Sparse, learning_rate: float) -> None:
        """One step of gradient ascent on a minibatch.

        Args:
            visible: CSR rows of shape (n, n_visible); what they do not store is an observed 0.
            learning_rate: per mean log-likelihood of a row.
        """
        rbm, last = self._rbm, self._step
        units, importance = self.touched(visible)
        weights, step = rbm.weights[units], last.weights[units]
        self._catch_up(weights, step, units)

        part = RBM(weights, rbm.visible_bias[units], rbm.hidden_bias)
        self._place[units] = np.arange(units.size, dtype=np.int32)
        rows = sp.csr_array(
            (visible.data, self._place[visible.indices], visible.indptr), shape=(visible.shape[0], units.size)
        )
        hidden = part.hidden_probability(rows)
        imagined = part.visible_probability(bernoulli(hidden, self._rng))
        imagined *= importance
        gradient = phase_difference((rows, hidden), (imagined, part.hidden_probability(imagined)))

        rate, momentum = learning_rate, self._momentum
        shrink = learning_rate * self._weight_decay
        step *= momentum
        gradient.weights[...] *= rate
        step += gradient.weights
        if shrink:
            step -= np.multiply(weights, shrink, out=gradient.weights)
        weights += step
        rbm.weights[units], last.weights[units] = weights, step
        # The biases are vectors: a pass over all of them costs nothing.
        for bias, last_step, uphill, touched in (
            (rbm.visible_bias, last.visible_bias, gradient.visible_bias, units),
            (rbm.hidden_bias, last.hidden_bias, gradient.hidden_bias, slice(None)),
        ):
            last_step *= momentum
            last_step[touched] += rate * uphill
            bias += last_step

        without_gradient = np.array([[1 - shrink, momentum], [-shrink, momentum]])
        self._missed = np.concatenate((without_gradient @ self._missed, np.eye(2)[None]))
        self._current_at[units] = len(self._missed) - 1

    def settle(self) -> None:
        """Bring all weights to where they stand now."""
        rbm, last = self._rbm, self._step
        for start in range(0, rbm.n_visible, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            self._catch_up(rbm.weights[rows], last.weights[rows], rows)
        self._missed = np.eye(2)[None]
        self._current_at[:] = 0

    def touched(self, visible: Sparse) -> tuple[NDArray[np.int64], Dense]:
        """The units to touch, rising, and how many units each of them stands for (1 in the minibatch)."""
        touched = np.zeros(self._rbm.n_visible, np.bool_)
        touched[visible.indices] = True
        if self._n_sampled >= touched.size:
            touched[:] = True
            return np.flatnonzero(touched), np.ones(touched.size, self._rbm.weights.dtype)
        total = self._attraction[~touched].sum()
        inclusion = np.minimum(self._attraction * (self._n_sampled / max(total, 1.0)), 1.0)
        inclusion[touched] = 1.0
        units = np.flatnonzero(self._rng_of_units.random(inclusion.size) < inclusion)
        return units, (1 / inclusion[units]).astype(self._rbm.weights.dtype)

    def _catch_up(self, weights: Dense, step: Dense, units: NDArray[np.int64] | slice) -> None:
        """Apply in place what these rows have missed since they were last touched.

        Without a gradient an update is step' = momentum * step - shrink * weights, weights' = weights +
        step': a 2 x 2 matrix, and several of them in a row are their product.
        """
        missed = self._missed[self._current_at[units]].astype(weights.dtype)  # (n, 2, 2)
        from_weights = missed[:, 1, 0, None] * weights
        weights *= missed[:, 0, 0, None]
        weights += missed[:, 0, 1, None] * step
        step *= missed[:, 1, 1, None]
        step += from_weights

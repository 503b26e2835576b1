"""Contrastive divergence over a huge catalogue: an update costs what its minibatch rated, not what exists.

A minibatch rates a small part of tens of thousands of movies. The positive phase is as sparse as the ratings;
the negative one is dense and costs nearly everything. Here it touches the units that are on in the
minibatch, each for sure, and of all the others a random sample, chosen by popularity. A sampled unit i
that was included with probability π_i counts 1 / π_i times (Horvitz and Thompson, 1952), so that

    c + sum over touched i of w_i P(v_i = 1 | h) W_i        w_i = 1 in the minibatch, 1 / π_i in the sample

is on average exactly what the hidden units receive from the whole imagined row. Their probability is a
sigmoid of it and therefore a little off; how much is measured in docs/benchmarks.md.

Most touched units are on in a row or two of hundreds: all of them together make a small part of what is on,
and nearly all of the work. What a row imagines of such a unit differs little from row to row, so a part of
the rows tells as much as all of them. Units that are on in fewer than `WHOLE_FROM` rows of a minibatch, on
average over all users, are therefore imagined in a group of the rows only, chosen at random for each unit;
each row of the group counts as many times as there are groups. On average that, too, is the whole.

Untouched weights still decay, and repeat their last step with momentum. Both are linear, and the same for
every row, so a row catches up with everything it missed when it is next touched, in one 2 x 2 product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.contrastive_divergence import Gradient
from app.learning.rbm import RBM, Dense, Sparse, bernoulli, sigmoid
from app.learning.sparse_rows import RowsByUnit

ROWS_AT_ONCE = 256  # weights rows that are changed at once, so that they stay in the cache between passes
WHOLE_FROM = 8.0
ROWS_OF_A_GROUP = 50


@dataclass(frozen=True, eq=False)
class Touched:
    """The units that an update touches, and in which rows it imagines them.

    Attributes:
        units: their numbers; those that are imagined in every row come first, then group after group.
        importance: how many units each of them stands for: 1 in the minibatch, more in the sample.
        blocks: some units, as a slice of `units`, and the rows to imagine them in. Each unit is in one block.
    """

    units: NDArray[np.int64]
    importance: Dense
    blocks: list[tuple[slice, slice]]

    def imagined(self, part: RBM, state: Dense) -> tuple[list[Dense], Dense]:
        """What the hidden states make the touched units be, and what the hidden units receive from that.

        Args:
            part: the machine of the touched units.
            state: hidden states, shape (n, n_hidden).

        Returns:
            P(v = 1 | h) times how often it counts for each block, (units, rows); and for the hidden units
            c + v' W, (n, n_hidden).
        """
        received: Dense = np.tile(part.hidden_bias, (state.shape[0], 1))
        found = []
        for units, rows in self.blocks:
            weights = part.weights[units]
            log_odds = weights @ state[rows].T
            log_odds += part.visible_bias[units, None]
            probability = sigmoid(log_odds)
            stands_for = self.importance[units] * (state.shape[0] / (rows.stop - rows.start))
            probability *= stands_for.astype(probability.dtype)[:, None]
            received[rows] += probability.T @ weights
            found.append(probability)
        return found, received


class SampledContrastiveDivergence:
    """CD-1 with momentum and weight decay whose negative phase is sampled; the machine changes in place.

    Between `settle`s the weights of untouched units are those of their last touch: look at the machine only
    after a `settle`, which is one pass over all weights, meant for the end of an epoch.

    Args:
        rbm: the machine; all visible units are observed in every row.
        popularity: how often each unit is on, shape (n_visible,); the sample is drawn in proportion.
        n_sampled: expected number of units that are touched beside those of the minibatch; n_visible or more
            takes every unit in every row, which makes this plain CD-1.
        momentum: share of the last step that the next one repeats.
        weight_decay: pull of the weights towards zero, in units of the learning rate.
        rng: draws hidden states; the sample of units has a generator of its own, spawned from this one.
        rows_of_a_group: about how many rows a unit that is seldom on is imagined in; None: ROWS_OF_A_GROUP.
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
        rows_of_a_group: int | None = None,
    ) -> None:
        self._rbm = rbm
        self._attraction = popularity + 0.5  # a unit that was never on is imagined too, now and then
        self._n_sampled = n_sampled
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._rng = rng
        self._rng_of_units = rng.spawn(1)[0]
        self._rows_of_a_group = rows_of_a_group or ROWS_OF_A_GROUP
        self._step = Gradient.zeros(rbm)
        self._place = np.zeros(rbm.n_visible, np.int32)  # of a touched unit among the touched ones
        # Weights, last step and gradient of the touched units, kept: new memory costs a pass by itself.
        self._buffers: list[Dense] = [np.empty((0, rbm.n_hidden), rbm.weights.dtype)] * 3
        # _missed[t] leads from (weights, last step) after update t to where they stand now; see `_catch_up`.
        self._missed = np.eye(2)[None]
        self._current_at = np.zeros(rbm.n_visible, np.int64)  # the update after which each row was left

    def update(self, visible: Sparse, learning_rate: float) -> None:
        """One step of gradient ascent on a minibatch, whose rows are in random order.

        Args:
            visible: CSR rows of shape (n, n_visible); what they do not store is an observed 0.
            learning_rate: per mean log-likelihood of a row.
        """
        rbm, last, n = self._rbm, self._step, visible.shape[0]
        touched = self.touched(visible)
        units = touched.units
        if units.size > self._buffers[0].shape[0]:
            self._buffers = [np.empty((units.size, rbm.n_hidden), rbm.weights.dtype) for _ in range(3)]
        weights, step, uphill = (buffer[: units.size] for buffer in self._buffers)
        for some in _parts(units.size):
            weights[some], step[some] = rbm.weights[units[some]], last.weights[units[some]]
            self._catch_up(weights[some], step[some], units[some])

        part = RBM(weights, rbm.visible_bias[units], rbm.hidden_bias)
        self._place[units] = np.arange(units.size, dtype=np.int32)
        rows = RowsByUnit.of(
            sp.csr_array((visible.data, self._place[visible.indices], visible.indptr), shape=(n, units.size))
        )
        hidden = part.hidden_probability(rows)
        imagined, received = touched.imagined(part, bernoulli(hidden, self._rng))
        hidden_ = sigmoid(received)

        # The gradient times the learning rate.
        share = learning_rate / n
        negative = hidden_ * -share
        for (of_units, of_rows), probability in zip(touched.blocks, imagined, strict=True):
            np.matmul(probability, negative[of_rows], out=uphill[of_units])
        rows.add_product(hidden * share, uphill)
        of_visible = rows.sums()
        of_visible -= np.concatenate([probability.sum(axis=1) for probability in imagined])

        momentum, shrink = self._momentum, learning_rate * self._weight_decay
        for some in _parts(units.size):
            step[some] *= momentum
            step[some] += uphill[some]
            step[some] -= np.multiply(weights[some], shrink, out=uphill[some])
            weights[some] += step[some]
            rbm.weights[units[some]], last.weights[units[some]] = weights[some], step[some]
        # The biases are vectors: a pass over all of them costs nothing.
        last.visible_bias *= momentum
        last.visible_bias[units] += share * of_visible
        last.hidden_bias *= momentum
        last.hidden_bias += share * (hidden.sum(axis=0) - hidden_.sum(axis=0))
        rbm.visible_bias[...] += last.visible_bias
        rbm.hidden_bias[...] += last.hidden_bias

        without_gradient = np.array([[1 - shrink, momentum], [-shrink, momentum]])
        self._missed = np.concatenate((without_gradient @ self._missed, np.eye(2)[None]))
        self._current_at[units] = len(self._missed) - 1

    def settle(self) -> None:
        """Bring all weights to where they stand now."""
        rbm, last = self._rbm, self._step
        for rows in _parts(rbm.n_visible):
            self._catch_up(rbm.weights[rows], last.weights[rows], rows)
        self._missed = np.eye(2)[None]
        self._current_at[:] = 0

    def touched(self, visible: Sparse) -> Touched:
        """The units to touch for a minibatch: its own, and a sample of the others."""
        n, dtype = visible.shape[0], self._rbm.weights.dtype
        is_touched = np.zeros(self._rbm.n_visible, np.bool_)
        if self._n_sampled >= is_touched.size:
            units = np.arange(is_touched.size)
            return Touched(units, np.ones(units.size, dtype), [(slice(0, units.size), slice(0, n))])
        is_touched[visible.indices] = True
        total = self._attraction[~is_touched].sum()
        inclusion = np.minimum(self._attraction * (self._n_sampled / max(total, 1.0)), 1.0)
        inclusion[is_touched] = 1.0
        units = np.flatnonzero(self._rng_of_units.random(inclusion.size) < inclusion)

        groups = max(1, n // self._rows_of_a_group)
        if groups == 1:
            blocks = [(slice(0, units.size), slice(0, n))]
        else:
            expected = self._attraction[units] * (visible.indices.size / self._attraction.sum())
            whole, others = units[expected >= WHOLE_FROM], units[expected < WHOLE_FROM]
            row = self._rng_of_units.integers(n, size=others.size)  # each unit belongs to the group of a row
            order = np.argsort(row)
            units = np.concatenate((whole, others[order]))
            of_rows = n * np.arange(groups + 1) // groups
            of_units = whole.size + np.searchsorted(row[order], of_rows)
            blocks = [(slice(0, whole.size), slice(0, n))]
            for first, last in itertools.pairwise(range(groups + 1)):
                blocks.append((slice(of_units[first], of_units[last]), slice(of_rows[first], of_rows[last])))
        return Touched(units, (1 / inclusion[units]).astype(dtype), blocks)

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


def _parts(n: int) -> Iterator[slice]:
    """`ROWS_AT_ONCE` of n rows after each other."""
    for start in range(0, n, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, n))

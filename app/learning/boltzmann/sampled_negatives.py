"""Contrastive divergence whose updates cost what the minibatch rated.

For huge catalogues.

A minibatch rates a small part of tens of thousands of movies. The positive phase is as
sparse as the ratings; a dense negative one would cost nearly everything. Here it
touches the units that are on in the minibatch, each for sure, and of all others a
random sample, chosen by popularity. A sampled unit i that was included with probability
π_i counts 1 / π_i times (Horvitz and Thompson, 1952), so that

    c + sum over touched i of w_i P(v_i = 1 | h) W_i
    w_i = 1 in the minibatch, 1 / π_i in the sample

is on average exactly what the hidden units receive from the whole reconstructed row.
Their probability is a sigmoid of it and therefore a little off; how much is measured in
docs/benchmarks.md.

Most touched units are on in a row or two of hundreds: together they make a small part
of what is on, and nearly all of the work. Their reconstructions differ little from row
to row. Units that are on in fewer than `WHOLE_FROM` rows of a minibatch, on average
over all users, are therefore reconstructed in a group of the rows only, chosen at
random for each unit; each row of the group counts as many times as there are groups. On
average that, too, is the whole.

Untouched weights still decay, and repeat their last step with momentum. Both are
linear, and equal for all units, so a unit catches up with everything it missed when it
is next touched, in one 2 x 2 product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.optimisers import Gradient
from app.learning.boltzmann.rbm import RBM, Dense, Sparse, bernoulli, sigmoid

UNITS_AT_ONCE = 256  # whose weights stay in the cache between passes: an update takes .7 of the time
WHOLE_FROM = 8.0
ROWS_OF_A_GROUP = 50


@dataclass(frozen=True)
class Block:
    """Touched units, and the rows of the minibatch that they are reconstructed in.

    Attributes:
        units: places among the touched units.
        rows: of the minibatch.
    """

    units: slice
    rows: slice


@dataclass(frozen=True, eq=False)
class Touched:
    """The units that an update touches.

    Attributes:
        units: their numbers; those reconstructed in every row come first, then group
            after group.
        importance: how many units each of them stands for: 1 in the minibatch, more in
            the sample.
        blocks: each unit is in one block.
    """

    units: NDArray[np.int64]
    importance: Dense
    blocks: list[Block]

    def reconstruction(self, rbm: RBM, state: Dense) -> Reconstruction:
        """The touched units by hidden states (n, n_hidden).

        Args:
            rbm: of the touched units.
            state: hidden states, shape (n, n_hidden).
        """
        hidden_input: Dense = np.tile(rbm.hidden_bias, (state.shape[0], 1))
        visible = []
        for block in self.blocks:
            weights = rbm.weights[block.units]
            log_odds = weights @ state[block.rows].T
            log_odds += rbm.visible_bias[block.units, None]
            probability = sigmoid(log_odds)
            groups = state.shape[0] / (block.rows.stop - block.rows.start)
            probability *= (self.importance[block.units] * groups).astype(probability.dtype)[:, None]
            hidden_input[block.rows] += probability.T @ weights
            visible.append(probability)
        return Reconstruction(visible, hidden_input)


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A sampled reconstruction of a minibatch.

    Attributes:
        visible: for each block P(v = 1 | h) times how often it counts, shape (units,
            rows).
        hidden_input: c + v' W, shape (n, n_hidden).
    """

    visible: list[Dense]
    hidden_input: Dense


class SampledContrastiveDivergence:
    """CD-1 with momentum and weight decay whose negative phase is sampled.

    The model changes in place. Between `settle`s the weights of untouched units are
    those of their last touch: look at the model only after a `settle`, which is one
    pass over all weights, meant for the end of an epoch. It takes its own steps, as
    only it knows which weights have missed which updates.

    Args:
        rbm: the model; all visible units are observed in every row.
        popularity: how often each unit is on, shape (n_visible,); the sample is drawn
            in proportion.
        n_sampled: expected number of units that are touched beside those of the
            minibatch; n_visible or more takes every unit in every row, which makes this
            plain CD-1.
        momentum: share of the last step that the next one repeats.
        weight_decay: pull of the weights towards zero, in units of the learning rate.
        rng: draws hidden states; the sample of units has a generator of its own,
            spawned from it.
        rows_of_a_group: about how many rows a unit that is seldom on is reconstructed
            in; None: ROWS_OF_A_GROUP.
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
        self._attraction = popularity + 0.5  # a unit that was never on is touched too, now and then
        self._n_sampled = n_sampled
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._rng = rng
        self._rng_of_units = rng.spawn(1)[0]
        self._rows_of_a_group = rows_of_a_group or ROWS_OF_A_GROUP
        # The last step, as `SGD` keeps it.
        self._step = Gradient(*map(np.zeros_like, rbm.parameters))
        self._place = np.zeros(rbm.n_visible, np.int32)  # of a touched unit among the touched ones
        # _missed[t] leads from (weights, last step) after update t to where they stand
        # now; see `_catch_up`.
        self._missed = np.eye(2)[None]
        self._current_at = np.zeros(rbm.n_visible, np.int64)  # the update after which each row was left

    def update(self, visible: Sparse, learning_rate: float) -> None:
        """One step of gradient ascent on a minibatch, whose rows are in random order.

        Args:
            visible: CSR rows of shape (n, n_visible); what they do not store is an
                observed 0.
            learning_rate: per mean log-likelihood of a row.
        """
        rbm, last = self._rbm, self._step
        touched = self.touched(visible)
        units = touched.units
        weights = np.empty((units.size, rbm.n_hidden), rbm.weights.dtype)
        step = np.empty_like(weights)
        for part in _parts(units.size):
            weights[part], step[part] = rbm.weights[units[part]], last.weights[units[part]]
            self._catch_up(weights[part], step[part], units[part])
        of_touched = RBM(weights, rbm.visible_bias[units], rbm.hidden_bias)
        gradient = self._gradient(of_touched, touched, visible)

        momentum, shrink = self._momentum, learning_rate * self._weight_decay
        gradient.weights[...] *= learning_rate
        for part in _parts(units.size):
            step[part] *= momentum
            step[part] += gradient.weights[part]
            step[part] -= shrink * weights[part]
            weights[part] += step[part]
            rbm.weights[units[part]], last.weights[units[part]] = weights[part], step[part]
        # The biases are vectors: a pass over all of them costs nothing.
        for bias_step in (last.visible_bias, last.hidden_bias):
            bias_step *= momentum
        last.visible_bias[units] += learning_rate * gradient.visible_bias
        last.hidden_bias[...] += learning_rate * gradient.hidden_bias
        rbm.visible_bias[...] += last.visible_bias
        rbm.hidden_bias[...] += last.hidden_bias

        without_gradient = np.array([[1 - shrink, momentum], [-shrink, momentum]])
        self._missed = np.concatenate((without_gradient @ self._missed, np.eye(2)[None]))
        self._current_at[units] = len(self._missed) - 1

    def _gradient(self, rbm: RBM, touched: Touched, visible: Sparse) -> Gradient:
        """The gradient for the RBM of the touched units."""
        n = visible.shape[0]
        self._place[touched.units] = np.arange(touched.units.size, dtype=np.int32)
        rows = sp.csr_array(
            (visible.data, self._place[visible.indices], visible.indptr), shape=(n, rbm.n_visible)
        )
        hidden = rbm.hidden_probability(rows)
        negative = touched.reconstruction(rbm, bernoulli(hidden, self._rng))
        hidden_ = sigmoid(negative.hidden_input)
        weights: Dense = rows.T @ (hidden / n)
        for block, visible_ in zip(touched.blocks, negative.visible, strict=True):
            weights[block.units] -= visible_ @ (hidden_[block.rows] / n)
        sums = np.concatenate([visible_.sum(axis=1) for visible_ in negative.visible])
        return Gradient(
            weights, (rows.sum(axis=0) - sums) / n, (hidden.sum(axis=0) - hidden_.sum(axis=0)) / n
        )

    def settle(self) -> None:
        """Bring all weights to where they stand now."""
        rbm, last = self._rbm, self._step
        for units in _parts(rbm.n_visible):
            self._catch_up(rbm.weights[units], last.weights[units], units)
        self._missed = np.eye(2)[None]
        self._current_at[:] = 0

    def touched(self, visible: Sparse) -> Touched:
        """The units to touch for a minibatch: its own, and a sample of the others."""
        n, dtype = visible.shape[0], self._rbm.weights.dtype
        is_touched = np.zeros(self._rbm.n_visible, np.bool_)
        if self._n_sampled >= is_touched.size:
            units = np.arange(is_touched.size)
            return Touched(units, np.ones(units.size, dtype), [Block(slice(0, units.size), slice(0, n))])
        is_touched[visible.indices] = True
        total = self._attraction[~is_touched].sum()
        inclusion = np.minimum(self._attraction * (self._n_sampled / max(total, 1.0)), 1.0)
        inclusion[is_touched] = 1.0
        units = np.flatnonzero(self._rng_of_units.random(inclusion.size) < inclusion)

        groups = max(1, n // self._rows_of_a_group)
        if groups == 1:
            blocks = [Block(slice(0, units.size), slice(0, n))]
        else:
            expected = self._attraction[units] * (visible.indices.size / self._attraction.sum())
            whole, others = units[expected >= WHOLE_FROM], units[expected < WHOLE_FROM]
            row = self._rng_of_units.integers(n, size=others.size)  # each unit belongs to the group of a row
            order = np.argsort(row)
            units = np.concatenate((whole, others[order]))
            of_rows = n * np.arange(groups + 1) // groups
            of_units = whole.size + np.searchsorted(row[order], of_rows)
            blocks = [Block(slice(0, whole.size), slice(0, n))]
            for first, last in itertools.pairwise(range(groups + 1)):
                blocks.append(
                    Block(slice(of_units[first], of_units[last]), slice(of_rows[first], of_rows[last]))
                )
        return Touched(units, (1 / inclusion[units]).astype(dtype), blocks)

    def _catch_up(self, weights: Dense, step: Dense, units: NDArray[np.int64] | slice) -> None:
        """Apply in place what these units have missed since they were last touched.

        Without a gradient an update is step' = momentum * step - shrink * weights,
        weights' = weights + step': a 2 x 2 matrix, and several in a row are their
        product.
        """
        missed = self._missed[self._current_at[units]].astype(weights.dtype)  # (n, 2, 2)
        from_weights = missed[:, 1, 0, None] * weights
        weights *= missed[:, 0, 0, None]
        weights += missed[:, 0, 1, None] * step
        step *= missed[:, 1, 1, None]
        step += from_weights


def _parts(n: int) -> Iterator[slice]:
    """`UNITS_AT_ONCE` of n units after each other."""
    return (slice(start, min(start + UNITS_AT_ONCE, n)) for start in range(0, n, UNITS_AT_ONCE))

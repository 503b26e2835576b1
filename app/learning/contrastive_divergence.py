"""Learning: the gradient of the log-likelihood by contrastive divergence, and the step that follows it.

The gradient of the mean log-likelihood is a difference of two averages (Hinton, 2002):

    dW = <v h'> where v is data  -  <v h'> where v comes from the machine        (b: <v>, c: <h>)

The first is the positive phase. The second, the negative phase, would need the machine's own distribution;
CD-k takes k Gibbs steps from the data instead, PCD (Tieleman, 2008) goes on from chains that persist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sp

from app.learning.rbm import RBM, Dense, Harmonium, Sparse, Visible, bernoulli, bernoulli_ones, sigmoid
from app.learning.sparse_rows import RowsByUnit

# A multiplication of a sparse product takes as long as five of a dense float32 one where rows lie unit by
# unit, and as six to twelve where they lie row by row (OpenBLAS), and a unit that is on costs more to draw
# than one that is off: from about this share of stored entries on, the dense way gains.
LARGEST_SPARSE_SHARE = 0.1
CACHED = 2**17  # bytes of each of a few arrays that stay in the cache from one pass to the next


@dataclass(frozen=True, eq=False)
class Phase:
    """One phase's part in the gradient of the weights, scale * v' h, not yet multiplied out.

    Attributes:
        visible: shape (n, n_visible).
        hidden: shape (n, n_hidden).
        scale: a factor; it is the smaller array that is multiplied by it, never all weights.
    """

    visible: Dense | RowsByUnit
    hidden: Dense
    scale: float = 1.0

    def add_to(self, total: Dense) -> None:
        """Add scale * v' h to an array of shape (n_visible, n_hidden)."""
        if isinstance(self.visible, RowsByUnit):
            self.visible.add_product(self.hidden * self.scale, total)
        else:
            total += self.visible.T @ (self.hidden * self.scale)


class Gradient:
    """A direction for the parameters of an RBM, each array in the shape of its parameter.

    Args:
        weights: shape (n_visible, n_hidden), or the phases that it is the sum of: those are multiplied out
            when `weights` is asked for, and never if the sparse ones are only added to another array.
        visible_bias: shape (n_visible,).
        hidden_bias: shape (n_hidden,).
    """

    def __init__(self, weights: Dense | tuple[Phase, ...], visible_bias: Dense, hidden_bias: Dense) -> None:
        self._weights = weights
        self.visible_bias = visible_bias
        self.hidden_bias = hidden_bias

    @classmethod
    def zeros(cls, rbm: Harmonium) -> Self:
        """A direction that leads nowhere."""
        return cls(
            np.zeros_like(rbm.weights), np.zeros_like(rbm.visible_bias), np.zeros_like(rbm.hidden_bias)
        )

    @property
    def weights(self) -> Dense:
        """Shape (n_visible, n_hidden); the same array each time."""
        if isinstance(self._weights, tuple):
            self._weights = self._multiplied_out(self._weights)
        return self._weights

    def times(self, factor: float) -> Gradient:
        """So many times as far; the arrays of this gradient are used up."""
        weights = self._weights
        if isinstance(weights, tuple):
            weights = tuple(Phase(one.visible, one.hidden, one.scale * factor) for one in weights)
        else:
            weights *= factor
        return Gradient(weights, self.visible_bias * factor, self.hidden_bias * factor)

    @property
    def is_sparse(self) -> bool:
        """Whether the weights can be added to an array without an array of their own."""
        phases = self._weights
        return isinstance(phases, tuple) and all(isinstance(phase.visible, RowsByUnit) for phase in phases)

    def add_weights_to(self, total: Dense) -> None:
        """Add `weights` to an array of their shape."""
        if self.is_sparse and isinstance(self._weights, tuple):
            for phase in self._weights:
                phase.add_to(total)
        else:
            total += self.weights

    def _multiplied_out(self, phases: tuple[Phase, ...]) -> Dense:
        # The product of a dense phase is where all others are added.
        total: Dense | None = None
        left = []
        for phase in phases:
            if total is None and not isinstance(phase.visible, RowsByUnit):
                total = phase.visible.T @ (phase.hidden * phase.scale)
            else:
                left.append(phase)
        if total is None:
            total = np.zeros((self.visible_bias.size, self.hidden_bias.size), phases[0].hidden.dtype)
        for phase in left:
            phase.add_to(total)
        return total


def phase_difference(
    positive: tuple[Visible | RowsByUnit, Dense], negative: tuple[Visible | RowsByUnit, Dense]
) -> Gradient:
    """<v h'>, <v> and <h> of the positive phase minus those of the negative one.

    Each phase is a pair of visible rows (n, n_visible) and hidden rows (n, n_hidden) and is averaged over
    its own n, so that a short last minibatch does not tilt the balance.
    """
    (visible, hidden), (visible_, hidden_) = positive, negative
    visible, visible_ = by_unit(visible), by_unit(visible_)
    n, n_ = hidden.shape[0], hidden_.shape[0]
    return Gradient(
        (Phase(visible, hidden, 1 / n), Phase(visible_, hidden_, -1 / n_)),
        # Each phase is summed by itself, so that units which are equal in both get exactly 0.
        _sums(visible) / n - _sums(visible_) / n_,
        hidden.sum(axis=0) / n - hidden_.sum(axis=0) / n_,
    )


def by_unit(visible: Visible | RowsByUnit) -> Dense | RowsByUnit:
    """The rows as learning takes them: sparse ones unit by unit, dense ones as they are."""
    return RowsByUnit.of(visible) if isinstance(visible, sp.csr_array) else visible


def _sums(visible: Dense | RowsByUnit) -> Dense:
    """Shape (n_visible,), in the dtype of the rows."""
    if isinstance(visible, RowsByUnit):
        return visible.sums()
    result: Dense = visible.sum(axis=0)
    return result


def compact(visible: Dense) -> Visible:
    """The same rows as CSR if few of their entries are on, which makes products with them cheaper.

    Sampled rows of a machine of ratings are as sparse as the ratings: half of all multiplications fall away.
    """
    n, n_visible = visible.shape
    on = visible != 0
    if np.count_nonzero(on) > LARGEST_SPARSE_SHARE * visible.size:
        return visible
    places = np.flatnonzero(on)
    starts = np.arange(n + 1) * n_visible
    indptr = np.searchsorted(places, starts)
    columns = places - np.repeat(starts[:-1], np.diff(indptr))
    return sp.csr_array(
        (visible.ravel()[places], columns.astype(np.int32), indptr.astype(np.int32)), shape=visible.shape
    )


def sampled_visible(rbm: Harmonium, hidden: Dense, rng: np.random.Generator) -> Dense | RowsByUnit:
    """v ~ P(v | h): dense, or unit by unit if few units are on.

    Bernoulli units that are seldom on are drawn without a probability for each of them, see `bernoulli_ones`.
    """
    if not isinstance(rbm, RBM):
        return by_unit(compact(rbm.sample_visible(hidden, rng)))
    log_odds = rbm.visible_input_by_unit(hidden)
    largest = LARGEST_SPARSE_SHARE * log_odds.size
    if np.count_nonzero(log_odds > 0) > largest:  # about as many will be on
        return bernoulli(sigmoid(log_odds), rng).T
    ones = bernoulli_ones(log_odds, rng)
    if ones.size > largest:
        dense = np.zeros_like(log_odds)
        dense.ravel()[ones] = 1
        return dense.T
    return RowsByUnit.of_ones(ones, rbm.n_visible, hidden.shape[0], log_odds.dtype)


def _visible_mean(rbm: Harmonium, hidden: Dense) -> Dense:
    """`rbm.visible_mean`, in the layout that the products are quickest with."""
    if not isinstance(rbm, RBM):
        return rbm.visible_mean(hidden)
    return sigmoid(rbm.visible_input_by_unit(hidden)).T


def cd_gradient(
    rbm: Harmonium,
    visible: Visible | RowsByUnit,
    k: int,
    rng: np.random.Generator,
    *,
    sample_last: bool = False,
) -> Gradient:
    """CD-k where every visible unit is observed.

    The last half-step uses means in place of samples, unless `sample_last`, which takes noise out of the
    gradient and changes what it tends to only slightly (Hinton, 2010, section 3): a mean-field row has no
    variance of its own, so <v h'> falls a little short. Only with `sample_last` is the limit of large k the
    gradient itself.

    Args:
        rbm: the machine.
        visible: a minibatch, shape (n, n_visible).
        k: Gibbs steps of the negative phase.
        rng: draws the hidden states, and the visible ones of all steps but the last.
        sample_last: draw the last visible states too.
    """
    visible = by_unit(visible)
    hidden = rbm.hidden_probability(visible)
    state = bernoulli(hidden, rng)
    for _ in range(k - 1):
        state = rbm.sample_hidden(sampled_visible(rbm, state, rng), rng)
    imagined = sampled_visible(rbm, state, rng) if sample_last else _visible_mean(rbm, state)
    return phase_difference((visible, hidden), (imagined, rbm.hidden_probability(imagined)))


def masked_visible_probability(
    rbm: RBM, hidden: Dense, mask: Sparse, n_imagined: int | None = None
) -> Sparse:
    """P(v_i = 1 | h) at the entries that the mask stores, and nothing elsewhere.

    Args:
        rbm: the machine.
        hidden: shape (n, n_hidden).
        mask: CSR of shape (n, n_visible); only where it stores entries matters, not which.
        n_imagined: from this unit on the mask's own values are passed on. None: no unit is excepted.
    """
    rows, columns = np.repeat(np.arange(mask.shape[0]), np.diff(mask.indptr)), mask.indices
    if n_imagined is not None:
        imagined = columns < n_imagined
        rows, columns = rows[imagined], columns[imagined]
    log_odds = np.einsum("ij,ij->i", hidden[rows], rbm.weights[columns])
    log_odds += rbm.visible_bias[columns]
    probability = sigmoid(log_odds)
    if n_imagined is not None:
        values = mask.data.astype(probability.dtype)
        values[imagined] = probability
        probability = values
    return sp.csr_array((probability, mask.indices, mask.indptr), shape=mask.shape)


def masked_cd_gradient(
    rbm: RBM, visible: Sparse, k: int, rng: np.random.Generator, n_imagined: int | None = None
) -> Gradient:
    """CD-k where only the stored entries of a row are observed, the others take no part.

    The arguments are those of `cd_gradient`; a unit that no row of the minibatch stores gets a gradient of 0.
    Units from `n_imagined` on are conditions: they are the same in both phases, so that their weights learn
    what they say about the hidden units, and they are never predicted themselves (Salakhutdinov, Mnih and
    Hinton, 2007, section 4: the weights of the conditions are the matrix D there).
    """
    hidden = rbm.hidden_probability(visible)
    state = bernoulli(hidden, rng)
    for _ in range(k - 1):
        imagined = masked_visible_probability(rbm, state, visible, n_imagined)
        drawn = slice(None) if n_imagined is None else visible.indices < n_imagined
        imagined.data[drawn] = bernoulli(imagined.data[drawn], rng)
        state = rbm.sample_hidden(imagined, rng)
    imagined = masked_visible_probability(rbm, state, visible, n_imagined)
    return phase_difference((visible, hidden), (imagined, rbm.hidden_probability(imagined)))


class PersistentChains:
    """Gibbs chains that follow the machine as it learns, and so forget the data they started from.

    Args:
        hidden: the first states, zeros and ones of shape (n_chains, n_hidden).
    """

    def __init__(self, hidden: Dense) -> None:
        self.hidden = hidden

    def advance(self, rbm: Harmonium, k: int, rng: np.random.Generator) -> tuple[Dense | RowsByUnit, Dense]:
        """k Gibbs steps of every chain.

        Returns:
            The visible states (n_chains, n_visible) and the hidden probabilities (n_chains, n_hidden).
        """
        for _ in range(k):
            visible = sampled_visible(rbm, self.hidden, rng)
            probability = rbm.hidden_probability(visible)
            self.hidden = bernoulli(probability, rng)
        return visible, probability


def pcd_gradient(
    rbm: Harmonium,
    visible: Visible | RowsByUnit,
    chains: PersistentChains,
    k: int,
    rng: np.random.Generator,
) -> Gradient:
    """Persistent CD: the data's positive phase against the chains' negative one, each over its own number."""
    visible = by_unit(visible)
    return phase_difference((visible, rbm.hidden_probability(visible)), chains.advance(rbm, k, rng))


class Momentum:
    """Gradient ascent with momentum and weight decay (Hinton, 2010, sections 9 and 10).

        step = momentum * last step + learning_rate * (gradient - weight_decay * weights)

    Biases do not decay. The machine's arrays are changed in place.
    """

    def __init__(self, rbm: Harmonium, momentum: float, weight_decay: float) -> None:
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._last = Gradient.zeros(rbm)
        self._rows_at_once = max(1, CACHED // (rbm.n_hidden * rbm.weights.itemsize))
        self._scratch = np.empty((self._rows_at_once, rbm.n_hidden), rbm.weights.dtype)

    def ascend(
        self, rbm: Harmonium, gradient: Gradient, learning_rate: float, momentum: float | None = None
    ) -> None:
        """Take one step along the gradient, whose arrays are used up.

        Args:
            rbm: the machine.
            gradient: uphill.
            learning_rate: of this step.
            momentum: of this step, where it is not that of all steps.
        """
        if momentum is None:
            momentum = self._momentum
        step, last = gradient.times(float(learning_rate)), self._last
        shrink = float(learning_rate) * self._weight_decay
        if momentum:
            for bias, uphill in (
                (last.visible_bias, step.visible_bias),
                (last.hidden_bias, step.hidden_bias),
            ):
                bias *= momentum
                bias += uphill
            if step.is_sparse:
                np.multiply(last.weights, momentum, out=last.weights)
                step.add_weights_to(last.weights)
                self._go(rbm.weights, last.weights, shrink)
            else:
                self._go(rbm.weights, last.weights, shrink, momentum, step.weights)
            step = last
        elif shrink:
            self._go(rbm.weights, step.weights, shrink)
        else:
            step.add_weights_to(rbm.weights)
        for bias, change in (
            (rbm.visible_bias, step.visible_bias),
            (rbm.hidden_bias, step.hidden_bias),
        ):
            bias += change
        self._last = step

    def _go(
        self,
        weights: Dense,
        step: Dense,
        shrink: float,
        momentum: float = 1.0,
        uphill: Dense | None = None,
    ) -> None:
        """step = momentum * step + uphill - shrink * weights; weights += step. A part of them after another.

        All weights may outgrow the caches, and each line is a pass over them.
        """
        for start in range(0, weights.shape[0], self._rows_at_once):
            rows = slice(start, start + self._rows_at_once)
            some_weights, some_steps = weights[rows], step[rows]
            if uphill is not None:
                some_steps *= momentum
                some_steps += uphill[rows]
            if shrink:
                some_steps -= np.multiply(some_weights, shrink, out=self._scratch[: some_weights.shape[0]])
            some_weights += some_steps


def cosine_rate(start: float, final_share: float, done: float) -> float:
    """A learning rate that falls from `start` to `final_share * start` along half a cosine.

    Args:
        start: the first rate.
        final_share: the last rate as a share of the first.
        done: share of all updates taken so far, 0 to 1.
    """
    return start * (final_share + (1 - final_share) * 0.5 * (1 + float(np.cos(np.pi * done))))

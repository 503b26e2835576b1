"""Learning: the gradient of the log-likelihood by contrastive divergence, and the step that follows it.

The gradient of the mean log-likelihood is a difference of two averages (Hinton, 2002):

    dW = <v h'> where v is data  -  <v h'> where v comes from the machine        (b: <v>, c: <h>)

The first is the positive phase. The second, the negative phase, would need the machine's own distribution;
CD-k takes k Gibbs steps from the data instead, PCD (Tieleman, 2008) goes on from chains that persist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.rbm import RBM, Dense, Harmonium, Sparse, Visible, bernoulli, bernoulli_ones, sigmoid

# A multiplication of SciPy's sparse product takes as long as six of a dense float32 one (OpenBLAS, AVX2), and
# twelve with AVX-512; so from this share of stored entries on, the dense product is the faster one.
LARGEST_SPARSE_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Gradient:
    """A direction for the parameters of an RBM, each array in the shape of its parameter.

    Attributes:
        weights: shape (n_visible, n_hidden).
        visible_bias: shape (n_visible,).
        hidden_bias: shape (n_hidden,).
    """

    weights: Dense
    visible_bias: Dense
    hidden_bias: Dense

    @classmethod
    def zeros(cls, rbm: Harmonium) -> Self:
        """A direction that leads nowhere."""
        return cls(
            np.zeros_like(rbm.weights), np.zeros_like(rbm.visible_bias), np.zeros_like(rbm.hidden_bias)
        )


def phase_difference(positive: tuple[Visible, Dense], negative: tuple[Visible, Dense]) -> Gradient:
    """<v h'>, <v> and <h> of the positive phase minus those of the negative one.

    Each phase is a pair of visible rows (n, n_visible) and hidden rows (n, n_hidden) and is averaged over
    its own n, so that a short last minibatch does not tilt the balance.
    """
    (visible, hidden), (visible_, hidden_) = positive, negative
    n, n_ = hidden.shape[0], hidden_.shape[0]
    weights: Dense
    if isinstance(visible, sp.csr_array) and isinstance(visible_, sp.csr_array):
        # One sparse product instead of two and their difference: two passes over all weights less.
        both = np.concatenate((hidden, hidden_))
        both[:n] /= n
        both[n:] /= -n_
        weights = _transposed(visible, visible_) @ both
    else:
        weights = visible.T @ (hidden / n)
        weights -= visible_.T @ (hidden_ / n_)
    return Gradient(
        weights,
        # Each phase is summed by itself, so that units which are equal in both get exactly 0.
        _column_sums(visible) / n - _column_sums(visible_) / n_,
        hidden.sum(axis=0) / n - hidden_.sum(axis=0) / n_,
    )


def _transposed(above: Sparse, below: Sparse) -> sp.csc_array[Any]:
    """The transpose of the rows of both, one below the other: CSR arrays read as CSC."""
    indptr = np.concatenate((above.indptr, below.indptr[1:] + above.indptr[-1]))
    indices = np.concatenate((above.indices, below.indices))
    data = np.concatenate((above.data, below.data))
    return sp.csc_array((data, indices, indptr), shape=(above.shape[1], indptr.size - 1))


def _column_sums(visible: Visible) -> Dense:
    """Shape (n_visible,), in the dtype of the rows."""
    if isinstance(visible, sp.csr_array):
        sums = np.bincount(visible.indices, visible.data, visible.shape[1])
        return sums.astype(visible.dtype, copy=False)
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


def sampled_visible(rbm: Harmonium, hidden: Dense, rng: np.random.Generator) -> Visible:
    """v ~ P(v | h), as `compact` has it: dense, or CSR if few units are on.

    Bernoulli units that are seldom on are drawn without a probability for each of them, see `bernoulli_ones`.
    """
    if not isinstance(rbm, RBM):
        return compact(rbm.sample_visible(hidden, rng))
    log_odds = rbm.visible_input_by_unit(hidden)
    largest = LARGEST_SPARSE_SHARE * log_odds.size
    if np.count_nonzero(log_odds > 0) > largest:  # about as many will be on
        return bernoulli(sigmoid(log_odds), rng).T
    ones = bernoulli_ones(log_odds, rng)
    if ones.size > largest:
        by_unit = np.zeros_like(log_odds)
        by_unit.ravel()[ones] = 1
        return by_unit.T
    return _by_row(ones, log_odds.shape, log_odds.dtype)


def _by_row(ones: NDArray[np.intp], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Sparse:
    """The CSR array of shape (n, n_visible) with ones at ascending places of its transpose."""
    n_visible, n = shape
    # Narrow integers: dividing is several times quicker, and 16 bits are sorted by counting.
    places: NDArray[np.integer[Any]] = ones.astype(np.uint32 if n_visible * n < 2**32 else np.int64)
    units = places // n
    rows = (places - units * n).astype(np.uint16 if n <= 2**16 else np.int64)
    indptr = np.zeros(n + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=n), out=indptr[1:])
    indices = units[np.argsort(rows, kind="stable")].astype(np.int32)
    return sp.csr_array((np.ones(ones.size, dtype), indices, indptr), shape=(n, n_visible))


def _visible_mean(rbm: Harmonium, hidden: Dense) -> Dense:
    """`rbm.visible_mean`, in the layout that the products are quickest with."""
    if not isinstance(rbm, RBM):
        return rbm.visible_mean(hidden)
    return sigmoid(rbm.visible_input_by_unit(hidden)).T


def cd_gradient(
    rbm: Harmonium, visible: Visible, k: int, rng: np.random.Generator, *, sample_last: bool = False
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

    def advance(self, rbm: Harmonium, k: int, rng: np.random.Generator) -> tuple[Visible, Dense]:
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
    rbm: Harmonium, visible: Visible, chains: PersistentChains, k: int, rng: np.random.Generator
) -> Gradient:
    """Persistent CD: the data's positive phase against the chains' negative one, each over its own number."""
    return phase_difference((visible, rbm.hidden_probability(visible)), chains.advance(rbm, k, rng))


class Momentum:
    """Gradient ascent with momentum and weight decay (Hinton, 2010, sections 9 and 10).

        step = momentum * last step + learning_rate * (gradient - weight_decay * weights)

    Biases do not decay. The machine's arrays are changed in place.
    """

    def __init__(self, rbm: Harmonium, momentum: float, weight_decay: float) -> None:
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._step = Gradient.zeros(rbm)
        self._scratch = np.empty_like(rbm.weights if weight_decay else rbm.hidden_bias)

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
        if self._weight_decay:
            np.multiply(rbm.weights, self._weight_decay, out=self._scratch)
            gradient.weights[...] -= self._scratch
        last_step, self._step = self._step, gradient  # the gradient's arrays become the step
        # Each line below is a pass over an array that may outgrow the caches: no temporaries, none in vain.
        for parameter, last, step in (
            (rbm.weights, last_step.weights, gradient.weights),
            (rbm.visible_bias, last_step.visible_bias, gradient.visible_bias),
            (rbm.hidden_bias, last_step.hidden_bias, gradient.hidden_bias),
        ):
            step *= learning_rate
            if momentum:
                last *= momentum
                step += last
            parameter += step


def cosine_rate(start: float, final_share: float, done: float) -> float:
    """A learning rate that falls from `start` to `final_share * start` along half a cosine.

    Args:
        start: the first rate.
        final_share: the last rate as a share of the first.
        done: share of all updates taken so far, 0 to 1.
    """
    return start * (final_share + (1 - final_share) * 0.5 * (1 + float(np.cos(np.pi * done))))

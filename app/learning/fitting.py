"""Fit a machine to any matrix, dense or CSR: for those who use this package as a library.

`training.train` fits movie ratings and is what the service runs; here the parts are put together by hand:

    rbm = RBM.initial(log_odds_of_means(rows), 256, rng)
    gradient_of = contrastive_divergence(stairs(1, (0.5, 3)), rng)
    step = momentum_step(rbm, cosine(0.05), weight_decay=1e-4)
    for report in fit(rbm, rows, gradient_of, step, rng, epochs=20):
        print(report.epoch, report.reconstruction_error)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.ascent import Schedule, Step, WeightAverage, constant
from app.learning.contrastive_divergence import (
    Gradient,
    PersistentChains,
    cd_gradient,
    compact,
    pcd_gradient,
)
from app.learning.divergence import UPDATES_BETWEEN_CHECKS, Diverged, out_of_bounds, weight_norm
from app.learning.rbm import RBM, Dense, Harmonium, Visible, bernoulli
from app.learning.sparse_rows import RowsByUnit
from app.learning.visible_design import log_odds

SAMPLE_ROWS = 128  # rows that a report is measured on
SAMPLE_UNITS = 16  # visible units of each of them that the pseudo-log-likelihood is measured on

GradientOf: TypeAlias = Callable[[Harmonium, "Dense | RowsByUnit", float], Gradient]
"""(machine, minibatch, share of the training that is done) -> the direction uphill."""


@dataclass(frozen=True)
class FitReport:
    """How a machine stands after an epoch, measured on a fixed sample of at most 128 rows.

    Attributes:
        epoch: from 1.
        epochs: how many there will be.
        seconds: spent on this epoch's updates.
        reconstruction_error: mean squared difference of visible units and their mean-field reconstruction.
        pseudo_log_likelihood: mean of `RBM.score_samples`, over 16 random units of each row; None for
            visible units that are not Bernoulli.
        free_energy_gap: mean free energy of held-out rows minus that of training rows, in nats; it rises
            when the machine overfits. None without held-out rows.
        mean_hidden_activity: mean probability of the hidden units.
        weight_norm: root mean square of the weights.
    """

    epoch: int
    epochs: int
    seconds: float
    reconstruction_error: float
    pseudo_log_likelihood: float | None
    free_energy_gap: float | None
    mean_hidden_activity: float
    weight_norm: float


def log_odds_of_means(visible: Visible) -> Dense:
    """Visible biases that give each unit its mean before anything is learned (Hinton, 2010, section 8).

    Args:
        visible: values from 0 to 1, shape (n, n_visible).

    Returns:
        float64 of shape (n_visible,); half a row each way keeps a unit that never changes finite.
    """
    return log_odds(np.asarray(visible.sum(axis=0), np.float64).ravel(), visible.shape[0])


def standardised(visible: Dense) -> tuple[Dense, Dense, Dense]:
    """Each column with mean 0 and standard deviation 1, as Gaussian visible units want it.

    Args:
        visible: real numbers of shape (n, n_visible).

    Returns:
        The standardised rows, the means and the deviations; a column that never changes has deviation 1.
        `rows * deviations + means` leads back.
    """
    means, deviations = visible.mean(axis=0), visible.std(axis=0)
    deviations = np.where(deviations > 0, deviations, 1)
    return (visible - means) / deviations, means, deviations


def contrastive_divergence(
    k: int | Schedule, rng: np.random.Generator, *, sample_last: bool = False
) -> GradientOf:
    """CD-k, see `cd_gradient`.

    Args:
        k: Gibbs steps of the negative phase; a schedule is rounded to whole steps.
        rng: draws the states.
        sample_last: samples in place of means in the last half-step.
    """
    steps = _whole_steps(k)
    return lambda rbm, visible, done: cd_gradient(rbm, visible, steps(done), rng, sample_last=sample_last)


def persistent_contrastive_divergence(
    chains: PersistentChains, k: int | Schedule, rng: np.random.Generator
) -> GradientOf:
    """Persistent CD, see `pcd_gradient`; `random_chains` makes chains to begin with.

    Args:
        chains: any number of them, whatever the batch size; more make the gradient less noisy.
        k: Gibbs steps of every chain for each minibatch; a schedule is rounded to whole steps.
        rng: draws the states.
    """
    steps = _whole_steps(k)
    return lambda rbm, visible, done: pcd_gradient(rbm, visible, chains, steps(done), rng)


def random_chains(rbm: Harmonium, n_chains: int, rng: np.random.Generator) -> PersistentChains:
    """Chains that start at hidden states drawn by tossing a coin."""
    return PersistentChains(bernoulli(np.full((n_chains, rbm.n_hidden), 0.5, rbm.weights.dtype), rng))


def fit(
    rbm: Harmonium,
    visible: Visible,
    gradient_of: GradientOf,
    step: Step,
    rng: np.random.Generator,
    *,
    epochs: int = 10,
    batch_size: int = 10,
    average: WeightAverage[Any] | None = None,
    held_out: Visible | None = None,
) -> Generator[FitReport, None, None]:
    """Stochastic gradient ascent on the log-likelihood; the machine's parameters change in place.

    A generator, so that the caller decides what to do with a report, and may simply stop. Nothing happens
    until it is asked for the first one: `collections.deque(fit(...), maxlen=0)` runs it to the end.
    Called again it goes on from where the machine stands.

    Args:
        rbm: the machine to train.
        visible: rows of shape (n, n_visible), dense or any SciPy sparse kind; values from 0 to 1 for
            an `RBM`, real numbers for a `GaussianRBM`. They are converted to the dtype of the machine.
        gradient_of: `contrastive_divergence`, `persistent_contrastive_divergence` or one of your own.
        step: `momentum_step`, `adam_step` or one of your own.
        rng: shuffles the rows.
        epochs: passes over the rows.
        batch_size: rows in a minibatch; all are of this size, give or take one row.
        average: is told of every update.
        held_out: rows that are not trained on, for the free-energy gap only.

    Yields:
        A FitReport after every epoch.

    Raises:
        ValueError: no rows, rows of another width, values out of range or not finite.
        Diverged: within the epoch in which it happens.
    """
    rows = checked(rbm, visible)
    if isinstance(rows, np.ndarray):
        rows = compact(rows)
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs = {epochs} and batch_size = {batch_size} must be at least 1")
    measure = _measure_on(rbm, rows, None if held_out is None else checked(rbm, held_out), rng.spawn(1)[0])
    minibatches = math.ceil(rows.shape[0] / batch_size)
    updates = epochs * minibatches
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        order = rng.permutation(rows.shape[0])
        for number, minibatch in enumerate(_minibatches(rows, order, minibatches)):
            done = ((epoch - 1) * minibatches + number) / updates
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                step(rbm, gradient_of(rbm, minibatch, done), done)
            # A pass over all weights: not after every update, but before anybody is told of them.
            is_checked = (number + 1) % UPDATES_BETWEEN_CHECKS == 0 or number + 1 == minibatches
            if is_checked and out_of_bounds(rbm):
                raise Diverged(epoch, "learning_rate")
            if average is not None:
                average.update()
        yield measure(epoch, epochs, time.perf_counter() - started)


def _minibatches(rows: Visible, order: NDArray[np.int64], minibatches: int) -> Iterator[Dense | RowsByUnit]:
    """The rows in this order, in parts of equal size, give or take one row."""
    if isinstance(rows, np.ndarray):
        for chosen in np.array_split(order, minibatches):
            yield rows[chosen]
        return
    shuffled = rows[order]  # once for all: picking rows out of a CSR array takes long
    for chosen in np.array_split(np.arange(order.size), minibatches):
        yield RowsByUnit.of(shuffled, chosen[0], chosen[-1] + 1)


def checked(rbm: Harmonium, visible: Visible) -> Visible:
    """The rows in the dtype of the machine, as an array or a CSR array.

    Raises:
        ValueError: no rows, rows of another width, values out of range or not finite.
    """
    dtype: Any = rbm.weights.dtype
    sparse = bool(sp.issparse(visible))
    given: Any = visible
    rows: Visible = sp.csr_array(given, dtype=dtype) if sparse else np.asarray(given, dtype)
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
    return rows


def _whole_steps(k: int | Schedule) -> Callable[[float], int]:
    schedule = k if callable(k) else constant(k)
    return lambda done: max(1, round(schedule(done)))


def _measure_on(
    rbm: Harmonium, rows: Visible, held_out: Visible | None, rng: np.random.Generator
) -> Callable[[int, int, float], FitReport]:
    """A function that measures the machine as it is when called, on the same sample each time."""

    def sampled(all_rows: Visible) -> Visible:
        return all_rows[np.sort(rng.permutation(all_rows.shape[0])[:SAMPLE_ROWS])]

    sample = sampled(rows)
    unseen = None if held_out is None else sampled(held_out)
    units = rng.integers(rbm.n_visible, size=(sample.shape[0], SAMPLE_UNITS))

    def measure(epoch: int, epochs: int, seconds: float) -> FitReport:
        hidden = rbm.hidden_probability(sample)
        difference = rbm.visible_mean(hidden)
        difference -= sample.toarray() if isinstance(sample, sp.csr_array) else sample
        likelihood = gap = None
        if isinstance(rbm, RBM):
            likelihood = rbm.n_visible * float(rbm.conditional_log_probability(sample, units).mean())
        if unseen is not None:
            gap = float(rbm.free_energy(unseen).mean() - rbm.free_energy(sample).mean())
        return FitReport(
            epoch=epoch,
            epochs=epochs,
            seconds=seconds,
            reconstruction_error=float(np.square(difference).mean(dtype=np.float64)),
            pseudo_log_likelihood=likelihood,
            free_energy_gap=gap,
            mean_hidden_activity=float(hidden.mean()),
            weight_norm=weight_norm(rbm),
        )

    return measure

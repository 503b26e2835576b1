"""The normaliser Z of an RBM, and with it the likelihood of data: exact if small, else estimated.

log P(v) = -F(v) - log Z. Z sums over every state, so it can be listed for some twenty units only; annealed
importance sampling (Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", 2008)
estimates it for machines of any size and says how far off it may be. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from app.learning.rbm import RBM, Dense, Visible, bernoulli, sigmoid, softplus

MOST_ENUMERATED_UNITS = 24  # of the smaller layer; 16 million states
STATES_AT_ONCE = 4_096

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LogPartition:
    """An estimate of log Z.

    Attributes:
        value: log Z, in nats.
        error: standard error of `value`, in nats; 0 where it was enumerated.
        low: lower end of the interval of three standard errors of Z itself; -inf where the runs disagree so
            much that they set no bound.
        high: upper end of that interval.
        effective_runs: how many equally weighted runs would say as much. If it is a small share of the
            runs, then trust neither value nor error, and take more temperatures.
    """

    value: float
    error: float
    low: float
    high: float
    effective_runs: float


def exact_log_partition(rbm: RBM) -> LogPartition:
    """log Z by listing every state of the smaller layer; the other one is summed out in closed form.

    Raises:
        ValueError: both layers have more than 24 units.
    """
    weights, visible_bias, hidden_bias = _double(rbm)
    if rbm.n_visible > rbm.n_hidden:  # the sum over both layers does not care which one is called visible
        weights, visible_bias, hidden_bias = weights.T, hidden_bias, visible_bias
    n = visible_bias.size
    if n > MOST_ENUMERATED_UNITS:
        raise ValueError(
            f"the smaller layer has {n} units, and only {MOST_ENUMERATED_UNITS} can be enumerated: "
            "use annealed_importance_sampling"
        )
    parts = []
    for start in range(0, 2**n, STATES_AT_ONCE):
        numbers = np.arange(start, min(start + STATES_AT_ONCE, 2**n))
        states = ((numbers[:, None] >> np.arange(n)) & 1).astype(np.float64)
        parts.append(logsumexp(states @ visible_bias + softplus(states @ weights + hidden_bias).sum(axis=1)))
    value = float(logsumexp(parts))
    return LogPartition(value, 0.0, value, value, math.inf)


def annealed_importance_sampling(
    rbm: RBM,
    rng: np.random.Generator,
    *,
    base_bias: Dense | None = None,
    n_runs: int = 100,
    n_temperatures: int = 1_000,
) -> LogPartition:
    """log Z by annealed importance sampling (Salakhutdinov and Murray, 2008, section 4.1).

    Each run walks from a machine without weights, whose Z is known, to this one over

        p_t(v) ~ exp((1 - t) v·a + t v·b) * prod_j (1 + exp(t (c_j + (v W)_j))),    t from 0 to 1

    with one Gibbs step at each temperature, and is weighted by how much its states gain on the way. The
    weights' mean is Z / Z(0): unbiased, so log Z is a little too low rather than too high.

    Args:
        rbm: the machine.
        rng: draws the states.
        base_bias: a, shape (n_visible,): best the log-odds of the data's means. None takes the machine's
            own visible biases.
        n_runs: independent runs; the error falls with their square root.
        n_temperatures: steps from 0 to 1; more of them make the runs agree.
    """
    if n_runs < 2 or n_temperatures < 1:
        raise ValueError("an error needs at least 2 runs, and a run at least 1 temperature")
    weights, visible_bias, hidden_bias = _double(rbm)
    base = visible_bias if base_bias is None else np.asarray(base_bias, np.float64)

    def log_weight_at(visible: Dense, hidden_input: Dense, t: float) -> Dense:
        from_visible = visible @ ((1 - t) * base + t * visible_bias)
        result: Dense = from_visible + softplus(t * hidden_input).sum(axis=1)
        return result

    visible = bernoulli(np.tile(sigmoid(base), (n_runs, 1)), rng)
    hidden_input = visible @ weights + hidden_bias
    log_weights = np.zeros(n_runs)
    temperatures = np.linspace(0.0, 1.0, n_temperatures + 1)
    for colder, t in zip(temperatures[:-1].tolist(), temperatures[1:].tolist(), strict=True):
        log_weights += log_weight_at(visible, hidden_input, t) - log_weight_at(visible, hidden_input, colder)
        if t < 1:  # the states after the last weight would not be looked at
            hidden = bernoulli(sigmoid(t * hidden_input), rng)
            log_odds = (1 - t) * base + t * (visible_bias + hidden @ weights.T)
            visible = bernoulli(sigmoid(log_odds), rng)
            hidden_input = visible @ weights + hidden_bias

    log_base = float(softplus(base).sum()) + rbm.n_hidden * math.log(2)
    largest = log_weights.max()
    shares = np.exp(log_weights - largest)
    mean = float(shares.mean())
    error = float(shares.std(ddof=1)) / math.sqrt(n_runs) / mean  # of Z as a share of Z, so of log Z
    value = log_base + float(largest) + math.log(mean)
    return LogPartition(
        value=value,
        error=error,
        low=value + math.log1p(-3 * error) if 3 * error < 1 else -math.inf,
        high=value + math.log1p(3 * error),
        effective_runs=float(shares.sum() ** 2 / np.square(shares).sum()),
    )


def log_likelihood(rbm: RBM, visible: Visible, log_partition: LogPartition) -> Floats:
    """log P(v) = -F(v) - log Z of each row, in nats.

    Args:
        rbm: the machine.
        visible: zeros and ones, shape (n, n_visible).
        log_partition: of this machine.

    Returns:
        float64 of shape (n,).
    """
    result: Floats = -RBM(*_double(rbm)).free_energy(visible).astype(np.float64) - log_partition.value
    return result


def _double(rbm: RBM) -> tuple[Floats, Floats, Floats]:
    return (
        rbm.weights.astype(np.float64),
        rbm.visible_bias.astype(np.float64),
        rbm.hidden_bias.astype(np.float64),
    )

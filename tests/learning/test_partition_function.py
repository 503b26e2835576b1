"""log Z by enumeration against the definition, and annealed importance sampling against enumeration."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_digits

from app.learning.ascent import cosine, momentum_step
from app.learning.fitting import contrastive_divergence, fit, log_odds_of_means
from app.learning.partition_function import (
    annealed_importance_sampling,
    exact_log_partition,
    log_likelihood,
)
from app.learning.rbm import RBM
from tests.learning.enumeration import joint_probability, states, tiny_machine


def defined_log_partition(rbm: RBM) -> float:
    """The logarithm of the sum of exp(-energy) over every pair of states, by loops."""
    total = 0.0
    for v in states(rbm.n_visible):
        for h in states(rbm.n_hidden):
            total += math.exp(v @ rbm.visible_bias + h @ rbm.hidden_bias + v @ rbm.weights @ h)
    return math.log(total)


@pytest.mark.parametrize("shape", [(8, 6), (3, 7), (1, 1), (5, 5)])
def test_enumeration_of_the_smaller_layer_is_the_definition(shape: tuple[int, int]) -> None:
    rbm = tiny_machine(*shape)
    found = exact_log_partition(rbm)
    assert found.value == pytest.approx(defined_log_partition(rbm), abs=1e-10)
    assert (found.error, found.low, found.high) == (0.0, found.value, found.value)


def test_enumeration_in_blocks_and_with_more_than_a_block() -> None:
    rbm = tiny_machine(14, 15, deviation=0.3)
    transposed = RBM(rbm.weights.T.copy(), rbm.hidden_bias, rbm.visible_bias)
    assert exact_log_partition(rbm).value == pytest.approx(exact_log_partition(transposed).value, abs=1e-9)
    other_way = -rbm.free_energy(states(14))  # 2 ** 14 states, four blocks
    assert exact_log_partition(rbm).value == pytest.approx(np.logaddexp.reduce(other_way), abs=1e-9)


def test_a_machine_without_weights_has_a_closed_form_and_cannot_overflow() -> None:
    rbm = RBM(np.zeros((2, 3), np.float32), np.full(2, 900.0, np.float32), np.zeros(3, np.float32))
    expected = 2 * 900 + 3 * math.log(2)
    assert exact_log_partition(rbm).value == pytest.approx(expected)
    sampled = annealed_importance_sampling(rbm, np.random.default_rng(0), n_runs=3, n_temperatures=5)
    assert sampled.value == pytest.approx(expected)
    assert sampled.error == pytest.approx(0, abs=1e-12)


def test_too_many_units_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="annealed_importance_sampling"):
        exact_log_partition(tiny_machine(25, 25))


def test_likelihoods_are_the_enumerated_marginals_and_sum_to_one() -> None:
    rbm = tiny_machine(8, 6)
    everything = states(8)
    found = log_likelihood(rbm, everything, exact_log_partition(rbm))
    np.testing.assert_allclose(found, np.log(joint_probability(rbm).sum(axis=1)), atol=1e-9)
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-10)
    sparse = log_likelihood(rbm, sp.csr_array(everything), exact_log_partition(rbm))
    np.testing.assert_allclose(sparse, found, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(8, 6), (20, 12)])
def test_annealing_agrees_with_enumeration_within_its_error(shape: tuple[int, int], seed: int) -> None:
    rbm = tiny_machine(*shape, seed=seed)
    exact = exact_log_partition(rbm).value
    found = annealed_importance_sampling(rbm, np.random.default_rng(seed), n_temperatures=300)
    assert found.error < 0.1
    assert found.low <= exact <= found.high
    assert found.low < found.value < found.high
    assert found.effective_runs > 50


def test_the_error_is_as_large_as_the_scatter_of_repeated_estimates() -> None:
    rbm = tiny_machine(10, 8, deviation=1.2)
    rng = np.random.default_rng(5)
    estimates = [
        annealed_importance_sampling(rbm, rng, n_runs=40, n_temperatures=60, base_bias=np.zeros(10))
        for _ in range(60)
    ]
    scatter = np.std([estimate.value for estimate in estimates])
    claimed = np.mean([estimate.error for estimate in estimates])
    assert 0.6 < claimed / scatter < 1.6


def test_another_base_machine_gives_the_same_answer() -> None:
    rbm = tiny_machine(12, 5)
    exact = exact_log_partition(rbm).value
    for base in (np.zeros(12), np.full(12, -1.0)):
        found = annealed_importance_sampling(rbm, np.random.default_rng(1), base_bias=base)
        assert found.value == pytest.approx(exact, abs=max(3 * found.error, 1e-9))


def test_runs_that_disagree_say_so() -> None:
    rbm = tiny_machine(20, 12, deviation=3.0)
    found = annealed_importance_sampling(
        rbm, np.random.default_rng(0), n_runs=10, n_temperatures=1, base_bias=np.zeros(20)
    )
    assert found.effective_runs < 3
    assert found.low == -math.inf


def test_too_few_runs_for_an_error_are_refused() -> None:
    with pytest.raises(ValueError, match="2 runs"):
        annealed_importance_sampling(tiny_machine(), np.random.default_rng(0), n_runs=1)


def test_annealing_agrees_with_enumeration_on_a_machine_that_has_learned_digits() -> None:
    digits = (load_digits().data >= 8).astype(np.float32)
    rng = np.random.default_rng(0)
    base = log_odds_of_means(digits)
    rbm = RBM.initial(base, 14, rng)
    step = momentum_step(rbm, cosine(0.05), weight_decay=1e-4)
    collections.deque(fit(rbm, digits, contrastive_divergence(1, rng), step, rng, epochs=10), maxlen=0)
    exact = exact_log_partition(rbm)
    found = annealed_importance_sampling(rbm, rng, base_bias=base, n_temperatures=2_000)
    assert found.error < 0.15
    assert found.low <= exact.value <= found.high
    learned, independent = (
        log_likelihood(machine, digits, exact_log_partition(machine)).mean()
        for machine in (rbm, RBM(np.zeros((64, 1)), base, np.zeros(1)))
    )
    print(f"log P of a digit: {learned:.1f}, of independent pixels {independent:.1f} nats")  # noqa: T201
    assert learned > independent + 4

"""Steps of the optimisers against their formulas, minibatches and the falling rate."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.boltzmann.optimisers import SGD, Adam, Gradient, cosine_rate, minibatches
from app.learning.boltzmann.rbm import RBM
from tests.learning.enumeration import tiny_rbm


def gradients(n: int) -> list[Gradient]:
    rng = np.random.default_rng(1)
    return [Gradient(rng.normal(size=(6, 4)), rng.normal(size=6), rng.normal(size=4)) for _ in range(n)]


def test_sgd_repeats_the_last_step_and_decays_weights_only() -> None:
    rbm = RBM(np.full((1, 1), 2.0), np.array([2.0]), np.array([2.0]))
    optimiser = SGD(momentum=0.5, weight_decay=0.25)
    for _ in range(2):
        optimiser.ascend(rbm, Gradient(np.ones((1, 1)), np.ones(1), np.ones(1)), learning_rate=0.1)
    assert rbm.visible_bias[0] == pytest.approx(2.0 + 0.1 + 0.15)
    first = 0.1 * (1 - 0.25 * 2.0)
    second = 0.5 * first + 0.1 * (1 - 0.25 * (2.0 + first))
    assert rbm.weights[0, 0] == pytest.approx(2.0 + first + second)


def test_adam_is_its_formula_with_the_decay_in_the_gradient_of_the_weights() -> None:
    rbm, optimiser = tiny_rbm(), Adam(weight_decay=0.1)
    expected = [parameter.copy() for parameter in rbm.parameters]
    mean, square = ([np.zeros_like(parameter) for parameter in expected] for _ in range(2))
    for n, gradient in enumerate(gradients(4), start=1):
        for index, uphill in enumerate(gradient):
            uphill = uphill - (0.1 * expected[0] if index == 0 else 0)
            mean[index] = 0.9 * mean[index] + 0.1 * uphill
            square[index] = 0.999 * square[index] + 0.001 * uphill**2
            unbiased = mean[index] / (1 - 0.9**n), square[index] / (1 - 0.999**n)
            expected[index] = expected[index] + 0.02 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        optimiser.ascend(rbm, gradient, 0.02)
    for parameter, expected_parameter in zip(rbm.parameters, expected, strict=True):
        np.testing.assert_allclose(parameter, expected_parameter)


def test_the_rate_falls_along_half_a_cosine() -> None:
    assert cosine_rate(0.2, 0.01, 0.0) == pytest.approx(0.2)
    assert cosine_rate(0.2, 0.01, 0.5) == pytest.approx(0.2 * (0.01 + 0.99 / 2))
    assert cosine_rate(0.2, 0.01, 1.0) == pytest.approx(0.002)


def test_minibatches_take_every_row_once_an_epoch_in_equal_parts() -> None:
    batches = list(minibatches(23, 5, 2, np.random.default_rng(0)))
    assert [(batch.epoch, batch.number) for batch in batches] == [(e, n) for e in (1, 2) for n in range(1, 6)]
    assert {batch.rows.size for batch in batches} == {4, 5}
    first, second = (np.concatenate([b.rows for b in batches if b.epoch == epoch]) for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first.tolist() != second.tolist()
    assert [batch.ends_epoch for batch in batches] == [False] * 4 + [True] + [False] * 4 + [True]
    assert (batches[0].done, batches[-1].done_after) == (0.0, 1.0)

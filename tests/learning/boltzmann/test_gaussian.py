"""Gaussian visible units against the mixture that their energy defines."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from app.learning.boltzmann.gaussian import GaussianRBM, standardised
from app.learning.boltzmann.rbm import Dense
from tests.learning.enumeration import states, tiny_rbm


def assert_exact(actual: Dense, expected: Dense) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def gaussian() -> GaussianRBM:
    tiny = tiny_rbm(2, 3)
    return GaussianRBM(tiny.weights, tiny.visible_bias, tiny.hidden_bias)


def test_the_gaussian_density_is_the_mixture_that_its_energy_defines() -> None:
    model = gaussian()
    visible = np.random.default_rng(0).normal(0, 2, (50, 2))
    hidden = states(3)
    energy = np.array([model.energy(np.tile(v, (len(hidden), 1)), hidden) for v in visible])
    expected = np.empty((len(visible), len(hidden)))
    for row, v in enumerate(visible):
        for column, h in enumerate(hidden):
            alone = ((v - model.visible_bias) ** 2).sum() / 2 - h @ model.hidden_bias
            expected[row, column] = alone - v @ model.weights @ h
    assert_exact(energy, expected)
    assert_exact(model.free_energy(visible), -np.log(np.exp(-expected).sum(axis=1)))
    assert_exact(model.free_energy(sp.csr_array(visible)), model.free_energy(visible))
    by_visible = np.exp(-expected) / np.exp(-expected).sum(axis=1, keepdims=True)
    assert_exact(model.hidden_probability(visible), by_visible @ hidden)


def test_gaussian_samples_have_the_moments_of_the_mixture() -> None:
    model = gaussian()
    hidden = states(3)
    means = model.visible_mean(hidden)
    # exp(-energy) integrated over v leaves h·c + |b + h W'|² / 2 - |b|² / 2 of each
    # component.
    weight = np.exp(hidden @ model.hidden_bias + (means**2).sum(axis=1) / 2)
    weight /= weight.sum()
    drawn = model.gibbs(np.zeros((40_000, 2)), np.random.default_rng(0), steps=40)
    np.testing.assert_allclose(drawn.mean(axis=0), weight @ means, atol=0.04)
    variance = weight @ (means**2 + 1) - (weight @ means) ** 2
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.04)


def test_standardised_columns_have_mean_0_and_deviation_1_and_lead_back() -> None:
    rows = np.random.default_rng(0).normal(5, 3, (50, 3))
    rows[:, 1] = 7.0
    result = standardised(rows)
    np.testing.assert_allclose(result.rows.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(result.rows.std(axis=0), [1, 0, 1])
    np.testing.assert_allclose(result.rows * result.deviations + result.means, rows)

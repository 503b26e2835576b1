"""The RBM against its definition, by listing every state of a tiny one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from app.learning.boltzmann.rbm import RBM, Dense, bernoulli, log_odds, sigmoid, softplus
from tests.learning.enumeration import joint_probability, states, tiny_rbm


def assert_exact(result: Dense, expected: Dense) -> None:
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def rbm() -> RBM:
    return tiny_rbm()


def test_sigmoid_and_softplus_are_right_and_finite_at_both_ends() -> None:
    x = np.array([-1000.0, -3.0, 0.0, 3.0, 1000.0])
    np.testing.assert_allclose(sigmoid(x), [0, 1 / (1 + np.exp(3)), 0.5, 1 / (1 + np.exp(-3)), 1], atol=1e-15)
    np.testing.assert_allclose(softplus(x), np.logaddexp(0, x))
    for function in (sigmoid, softplus):
        assert function(x.astype(np.float32)).dtype == np.float32
    assert x.tolist() == [-1000.0, -3.0, 0.0, 3.0, 1000.0]


def test_bernoulli_draws_have_their_probabilities_as_means() -> None:
    probability = np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)
    draws = bernoulli(np.tile(probability, (20_000, 1)), np.random.default_rng(0))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), probability, atol=0.015)
    assert draws[:, 0].max() == 0.0
    assert draws[:, 4].min() == 1.0


def test_energy_is_minus_the_log_of_the_unnormalised_joint_probability(rbm: RBM) -> None:
    probability = joint_probability(rbm)
    visible, hidden = states(rbm.n_visible), states(rbm.n_hidden)
    pairs = [(v, h) for v in range(len(visible)) for h in range(len(hidden))]
    rows, columns = np.array(pairs).T
    weight = np.exp(-rbm.energy(visible[rows], hidden[columns]))
    np.testing.assert_allclose(weight / weight.sum(), probability[rows, columns])


def test_free_energy_sums_the_hidden_units_out(rbm: RBM) -> None:
    weight = np.exp(-rbm.free_energy(states(rbm.n_visible)))
    assert_exact(weight / weight.sum(), joint_probability(rbm).sum(axis=1))


def test_conditionals_are_those_of_the_joint_probability(rbm: RBM) -> None:
    probability = joint_probability(rbm)
    visible, hidden = states(rbm.n_visible), states(rbm.n_hidden)
    given_visible = probability / probability.sum(axis=1, keepdims=True)
    assert_exact(rbm.hidden_probability(visible), given_visible @ hidden)
    given_hidden = (probability / probability.sum(axis=0)).T
    assert_exact(rbm.visible_mean(hidden), given_hidden @ visible)


def test_conditional_log_probabilities_and_pseudo_likelihood_are_exact(rbm: RBM) -> None:
    marginal = joint_probability(rbm).sum(axis=1)
    visible = states(rbm.n_visible)
    units = np.tile(np.arange(rbm.n_visible), (len(visible), 1))
    flipped = np.arange(len(visible))[:, None] ^ (1 << np.arange(rbm.n_visible)[::-1])
    expected = np.log(marginal[:, None] / (marginal[:, None] + marginal[flipped]))
    for rows in (visible, sp.csr_array(visible)):
        assert_exact(rbm.conditional_log_probability(rows, units), expected)
        assert_exact(rbm.pseudo_log_likelihood(rows), expected.sum(axis=1))


def test_the_gibbs_chain_visits_states_as_often_as_their_probability_says() -> None:
    rbm = tiny_rbm(4, 3)
    n_chains = 20_000
    start = np.zeros((n_chains, rbm.n_visible))
    end = rbm.gibbs(start, np.random.default_rng(1), steps=40)
    visits = np.bincount((end @ [8, 4, 2, 1]).astype(int), minlength=16)
    expected = joint_probability(rbm).sum(axis=1) * n_chains
    assert stats.chisquare(visits, expected).pvalue > 0.001


def test_samples_have_the_conditional_means(rbm: RBM) -> None:
    visible = np.tile(states(rbm.n_visible)[37], (20_000, 1))
    hidden = rbm.sample_hidden(visible, np.random.default_rng(2))
    np.testing.assert_allclose(hidden.mean(axis=0), rbm.hidden_probability(visible[:1])[0], atol=0.02)
    imagined = rbm.sample_visible(np.tile(hidden[:1], (20_000, 1)), np.random.default_rng(3))
    np.testing.assert_allclose(imagined.mean(axis=0), rbm.visible_mean(hidden[:1])[0], atol=0.02)


def test_sparse_rows_give_what_dense_rows_give_and_stored_zeros_change_nothing(rbm: RBM) -> None:
    visible = states(rbm.n_visible)
    stored_zeros = sp.csr_array(np.ones_like(visible))
    stored_zeros.data = visible.ravel()
    for sparse in (sp.csr_array(visible), stored_zeros):
        assert_exact(rbm.hidden_probability(sparse), rbm.hidden_probability(visible))
        assert_exact(rbm.free_energy(sparse), rbm.free_energy(visible))
        hidden = rbm.hidden_probability(visible)
        assert_exact(rbm.energy(sparse, hidden), rbm.energy(visible, hidden))


def test_inputs_are_not_changed(rbm: RBM) -> None:
    visible, hidden = states(rbm.n_visible), states(rbm.n_hidden)
    before = visible.copy(), hidden.copy()
    rng = np.random.default_rng(0)
    rbm.gibbs(visible, rng, 2)
    rbm.reconstruct(visible)
    rbm.free_energy(visible)
    rbm.conditional_log_probability(visible, np.zeros((len(visible), 1), np.int64))
    rbm.visible_mean(hidden)
    np.testing.assert_array_equal(visible, before[0])
    np.testing.assert_array_equal(hidden, before[1])


def test_an_initial_rbm_gives_every_unit_its_mean() -> None:
    mean = np.array([0.1, 0.5, 0.9])
    assert log_odds(np.array([1.0]), 3)[0] == pytest.approx(np.log(1.5 / 2.5))
    rbm = RBM.initial(np.log(mean / (1 - mean)), 4, np.random.default_rng(0), deviation=0.0)
    np.testing.assert_allclose(rbm.reconstruct(np.eye(3, dtype=np.float32)), np.tile(mean, (3, 1)), rtol=1e-6)
    assert rbm.weights.dtype == np.float32
    assert (rbm.n_visible, rbm.n_hidden, rbm.nbytes) == (3, 4, 4 * (12 + 3 + 4))


def test_parameters_that_do_not_fit_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights have shape \(2, 3\)"):
        RBM(np.zeros((2, 3)), np.zeros(3), np.zeros(3))


def test_a_gibbs_chain_takes_at_least_one_step(rbm: RBM) -> None:
    with pytest.raises(ValueError, match="at least one"):
        rbm.gibbs(states(6), np.random.default_rng(0), 0)


def test_values_between_zero_and_one_give_what_scaled_energies_say_dense_and_sparse(rbm: RBM) -> None:
    visible = np.random.default_rng(0).random((5, rbm.n_visible))
    hidden = rbm.hidden_probability(visible)
    expected = [
        -(v @ rbm.visible_bias) - h @ rbm.hidden_bias - v @ rbm.weights @ h
        for v, h in zip(visible, hidden, strict=True)
    ]
    for rows in (visible, sp.csr_array(visible)):
        assert_exact(rbm.energy(rows, hidden), np.array(expected))
        assert_exact(rbm.free_energy(rows), rbm.free_energy(visible))

"""The machine against its definition, by listing every state of a tiny one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from app.learning.rbm import (
    FEW_ROWS,
    RBM,
    VERY_FEW_ROWS,
    Dense,
    GaussianRBM,
    bernoulli,
    bernoulli_ones,
    sigmoid,
    softplus,
)
from tests.learning.enumeration import joint_probability, states, tiny_machine


def assert_exact(found: Dense, expected: Dense) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def rbm() -> RBM:
    return tiny_machine()


def test_sigmoid_and_softplus_are_right_and_finite_at_both_ends() -> None:
    x = np.array([-1000.0, -3.0, 0.0, 3.0, 1000.0])
    np.testing.assert_allclose(sigmoid(x), [0, 1 / (1 + np.exp(3)), 0.5, 1 / (1 + np.exp(-3)), 1], atol=1e-15)
    np.testing.assert_allclose(softplus(x), np.logaddexp(0, x))
    for function in (sigmoid, softplus):
        assert function(x.astype(np.float32)).dtype == np.float32
    assert x.tolist() == [-1000.0, -3.0, 0.0, 3.0, 1000.0]


def test_bernoulli_draws_have_the_means_they_are_asked_for() -> None:
    probability = np.array([0.0, 0.1, 0.5, 0.9, 1.0], np.float32)
    draws = bernoulli(np.tile(probability, (20_000, 1)), np.random.default_rng(0))
    assert draws.dtype == np.float32
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), probability, atol=0.015)
    assert draws[:, 0].max() == 0.0
    assert draws[:, 4].min() == 1.0


def test_the_places_of_ones_have_the_same_probabilities() -> None:
    """Also where a probability lies between, on or below the 256ths that decide most of the draws."""
    probability = np.array([1e-5, 0.0005, 1 / 256, 0.005, 0.0625, 0.3, 0.5, 0.9, 0.999, 1 - 1e-5])
    n = 400_000
    for dtype in (np.float32, np.float64):
        log_odds: Dense = np.tile(np.log(probability / (1 - probability)), (n, 1)).astype(dtype)
        before = log_odds.copy()
        places = bernoulli_ones(log_odds, np.random.default_rng(0))
        assert (np.diff(places) > 0).all()
        counts = np.bincount(places % probability.size, minlength=probability.size)
        deviation = np.sqrt(n * probability * (1 - probability))
        assert (np.abs(counts - n * probability) <= 4 * deviation).all()
        assert np.array_equal(log_odds, before)


def test_places_of_ones_are_independent_and_certain_where_the_log_odds_are() -> None:
    log_odds = np.array([-np.inf, -200.0, 200.0, np.inf, np.nan, 0.0, 0.0], np.float32)
    draws = np.zeros((20_000, 7))
    draws.ravel()[bernoulli_ones(np.tile(log_odds, (20_000, 1)), np.random.default_rng(1))] = 1
    assert draws[:, :5].mean(axis=0).tolist() == [0, 0, 1, 1, 0]
    counts = np.bincount((2 * draws[:, 5] + draws[:, 6]).astype(int), minlength=4)
    assert stats.chisquare(counts).pvalue > 1e-3
    after_itself = np.bincount((2 * draws[:-1, 5] + draws[1:, 5]).astype(int), minlength=4)
    assert stats.chisquare(after_itself).pvalue > 1e-3
    for size in (0, 1, 7, 8, 9):
        assert bernoulli_ones(np.full(size, 200.0), np.random.default_rng(0)).tolist() == [*range(size)]


def test_visible_input_is_the_same_by_row_and_by_unit() -> None:
    rng = np.random.default_rng(0)
    rbm = RBM(rng.normal(size=(40, 9)), rng.normal(size=40), rng.normal(size=9))
    for n in (1, 2, VERY_FEW_ROWS, VERY_FEW_ROWS + 1, FEW_ROWS, FEW_ROWS + 1, 100):
        hidden = rng.random((n, 9))
        expected = hidden @ rbm.weights.T + rbm.visible_bias
        assert_exact(rbm.visible_input(hidden), expected)
        assert_exact(rbm.visible_input_by_unit(hidden).T, expected)
        assert rbm.visible_input(hidden).flags.c_contiguous


@pytest.mark.parametrize("n_visible", [3, 599, 600, 601, 1_300])
def test_products_for_very_few_rows_are_the_same_in_parts(n_visible: int) -> None:
    rng = np.random.default_rng(0)
    rbm = RBM(rng.normal(size=(n_visible, 7)), rng.normal(size=n_visible), rng.normal(size=7))
    for n in (0, 1, 2, 7, VERY_FEW_ROWS):
        hidden = np.asfortranarray(rng.random((n, 7)))
        expected = hidden @ rbm.weights.T + rbm.visible_bias
        assert_exact(rbm.visible_input_by_unit(hidden).T, expected)


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
    assert_exact(rbm.visible_probability(hidden), given_hidden @ visible)


def test_conditional_log_probability_of_a_unit_is_exact(rbm: RBM) -> None:
    marginal = joint_probability(rbm).sum(axis=1)
    visible = states(rbm.n_visible)
    units = np.tile(np.arange(rbm.n_visible), (len(visible), 1))
    flipped = np.arange(len(visible))[:, None] ^ (1 << np.arange(rbm.n_visible)[::-1])
    expected = np.log(marginal[:, None] / (marginal[:, None] + marginal[flipped]))
    assert_exact(rbm.conditional_log_probability(visible, units), expected)
    sparse = rbm.conditional_log_probability(sp.csr_array(visible), units)
    assert_exact(sparse, expected)


def test_the_gibbs_chain_visits_states_as_often_as_their_probability_says() -> None:
    rbm = tiny_machine(4, 3)
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
    np.testing.assert_allclose(imagined.mean(axis=0), rbm.visible_probability(hidden[:1])[0], atol=0.02)


def test_reconstruction_is_one_mean_field_step(rbm: RBM) -> None:
    visible = states(rbm.n_visible)
    np.testing.assert_array_equal(
        rbm.reconstruct(visible), rbm.visible_probability(rbm.hidden_probability(visible))
    )


def test_the_scale_multiplies_the_visible_part_and_not_the_bias(rbm: RBM) -> None:
    visible = states(rbm.n_visible)[5:7]
    scaled = rbm.hidden_input(visible, np.array([2.0, 0.0]))
    np.testing.assert_allclose(scaled[0], 2 * visible[0] @ rbm.weights + rbm.hidden_bias)
    np.testing.assert_array_equal(scaled[1], rbm.hidden_bias)


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
    rbm.reconstruct(visible, np.ones(len(visible)))
    rbm.free_energy(visible)
    rbm.conditional_log_probability(visible, np.zeros((len(visible), 1), np.int64))
    rbm.visible_probability(hidden)
    np.testing.assert_array_equal(visible, before[0])
    np.testing.assert_array_equal(hidden, before[1])


def test_an_initial_machine_gives_every_unit_its_mean() -> None:
    mean = np.array([0.1, 0.5, 0.9])
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


def test_conditionals_and_marginals_of_eight_and_six_units_equal_enumeration() -> None:
    rbm = tiny_machine(8, 6, seed=4)
    probability = joint_probability(rbm)
    visible, hidden = states(8), states(6)
    of_visible, of_hidden = probability.sum(axis=1), probability.sum(axis=0)
    np.testing.assert_allclose(
        rbm.hidden_probability(visible), probability @ hidden / of_visible[:, None], atol=1e-10
    )
    np.testing.assert_allclose(
        rbm.visible_probability(hidden), probability.T @ visible / of_hidden[:, None], atol=1e-10
    )
    weight = np.exp(-rbm.free_energy(visible))
    np.testing.assert_allclose(weight / weight.sum(), of_visible, atol=1e-10)


def test_the_gibbs_chain_of_the_hidden_layer_visits_states_as_often_as_their_probability_says() -> None:
    rbm = tiny_machine(4, 3)
    n_chains = 20_000
    end = rbm.gibbs_from_hidden(np.ones((n_chains, 3)), np.random.default_rng(2), steps=40)
    visits = np.bincount((end @ [4, 2, 1]).astype(int), minlength=8)
    expected = joint_probability(rbm).sum(axis=0) * n_chains
    assert stats.chisquare(visits, expected).pvalue > 0.001


def test_fantasies_are_distributed_as_the_machine_says() -> None:
    rbm = tiny_machine(4, 3)
    fantasies = rbm.sample(20_000, np.random.default_rng(3), steps=40)
    visits = np.bincount((fantasies @ [8, 4, 2, 1]).astype(int), minlength=16)
    expected = joint_probability(rbm).sum(axis=1) * 20_000
    assert stats.chisquare(visits, expected).pvalue > 0.001


def test_reconstruction_in_k_steps_is_k_reconstructions(rbm: RBM) -> None:
    visible = states(rbm.n_visible)
    thrice = rbm.reconstruct(rbm.reconstruct(rbm.reconstruct(visible)))
    assert_exact(rbm.reconstruct(visible, steps=3), thrice)
    assert_exact(rbm.reconstruct(sp.csr_array(visible), steps=3), thrice)


@pytest.mark.parametrize("steps", [1, 3])
def test_sampled_reconstruction_has_the_mean_of_the_gibbs_chain(rbm: RBM, steps: int) -> None:
    visible = np.tile(states(rbm.n_visible)[22], (40_000, 1))
    found = rbm.reconstruct(visible, steps=steps, rng=np.random.default_rng(0))
    chain = rbm.gibbs(visible, np.random.default_rng(1), steps)
    assert ((found > 0) & (found < 1)).all()
    np.testing.assert_allclose(found.mean(axis=0), chain.mean(axis=0), atol=0.01)


def test_the_scale_of_a_reconstruction_is_for_the_rows_given_and_not_for_later_ones(rbm: RBM) -> None:
    visible = states(rbm.n_visible)[[9]]
    scale = np.array([3.0])
    assert_exact(rbm.reconstruct(visible, scale, steps=2), rbm.reconstruct(rbm.reconstruct(visible, scale)))


def test_every_way_of_going_up_and_down_takes_at_least_one_step(rbm: RBM) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least one"):
        rbm.gibbs_from_hidden(states(rbm.n_hidden), rng, 0)
    with pytest.raises(ValueError, match="at least one"):
        rbm.reconstruct(states(rbm.n_visible), steps=0)
    with pytest.raises(ValueError, match="at least one"):
        rbm.sample(3, rng, 0)


def test_features_are_hidden_probabilities(rbm: RBM) -> None:
    visible = states(rbm.n_visible)
    np.testing.assert_array_equal(rbm.transform(visible), rbm.hidden_probability(visible))


def test_the_stochastic_pseudo_likelihood_has_the_exact_one_as_its_mean(rbm: RBM) -> None:
    row = states(rbm.n_visible)[[13]]
    exact = rbm.pseudo_log_likelihood(row)[0]
    drawn = rbm.score_samples(np.tile(row, (20_000, 1)), np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(exact, abs=4 * drawn.std() / np.sqrt(20_000))
    assert len(set(drawn.round(6))) == rbm.n_visible  # one value for each unit that may be drawn
    by_unit = [rbm.pseudo_log_likelihood(row, np.array([unit]))[0] for unit in range(rbm.n_visible)]
    assert sum(by_unit) == pytest.approx(exact)
    assert {round(rbm.n_visible * value, 6) for value in by_unit} == set(drawn.round(6))


def test_the_pseudo_likelihood_is_that_of_the_enumerated_conditionals(rbm: RBM) -> None:
    marginal = joint_probability(rbm).sum(axis=1)
    visible = states(rbm.n_visible)
    flipped = np.arange(len(visible))[:, None] ^ (1 << np.arange(rbm.n_visible)[::-1])
    expected = np.log(marginal[:, None] / (marginal[:, None] + marginal[flipped])).sum(axis=1)
    for rows in (visible, sp.csr_array(visible)):
        np.testing.assert_allclose(rbm.pseudo_log_likelihood(rows), expected, atol=1e-10)


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


def gaussian() -> GaussianRBM:
    tiny = tiny_machine(2, 3)
    return GaussianRBM(tiny.weights, tiny.visible_bias, tiny.hidden_bias)


def test_the_gaussian_density_is_the_mixture_that_its_energy_defines() -> None:
    machine = gaussian()
    visible = np.random.default_rng(0).normal(0, 2, (50, 2))
    hidden = states(3)
    energy = np.array([machine.energy(np.tile(v, (len(hidden), 1)), hidden) for v in visible])
    expected = np.empty((len(visible), len(hidden)))
    for row, v in enumerate(visible):
        for column, h in enumerate(hidden):
            alone = ((v - machine.visible_bias) ** 2).sum() / 2 - h @ machine.hidden_bias
            expected[row, column] = alone - v @ machine.weights @ h
    assert_exact(energy, expected)
    assert_exact(machine.free_energy(visible), -np.log(np.exp(-expected).sum(axis=1)))
    assert_exact(machine.free_energy(sp.csr_array(visible)), machine.free_energy(visible))
    given_visible = np.exp(-expected) / np.exp(-expected).sum(axis=1, keepdims=True)
    assert_exact(machine.hidden_probability(visible), given_visible @ hidden)


def test_gaussian_samples_have_the_moments_of_the_mixture() -> None:
    machine = gaussian()
    hidden = states(3)
    means = machine.visible_mean(hidden)
    # exp(-energy) integrated over v leaves h·c + |b + h W'|² / 2 - |b|² / 2 of each component.
    weight = np.exp(hidden @ machine.hidden_bias + (means**2).sum(axis=1) / 2)
    weight /= weight.sum()
    drawn = machine.sample(40_000, np.random.default_rng(0), steps=40)
    np.testing.assert_allclose(drawn.mean(axis=0), weight @ means, atol=0.04)
    variance = weight @ (means**2 + 1) - (weight @ means) ** 2
    np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.04)

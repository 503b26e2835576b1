"""Gradients against slow dense loops with the same random numbers, and against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning import contrastive_divergence
from app.learning.contrastive_divergence import (
    Gradient,
    Momentum,
    PersistentChains,
    Phase,
    cd_gradient,
    compact,
    cosine_rate,
    masked_cd_gradient,
    masked_visible_probability,
    pcd_gradient,
    phase_difference,
    sampled_visible,
)
from app.learning.partition_function import exact_log_partition, log_likelihood
from app.learning.rbm import RBM, GaussianRBM, Sparse, Visible, sigmoid
from app.learning.sparse_rows import RowsByUnit
from tests.learning.enumeration import joint_probability, states, tiny_machine

Floats = NDArray[np.float64]


def logistic(x: float) -> float:
    """The scalar sigmoid, written differently from the one under test."""
    return float(1 / (1 + np.exp(-x)))


def reference_gradient(
    rbm: RBM, visible: Floats, observed: NDArray[np.bool_], k: int, rng: np.random.Generator
) -> Gradient:
    """CD-k by loops over rows and units; `observed` says which units a row has at all."""
    n, n_visible, n_hidden = len(visible), rbm.n_visible, rbm.n_hidden

    def hidden_of(v: Floats) -> Floats:
        result = np.zeros((n, n_hidden))
        for row in range(n):
            for j in range(n_hidden):
                seen = sum(v[row, i] * rbm.weights[i, j] for i in range(n_visible) if observed[row, i])
                result[row, j] = logistic(seen + rbm.hidden_bias[j])
        return result

    def visible_of(h: Floats) -> Floats:
        result = np.zeros((n, n_visible))
        for row in range(n):
            for i in np.flatnonzero(observed[row]):
                result[row, i] = logistic(h[row] @ rbm.weights[i] + rbm.visible_bias[i])
        return result

    first = hidden_of(visible)
    state = (rng.random((n, n_hidden)) < first).astype(float)
    for _ in range(k - 1):
        probability = visible_of(state)
        sample = np.zeros_like(probability)
        if observed.all():  # all rows of a unit are drawn together
            sample[...] = probability > rng.random(probability.T.shape).T
        else:
            sample[observed] = rng.random(observed.sum()) < probability[observed]
        state = (rng.random((n, n_hidden)) < hidden_of(sample)).astype(float)
    imagined = visible_of(state)
    last = hidden_of(imagined)
    gradient = Gradient.zeros(rbm)
    for row in range(n):
        for i in np.flatnonzero(observed[row]):
            gradient.weights[i] += (visible[row, i] * first[row] - imagined[row, i] * last[row]) / n
            gradient.visible_bias[i] += (visible[row, i] - imagined[row, i]) / n
        gradient.hidden_bias[...] += (first[row] - last[row]) / n
    return gradient


def assert_close(found: Gradient, expected: Gradient, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(found.weights, expected.weights, atol=tolerance)
    np.testing.assert_allclose(found.visible_bias, expected.visible_bias, atol=tolerance)
    np.testing.assert_allclose(found.hidden_bias, expected.hidden_bias, atol=tolerance)


def single_precision(rbm: RBM) -> RBM:
    """The same machine in float32."""
    arrays = (rbm.weights, rbm.visible_bias, rbm.hidden_bias)
    return RBM(*(array.astype(np.float32) for array in arrays))


@pytest.fixture
def rbm() -> RBM:
    return tiny_machine(8, 5)


@pytest.fixture
def visible() -> Floats:
    return np.random.default_rng(5).integers(0, 2, (7, 8)).astype(float)


@pytest.mark.parametrize("k", [1, 3])
def test_the_gradient_equals_the_slow_reference_dense_and_sparse(rbm: RBM, visible: Floats, k: int) -> None:
    observed = np.ones(visible.shape, np.bool_)
    expected = reference_gradient(rbm, visible, observed, k, np.random.default_rng(1))
    for rows in (visible, sp.csr_array(visible)):
        assert_close(cd_gradient(rbm, rows, k, np.random.default_rng(1)), expected)


@pytest.mark.parametrize("k", [1, 3])
def test_the_masked_gradient_equals_the_slow_reference(rbm: RBM, visible: Floats, k: int) -> None:
    observed = np.random.default_rng(6).random(visible.shape) < 0.5
    expected = reference_gradient(rbm, visible * observed, observed, k, np.random.default_rng(1))
    assert_close(masked_cd_gradient(rbm, masked(visible, observed), k, np.random.default_rng(1)), expected)


def test_single_precision_agrees_with_double_to_five_digits(rbm: RBM, visible: Floats) -> None:
    # k = 1 with certain hidden states: the draws of the two precisions differ, so they must not matter.
    rbm.hidden_bias[:] = [60, -60, 60, -60, 60]
    rows = sp.csr_array(visible.astype(np.float32))
    found = cd_gradient(single_precision(rbm), rows, 1, np.random.default_rng(0))
    assert found.weights.dtype == np.float32
    assert_close(found, cd_gradient(rbm, visible, 1, np.random.default_rng(0)), 1e-5)


def masked(visible: Floats, observed: NDArray[np.bool_]) -> Sparse:
    """CSR rows that store the observed entries, zeros among them, and no others."""
    rows = sp.csr_array(observed.astype(float))
    rows.data = visible[observed]
    return rows


def test_a_unit_that_no_row_observes_gets_no_gradient(rbm: RBM, visible: Floats) -> None:
    observed = np.ones(visible.shape, np.bool_)
    observed[:, 3] = False
    gradient = masked_cd_gradient(rbm, masked(visible, observed), 1, np.random.default_rng(0))
    assert not gradient.weights[3].any()
    assert gradient.visible_bias[3] == 0


def test_masked_visible_probability_is_the_dense_one_at_the_mask(rbm: RBM, visible: Floats) -> None:
    observed = np.random.default_rng(8).random(visible.shape) < 0.4
    hidden = np.random.default_rng(9).random((7, 5))
    found = masked_visible_probability(rbm, hidden, masked(visible, observed))
    np.testing.assert_allclose(found.toarray(), rbm.visible_probability(hidden) * observed)


def exact_gradient(rbm: RBM, visible: Floats) -> Gradient:
    """The gradient of the mean log-likelihood, by enumeration."""
    probability = joint_probability(rbm)
    v, h = states(rbm.n_visible), states(rbm.n_hidden)
    of_data = rbm.hidden_probability(visible)
    return Gradient(
        visible.T @ of_data / len(visible) - v.T @ probability @ h,
        visible.mean(axis=0) - probability.sum(axis=1) @ v,
        of_data.mean(axis=0) - probability.sum(axis=0) @ h,
    )


def mean_pcd_gradient(rbm: RBM, visible: Visible, n_chains: int) -> Gradient:
    """Persistent CD with so many chains, long after their start, that the average is nearly exact."""
    rng = np.random.default_rng(3)
    chains = PersistentChains(rng.integers(0, 2, (n_chains, rbm.n_hidden)).astype(float))
    return pcd_gradient(rbm, visible, chains, 30, rng)


def test_the_exact_gradient_is_the_slope_of_the_log_likelihood() -> None:
    rbm = tiny_machine(4, 3)
    visible = states(4)[[1, 7, 7, 12]]

    def log_likelihood() -> float:
        log_z = np.log(np.exp(-rbm.free_energy(states(4))).sum())
        return float(-rbm.free_energy(visible).mean() - log_z)

    gradient = exact_gradient(rbm, visible)
    for parameter, slope in (
        (rbm.weights, gradient.weights),
        (rbm.visible_bias, gradient.visible_bias),
        (rbm.hidden_bias, gradient.hidden_bias),
    ):
        for place in np.ndindex(parameter.shape):
            value = parameter[place]
            parameter[place] = value + 1e-6
            above = log_likelihood()
            parameter[place] = value - 1e-6
            below = log_likelihood()
            parameter[place] = value
            assert (above - below) / 2e-6 == pytest.approx(slope[place], abs=1e-7)


def test_persistent_chains_tend_to_the_exact_gradient() -> None:
    rbm = tiny_machine(6, 4)
    visible = states(6)[[3, 9, 33, 60, 61]]
    assert_close(mean_pcd_gradient(rbm, visible, 40_000), exact_gradient(rbm, visible), 0.012)


def test_a_short_batch_does_not_tilt_the_balance_of_the_phases() -> None:
    rbm = tiny_machine(6, 4)
    row = states(6)[[27]]
    chains = 5_000
    one = mean_pcd_gradient(rbm, row, chains)
    many = mean_pcd_gradient(rbm, np.repeat(row, 11, axis=0), chains)
    assert_close(one, many)


def test_phases_over_equal_rows_cancel(rbm: RBM, visible: Floats) -> None:
    hidden = rbm.hidden_probability(visible)
    twice = np.concatenate([visible, visible]), np.concatenate([hidden, hidden])
    assert_close(phase_difference((sp.csr_array(visible), hidden), twice), Gradient.zeros(rbm), 1e-12)


def test_momentum_repeats_the_last_step_and_decays_weights_only() -> None:
    rbm = RBM(np.full((1, 1), 2.0), np.array([2.0]), np.array([2.0]))
    ascent = Momentum(rbm, momentum=0.5, weight_decay=0.25)
    for _ in range(2):
        ascent.ascend(rbm, Gradient(np.ones((1, 1)), np.ones(1), np.ones(1)), learning_rate=0.1)
    assert rbm.visible_bias[0] == pytest.approx(2.0 + 0.1 + 0.15)
    first = 0.1 * (1 - 0.25 * 2.0)
    second = 0.5 * first + 0.1 * (1 - 0.25 * (2.0 + first))
    assert rbm.weights[0, 0] == pytest.approx(2.0 + first + second)


def test_the_rate_falls_along_half_a_cosine() -> None:
    assert cosine_rate(0.2, 0.01, 0.0) == pytest.approx(0.2)
    assert cosine_rate(0.2, 0.01, 0.5) == pytest.approx(0.2 * (0.01 + 0.99 / 2))
    assert cosine_rate(0.2, 0.01, 1.0) == pytest.approx(0.002)


def test_the_gradient_of_eight_and_six_units_is_the_slope_of_the_log_likelihood() -> None:
    rbm = tiny_machine(8, 6, seed=2)
    visible = states(8)[[3, 77, 77, 130, 201, 255]]
    gradient = exact_gradient(rbm, visible)
    for parameter, slope in (
        (rbm.weights, gradient.weights),
        (rbm.visible_bias, gradient.visible_bias),
        (rbm.hidden_bias, gradient.hidden_bias),
    ):
        for place in np.ndindex(parameter.shape):
            value, found = parameter[place], []
            for moved in (value + 1e-5, value - 1e-5):
                parameter[place] = moved
                found.append(log_likelihood(rbm, visible, exact_log_partition(rbm)).mean())
            parameter[place] = value
            assert (found[0] - found[1]) / 2e-5 == pytest.approx(slope[place], abs=1e-6)


def expected_cd_gradient(rbm: RBM, visible: Floats, k: int) -> Gradient:
    """What CD-k with sampled last states is on average, from the transition matrix of the Gibbs chain."""
    all_visible, all_hidden = states(rbm.n_visible), states(rbm.n_hidden)
    joint = joint_probability(rbm)
    up = joint / joint.sum(axis=1, keepdims=True)  # (2 ** n_visible, 2 ** n_hidden)
    down = (joint / joint.sum(axis=0)).T
    start = np.zeros(len(all_visible))
    for row in visible:
        start[int(row @ 2 ** np.arange(rbm.n_visible)[::-1])] += 1 / len(visible)
    after = start @ np.linalg.matrix_power(up @ down, k)
    joint_after = after[:, None] * up
    of_data = rbm.hidden_probability(visible)
    return Gradient(
        visible.T @ of_data / len(visible) - all_visible.T @ joint_after @ all_hidden,
        visible.mean(axis=0) - after @ all_visible,
        of_data.mean(axis=0) - joint_after.sum(axis=0) @ all_hidden,
    )


def distance(found: Gradient, expected: Gradient) -> float:
    return float(np.abs(found.weights - expected.weights).max())


@pytest.mark.parametrize("k", [1, 2, 8])
def test_cd_with_sampled_last_states_is_on_average_what_the_transition_matrix_says(k: int) -> None:
    rbm = tiny_machine(6, 4)
    visible = states(6)[[3, 9, 33, 60, 61]]
    many = np.tile(visible, (20_000, 1))
    found = cd_gradient(rbm, many, k, np.random.default_rng(k), sample_last=True)
    assert_close(found, expected_cd_gradient(rbm, visible, k), 0.006)


def test_cd_tends_to_the_exact_gradient_as_k_grows() -> None:
    rbm = tiny_machine(6, 4)
    visible = states(6)[[3, 9, 33, 60, 61]]
    exact = exact_gradient(rbm, visible)
    distances = [distance(expected_cd_gradient(rbm, visible, k), exact) for k in (1, 2, 3, 4, 6, 8)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.01
    assert distance(expected_cd_gradient(rbm, visible, 64), exact) < 1e-12
    many = np.tile(visible, (20_000, 1))
    sampled = cd_gradient(rbm, many, 30, np.random.default_rng(0), sample_last=True)
    assert_close(sampled, exact, 0.006)


@pytest.mark.parametrize("k", [1, 3])
def test_the_sparse_path_in_single_precision_is_a_readable_dense_one_to_five_digits(k: int) -> None:
    rng = np.random.default_rng(0)
    rbm = tiny_machine(120, 12, deviation=0.3)
    rows = (rng.random((40, 120)) < 0.1).astype(np.float32)
    found = cd_gradient(single_precision(rbm), sp.csr_array(rows), k, np.random.default_rng(1))

    draws = np.random.default_rng(1)
    first = sigmoid(rows @ rbm.weights + rbm.hidden_bias)
    hidden = (draws.random(first.shape, np.float32) < first).astype(float)
    for _ in range(k - 1):
        imagined = sigmoid(hidden @ rbm.weights.T + rbm.visible_bias)
        sample = (imagined > draws.random(imagined.T.shape, np.float32).T).astype(float)
        probability = sigmoid(sample @ rbm.weights + rbm.hidden_bias)
        hidden = (draws.random(probability.shape, np.float32) < probability).astype(float)
    imagined = sigmoid(hidden @ rbm.weights.T + rbm.visible_bias)
    last = sigmoid(imagined @ rbm.weights + rbm.hidden_bias)
    expected = Gradient(
        rows.T @ first / 40 - imagined.T @ last / 40,
        rows.mean(axis=0) - imagined.mean(axis=0),
        first.mean(axis=0) - last.mean(axis=0),
    )
    assert found.weights.dtype == np.float32
    assert_close(found, expected, 1e-5)


def test_a_step_can_have_a_momentum_of_its_own() -> None:
    rbm = RBM(np.zeros((1, 1)), np.zeros(1), np.zeros(1))
    ascent = Momentum(rbm, momentum=0.5, weight_decay=0.0)
    for momentum in (None, 0.0, None):
        ascent.ascend(rbm, Gradient(np.ones((1, 1)), np.ones(1), np.ones(1)), 0.1, momentum)
    assert rbm.visible_bias[0] == pytest.approx(0.1 + 0.1 + 0.15)


@pytest.mark.parametrize("k", [1, 3])
def test_conditions_are_inputs_of_both_phases_and_never_predicted(k: int) -> None:
    # Written out as Salakhutdinov, Mnih and Hinton (2007) do, with W, D and r apart, by loops over rows.
    liked, conditions = tiny_machine(5, 4), tiny_machine(5, 4, seed=1)
    W, D, b, c = liked.weights, conditions.weights, liked.visible_bias, liked.hidden_bias
    rbm = RBM(np.concatenate([W, D]), np.concatenate([b, np.zeros(5)]), c)
    rng = np.random.default_rng(3)
    rated = rng.random((9, 5)) < 0.6
    stars = rng.integers(0, 2, (9, 5)) * rated
    rows = masked(np.hstack([stars, rated]).astype(float), np.hstack([rated, rated]))
    found = masked_cd_gradient(rbm, rows, k, np.random.default_rng(7), n_imagined=5)

    draws = np.random.default_rng(7)
    first = np.array([sigmoid(c + v @ W + r @ D) for v, r in zip(stars, rated, strict=True)])
    state = (draws.random(first.shape) < first).astype(float)
    for _ in range(k - 1):
        probability = sigmoid(state @ W.T + b)
        imagined = np.zeros((9, 5))
        imagined[rated] = draws.random(rated.sum()) < probability[rated]
        state = (draws.random(first.shape) < sigmoid(c + imagined @ W + rated @ D)).astype(float)
    expected = sigmoid(state @ W.T + b) * rated
    last = sigmoid(c + expected @ W + rated @ D)
    assert_close(
        found,
        Gradient(
            np.concatenate([stars.T @ first - expected.T @ last, rated.T @ (first - last)]) / 9,
            np.concatenate([(stars - expected).mean(axis=0), np.zeros(5)]),
            (first - last).mean(axis=0),
        ),
    )
    assert not found.visible_bias[5:].any()


@pytest.mark.parametrize("share", [0.0, 0.04, 0.5])
def test_rows_with_little_on_are_compacted_and_stay_the_same_rows(share: float) -> None:
    rows = (np.random.default_rng(0).random((9, 200)) < share).astype(np.float32)
    rows[3] = 0
    rows[rows > 0] = 0.5  # values are kept, not only places
    found = compact(rows)
    assert isinstance(found, sp.csr_array) == (share < 0.1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray() if isinstance(found, sp.csr_array) else found, rows)


@pytest.mark.parametrize(("bias", "kind"), [(-4.0, RowsByUnit), (-1.5, np.ndarray), (1.0, np.ndarray)])
def test_sampled_rows_have_the_means_of_their_probabilities(bias: float, kind: type) -> None:
    """Few on, more than a tenth on though each is rather off, and most on: three ways to draw."""
    rng = np.random.default_rng(0)
    rbm = single_precision(
        RBM(0.3 * rng.normal(size=(37, 5)), np.linspace(bias - 0.3, bias, 37), rng.random(5))
    )
    hidden = np.tile((rng.random(5) < 0.5).astype(np.float32), (40_001, 1))
    found = sampled_visible(rbm, hidden, rng)
    assert isinstance(found, kind)
    rows = found.by_row().toarray() if isinstance(found, RowsByUnit) else found
    assert rows.shape == (40_001, 37)
    assert rows.dtype == np.float32
    assert set(np.unique(rows)) == {0.0, 1.0}
    probability = rbm.visible_probability(hidden[:1])[0]
    deviation = np.sqrt(probability * (1 - probability) / len(rows))
    assert (np.abs(rows.mean(axis=0) - probability) <= 4 * deviation).all()
    # Rows are drawn independently: what a unit does says nothing about the next row.
    centred = rows - probability
    together = (centred[1:] * centred[:-1]).mean(axis=0) / (probability * (1 - probability))
    assert (np.abs(together) <= 4.5 / np.sqrt(len(rows))).all()


def test_a_sample_for_gaussian_units_is_their_own() -> None:
    rbm = GaussianRBM(np.zeros((3, 2)), np.array([1.0, 0.0, -1.0]), np.zeros(2))
    rows = sampled_visible(rbm, np.zeros((5_000, 2)), np.random.default_rng(0))
    assert isinstance(rows, np.ndarray)
    np.testing.assert_allclose(rows.mean(axis=0), rbm.visible_bias, atol=0.06)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=0.04)


def test_phases_of_sparse_rows_differ_as_those_of_dense_rows_do(rbm: RBM, visible: Floats) -> None:
    fewer = visible[:4]
    hidden, hidden_ = rbm.hidden_probability(visible), rbm.hidden_probability(fewer)
    found = phase_difference((sp.csr_array(visible), hidden), (sp.csr_array(fewer), hidden_))
    assert_close(found, phase_difference((visible, hidden), (fewer, hidden_)), 1e-12)


def two_ways(rbm: RBM, rng: np.random.Generator) -> tuple[Gradient, Gradient]:
    """The same difference of phases, not yet multiplied out and multiplied out by hand."""
    rows, rows_ = ((rng.random((n, rbm.n_visible)) < 0.3).astype(float) for n in (7, 5))
    hidden, hidden_ = rng.random((7, rbm.n_hidden)), rng.random((5, rbm.n_hidden))
    lazy = phase_difference((sp.csr_array(rows), hidden), (sp.csr_array(rows_), hidden_))
    weights = rows.T @ hidden / 7 - rows_.T @ hidden_ / 5
    return lazy, Gradient(weights, lazy.visible_bias.copy(), lazy.hidden_bias.copy())


def test_a_gradient_that_is_not_multiplied_out_is_the_same_gradient(rbm: RBM) -> None:
    lazy, eager = two_ways(rbm, np.random.default_rng(0))
    assert lazy.is_sparse
    assert not eager.is_sparse
    found, expected = (np.ones_like(rbm.weights) for _ in "ab")
    lazy.add_weights_to(found)
    eager.add_weights_to(expected)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert lazy.is_sparse  # nothing was multiplied out
    assert_close(lazy, eager, 1e-12)
    assert lazy.weights is lazy.weights
    for gradient in two_ways(rbm, np.random.default_rng(0)):
        assert_close(gradient.times(-0.5).times(4), two_ways(rbm, np.random.default_rng(0))[1].times(-2))


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_steps_are_the_written_out_ones_whatever_the_gradient_is_made_of(
    rbm: RBM, weight_decay: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive_divergence, "CACHED", at_once * rbm.n_hidden * rbm.weights.itemsize)
    machines = [RBM(rbm.weights.copy(), rbm.visible_bias.copy(), rbm.hidden_bias.copy()) for _ in range(3)]
    ascents = [Momentum(machine, 0.5, weight_decay) for machine in machines]
    rng = np.random.default_rng(4)
    weights, step = rbm.weights.copy(), np.zeros_like(rbm.weights)
    bias, bias_step = rbm.visible_bias.copy(), np.zeros_like(rbm.visible_bias)
    # Without momentum first and in between: the next step repeats a part of that one, too.
    for number, momentum in enumerate([0.0, 0.5, 0.0, 0.0, 0.9, None]):
        rate, share = 0.1 / (number + 1), 0.5 if momentum is None else momentum
        lazy, eager = two_ways(rbm, rng)
        dense_phase = Gradient(
            (Phase(np.eye(rbm.n_visible), eager.weights.copy()),),
            eager.visible_bias.copy(),
            eager.hidden_bias.copy(),
        )
        step = share * step + rate * (eager.weights - weight_decay * weights)
        bias_step = share * bias_step + rate * eager.visible_bias
        weights, bias = weights + step, bias + bias_step
        for ascent, machine, gradient in zip(ascents, machines, (lazy, eager, dense_phase), strict=True):
            ascent.ascend(machine, gradient, rate, momentum)
            np.testing.assert_allclose(machine.weights, weights, atol=1e-12)
            np.testing.assert_allclose(machine.visible_bias, bias, atol=1e-12)

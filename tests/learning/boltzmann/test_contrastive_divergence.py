"""Gradients against reference, loops and enumeration; fits with obvious answers."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from app.learning.boltzmann.contrastive_divergence import (
    ContrastiveDivergence,
    MaskedContrastiveDivergence,
    PersistentContrastiveDivergence,
    fit,
    masked_visible_mean,
    random_chains,
)
from app.learning.boltzmann.divergence import Diverged
from app.learning.boltzmann.gaussian import GaussianRBM, standardised
from app.learning.boltzmann.optimisers import SGD, Adam, Gradient
from app.learning.boltzmann.rbm import RBM, Sparse, Visible, log_odds
from app.learning.boltzmann.reference import cd_step
from tests.learning.enumeration import joint_probability, states, tiny_rbm

Floats = NDArray[np.float64]


def assert_close(actual: Gradient, expected: Gradient, tolerance: float = 1e-10) -> None:
    for array, expected_array in zip(actual, expected, strict=True):
        np.testing.assert_allclose(array, expected_array, atol=tolerance)


def copied(rbm: RBM, dtype: Any = np.float64) -> RBM:
    return RBM(*(parameter.astype(dtype) for parameter in rbm.parameters))


def masked(visible: Floats, observed: NDArray[np.bool_]) -> Sparse:
    """CSR rows that store the observed entries, zeros among them, and no others."""
    rows = sp.csr_array(observed.astype(float))
    rows.data = visible[observed]
    return rows


@pytest.fixture
def rbm() -> RBM:
    return tiny_rbm(8, 5)


@pytest.fixture
def visible() -> Floats:
    return np.random.default_rng(5).integers(0, 2, (7, 8)).astype(float)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("container", [np.array, sp.csr_array])
def test_the_fast_learner_makes_the_steps_of_the_reference(
    rbm: RBM, visible: Floats, k: int, container: Any
) -> None:
    expected, rng, reference_rng = copied(rbm), np.random.default_rng(1), np.random.default_rng(1)
    algorithm, optimiser = ContrastiveDivergence(k), SGD()
    for _ in range(5):
        expected = cd_step(expected, visible, 0.3, k, reference_rng)
        optimiser.ascend(rbm, algorithm.gradient(rbm, container(visible), rng), 0.3)
    assert_close(Gradient(*rbm.parameters), Gradient(*expected.parameters))
    assert np.abs(rbm.weights - tiny_rbm(8, 5).weights).max() > 0.01


def test_single_precision_agrees_with_double_to_five_digits(rbm: RBM, visible: Floats) -> None:
    # Certain hidden states: the draws of the two precisions differ, so they must not
    # matter.
    rbm.hidden_bias[:] = [60, -60, 60, -60, 60]
    rows = sp.csr_array(visible.astype(np.float32))
    single, double = copied(rbm, np.float32), rbm
    algorithm = ContrastiveDivergence()
    actual = algorithm.gradient(single, rows, np.random.default_rng(0))
    assert actual.weights.dtype == np.float32
    assert_close(actual, algorithm.gradient(double, visible, np.random.default_rng(0)), 1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_the_masked_gradient_is_the_mean_of_each_rows_own_model(rbm: RBM, visible: Floats, k: int) -> None:
    observed = np.random.default_rng(6).random(visible.shape) < 0.5
    actual = MaskedContrastiveDivergence(k).gradient(rbm, masked(visible, observed), np.random.default_rng(1))
    rng = np.random.default_rng(1)
    off = np.where(observed, 0.0, -np.inf)  # unobserved units never turn on

    def hidden_of(v: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(v @ rbm.weights + rbm.hidden_bias))))

    def visible_of(h: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(h @ rbm.weights.T + rbm.visible_bias + off))))

    data = visible * observed
    state = (rng.random((7, 5)) < hidden_of(data)).astype(float)
    for _ in range(k - 1):
        sample = np.zeros_like(data)
        sample[observed] = rng.random(observed.sum()) < visible_of(state)[observed]
        state = (rng.random((7, 5)) < hidden_of(sample)).astype(float)
    last = visible_of(state)
    expected = Gradient(
        (data.T @ hidden_of(data) - last.T @ hidden_of(last)) / 7,
        (data - last).mean(axis=0),
        (hidden_of(data) - hidden_of(last)).mean(axis=0),
    )
    assert_close(actual, expected)


def test_a_unit_that_no_row_observes_gets_no_gradient(rbm: RBM, visible: Floats) -> None:
    observed = np.ones(visible.shape, np.bool_)
    observed[:, 3] = False
    gradient = MaskedContrastiveDivergence().gradient(
        rbm, masked(visible, observed), np.random.default_rng(0)
    )
    assert not gradient.weights[3].any()
    assert gradient.visible_bias[3] == 0


def test_masked_visible_means_are_the_dense_ones_at_the_mask(rbm: RBM, visible: Floats) -> None:
    observed = np.random.default_rng(8).random(visible.shape) < 0.4
    hidden = np.random.default_rng(9).random((7, 5))
    means = masked_visible_mean(rbm, hidden, masked(visible, observed))
    np.testing.assert_allclose(means.toarray(), rbm.visible_mean(hidden) * observed)


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
    """Persistent CD with enough chains and steps for a nearly exact average."""
    rng = np.random.default_rng(3)
    algorithm = PersistentContrastiveDivergence(random_chains(rbm, n_chains, rng), k=30)
    return algorithm.gradient(rbm, visible, rng)


def test_the_exact_gradient_is_the_slope_of_the_log_likelihood() -> None:
    rbm = tiny_rbm(4, 3)
    visible = states(4)[[1, 7, 7, 12]]

    def log_likelihood() -> float:
        log_z = np.log(np.exp(-rbm.free_energy(states(4))).sum())
        return float(-rbm.free_energy(visible).mean() - log_z)

    for parameter, slope in zip(rbm.parameters, exact_gradient(rbm, visible), strict=True):
        for place in np.ndindex(parameter.shape):
            value = parameter[place]
            parameter[place] = value + 1e-6
            above = log_likelihood()
            parameter[place] = value - 1e-6
            below = log_likelihood()
            parameter[place] = value
            assert (above - below) / 2e-6 == pytest.approx(slope[place], abs=1e-7)


def test_persistent_chains_tend_to_the_exact_gradient() -> None:
    rbm = tiny_rbm(6, 4)
    visible = states(6)[[3, 9, 33, 60, 61]]
    assert_close(mean_pcd_gradient(rbm, visible, 40_000), exact_gradient(rbm, visible), 0.012)


def test_the_biases_of_cd_tend_to_the_exact_gradient_as_k_grows() -> None:
    rbm = tiny_rbm(6, 4)
    visible = states(6)[[3, 9, 33, 60, 61]]
    exact = exact_gradient(rbm, visible)

    def distance(k: int) -> float:
        many = np.tile(visible, (4_000, 1))
        gradient = ContrastiveDivergence(k).gradient(rbm, many, np.random.default_rng(k))
        return float(np.abs(gradient.visible_bias - exact.visible_bias).max())

    assert distance(1) > distance(3) > distance(30)
    assert distance(30) < 0.01


def test_a_short_batch_does_not_tilt_the_balance_of_the_phases() -> None:
    rbm = tiny_rbm(6, 4)
    row = states(6)[[27]]
    single = mean_pcd_gradient(rbm, row, 500)
    assert_close(single, mean_pcd_gradient(rbm, np.repeat(row, 11, axis=0), 500))


def test_inputs_are_not_changed(rbm: RBM, visible: Floats) -> None:
    rows, before = sp.csr_array(visible), visible.copy()
    for algorithm in (ContrastiveDivergence(2), MaskedContrastiveDivergence(2)):
        algorithm.gradient(rbm, rows, np.random.default_rng(0))
        np.testing.assert_array_equal(rows.toarray(), before)
    np.testing.assert_array_equal(rbm.weights, tiny_rbm(8, 5).weights)


CHECKERBOARD = np.indices((4, 4)).sum(axis=0).ravel() % 2
SETTINGS: list[Any] = [
    (ContrastiveDivergence(), SGD(momentum=0.5, weight_decay=1e-4), 0.2),
    (ContrastiveDivergence(3), SGD(), 0.4),
    (PersistentContrastiveDivergence(np.zeros((10, 6), np.float32)), SGD(), 0.2),
    (ContrastiveDivergence(), Adam(), 0.05),
]


@pytest.mark.parametrize(("algorithm", "optimiser", "rate"), SETTINGS)
def test_every_algorithm_and_optimiser_learns_a_checkerboard(
    algorithm: Any, optimiser: Any, rate: float
) -> None:
    """Half of the rows are a checkerboard, half its negative.

    A row with four wrong squares is mended.
    """
    rng = np.random.default_rng(0)
    rows = np.array([CHECKERBOARD, 1 - CHECKERBOARD] * 50, np.float32)
    rbm = RBM.initial(log_odds(rows.sum(axis=0), len(rows)), 6, rng)
    updates = list(
        fit(
            rbm,
            sp.csr_array(rows),
            rng,
            algorithm=algorithm,
            optimiser=optimiser,
            learning_rate=rate,
            epochs=40,
            batch_size=10,
        )
    )
    assert len(updates) == 400
    assert sum(update.ends_epoch for update in updates) == 40
    damaged = np.array([CHECKERBOARD], np.float32)
    damaged[0, [0, 5, 6, 15]] = 1 - damaged[0, [0, 5, 6, 15]]
    np.testing.assert_array_equal(rbm.reconstruct(damaged)[0] > 0.5, CHECKERBOARD == 1)
    assert rbm.pseudo_log_likelihood(rows).mean() > -2


def test_gaussian_units_learn_two_clusters() -> None:
    rng = np.random.default_rng(0)
    centre = np.array([2.0, -2.0, 1.0])
    rows = standardised(rng.choice([-1.0, 1.0], (200, 1)) * centre + 0.3 * rng.standard_normal((200, 3))).rows
    model = GaussianRBM.initial(np.zeros(3), 4, rng)
    settings: dict[str, Any] = {"algorithm": ContrastiveDivergence(), "optimiser": SGD(0.5)}
    deque(fit(model, rows, rng, learning_rate=0.02, epochs=30, **settings), maxlen=0)
    error = np.square(model.reconstruct(rows.astype(np.float32)) - rows).mean()
    assert error < 0.3 * rows.var()


def test_rows_that_do_not_fit_the_model_are_refused() -> None:
    rbm, rng = tiny_rbm(3, 2), np.random.default_rng(0)
    settings: dict[str, Any] = {
        "algorithm": ContrastiveDivergence(),
        "optimiser": SGD(),
        "learning_rate": 0.1,
    }
    for rows, message in (
        (np.zeros((0, 3)), "at least 1"),
        (np.zeros((2, 4)), "not \\(at least 1, 3\\)"),
        (np.array([[0.0, np.nan, 1.0]]), "not a finite"),
        (np.array([[0.0, 2.0, 1.0]]), "from 0 to 1"),
        (sp.csr_array(np.array([[0.0, -2.0, 1.0]])), "from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            next(iter(fit(rbm, rows, rng, **settings)))


def test_divergence_names_the_setting_to_lower() -> None:
    rng = np.random.default_rng(0)
    model = GaussianRBM.initial(np.zeros(8), 8, rng)
    rows = rng.normal(0, 3, (40, 8))
    settings: dict[str, Any] = {"algorithm": ContrastiveDivergence(), "optimiser": SGD(0.9)}
    with pytest.raises(Diverged, match="lower learning_rate") as caught:
        deque(fit(model, rows, rng, learning_rate=9.0, epochs=50, **settings), maxlen=0)
    assert caught.value.setting == "learning_rate"

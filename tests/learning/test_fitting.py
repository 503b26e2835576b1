"""Fitting any matrix: what can be told in advance, and scikit-learn's machine beside ours."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM

from app.learning.ascent import WeightAverage, adam_step, constant, cosine, linear, momentum_step, stairs
from app.learning.divergence import Diverged
from app.learning.fitting import (
    FitReport,
    GradientOf,
    checked,
    contrastive_divergence,
    fit,
    log_odds_of_means,
    persistent_contrastive_divergence,
    random_chains,
    standardised,
)
from app.learning.partition_function import exact_log_partition, log_likelihood
from app.learning.rbm import RBM, Dense, GaussianRBM, Visible
from tests.learning.digits import nudged_digits, shuffled_digits
from tests.learning.enumeration import states


@pytest.fixture(scope="module")
def digits() -> Dense:
    """1,797 pictures of 8 x 8 pixels, from 0 to 1."""
    return shuffled_digits()[0]


@pytest.fixture(scope="module")
def bars() -> Dense:
    """400 rows of 8 units, of which either the first or the last four are on."""
    side = np.random.default_rng(0).integers(0, 2, 400)
    return np.repeat(np.stack([side, 1 - side], axis=1), 4, axis=1).astype(np.float64)


def untrained(visible: Visible, n_hidden: int = 6, seed: int = 0) -> RBM:
    rng = np.random.default_rng(seed)
    return RBM.initial(log_odds_of_means(visible), n_hidden, rng, deviation=0.1, dtype=np.float64)


def trained(rbm: RBM, visible: Visible, gradient_of: GradientOf, **how: Any) -> list[FitReport]:
    step = momentum_step(rbm, cosine(0.1), constant(0.5), weight_decay=0.01)
    return list(fit(rbm, visible, gradient_of, step, np.random.default_rng(1), **({"epochs": 40} | how)))


def algorithms(rbm: RBM) -> dict[str, GradientOf]:
    rng = np.random.default_rng(2)
    return {
        "cd-1": contrastive_divergence(1, rng),
        "cd-1 sampled": contrastive_divergence(1, rng, sample_last=True),
        "cd rising": contrastive_divergence(stairs(1, (0.5, 5)), rng),
        "pcd": persistent_contrastive_divergence(random_chains(rbm, 37, rng), 2, rng),
    }


@pytest.mark.parametrize("name", ["cd-1", "cd-1 sampled", "cd rising", "pcd"])
def test_two_bars_are_learned_by_every_algorithm(bars: Dense, name: str) -> None:
    rbm = untrained(bars)
    before = log_likelihood(rbm, bars, exact_log_partition(rbm)).mean()
    reports = trained(rbm, bars, algorithms(rbm)[name])
    after = log_likelihood(rbm, bars, exact_log_partition(rbm)).mean()
    assert before == pytest.approx(8 * np.log(0.5), abs=0.3)
    assert after > -2.0  # log(1 / 2) is the best there is
    assert reports[-1].reconstruction_error < 0.05 < reports[0].reconstruction_error * 10
    broken = bars[:1].copy()
    broken[0, 0] = 1 - broken[0, 0]
    assert (rbm.reconstruct(broken).round() == bars[0]).all()


def test_dense_and_sparse_rows_of_any_kind_give_the_same_machine(bars: Dense) -> None:
    results = []
    kinds: list[Any] = [bars, sp.csr_array(bars), sp.coo_array(bars), sp.csr_matrix(bars), bars > 0]
    for rows in kinds:
        rbm = untrained(bars)
        trained(rbm, rows, contrastive_divergence(1, np.random.default_rng(2)), epochs=2)
        results.append(rbm.weights)
    for weights in results[1:]:
        np.testing.assert_allclose(weights, results[0], atol=1e-10)


def test_equal_seeds_give_equal_machines(bars: Dense) -> None:
    first, again = untrained(bars), untrained(bars)
    for rbm in (first, again):
        trained(rbm, bars, contrastive_divergence(2, np.random.default_rng(5)), epochs=2)
    np.testing.assert_array_equal(first.weights, again.weights)


def test_k_follows_its_schedule(bars: Dense, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(rbm: Any, visible: Any, k: int, rng: Any, *, sample_last: bool) -> Any:
        asked.append(k)
        raise StopIteration

    monkeypatch.setattr("app.learning.fitting.cd_gradient", spy)
    gradient_of = contrastive_divergence(linear(1, 9), np.random.default_rng(0))
    for done in (0.0, 0.5, 1.0):
        with pytest.raises(StopIteration):
            gradient_of(untrained(bars), bars, done)
    assert asked == [1, 5, 9]


def test_the_report_says_what_is_and_stops_when_asked(bars: Dense) -> None:
    rbm = untrained(bars)
    gradient_of = contrastive_divergence(1, np.random.default_rng(0))
    step = momentum_step(rbm, constant(0.1))
    report = next(fit(rbm, bars[:300], gradient_of, step, np.random.default_rng(1), held_out=bars[300:]))
    assert (report.epoch, report.epochs) == (1, 10)
    assert report.weight_norm == pytest.approx(np.sqrt(np.square(rbm.weights).mean()))
    assert report.pseudo_log_likelihood is not None
    assert report.pseudo_log_likelihood < 0
    assert report.free_energy_gap is not None
    assert 0 < report.mean_hidden_activity < 1


def test_the_average_of_the_parameters_is_less_noisy_than_the_parameters() -> None:
    coins = np.random.default_rng(0).integers(0, 2, (400, 4)).astype(np.float64)
    rbm = untrained(coins, 1)
    average = WeightAverage(rbm, decay=0.99)
    gradient_of = contrastive_divergence(1, np.random.default_rng(2), sample_last=True)
    last, smooth = [], []
    for _ in fit(
        rbm,
        coins,
        gradient_of,
        momentum_step(rbm, constant(0.2), constant(0.0)),
        np.random.default_rng(3),
        epochs=40,
        average=average,
    ):
        last.append(rbm.visible_bias.copy())
        smooth.append(average.machine().visible_bias)
    assert np.std(smooth[20:], axis=0).mean() < 0.5 * np.std(last[20:], axis=0).mean()


def test_what_is_no_row_of_the_machine_is_refused(bars: Dense) -> None:
    rbm = untrained(bars)
    for rows, message in (
        (bars[:, :3], "shape"),
        (bars[:0], "shape"),
        (bars[0], "shape"),
        (bars * 2, "from 0 to 1, not 0 to 2"),
        (sp.csr_array(-bars), "from 0 to 1"),
        (np.where(bars > 0, np.nan, bars), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            checked(rbm, rows)
    checked(GaussianRBM(rbm.weights, rbm.visible_bias, rbm.hidden_bias), bars * 2 - 5)
    with pytest.raises(ValueError, match="at least 1"):
        trained(rbm, bars, contrastive_divergence(1, np.random.default_rng(0)), epochs=0)


def test_divergence_is_an_error_and_never_a_warning(bars: Dense) -> None:
    rbm = untrained(bars)
    step = momentum_step(rbm, constant(1e4), constant(0.99), weight_decay=10.0)
    with pytest.raises(Diverged, match="lower learning_rate") as caught:
        list(
            fit(
                rbm, bars, contrastive_divergence(1, np.random.default_rng(0)), step, np.random.default_rng(0)
            )
        )
    assert caught.value.epoch == 1


def test_log_odds_give_every_unit_its_mean_dense_and_sparse() -> None:
    visible = np.random.default_rng(0).random((5_000, 3)) * [1.0, 0.4, 0.0]
    means = 1 / (1 + np.exp(-log_odds_of_means(visible)))
    np.testing.assert_allclose(means, visible.mean(axis=0), atol=2e-4)
    np.testing.assert_allclose(log_odds_of_means(sp.csr_array(visible)), log_odds_of_means(visible))


def test_standardised_columns_lead_back() -> None:
    visible = np.random.default_rng(0).normal(5, [3.0, 0.1, 0.0], (200, 3))
    rows, means, deviations = standardised(visible)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(rows.std(axis=0), [1, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rows * deviations + means, visible)


def test_a_gaussian_machine_learns_two_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2, (2, 5))
    rows, _, _ = standardised(centres[rng.integers(0, 2, 500)] + rng.normal(0, 0.3, (500, 5)))
    machine = GaussianRBM.initial(rows.mean(axis=0), 4, rng, dtype=np.float64)
    step = momentum_step(machine, constant(0.02), constant(0.5))
    gradient_of = contrastive_divergence(1, rng)
    reports = list(fit(machine, rows, gradient_of, step, rng, epochs=30))
    assert reports[0].reconstruction_error > 0.5  # the variance is 1
    assert reports[-1].reconstruction_error < 0.25
    assert reports[-1].pseudo_log_likelihood is None
    fantasies = machine.sample(500, rng, steps=50)
    between = fantasies @ np.linalg.svd(rows, full_matrices=False)[2][0]
    assert np.abs(between).mean() > 1.5  # at the clusters, not around 0 between them


def test_adam_learns_digits_and_momentum_does_too(digits: Dense) -> None:
    likelihoods = []
    for step_of, rate in ((momentum_step, 0.05), (adam_step, 0.01)):
        rng = np.random.default_rng(0)
        rbm = RBM.initial(log_odds_of_means(digits), 32, rng)
        step = step_of(rbm, cosine(rate))
        *_, last = fit(rbm, digits, contrastive_divergence(1, rng), step, rng, epochs=5)
        likelihoods.append(last.pseudo_log_likelihood)
    independent = RBM.initial(log_odds_of_means(digits), 1, np.random.default_rng(0), deviation=0.0)
    floor = independent.pseudo_log_likelihood(digits).mean()
    assert all(likelihood is not None and likelihood > floor + 3 for likelihood in likelihoods)


def test_our_pseudo_likelihood_is_that_of_scikit_learn_and_ours_is_at_least_as_high(digits: Dense) -> None:
    """100 hidden units, batches of 10, 10 epochs, as in scikit-learn's own example on its digits."""
    theirs = BernoulliRBM(n_components=100, learning_rate=0.06, n_iter=10, random_state=0).fit(digits)
    same = RBM(theirs.components_.T, theirs.intercept_visible_, theirs.intercept_hidden_)
    np.testing.assert_allclose(same.transform(digits), theirs.transform(digits), atol=1e-5)
    many = np.tile(digits, (20, 1))
    drawn = theirs.score_samples(many)
    ours = same.score_samples(many, np.random.default_rng(0))
    exact = same.pseudo_log_likelihood(digits).mean()
    for estimate in (drawn, ours):
        assert estimate.mean() == pytest.approx(exact, abs=4 * estimate.std() / np.sqrt(estimate.size))

    rng = np.random.default_rng(0)
    rbm = RBM.initial(log_odds_of_means(digits), 100, rng)
    step = momentum_step(rbm, cosine(0.06))
    collections.deque(fit(rbm, digits, contrastive_divergence(1, rng), step, rng, epochs=10), maxlen=0)
    reached = rbm.pseudo_log_likelihood(digits).mean()
    print(f"pseudo-log-likelihood: scikit-learn {exact:.2f}, ours {reached:.2f}")  # noqa: T201 - pytest -s
    assert reached >= exact


def test_our_features_help_a_regression_on_digits_as_much_as_those_of_scikit_learn() -> None:
    (rows, labels), (unseen, expected) = nudged_digits()

    def accuracy(features: Callable[[Dense], Dense]) -> float:
        regression = LogisticRegression(C=1_000, max_iter=2_000).fit(features(rows), labels)
        return float(regression.score(features(unseen), expected))

    theirs = BernoulliRBM(n_components=100, learning_rate=0.06, n_iter=10, random_state=0).fit(rows)
    rng = np.random.default_rng(0)
    rbm = RBM.initial(log_odds_of_means(rows), 100, rng)
    step = momentum_step(rbm, cosine(0.06))
    collections.deque(fit(rbm, rows, contrastive_divergence(1, rng), step, rng, epochs=10), maxlen=0)
    pixels, their_features, our_features = map(accuracy, (np.asarray, theirs.transform, rbm.transform))
    print(f"accuracy: pixels {pixels:.3f}, scikit-learn {their_features:.3f}, ours {our_features:.3f}")  # noqa: T201
    assert our_features > pixels + 0.1
    assert our_features > their_features - 0.01  # two standard errors of either are 0.009


def test_a_tiny_machine_comes_close_to_the_distribution_that_it_is_shown() -> None:
    rows = states(3)[[0, 0, 0, 5, 5, 7]]
    rbm = untrained(rows, 4)
    rng = np.random.default_rng(0)
    gradient_of = persistent_contrastive_divergence(random_chains(rbm, 200, rng), 5, rng)
    step = momentum_step(rbm, cosine(0.2), constant(0.5))
    collections.deque(fit(rbm, rows, gradient_of, step, rng, epochs=1_500, batch_size=6), maxlen=0)
    found = np.exp(log_likelihood(rbm, states(3), exact_log_partition(rbm)))
    np.testing.assert_allclose(found[[0, 5, 7]], [3 / 6, 2 / 6, 1 / 6], atol=0.06)

"""Stacks of machines: pre-training layer by layer, and fine-tuning, on scikit-learn's digits."""

from __future__ import annotations

import collections
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from app.learning.ascent import constant, cosine, momentum_step
from app.learning.fitting import FitReport, contrastive_divergence, fit, standardised
from app.learning.rbm import RBM, Dense, GaussianRBM, Harmonium, Visible
from app.learning.stacking import (
    Classifier,
    Stack,
    classification_gradient,
    fine_tune,
    pretrain,
    untuned,
)
from tests.learning.digits import TRAINED, Labels, nudged_digits, shuffled_digits
from tests.learning.enumeration import tiny_machine

Result = TypeVar("Result")


def value_of(generator: Generator[Any, None, Result]) -> Result:
    """What a generator returns at its end."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            result: Result = end.value
            return result


def by_cd(machine: Harmonium, rows: Visible, epochs: int = 10) -> Iterable[FitReport]:
    rng = np.random.default_rng(1)
    rate = 0.01 if isinstance(machine, GaussianRBM) else 0.05
    step = momentum_step(machine, cosine(rate), weight_decay=1e-4)
    return fit(machine, rows, contrastive_divergence(1, rng), step, rng, epochs=epochs)


@pytest.fixture(scope="module")
def digits() -> tuple[Dense, Labels]:
    """Pixels from 0 to 1 and the digit that each picture shows, in a random order."""
    return shuffled_digits()


@pytest.fixture(scope="module")
def stack(digits: tuple[Dense, Labels]) -> Stack:
    """Two machines of 128 and 64 hidden units, pre-trained without any label."""
    return value_of(pretrain(digits[0][:TRAINED], [128, 64], by_cd, np.random.default_rng(0)))


def test_features_go_up_machine_by_machine_and_reconstructions_come_down() -> None:
    lower, upper = tiny_machine(6, 4), tiny_machine(4, 3, seed=1)
    visible = np.random.default_rng(0).random((5, 6))
    both = Stack((lower, upper))
    np.testing.assert_allclose(both.transform(visible), upper.transform(lower.transform(visible)))
    np.testing.assert_allclose(both.transform(sp.csr_array(visible)), both.transform(visible))
    down = lower.visible_mean(upper.visible_mean(both.transform(visible)))
    np.testing.assert_allclose(both.reconstruct(visible), down)


def test_machines_that_do_not_fit_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="3 visible units do not fit 4 hidden ones"):
        Stack((tiny_machine(6, 4), tiny_machine(3, 4)))
    with pytest.raises(ValueError, match="at least one"):
        Stack(())


def test_pretraining_reports_machine_after_machine(digits: tuple[Dense, Labels], stack: Stack) -> None:
    assert [machine.n_hidden for machine in stack.machines] == [128, 64]
    pixels = digits[0][TRAINED:]
    mean_error = np.square(pixels - pixels.mean(axis=0)).mean()
    assert np.square(stack.reconstruct(pixels) - pixels).mean() < 0.5 * mean_error
    reports = list(pretrain(digits[0][:200], [8, 4], lambda m, r: by_cd(m, r, 2), np.random.default_rng(0)))
    assert [report.epoch for report in reports] == [1, 2, 1, 2]


def test_the_lowest_machine_may_be_gaussian(digits: tuple[Dense, Labels]) -> None:
    rows, _, _ = standardised(digits[0][:400])
    rng = np.random.default_rng(0)
    machines = value_of(pretrain(rows, [64, 16], by_cd, rng, lowest=GaussianRBM)).machines
    assert [type(machine) for machine in machines] == [GaussianRBM, RBM]
    error = np.square(machines[0].reconstruct(rows.astype(np.float32)) - rows).mean()
    assert error < 0.5 * rows.var()


def test_the_gradient_of_the_labels_is_their_slope() -> None:
    lower, upper, top = tiny_machine(5, 4), tiny_machine(4, 3, seed=1), tiny_machine(3, 3, seed=2)
    classifier = Classifier(Stack((lower, upper)), top)
    visible, labels = np.random.default_rng(0).random((6, 5)), np.array([0, 1, 2, 2, 1, 0])
    for rows in (visible, sp.csr_array(visible)):
        mean, gradients = classification_gradient(classifier, rows, labels)
        expected = classifier.log_probability(visible)[np.arange(6), labels].mean()
        assert mean == pytest.approx(expected)
    for machine, gradient in zip((lower, upper, top), gradients, strict=True):
        for parameter, slope in (
            (machine.weights, gradient.weights),
            (machine.hidden_bias, gradient.hidden_bias),
            (machine.visible_bias, gradient.visible_bias),
        ):
            for place in np.ndindex(parameter.shape):
                value, found = parameter[place], []
                for moved in (value + 1e-6, value - 1e-6):
                    parameter[place] = moved
                    found.append(classification_gradient(classifier, visible, labels)[0])
                parameter[place] = value
                assert (found[0] - found[1]) / 2e-6 == pytest.approx(slope[place], abs=1e-8)


def test_an_untuned_classifier_finds_all_classes_equally_probable(stack: Stack) -> None:
    probability = np.exp(untuned(stack, 10).log_probability(np.zeros((2, 64), np.float32)))
    np.testing.assert_allclose(probability, 0.1, rtol=1e-6)


def accuracy(classifier: Classifier, digits: tuple[Dense, Labels]) -> float:
    return float((classifier.predict(digits[0][TRAINED:]) == digits[1][TRAINED:]).mean())


def tuned(stack: Stack, digits: tuple[Dense, Labels], n: int, epochs: int) -> Classifier:
    """The stack fine-tuned with the labels of the first n digits."""
    rows, labels = digits[0][:n], digits[1][:n]
    return value_of(
        fine_tune(
            untuned(stack, 10),
            rows,
            labels,
            lambda layer: momentum_step(layer, cosine(0.1), constant(0.9)),
            np.random.default_rng(0),
            epochs=epochs,
        )
    )


def test_a_fine_tuned_stack_tells_digits_apart_better_than_a_regression_on_pixels(
    digits: tuple[Dense, Labels], stack: Stack
) -> None:
    # Pictures moved by a pixel, as in scikit-learn's own example: what is where says less then.
    shown, unseen = nudged_digits()
    before = stack.machines[0].weights.copy()
    classifier = tuned(stack, shown, 3_000, 8)
    found = float((classifier.predict(unseen[0]) == unseen[1]).mean())
    regression = LogisticRegression(max_iter=300, tol=1e-3).fit(shown[0][:3_000], shown[1][:3_000])
    on_pixels = regression.score(*unseen)
    print(f"accuracy: pixels {on_pixels:.3f}, fine-tuned stack {found:.3f}")  # noqa: T201 - pytest -s
    assert found > on_pixels + 0.05
    np.testing.assert_array_equal(stack.machines[0].weights, before)  # a copy was tuned


def test_where_few_labels_are_known_pretraining_is_better_than_a_random_start(
    digits: tuple[Dense, Labels], stack: Stack
) -> None:
    from_nothing = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        machines = (
            RBM.initial(np.zeros(n_visible), n_hidden, rng, deviation=2 * n_visible**-0.5)
            for n_visible, n_hidden in ((64, 128), (128, 64))
        )
        from_nothing.append(accuracy(tuned(Stack(tuple(machines)), digits, 100, 60), digits))
    pretrained = accuracy(tuned(stack, digits, 100, 60), digits)
    print(f"100 labels: pre-trained {pretrained:.3f}, random starts {from_nothing}")  # noqa: T201 - pytest -s
    assert pretrained > max(from_nothing)


def test_labels_that_are_none_are_refused(digits: tuple[Dense, Labels], stack: Stack) -> None:
    for labels in (np.arange(5), np.arange(-1, 9), np.arange(1, 11)):
        with pytest.raises(ValueError, match="numbers from 0 to 9"):
            collections.deque(
                fine_tune(
                    untuned(stack, 10),
                    digits[0][:10],
                    labels,
                    lambda layer: momentum_step(layer, constant(0.1)),
                    np.random.default_rng(0),
                )
            )

"""Schedules and steps against what they say they do, written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.ascent import (
    Step,
    WeightAverage,
    adam_step,
    constant,
    cosine,
    linear,
    momentum_step,
    stairs,
)
from app.learning.contrastive_divergence import Gradient
from app.learning.rbm import RBM


def one_unit(weight: float = 2.0) -> RBM:
    return RBM(np.full((1, 1), weight), np.array([weight]), np.array([weight]))


def take(step: Step, rbm: RBM, *slopes: float) -> None:
    for number, slope in enumerate(slopes):
        step(
            rbm, Gradient(np.full((1, 1), slope), np.full(1, slope), np.full(1, slope)), number / len(slopes)
        )


def test_schedules_begin_and_end_where_they_should() -> None:
    assert (constant(3)(0), constant(3)(1)) == (3, 3)
    assert (linear(1, 0.5)(0), linear(1, 0.5)(0.5), linear(1, 0.5)(1)) == (1, 0.75, 0.5)
    assert cosine(0.2, 0.5)(0) == pytest.approx(0.2)
    assert cosine(0.2, 0.5)(1) == pytest.approx(0.1)
    rising = stairs(1, (0.5, 3), (0.8, 10))
    assert [rising(done) for done in (0, 0.49, 0.5, 0.79, 0.8, 1)] == [1, 1, 3, 3, 10, 10]


def test_stairs_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="rise"):
        stairs(1, (0.5, 3), (0.2, 10))


def test_momentum_and_rate_follow_their_schedules() -> None:
    rbm = one_unit()
    take(momentum_step(rbm, linear(0.1, 0.0), stairs(0.0, (0.5, 0.9))), rbm, 1.0, 1.0)
    assert rbm.visible_bias[0] == pytest.approx(2.0 + 0.1 + (0.9 * 0.1 + 0.05))


def test_decay_pulls_at_weights_and_not_at_biases() -> None:
    for step_of in (momentum_step, adam_step):
        rbm = one_unit()
        take(step_of(rbm, constant(0.1), weight_decay=0.5), rbm, 0.0)
        assert rbm.weights[0, 0] == pytest.approx(2.0 * (1 - 0.1 * 0.5))
        assert rbm.hidden_bias[0] == 2.0


def test_adam_is_the_paper_written_out() -> None:
    rbm = one_unit()
    slopes = [0.3, -0.1, 2.0]
    take(adam_step(rbm, constant(0.01)), rbm, *slopes)
    expected, m, s = 2.0, 0.0, 0.0
    for t, slope in enumerate(slopes, start=1):
        m = 0.9 * m + 0.1 * slope
        s = 0.999 * s + 0.001 * slope**2
        expected += 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    assert rbm.weights[0, 0] == pytest.approx(expected, abs=1e-12)
    assert rbm.visible_bias[0] == pytest.approx(expected, abs=1e-12)


def test_the_first_step_of_adam_is_the_rate_whatever_the_slope() -> None:
    for slope in (1e-3, 1e3):
        rbm = one_unit()
        take(adam_step(rbm, constant(0.01)), rbm, slope)
        assert rbm.weights[0, 0] == pytest.approx(2.01, abs=1e-6)


def test_an_average_is_that_of_the_updates_and_leaves_the_machine_alone() -> None:
    rbm = one_unit()
    average = WeightAverage(rbm, decay=0.5)
    for value in (1.0, 3.0):
        rbm.weights[...] = value
        average.update()
    machine = average.machine()
    assert isinstance(machine, RBM)
    assert machine.weights[0, 0] == pytest.approx((0.25 * 1 + 0.5 * 3) / 0.75)
    assert machine.visible_bias[0] == pytest.approx(2.0)
    assert rbm.weights[0, 0] == 3.0


def test_an_average_of_nothing_and_a_decay_that_never_forgets_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        WeightAverage(one_unit()).machine()
    with pytest.raises(ValueError, match="below 1"):
        WeightAverage(one_unit(), decay=1.0)

"""How a gradient becomes a step: schedules, momentum, Adam, and averaging over the steps.

A *schedule* is a function of the share of the training that is done, from 0 to 1. A *step* changes the
parameters of a machine in place. Both are plain functions: anything with their signature will do.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from app.learning.contrastive_divergence import Gradient, Momentum, cosine_rate
from app.learning.rbm import Dense, Harmonium

Schedule: TypeAlias = Callable[[float], float]
"""The share of the training that is done -> the value of a setting."""

Step: TypeAlias = Callable[[Harmonium, Gradient, float], None]
"""(machine, gradient, share done) -> None; uses the gradient's arrays up."""

Machine = TypeVar("Machine", bound=Harmonium)


def constant(value: float) -> Schedule:
    """The same value all the time."""
    return lambda done: value


def linear(start: float, end: float) -> Schedule:
    """A straight line from `start` to `end`."""
    return lambda done: start + (end - start) * done


def cosine(start: float, final_share: float = 0.01) -> Schedule:
    """From `start` down to `final_share * start` along half a cosine."""
    return lambda done: cosine_rate(start, final_share, done)


def stairs(first: float, *later: tuple[float, float]) -> Schedule:
    """`first`, then from each (share done, value) on that value; the shares must rise.

    `stairs(0.5, (0.1, 0.9))` is the momentum of Hinton's guide (2010, section 9.1), which rises once the
    first large changes are over; `stairs(1, (0.5, 3), (0.8, 10))` is a k that rises.
    """
    shares = [share for share, _ in later]
    if shares != sorted(shares):
        raise ValueError(f"the shares of the stairs must rise, not {shares}")
    values = [first, *(value for _, value in later)]
    return lambda done: values[bisect.bisect_right(shares, done)]


def momentum_step(
    rbm: Harmonium,
    learning_rate: Schedule,
    momentum: Schedule = stairs(0.5, (0.1, 0.9)),
    weight_decay: float = 0.0,
) -> Step:
    """Gradient ascent with momentum and weight decay, see `Momentum`.

    The rate means more with more momentum: a step that is repeated goes 1 / (1 - momentum) times as far.

    Args:
        rbm: the machine that the step is for; only its shape is looked at.
        learning_rate: per mean log-likelihood of a row.
        momentum: share of the last step that the next one repeats, below 1.
        weight_decay: pull of the weights towards zero, in units of the learning rate.
    """
    ascent = Momentum(rbm, 0.0, weight_decay)
    return lambda rbm, gradient, done: ascent.ascend(rbm, gradient, learning_rate(done), momentum(done))


def adam_step(
    rbm: Harmonium,
    learning_rate: Schedule,
    *,
    mean_decay: float = 0.9,
    square_decay: float = 0.999,
    weight_decay: float = 0.0,
) -> Step:
    """Adam (Kingma and Ba, 2015) with decoupled weight decay (Loshchilov and Hutter, 2019).

        m = mean_decay m + (1 - mean_decay) g          (both averages divided by what they are
        s = square_decay s + (1 - square_decay) g²      short of at the start)
        parameter += learning_rate (m / (sqrt(s) + 1e-8) - weight_decay parameter)

    Args:
        rbm: the machine that the step is for; only its shape is looked at.
        learning_rate: about how far a parameter moves in one step, in log-odds.
        mean_decay: of the running mean of the gradient.
        square_decay: of the running mean of its squares.
        weight_decay: pull of the weights (not the biases) towards zero, in units of the learning rate.
    """
    means, squares = Gradient.zeros(rbm), Gradient.zeros(rbm)
    steps = 0

    def step(rbm: Harmonium, gradient: Gradient, done: float) -> None:
        nonlocal steps
        steps += 1
        rate = learning_rate(done)
        if weight_decay:
            rbm.weights[...] *= 1 - rate * weight_decay
        mean_share, square_share = 1 - mean_decay**steps, 1 - square_decay**steps
        for parameter, uphill, mean, square in zip(
            _arrays(rbm), _arrays(gradient), _arrays(means), _arrays(squares), strict=True
        ):
            mean += (1 - mean_decay) * (uphill - mean)
            np.square(uphill, out=uphill)
            square += (1 - square_decay) * (uphill - square)
            parameter += (rate / mean_share) * mean / (np.sqrt(square / square_share) + 1e-8)

    return step


class WeightAverage(Generic[Machine]):
    """The running average of a machine's parameters, less noisy than where they stand (Polyak, 1992).

    average = decay * average + (1 - decay) * parameters, divided by what it is short of at the start.

    Args:
        rbm: the machine in training.
        decay: 0.99 averages over about the last 100 updates.
    """

    def __init__(self, rbm: Machine, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay = {decay:g} must be at least 0 and below 1")
        self._rbm = rbm
        self._decay = decay
        self._updates = 0
        self._sums = Gradient.zeros(rbm)

    def update(self) -> None:
        """Take in where the parameters stand now."""
        self._updates += 1
        for total, parameter in zip(_arrays(self._sums), _arrays(self._rbm), strict=True):
            total += (1 - self._decay) * (parameter - total)

    def machine(self) -> Machine:
        """A machine with the average parameters; at least one update must have been made."""
        if not self._updates:
            raise ValueError("nothing has been averaged yet")
        share = 1 - self._decay**self._updates
        return type(self._rbm)(*(total / share for total in _arrays(self._sums)))


def _arrays(of: Harmonium | Gradient) -> tuple[Dense, Dense, Dense]:
    return of.weights, of.visible_bias, of.hidden_bias

"""Stochastic gradient ascent: minibatches, learning rates, and optimisers.

An optimiser is any object with the method of `Optimiser`; every fit takes it as one
argument.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import Dense, Harmonium


class Gradient(NamedTuple):
    """A direction for the parameters of a model, in the shapes of the parameters."""

    weights: Dense
    visible_bias: Dense
    hidden_bias: Dense


@dataclass(frozen=True, eq=False)
class Minibatch:
    """Rows of one update, and its place in the fit.

    Attributes:
        epoch: from 1.
        epochs: passes over the rows.
        number: of the minibatch in its epoch, from 1.
        count: minibatches in an epoch.
        rows: row numbers.
    """

    epoch: int
    epochs: int
    number: int
    count: int
    rows: NDArray[np.int64]

    @property
    def done(self) -> float:
        """Share of all updates that come before this one, 0 to 1."""
        return ((self.epoch - 1) * self.count + self.number - 1) / (self.epochs * self.count)

    @property
    def done_after(self) -> float:
        """Share of all updates made when this one is, 0 to 1."""
        return ((self.epoch - 1) * self.count + self.number) / (self.epochs * self.count)

    @property
    def ends_epoch(self) -> bool:
        """Whether it is the last one of its epoch."""
        return self.number == self.count


def minibatches(n_rows: int, batch_size: int, epochs: int, rng: np.random.Generator) -> Iterator[Minibatch]:
    """Minibatches of all epochs, the rows in a new random order in each.

    All are of equal size, give or take one row: a short last one would make a noisy
    step.
    """
    count = math.ceil(n_rows / batch_size)
    for epoch in range(1, epochs + 1):
        for number, rows in enumerate(np.array_split(rng.permutation(n_rows), count), start=1):
            yield Minibatch(epoch, epochs, number, count, rows)


def cosine_rate(start: float, final_share: float, done: float) -> float:
    """Learning rate that falls from `start` to `final_share * start` by half a cosine.

    Args:
        start: the first rate.
        final_share: the last rate as a share of the first.
        done: share of all updates taken so far, 0 to 1.
    """
    return start * (final_share + (1 - final_share) * 0.5 * (1 + float(np.cos(np.pi * done))))


class Optimiser(Protocol):
    """Takes steps along gradients; an object of it serves one model."""

    def ascend(self, rbm: Harmonium, gradient: Gradient, learning_rate: float) -> None:
        """Change the model's parameters in place; the gradient's arrays are used up."""


@dataclass(eq=False)
class SGD:
    """Gradient ascent with momentum and weight decay (Hinton, 2010, sections 9 and 10).

        step = momentum * step + learning_rate * (gradient - weight_decay * weights)

    Attributes:
        momentum: share of the last step that the next one repeats, below 1.
        weight_decay: pull of the weights (not the biases) towards zero.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    _steps: tuple[Dense, ...] = field(default=(), init=False, repr=False)

    def ascend(self, rbm: Harmonium, gradient: Gradient, learning_rate: float) -> None:
        """Take one step; the gradient's arrays are used up."""
        self._steps = self._steps or tuple(map(np.zeros_like, rbm.parameters))
        _decay(rbm, gradient, self.weight_decay)
        for parameter, uphill, step in zip(rbm.parameters, gradient, self._steps, strict=True):
            uphill *= learning_rate
            step *= self.momentum
            step += uphill
            parameter += step


@dataclass(eq=False)
class Adam:
    """Adam (Kingma and Ba, 2015), with g the gradient less weight_decay * weights.

        m = mean_decay m + (1 - mean_decay) g         (both averages divided by their
        s = square_decay s + (1 - square_decay) g²     sums of weights, first below 1)
        parameter += learning_rate m / (sqrt(s) + 1e-8)

    The learning rate is about how far a parameter moves in one step, in log-odds.

    Attributes:
        mean_decay: of the running mean of the gradient.
        square_decay: of the running mean of its squares.
        weight_decay: pull of the weights (not the biases) towards zero.
    """

    mean_decay: float = 0.9
    square_decay: float = 0.999
    weight_decay: float = 0.0
    _means: tuple[Dense, ...] = field(default=(), init=False, repr=False)
    _squares: tuple[Dense, ...] = field(default=(), init=False, repr=False)
    _updates: int = field(default=0, init=False, repr=False)

    def ascend(self, rbm: Harmonium, gradient: Gradient, learning_rate: float) -> None:
        """Take one step; the gradient's arrays are used up."""
        self._means = self._means or tuple(map(np.zeros_like, rbm.parameters))
        self._squares = self._squares or tuple(map(np.zeros_like, rbm.parameters))
        self._updates += 1
        mean_share, square_share = 1 - self.mean_decay**self._updates, 1 - self.square_decay**self._updates
        _decay(rbm, gradient, self.weight_decay)
        for parameter, uphill, mean, square in zip(
            rbm.parameters, gradient, self._means, self._squares, strict=True
        ):
            mean += (1 - self.mean_decay) * (uphill - mean)
            np.square(uphill, out=uphill)
            square += (1 - self.square_decay) * (uphill - square)
            parameter += (learning_rate / mean_share) * mean / (np.sqrt(square / square_share) + 1e-8)


def _decay(rbm: Harmonium, gradient: Gradient, weight_decay: float) -> None:
    if weight_decay:
        gradient.weights[...] -= weight_decay * rbm.weights

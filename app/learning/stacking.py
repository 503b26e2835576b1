"""Several machines, one on another: greedy layer-wise pre-training, and fine-tuning for labels.

The hidden features of one machine are the visible units of the next (Hinton, Osindero and Teh, "A fast
learning algorithm for deep belief nets", 2006). A stack trained so is a good start for a network that
backpropagation then tunes to tell labels apart (Hinton and Salakhutdinov, 2006), above all where few labels
are known.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from app.learning.ascent import Step
from app.learning.contrastive_divergence import Gradient
from app.learning.fitting import FitReport, checked, log_odds_of_means
from app.learning.rbm import RBM, Dense, GaussianRBM, Harmonium, Visible

FitLayer: TypeAlias = Callable[[Harmonium, Visible], Iterable[FitReport]]
"""(untrained machine, its rows) -> the reports of its training, which changes the machine in place."""

StepOf: TypeAlias = Callable[[Harmonium], Step]
"""A machine -> the steps that it is to take, such as `lambda layer: momentum_step(layer, cosine(0.1))`."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Machines, the lowest first; each has as many visible units as the one below has hidden ones.

    Attributes:
        machines: at least one.
    """

    machines: tuple[Harmonium, ...]

    def __post_init__(self) -> None:
        if not self.machines:
            raise ValueError("a stack has at least one machine")
        for below, above in zip(self.machines, self.machines[1:], strict=False):
            if below.n_hidden != above.n_visible:
                raise ValueError(f"{above.n_visible} visible units do not fit {below.n_hidden} hidden ones")

    def transform(self, visible: Visible) -> Dense:
        """Features of the highest machine, shape (n, its n_hidden), for rows of the lowest one."""
        for machine in self.machines:
            visible = machine.transform(visible)
        assert isinstance(visible, np.ndarray)  # noqa: S101 - for mypy: there is at least one machine
        return visible

    def reconstruct(self, visible: Visible) -> Dense:
        """The rows sent up through all machines and down again, mean field; shape (n, lowest n_visible)."""
        result = self.transform(visible)
        for machine in reversed(self.machines):
            result = machine.visible_mean(result)
        return result


def pretrain(
    visible: Visible,
    n_hidden: Sequence[int],
    fit_layer: FitLayer,
    rng: np.random.Generator,
    *,
    lowest: type[RBM] | type[GaussianRBM] = RBM,
) -> Generator[FitReport, None, Stack]:
    """Train machine after machine, each on the features of the one below.

    Args:
        visible: rows of shape (n, n_visible), from 0 to 1 or, with a Gaussian lowest machine, standardised.
        n_hidden: number of hidden units of each machine, the lowest first.
        fit_layer: trains one machine, usually by `fit`.
        rng: draws the first weights.
        lowest: what the visible units of the lowest machine are; all others are Bernoulli.

    Yields:
        Whatever `fit_layer` reports, machine after machine.

    Returns:
        The stack, as the value of StopIteration.
    """
    machines: list[Harmonium] = []
    rows = visible
    for size in n_hidden:
        kind = RBM if machines else lowest
        bias = log_odds_of_means(rows) if kind is RBM else np.asarray(rows.mean(axis=0)).ravel()
        machine: Harmonium = kind.initial(bias, size, rng)
        yield from fit_layer(machine, rows)
        machines.append(machine)
        rows = machine.transform(checked(machine, rows))
    return Stack(tuple(machines))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A stack with a softmax layer on it.

    Attributes:
        stack: makes features of rows.
        top: from features to classes; of this machine only the weights, shape (n_features, n_classes), and
            the hidden biases, shape (n_classes,), are used.
    """

    stack: Stack
    top: RBM

    def log_probability(self, visible: Visible) -> Dense:
        """log P(class | row), shape (n, n_classes)."""
        result: Dense = log_softmax(self.top.hidden_input(self.stack.transform(visible)), axis=1)
        return result

    def predict(self, visible: Visible) -> NDArray[np.int64]:
        """The most probable class of each row, shape (n,)."""
        classes: NDArray[np.int64] = self.log_probability(visible).argmax(axis=1)
        return classes


def untuned(stack: Stack, n_classes: int) -> Classifier:
    """A classifier that does not know anything yet: every class is as probable as any other."""
    n_features = stack.machines[-1].n_hidden
    dtype = stack.machines[-1].weights.dtype
    top = RBM(
        np.zeros((n_features, n_classes), dtype), np.zeros(n_features, dtype), np.zeros(n_classes, dtype)
    )
    return Classifier(stack, top)


def classification_gradient(
    classifier: Classifier, visible: Visible, labels: NDArray[np.integer[Any]]
) -> tuple[float, list[Gradient]]:
    """The mean log-probability of the labels, and its gradient by backpropagation.

    Args:
        classifier: whose parameters.
        visible: shape (n, n_visible).
        labels: class numbers, shape (n,).

    Returns:
        The mean in nats, and a gradient for each machine of the stack and then for the top; visible biases
        have no part in it and get 0.
    """
    layers: list[Harmonium] = [*classifier.stack.machines, classifier.top]
    inputs: list[Visible] = [visible]
    for machine in classifier.stack.machines:
        inputs.append(machine.transform(inputs[-1]))
    log_probability: Dense = log_softmax(classifier.top.hidden_input(inputs[-1]), axis=1)
    rows, n = np.arange(labels.size), labels.size
    uphill = -np.exp(log_probability)  # d mean log P / d input of the layer, times n
    uphill[rows, labels] += 1
    uphill /= n
    gradients = []
    for layer, below in zip(reversed(layers), reversed(inputs), strict=True):
        gradients.append(Gradient(below.T @ uphill, np.zeros_like(layer.visible_bias), uphill.sum(axis=0)))
        if below is not visible:
            assert isinstance(below, np.ndarray)  # noqa: S101 - for mypy: features are dense
            uphill = (uphill @ layer.weights.T) * below * (1 - below)
    return float(log_probability[rows, labels].mean()), gradients[::-1]


def fine_tune(
    classifier: Classifier,
    visible: Visible,
    labels: NDArray[np.integer[Any]],
    step_of: StepOf,
    rng: np.random.Generator,
    *,
    epochs: int = 10,
    batch_size: int = 10,
) -> Generator[float, None, Classifier]:
    """Tune a copy of all parameters to the labels by stochastic gradient ascent.

    Args:
        classifier: where to start, usually `untuned`; not changed.
        visible: shape (n, n_visible).
        labels: class numbers from 0, shape (n,).
        step_of: the steps of each layer, by `momentum_step`, `adam_step` or one of your own.
        rng: shuffles the rows.
        epochs: passes over the rows.
        batch_size: rows in a minibatch.

    Yields:
        The mean log-probability of the labels over each epoch's minibatches, in nats.

    Returns:
        The tuned classifier, as the value of StopIteration.
    """
    rows = checked(classifier.stack.machines[0], visible)
    n_classes = classifier.top.n_hidden
    if labels.shape != (rows.shape[0],) or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must be {rows.shape[0]} numbers from 0 to {n_classes - 1}")
    tuned = Classifier(
        Stack(tuple(_copy(machine) for machine in classifier.stack.machines)), _copy(classifier.top)
    )
    layers: list[Harmonium] = [*tuned.stack.machines, tuned.top]
    steps = [step_of(layer) for layer in layers]
    minibatches = -(-rows.shape[0] // batch_size)
    for epoch in range(epochs):
        total = 0.0
        for number, chosen in enumerate(np.array_split(rng.permutation(rows.shape[0]), minibatches)):
            done = (epoch * minibatches + number) / (epochs * minibatches)
            mean, gradients = classification_gradient(tuned, rows[chosen], labels[chosen])
            total += mean * chosen.size
            for layer, step, gradient in zip(layers, steps, gradients, strict=True):
                step(layer, gradient, done)
        yield total / rows.shape[0]
    return tuned


def _copy(machine: Any) -> Any:
    return replace(
        machine,
        weights=machine.weights.copy(),
        visible_bias=machine.visible_bias.copy(),
        hidden_bias=machine.hidden_bias.copy(),
    )

"""Training that has gone wrong: how it is noticed, and which setting is to blame."""

from __future__ import annotations

import math

import numpy as np

from app.learning.rbm import Harmonium

LARGEST_PARAMETER = 1e3  # log-odds; far beyond what any data asks for
UPDATES_BETWEEN_CHECKS = 8  # each a pass over all weights; one update hardly makes them diverge


class Diverged(ArithmeticError):
    """The parameters have grown without bound or are no longer numbers; the message says what to lower.

    Attributes:
        epoch: the epoch it happened in, from 1.
        setting: name of the setting to lower.
    """

    def __init__(
        self, epoch: int, setting: str, value: float | None = None, better: float | None = None
    ) -> None:
        advice = "" if value is None or better is None else f" (it was {value:g}; try {better:g})"
        super().__init__(f"training diverged in epoch {epoch}: lower {setting}{advice}")
        self.epoch = epoch
        self.setting = setting


def refuse_divergence(
    rbm: Harmonium, epoch: int, learning_rate: float, weight_decay: float = 0.0, momentum: float = 0.0
) -> None:
    """Nothing, as long as no parameter is `out_of_bounds`.

    Args:
        rbm: the machine in training.
        epoch: for the message, from 1.
        learning_rate: the first one of this training.
        weight_decay: in units of the learning rate.
        momentum: share of the last step that the next one repeats.

    Raises:
        Diverged: a parameter is out of bounds or not a number.
    """
    if not out_of_bounds(rbm):
        return
    # Decay alone, without any data, makes the weights swing ever wider from here on.
    largest_decay = 2 * (1 + momentum) / learning_rate
    if weight_decay >= largest_decay and learning_rate <= 1:  # a larger rate is the first thing to lower
        raise Diverged(epoch, "weight_decay", weight_decay, largest_decay / 100)
    raise Diverged(epoch, "learning_rate", learning_rate, learning_rate / 4)


def out_of_bounds(rbm: Harmonium) -> bool:
    """Whether a parameter is larger than any data asks for, or not a number; one cheap pass over them."""
    sizes = (weight_norm(rbm), np.abs(rbm.hidden_bias).max(), np.abs(rbm.visible_bias).max())
    return not all(size <= LARGEST_PARAMETER for size in sizes)  # NaN fails the comparison


def weight_norm(rbm: Harmonium) -> float:
    """Root mean square of the weights; infinite or NaN, without a warning, if they are out of bounds."""
    return math.sqrt(float(np.vdot(rbm.weights, rbm.weights)) / rbm.weights.size)

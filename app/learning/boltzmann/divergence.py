"""Training that has gone wrong: how it is noticed, and which setting to lower."""

from __future__ import annotations

import math

import numpy as np

from app.learning.boltzmann.rbm import Harmonium

LARGEST_PARAMETER = 1e3  # log-odds; far beyond what any data asks for


class Diverged(ArithmeticError):
    """The parameters diverged to huge or non-finite numbers; lower the named setting.

    Attributes:
        epoch: the epoch it happened in, from 1.
        setting: name of the setting to lower.
    """

    def __init__(self, epoch: int, setting: str, value: float, better: float) -> None:
        super().__init__(
            f"training diverged in epoch {epoch}: lower {setting} (it was {value:g}; try {better:g})"
        )
        self.epoch = epoch
        self.setting = setting


def refuse_divergence(
    rbm: Harmonium, epoch: int, learning_rate: float, weight_decay: float, momentum: float
) -> None:
    """Raise `Diverged` if a parameter is out of bounds.

    Args:
        rbm: the model in training.
        epoch: for the message, from 1.
        learning_rate: the first one of this training.
        weight_decay: in units of the learning rate.
        momentum: share of the last step that the next one repeats.
    """
    if not out_of_bounds(rbm):
        return
    # Decay alone, without any data, makes the weights swing ever wider from here on.
    largest_decay = 2 * (1 + momentum) / learning_rate
    if weight_decay >= largest_decay and learning_rate <= 1:  # a larger rate is the first thing to lower
        raise Diverged(epoch, "weight_decay", weight_decay, largest_decay / 100)
    raise Diverged(epoch, "learning_rate", learning_rate, learning_rate / 4)


def out_of_bounds(rbm: Harmonium) -> bool:
    """Whether a parameter is larger than any data asks for, or not a number."""
    sizes = (weight_norm(rbm), np.abs(rbm.hidden_bias).max(), np.abs(rbm.visible_bias).max())
    return not all(size <= LARGEST_PARAMETER for size in sizes)  # NaN fails the comparison


def weight_norm(rbm: Harmonium) -> float:
    """Root mean square of the weights; infinite or NaN, without a warning, if so."""
    return math.sqrt(float(np.vdot(rbm.weights, rbm.weights)) / rbm.weights.size)

"""scikit-learn's 1,797 digits of 8 x 8 pixels, and the digits moved about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from app.learning.boltzmann.rbm import Dense

Labels = NDArray[np.int64]
TRAINED = 1_200  # of the digits in a random order; the others are for testing


def shuffled_digits() -> tuple[Dense, Labels]:
    """Pixels from 0 to 1, float32 (1797, 64), and the digit of each picture."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return data.data[order].astype(np.float32) / 16, data.target[order]


def nudged(rows: Dense, labels: Labels) -> tuple[Dense, Labels]:
    """Every picture and its moves by a pixel in each direction, in random order."""
    padded = np.pad(rows.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    moved = [padded[:, down : down + 8, across : across + 8].reshape(-1, 64) for down, across in corners]
    order = np.random.default_rng(1).permutation(5 * labels.size)
    return np.concatenate(moved)[order], np.tile(labels, 5)[order]


def nudged_digits() -> tuple[tuple[Dense, Labels], tuple[Dense, Labels]]:
    """Training and test rows; no picture is in both, moved or not."""
    rows, labels = shuffled_digits()
    return nudged(rows[:TRAINED], labels[:TRAINED]), nudged(rows[TRAINED:], labels[TRAINED:])

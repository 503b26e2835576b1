"""A tiny RBM with few enough states to list: the truth of the tests."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from app.learning.boltzmann.rbm import RBM

Floats = NDArray[np.float64]


def tiny_rbm(n_visible: int = 6, n_hidden: int = 4, seed: int = 0, deviation: float = 0.8) -> RBM:
    """A float64 RBM with weights and biases far from zero."""
    rng = np.random.default_rng(seed)
    return RBM(
        rng.normal(0, deviation, (n_visible, n_hidden)),
        rng.normal(0, deviation, n_visible),
        rng.normal(0, deviation, n_hidden),
    )


def states(n: int) -> Floats:
    """All rows of n zeros and ones, (2 ** n, n); row r is r in binary."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=n)))


def joint_probability(rbm: RBM) -> Floats:
    """P(v, h), (2 ** n_visible, 2 ** n_hidden), by the definition of the energy."""
    visible, hidden = states(rbm.n_visible), states(rbm.n_hidden)
    energy = np.empty((len(visible), len(hidden)))
    for row, v in enumerate(visible):
        for column, h in enumerate(hidden):
            energy[row, column] = -(v @ rbm.visible_bias) - h @ rbm.hidden_bias - v @ rbm.weights @ h
    weight = np.exp(-energy)
    result: Floats = weight / weight.sum()
    return result

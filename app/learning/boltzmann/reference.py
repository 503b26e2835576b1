"""Contrastive divergence in plain NumPy, which the fast one is tested against."""

from __future__ import annotations

import numpy as np
from scipy.special import expit as sigmoid

from app.learning.boltzmann.rbm import RBM, Dense


def cd_step(rbm: RBM, v: Dense, learning_rate: float, k: int, rng: np.random.Generator) -> RBM:
    """The model after one step of CD-k on the minibatch v of shape (n, n_visible)."""
    W, b, c = rbm.parameters
    hidden = sigmoid(v @ W + c)  # (n, n_hidden)
    state = rng.random(hidden.shape) < hidden
    for _ in range(k - 1):
        visible = sigmoid(state @ W.T + b)  # (n, n_visible)
        visible_state = rng.random(visible.shape) < visible
        hidden_ = sigmoid(visible_state @ W + c)
        state = rng.random(hidden_.shape) < hidden_
    visible_ = sigmoid(state @ W.T + b)
    hidden_ = sigmoid(visible_ @ W + c)
    rate = learning_rate / len(v)
    return RBM(
        W + rate * (v.T @ hidden - visible_.T @ hidden_),
        b + rate * (v - visible_).sum(axis=0),
        c + rate * (hidden - hidden_).sum(axis=0),
    )

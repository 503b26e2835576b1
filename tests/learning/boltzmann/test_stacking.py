"""Stacks of models: pre-training layer by layer on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning.boltzmann.contrastive_divergence import ContrastiveDivergence, fit
from app.learning.boltzmann.gaussian import GaussianRBM, standardised
from app.learning.boltzmann.optimisers import SGD
from app.learning.boltzmann.rbm import RBM, Dense, Harmonium, Visible
from app.learning.boltzmann.stacking import Stack, pretrain
from tests.learning.digits import shuffled_digits
from tests.learning.enumeration import tiny_rbm


def by_cd(model: Harmonium, rows: Visible) -> Iterable[object]:
    return fit(
        model,
        rows,
        np.random.default_rng(1),
        algorithm=ContrastiveDivergence(),
        optimiser=SGD(momentum=0.8, weight_decay=1e-4),
        learning_rate=0.01 if isinstance(model, GaussianRBM) else 0.05,
    )


@pytest.fixture(scope="module")
def digits() -> Dense:
    """800 digits, pixels from 0 to 1, in a random order."""
    return shuffled_digits()[0][:800]


def test_features_go_up_layer_by_layer_and_reconstructions_come_down() -> None:
    lower, upper = tiny_rbm(6, 4), tiny_rbm(4, 3, seed=1)
    visible = np.random.default_rng(0).random((5, 6))
    both = Stack((lower, upper))
    features = upper.hidden_probability(lower.hidden_probability(visible))
    np.testing.assert_allclose(both.transform(visible), features)
    np.testing.assert_allclose(both.transform(sp.csr_array(visible)), features)
    np.testing.assert_allclose(both.reconstruct(visible), lower.visible_mean(upper.visible_mean(features)))


def test_models_that_do_not_fit_one_another_are_refused() -> None:
    with pytest.raises(ValueError, match="3 visible units do not fit 4 hidden ones"):
        Stack((tiny_rbm(6, 4), tiny_rbm(3, 4)))
    with pytest.raises(ValueError, match="at least one"):
        Stack(())


def test_pretrained_models_reconstruct_digits_they_have_not_seen(digits: Dense) -> None:
    stack = pretrain(digits[:600], [96, 48], by_cd, np.random.default_rng(0))
    assert [model.n_hidden for model in stack.models] == [96, 48]
    pixels = digits[600:]
    mean_error = np.square(pixels - pixels.mean(axis=0)).mean()
    assert np.square(stack.reconstruct(pixels) - pixels).mean() < 0.6 * mean_error


def test_the_lowest_model_may_be_gaussian(digits: Dense) -> None:
    rows = standardised(digits[:400]).rows
    models = pretrain(rows, [64, 16], by_cd, np.random.default_rng(0), lowest=GaussianRBM).models
    assert [type(model) for model in models] == [GaussianRBM, RBM]
    error = np.square(models[0].reconstruct(rows.astype(np.float32)) - rows).mean()
    assert error < 0.6 * rows.var()

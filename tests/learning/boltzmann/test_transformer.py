"""`RBMTransformer` beside scikit-learn: its tests, its checks, its pipelines."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from app.learning.boltzmann.transformer import RBMTransformer

NOT_OURS = {
    "test_transform": "calls the private method _mean_hiddens",
    "test_sample_hiddens": "calls the private methods _mean_hiddens and _sample_hiddens",
    "test_sparse_and_verbose": "expects the printed name BernoulliRBM",
    "test_feature_names_out": "expects feature names that begin with bernoullirbm",
}
IMPORT = "from sklearn.neural_network import BernoulliRBM"


def exchanged() -> ModuleType:
    """scikit-learn's own test module, with our class in place of its `BernoulliRBM`."""
    spec = find_spec("sklearn.neural_network.tests.test_rbm")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text().replace("@pytest.mark.thread_unsafe", "@pytest.mark.timeout(300)")
    assert IMPORT in source
    module = ModuleType("scikit_learn_test_rbm")
    sys.modules[module.__name__] = module
    replaced = source.replace(
        IMPORT, f"from {RBMTransformer.__module__} import RBMTransformer as BernoulliRBM"
    )
    exec(compile(replaced, "test_rbm.py", "exec"), vars(module))  # noqa: S102 - the installed package's
    return module


_theirs = exchanged()
globals().update(
    {
        f"{name}_of_scikit_learn": test
        for name, test in vars(_theirs).items()
        if name.startswith("test_") and name not in NOT_OURS
    }
)


def test_the_tests_left_out_exist_and_are_few() -> None:
    assert len(NOT_OURS) <= 5
    assert set(NOT_OURS) <= set(vars(_theirs))


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [RBMTransformer(n_components=4, n_iter=2, random_state=0)]
)
def test_scikit_learns_checks_of_an_estimator_pass(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """600 digits from 0 to 1, float64 of shape (600, 64), and their labels."""
    data = load_digits()
    return data.data[:600] / 16, data.target[:600]


def test_a_fit_makes_the_steps_of_scikit_learns_model(digits: tuple[np.ndarray, np.ndarray]) -> None:
    settings: dict[str, Any] = {
        "n_components": 12,
        "learning_rate": 0.05,
        "batch_size": 20,
        "n_iter": 3,
        "random_state": 5,
    }
    rows = digits[0]
    ours, theirs = RBMTransformer(**settings).fit(rows), BernoulliRBM(**settings).fit(rows)
    for name in ("components_", "intercept_hidden_", "intercept_visible_", "h_samples_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-10)
    np.testing.assert_allclose(ours.transform(rows), theirs.transform(rows), atol=1e-10)
    np.testing.assert_array_equal(ours.gibbs(rows), theirs.gibbs(rows))


def test_scores_over_seeds_agree_with_scikit_learn_and_with_all_units(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    rows = digits[0]
    ours = RBMTransformer(12, n_iter=3, random_state=0).fit(rows)
    theirs = BernoulliRBM(12, n_iter=3, random_state=0).fit(rows)

    def mean_score(model: Any) -> np.ndarray:
        seeds = [model.set_params(random_state=seed).score_samples(rows) for seed in range(300)]
        mean: np.ndarray = np.mean(seeds, axis=0)
        return mean

    exact = ours._rbm().pseudo_log_likelihood(rows)
    assert mean_score(ours).mean() == pytest.approx(exact.mean(), rel=0.01)
    assert mean_score(ours).mean() == pytest.approx(mean_score(theirs).mean(), rel=0.01)
    assert np.corrcoef(mean_score(ours), exact)[0, 1] > 0.7


def test_hidden_and_visible_draws_have_the_means_of_their_probabilities() -> None:
    rows = np.eye(4)
    model = RBMTransformer(3, random_state=0, learning_rate=1.0).fit(rows)
    draws = np.mean([model.gibbs(np.ones((500, 4))) for _ in range(4)], axis=(0, 1))
    hidden = model.transform(np.ones((1, 4)))
    states = np.array(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, -1).T
    weight = np.prod(np.where(states == 1, hidden, 1 - hidden), axis=1)
    expected = weight @ model._rbm().visible_mean(states)
    np.testing.assert_allclose(draws, expected, atol=0.05)


@pytest.mark.parametrize(
    "settings", [{"persistent": False}, {"k": 2, "momentum": 0.5}, {"weight_decay": 1e-3}]
)
def test_other_settings_learn_as_well(
    digits: tuple[np.ndarray, np.ndarray], settings: dict[str, Any]
) -> None:
    rows = digits[0]
    before = RBMTransformer(16, n_iter=0, random_state=0).fit(rows)
    after = RBMTransformer(16, n_iter=5, random_state=0, **settings).fit(rows)
    assert after.score_samples(rows).mean() > before.score_samples(rows).mean() + 10


def test_features_of_digits_serve_a_logistic_regression_in_a_pipeline(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    rows, labels = digits
    pipeline = make_pipeline(
        RBMTransformer(64, learning_rate=0.06, n_iter=10, random_state=0),
        LogisticRegression(C=500.0, max_iter=1_000),
    )
    pipeline.set_params(rbmtransformer__batch_size=20)
    assert pipeline.fit(rows[:450], labels[:450]).score(rows[450:], labels[450:]) > 0.8
    assert pipeline[:-1].get_feature_names_out()[0] == "rbmtransformer0"

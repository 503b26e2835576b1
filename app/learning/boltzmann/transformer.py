"""scikit-learn's interface to the Bernoulli RBM; needs the extra `sklearn`."""

from __future__ import annotations

import time
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from app.learning.boltzmann.contrastive_divergence import (
    Algorithm,
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
)
from app.learning.boltzmann.optimisers import SGD
from app.learning.boltzmann.rbm import RBM, Dense, Visible

FLOATS = (np.float64, np.float32)


class RBMTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Bernoulli restricted Boltzmann machine as a scikit-learn transformer.

    With the defaults it makes the steps, and the random draws, of scikit-learn's
    `BernoulliRBM`: persistent contrastive divergence with a chain for each row of a
    minibatch, rows in their order.

    Args:
        n_components: number of hidden units.
        learning_rate: of every step, per mean log-likelihood of a row.
        batch_size: rows in a minibatch, and persistent chains.
        n_iter: passes over the rows.
        verbose: above 0 prints the pseudo-likelihood of every pass.
        random_state: seed or generator of all draws.
        k: Gibbs steps of the negative phase.
        momentum: share of the last step that the next one repeats.
        weight_decay: pull of the weights towards zero, in units of the learning rate.
        persistent: whether chains persist (PCD) or start at the minibatch (CD).

    Attributes:
        components_: weights, shape (n_components, n_features).
        intercept_hidden_: hidden biases, shape (n_components,).
        intercept_visible_: visible biases, shape (n_features,).
        h_samples_: states of the chains, shape (batch_size, n_components).
        n_features_in_: number of visible units.
        feature_names_in_: names of the features, where the data have them.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [Interval(Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "k": [Interval(Integral, 1, None, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "persistent": ["boolean"],
    }

    def __init__(
        self,
        n_components: int = 256,
        *,
        learning_rate: float = 0.1,
        batch_size: int = 10,
        n_iter: int = 10,
        verbose: int = 0,
        random_state: Any = None,
        k: int = 1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        persistent: bool = True,
    ) -> None:
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.verbose = verbose
        self.random_state = random_state
        self.k = k
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.persistent = persistent

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train from the start on rows of shape (n, n_features), dense or sparse."""
        rows = self._rows(X, reset=True)
        self._start(rows)
        for iteration in range(1, self.n_iter + 1):
            started = time.perf_counter()
            for batch in gen_batches(rows.shape[0], self.batch_size):
                self._update(rows[batch])
            if self.verbose:
                print(  # noqa: T201 - as scikit-learn's estimators do
                    f"[{type(self).__name__}] Iteration {iteration}, pseudo-likelihood = "
                    f"{self.score_samples(rows).mean():.2f}, time = {time.perf_counter() - started:.2f}s"
                )
        self.random_state_ = check_random_state(self.random_state)  # `gibbs` begins at the seed again
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Take one step with rows of shape (n, n_features) as the minibatch."""
        is_first = not hasattr(self, "components_")
        rows = self._rows(X, reset=is_first)
        if is_first:
            self._start(rows)
        self._update(rows.astype(self.components_.dtype, copy=False))
        return self

    def transform(self, X: Any) -> Dense:
        """Hidden features P(h = 1 | v = X), shape (n, n_components)."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        return self._rbm().hidden_probability(rows)

    def gibbs(self, X: Any) -> NDArray[np.bool_]:
        """Visible rows after one Gibbs step v -> h -> v, bool (n, n_features)."""
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        return self._rbm().gibbs(rows, self._draws()).astype(np.bool_)

    def score_samples(self, X: Any) -> Dense:
        """Pseudo-log-likelihood of each row, estimated from one random unit, (n,).

        n_features * log P(v_i | all other units). The unit i is drawn by a hash of the
        row, whose key comes from `random_state`: so a row has one score whatever rows
        stand beside it.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        n_features = rows.shape[1]
        random_state = check_random_state(self.random_state)
        key, shift = random_state.random_sample(n_features), random_state.random_sample()
        units = ((rows @ key + shift) % 1 * n_features).astype(np.intp)  # uniform, as the shift is
        scores: Dense = n_features * self._rbm().conditional_log_probability(rows, units[:, None])[:, 0]
        return scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _rows(self, X: Any, *, reset: bool) -> Any:
        """The rows, checked, as an array or a CSR array of floats."""
        rows = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=reset)
        return sp.csr_array(rows) if hasattr(rows, "toarray") else rows

    def _start(self, rows: Any) -> None:
        self.random_state_ = check_random_state(self.random_state)
        n_features, dtype = rows.shape[1], rows.dtype
        weights = self.random_state_.normal(0, 0.01, (self.n_components, n_features))
        self.components_ = weights.astype(dtype, order="F")
        # In double precision always: many small steps add up.
        self.intercept_hidden_ = np.zeros(self.n_components)
        self.intercept_visible_ = np.zeros(n_features)
        self.h_samples_ = np.zeros((self.batch_size, self.n_components), dtype)
        self._n_features_out = self.n_components
        self._optimiser = SGD(self.momentum, self.weight_decay)

    def _update(self, minibatch: Visible) -> None:
        chains = PersistentContrastiveDivergence(self.h_samples_, self.k)
        algorithm: Algorithm = chains if self.persistent else ContrastiveDivergence(self.k)
        gradient = algorithm.gradient(self._rbm(), minibatch, self._draws())
        self._optimiser.ascend(self._rbm(), gradient, self.learning_rate)
        self.h_samples_ = chains.hidden

    def _rbm(self) -> RBM:
        """The RBM of the fitted arrays, without a copy."""
        return RBM(self.components_.T, self.intercept_visible_, self.intercept_hidden_)

    def _draws(self) -> np.random.Generator:
        return cast(np.random.Generator, _Draws(self.random_state_))


class _Draws:
    """A `RandomState` with the method of `Generator` that the model draws by.

    It draws doubles for single precision, too, so that fits of both precisions agree.
    """

    def __init__(self, random_state: np.random.RandomState) -> None:
        self._random_state = random_state

    def random(self, shape: tuple[int, ...], dtype: Any) -> Dense:
        uniform: Dense = self._random_state.random_sample(shape).astype(dtype, copy=False)
        return uniform

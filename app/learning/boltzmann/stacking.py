"""Several models, one on another: greedy layer-wise training.

The hidden features of one model are the visible units of the next (Hinton, Osindero
and Teh, "A fast learning algorithm for deep belief nets", 2006). To classify by the
features, put `RBMTransformer`s and a classifier into a scikit-learn `Pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from app.learning.boltzmann.contrastive_divergence import checked
from app.learning.boltzmann.gaussian import GaussianRBM
from app.learning.boltzmann.rbm import RBM, Dense, Harmonium, Visible, log_odds

FitLayer: TypeAlias = Callable[[Harmonium, Visible], Iterable[object]]
"""(untrained model, its rows) -> the updates of its training, as `fit` makes them."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Trained models, the lowest first; hidden units are the next one's visible units.

    Attributes:
        models: at least one.
    """

    models: tuple[Harmonium, ...]

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("a stack has at least one model")
        for below, above in zip(self.models, self.models[1:], strict=False):
            if below.n_hidden != above.n_visible:
                raise ValueError(f"{above.n_visible} visible units do not fit {below.n_hidden} hidden ones")

    def transform(self, visible: Visible) -> Dense:
        """Features of the highest model, (n, its n_hidden), of rows of the lowest."""
        features = self.models[0].hidden_probability(visible)
        for model in self.models[1:]:
            features = model.hidden_probability(features)
        return features

    def reconstruct(self, visible: Visible) -> Dense:
        """Visible means after a mean-field pass up and down, (n, lowest n_visible)."""
        result = self.transform(visible)
        for model in reversed(self.models):
            result = model.visible_mean(result)
        return result


def pretrain(
    visible: Visible,
    n_hidden: Sequence[int],
    fit_layer: FitLayer,
    rng: np.random.Generator,
    *,
    lowest: type[RBM] | type[GaussianRBM] = RBM,
) -> Stack:
    """A stack, each model trained on the features of the one below.

    Args:
        visible: rows of shape (n, n_visible), from 0 to 1 or, with a Gaussian lowest
            model, standardised.
        n_hidden: number of hidden units of each model, the lowest first.
        fit_layer: trains one model in place.
        rng: draws the first weights.
        lowest: kind of the lowest model; all others are Bernoulli.
    """
    models: list[Harmonium] = []
    rows = visible
    for size in n_hidden:
        kind = RBM if models else lowest
        sums = np.asarray(rows.sum(axis=0), np.float64)
        bias = log_odds(sums, rows.shape[0]) if kind is RBM else sums / rows.shape[0]
        model: Harmonium = kind.initial(bias, size, rng)
        for _ in fit_layer(model, rows):
            pass
        models.append(model)
        rows = model.hidden_probability(checked(model, rows))
    return Stack(tuple(models))

"""A restricted Boltzmann machine whose visible units are real numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.learning.boltzmann.rbm import Dense, Harmonium, Visible


@dataclass(frozen=True, eq=False)
class GaussianRBM(Harmonium):
    """Visible units normal with standard deviation 1; hidden units binary.

        E(v, h) = |v - b|² / 2 - h·c - v W h'
        P(h_j = 1 | v) = sigmoid(c_j + (v W)_j)
        v | h ~ Normal(b + h W', 1)
        F(v) = |v - b|² / 2 - sum_j softplus(c_j + (v W)_j)    p(v) = exp(-F(v)) / Z

    For `standardised` data. The variances are not learned: that is hard, and a noise of
    1 works (Hinton, 2010, section 13.2). Learning rates must be about ten times smaller
    than with Bernoulli units, as nothing bounds a reconstruction.
    """

    def visible_mean(self, hidden: Dense) -> Dense:
        """b + h W', shape (n, n_visible), for hidden rows of shape (n, n_hidden)."""
        return self.visible_input(hidden)

    def sample_visible(self, hidden: Dense, rng: np.random.Generator) -> Dense:
        """v ~ p(v | h): real numbers of shape (n, n_visible)."""
        result = self.visible_input(hidden)
        result += rng.standard_normal(result.shape, dtype=result.dtype)
        return result

    def visible_energy(self, visible: Visible) -> Dense:
        """|v - b|² / 2, shape (n,)."""
        # Multiplied out, so that a CSR array needs no dense copy.
        squares = np.asarray((visible * visible).sum(axis=1))
        across: Dense = visible @ self.visible_bias
        result: Dense = squares / 2 - across + np.vdot(self.visible_bias, self.visible_bias) / 2
        return result


@dataclass(frozen=True, eq=False)
class Standardised:
    """Real data with mean 0 and deviation 1 in each column.

    rows * deviations + means leads back.

    Attributes:
        rows: shape (n, n_visible).
        means: of the columns, shape (n_visible,).
        deviations: of the columns, shape (n_visible,); 1 for a column that never
            changes.
    """

    rows: Dense
    means: Dense
    deviations: Dense


def standardised(visible: Dense) -> Standardised:
    """The rows of shape (n, n_visible) with each column standardised."""
    means, deviations = visible.mean(axis=0), visible.std(axis=0)
    deviations = np.where(deviations > 0, deviations, 1)
    return Standardised((visible - means) / deviations, means, deviations)

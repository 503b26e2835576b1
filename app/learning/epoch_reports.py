"""An RBM's state after each epoch of training, measured on a fixed sample of users."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from app.learning.boltzmann.contrastive_divergence import masked_visible_mean
from app.learning.boltzmann.divergence import weight_norm
from app.learning.boltzmann.rbm import RBM, Dense
from app.learning.boltzmann.visible_design import VisibleDesign
from app.learning.rating_matrix import Preferences

SAMPLE_ROWS = 128  # users
SAMPLE_UNITS = 16  # visible units of each of them, for the pseudo-log-likelihood


@dataclass(frozen=True)
class EpochReport:
    """Figures of an epoch, on a sample of at most 128 users.

    Attributes:
        epoch: from 1.
        epochs: passes over the users in all.
        seconds: spent on this epoch's updates and this report.
        reconstruction_error: mean squared difference of visible units and their
            mean-field reconstruction, over all units that take part.
        pseudo_log_likelihood: mean log P(unit | all other units of the row) in nats,
            over sampled units that take part; 0 is perfect.
        held_out_pseudo_log_likelihood: that of held-out rows; None without them.
        free_energy_gap: mean free energy of held-out rows minus that of training rows,
            in nats; it rises when the RBM overfits. None without held-out rows.
        mean_hidden_activity: mean probability of the hidden units.
        weight_norm: root mean square of the weights.
        learning_rate: of the epoch's last update.
        progress: share of the whole fit, 0 to 1.
    """

    epoch: int
    epochs: int
    seconds: float
    reconstruction_error: float
    pseudo_log_likelihood: float
    held_out_pseudo_log_likelihood: float | None
    free_energy_gap: float | None
    mean_hidden_activity: float
    weight_norm: float
    learning_rate: float
    progress: float

    def as_dict(self) -> dict[str, int | float | None]:
        """The figures as JSON-safe values: a number that is not finite becomes None."""
        values: dict[str, int | float | None] = dataclasses.asdict(self)
        del values["progress"]
        return {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in values.items()
        }


class Sample:
    """Visible rows of a few users, and a few units of each row that take part."""

    def __init__(self, design: VisibleDesign, preferences: Preferences, rng: np.random.Generator) -> None:
        users = np.sort(rng.permutation(preferences.n_users)[:SAMPLE_ROWS])
        self.rows = design.units(preferences.rows(users))
        self._is_masked = not design.unrated_units_take_part
        n, n_visible = self.rows.shape
        if self._is_masked:
            lengths = np.diff(self.rows.indptr)[:, None]
            places = (rng.random((n, SAMPLE_UNITS)) * lengths).astype(np.int64)
            self._units = self.rows.indices[self.rows.indptr[:-1, None] + places]
        else:
            self._units = rng.integers(n_visible, size=(n, SAMPLE_UNITS))

    def pseudo_log_likelihood(self, rbm: RBM) -> float:
        """Mean log P(unit | all other units of the row), in nats."""
        return float(rbm.conditional_log_probability(self.rows, self._units).mean())

    def reconstruction_error(self, rbm: RBM, hidden: Dense) -> float:
        """Mean squared difference to the visible means of hidden rows (n, n_hidden)."""
        if self._is_masked:
            difference = masked_visible_mean(rbm, hidden, self.rows).data - self.rows.data
        else:
            difference = rbm.visible_mean(hidden) - self.rows.toarray()
        return float(np.square(difference).mean(dtype=np.float64))


class EpochMeasure:
    """Measures an RBM on the same users and units after every epoch.

    Args:
        design: of the visible layer.
        preferences: of the users that are trained on.
        held_out: of other users; None for none.
        rng: draws the sample.
    """

    def __init__(
        self,
        design: VisibleDesign,
        preferences: Preferences,
        held_out: Preferences | None,
        rng: np.random.Generator,
    ) -> None:
        self._sample = Sample(design, preferences, rng)
        self._held_out = None if held_out is None else Sample(design, held_out, rng)

    def report(
        self, rbm: RBM, *, epoch: int, epochs: int, learning_rate: float, progress: float
    ) -> EpochReport:
        """The figures of the RBM as it stands; `seconds` are left at 0."""
        hidden = rbm.hidden_probability(self._sample.rows)
        gap = likelihood = None
        if self._held_out is not None:
            held_out, trained = rbm.free_energy(self._held_out.rows), rbm.free_energy(self._sample.rows)
            gap = float(held_out.mean() - trained.mean())
            likelihood = self._held_out.pseudo_log_likelihood(rbm)
        return EpochReport(
            epoch=epoch,
            epochs=epochs,
            seconds=0.0,
            reconstruction_error=self._sample.reconstruction_error(rbm, hidden),
            pseudo_log_likelihood=self._sample.pseudo_log_likelihood(rbm),
            held_out_pseudo_log_likelihood=likelihood,
            free_energy_gap=gap,
            mean_hidden_activity=float(hidden.mean()),
            weight_norm=weight_norm(rbm),
            learning_rate=learning_rate,
            progress=progress,
        )

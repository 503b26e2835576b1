"""From ratings to machines, as a generator that reports after every minibatch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.learning import judge as judging
from app.learning import weighted_units
from app.learning.aside import aside
from app.learning.configuration import TrainingConfiguration
from app.learning.contrastive_divergence import (
    Gradient,
    Momentum,
    PersistentChains,
    cd_gradient,
    cosine_rate,
    masked_cd_gradient,
    masked_visible_probability,
    pcd_gradient,
)
from app.learning.divergence import UPDATES_BETWEEN_CHECKS, refuse_divergence, weight_norm
from app.learning.divergence import Diverged as Diverged
from app.learning.grading import Grading
from app.learning.linear_units import LinearUnits
from app.learning.machines import Machines
from app.learning.preferences import Preferences, RatingRows
from app.learning.rbm import RBM, Dense, Sparse, bernoulli
from app.learning.sampled_negative_phase import SampledContrastiveDivergence
from app.learning.visible_design import DESIGNS, VisibleDesign
from app.learning.vocabulary import Vocabulary
from app.learning.warm_start import continued_configuration, take_over

Setting = TypeVar("Setting", int, float)
Step = TypeVar("Step")
Result = TypeVar("Result")

LEAST_USERS = 10
LEAST_MOVIES = 10
LEAST_RATINGS = 50
# Shares of the progress: linear and weighted units come first, the machine that judges has the rest.
PREPARATION_SHARE = 0.1
LINEAR_SHARE = 0.3  # of the preparation
RANKING_SHARE = 0.75
SAMPLE_ROWS = 128  # users that an epoch report is measured on
SAMPLE_UNITS = 16  # visible units of each of them that the pseudo-log-likelihood is measured on


class TooLittleData(ValueError):
    """There is too little to learn from; the message states what there is and the least that works.

    Attributes:
        n_users: users with at least one rating.
        n_movies: movies with at least one rating.
        n_ratings: ratings.
        n_liked: ratings of at least `rank_liked_at_least` stars.
    """

    def __init__(self, n_users: int, n_movies: int, n_ratings: int, n_liked: int, missing: str) -> None:
        super().__init__(
            f"too little to learn from: {n_ratings} ratings ({n_liked} liked) by {n_users} users of "
            f"{n_movies} movies. {missing}"
        )
        self.n_users = n_users
        self.n_movies = n_movies
        self.n_ratings = n_ratings
        self.n_liked = n_liked


@dataclass(frozen=True)
class MinibatchReport:
    """One update was made; all numbers count from 1."""

    epoch: int
    epochs: int
    minibatch: int
    minibatches: int

    @property
    def progress(self) -> float:
        """Share of all updates made, 0 to 1."""
        return PREPARATION_SHARE + RANKING_SHARE * self._done

    @property
    def _done(self) -> float:
        return ((self.epoch - 1) * self.minibatches + self.minibatch) / (self.epochs * self.minibatches)


@dataclass(frozen=True)
class JudgingReport(MinibatchReport):
    """One update of the machine that judges was made; the one that ranks is finished."""

    @property
    def progress(self) -> float:
        """Share of all updates made, 0 to 1."""
        before = PREPARATION_SHARE + RANKING_SHARE
        return before + (1 - before) * self._done


@dataclass(frozen=True)
class PreparationReport:
    """The units that are found without contrastive divergence have come so far, before the first update.

    Attributes:
        done: share of this work, 0 to 1.
    """

    done: float

    @property
    def progress(self) -> float:
        """Share of all updates made, 0 to 1."""
        return PREPARATION_SHARE * self.done


@dataclass(frozen=True)
class EpochReport:
    """How the machine stands after an epoch, measured on a fixed sample of at most 128 users.

    Attributes:
        epoch: from 1.
        epochs: how many there will be.
        seconds: spent on this epoch's updates and this report, without what the consumer did in between.
        reconstruction_error: mean squared difference of visible units and their mean-field reconstruction,
            over all units that take part.
        pseudo_log_likelihood: mean log P(unit | all other units of the row) in nats, over sampled units that
            take part; 0 is perfect.
        held_out_pseudo_log_likelihood: the same of held-out rows, which early stopping looks at; None
            without held-out rows.
        free_energy_gap: mean free energy of held-out rows minus that of training rows, in nats; it rises
            when the machine overfits. None without held-out rows.
        mean_hidden_activity: mean probability of the hidden units.
        weight_norm: root mean square of the weights.
        learning_rate: of the epoch's last update.
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

    @property
    def progress(self) -> float:
        """Share of all updates made, 0 to 1."""
        return PREPARATION_SHARE + RANKING_SHARE * self.epoch / self.epochs

    def as_dict(self) -> dict[str, int | float | None]:
        """The fields as JSON-safe values: a number that is not finite becomes None."""
        values: dict[str, int | float | None] = dataclasses.asdict(self)
        return {
            name: None if value is None or not math.isfinite(value) else value
            for name, value in values.items()
        }


Report: TypeAlias = PreparationReport | MinibatchReport | EpochReport
"""What `train` yields; each kind tells the `progress`."""


def train(
    rows: RatingRows,
    vocabulary: Vocabulary,
    configuration: TrainingConfiguration,
    *,
    held_out: RatingRows | None = None,
    patience: int | None = None,
    start_from: Machines | None = None,
) -> Generator[Report, None, Machines]:
    """Fit the machine that ranks, then the machine that judges.

    The machine that ranks is trained on every rating: its linear hidden units in closed form, its weighted
    ones by regressions in turns, then its binary ones by contrastive divergence. The judge is fitted on four
    fifths of the ratings, its calibration on the fifth that it has not seen; then it is fitted again on all
    of them, and that fit ships with the calibration found before (see `judge.fitted`).

    Args:
        rows: the ratings; users without any are left out.
        vocabulary: the movies of the columns.
        configuration: settings; those that are None are chosen by the shape of the data.
        held_out: ratings of users that are not in `rows`. Nothing is learned from them: they are what the
            free-energy gap and early stopping look at.
        patience: stop early after so many epochs in which the held-out pseudo-log-likelihood has not risen
            above its best, and go back to the parameters that reached it. None: train all epochs. As a
            stopped run has not come to the end of the falling learning rate, a smaller number of epochs
            often does better than a run that is stopped.
        start_from: go on from these machines; movies may have come and gone since. Settings that are None
            and decide what the units mean (hidden_units, rank_liked_at_least) are theirs. The learning rate
            starts anew: give a lower one, and fewer epochs, to change little. The judge is fitted anew.

    Yields:
        A PreparationReport now and then while linear and weighted units are found, a MinibatchReport after
        every update and an EpochReport after every epoch of the binary ones, then a JudgingReport after every
        update of the machine that judges, and now and then while its biases are found.

    Returns:
        The finished machines, as the value of StopIteration. Equal seeds give equal machines.

    Raises:
        InvalidConfiguration: a setting is not allowed, or not that of `start_from`.
        TooLittleData: before the first update.
        Diverged: within the epoch in which it happens.
    """
    if rows.n_movies != len(vocabulary):
        raise ValueError(f"the rows have {rows.n_movies} movies, the vocabulary has {len(vocabulary)}")
    if held_out is not None:
        if held_out.n_movies != rows.n_movies:
            raise ValueError(f"the held-out rows have {held_out.n_movies} movies, not {rows.n_movies}")
        held_out = held_out.rows(np.flatnonzero(held_out.lengths))
    if patience is not None and (patience < 1 or held_out is None or not held_out.n_users):
        raise ValueError("early stopping needs held-out users with ratings, and a patience of at least 1")
    rows = rows.rows(np.flatnonzero(rows.lengths))
    configuration = configuration.validated()
    if start_from is not None:
        configuration = continued_configuration(configuration, start_from)
    configuration = _resolved(configuration, rows)
    threshold = _given(configuration.rank_liked_at_least)
    preferences = rows.preferences(threshold)
    _refuse_too_little(preferences, configuration)

    streams = np.random.SeedSequence(configuration.seed).spawn(5)
    for_judge, for_machine, for_reports, for_linear, for_weighted = map(np.random.default_rng, streams)
    grading = Grading.of(rows.stars, configuration.grade_slope)
    graded = grading.rows(rows)
    n_linear, n_weighted = _given(configuration.linear_units), _given(configuration.weighted_units)
    # Nobody knows how far a decomposition is.
    linear = yield from _reporting(
        aside(lambda: LinearUnits.fit(graded, n_linear, for_linear)), lambda _: PreparationReport(0.0)
    )
    weighted = yield from _reporting(
        weighted_units.fitted(graded, n_weighted, for_weighted, linear.weights),
        lambda done: PreparationReport(LINEAR_SHARE + (1 - LINEAR_SHARE) * done),
    )
    rbm = RBM.initial(
        DESIGNS[configuration.design].initial_bias(preferences),
        _given(configuration.hidden_units),
        for_machine,
    )
    measure = _Measure(
        DESIGNS[configuration.design],
        preferences,
        held_out.preferences(threshold) if held_out is not None and held_out.n_users else None,
        for_reports,
    )
    if start_from is not None:
        take_over(rbm, vocabulary, start_from)
    fitting = _fit_rbm(rbm, preferences, configuration, measure, for_machine)
    yield from fitting if patience is None else _stopped_early(fitting, rbm, patience)
    judge, calibration, reliability = yield from _reporting(
        judging.fitted(rows, configuration.liked_at_least, for_judge),
        lambda update: JudgingReport(update.epoch, update.epochs, update.minibatch, update.minibatches),
    )
    return Machines(
        vocabulary=vocabulary,
        configuration=configuration,
        rbm=rbm,
        linear=linear,
        weighted=weighted,
        grading=grading,
        mean_length=float(rows.lengths.mean()),
        judge=judge,
        calibration=calibration,
        reliability=reliability,
        n_users=rows.n_users,
        popularity=preferences.ratings_per_movie(),
        likes=preferences.likes_per_movie(),
    )


def completed(
    training: Generator[Report, None, Machines],
    on_report: Callable[[Report], object] = lambda _: None,
) -> Machines:
    """Drive `train` to its end, and return its machines.

    Args:
        training: what `train` returned.
        on_report: called with every report; what it raises ends the training.
    """
    while True:
        try:
            report = next(training)
        except StopIteration as end:
            machines: Machines = end.value
            return machines
        on_report(report)


def balanced_threshold(stars: NDArray[np.floating[Any]]) -> float:
    """The value of `stars` that comes nearest to splitting them into two halves, below it and from it on."""
    values, counts = np.unique(stars, return_counts=True)
    share_from = counts[::-1].cumsum()[::-1] / stars.size
    return float(values[np.abs(share_from - 0.5).argmin()])


def _resolved(configuration: TrainingConfiguration, rows: RatingRows) -> TrainingConfiguration:
    """Every setting filled in, from the shape of the data and, for the ranking threshold, from the stars.

    The joint and the positive machine learn most from liked units that split the ratings in halves, but never
    count as liked what like_probability does not. The others learn nothing else than that probability.
    """
    resolved = configuration.resolved(rows.n_users, rows.n_movies, rows.n_ratings)
    if resolved.rank_liked_at_least is not None:
        return resolved
    threshold = resolved.liked_at_least
    if DESIGNS[resolved.design].unrated_units_take_part and rows.n_ratings:
        threshold = max(threshold, balanced_threshold(rows.stars))
    return dataclasses.replace(resolved, rank_liked_at_least=threshold)


def _refuse_too_little(preferences: Preferences, configuration: TrainingConfiguration) -> None:
    n_users, n_ratings = preferences.n_users, preferences.n_ratings
    n_movies, n_liked = int(np.count_nonzero(preferences.ratings_per_movie())), int(preferences.liked.sum())
    missing = ""
    if n_users < LEAST_USERS or n_movies < LEAST_MOVIES or n_ratings < LEAST_RATINGS:
        missing = f"The least is {LEAST_RATINGS} ratings by {LEAST_USERS} users of {LEAST_MOVIES} movies."
    elif not DESIGNS[configuration.design].unrated_units_take_part and n_liked in (0, n_ratings):
        missing = (
            f"The {configuration.design} design needs ratings on both sides of rank_liked_at_least = "
            f"{configuration.rank_liked_at_least:g}; choose another threshold, or design = 'rated'."
        )
    elif configuration.design == "positive" and n_liked == 0:
        missing = (
            "The positive design needs ratings that reach rank_liked_at_least = "
            f"{configuration.rank_liked_at_least:g}; choose a lower threshold, or design = 'rated'."
        )
    if missing:
        raise TooLittleData(n_users, n_movies, n_ratings, n_liked, missing)


def _reporting(
    fitting: Generator[Step, None, Result], report_of: Callable[[Step], Report]
) -> Generator[Report, None, Result]:
    """Another generator with its steps turned into reports; the result is its own."""
    while True:
        try:
            step = next(fitting)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield report_of(step)


def _fit_rbm(
    rbm: RBM,
    preferences: Preferences,
    configuration: TrainingConfiguration,
    measure: _Measure,
    rng: np.random.Generator,
) -> Generator[MinibatchReport | EpochReport, None, None]:
    """Stochastic gradient ascent on the machine's parameters, in place."""
    design = DESIGNS[configuration.design]
    decay = _given(configuration.weight_decay)
    sampled = _sampled_divergence(rbm, preferences, configuration, rng)
    update = _dense_update(rbm, preferences, configuration, rng) if sampled is None else sampled.update
    epochs = _given(configuration.epochs)
    start_rate = _given(configuration.learning_rate)
    minibatches = math.ceil(preferences.n_users / _given(configuration.batch_size))
    for epoch in range(1, epochs + 1):
        seconds = 0.0
        order = rng.permutation(preferences.n_users)
        # Minibatches of equal size, give or take one user: a short last one would make a noisy step.
        for minibatch, users in enumerate(np.array_split(order, minibatches), start=1):
            started = time.perf_counter()
            done = ((epoch - 1) * minibatches + minibatch - 1) / (epochs * minibatches)
            rate = cosine_rate(start_rate, configuration.final_rate_share, done)
            with np.errstate(over="ignore", invalid="ignore"):  # refuse_divergence looks for both
                update(design.units(preferences.rows(users)), rate)
            # Before the epoch's report; the sampled phase makes no pass over all weights until then.
            is_checked = minibatch % UPDATES_BETWEEN_CHECKS == 0 or minibatch == minibatches
            if sampled is None and is_checked:
                refuse_divergence(rbm, epoch, start_rate, decay, configuration.momentum)
            seconds += time.perf_counter() - started
            yield MinibatchReport(epoch, epochs, minibatch, minibatches)
        started = time.perf_counter()
        if sampled is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                sampled.settle()
            refuse_divergence(rbm, epoch, start_rate, decay, configuration.momentum)
        report = measure(rbm, epoch, epochs, rate)
        seconds += time.perf_counter() - started
        yield dataclasses.replace(report, seconds=seconds)


def _stopped_early(
    fitting: Generator[MinibatchReport | EpochReport, None, None], rbm: RBM, patience: int
) -> Generator[MinibatchReport | EpochReport, None, None]:
    """The reports until held-out rows have not become likelier for so many epochs; then back to the best."""
    arrays = (rbm.weights, rbm.visible_bias, rbm.hidden_bias)
    best, best_epoch, kept = -math.inf, 0, [array.copy() for array in arrays]
    for report in fitting:
        if isinstance(report, EpochReport):
            likelihood = _given(report.held_out_pseudo_log_likelihood)
            if likelihood > best:
                best, best_epoch = likelihood, report.epoch
                for copy, array in zip(kept, arrays, strict=True):
                    copy[...] = array
        yield report
        if isinstance(report, EpochReport) and report.epoch - best_epoch >= patience:
            break
    for copy, array in zip(kept, arrays, strict=True):
        array[...] = copy


def _sampled_divergence(
    rbm: RBM, preferences: Preferences, configuration: TrainingConfiguration, rng: np.random.Generator
) -> SampledContrastiveDivergence | None:
    """Learning that leaves most of a huge catalogue alone, if the configuration asks for it."""
    if not configuration.negative_sample:
        return None
    everyone = DESIGNS[configuration.design].units(preferences)
    return SampledContrastiveDivergence(
        rbm,
        np.bincount(everyone.indices, minlength=rbm.n_visible),
        configuration.negative_sample,
        momentum=configuration.momentum,
        weight_decay=_given(configuration.weight_decay),
        rng=rng,
    )


def _dense_update(
    rbm: RBM, preferences: Preferences, configuration: TrainingConfiguration, rng: np.random.Generator
) -> Callable[[Sparse, float], None]:
    """Learning that passes over all weights, as a function of a minibatch and the learning rate."""
    gradient_of = _gradient_function(rbm, preferences.n_movies, configuration, rng)
    ascent = Momentum(rbm, configuration.momentum, _given(configuration.weight_decay))
    return lambda visible, rate: ascent.ascend(rbm, gradient_of(visible), rate)


def _gradient_function(
    rbm: RBM, n_movies: int, configuration: TrainingConfiguration, rng: np.random.Generator
) -> Callable[[Sparse], Gradient]:
    """The learning algorithm that the configuration names, as a function of a minibatch."""
    k = configuration.k
    design = DESIGNS[configuration.design]
    if not design.unrated_units_take_part:
        n_imagined = design.n_imagined(n_movies)
        conditions_from = None if n_imagined == rbm.n_visible else n_imagined
        return lambda visible: masked_cd_gradient(rbm, visible, k, rng, conditions_from)
    if configuration.algorithm == "pcd":
        at_rest = np.full((_given(configuration.chains), rbm.n_hidden), 0.5, rbm.weights.dtype)
        chains = PersistentChains(bernoulli(at_rest, rng))
        return lambda visible: pcd_gradient(rbm, visible, chains, k, rng)
    return lambda visible: cd_gradient(rbm, visible, k, rng)


class _Sample:
    """A few users, and a few of the visible units of each that take part and are not conditions."""

    def __init__(self, design: VisibleDesign, preferences: Preferences, rng: np.random.Generator) -> None:
        self.units = design.units(_sampled(preferences, rng))
        n, n_visible = self.units.shape
        self._masked = not design.unrated_units_take_part
        self._n_imagined = design.n_imagined(preferences.n_movies)
        if self._masked:
            # Columns rise within a row, so those of the conditions come last.
            imagined = np.concatenate(([0], np.cumsum(self.units.indices < self._n_imagined)))
            lengths = np.diff(imagined[self.units.indptr])[:, None]
            chosen = (rng.random((n, SAMPLE_UNITS)) * lengths).astype(np.int64)
            self._chosen = self.units.indices[self.units.indptr[:-1, None] + chosen]
        else:
            self._chosen = rng.integers(n_visible, size=(n, SAMPLE_UNITS))

    def pseudo_log_likelihood(self, rbm: RBM) -> float:
        return float(rbm.conditional_log_probability(self.units, self._chosen).mean())

    def reconstruction_error(self, rbm: RBM, hidden: Dense) -> float:
        if self._masked:
            imagined = self.units.indices < self._n_imagined
            found = masked_visible_probability(rbm, hidden, self.units).data[imagined]
            difference: Dense = found - self.units.data[imagined]
        else:
            difference = rbm.visible_probability(hidden)
            difference -= self.units.toarray()
        return float(np.square(difference).mean(dtype=np.float64))


class _Measure:
    """Measures a machine on the same few users and units after every epoch."""

    def __init__(
        self,
        design: VisibleDesign,
        preferences: Preferences,
        held_out: Preferences | None,
        rng: np.random.Generator,
    ) -> None:
        self._sample = _Sample(design, preferences, rng)
        self._held_out = None if held_out is None else _Sample(design, held_out, rng)

    def __call__(self, rbm: RBM, epoch: int, epochs: int, learning_rate: float) -> EpochReport:
        hidden = rbm.hidden_probability(self._sample.units)
        gap = unseen = None
        if self._held_out is not None:
            there, here = rbm.free_energy(self._held_out.units), rbm.free_energy(self._sample.units)
            gap = float(there.mean() - here.mean())
            unseen = self._held_out.pseudo_log_likelihood(rbm)
        return EpochReport(
            epoch=epoch,
            epochs=epochs,
            seconds=0.0,
            reconstruction_error=self._sample.reconstruction_error(rbm, hidden),
            pseudo_log_likelihood=self._sample.pseudo_log_likelihood(rbm),
            held_out_pseudo_log_likelihood=unseen,
            free_energy_gap=gap,
            mean_hidden_activity=float(hidden.mean()),
            weight_norm=weight_norm(rbm),
            learning_rate=learning_rate,
        )


def _sampled(preferences: Preferences, rng: np.random.Generator) -> Preferences:
    chosen = rng.permutation(preferences.n_users)[:SAMPLE_ROWS]
    return preferences.rows(np.sort(chosen))


def _given(setting: Setting | None) -> Setting:
    """A setting that `_resolved` has filled in, or a figure that is there."""
    if setting is None:
        raise ValueError("what should have been filled in is not there")
    return setting

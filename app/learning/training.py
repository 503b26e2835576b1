"""One fit, from ratings to a trained model: a generator that reports every minibatch.

The ranking model's linear hidden units come in closed form, its weighted ones by
alternating regressions, its binary ones by contrastive divergence. The like model
follows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.learning.background import run_in_thread
from app.learning.boltzmann import weighted_units
from app.learning.boltzmann.contrastive_divergence import (
    Algorithm,
    ContrastiveDivergence,
    MaskedContrastiveDivergence,
    PersistentContrastiveDivergence,
    random_chains,
)
from app.learning.boltzmann.divergence import refuse_divergence
from app.learning.boltzmann.linear_units import LinearUnits
from app.learning.boltzmann.optimisers import SGD, Optimiser, cosine_rate, minibatches
from app.learning.boltzmann.rbm import RBM, Sparse
from app.learning.boltzmann.sampled_negatives import SampledContrastiveDivergence
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.boltzmann.weighted_units import WeightedUnits
from app.learning.configuration import TrainingConfiguration
from app.learning.epoch_reports import EpochMeasure, EpochReport
from app.learning.likes import ordinal_rbm
from app.learning.rating_matrix import Preferences, RatingRows
from app.learning.star_weights import StarWeights
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary
from app.learning.warm_start import continued_configuration, take_over

Value = TypeVar("Value")
Step = TypeVar("Step")
Result = TypeVar("Result")

LEAST_USERS = 10
LEAST_MOVIES = 10
LEAST_RATINGS = 50


class TooLittleData(ValueError):
    """Too little to learn from; the message states the counts and the least that works.

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
class StepReport:
    """A step of the fit was made.

    Attributes:
        progress: share of the whole fit, 0 to 1.
    """

    progress: float


Report: TypeAlias = StepReport | EpochReport
"""A yield of `train`."""


@dataclass(frozen=True)
class Stage:
    """A part of the fit, as shares of its progress."""

    start: float
    end: float

    def progress(self, done: float) -> float:
        """Share of the whole fit when so much of this stage is done, 0 to 1."""
        return self.start + (self.end - self.start) * done


LINEAR = Stage(0.0, 0.03)
WEIGHTED = Stage(0.03, 0.1)
BINARY = Stage(0.1, 0.85)
LIKES = Stage(0.85, 1.0)


def train(
    rows: RatingRows,
    vocabulary: Vocabulary,
    configuration: TrainingConfiguration,
    *,
    held_out: RatingRows | None = None,
    start_from: TrainedModel | None = None,
) -> Generator[Report, None, TrainedModel]:
    """Fit the ranking model, then the like model.

    Args:
        rows: the ratings; users without any are left out.
        vocabulary: the movies of the columns.
        configuration: settings; None is chosen by the shape of the data.
        held_out: ratings of other users, for the epoch reports alone.
        start_from: go on from this model, whatever movies have come and gone since.

    Yields:
        A StepReport after every step, an EpochReport after an epoch of binary units.

    Returns:
        The trained model, as the value of StopIteration. Equal seeds give equal models.

    Raises:
        InvalidConfiguration: a setting is not allowed, or not that of `start_from`.
        TooLittleData, Diverged: before the first update; within the epoch in which it
        happens.
    """
    rows = _usable(rows, vocabulary)
    settings = _resolved(configuration, rows, start_from)
    preferences = rows.preferences(_filled(settings.rank_liked_at_least))
    _refuse_too_little(preferences, settings)
    streams = np.random.SeedSequence(settings.seed).spawn(5)
    like_rng, binary_rng, report_rng, linear_rng, weighted_rng = map(np.random.default_rng, streams)

    star_weights = StarWeights.of(rows.stars, settings.grade_slope)
    weighted_rows = star_weights.rows(rows)
    linear = yield from _linear_units(weighted_rows, settings, linear_rng)
    weighted = yield from _weighted_units(weighted_rows, settings, linear, weighted_rng)
    rbm = _initial_rbm(preferences, vocabulary, settings, start_from, binary_rng)
    unseen = None if held_out is None else _held_out_preferences(held_out, vocabulary, settings)
    measure = EpochMeasure(DESIGNS[settings.design], preferences, unseen, report_rng)
    yield from _fit_binary_units(rbm, preferences, settings, measure, binary_rng)
    fitting = ordinal_rbm.fitted(rows, settings.liked_at_least, like_rng)
    like_model, calibration, reliability = yield from _reported(fitting, _like_progress)
    return TrainedModel(
        vocabulary=vocabulary,
        configuration=settings,
        rbm=rbm,
        linear=linear,
        weighted=weighted,
        star_weights=star_weights,
        mean_length=float(rows.lengths.mean()),
        like_model=like_model,
        calibration=calibration,
        reliability=reliability,
        n_users=rows.n_users,
        popularity=preferences.ratings_per_movie(),
        likes=preferences.likes_per_movie(),
    )


def completed(
    training: Generator[Report, None, TrainedModel],
    on_report: Callable[[Report], object] = lambda _: None,
) -> TrainedModel:
    """The trained model at the end of `train`.

    Args:
        training: the generator that `train` returns.
        on_report: called with every report; an exception that it raises ends the
            training.
    """
    while True:
        try:
            report = next(training)
        except StopIteration as end:
            model: TrainedModel = end.value
            return model
        on_report(report)


def _linear_units(
    weighted_rows: Sparse, settings: TrainingConfiguration, rng: np.random.Generator
) -> Generator[Report, None, LinearUnits]:
    n_units = _filled(settings.linear_units)
    fitting = run_in_thread(lambda: LinearUnits.fit(weighted_rows, n_units, rng))
    # A decomposition has no progress.
    return (yield from _reported(fitting, lambda _: LINEAR.start))


def _weighted_units(
    weighted_rows: Sparse, settings: TrainingConfiguration, linear: LinearUnits, rng: np.random.Generator
) -> Generator[Report, None, WeightedUnits]:
    fitting = weighted_units.fitted(weighted_rows, _filled(settings.weighted_units), rng, linear.weights)
    return (yield from _reported(fitting, WEIGHTED.progress))


def _initial_rbm(
    preferences: Preferences,
    vocabulary: Vocabulary,
    settings: TrainingConfiguration,
    start_from: TrainedModel | None,
    rng: np.random.Generator,
) -> RBM:
    bias = DESIGNS[settings.design].initial_bias(preferences)
    rbm = RBM.initial(bias, _filled(settings.hidden_units), rng)
    if start_from is not None:
        take_over(rbm, vocabulary, start_from)
    return rbm


class Learner(Protocol):
    """Changes an RBM in place, minibatch by minibatch."""

    def update(self, visible: Sparse, learning_rate: float) -> None:
        """One step of gradient ascent on rows of shape (n, n_visible)."""

    def settle(self) -> None:
        """Bring all parameters to where they stand now, at the end of an epoch."""


@dataclass(frozen=True, eq=False)
class DenseLearner:
    """Passes over all weights at every update."""

    rbm: RBM
    algorithm: Algorithm
    optimiser: Optimiser
    rng: np.random.Generator

    def update(self, visible: Sparse, learning_rate: float) -> None:
        """One step of gradient ascent on rows of shape (n, n_visible)."""
        gradient = self.algorithm.gradient(self.rbm, visible, self.rng)
        self.optimiser.ascend(self.rbm, gradient, learning_rate)

    def settle(self) -> None:
        """Nothing: all parameters are where they stand now."""


def _learner(
    rbm: RBM, preferences: Preferences, settings: TrainingConfiguration, rng: np.random.Generator
) -> Learner:
    """The learner that the settings name."""
    design = DESIGNS[settings.design]
    decay = _filled(settings.weight_decay)
    if settings.negative_sample:
        popularity = np.bincount(design.units(preferences).indices, minlength=rbm.n_visible)
        return SampledContrastiveDivergence(
            rbm,
            popularity,
            settings.negative_sample,
            momentum=settings.momentum,
            weight_decay=decay,
            rng=rng,
        )
    algorithm: Algorithm = ContrastiveDivergence(settings.k)
    if not design.unrated_units_take_part:
        algorithm = MaskedContrastiveDivergence(settings.k)
    elif settings.algorithm == "pcd":
        chains = random_chains(rbm, _filled(settings.chains), rng)
        algorithm = PersistentContrastiveDivergence(chains, settings.k)
    return DenseLearner(rbm, algorithm, SGD(settings.momentum, decay), rng)


def _fit_binary_units(
    rbm: RBM,
    preferences: Preferences,
    settings: TrainingConfiguration,
    measure: EpochMeasure,
    rng: np.random.Generator,
) -> Generator[Report, None, None]:
    """Stochastic gradient ascent on the parameters of the RBM, in place."""
    design = DESIGNS[settings.design]
    learner = _learner(rbm, preferences, settings, rng)
    start_rate, decay = _filled(settings.learning_rate), _filled(settings.weight_decay)
    epochs, batch_size = _filled(settings.epochs), _filled(settings.batch_size)
    seconds = 0.0
    for minibatch in minibatches(preferences.n_users, batch_size, epochs, rng):
        started = time.perf_counter()
        rate = cosine_rate(start_rate, settings.final_rate_share, minibatch.done)
        with np.errstate(over="ignore", invalid="ignore"):  # `refuse_divergence` looks for both
            learner.update(design.units(preferences.rows(minibatch.rows)), rate)
            if minibatch.ends_epoch:
                learner.settle()
        if minibatch.ends_epoch:
            refuse_divergence(rbm, minibatch.epoch, start_rate, decay, settings.momentum)
        seconds += time.perf_counter() - started
        progress = BINARY.progress(minibatch.done_after)
        yield StepReport(progress)
        if minibatch.ends_epoch:
            started = time.perf_counter()
            report = measure.report(
                rbm, epoch=minibatch.epoch, epochs=epochs, learning_rate=rate, progress=progress
            )
            yield dataclasses.replace(report, seconds=seconds + time.perf_counter() - started)
            seconds = 0.0


def _reported(
    fitting: Generator[Step, None, Result], progress_of: Callable[[Step], float]
) -> Generator[Report, None, Result]:
    """Another generator with its steps turned into reports; the result is its own."""
    while True:
        try:
            step = next(fitting)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield StepReport(progress_of(step))


def _like_progress(update: ordinal_rbm.Update) -> float:
    updates = (update.epoch - 1) * update.minibatches + update.minibatch
    return LIKES.progress(updates / (update.epochs * update.minibatches))


def _usable(rows: RatingRows, vocabulary: Vocabulary) -> RatingRows:
    """The rows of users who have ratings."""
    if rows.n_movies != len(vocabulary):
        raise ValueError(f"the rows have {rows.n_movies} movies, the vocabulary has {len(vocabulary)}")
    return rows.rows(np.flatnonzero(rows.lengths))


def _held_out_preferences(
    held_out: RatingRows, vocabulary: Vocabulary, settings: TrainingConfiguration
) -> Preferences | None:
    """Preferences of the held-out users who have ratings; None if there are none."""
    if held_out.n_movies != len(vocabulary):
        raise ValueError(f"the held-out rows have {held_out.n_movies} movies, not {len(vocabulary)}")
    users = _usable(held_out, vocabulary)
    return users.preferences(_filled(settings.rank_liked_at_least)) if users.n_users else None


def balanced_threshold(stars: NDArray[np.floating]) -> float:
    """The star value nearest to splitting the stars into halves, below it and above."""
    values, counts = np.unique(stars, return_counts=True)
    share_from = counts[::-1].cumsum()[::-1] / stars.size
    return float(values[np.abs(share_from - 0.5).argmin()])


def _resolved(
    configuration: TrainingConfiguration, rows: RatingRows, start_from: TrainedModel | None
) -> TrainingConfiguration:
    """Every setting, from the earlier model, the shape of the data and the stars.

    The joint design learns most from liked units that split the ratings in halves, but
    never counts as liked what like_probability does not. The masked one learns nothing
    but that probability.
    """
    settings = configuration.validated()
    if start_from is not None:
        settings = continued_configuration(settings, start_from)
    resolved = settings.resolved(rows.n_users, rows.n_movies, rows.n_ratings)
    if resolved.rank_liked_at_least is not None:
        return resolved
    threshold = resolved.liked_at_least
    if DESIGNS[resolved.design].unrated_units_take_part and rows.n_ratings:
        threshold = max(threshold, balanced_threshold(rows.stars))
    return dataclasses.replace(resolved, rank_liked_at_least=threshold)


def _refuse_too_little(preferences: Preferences, settings: TrainingConfiguration) -> None:
    n_users, n_ratings = preferences.n_users, preferences.n_ratings
    n_movies, n_liked = int(np.count_nonzero(preferences.ratings_per_movie())), int(preferences.liked.sum())
    missing = ""
    if n_users < LEAST_USERS or n_movies < LEAST_MOVIES or n_ratings < LEAST_RATINGS:
        missing = f"The least is {LEAST_RATINGS} ratings by {LEAST_USERS} users of {LEAST_MOVIES} movies."
    elif not DESIGNS[settings.design].unrated_units_take_part and n_liked in (0, n_ratings):
        missing = (
            f"The {settings.design} design needs ratings on both sides of rank_liked_at_least = "
            f"{settings.rank_liked_at_least:g}; choose another threshold, or design = 'rated'."
        )
    if missing:
        raise TooLittleData(n_users, n_movies, n_ratings, n_liked, missing)


def _filled(setting: Value | None) -> Value:
    """A setting that `_resolved` has filled in."""
    if setting is None:
        raise ValueError("a setting is not resolved")
    return setting

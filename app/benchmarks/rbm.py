"""How fast the machine learns: the measurements behind `harmonium bench rbm` and docs/benchmarks.md.

Times of a shared machine mean little by themselves. What is compared is therefore measured in turns, round
after round, and reported as the median of each and the median of the rounds' ratios.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from app.benchmarks.machine import busy_neighbours, describe_machine, most_resident, seconds_of
from app.errors import Misconfigured
from app.learning.ascent import constant, momentum_step
from app.learning.configuration import TrainingConfiguration
from app.learning.contrastive_divergence import Gradient, Momentum
from app.learning.divergence import out_of_bounds
from app.learning.fitting import fit, log_odds_of_means, persistent_contrastive_divergence, random_chains
from app.learning.judge import fitted
from app.learning.preferences import RatingRows
from app.learning.rbm import RBM, Dense, bernoulli, sigmoid
from app.learning.sparse_rows import RowsByUnit
from app.learning.synthetic import synthetic_ratings
from app.learning.training import EpochReport, train
from app.learning.visible_design import DESIGNS
from app.learning.vocabulary import Vocabulary
from app.worker import usable_cores

COMPARED_HIDDEN = 256
COMPARED_RATE = 0.01
COMPARED_DESIGNS = ("rated", "joint")  # the default, and two units a movie: the widest dense products
PEAK_SIZE = 1_500  # rows and columns of the matrices whose product gives the peak
WARM_UP_UPDATES = 3
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        compared: users, movies and ratings of the matrix that scikit-learn gets, too.
        usual: the shape that shares of the peak are measured at.
        huge: the shape that the sampled negative phase is measured at.
        batches: minibatch sizes of the comparison with scikit-learn.
        rounds: turns of each measurement.
        growth: users, as multiples of those of `usual`, that an epoch is timed with.
    """

    compared: tuple[int, int, int] = (943, 1_682, 100_000)
    usual: tuple[int, int, int] = (6_040, 3_706, 1_000_000)
    huge: tuple[int, int, int] = (162_000, 59_000, 25_000_000)
    batches: tuple[int, ...] = (100, 10)
    rounds: int = 7
    growth: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Comparison:
    """Seconds of an epoch beside scikit-learn's BernoulliRBM: the same matrix, hidden units, batch, PCD-1."""

    batch_size: int
    seconds: float
    sklearn_float64: float
    sklearn_float32: float
    times_faster: float
    times_faster_than_float32: float


@dataclass(frozen=True)
class Efficiency:
    """An epoch with default batch and hidden units beside its dense products at the matrix-product peak.

    Attributes:
        design: of the visible units; the settings are the defaults of this design.
        peak: floating-point operations a second.
        epoch: seconds.
        negative_phase_at_peak: seconds that the three products of the negative phase would take: h W', v' W
            and v'' h'. No dense implementation can do with less.
        all_products_at_peak: seconds of all five, with the positive phase dense, too.
        share: of the epoch that `negative_phase_at_peak` is, the median over rounds.
        share_of_all: the same for all five.
        parts: seconds an epoch that each part takes when it runs by itself.
    """

    design: str
    threads: int
    visible_units: int
    hidden_units: int
    batch_size: int
    peak: float
    epoch: float
    negative_phase_at_peak: float
    all_products_at_peak: float
    share: float
    share_of_all: float
    parts: dict[str, float]


@dataclass(frozen=True)
class ThreadTiming:
    """Seconds of an epoch by number of BLAS threads, alone and beside one other busy process a core."""

    shape: tuple[int, int, int]
    threads: int
    alone: float
    beside_others: float


@dataclass(frozen=True)
class Growth:
    """Seconds of an epoch for more and more ratings of one catalogue, with one batch size."""

    n_ratings: int
    epoch: float
    per_million_ratings: float


@dataclass(frozen=True)
class HugeCatalogue:
    """A catalogue too large for a dense negative phase; epochs are extrapolated from some of their updates.

    Attributes:
        sampled_epoch: seconds, with the default configuration.
        dense_epoch: seconds, with negative_sample = 0.
        share: sampled_epoch / dense_epoch, the median over rounds.
        resident: most bytes of memory in use by ratings, linear units, the machine that ranks and the judge,
            before the dense updates began.
        preparation: seconds before the first update, most of them for the linear units.
        judge_update: seconds of an update of the judge, which is fitted afterwards.
        judge_updates: how many of them there are.
    """

    shape: tuple[int, int, int]
    sampled_epoch: float
    dense_epoch: float
    share: float
    resident: int
    preparation: float
    updates_in_epoch: int
    judge_update: float
    judge_updates: int


@dataclass(frozen=True)
class SpeedReport:
    """Everything that `harmonium bench rbm` measures; a part that was left out is empty."""

    machine: dict[str, Any]
    compared: list[Comparison]
    efficiency: list[Efficiency]
    threads: list[ThreadTiming]
    growth: list[Growth]
    huge: HugeCatalogue | None

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON-safe values, seconds unless they say otherwise."""
        return dataclasses.asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """The figures for people: title, columns and lines of each table."""
        machine = self.machine
        columns = ["processor", "cores", "BLAS", "kernels", "threads"]
        lines = []
        for pool in machine["blas"]:
            blas = f"{pool['internal_api']} {pool['version']}"
            threads = str(pool["num_threads"])
            lines.append([machine["processor"], str(machine["cores"]), blas, pool["architecture"], threads])
        yield "the machine", columns, lines
        if self.compared:
            columns = ["batch", "Harmonium", "float64", "float64 / ours", "float32", "float32 / ours"]
            lines = []
            for one in self.compared:
                seconds = _ms(one.seconds), _ms(one.sklearn_float64), _ms(one.sklearn_float32)
                ratios = f"{one.times_faster:.1f}", f"{one.times_faster_than_float32:.1f}"
                lines.append([str(one.batch_size), seconds[0], seconds[1], ratios[0], seconds[2], ratios[1]])
            yield "an epoch beside scikit-learn's BernoulliRBM, ms", columns, lines
        for found in self.efficiency:
            named = {
                "three products of the negative phase, at the peak": found.negative_phase_at_peak,
                "all five dense products, at the peak": found.all_products_at_peak,
                **{f"  by itself: {name}": seconds for name, seconds in found.parts.items()},
            }
            shares = [found.share, found.share_of_all, *(part / found.epoch for part in found.parts.values())]
            lines = [["the epoch", _ms(found.epoch), ""]]
            for (name, part), share in zip(named.items(), shares, strict=True):
                lines.append([name, _ms(part), f"{share:.2f}"])
            title = (
                f"an epoch beside the matrix-product peak, {found.peak / 1e9:.0f} GFLOP/s: {found.design}, "
                f"{found.visible_units:,} x {found.hidden_units} units, batch {found.batch_size}"
            )
            yield title, ["", "ms", "share of the epoch"], lines
        if self.growth:
            lines = [
                [f"{one.n_ratings:,}", _ms(one.epoch), _ms(one.per_million_ratings)] for one in self.growth
            ]
            yield "an epoch as ratings grow", ["ratings", "ms", "ms a million"], lines
        if self.threads:
            lines = []
            for timing in self.threads:
                shape = f"{timing.shape[0]:,} x {timing.shape[1]:,}"
                lines.append([shape, str(timing.threads), _ms(timing.alone), _ms(timing.beside_others)])
            yield (
                "an epoch by BLAS threads, ms",
                ["users x movies", "threads", "alone", "beside others"],
                lines,
            )
        if (huge := self.huge) is not None:
            lines = [
                ["dense epoch, s", f"{huge.dense_epoch:.0f}"],
                ["sampled epoch, s", f"{huge.sampled_epoch:.0f}"],
                ["sampled / dense", f"{huge.share:.2f}"],
                ["most memory in use, GiB", f"{huge.resident / 2**30:.2f}"],
                ["before the first update, s", f"{huge.preparation:.0f}"],
                ["an update of the judge, s", f"{huge.judge_update:.3f}"],
                ["updates of the judge", str(huge.judge_updates)],
            ]
            shape = f"{huge.shape[0]:,} x {huge.shape[1]:,}"
            yield f"a huge catalogue, {shape}, {huge.shape[2]:,} ratings", ["", ""], lines


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


PARTS = ("sklearn", "peak", "threads", "growth", "huge")


def measure_rbm(
    parts: tuple[str, ...] = PARTS,
    *,
    scale: Scale | None = None,
    threads: int = 1,
    on_progress: Progress = lambda words: None,
) -> SpeedReport:
    """Run the chosen parts.

    Args:
        parts: of PARTS.
        scale: shapes and rounds; None for those of docs/benchmarks.md.
        threads: BLAS threads of all parts but `threads`, which tries several.
        on_progress: is told what is being measured.

    Raises:
        Misconfigured: scikit-learn is asked for and absent.
    """
    scale = scale or Scale()
    boltzmann = _scikit_learn_rbm() if "sklearn" in parts else None
    compared, efficiency, timings, growth = [], [], [], []
    huge = None
    with threadpool_limits(threads, user_api="blas"):
        machine = describe_machine()
        if boltzmann is not None:
            for batch_size in scale.batches:
                on_progress(f"beside scikit-learn, batch {batch_size}")
                compared.append(beside_scikit_learn(boltzmann, scale, batch_size))
        if "peak" in parts:
            for design in COMPARED_DESIGNS:
                on_progress(f"share of the matrix-product peak, {design}")
                efficiency.append(share_of_peak(scale, threads, design))
        if "growth" in parts:
            on_progress("growth with the number of ratings")
            growth = growth_with_ratings(scale)
    if "threads" in parts:
        for shape in (scale.compared, scale.usual):
            on_progress(f"threads, {shape[0]} x {shape[1]}")
            timings += by_threads(shape, scale.rounds)
    if "huge" in parts:
        on_progress(f"a huge catalogue, {scale.huge[0]} x {scale.huge[1]}")
        # In a process of its own, so that what it holds in memory is its own.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            huge = pool.apply(huge_catalogue, (scale.huge, scale.rounds, threads))
    return SpeedReport(machine, compared, efficiency, timings, growth, huge)


def beside_scikit_learn(boltzmann: Any, scale: Scale, batch_size: int) -> Comparison:
    """The same dense matrix, hidden units, batch, rate and algorithm (PCD-1, as many chains as rows)."""
    rows = synthetic_ratings(*scale.compared)
    matrix = np.zeros((rows.n_users, rows.n_movies))
    matrix[rows.users, rows.indices] = 1
    single = matrix.astype(np.float32)

    rng = np.random.default_rng(0)
    rbm = RBM.initial(log_odds_of_means(single), COMPARED_HIDDEN, rng)
    gradient_of = persistent_contrastive_divergence(random_chains(rbm, batch_size, rng), 1, rng)
    step = momentum_step(rbm, constant(COMPARED_RATE), constant(0.0))
    reports = fit(rbm, single, gradient_of, step, rng, epochs=1_000_000, batch_size=batch_size)
    next(reports)  # warm

    def scikit_learn(given: Dense) -> float:
        """Seconds of an epoch, without the start that every fit makes."""

        def seconds(n_iter: int) -> float:
            machine = boltzmann(
                COMPARED_HIDDEN,
                learning_rate=COMPARED_RATE,
                batch_size=batch_size,
                n_iter=n_iter,
                random_state=0,
            )
            return seconds_of(lambda: machine.fit(given))

        start = seconds(0)
        return max(seconds(2) - start, 1e-9) / 2

    rounds = np.array(
        [
            (
                statistics.median(next(reports).seconds for _ in range(3)),
                scikit_learn(matrix),
                scikit_learn(single),
            )
            for _ in range(scale.rounds)
        ]
    )
    ours, double, simple = np.median(rounds, axis=0).tolist()
    ratios = np.median(rounds[:, 1:] / rounds[:, :1], axis=0).tolist()
    return Comparison(batch_size, ours, double, simple, *ratios)


def share_of_peak(scale: Scale, threads: int, design: str) -> Efficiency:
    """An epoch of a design's default configuration against its products at the peak of the same minute."""
    rows = synthetic_ratings(*scale.usual)
    trainer = _Trainer(rows, design=design)
    configuration = trainer.configuration
    batch_size, n_hidden = configuration.batch_size, configuration.hidden_units
    assert batch_size is not None and n_hidden is not None  # noqa: S101, PT018 - for mypy: they are resolved
    n_visible = DESIGNS[design].n_visible(rows.n_movies)
    operations = 2 * rows.n_users * n_visible * n_hidden
    trainer.epoch()  # warm
    peaks, epochs = [], []
    for _ in range(scale.rounds):
        before = _peak()
        epochs.append(trainer.epoch())
        peaks.append((before + _peak()) / 2)
    share = statistics.median(
        3 * operations / peak / epoch for peak, epoch in zip(peaks, epochs, strict=True)
    )
    peak = statistics.median(peaks)
    return Efficiency(
        design=design,
        threads=threads,
        visible_units=n_visible,
        hidden_units=n_hidden,
        batch_size=batch_size,
        peak=peak,
        epoch=statistics.median(epochs),
        negative_phase_at_peak=3 * operations / peak,
        all_products_at_peak=5 * operations / peak,
        share=share,
        share_of_all=share * 5 / 3,
        parts=_parts(rows, design, batch_size, n_hidden, scale.rounds),
    )


def by_threads(shape: tuple[int, int, int], rounds: int) -> list[ThreadTiming]:
    """The default configuration with 1, 2, 4, … BLAS threads, alone and beside busy neighbours."""
    rows = synthetic_ratings(*shape)
    cores = usable_cores()
    choices = sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {1, cores})
    trainers = {threads: _Trainer(rows) for threads in choices}
    times: dict[bool, dict[int, list[float]]] = {}
    for others in (False, True):
        times[others] = {threads: [] for threads in choices}
        with busy_neighbours(max(1, cores - 1) if others else 0):
            for _ in range(rounds):
                for threads, trainer in trainers.items():
                    with threadpool_limits(threads, user_api="blas"):
                        times[others][threads].append(trainer.epoch())
    return [
        ThreadTiming(
            shape, threads, statistics.median(times[False][threads]), statistics.median(times[True][threads])
        )
        for threads in choices
    ]


def growth_with_ratings(scale: Scale) -> list[Growth]:
    """One catalogue and one batch size, more and more users."""
    n_users, n_movies, n_ratings = scale.usual
    batch_size = TrainingConfiguration().resolved(*scale.usual).batch_size
    sizes = [(round(factor * n_users), n_movies, round(factor * n_ratings)) for factor in scale.growth]
    trainers = [_Trainer(synthetic_ratings(*size), batch_size=batch_size) for size in sizes]
    rounds = [[trainer.epoch() for trainer in trainers] for _ in range(max(2, scale.rounds // 2))]
    epochs = np.median(rounds, axis=0).tolist()
    return [Growth(size[2], epoch, epoch / size[2] * 1e6) for size, epoch in zip(sizes, epochs, strict=True)]


def huge_catalogue(shape: tuple[int, int, int], rounds: int, threads: int) -> HugeCatalogue:
    """Some updates with the default configuration and some with a dense negative phase, in turns."""
    with threadpool_limits(threads, user_api="blas"):
        rows = synthetic_ratings(*shape)
        preparing = time.perf_counter()
        sampled = _Trainer(rows, linear_units=None)
        sampled.update()
        preparation = time.perf_counter() - preparing
        for _ in range(WARM_UP_UPDATES):
            sampled.update()
        judging = fitted(rows, sampled.configuration.liked_at_least, np.random.default_rng(0))
        update = next(judging)
        judge_updates = update.epochs * update.minibatches
        judge_update = statistics.median(seconds_of(lambda: next(judging)) for _ in range(rounds))
        resident = most_resident()
        judging.close()
        dense = _Trainer(rows, negative_sample=0)
        for _ in range(WARM_UP_UPDATES):
            dense.update()
        pairs = np.array(
            [(statistics.median(sampled.update() for _ in range(5)), dense.update()) for _ in range(rounds)]
        )
        updates = math.ceil(shape[0] / (sampled.configuration.batch_size or 1))
        sampled_epoch, dense_epoch = (np.median(pairs, axis=0) * updates).tolist()
    return HugeCatalogue(
        shape=shape,
        sampled_epoch=sampled_epoch,
        dense_epoch=dense_epoch,
        share=float(np.median(pairs[:, 0] / pairs[:, 1])),
        resident=resident,
        preparation=preparation,
        updates_in_epoch=updates,
        judge_update=judge_update,
        judge_updates=judge_updates,
    )


class _Trainer:
    """`train`, one update or one epoch at a time; linear units, found beforehand, only if asked for."""

    def __init__(self, rows: RatingRows, *, linear_units: int | None = 0, **settings: Any) -> None:
        chosen = TrainingConfiguration(linear_units=linear_units, **settings)
        self.configuration = chosen.resolved(rows.n_users, rows.n_movies, rows.n_ratings)
        vocabulary = Vocabulary([str(column) for column in range(rows.n_movies)])
        endless = dataclasses.replace(self.configuration, epochs=100_000)
        self._reports = train(rows, vocabulary, endless)

    def update(self) -> float:
        """Seconds of one update."""
        return seconds_of(lambda: next(self._reports))

    def epoch(self) -> float:
        """Seconds of the updates up to the next epoch report, and of that report."""
        while True:
            report = next(self._reports)
            if isinstance(report, EpochReport):
                return report.seconds


def _parts(
    rows: RatingRows, design_name: str, batch_size: int, n_hidden: int, rounds: int
) -> dict[str, float]:
    """Seconds an epoch of each part of a CD-1 update, run by itself on one minibatch."""
    design, rng = DESIGNS[design_name], np.random.default_rng(0)
    preferences = rows.preferences(4.0)
    chosen = rng.permutation(rows.n_users)[:batch_size]
    visible = design.units(preferences.rows(chosen))
    rbm = RBM.initial(design.initial_bias(preferences), n_hidden, rng, deviation=0.05)
    observed = RowsByUnit.of(visible)
    hidden = rbm.hidden_probability(observed)
    state = bernoulli(hidden, rng)
    received = rbm.weights @ state.T
    imagined = sigmoid(received).T
    total = np.zeros_like(rbm.weights)
    ascent = Momentum(rbm, 0.5, 0.01)
    gradient = Gradient.zeros(rbm)
    measured: dict[str, Callable[[], object]] = {
        "product W h'": lambda: rbm.weights @ state.T,
        "product v' W": lambda: imagined @ rbm.weights,
        "product v'' h'": lambda: imagined.T @ hidden,
        "positive phase, sparse": lambda: observed.add_product(observed @ rbm.weights, total),
        "visible sigmoid and bias": lambda: sigmoid(received + rbm.visible_bias[:, None]),
        "hidden sigmoids": lambda: (sigmoid(hidden), sigmoid(hidden)),
        "random hidden states": lambda: bernoulli(hidden, rng),
        "gather the minibatch": lambda: RowsByUnit.of(design.units(preferences.rows(chosen))),
        "momentum, decay, update": lambda: ascent.ascend(rbm, gradient, 1e-9),
        "check for divergence": lambda: out_of_bounds(rbm),
    }
    updates = math.ceil(rows.n_users / batch_size)
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(max(rounds, 3)):
        for name, part in measured.items():
            times[name].append(seconds_of(part))
    return {name: statistics.median(found) * updates for name, found in times.items()}


def _peak() -> float:
    """Operations a second of a square float32 product, the best of a few: what the cores can do right now."""
    left = np.full((PEAK_SIZE, PEAK_SIZE), 0.5, np.float32)
    out = np.empty_like(left)
    return 2 * PEAK_SIZE**3 / min(seconds_of(lambda: np.matmul(left, left, out=out)) for _ in range(3))


def _scikit_learn_rbm() -> Any:
    try:
        return importlib.import_module("sklearn.neural_network").BernoulliRBM
    except ImportError as error:
        raise Misconfigured(
            "The comparison needs scikit-learn, which Harmonium itself does not. Install it with "
            "`pip install 'scikit-learn>=1.8'`, or leave the comparison out with `--only peak`."
        ) from error

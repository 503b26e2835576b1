"""Speed of learning, beside scikit-learn and the processor's peak, by size of data.

    python -m benchmarks.rbm [--only sklearn] [--rounds 7] [--json FILE]

Times of a shared machine mean little by themselves. What is compared is therefore
measured in turns, round after round, and reported as the median of each and the median
of the rounds' ratios.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from app.errors import Misconfigured
from app.evaluation.machine import describe_machine
from app.learning.boltzmann.contrastive_divergence import (
    PersistentContrastiveDivergence,
    fit,
    random_chains,
)
from app.learning.boltzmann.divergence import out_of_bounds
from app.learning.boltzmann.optimisers import SGD, Gradient
from app.learning.boltzmann.rbm import RBM, Dense, bernoulli, log_odds, sigmoid
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.configuration import TrainingConfiguration
from app.learning.epoch_reports import EpochReport
from app.learning.evaluation.synthetic import synthetic_ratings
from app.learning.likes.ordinal_rbm import fitted
from app.learning.rating_matrix import RatingRows
from app.learning.training import train
from app.learning.vocabulary import Vocabulary
from app.training.costs import usable_cores
from benchmarks.machine import busy_neighbours, most_resident, seconds_of
from benchmarks.report import parser, say, show

COMPARED_HIDDEN = 256
COMPARED_RATE = 0.01
COMPARED_DESIGNS = ("rated", "joint")  # the default, and two units a movie: the widest dense products
PEAK_SIZE = 1_500  # rows and columns of the matrices whose product gives the peak
WARM_UP_UPDATES = 3
Figures = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        compared: users, movies and ratings of the matrix that scikit-learn gets, too.
        usual: the shape that shares of the peak are measured at.
        huge: the shape that the sampled negative phase is measured at.
        batches: minibatch sizes of the comparison with scikit-learn.
        rounds: turns of each measurement.
        threads: BLAS threads of all parts but `threads`, which tries several.
        growth: users, as multiples of those of `usual`, that an epoch is timed with.
    """

    compared: tuple[int, int, int] = (943, 1_682, 100_000)
    usual: tuple[int, int, int] = (6_040, 3_706, 1_000_000)
    huge: tuple[int, int, int] = (162_000, 59_000, 25_000_000)
    batches: tuple[int, ...] = (100, 10)
    rounds: int = 7
    threads: int = 1
    growth: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class SpeedReport:
    """What was measured on, and the rows of figures of each part."""

    machine: Figures
    parts: dict[str, list[Figures]]

    def as_dict(self) -> Figures:
        """The figures as JSON-safe values."""
        return {"machine": self.machine, **self.parts}

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """A table for the machine and one for each part."""
        computer = {name: self.machine[name] for name in ("processor", "cores")}
        yield _table("the machine", [computer | pool for pool in self.machine["blas"]])
        for part, rows in self.parts.items():
            yield _table(PARTS[part][0], rows)


def _table(title: str, rows: list[Figures]) -> tuple[str, list[str], list[list[str]]]:
    columns = [name.replace("_", " ") for name in rows[0]]
    return title, columns, [[_cell(value) for value in row.values()] for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " x ".join(f"{size:,}" for size in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measure_rbm(
    parts: Sequence[str],
    *,
    scale: Scale | None = None,
    on_progress: Callable[[str], None] = lambda words: None,
) -> SpeedReport:
    """Run the chosen parts.

    Args:
        parts: of PARTS.
        scale: shapes and rounds; None for those of docs/benchmarks.md.
        on_progress: called with what is being measured.

    Raises:
        Misconfigured: scikit-learn is needed and absent.
    """
    scale, figures = scale or Scale(), dict[str, list[Figures]]()
    with threadpool_limits(scale.threads, user_api="blas"):
        machine = describe_machine()
        for part in parts:
            title, measure = PARTS[part]
            on_progress(title)
            figures[part] = measure(scale)
    return SpeedReport(machine, figures)


def beside_scikit_learn(scale: Scale) -> list[Figures]:
    """PCD-1 on an equal dense matrix with equal hidden units, batch and rate."""
    return [_beside_scikit_learn(_scikit_learn_rbm(), scale, batch_size) for batch_size in scale.batches]


def _beside_scikit_learn(boltzmann: Any, scale: Scale, batch_size: int) -> Figures:
    rows = synthetic_ratings(*scale.compared)
    matrix = np.zeros((rows.n_users, rows.n_movies))
    matrix[rows.users, rows.indices] = 1
    single = matrix.astype(np.float32)

    rng = np.random.default_rng(0)
    rbm = RBM.initial(log_odds(single.sum(axis=0), len(single)), COMPARED_HIDDEN, rng)
    updates = fit(
        rbm,
        single,
        rng,
        algorithm=PersistentContrastiveDivergence(random_chains(rbm, batch_size, rng)),
        optimiser=SGD(),
        learning_rate=COMPARED_RATE,
        epochs=1_000_000,
        batch_size=batch_size,
    )

    def epoch() -> None:
        next(update for update in updates if update.ends_epoch)

    epoch()  # warm

    def scikit_learn(visible: Dense) -> float:
        """Seconds of an epoch, without the start that every fit makes."""

        def seconds(n_iter: int) -> float:
            rbm = boltzmann(
                COMPARED_HIDDEN,
                learning_rate=COMPARED_RATE,
                batch_size=batch_size,
                n_iter=n_iter,
                random_state=0,
            )
            return seconds_of(lambda: rbm.fit(visible))

        start = seconds(0)
        return max(seconds(2) - start, 1e-9) / 2

    rounds = np.array(
        [
            (
                statistics.median(seconds_of(epoch) for _ in range(3)),
                scikit_learn(matrix),
                scikit_learn(single),
            )
            for _ in range(scale.rounds)
        ]
    )
    ours, double, single_precision = (np.median(rounds, axis=0) * 1e3).tolist()
    faster, faster_single = np.median(rounds[:, 1:] / rounds[:, :1], axis=0).tolist()
    return {
        "batch": batch_size,
        "ms": ours,
        "float64_ms": double,
        "float64_/_ours": faster,
        "float32_ms": single_precision,
        "float32_/_ours": faster_single,
    }


def share_of_peak(scale: Scale) -> list[Figures]:
    """Epochs of two designs' default configurations against products at the peak.

    No dense implementation can do with less than the three products of the negative
    phase: h W', v' W and v'' h'. All five have a dense positive phase, too.
    """
    figures = []
    for design in COMPARED_DESIGNS:
        rows = synthetic_ratings(*scale.usual)
        trainer = _Trainer(rows, design=design)
        configuration = trainer.configuration
        batch_size, n_hidden = configuration.batch_size, configuration.hidden_units
        assert batch_size is not None and n_hidden is not None  # noqa: PT018 - for mypy: they are resolved
        n_visible = DESIGNS[design].n_visible(rows.n_movies)
        trainer.epoch()  # warm
        peaks, epochs = [], []
        for _ in range(scale.rounds):
            before = _peak()
            epochs.append(trainer.epoch())
            peaks.append((before + _peak()) / 2)
        epoch, operations = statistics.median(epochs), 2 * rows.n_users * n_visible * n_hidden
        product = statistics.median(
            operations / peak / seconds for peak, seconds in zip(peaks, epochs, strict=True)
        )
        shares = {
            "the epoch": 1.0,
            "three products of the negative phase, at the peak": 3 * product,
            "all five dense products, at the peak": 5 * product,
        }
        for part, seconds in _parts(rows, design, batch_size, n_hidden, scale.rounds).items():
            shares[f"by itself: {part}"] = seconds / epoch
        figures += [
            {
                "design": design,
                "units": (n_visible, n_hidden),
                "batch": batch_size,
                "peak_GFLOP/s": statistics.median(peaks) / 1e9,
                "part": part,
                "ms": share * epoch * 1e3,
                "share_of_the_epoch": share,
            }
            for part, share in shares.items()
        ]
    return figures


def by_threads(scale: Scale) -> list[Figures]:
    """The default configuration by BLAS threads, alone and beside busy processes."""
    cores = usable_cores()
    choices = sorted({2**power for power in range(cores.bit_length()) if 2**power <= cores} | {1, cores})
    figures = []
    for shape in (scale.compared, scale.usual):
        rows = synthetic_ratings(*shape)
        trainers = {chosen: _Trainer(rows) for chosen in choices}
        times: dict[tuple[int, bool], list[float]] = {}
        for others in (False, True):
            with busy_neighbours(max(1, cores - 1) if others else 0):
                for _ in range(scale.rounds):
                    for chosen, trainer in trainers.items():
                        with threadpool_limits(chosen, user_api="blas"):
                            times.setdefault((chosen, others), []).append(trainer.epoch() * 1e3)
        figures += [
            {
                "users_x_movies": shape[:2],
                "threads": chosen,
                "alone_ms": statistics.median(times[chosen, False]),
                "beside_others_ms": statistics.median(times[chosen, True]),
            }
            for chosen in choices
        ]
    return figures


def growth_with_ratings(scale: Scale) -> list[Figures]:
    """One catalogue and one batch size, more and more users."""
    n_users, n_movies, n_ratings = scale.usual
    batch_size = TrainingConfiguration().resolved(*scale.usual).batch_size
    sizes = [(round(factor * n_users), n_movies, round(factor * n_ratings)) for factor in scale.growth]
    trainers = [_Trainer(synthetic_ratings(*size), batch_size=batch_size) for size in sizes]
    rounds = [[trainer.epoch() for trainer in trainers] for _ in range(max(2, scale.rounds // 2))]
    epochs = np.median(rounds, axis=0).tolist()
    return [
        {"ratings": n, "ms": epoch * 1e3, "ms_a_million": epoch * 1e9 / n}
        for (_, _, n), epoch in zip(sizes, epochs, strict=True)
    ]


def huge_catalogue(scale: Scale) -> list[Figures]:
    """`_huge_catalogue` in a process of its own, whose memory is measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return [pool.apply(_huge_catalogue, (scale.huge, scale.rounds, scale.threads))]


def _huge_catalogue(shape: tuple[int, int, int], rounds: int, threads: int) -> Figures:
    """Some updates with the default configuration, some with a dense negative phase."""
    with threadpool_limits(threads, user_api="blas"):
        rows = synthetic_ratings(*shape)
        preparing = time.perf_counter()
        sampled = _Trainer(rows, linear_units=None)
        sampled.update()
        preparation = time.perf_counter() - preparing
        for _ in range(WARM_UP_UPDATES):
            sampled.update()
        like_model = fitted(rows, sampled.configuration.liked_at_least, np.random.default_rng(0))
        update = next(like_model)
        like_updates = update.epochs * update.minibatches
        like_update = statistics.median(seconds_of(lambda: next(like_model)) for _ in range(rounds))
        resident = most_resident()
        like_model.close()
        dense = _Trainer(rows, negative_sample=0)
        for _ in range(WARM_UP_UPDATES):
            dense.update()
        pairs = np.array(
            [(statistics.median(sampled.update() for _ in range(5)), dense.update()) for _ in range(rounds)]
        )
        updates = math.ceil(shape[0] / (sampled.configuration.batch_size or 1))
        sampled_epoch, dense_epoch = (np.median(pairs, axis=0) * updates).tolist()
    return {
        "shape": shape,
        "dense_epoch_s": dense_epoch,
        "sampled_epoch_s": sampled_epoch,
        "sampled_/_dense": float(np.median(pairs[:, 0] / pairs[:, 1])),
        "most_memory_GiB": resident / 2**30,  # ratings, linear units, ranking and like model
        "before_the_first_update_s": preparation,
        "like_model's_update_s": like_update,
        "like_model's_updates": like_updates,
    }


class _Trainer:
    """`train`, one update or one epoch at a time."""

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
    """Seconds an epoch of each part of a CD-1 update, run alone on one minibatch."""
    design, rng = DESIGNS[design_name], np.random.default_rng(0)
    preferences = rows.preferences(4.0)
    chosen = rng.permutation(rows.n_users)[:batch_size]
    visible = design.units(preferences.rows(chosen))
    rbm = RBM.initial(design.initial_bias(preferences), n_hidden, rng, deviation=0.05)
    hidden = rbm.hidden_probability(visible)
    state = bernoulli(hidden, rng)
    received = rbm.weights @ state.T
    imagined = sigmoid(received).T
    optimiser = SGD(0.5, 0.01)
    gradient = Gradient(*map(np.zeros_like, rbm.parameters))
    measured: dict[str, Callable[[], object]] = {
        "product W h'": lambda: rbm.weights @ state.T,
        "product v' W": lambda: imagined @ rbm.weights,
        "product v'' h'": lambda: imagined.T @ hidden,
        "positive phase, sparse": lambda: visible.T @ (visible @ rbm.weights),
        "visible sigmoid and bias": lambda: sigmoid(received + rbm.visible_bias[:, None]),
        "hidden sigmoids": lambda: (sigmoid(hidden), sigmoid(hidden)),
        "random hidden states": lambda: bernoulli(hidden, rng),
        "gather the minibatch": lambda: design.units(preferences.rows(chosen)),
        "momentum, decay, update": lambda: optimiser.ascend(rbm, gradient, 1e-9),
        "check for divergence": lambda: out_of_bounds(rbm),
    }
    updates = math.ceil(rows.n_users / batch_size)
    times: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(max(rounds, 3)):
        for name, part in measured.items():
            times[name].append(seconds_of(part))
    return {name: statistics.median(seconds) * updates for name, seconds in times.items()}


def _peak() -> float:
    """Operations a second of a square float32 product: the cores' peak right now."""
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


PARTS: dict[str, tuple[str, Callable[[Scale], list[Figures]]]] = {
    "sklearn": ("an epoch beside scikit-learn's BernoulliRBM", beside_scikit_learn),
    "peak": ("an epoch beside products at the processor's peak", share_of_peak),
    "threads": ("an epoch by BLAS threads", by_threads),
    "growth": ("an epoch as ratings grow", growth_with_ratings),
    "huge": ("a huge catalogue", huge_catalogue),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__)
    options_of.add_argument("--only", action="append", choices=tuple(PARTS))
    options_of.add_argument("--rounds", type=int, default=Scale().rounds, help="turns of each measurement")
    options_of.add_argument("--threads", type=int, default=1, help="BLAS threads")
    options = options_of.parse_args(arguments)
    report = measure_rbm(
        tuple(options.only or PARTS),
        scale=Scale(rounds=options.rounds, threads=options.threads),
        on_progress=say,
    )
    show(report, options.json)


if __name__ == "__main__":
    main()

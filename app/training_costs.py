"""What a fit will cost, before it starts: memory and time from the shape of the data and the configuration.

The constants were measured (docs/benchmarks.md). Memory is meant to be an upper bound, for it decides whether
a fit is refused. Time is a guess, better once a run has shown how fast this machine is.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import FieldError, NotEnoughMemory
from app.learning.configuration import TrainingConfiguration
from app.learning.judge import JudgeSettings
from app.learning.linear_units import EXACT_FOR_MANY_TO
from app.learning.visible_design import DESIGNS
from app.learning.weighted_units import ROUNDS, SOLVED_AT_ONCE
from app.settings import Settings

FLOAT = 4  # bytes of a number in the machine
DOUBLE = 8  # while linear units are found

FIXED_BYTES = 64 * 1024**2  # rows on their way out of the database, and what libraries take once
READING_BYTES = 110  # a rating, while all are read and sorted
RATING_BYTES = 70  # a rating, as arrays, while the machine is fitted
USER_BYTES = 300  # a user's id and key
PARAMETER_COPIES = (
    7  # of the weights of binary units: machine, step, gradient; or machine, the active one, its file twice
)
OTHER_COPIES = 4  # of linear units and of the judge, which are not there while the machine moves
SCORED_USERS = 512  # users that the gate ranks the catalogue for at once
SCORE_COPIES = 4

USUAL_FLOPS = 4e10  # a second, of one core, all told
RATING_SECONDS = 4e-6  # a rating: read, judged, evaluated


@dataclass(frozen=True)
class Shape:
    """The size of the data, or of what it will at most be when the fit begins."""

    n_users: int
    n_movies: int
    n_ratings: int


@dataclass(frozen=True)
class Estimate:
    """What a fit is thought to cost.

    Attributes:
        shape: what it was reckoned for.
        memory: bytes by part; `ratings`, `parameters`, `minibatch`,
            `linear_units` (or the weighted ones, which follow), `evaluation` and `fixed` sum to the most
            that is held at once, `model_file` is what the version will take in the database.
        seconds: from the first row read to the version stored, on one thread.
        seconds_from: what the speed was taken from, in words.
    """

    shape: Shape
    memory: dict[str, int]
    seconds: float
    seconds_from: str

    @property
    def memory_bytes(self) -> int:
        return sum(size for part, size in self.memory.items() if part != "model_file")

    def as_dict(self, available: int | None) -> dict[str, Any]:
        return {
            "memory_bytes": self.memory_bytes,
            "available_bytes": available,
            "memory": self.memory,
            "seconds": round(self.seconds, 3),
            "seconds_from": self.seconds_from,
            "shape": dataclasses.asdict(self.shape),
        }


def estimate(
    shape: Shape, configuration: TrainingConfiguration, *, slowness: float = 1.0, seconds_from: str = ""
) -> Estimate:
    """The cost of a fit.

    Args:
        configuration: settings that are None are filled in for the shape.
        slowness: measured seconds over those that this function gives, see `slowness_of`.
        seconds_from: in words, where the slowness was measured; empty: nowhere.
    """
    settings = configuration.resolved(shape.n_users, shape.n_movies, shape.n_ratings)
    batch, hidden = settings.batch_size or 1, settings.hidden_units or 1
    epochs, chains = settings.epochs or 1, settings.chains or 0
    design = DESIGNS[settings.design]
    n_visible = design.n_visible(shape.n_movies)
    length = shape.n_ratings / max(shape.n_users, 1)
    rows = max(batch, chains if settings.algorithm == "pcd" else 0)
    if not design.unrated_units_take_part:
        # Only rated units are touched, but the weights of each are fetched for each rating.
        touched, minibatch = 8 * length, 3 * batch * length * hidden
    elif settings.negative_sample:
        touched = min(n_visible, settings.negative_sample + batch * length)
        minibatch = 3 * rows * touched + 3 * touched * hidden
    else:
        touched, minibatch = n_visible, 2 * rows * n_visible
    minibatch += 6 * rows * hidden
    linear = min(settings.linear_units or 0, shape.n_users, shape.n_movies)
    weighted = min(settings.weighted_units or 0, shape.n_users, shape.n_movies)
    judging = JudgeSettings.by_shape(shape.n_users, shape.n_movies, shape.n_ratings).hidden_units
    parameters = (n_visible + 1) * (hidden + 1)
    others = (linear + weighted + 2 * judging) * shape.n_movies
    reading = READING_BYTES * shape.n_ratings
    fitting = RATING_BYTES * shape.n_ratings
    memory = {
        "ratings": fitting + USER_BYTES * shape.n_users,
        "parameters": FLOAT * (PARAMETER_COPIES * parameters + OTHER_COPIES * others),
        "minibatch": int(FLOAT * minibatch),
        "linear_units": max(_linear_bytes(shape, linear), _weighted_bytes(shape, weighted)),
        "evaluation": FLOAT * SCORE_COPIES * min(SCORED_USERS, shape.n_users) * shape.n_movies,
        "fixed": FIXED_BYTES,
        "model_file": FLOAT * (parameters + others) + 40 * shape.n_movies,
    }
    # Reading is over before anything is fitted: the larger of the two counts.
    rest = memory["parameters"] + memory["minibatch"] + memory["evaluation"] + memory["linear_units"]
    memory["ratings"] += max(0, reading - fitting - rest)
    products = 2 * (settings.k - 1) + 3
    flops = epochs * (shape.n_users + chains * shape.n_users / batch) * 2.0 * touched * hidden * products
    # Both sides' squares of all ratings, and as many systems of equations as there are users and movies.
    flops += ROUNDS * (4.0 * shape.n_ratings * weighted**2 + (shape.n_users + shape.n_movies) * weighted**3)
    seconds = slowness * (flops / USUAL_FLOPS + RATING_SECONDS * shape.n_ratings)
    return Estimate(shape, memory, seconds, seconds_from or "the usual speed of one core")


def _linear_bytes(shape: Shape, n_units: int) -> int:
    """What finding the linear units holds: squares of the smaller side, or two thin matrices."""
    smaller = min(shape.n_users, shape.n_movies)
    if not n_units:
        return 0
    if smaller <= EXACT_FOR_MANY_TO:
        return DOUBLE * (4 * smaller**2 + shape.n_movies * n_units)
    return DOUBLE * 3 * (shape.n_users + shape.n_movies) * n_units


def _weighted_bytes(shape: Shape, n_units: int) -> int:
    """What finding the weighted units holds, after the linear ones are found: the ratings once more, by user
    and by movie, both sides' rows, and one block of matrices."""
    rows = (shape.n_users + shape.n_movies) * n_units
    matrices = min(SOLVED_AT_ONCE, max(shape.n_users, shape.n_movies)) * n_units**2
    return FLOAT * (6 * shape.n_ratings + 2 * rows + 3 * matrices) if n_units else 0


def slowness_of(snapshot: Mapping[str, Any], configuration: Mapping[str, Any], seconds: float) -> float:
    """How many times longer than `estimate` says a run took, of this snapshot and configuration."""
    shape = Shape(snapshot["n_users"], snapshot["n_movies"], snapshot["n_ratings"])
    known = {spec.name for spec in dataclasses.fields(TrainingConfiguration)}
    settings = {name: value for name, value in configuration.items() if name in known}
    usual = estimate(shape, TrainingConfiguration.from_dict(settings)).seconds
    return min(max(seconds / max(usual, 1e-3), 0.05), 100.0)


def refuse_unless_it_fits(
    wanted: Estimate, configuration: TrainingConfiguration, available: int | None
) -> None:
    """Raise `NotEnoughMemory`, saying which settings to lower and to what; None passes everything."""
    if available is None or wanted.memory_bytes <= available:
        return
    resolved = configuration.resolved(wanted.shape.n_users, wanted.shape.n_movies, wanted.shape.n_ratings)
    mistakes = []
    for name in ("hidden_units", "batch_size", "chains"):
        now: int | None = getattr(resolved, name)
        fits = None if now is None else _largest_that_fits(wanted.shape, resolved, name, now, available)
        if fits:
            mistakes.append(FieldError(name, f"{fits} would fit in place of {now}"))
    remedy = (
        "lower " + " or ".join(f"{one.location} ({one.message})" for one in mistakes)
        if mistakes
        else "no smaller machine would fit either"
    )
    raise NotEnoughMemory(
        f"This fit needs about {_gib(wanted.memory_bytes)} of memory, and {_gib(available)} can be had: "
        f"{remedy}; or give the worker more memory and say so by HARMONIUM_TRAINING_MEMORY_LIMIT.",
        errors=mistakes,
    )


def available_memory(settings: Settings) -> int | None:
    """Bytes that a fit may take: the setting, else what this machine, or its container, has free.

    None where nothing says (no /proc).
    """
    if settings.training_memory_limit:
        return settings.training_memory_limit
    return free_memory()


def free_memory() -> int | None:
    """Bytes that this machine, or its container, has free; None where nothing says (no /proc)."""
    found = [size for size in (_free_of_machine(), _free_of_group()) if size is not None]
    return min(found, default=None)


def _largest_that_fits(
    shape: Shape, configuration: TrainingConfiguration, name: str, now: int, available: int
) -> int:
    """The largest value of a setting, below what it is, with which a fit fits; 0 where none does."""
    fits, too_much = 0, now
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        smaller = dataclasses.replace(configuration, **{name: middle})  # type: ignore[arg-type]
        if estimate(shape, smaller).memory_bytes <= available:
            fits = middle
        else:
            too_much = middle
    return fits


def _free_of_machine(path: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = path.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _free_of_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the container's limit leaves (control groups, version 2, then 1); files that it caches can go."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = (folder / limit).read_text().strip()
            if not most.isdigit() or int(most) >= 2**60:  # "max", or version 1's way to say so
                continue
            statistics = (folder / limit).with_name("memory.stat").read_text().splitlines()
            files = next((int(line.split()[1]) for line in statistics if line.startswith(f"{cached} ")), 0)
            return max(0, int(most) - int((folder / used).read_text()) + files)
        except (OSError, ValueError, IndexError):
            continue
    return None


def _gib(size: int) -> str:
    return f"{size / 1024**3:.2f} GiB"

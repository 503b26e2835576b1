"""What a fit will cost: memory and time by the shape of the data and the configuration.

The constants were measured (docs/benchmarks.md). Memory is meant to be an upper bound,
for it decides whether a fit is refused. Time is a guess, better once a run has measured
how fast this machine is.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from app.errors import FieldError, NotEnoughMemory
from app.learning.boltzmann.linear_units import EXACT_FOR_MANY_TO
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.boltzmann.weighted_units import ROUNDS, SOLVED_AT_ONCE
from app.learning.configuration import TrainingConfiguration
from app.learning.likes.ordinal_rbm import OrdinalRBMSettings
from app.settings import Settings
from app.storage.answers import Answer

FLOAT = 4  # bytes of a parameter
DOUBLE = 8  # bytes of a number while linear units are solved for

FIXED_BYTES = 64 * 1024**2  # bytes of rows on their way out of the database, and that libraries take once
READING_BYTES = 110  # bytes a rating, while all are read and sorted
RATING_BYTES = 70  # bytes a rating, as arrays, during the fit
USER_BYTES = 300  # bytes of a user's id and key
# Copies of the binary units' weights: model, step, gradient; or model, active version,
# its file twice.
PARAMETER_COPIES = 7
OTHER_COPIES = 4  # copies of linear units and of the like model, which are not there during binary units' fit
SCORED_USERS = 512  # users that the gate ranks the catalogue for at once
SCORE_COPIES = 4

USUAL_FLOPS = 4e10  # floating-point operations a second of one core
RATING_SECONDS = 4e-6  # seconds a rating: read, like model, evaluation


@dataclass(frozen=True)
class Shape(Answer):
    """The size of the data, or what it will be at most when the fit begins."""

    n_users: Annotated[int, Field(examples=[605])]
    n_movies: Annotated[int, Field(examples=[728])]
    n_ratings: Annotated[int, Field(examples=[32_143])]


@dataclass(frozen=True)
class Estimate(Answer):
    """What a fit was expected to cost when it was requested."""

    memory_bytes: Annotated[int, Field(examples=[124_162_498])]
    """Most bytes held at once, meant as an upper bound."""
    available_bytes: Annotated[int | None, Field(examples=[8_589_934_592])]
    """Bytes that the fit may take; None where nothing says."""
    memory: Annotated[
        dict[str, int],
        Field(examples=[{"ratings": 2_431_510, "parameters": 20_104_252, "fixed": 67_108_864}]),
    ]
    """Bytes by part. All but `model_file` sum to `memory_bytes`; that is what the
    database will keep."""
    seconds: Annotated[float, Field(examples=[1.698])]
    """From the first row read to the version stored, on one thread; a guess."""
    seconds_from: Annotated[str, Field(examples=["the speed of the last 3 finished training runs"])]
    """Where the speed was measured, in words."""
    shape: Shape
    """The size of the data at most."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Estimate":
        """The estimate whose `dataclasses.asdict` this is."""
        return cls(**(dict(values) | {"shape": Shape(**values["shape"])}))


def estimate(
    shape: Shape,
    configuration: TrainingConfiguration,
    *,
    available: int | None = None,
    slowness: float = 1.0,
    seconds_from: str = "the usual speed of one core",
) -> Estimate:
    """The cost of a fit.

    Args:
        configuration: settings that are None are filled in for the shape.
        available: bytes that the fit may take; None where nothing says.
        slowness: measured seconds over those that this function returns, see
            `slowness_of`.
        seconds_from: in words, where the slowness was measured.
    """
    settings = configuration.resolved(shape.n_users, shape.n_movies, shape.n_ratings)
    hidden = settings.hidden_units or 1
    linear = min(settings.linear_units or 0, shape.n_users, shape.n_movies)
    weighted = min(settings.weighted_units or 0, shape.n_users, shape.n_movies)
    like_units = OrdinalRBMSettings.by_shape(shape.n_users, shape.n_movies, shape.n_ratings).hidden_units
    parameters = (DESIGNS[settings.design].n_visible(shape.n_movies) + 1) * (hidden + 1)
    others = (linear + weighted + 2 * like_units) * shape.n_movies
    touched, minibatch = _minibatch(shape, settings)
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
    memory["ratings"] += max(0, READING_BYTES * shape.n_ratings - fitting - rest)
    rows = shape.n_users + (settings.chains or 0) * shape.n_users / (settings.batch_size or 1)
    flops = (settings.epochs or 1) * rows * 2.0 * touched * hidden * (2 * (settings.k - 1) + 3)
    # Both sides' Gram matrices of all ratings, and a system of equations a user and a
    # movie.
    flops += ROUNDS * (4.0 * shape.n_ratings * weighted**2 + (shape.n_users + shape.n_movies) * weighted**3)
    return Estimate(
        memory_bytes=sum(size for part, size in memory.items() if part != "model_file"),
        available_bytes=available,
        memory=memory,
        seconds=slowness * (flops / USUAL_FLOPS + RATING_SECONDS * shape.n_ratings),
        seconds_from=seconds_from,
        shape=shape,
    )


def _minibatch(shape: Shape, settings: TrainingConfiguration) -> tuple[float, float]:
    """Visible units that a minibatch touches, and the numbers that it holds."""
    batch, hidden = settings.batch_size or 1, settings.hidden_units or 1
    design = DESIGNS[settings.design]
    n_visible = design.n_visible(shape.n_movies)
    length = shape.n_ratings / max(shape.n_users, 1)
    rows = max(batch, (settings.chains or 0) if settings.algorithm == "pcd" else 0)
    if not design.unrated_units_take_part:
        # Only rated units are touched, but the weights of each are fetched for each
        # rating.
        touched, held = 8 * length, 3 * batch * length * hidden
    elif settings.negative_sample:
        touched = min(n_visible, settings.negative_sample + batch * length)
        held = 3 * rows * touched + 3 * touched * hidden
    else:
        touched, held = n_visible, 2 * rows * n_visible
    return touched, held + 6 * rows * hidden


def _linear_bytes(shape: Shape, n_units: int) -> int:
    """Bytes to solve for the linear units: Gram matrices, or two thin matrices."""
    smaller = min(shape.n_users, shape.n_movies)
    if not n_units:
        return 0
    if smaller <= EXACT_FOR_MANY_TO:
        return DOUBLE * (4 * smaller**2 + shape.n_movies * n_units)
    return DOUBLE * 3 * (shape.n_users + shape.n_movies) * n_units


def _weighted_bytes(shape: Shape, n_units: int) -> int:
    """Bytes to solve for the weighted units, after the linear ones.

    They are the ratings once more, by user and by movie, both sides' rows, and one
    block of matrices.
    """
    rows = (shape.n_users + shape.n_movies) * n_units
    matrices = min(SOLVED_AT_ONCE, max(shape.n_users, shape.n_movies)) * n_units**2
    return FLOAT * (6 * shape.n_ratings + 2 * rows + 3 * matrices) if n_units else 0


def slowness_of(snapshot: Mapping[str, Any], configuration: Mapping[str, Any], seconds: float) -> float:
    """The seconds that a run took over those of its `estimate`."""
    shape = Shape(snapshot["n_users"], snapshot["n_movies"], snapshot["n_ratings"])
    known = {spec.name for spec in dataclasses.fields(TrainingConfiguration)}
    settings = {name: value for name, value in configuration.items() if name in known}
    usual = estimate(shape, TrainingConfiguration.from_dict(settings)).seconds
    return min(max(seconds / max(usual, 1e-3), 0.05), 100.0)


def refuse_unless_it_fits(estimate: Estimate, configuration: TrainingConfiguration) -> None:
    """Raise `NotEnoughMemory`, with the settings to lower, unless the fit fits."""
    available, shape = estimate.available_bytes, estimate.shape
    if available is None or estimate.memory_bytes <= available:
        return
    resolved = configuration.resolved(shape.n_users, shape.n_movies, shape.n_ratings)
    mistakes = []
    for name in ("hidden_units", "batch_size", "chains"):
        now: int | None = getattr(resolved, name)
        fits = None if now is None else _largest_that_fits(shape, resolved, name, now, available)
        if fits:
            mistakes.append(FieldError(name, f"{fits} would fit in place of {now}"))
    remedy = (
        "lower " + " or ".join(f"{mistake.location} ({mistake.message})" for mistake in mistakes)
        if mistakes
        else "no smaller model would fit either"
    )
    raise NotEnoughMemory(
        f"This fit needs about {_gib(estimate.memory_bytes)} of memory, and {_gib(available)} can be had: "
        f"{remedy}; or give the worker more memory and say so by HARMONIUM_TRAINING_MEMORY_LIMIT.",
        errors=mistakes,
    )


def available_memory(settings: Settings) -> int | None:
    """Bytes that a fit may take: the setting, else `free_memory`.

    None where nothing says (no /proc).
    """
    if settings.training_memory_limit:
        return settings.training_memory_limit
    return free_memory()


def usable_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that this machine, or its container, has free; None without /proc."""
    sizes = [size for size in (_free_of_machine(), _free_of_group()) if size is not None]
    return min(sizes, default=None)


def _largest_that_fits(
    shape: Shape, configuration: TrainingConfiguration, name: str, now: int, available: int
) -> int:
    """The largest lower value of a setting with which a fit fits; 0 where none does."""
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
    """Bytes that the container's limit leaves; cached files count as free."""
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

"""The estimate of a fit: memory is an upper bound, refusals say what would fit."""

import dataclasses
from pathlib import Path

import pytest

from app.errors import NotEnoughMemory
from app.learning.configuration import TrainingConfiguration
from app.settings import Settings
from app.training import costs as training_costs
from app.training.costs import Shape, estimate

MIB = 1024**2

# Most resident memory of a fit, less that of the process before, in MiB: measured, see
# docs/benchmarks.md.
MEASURED = [
    (Shape(943, 1_682, 100_000), {}, 65),
    (Shape(943, 1_682, 100_000), {"hidden_units": 2_000}, 114),
    (Shape(6_040, 3_706, 1_000_000), {}, 625),
    (Shape(6_040, 3_706, 1_000_000), {"hidden_units": 2_000}, 621),
    (Shape(6_040, 3_706, 1_000_000), {"batch_size": 2_000}, 621),
    (Shape(20_000, 10_000, 2_000_000), {}, 364),
]


def refuse(shape: Shape, configuration: TrainingConfiguration, available: int | None) -> None:
    result = estimate(shape, configuration, available=available)
    training_costs.refuse_unless_it_fits(result, configuration)


@pytest.mark.parametrize(("shape", "overrides", "mebibytes"), MEASURED)
def test_memory_is_an_upper_bound_of_what_was_measured_and_not_a_wild_one(
    shape: Shape, overrides: dict[str, object], mebibytes: int
) -> None:
    result = estimate(shape, TrainingConfiguration.from_dict(overrides)).memory_bytes / MIB
    assert mebibytes < result < 3 * mebibytes


def test_the_model_file_is_that_of_the_parameters() -> None:
    result = estimate(Shape(943, 1_682, 100_000), TrainingConfiguration(hidden_units=400))
    # 400 binary, 943 linear and 64 weighted units a movie, and the like model: 11.03
    # MiB were measured.
    assert result.memory["model_file"] == pytest.approx(11.03 * MIB, rel=0.02)


def test_time_grows_with_the_work_and_with_the_slowness() -> None:
    shape = Shape(943, 1_682, 100_000)
    one = estimate(shape, TrainingConfiguration(epochs=100)).seconds
    assert estimate(shape, TrainingConfiguration(epochs=200)).seconds > 1.8 * one
    assert estimate(shape, TrainingConfiguration(epochs=100, k=5)).seconds > 3 * one
    assert estimate(shape, TrainingConfiguration(epochs=100), slowness=3.0).seconds == pytest.approx(3 * one)


def test_the_slowness_of_a_run_makes_the_estimate_its_time() -> None:
    snapshot = {"n_users": 943, "n_movies": 1_682, "n_ratings": 100_000}
    configuration = TrainingConfiguration(epochs=130).resolved(943, 1_682, 100_000)
    slowness = training_costs.slowness_of(snapshot, configuration.as_dict() | {"gone": 1}, 25.0)
    again = estimate(Shape(**snapshot), configuration, slowness=slowness)
    assert again.seconds == pytest.approx(25.0)


@pytest.mark.parametrize(
    "overrides", [{"hidden_units": 5_000}, {"batch_size": 50_000}, {"algorithm": "pcd", "chains": 90_000}]
)
def test_a_refusal_names_a_setting_and_the_largest_value_that_fits(overrides: dict[str, int]) -> None:
    shape, available = Shape(60_000, 3_706, 1_000_000), 1_000 * MIB
    configuration = TrainingConfiguration.from_dict(overrides)
    with pytest.raises(NotEnoughMemory, match="lower") as refusal:
        refuse(shape, configuration, available)
    name = next(name for name in ("chains", "batch_size", "hidden_units") if name in overrides)
    (mistake,) = [error for error in refusal.value.errors if error.location == name]
    fits = int(mistake.message.split()[0])
    lower = dataclasses.replace(configuration, **{name: fits})  # type: ignore[arg-type]
    refuse(shape, lower, available)
    too_much = dataclasses.replace(configuration, **{name: fits + 1})  # type: ignore[arg-type]
    with pytest.raises(NotEnoughMemory):
        refuse(shape, too_much, available)


def test_where_nothing_would_fit_the_refusal_says_so() -> None:
    shape, configuration = Shape(6_040, 3_706, 1_000_000), TrainingConfiguration()
    with pytest.raises(NotEnoughMemory, match="no smaller model") as refusal:
        refuse(shape, configuration, 10 * MIB)
    assert refusal.value.errors == ()
    refuse(shape, configuration, None)  # nothing says


def test_the_setting_says_what_is_available_else_the_machine_does() -> None:
    assert training_costs.available_memory(Settings(training_memory_limit=12_345)) == 12_345
    result = training_costs.available_memory(Settings())
    if Path("/proc/meminfo").exists():
        assert result is not None
        assert 10 * MIB < result < 10**15


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_and_files_that_it_caches_do_not(tmp_path: Path, version: int) -> None:
    folder = tmp_path / "memory" if version == 1 else tmp_path
    folder.mkdir(exist_ok=True)
    names = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if version == 1
        else ("memory.max", "memory.current", "inactive_file")
    )
    (folder / names[0]).write_text("1000\n")
    (folder / names[1]).write_text("700\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} 200\n")
    assert training_costs._free_of_group(tmp_path) == 500
    (folder / names[0]).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    assert training_costs._free_of_group(tmp_path) is None


def test_a_system_without_proc_knows_nothing(tmp_path: Path) -> None:
    assert training_costs._free_of_machine(tmp_path / "meminfo") is None
    assert training_costs._free_of_group(tmp_path) is None

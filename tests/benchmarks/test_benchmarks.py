"""The benchmarks run on a tiny scale; no test measures speed."""

from __future__ import annotations

import importlib
import json
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from app.errors import Misconfigured
from app.learning.boltzmann import sampled_negatives as sampled_negative_phase
from app.learning.boltzmann.rbm import RBM
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.synthetic import synthetic_ratings
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.storage.database import Database
from benchmarks import digits, imports, like_model, lists, negative_sample, ranking, ratings
from benchmarks import rbm as benchmarks
from benchmarks.rbm import PARTS, Scale, measure_rbm
from tests.postgres import Cluster

NAMES = (
    "rbm",
    "serve",
    "imports",
    "beside_fit",
    "lists",
    "questions",
    "ranking",
    "like_model",
    "digits",
    "negative_sample",
)

TINY = Scale(
    compared=(40, 60, 400),
    usual=(60, 60, 900),
    huge=(80, 300, 1_500),
    batches=(8,),
    rounds=2,
    growth=(0.5, 1.0),
)


def test_every_part_reports_times_and_ratios_as_json() -> None:
    said: list[str] = []
    report = measure_rbm(list(PARTS), scale=TINY, on_progress=said.append)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert len(said) == len(PARTS)
    assert values["sklearn"][0]["batch"] == 8
    assert values["sklearn"][0]["float64_/_ours"] > 0
    assert {(row["design"], row["units"][0]) for row in values["peak"]} == {("rated", 60), ("joint", 120)}
    assert all(row["share_of_the_epoch"] > 0 for row in values["peak"])
    assert [row["ratings"] for row in values["growth"]] == [450, 900]
    assert {tuple(row["users_x_movies"]) for row in values["threads"]} == {TINY.compared[:2], TINY.usual[:2]}
    assert values["huge"][0]["most_memory_GiB"] > 0.01
    assert values["machine"]["blas"]
    for _, columns, lines in report.tables():
        assert lines
        assert all(len(line) == len(columns) for line in lines)


def check_imports(monkeypatch: pytest.MonkeyPatch, postgresql: str | None, databases: list[str]) -> None:
    # Processes of their own take seconds to start, and only memory needs them.
    monkeypatch.setattr(imports, "_in_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(imports, "SEARCHES", 20)
    scale = imports.Scale(shape=(20, 40, 300), rounds=1, titles=200)
    report = imports.measure_imports(scale, postgresql=postgresql, on_progress=lambda _: None)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [figures["database"].split()[0] for figures in values["databases"]] == databases
    for figures in values["databases"]:
        assert figures["puts"] > 0
        assert 0 < figures["put_p50"] <= figures["put_p99"] <= figures["put_most"]
        assert 0 < figures["search_p50"] <= figures["search_p95"]
        assert all(figures[name] > 0 for name in ("ceiling", "first", "again", "size", "snapshot", "share"))
    [(_, columns, lines)] = report.tables()
    assert lines
    assert all(len(line) == len(columns) for line in lines)


def test_imports_are_measured_on_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    check_imports(monkeypatch, None, ["SQLite"])


@pytest.mark.slow
@pytest.mark.acceptance
def test_imports_are_measured_on_both_databases(postgres: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.create_database("measured")
    check_imports(monkeypatch, url, ["SQLite", "PostgreSQL"])
    with closing(Database(url)) as database, database.reading() as session:
        names = session.execute(text("SELECT datname FROM pg_database")).scalars().all()
    assert not any(name.startswith("harmonium_bench") for name in names)


def test_without_scikit_learn_the_comparison_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(Misconfigured, match="pip install"):
        measure_rbm(("sklearn",), scale=TINY)
    assert list(measure_rbm(("growth",), scale=TINY).parts) == ["growth"]


def test_the_command_prints_tables_and_writes_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmarks, "measure_rbm", lambda parts, **_: measure_rbm(parts, scale=TINY))
    file = tmp_path / "speed.json"
    benchmarks.main(["--only", "growth", "--json", str(file)])
    assert json.loads(file.read_text())["growth"]
    assert "## an epoch as ratings grow" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_how_to_run_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"benchmarks.{name}").main(["--help"])
    said = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in said
    assert "--json" in said


def write_ratings(path: Path, rows: RatingRows) -> str:
    """The ratings as a file like u.data; its name."""
    entries = zip(rows.users.tolist(), rows.indices.tolist(), rows.stars.tolist(), strict=True)
    path.write_text("".join(f"{u}\t{m}\t{stars:g}\t0\n" for u, m, stars in entries))
    return str(path)


def quickly(rows: RatingRows, configuration: TrainingConfiguration) -> TrainedModel:
    """A model of a short fit."""
    return ratings.trained(rows, TrainingConfiguration(epochs=5, hidden_units=10, seed=configuration.seed))


def table_in(printed: str, title: str) -> dict[str, list[str]]:
    """The cells of each row of a Markdown table."""
    lines = printed.split(f"## {title}", 1)[1].split("\n\n")[1].splitlines()
    rows: Sequence[list[str]] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_the_picture_is_a_png_of_the_filters_and_reconstructions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rbm = RBM.initial(np.zeros(64), 100, rng)
    grey = digits.picture(rbm, rng.random((digits.PICTURED, 64), dtype=np.float32))
    assert grey.shape == (5 * 10 + 8 + 2 * 10, 20 * 10)
    digits.write_png(tmp_path / "digits.png", grey, scale=2)
    content = (tmp_path / "digits.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (400, 156)
    start = content.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", content[start - 8 : start - 4])
    lines = np.frombuffer(zlib.decompress(content[start : start + length]), np.uint8).reshape(156, 401)
    np.testing.assert_array_equal(lines[::2, 1::2], grey)


def test_lists_are_measured_with_and_without_genres(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in (("ROUNDS", 1), ("FEW_ROUNDS", 1), ("MANY", 20), ("PROFILE", 8), ("trained", quickly)):
        monkeypatch.setattr(lists, name, value)
    rng = np.random.default_rng(0)
    genres = ["Action", "Comedy|Drama"]
    films = [f"{number},Film {number} (1999),{genres[number % 2]}\n" for number in range(40)]
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n" + "".join(films))
    users = np.repeat(np.arange(60), 14)
    movies = np.concatenate([rng.permutation(np.arange(user % 2, 40, 2))[:14] for user in range(60)])
    rows = RatingRows.from_coordinates(users, movies, rng.choice([1, 3, 4, 5], users.size), 60, 40)
    file = write_ratings(tmp_path / "ratings.csv", rows)
    lists.main([file, "--movies", str(tmp_path / "movies.csv"), "--seeds", "1"])
    printed = capsys.readouterr().out
    for part in lists.PARTS:
        assert len(table_in(printed, part)) > 5
    # People watch every second film only, and so do genres: the nearest films are of
    # the same genres.
    assert float(table_in(printed, "similar")["**Harmonium**"][0]) > 0.9
    assert "nan" not in printed
    lists.main([file, "--seeds", "1", "--only", "diversity"])
    assert "genres a list" not in capsys.readouterr().out


def test_like_models_are_measured_on_a_small_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(like_model.VARIANTS, "as shipped", like_model.ordinal(epochs=3))
    file = write_ratings(tmp_path / "ratings.csv", synthetic_ratings(60, 120, 2_400, seed=1))
    names = ["biases, logistic", "as shipped"]
    like_model.main([file, "--seeds", "1", "--first-seed", "0", "--only", *names])
    table = table_in(capsys.readouterr().out, "like_probability")
    figures = np.array([[float(cell) for cell in table[name][:-1]] for name in names])
    assert ((figures > 0) & (figures < 1)).all()


def test_settings_of_the_fit_are_compared_on_a_part_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainingConfiguration] = []

    def noted(rows: RatingRows, configuration: TrainingConfiguration) -> TrainedModel:
        seen.append(configuration)
        return quickly(rows, configuration)

    monkeypatch.setattr(ranking, "trained", noted)
    file = write_ratings(tmp_path / "ratings.csv", synthetic_ratings(60, 120, 2_400, seed=1))
    options = ["--seeds", "1", "--protocol", "stratified", "--shape", "half-users"]
    ranking.main([file, *options, "--vary", "like_strength=.2", "--fix", "epochs=3"])
    table = table_in(capsys.readouterr().out, "nDCG@10")
    assert list(table) == ["", "---", "as fixed", "like_strength = .2"]
    assert [(configuration.epochs, configuration.like_strength) for configuration in seen][1] == (3, 0.2)


@pytest.mark.parametrize("shape", ranking.SHAPES)
def test_shapes_keep_whole_users_or_movies(shape: str) -> None:
    rows = synthetic_ratings(60, 600, 6_000, seed=1)
    part = ranking.shaped(rows, shape)
    assert 0 < part.n_ratings <= rows.n_ratings
    assert part.n_movies == (200 if shape == "popular" else 600)
    assert part.n_users == {"half-users": 30, "few-users": 7}.get(shape, part.n_users)


def test_what_the_negative_sample_costs_is_measured_on_a_small_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_negative_phase, "ROWS_OF_A_GROUP", sampled_negative_phase.ROWS_OF_A_GROUP)
    rows = synthetic_ratings(60, 120, 2_400, seed=1)
    file = write_ratings(tmp_path / "ratings.csv", rows)
    negative_sample.main([file, "--sample", "20", "--rows-of-a-group", "3", "--seeds", "1"])
    split, mean, bias = capsys.readouterr().out.splitlines()
    assert split.startswith("split 0: nDCG@10 dense 0.")
    assert mean.startswith("mean of 1: ")
    # Rows in groups of three: the input of the hidden units is off in one draw, on
    # average it is not.
    of_probability, of_one_draw = (float(word) for word in re.findall(r"0\.\d+", bias)[:2])
    assert 0 < of_probability < 0.2 * of_one_draw

"""The benchmarks run on a tiny scale; how fast anything is, no test says."""

from __future__ import annotations

import importlib
import json
import re
import struct
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from app import cli
from app.benchmarks import imports
from app.benchmarks import rbm as benchmarks
from app.benchmarks.rbm import PARTS, Scale, measure_rbm
from app.database import Database
from app.errors import InvalidInput, Misconfigured
from app.learning import sampled_negative_phase
from app.learning.rbm import RBM
from app.learning.synthetic import synthetic_ratings
from benchmarks import digits, judge_experiments, lists, negative_sample, synthetic
from tests.postgres import Cluster

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
    report = measure_rbm(PARTS, scale=TINY, on_progress=said.append)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert len(said) >= len(PARTS)
    assert values["compared"][0]["batch_size"] == 8
    assert values["compared"][0]["times_faster"] > 0
    assert [(one["design"], one["visible_units"]) for one in values["efficiency"]] == [
        ("rated", 60),
        ("joint", 120),
    ]
    for efficiency in values["efficiency"]:
        assert 0 < efficiency["share"] < efficiency["share_of_all"]
        assert all(seconds > 0 for seconds in efficiency["parts"].values())
    assert [one["n_ratings"] for one in values["growth"]] == [450, 900]
    assert {tuple(one["shape"]) for one in values["threads"]} == {TINY.compared, TINY.usual}
    assert values["huge"]["resident"] > 10_000_000
    assert values["machine"]["blas"]
    for _, columns, lines in report.tables():
        assert lines
        assert all(len(line) == len(columns) for line in lines)


def test_imports_are_measured_on_both_databases(postgres: Cluster) -> None:
    url = postgres.create_database("measured")
    scale = imports.Scale(shape=(20, 40, 300), rounds=1, titles=200)
    said: list[str] = []
    report = imports.measure_imports(scale, postgresql=url, on_progress=said.append)
    values = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [one["database"].split()[0] for one in values["databases"]] == ["SQLite", "PostgreSQL"]
    for one in values["databases"]:
        assert one["puts"] > 0
        assert 0 < one["put_p50"] <= one["put_p99"] <= one["put_most"]
        assert 0 < one["search_p50"] <= one["search_p95"]
        assert all(one[name] > 0 for name in ("ceiling", "first", "again", "size", "snapshot", "share"))
    [(_, columns, lines)] = report.tables()
    assert lines
    assert all(len(line) == len(columns) for line in lines)
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
    assert measure_rbm(("growth",), scale=TINY).compared == []


def test_the_command_prints_tables_and_writes_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmarks, "Scale", lambda rounds: TINY)
    file = tmp_path / "speed.json"
    result = CliRunner().invoke(cli.app, ["bench", "rbm", "--only", "growth", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert json.loads(file.read_text())["growth"]
    refused = CliRunner().invoke(cli.app, ["bench", "rbm", "--only", "everything"])
    assert isinstance(refused.exception, InvalidInput)


def test_synthetic_ratings_are_written_as_a_file_that_imports(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    synthetic.main(["--users", "5", "--movies", "20", "--ratings", "30", str(file)])
    lines = file.read_text().splitlines()
    assert lines[0] == "userId,movieId,rating"
    assert len(lines) == 31
    users, movies, stars = zip(*(line.split(",") for line in lines[1:]), strict=True)
    assert {int(user) for user in users} == set(range(1, 6))
    assert all(1 <= int(movie) <= 20 for movie in movies)
    assert all(1 <= float(one) <= 5 for one in stars)


def test_the_picture_is_a_png_of_the_filters_and_reconstructions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rbm = RBM.initial(np.zeros(64), 100, rng)
    grey = digits.picture(rbm, rng.random((digits.SHOWN, 64), dtype=np.float32))
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
    monkeypatch.setattr(lists, "ROUNDS", 1)
    monkeypatch.setattr(lists, "FEW_ROUNDS", 1)
    monkeypatch.setattr(lists, "PROFILE", 8)
    rng = np.random.default_rng(0)
    film_genres = ["Action", "Comedy|Drama"]
    (tmp_path / "movies.csv").write_text(
        "movieId,title,genres\n" + "".join(f"{n},Film {n} (1999),{film_genres[n % 2]}\n" for n in range(40))
    )
    rated = [
        f"{user},{movie},{rng.choice([1, 3, 4, 5])}\n"
        for user in range(60)
        for movie in rng.permutation(np.arange(user % 2, 40, 2))[:14]
    ]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n" + "".join(rated))
    lists.main([str(tmp_path / "ratings.csv"), "--movies", str(tmp_path / "movies.csv"), "--seeds", "1"])
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("## ")] == [
        f"## {part}, 1 seed" for part in lists.PARTS
    ]
    # People watch every second film only, and so do genres: the nearest films are of the same genres.
    harmonium = next(line for line in said.splitlines() if line.startswith("| **Harmonium** |"))
    assert float(harmonium.split("|")[2]) > 0.9
    assert "nan" not in said
    lists.main([str(tmp_path / "ratings.csv"), "--seeds", "1", "--only", "diversity"])
    assert "genres a list" not in capsys.readouterr().out


def test_the_judges_variants_are_measured_on_a_small_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = synthetic_ratings(60, 120, 2_400, seed=1)
    file = tmp_path / "ratings.tsv"
    entries = zip(rows.users, rows.indices, rows.stars, strict=True)
    file.write_text("".join(f"{user}\t{movie}\t{stars:g}\n" for user, movie, stars in entries))
    names = ["biases, logistic", "as shipped", "contrastive divergence (CD-1)"]
    judge_experiments.main([str(file), "--seeds", "1", "--first", "0", "--only", *names])
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in table] == names
    figures = np.array([[float(cell) for cell in row[1:-1]] for row in table])
    assert ((figures > 0) & (figures < 1)).all()


def test_what_the_negative_sample_costs_is_measured_on_a_small_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled_negative_phase, "ROWS_OF_A_GROUP", sampled_negative_phase.ROWS_OF_A_GROUP)
    rows = synthetic_ratings(60, 120, 2_400, seed=1)
    file = tmp_path / "ratings.tsv"
    entries = zip(rows.users, rows.indices, rows.stars, strict=True)
    file.write_text("".join(f"{user}\t{movie}\t{stars:g}\n" for user, movie, stars in entries))
    negative_sample.main([str(file), "--sample", "20", "--rows-of-a-group", "3", "--seeds", "1"])
    split, mean, bias = capsys.readouterr().out.splitlines()
    assert split.startswith("split 0: nDCG@10 dense 0.")
    assert mean.startswith("mean of 1: ")
    # Rows in groups of three: what one draw makes the hidden units receive is off, on average it is not.
    of_probability, of_one_draw = (float(word) for word in re.findall(r"0\.\d+", bias)[:2])
    assert 0 < of_probability < 0.2 * of_one_draw

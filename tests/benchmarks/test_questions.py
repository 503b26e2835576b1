"""The benchmark of questions, on a catalogue with two camps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.learning.configuration import TrainingConfiguration
from app.learning.rating_matrix import RatingRows
from benchmarks import questions as benchmark
from benchmarks.ratings import trained
from tests.learning.tastes import two_camps


def test_an_interview_has_answers_to_known_movies_only() -> None:
    answers = RatingRows.single([1, 3, 5], [5, 2, 4], 10)
    columns: list[int] = []

    def in_order(so_far: RatingRows, open_: np.ndarray, _: np.random.Generator) -> int:
        assert so_far.n_ratings == len([column for column in columns if column in (1, 3, 5)])
        columns.append(int(np.flatnonzero(open_)[0]))
        return columns[-1]

    rng = np.random.default_rng(0)
    result = benchmark.interview(in_order, answers, rng, most_questions=4, most_answers=4)
    assert (columns, result.n_questions) == ([0, 1, 2, 3], 4)
    assert result.answers.indices.tolist() == [1, 3]
    assert result.answers.stars.tolist() == [5, 2]
    columns.clear()
    assert benchmark.interview(in_order, answers, rng, most_questions=100, most_answers=3).n_questions == 6


def test_the_command_compares_the_askers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "LEAST_RATINGS", 10)
    rows = two_camps(100)
    file, out = tmp_path / "ratings.csv", tmp_path / "out.json"
    entries = zip(rows.users, rows.indices, rows.stars, strict=True)
    file.write_text("".join(f"{u}\t{m}\t{stars}\t0\n" for u, m, stars in entries))
    monkeypatch.setattr(benchmark, "trained", lambda rows, _: trained(rows, TrainingConfiguration(epochs=20)))
    benchmark.main([str(file), "--seeds", "1", "--asked", "3", "--json", str(out)])
    figures = json.loads(out.read_text())
    assert set(figures) == {"3 asked", "3 answered"}
    for by_name in figures.values():
        assert set(by_name) == {"questions", "popular", "random popular"}
        for of_asker in by_name.values():
            assert all(0 < value < 1 for value in of_asker["any"])
    three = figures["3 asked"]
    assert {tuple(of_asker["asked"]) for of_asker in three.values()} == {(3.0,)}
    assert np.mean(three["questions"]["answers"]) > 0.3
    assert "questions less random popular" in capsys.readouterr().out

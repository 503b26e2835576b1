"""The benchmark of questions: what is asked, answered and looked for, on a catalogue with two camps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.learning.preferences import RatingRows
from benchmarks import questions as benchmark
from tests.learning.tastes import two_camps


def test_an_interview_tells_only_what_is_asked_and_known() -> None:
    answers = RatingRows.single([1, 3, 5], [5, 2, 4], 10)
    asked: list[int] = []

    def in_order(told: RatingRows, open_: np.ndarray, _: np.random.Generator) -> int:
        assert told.n_ratings == len([column for column in asked if column in (1, 3, 5)])
        asked.append(int(np.flatnonzero(open_)[0]))
        return asked[-1]

    rng = np.random.default_rng(0)
    found = benchmark.interview(in_order, answers, rng, asked=4, answered=4)
    assert (asked, found.n_asked) == ([0, 1, 2, 3], 4)
    assert found.told.indices.tolist() == [1, 3]
    assert found.told.stars.tolist() == [5, 2]
    asked.clear()
    assert benchmark.interview(in_order, answers, rng, asked=100, answered=3).n_asked == 6


def test_the_command_compares_the_askers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "LEAST_RATINGS", 10)
    rows = two_camps(160)
    file, out = tmp_path / "ratings.tsv", tmp_path / "out.json"
    file.write_text(
        "".join(
            f"{user}\t{movie}\t{stars}\n"
            for user, movie, stars in zip(rows.users, rows.indices, rows.stars, strict=True)
        )
    )
    benchmark.main([str(file), "--seeds", "2", "--asked", "3", "--json", str(out)])
    figures = json.loads(out.read_text())
    assert set(figures) == {"3 asked", "3 answered"}
    for by_name in figures.values():
        assert set(by_name) == {"questions", "popular", "random popular"}
        for one in by_name.values():
            assert all(0 < value < 1 for value in one["any"])
    asked = figures["3 asked"]
    assert {tuple(one["asked"]) for one in asked.values()} == {(3.0, 3.0)}
    assert np.mean(asked["questions"]["answers"]) > 0.3
    assert "questions beside random popular" in capsys.readouterr().out

"""The evaluation of a file: what is read, what the table says on an obvious answer."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from app import cli, evaluation
from app.cli import judging
from app.errors import InvalidInput, TooLittleTrainingData
from app.evaluation import Evaluation, ProtocolName, RatingData
from app.learning import splitting
from app.learning.baselines import Popularity, TooManyMovies
from app.learning.configuration import TrainingConfiguration
from app.learning.preferences import RatingRows
from app.learning.vocabulary import Vocabulary
from app.ratings import UNTIMED
from app.settings import Settings
from tests.tastes import two_tastes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    given = two_tastes()
    lines = [
        f"{user},{movie},{stars}"
        for user, movie, stars in zip(given.user_ids, given.movie_ids, given.stars.tolist(), strict=True)
    ]
    path = tmp_path / "tastes.csv"
    path.write_text("user,movie,rating\n" + "\n".join(lines) + "\n")
    return path


def test_rows_are_read_with_the_newest_of_each_pair(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating,timestamp\nb,x,1,20\na,x,2,10\nb,x,3,30\na,y,4,10\na,y,5,10\n")
    data = evaluation.read_rows(path, Settings())
    rows = data.rows
    said = {
        (user, data.vocabulary.movie_ids[movie], stars)
        for user, movie, stars in zip(
            rows.users.tolist(), rows.indices.tolist(), rows.stars.tolist(), strict=True
        )
    }
    assert {(movie, stars) for _, movie, stars in said} == {("x", 2.0), ("x", 3.0), ("y", 5.0)}
    assert rows.n_users == 2
    assert sorted((data.rated_at // 1_000_000).tolist()) == [10, 10, 30]
    assert data.rated_at[rows.stars == 3].tolist() == [30_000_000]


def test_columns_are_in_the_order_of_ids_not_of_appearance(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("userId,movieId,rating\na,z,5\na,b,1\nb,m,3\n")
    data = evaluation.read_rows(path, Settings())
    assert data.vocabulary.movie_ids == ("b", "m", "z")
    assert data.rows.indices.tolist() == [0, 2, 1]
    assert data.rows.stars.tolist() == [1, 5, 3]


def test_a_file_with_a_bad_row_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("userId,movieId,rating\na,x,1\na,y,many\n")
    with pytest.raises(InvalidInput, match="line 3"):
        evaluation.read_rows(path, Settings())


CONFIGURATION = TrainingConfiguration(epochs=40, hidden_units=20)
NAMES = [
    "machine",
    "popularity",
    "item neighbours",
    "EASE rated",
    "EASE liked",
    "EASE summed",
    "biases",
    "factorisation",
]
RANKING = {
    f"{kind}_{metric}"
    for kind in ("any", "relevant")
    for metric in ("ndcg", "precision", "recall", "average_precision", "reciprocal_rank")
}
JUDGING = {"auc", "auc_relevant", "brier", "calibration_error"}


def evaluated(
    data: RatingData, protocol: ProtocolName, seeds: list[int], seen: list[float] | None = None
) -> Evaluation:
    report = (lambda _: None) if seen is None else seen.append
    return evaluation.evaluate(
        data, protocol, CONFIGURATION, seeds=seeds, relevant_at_least=4.0, on_progress=report
    )


def long_rows(times: bool = True) -> RatingData:
    """80 raters of 30 movies each, of two tastes; user after user in time."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(80), 30)
    own = np.array([rng.permutation(40)[:25] for _ in range(80)])
    other = np.array([rng.permutation(40)[:5] for _ in range(80)])
    side = np.arange(80)[:, None] % 2 * 40
    movies = np.hstack([own + side, other + 40 - side]).ravel()
    stars = np.hstack([rng.integers(3, 6, own.shape), rng.integers(1, 4, other.shape)]).ravel()
    rows = RatingRows.from_coordinates(users, movies, stars, 80, 80)
    rated_at = np.arange(rows.n_ratings) // 5 if times else np.full(rows.n_ratings, UNTIMED)
    return RatingData(rows, Vocabulary([f"m{number}" for number in range(80)]), rated_at.astype(np.int64))


def test_on_two_tastes_the_machine_beats_popularity(file: Path) -> None:
    seen: list[float] = []
    found = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0, 1], seen)
    (section,) = found.sections
    assert [row.name for row in section.rows] == NAMES
    assert (section.n_users, section.n_test_ratings, found.interval) == (60, 180, "seeds")
    machine, popularity = section.row("machine").figures, section.row("popularity").figures
    assert set(machine) == RANKING | JUDGING
    assert set(popularity) == RANKING
    for name in ("biases", "factorisation"):
        assert set(section.row(name).figures) == JUDGING
    for name in ("any_ndcg", "relevant_ndcg"):
        assert machine[name].mean > popularity[name].mean + 0.1
        assert machine[name].n == 2
        assert machine[name].low < machine[name].mean < machine[name].high
        assert np.mean(section.row("machine").by_seed[name]) == pytest.approx(machine[name].mean)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)


def test_one_seed_has_its_interval_over_users(file: Path) -> None:
    found = evaluated(evaluation.read_rows(file, Settings()), "stratified", [3])
    machine = found.sections[0].row("machine").figures
    assert found.interval == "users"
    assert machine["any_ndcg"].n == 60
    for name, interval in machine.items():
        assert interval.low <= interval.mean <= interval.high, name
    for name in ("any_ndcg", "any_recall", "brier"):
        assert 0.001 < machine[name].high - machine[name].mean < 0.2


def test_the_newest_ratings_test_and_users_without_older_ones_stand_apart() -> None:
    found = evaluated(long_rows(), "temporal", [0, 1])  # 600 newest ratings: 20 users, none of them known
    (unknown,) = found.sections
    assert (unknown.title, unknown.n_users, unknown.n_test_ratings) == ("without training ratings", 20, 600)
    assert found.interval == "users"
    data = long_rows()
    order = np.random.default_rng(0).permutation(data.rated_at.size)
    mixed = evaluated(RatingData(data.rows, data.vocabulary, data.rated_at[order]), "temporal", [0])
    assert [section.title for section in mixed.sections] == ["with training ratings"]
    assert mixed.sections[0].n_test_ratings == 600


def test_without_times_there_is_no_temporal_protocol() -> None:
    with pytest.raises(InvalidInput, match="time of every rating"):
        evaluated(long_rows(times=False), "temporal", [0])


def test_new_users_are_the_same_people_at_every_number_of_ratings() -> None:
    found = evaluated(long_rows(), "new-users", [0])
    told = [section.title for section in found.sections]
    assert told == ["1 rating", "3 ratings", "5 ratings", "10 ratings", "20 ratings", "half of their ratings"]
    assert [section.n_users for section in found.sections] == [10] * 6
    assert [section.n_test_ratings for section in found.sections] == [290, 270, 250, 200, 100, 150]
    for section in found.sections[2:]:
        machine, popularity = (section.row(name).figures["any_ndcg"].mean for name in NAMES[:2])
        assert machine > popularity


def test_short_rows_cannot_be_new_users(file: Path) -> None:
    with pytest.raises(InvalidInput, match="25 ratings"):
        evaluated(evaluation.read_rows(file, Settings()), "new-users", [0])


def test_what_does_not_fit_is_left_out_with_the_reason(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TooManyMovies("too many movies here")

    monkeypatch.setattr(evaluation, "EASE", refuse)
    (section,) = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0]).sections
    assert [row.name for row in section.rows] == NAMES
    assert {row.skipped for row in section.rows if row.name.startswith("EASE")} == {"too many movies here"}
    assert section.row("EASE summed").figures == {}
    assert section.row("machine").skipped is None


def test_nothing_of_the_test_ratings_reaches_a_contestant(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every row that a contestant is fitted on or fed must be disjoint from what it is asked.
    fed: list[RatingRows] = []

    class Watched(Popularity):
        def __init__(self, rows: RatingRows) -> None:
            super().__init__(rows)
            fed.append(rows)

        def scores(self, rows: RatingRows) -> NDArray[np.float32]:
            fed.append(rows)
            return super().scores(rows)

    monkeypatch.setattr(evaluation, "Popularity", Watched)
    data = long_rows()
    evaluated(data, "stratified", [7])
    _, test = splitting.stratified(data.rows, np.random.default_rng(7))
    asked = set((test.users * test.n_movies + test.indices).tolist())
    assert len(fed) == 3
    for rows in fed:
        assert not asked & set((rows.users * rows.n_movies + rows.indices).tolist())


def test_the_interval_over_two_seeds_is_students() -> None:
    interval = evaluation.over_seeds([0.4, 0.5])
    assert interval.mean == pytest.approx(0.45)
    assert interval.high - interval.mean == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert evaluation.over_seeds([0.4]).high == np.inf


def test_probabilities_come_in_the_order_of_the_test_ratings(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbering:
        def like_probability(
            self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
        ) -> NDArray[np.float32]:
            return (rows.stars[rows.indptr[:-1], None] + np.arange(rows.n_movies) / 100).astype(np.float32)

    given = RatingRows.from_coordinates([0, 1, 2], [0, 0, 0], [1, 2, 3], 3, 4)
    test = RatingRows.from_coordinates([0, 2, 2], [3, 1, 2], [5, 5, 5], 3, 4)
    for cells in (1, 8, 1_000):
        monkeypatch.setattr(evaluation, "CELLS_AT_ONCE", cells)
        np.testing.assert_allclose(evaluation.probabilities(Numbering(), given, test), [1.03, 3.01, 3.02])


def test_too_little_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("userId,movieId,rating\na,x,1\nb,y,5\n")
    with pytest.raises(TooLittleTrainingData, match="The least"):
        evaluated(evaluation.read_rows(path, Settings()), "stratified", [0])


def test_the_command_prints_80_columns_and_writes_every_figure(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed_on = Console(width=80, record=True)
    monkeypatch.setattr(judging, "out", printed_on)
    written = tmp_path / "figures.json"
    given = ["evaluate", "--ratings", str(file), "--json", str(written), "--protocol", "stratified"]
    assert CliRunner().invoke(cli.app, given).exit_code == 0
    printed = printed_on.export_text()
    assert "…" not in printed
    for name in NAMES:
        assert f"{name} " in printed
    figures = json.loads(written.read_text())
    assert figures["protocol"] == "stratified"
    (section,) = figures["sections"]
    assert set(section["rows"][0]["figures"]) == RANKING | JUDGING
    assert set(section["rows"][0]["figures"]["auc"]) == {"mean", "low", "high", "n"}

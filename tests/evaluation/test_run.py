"""Whole evaluations of ratings with an obvious answer, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from app import cli
from app.catalogue.movies import MovieEntry
from app.cli import evaluation as evaluation_command
from app.errors import InvalidInput, TooLittleTrainingData
from app.evaluation import implicit_als, methods, run, scoreboard
from app.evaluation.protocols import ProtocolName
from app.evaluation.rating_file import RatingData
from app.evaluation.run import Evaluation
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import splitting
from app.learning.evaluation.baselines import Popularity
from app.learning.rating_matrix import RatingRows
from app.learning.vocabulary import Vocabulary
from tests.evaluation.ratings import long_rows, tastes

NAMES = [
    "machine",
    "plain RBM",
    "popularity",
    "item neighbours",
    "EASE rated",
    "EASE liked",
    "EASE summed",
    "implicit ALS",
    "biases",
    "factorisation",
]
METRICS = ("ndcg", "precision", "recall", "average_precision", "reciprocal_rank")
RANKING = {
    f"{name}{depth}"
    for name in (
        *(f"{kind}_{metric}" for kind in ("any", "relevant") for metric in METRICS),
        "coverage",
        "novelty",
        "popularity",
    )
    for depth in ("", "_at_20")
}
LIKES = {"auc", "auc_relevant", "brier", "calibration_error", "absolute_difference"}
MOVIES = {
    "even0": MovieEntry("even0", "First", 1990, ("Even", "Odd")),
    "odd1": MovieEntry("odd1", "Second", None, ("Odd",)),
}


def evaluated(
    data: RatingData, protocol: ProtocolName, seeds: list[int], progress: list[float] | None = None
) -> Evaluation:
    configuration = TrainingConfiguration(epochs=40, hidden_units=20)
    report = (lambda _: None) if progress is None else progress.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoreboard, "RESAMPLES", 20)
        return run.evaluate(
            data, protocol, configuration, seeds=seeds, relevant_at_least=4.0, on_progress=report
        )


@pytest.fixture(scope="module")
def one_seed() -> Evaluation:
    return evaluated(tastes(MOVIES), "stratified", [5])


def test_on_two_tastes_the_model_beats_popularity() -> None:
    progress: list[float] = []
    evaluation = evaluated(tastes(), "stratified", [0, 1], progress)
    (section,) = evaluation.sections
    assert [row.name for row in section.rows] == NAMES
    assert (section.n_users, section.n_test_ratings, evaluation.interval) == (60, 180, "seeds")
    model, popularity = section.row("machine").figures, section.row("popularity").figures
    assert set(model) == RANKING | LIKES
    assert set(popularity) == RANKING
    for name in ("biases", "factorisation"):
        assert set(section.row(name).figures) == LIKES
    for name in ("any_ndcg", "relevant_ndcg"):
        assert model[name].mean > popularity[name].mean + 0.1
        assert model[name].n == 2
        assert model[name].low < model[name].mean < model[name].high
        assert np.mean(section.row("machine").by_seed[name]) == pytest.approx(model[name].mean)
    assert progress == pytest.approx(sorted(progress))  # but for rounding
    assert progress[-1] == pytest.approx(1.0)


def test_one_seed_has_its_interval_over_users(one_seed: Evaluation) -> None:
    model = one_seed.sections[0].row("machine").figures
    assert one_seed.interval == "users"
    assert model["any_ndcg"].n == 60
    for name, interval in model.items():
        assert interval.low <= interval.mean <= interval.high, name
    for name in ("any_ndcg", "any_recall", "brier"):
        assert 0.001 < model[name].high - model[name].mean < 0.2


def test_slices_need_different_users_and_known_genres(one_seed: Evaluation) -> None:
    (section,) = one_seed.sections
    assert section.slices_of("users") == []
    assert [piece.name for piece in section.slices_of("movies")] == ["head", "middle", "tail"]
    assert sum(piece.n for piece in section.slices_of("movies")) == 30
    shares = [piece.row("machine").figures["shown"].mean for piece in section.slices_of("movies")]
    assert sum(shares) == pytest.approx(1)
    genres = {piece.name: piece for piece in section.slices_of("genre")}
    assert {name: piece.n for name, piece in genres.items()} == {"Even": 1, "Odd": 2}
    assert 0 <= genres["Odd"].row("machine").figures["shown"].mean < 0.3


def test_examples_are_the_models_lists(one_seed: Evaluation) -> None:
    assert (one_seed.example_section, len(one_seed.examples)) == ("", 3)
    for example in one_seed.examples:
        assert (example.n_given, example.n_test, len(example.shown)) == (9, 3, 10)
        profile = {film.movie_id for film in example.given}
        assert len(profile) == 5
        assert not profile & {film.movie_id for film in example.shown}
        assert len([film for film in example.shown if film.stars is not None]) <= 3
        assert all(0 < (film.like_probability or 0) < 1 for film in example.shown)
        assert {film.title for film in example.given + example.shown} <= {"", "First", "Second"}
    assert any(film.stars for example in one_seed.examples for film in example.shown)


def test_new_users_are_served_better_than_by_popularity() -> None:
    evaluation = evaluated(long_rows(), "new-users", [0])
    assert evaluation.example_section == "5 ratings"
    for section in evaluation.sections[2:]:
        model, popularity = (section.row(name).figures["any_ndcg"].mean for name in ("machine", "popularity"))
        assert model > popularity


def test_methods_that_do_not_fit_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    rows = tastes().rows
    monkeypatch.setattr(methods, "spare_memory", lambda: 1_000)
    skipped = [method.skipped for method in methods._ease(rows, 4.0)]
    assert all("more than the limit of 0.0 GiB" in str(reason) for reason in skipped)
    monkeypatch.setattr(methods, "EASE", refuse)
    assert [method.skipped for method in methods._ease(rows, 4.0)] == ["EASE does not fit into memory"] * 3


def test_no_test_rating_reaches_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every row that a method is fitted on or scores must be disjoint from the test
    # ratings.
    seen: list[RatingRows] = []

    class Watched(Popularity):
        def __init__(self, rows: RatingRows) -> None:
            super().__init__(rows)
            seen.append(rows)

        def scores(self, rows: RatingRows) -> NDArray[np.float32]:
            seen.append(rows)
            return super().scores(rows)

    monkeypatch.setattr(methods, "Popularity", Watched)
    monkeypatch.setattr(implicit_als, "missing", "it is not here")
    data = tastes()
    (section,) = evaluated(data, "stratified", [7]).sections
    assert (section.row("implicit ALS").skipped, section.row("implicit ALS").figures) == (
        "it is not here",
        {},
    )
    _, test = splitting.stratified(data.rows, np.random.default_rng(7))
    tested = set((test.users * test.n_movies + test.indices).tolist())
    assert len(seen) == 2
    for rows in seen:
        assert not tested & set((rows.users * rows.n_movies + rows.indices).tolist())


def test_the_rows_of_implicit_rank_and_fold_in() -> None:
    pytest.importorskip("implicit", reason="the extra bench is not installed")
    rows = tastes().rows
    scorer = implicit_als.ImplicitALS(rows, seed=0, n_factors=4, regularisation=1.0)
    scores = scorer.scores(rows)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scorer.scores(rows.rows([7, 3])), scores[[7, 3]], rtol=1e-4, atol=1e-5)


def test_too_few_ratings_are_refused() -> None:
    rows = RatingRows.from_coordinates([0, 1], [0, 1], [1, 5], 2, 2)
    data = RatingData(rows, Vocabulary(["x", "y"]), np.zeros(2, np.int64))
    with pytest.raises(TooLittleTrainingData, match="The least"):
        evaluated(data, "stratified", [0])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = tastes().rows
    ratings = zip(rows.users.tolist(), rows.indices.tolist(), rows.stars.tolist(), strict=True)
    path = tmp_path / "tastes.csv"
    path.write_text("user,movie,rating\n" + "".join(f"{u},{m},{stars}\n" for u, m, stars in ratings))
    return path


def test_the_command_prints_80_columns_and_writes_every_figure(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed_on = Console(width=80, record=True)
    monkeypatch.setattr(evaluation_command, "out", printed_on)
    written = tmp_path / "figures.json"
    page = tmp_path / "page.html"
    monkeypatch.setattr(scoreboard, "RESAMPLES", 5)
    options = [
        "evaluate",
        "--ratings",
        str(file),
        "--json",
        str(written),
        "--html",
        str(page),
        "--seeds",
        "1",
    ]
    assert CliRunner().invoke(cli.app, [*options, "--protocol", "stratified"]).exit_code == 0
    printed = printed_on.export_text()
    assert "…" not in printed
    for name in NAMES:
        assert f"{name} " in printed
    assert "coverage" in printed
    assert "harmonium evaluate --ratings tastes.csv --protocol stratified --seeds 1" in page.read_text(
        "utf-8"
    )
    figures = json.loads(written.read_text())
    assert figures["protocol"] == "stratified"
    assert figures["seeds"] == [0]
    assert figures["origin"]["command"].endswith("--seeds 1")
    (section,) = figures["sections"]
    assert set(section["rows"][0]["figures"]) == RANKING | LIKES
    assert set(section["rows"][0]["figures"]["auc"]) == {"mean", "low", "high", "n"}


def test_a_place_that_cannot_be_written_is_refused_before_the_work(file: Path, tmp_path: Path) -> None:
    for option in ("--html", "--json"):
        for place in (tmp_path, tmp_path / "missing" / "page.html"):
            refused = CliRunner().invoke(cli.app, ["evaluate", "--ratings", str(file), option, str(place)])
            assert isinstance(refused.exception, InvalidInput)
            assert str(place) in str(refused.exception)

"""The evaluation of a file: what is read, what the table says on an obvious answer."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from typer.testing import CliRunner

from app import cli, evaluation, implicit_als, scoreboard
from app.catalogue import MovieEntry
from app.cli import judging
from app.errors import InvalidInput, TooLittleTrainingData
from app.evaluation import Evaluation, ProtocolName, RatingData
from app.learning import splitting
from app.learning.baselines import Popularity, TooManyMovies
from app.learning.configuration import TrainingConfiguration
from app.learning.preferences import RatingRows
from app.learning.vocabulary import Vocabulary
from app.ratings import UNTIMED
from app.scoreboard import Section
from app.settings import Settings
from tests.tastes import two_tastes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    given = two_tastes()
    lines = [
        f"{user},{movie},{stars}"
        for user, movie, stars in zip(
            np.array(given.user_ids)[given.user_codes],
            np.array(given.movie_ids)[given.movie_codes],
            given.stars.tolist(),
            strict=True,
        )
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
JUDGING = {"auc", "auc_relevant", "brier", "calibration_error", "absolute_difference"}


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
    assert seen == pytest.approx(sorted(seen))  # but for rounding
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
        machine, popularity = (
            section.row(name).figures["any_ndcg"].mean for name in ("machine", "popularity")
        )
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
    assert section.row("EASE summed").behind == {}
    assert section.row("machine").skipped is None


def test_what_does_not_fit_here_and_now_is_left_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < evaluation.spare_memory() <= sys.maxsize
    monkeypatch.setattr(evaluation, "spare_memory", lambda: 1_000)
    (section,) = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0]).sections
    assert "more than the limit of 0.0 GiB" in str(section.row("EASE rated").skipped)
    assert section.row("item neighbours").skipped is None


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
    assert len(fed) == 2
    for rows in fed:
        assert not asked & set((rows.users * rows.n_movies + rows.indices).tolist())


def test_the_interval_over_two_seeds_is_students() -> None:
    interval = scoreboard.over_seeds([0.4, 0.5])
    assert interval.mean == pytest.approx(0.45)
    assert interval.high - interval.mean == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert scoreboard.over_seeds([0.4]).high == np.inf


# What is known in advance: two users, six movies, and methods that show columns in a fixed order.


class Fixed:
    def __init__(self, *best: int) -> None:
        self.best = best

    def scores(self, rows: RatingRows) -> NDArray[np.float32]:
        scores = np.zeros((rows.n_users, rows.n_movies), np.float32)
        scores[:, list(self.best)] = np.arange(len(self.best), 0, -1)
        return scores


class Sure:
    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        return np.tile(np.linspace(0.1, 0.9, rows.n_movies), (rows.n_users, 1)).astype(np.float32)


def gathered_by_hand(over_users: bool, monkeypatch: pytest.MonkeyPatch) -> Section:
    """Of eight training users 8, 4, 4, 2, 1 and 0 rated the movies: 0 is head, 1 and 2 are middle."""
    monkeypatch.setattr(scoreboard, "DEPTHS", (2, 4))
    users = [*range(8), *range(4), *range(4), *range(2), 0]
    movies = [0] * 8 + [1] * 4 + [2] * 4 + [3] * 2 + [4]
    training = RatingRows.from_coordinates(users, movies, [5] * 19, 8, 6)
    given = RatingRows.from_coordinates([0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2], [5] * 6, 3, 6)
    test = RatingRows.from_coordinates([0, 0, 1, 1, 2], [2, 4, 3, 5, 3], [5, 1, 2, 4, 4], 3, 6)
    genres: dict[str, tuple[str, ...] | None] = {"c": ("War", "Drama"), "e": ("War",), "f": None}
    movies_said = {movie: MovieEntry(movie, movie.upper(), 1999, its) for movie, its in genres.items()}
    data = RatingData(training, Vocabulary(list("abcdef")), np.zeros(19, np.int64), movies_said)
    asked = scoreboard.Question("", given, test)
    table = scoreboard.Scoreboard(over_users)
    parts = scoreboard.parts_of(asked, training, evaluation._genres(data))
    table.of("first").rank(Fixed(2, 5, 3, 4), asked, parts, training, 4.0)
    table.of("first").judge(Sure(), asked, parts, 3.0, 4.0)
    table.of("second").rank(Fixed(5, 4, 3, 1), asked, parts, training, 4.0)
    table.count(asked, parts)
    return table.section("")


def test_what_is_shown_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first shows 2, 5 | 2, 5 | 5, 3 (user 2 knows 2), of 4: 2 5 3 4 | 2 5 3 4 | 5 3 4 and nothing more.
    section = gathered_by_hand(True, monkeypatch)
    figures = section.row("first").figures
    assert figures["coverage"].mean == pytest.approx(3 / 6)
    assert figures["coverage_at_4"].mean == pytest.approx(4 / 6)
    # 2 is known to 4 of 8 users (1 bit), 3 to 2 (2 bits), 4 to 1 (3 bits), 5 to nobody, as if to one.
    assert figures["novelty"].mean == pytest.approx(np.mean([2, 2, 2.5]))
    assert figures["novelty_at_4"].mean == pytest.approx(np.mean([9 / 4, 9 / 4, 8 / 3]))
    assert figures["popularity"].mean == pytest.approx(np.mean([4 / 16, 4 / 16, 2 / 16]))
    # Any: a find at rank 1 of 2; one at 2 of 2; one at 2 of 1.
    assert figures["any_recall"].mean == pytest.approx(np.mean([1 / 2, 1 / 2, 1]))
    assert figures["any_reciprocal_rank"].mean == pytest.approx(np.mean([1, 1 / 2, 1 / 2]))
    assert figures["any_recall_at_4"].mean == 1
    # The second finds 5 at rank 1 for user 1, 4 at rank 2 for user 0, and 3 only at rank 3 for user 2.
    behind = section.row("second").behind["any_reciprocal_rank"]
    assert behind.mean == pytest.approx(np.mean([1 - 1 / 2, 1 / 2 - 1, 1 / 2 - 0]))
    assert section.row("first").behind == {}


def test_slices_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    section = gathered_by_hand(True, monkeypatch)
    told = {(one.kind, one.name): (one.n, one.fewest, one.most, one.test_share) for one in section.slices}
    assert told == {
        ("users", "few"): (1, 1, 1, 2 / 5),
        ("users", "middle"): (1, 2, 2, 2 / 5),
        ("users", "many"): (1, 3, 3, 1 / 5),
        ("movies", "head"): (1, 8, 8, 0),
        ("movies", "middle"): (2, 4, 4, 1 / 5),
        ("movies", "tail"): (3, 0, 2, 4 / 5),
        ("genre", "Drama"): (1, 4, 4, 1 / 5),
        ("genre", "War"): (2, 1, 4, 2 / 5),
    }
    first = {(one.kind, one.name): one.row("first").figures for one in section.slices}
    assert first["users", "few"]["any_recall"].mean == 1 / 2
    assert first["users", "many"]["any_reciprocal_rank"].mean == 1 / 2
    # Of the middle only user 0 has a test movie, 2, at rank 1; of the tail, all have: 4 | 3, 5 | 3.
    assert first["movies", "middle"]["any_recall"].mean == 1
    assert first["movies", "tail"]["any_recall"].mean == pytest.approx(np.mean([0, 1 / 2, 1]))
    assert first["movies", "tail"]["any_recall_at_4"].mean == 1
    assert first["movies", "tail"]["relevant_recall"].mean == 1  # 5 of user 1, 3 of user 2
    assert first["movies", "tail"]["shown"].mean == pytest.approx(np.mean([1 / 2, 1 / 2, 1]))
    assert first["movies", "tail"]["coverage"].mean == pytest.approx(2 / 3)
    assert np.isnan(first["movies", "head"]["any_recall"].mean)
    assert first["genre", "War"]["shown"].mean == pytest.approx(np.mean([1 / 2, 1 / 2, 0]))
    assert first["genre", "War"]["coverage_at_4"].mean == 1
    # like_probability .42, .74 | .58, .9 | .58, of which the first, the fourth and the fifth are liked.
    assert first["users", "few"]["brier"].mean == pytest.approx((0.58**2 + 0.74**2) / 2)
    assert first["users", "few"]["auc"].mean == 0
    assert first["movies", "middle"]["absolute_difference"].mean == pytest.approx(0.58)
    assert "brier" not in first["genre", "War"]


@pytest.mark.parametrize("over_users", [True, False])
def test_the_reliability_curve_by_hand(over_users: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    row = gathered_by_hand(over_users, monkeypatch).row("first")
    assert [one.predicted for one in row.reliability] == pytest.approx([0.42, 0.58, 0.58, 0.74, 0.9])
    assert [one.observed.mean for one in row.reliability] == [1, 0, 1, 0, 1]
    assert [one.n for one in row.reliability] == [1] * 5
    assert np.flatnonzero(row.histogram).tolist() == [8, 11, 14, 17]  # a float32 .9 is a little less
    assert row.figures["absolute_difference"].mean == pytest.approx((0.58 + 0.58 + 0.42 + 0.74 + 0.1) / 5)


def test_users_who_have_told_as_much_are_not_divided(file: Path) -> None:
    (section,) = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0]).sections
    assert section.slices_of("users") == []
    assert [one.name for one in section.slices_of("movies")] == ["head", "middle", "tail"]
    assert sum(one.n for one in section.slices_of("movies")) == 30
    shares = [one.row("machine").figures["shown"].mean for one in section.slices_of("movies")]
    assert sum(shares) == pytest.approx(1)


def test_genres_and_titles_come_from_a_file_of_movies(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text(
        "movieId,title,genres\neven0,First (1990),Even|Odd\nodd1,Second,Odd\nother,Unrated,None\n"
    )
    movies = evaluation.read_movies(path, Settings())
    assert movies["even0"].title == "First"
    assert movies["even0"].genres == ("Even", "Odd")
    data = replace(evaluation.read_rows(file, Settings()), movies=movies)
    found = evaluated(data, "stratified", [0])
    genres = {one.name: one for one in found.sections[0].slices_of("genre")}
    assert {name: one.n for name, one in genres.items()} == {"Even": 1, "Odd": 2}
    assert 0 <= genres["Odd"].row("machine").figures["shown"].mean < 0.3
    films = [film for example in found.examples for film in example.given + example.shown]
    assert {film.title for film in films} <= {"", "First", "Second"}
    path.write_text("movieId,title\na/b,Slash\n")
    with pytest.raises(InvalidInput, match="line 2"):
        evaluation.read_movies(path, Settings())


def test_examples_are_the_machines_lists(file: Path) -> None:
    found = evaluated(evaluation.read_rows(file, Settings()), "stratified", [5, 6])
    assert (found.example_section, len(found.examples)) == ("", 3)
    for example in found.examples:
        assert (example.n_given, example.n_test, len(example.shown)) == (9, 3, 10)
        known = {film.movie_id for film in example.given}
        assert len(known) == 5
        assert not known & {film.movie_id for film in example.shown}
        finds = [film for film in example.shown if film.stars is not None]
        assert len(finds) <= 3
        assert all(0 < (film.like_probability or 0) < 1 for film in example.shown)
    assert any(film.stars for example in found.examples for film in example.shown)


def test_the_shape_of_the_data_is_told(file: Path) -> None:
    shape = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0]).shape
    assert (shape.n_users, shape.n_movies, shape.n_ratings, shape.of_user) == (60, 30, 720, (12, 12, 12))
    assert [stars for stars, _ in shape.stars] == ["1", "1.5", "2", "4", "4.5", "5"]
    assert sum(n for _, n in shape.stars) == 720


def test_without_the_package_there_is_no_row_of_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_als, "missing", "it is not here")
    row = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0]).sections[0].row("implicit ALS")
    assert (row.skipped, row.figures) == ("it is not here", {})


def test_the_rows_of_implicit_rank_and_fold_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("implicit", reason="the extra bench is not installed")
    rows = evaluation.read_rows(file, Settings()).rows
    scorer = implicit_als.ImplicitALS(rows, seed=0, n_factors=4, regularisation=1.0)
    scores = scorer.scores(rows)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scorer.scores(rows.rows([7, 3])), scores[[7, 3]], rtol=1e-4, atol=1e-5)
    (section,) = evaluated(evaluation.read_rows(file, Settings()), "stratified", [0]).sections
    assert section.row("implicit ALS").figures["any_ndcg"].mean > 0.1


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
    page = tmp_path / "page.html"
    given = ["evaluate", "--ratings", str(file), "--json", str(written), "--html", str(page), "--seeds", "2"]
    assert CliRunner().invoke(cli.app, [*given, "--protocol", "stratified"]).exit_code == 0
    printed = printed_on.export_text()
    assert "…" not in printed
    for name in NAMES:
        assert f"{name} " in printed
    assert "coverage" in printed
    assert "harmonium evaluate --ratings tastes.csv --protocol stratified --seeds 2" in page.read_text(
        "utf-8"
    )
    figures = json.loads(written.read_text())
    assert figures["protocol"] == "stratified"
    assert figures["seeds"] == [0, 1]
    assert figures["origin"]["command"].endswith("--seeds 2")
    (section,) = figures["sections"]
    assert set(section["rows"][0]["figures"]) == RANKING | JUDGING
    assert set(section["rows"][0]["figures"]["auc"]) == {"mean", "low", "high", "n"}


def test_a_place_that_cannot_be_written_is_refused_before_the_work(file: Path, tmp_path: Path) -> None:
    for option in ("--html", "--json"):
        for place in (tmp_path, tmp_path / "missing" / "page.html"):
            refused = CliRunner().invoke(cli.app, ["evaluate", "--ratings", str(file), option, str(place)])
            assert isinstance(refused.exception, InvalidInput)
            assert str(place) in str(refused.exception)

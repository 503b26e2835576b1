"""Figures of lists and probabilities against values worked out by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.catalogue.movies import MovieEntry
from app.evaluation import scoreboard
from app.evaluation.methods import Scores
from app.evaluation.protocols import Task
from app.evaluation.rating_file import RatingData
from app.evaluation.tables import Section
from app.learning.rating_matrix import RatingRows
from app.learning.vocabulary import Vocabulary


def test_the_interval_over_two_seeds_is_students() -> None:
    interval = scoreboard.over_seeds([0.4, 0.5])
    assert interval.mean == pytest.approx(0.45)
    assert interval.high - interval.mean == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert scoreboard.over_seeds([0.4]).high == np.inf


def fixed(*best: int) -> Scores:
    """Scores that rank these columns first, for every user."""

    def scores(rows: RatingRows) -> NDArray[np.float32]:
        result = np.zeros((rows.n_users, rows.n_movies), np.float32)
        result[:, list(best)] = np.arange(len(best), 0, -1)
        return result

    return scores


class Sure:
    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        return np.tile(np.linspace(0.1, 0.9, rows.n_movies), (rows.n_users, 1)).astype(np.float32)


def measured_by_hand(over_users: bool, monkeypatch: pytest.MonkeyPatch) -> Section:
    """Popularity classes of movies with 8, 4, 4, 2, 1 and 0 ratings.

    Of eight training users. 0 is head, 1 and 2 are middle.
    """
    monkeypatch.setattr(scoreboard, "DEPTHS", (2, 4))
    users = [*range(8), *range(4), *range(4), *range(2), 0]
    movies = [0] * 8 + [1] * 4 + [2] * 4 + [3] * 2 + [4]
    training = RatingRows.from_coordinates(users, movies, [5] * 19, 8, 6)
    profiles = RatingRows.from_coordinates([0, 1, 1, 2, 2, 2], [0, 0, 1, 0, 1, 2], [5] * 6, 3, 6)
    test = RatingRows.from_coordinates([0, 0, 1, 1, 2], [2, 4, 3, 5, 3], [5, 1, 2, 4, 4], 3, 6)
    genres: dict[str, tuple[str, ...] | None] = {"c": ("War", "Drama"), "e": ("War",), "f": None}
    movies_of = {
        movie: MovieEntry(movie, movie.upper(), 1999, of_movie) for movie, of_movie in genres.items()
    }
    data = RatingData(training, Vocabulary(list("abcdef")), np.zeros(19, np.int64), movies_of)
    task = Task("", profiles, test)
    board = scoreboard.Scoreboard(over_users)
    subsets = scoreboard.subsets_of(task, training, data.genres())
    board.of("first").add_lists(fixed(2, 5, 3, 4), task, subsets, training, 4.0)
    board.of("first").add_likes(Sure(), task, subsets, 3.0, 4.0)
    board.of("second").add_lists(fixed(5, 4, 3, 1), task, subsets, training, 4.0)
    board.count(task, subsets)
    return board.section("")


def test_lists_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first lists 2, 5 | 2, 5 | 5, 3 (user 2 rated 2), of 4: 2 5 3 4 | 2 5 3 4 | 5 3
    # 4 and nothing more.
    section = measured_by_hand(True, monkeypatch)
    figures = section.row("first").figures
    assert figures["coverage"].mean == pytest.approx(3 / 6)
    assert figures["coverage_at_4"].mean == pytest.approx(4 / 6)
    # 2 was rated by 4 of 8 users (1 bit), 3 by 2 (2 bits), 4 by 1 (3 bits), 5 by none,
    # as if by one.
    assert figures["novelty"].mean == pytest.approx(np.mean([2, 2, 2.5]))
    assert figures["novelty_at_4"].mean == pytest.approx(np.mean([9 / 4, 9 / 4, 8 / 3]))
    assert figures["popularity"].mean == pytest.approx(np.mean([4 / 16, 4 / 16, 2 / 16]))
    # Any: a hit at rank 1 of 2; one at 2 of 2; one at 2 of 1.
    assert figures["any_recall"].mean == pytest.approx(np.mean([1 / 2, 1 / 2, 1]))
    assert figures["any_reciprocal_rank"].mean == pytest.approx(np.mean([1, 1 / 2, 1 / 2]))
    assert figures["any_recall_at_4"].mean == 1
    # The second has 5 at rank 1 for user 1, 4 at rank 2 for user 0, and 3 only at rank
    # 3 for user 2.
    behind = section.row("second").behind["any_reciprocal_rank"]
    assert behind.mean == pytest.approx(np.mean([1 - 1 / 2, 1 / 2 - 1, 1 / 2 - 0]))
    assert section.row("first").behind == {}


def test_slices_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    section = measured_by_hand(True, monkeypatch)
    sizes = {
        (piece.kind, piece.name): (piece.n, piece.fewest, piece.most, piece.test_share)
        for piece in section.slices
    }
    assert sizes == {
        ("users", "few"): (1, 1, 1, 2 / 5),
        ("users", "middle"): (1, 2, 2, 2 / 5),
        ("users", "many"): (1, 3, 3, 1 / 5),
        ("movies", "head"): (1, 8, 8, 0),
        ("movies", "middle"): (2, 4, 4, 1 / 5),
        ("movies", "tail"): (3, 0, 2, 4 / 5),
        ("genre", "Drama"): (1, 4, 4, 1 / 5),
        ("genre", "War"): (2, 1, 4, 2 / 5),
    }
    first = {(piece.kind, piece.name): piece.row("first").figures for piece in section.slices}
    assert first["users", "few"]["any_recall"].mean == 1 / 2
    assert first["users", "many"]["any_reciprocal_rank"].mean == 1 / 2
    # Of the middle only user 0 has a test movie, 2, at rank 1; of the tail, all have: 4
    # | 3, 5 | 3.
    assert first["movies", "middle"]["any_recall"].mean == 1
    assert first["movies", "tail"]["any_recall"].mean == pytest.approx(np.mean([0, 1 / 2, 1]))
    assert first["movies", "tail"]["any_recall_at_4"].mean == 1
    assert first["movies", "tail"]["relevant_recall"].mean == 1  # 5 of user 1, 3 of user 2
    assert first["movies", "tail"]["shown"].mean == pytest.approx(np.mean([1 / 2, 1 / 2, 1]))
    assert first["movies", "tail"]["coverage"].mean == pytest.approx(2 / 3)
    assert np.isnan(first["movies", "head"]["any_recall"].mean)
    assert first["genre", "War"]["shown"].mean == pytest.approx(np.mean([1 / 2, 1 / 2, 0]))
    assert first["genre", "War"]["coverage_at_4"].mean == 1
    # like_probability .42, .74 | .58, .9 | .58, of which the first, the fourth and the
    # fifth are liked.
    assert first["users", "few"]["brier"].mean == pytest.approx((0.58**2 + 0.74**2) / 2)
    assert first["users", "few"]["auc"].mean == 0
    assert first["movies", "middle"]["absolute_difference"].mean == pytest.approx(0.58)
    assert "brier" not in first["genre", "War"]


@pytest.mark.parametrize("over_users", [True, False])
def test_the_reliability_curve_by_hand(over_users: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    row = measured_by_hand(over_users, monkeypatch).row("first")
    assert [piece.predicted for piece in row.reliability] == pytest.approx([0.42, 0.58, 0.58, 0.74, 0.9])
    assert [piece.observed.mean for piece in row.reliability] == [1, 0, 1, 0, 1]
    assert [piece.n for piece in row.reliability] == [1] * 5
    assert np.flatnonzero(row.histogram).tolist() == [8, 11, 14, 17]  # a float32 .9 is a little less
    assert row.figures["absolute_difference"].mean == pytest.approx((0.58 + 0.58 + 0.42 + 0.74 + 0.1) / 5)

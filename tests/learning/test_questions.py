"""Questions on a catalogue where it is known what tells most."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.crowd import Crowd
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.questions import questions
from tests.learning.tastes import DRAMA, N_MOVIES, ROMANCE, SCIENCE_FICTION


@pytest.fixture
def nobody() -> RatingRows:
    return RatingRows.single([], [], N_MOVIES)


def test_the_camps_films_tell_more_than_what_both_watch(trained: Machines, nobody: RatingRows) -> None:
    found = questions(trained, Crowd.of(trained), nobody, limit=N_MOVIES)
    assert sorted(one.column for one in found) == list(range(N_MOVIES))
    told = {one.column: one.information / one.seen_probability for one in found}
    of_camps = np.mean([told[int(column)] for column in [*SCIENCE_FICTION, *ROMANCE]])
    assert of_camps > 1.5 * np.mean([told[int(column)] for column in DRAMA])
    assert all(one.information >= -1e-6 for one in found)
    assert all(0 < one.seen_probability < 1 and 0 < one.like_probability < 1 for one in found)


def test_two_questions_at_once_are_not_the_same_question_twice(trained: Machines) -> None:
    wide = questions(trained, Crowd.of(trained), RatingRows.single([], [], N_MOVIES), limit=2)
    assert wide[0].column != wide[1].column


def test_what_is_rated_or_not_allowed_is_not_asked(trained: Machines) -> None:
    row = RatingRows.single([0, 25], [5, 1], N_MOVIES)
    allowed = np.zeros(N_MOVIES, np.bool_)
    allowed[[0, 3, 4, 25]] = True
    found = questions(trained, Crowd.of(trained), row, limit=10, allowed=allowed)
    assert sorted(one.column for one in found) == [3, 4]
    assert allowed[0]  # is not changed
    assert questions(trained, Crowd.of(trained), row, limit=10, allowed=np.zeros(N_MOVIES, np.bool_)) == []


def test_only_the_best_known_candidates_are_looked_at(trained: Machines, nobody: RatingRows) -> None:
    found = questions(trained, Crowd.of(trained), nobody, limit=5, candidates=5)
    most = np.argsort(-trained.popularity, kind="stable")[:5]
    assert sorted(one.column for one in found) == sorted(most.tolist())


def test_after_some_answers_another_answer_tells_less(trained: Machines, nobody: RatingRows) -> None:
    crowd = Crowd.of(trained)
    fan = RatingRows.single(SCIENCE_FICTION[:10], [5.0] * 10, N_MOVIES)
    first = questions(trained, crowd, nobody, limit=1)[0].information
    later = questions(trained, crowd, fan, limit=1)[0].information
    assert later < first

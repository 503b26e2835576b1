"""Questions on a catalogue where it is known what tells most."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.inference.popularity_prior import PopularityPrior
from app.learning.inference.questions import questions
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import DRAMA, N_MOVIES, ROMANCE, SCIENCE_FICTION


@pytest.fixture
def empty() -> RatingRows:
    return RatingRows.single([], [], N_MOVIES)


def test_the_camps_films_tell_more_than_what_both_watch(trained: TrainedModel, empty: RatingRows) -> None:
    result = questions(trained, PopularityPrior.of(trained), empty, limit=N_MOVIES)
    assert sorted(question.column for question in result) == list(range(N_MOVIES))
    information = {question.column: question.information / question.seen_probability for question in result}
    of_camps = np.mean([information[int(column)] for column in [*SCIENCE_FICTION, *ROMANCE]])
    assert of_camps > 1.5 * np.mean([information[int(column)] for column in DRAMA])
    assert all(question.information >= -1e-6 for question in result)
    assert all(0 < question.seen_probability < 1 and 0 < question.like_probability < 1 for question in result)


def test_two_questions_at_once_are_not_the_same_question_twice(trained: TrainedModel) -> None:
    wide = questions(trained, PopularityPrior.of(trained), RatingRows.single([], [], N_MOVIES), limit=2)
    assert wide[0].column != wide[1].column


def test_what_is_rated_or_not_allowed_is_no_question(trained: TrainedModel) -> None:
    row = RatingRows.single([0, 25], [5, 1], N_MOVIES)
    allowed = np.zeros(N_MOVIES, np.bool_)
    allowed[[0, 3, 4, 25]] = True
    result = questions(trained, PopularityPrior.of(trained), row, limit=10, allowed=allowed)
    assert sorted(question.column for question in result) == [3, 4]
    assert allowed[0]  # is not changed
    assert (
        questions(trained, PopularityPrior.of(trained), row, limit=10, allowed=np.zeros(N_MOVIES, np.bool_))
        == []
    )


def test_only_the_best_known_candidates_are_looked_at(trained: TrainedModel, empty: RatingRows) -> None:
    result = questions(trained, PopularityPrior.of(trained), empty, limit=5, candidates=5)
    most = np.argsort(-trained.popularity, kind="stable")[:5]
    assert sorted(question.column for question in result) == sorted(most.tolist())


def test_after_some_answers_another_answer_tells_less(trained: TrainedModel, empty: RatingRows) -> None:
    popularity_prior = PopularityPrior.of(trained)
    fan = RatingRows.single(SCIENCE_FICTION[:10], [5.0] * 10, N_MOVIES)
    first = questions(trained, popularity_prior, empty, limit=1)[0].information
    later = questions(trained, popularity_prior, fan, limit=1)[0].information
    assert later < first

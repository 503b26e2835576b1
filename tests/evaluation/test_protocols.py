"""The protocols: sizes of the tasks, and no rating in both parts."""

from itertools import pairwise

import numpy as np
import pytest

from app.errors import InvalidInput
from app.evaluation.protocols import ProtocolName, trial
from app.evaluation.rating_file import RatingData
from app.learning.rating_matrix import RatingRows
from tests.evaluation.ratings import long_rows, tastes


def cells(rows: RatingRows) -> set[int]:
    return set((rows.users * rows.n_movies + rows.indices).tolist())


@pytest.mark.parametrize("protocol", ["stratified", "temporal", "new-users"])
def test_no_test_rating_is_in_a_profile(protocol: ProtocolName) -> None:
    for task in trial(long_rows(), protocol, 3).tasks:
        assert task.test.n_ratings
        assert not cells(task.profiles) & cells(task.test)


def test_stratified_tests_a_quarter_of_every_user() -> None:
    split = trial(tastes(), "stratified", 7)
    (task,) = split.tasks
    assert (task.title, task.test.n_users, task.test.n_ratings, split.training.n_ratings) == (
        "",
        60,
        180,
        540,
    )
    assert cells(task.profiles) == cells(split.training)


def test_the_newest_ratings_test_and_users_without_older_ones_stand_apart() -> None:
    data = long_rows()
    (unknown,) = trial(data, "temporal", 0).tasks  # 600 newest ratings: 20 users, none of them known
    assert (unknown.title, unknown.test.n_users, unknown.test.n_ratings) == (
        "without training ratings",
        20,
        600,
    )
    order = np.random.default_rng(0).permutation(data.rated_at.size)
    (known,) = trial(RatingData(data.rows, data.vocabulary, data.rated_at[order]), "temporal", 0).tasks
    assert (known.title, known.test.n_ratings) == ("with training ratings", 600)


def test_new_users_are_the_same_people_at_every_number_of_ratings() -> None:
    tasks = trial(long_rows(), "new-users", 0).tasks
    titles = ["1 rating", "3 ratings", "5 ratings", "10 ratings", "20 ratings", "half of their ratings"]
    assert [task.title for task in tasks] == titles
    assert [task.test.n_users for task in tasks] == [10] * 6
    assert [task.test.n_ratings for task in tasks] == [290, 270, 250, 200, 100, 150]
    for shorter, longer in pairwise(tasks[:5]):
        assert cells(shorter.profiles) < cells(longer.profiles)


def test_ratings_that_do_not_allow_a_protocol_are_refused() -> None:
    with pytest.raises(InvalidInput, match="time of every rating"):
        trial(long_rows(times=False), "temporal", 0)
    with pytest.raises(InvalidInput, match="25 ratings"):
        trial(tastes(), "new-users", 0)

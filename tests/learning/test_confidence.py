"""Confidence rises with evidence about the user and about the movie, and is the same every time."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from app.learning.confidence import confidence
from app.learning.crowd import Crowd
from app.learning.folded_in import FoldedIn
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION

ASKED = SCIENCE_FICTION[12:]


def of(machines: Machines, row: RatingRows, columns: NDArray[np.int64] = ASKED) -> NDArray[np.float32]:
    scores = machines.blended_scores(row)[0]
    return confidence(FoldedIn.of(machines, row), Crowd.of(machines), scores, columns)


def fan(n: int) -> RatingRows:
    return RatingRows.single(SCIENCE_FICTION[:n], np.full(n, 5.0), N_MOVIES)


def test_more_agreeing_ratings_give_more_confidence(trained: Machines) -> None:
    means = [float(of(trained, fan(n)).mean()) for n in (0, 3, 12)]
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.15


def test_ratings_that_disagree_give_less_than_as_many_that_agree(trained: Machines) -> None:
    torn = RatingRows.single([*SCIENCE_FICTION[:6], *ROMANCE[:6]], np.full(12, 5.0), N_MOVIES)
    assert of(trained, torn).mean() < of(trained, fan(12)).mean() - 0.05


def _with(array: NDArray[np.float32], row: int, like: int) -> NDArray[np.float32]:
    """A copy in which one row is the same as another."""
    copy = array.copy()
    copy[row] = copy[like]
    return copy


def test_a_movie_that_few_have_rated_has_less(trained: Machines) -> None:
    obscure, known = 13, 14
    popularity, likes = trained.popularity.copy(), trained.likes.copy()
    weights, bias = trained.rbm.weights.copy(), trained.rbm.visible_bias.copy()
    # The same movie twice, but for what it was learned from.
    for block in range(0, trained.rbm.n_visible, N_MOVIES):
        weights[block + obscure], bias[block + obscure] = weights[block + known], bias[block + known]
    linear = dataclasses.replace(
        trained.linear,
        **{
            name: _with(getattr(trained.linear, name), obscure, known)
            for name in ("weights", "variance", "leading_variance")
        },
    )
    weighted = dataclasses.replace(trained.weighted, weights=_with(trained.weighted.weights, obscure, known))
    judging, judging_bias = trained.judge.rbm.weights.copy(), trained.judge.rbm.visible_bias.copy()
    for block in (0, N_MOVIES):
        judging[block + obscure] = judging[block + known]
        judging_bias[block + obscure] = judging_bias[block + known]
    judge = dataclasses.replace(
        trained.judge,
        rbm=dataclasses.replace(trained.judge.rbm, weights=judging, visible_bias=judging_bias),
    )
    popularity[obscure], likes[obscure] = 2, 1
    twins = dataclasses.replace(
        trained,
        popularity=popularity,
        likes=likes,
        rbm=dataclasses.replace(trained.rbm, weights=weights, visible_bias=bias),
        linear=linear,
        weighted=weighted,
        judge=judge,
    )
    found = of(twins, fan(8), np.array([obscure, known]))
    assert found[0] < found[1] - 0.01


def test_it_is_between_0_and_1_the_same_every_time_and_whatever_else_is_asked(trained: Machines) -> None:
    everything = of(trained, fan(3), np.arange(N_MOVIES))
    assert ((everything > 0) & (everything < 1)).all()
    np.testing.assert_array_equal(everything, of(trained, fan(3), np.arange(N_MOVIES)))
    np.testing.assert_allclose(everything[ASKED], of(trained, fan(3)), rtol=1e-4)
    assert of(trained, fan(3), np.empty(0, np.int64)).size == 0


def test_popularity_may_weigh_nothing_or_much(trained: Machines) -> None:
    means = []
    for ratings in (0.0, 2.0, 30.5):
        configuration = dataclasses.replace(trained.configuration, popularity_ratings=ratings)
        machines = dataclasses.replace(trained, configuration=configuration)
        row = fan(3)
        np.testing.assert_allclose(
            FoldedIn.of(machines, row).blended_scores(), machines.blended_scores(row)[0], rtol=1e-4, atol=1e-4
        )
        for n in (0, 1):
            found = of(machines, fan(n))
            assert ((found > 0) & (found < 1)).all()
        np.testing.assert_array_equal(machines.blended_scores(fan(0))[0], machines.popularity_scores())
        means.append(machines.blended_scores(row)[0, ASKED].mean())
    assert means[0] > means[1] > means[2]  # the less popularity weighs, the more the fan's own taste


def test_long_profiles_are_measured_on_a_part_of_them(trained: Machines) -> None:
    long = RatingRows.single(np.arange(50), np.where(np.arange(50) < 20, 5.0, 2.0), N_MOVIES)
    assert 0.5 < float(of(trained, long, np.arange(50, 60)).mean()) < 1

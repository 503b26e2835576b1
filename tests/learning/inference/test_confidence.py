"""Confidence rises with evidence about the user and the movie, and is reproducible."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from app.learning.inference.confidence import confidence
from app.learning.inference.popularity_prior import PopularityPrior
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION

COLUMNS = SCIENCE_FICTION[12:]


def of(model: TrainedModel, row: RatingRows, columns: NDArray[np.int64] = COLUMNS) -> NDArray[np.float32]:
    scores = model.scores(row)[0]
    return confidence(model, PopularityPrior.of(model), row, scores, columns)


def fan(n: int) -> RatingRows:
    return RatingRows.single(SCIENCE_FICTION[:n], np.full(n, 5.0), N_MOVIES)


def test_more_agreeing_ratings_give_more_confidence(trained: TrainedModel) -> None:
    means = [float(of(trained, fan(n)).mean()) for n in (0, 3, 12)]
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.15


def test_ratings_that_disagree_give_less_than_as_many_that_agree(trained: TrainedModel) -> None:
    torn = RatingRows.single([*SCIENCE_FICTION[:6], *ROMANCE[:6]], np.full(12, 5.0), N_MOVIES)
    assert of(trained, torn).mean() < of(trained, fan(12)).mean() - 0.05


def _with(array: NDArray[np.float32], row: int, like: int) -> NDArray[np.float32]:
    """A copy in which one row is the same as another."""
    copy = array.copy()
    copy[row] = copy[like]
    return copy


def test_a_movie_that_few_have_rated_has_less(trained: TrainedModel) -> None:
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
    like_weights = trained.like_model.rbm.weights.copy()
    like_bias = trained.like_model.rbm.visible_bias.copy()
    for block in (0, N_MOVIES):
        like_weights[block + obscure] = like_weights[block + known]
        like_bias[block + obscure] = like_bias[block + known]
    like_model = dataclasses.replace(
        trained.like_model,
        rbm=dataclasses.replace(trained.like_model.rbm, weights=like_weights, visible_bias=like_bias),
    )
    popularity[obscure], likes[obscure] = 2, 1
    twins = dataclasses.replace(
        trained,
        popularity=popularity,
        likes=likes,
        rbm=dataclasses.replace(trained.rbm, weights=weights, visible_bias=bias),
        linear=linear,
        weighted=weighted,
        like_model=like_model,
    )
    result = of(twins, fan(8), np.array([obscure, known]))
    assert result[0] < result[1] - 0.01


def test_it_is_between_0_and_1_equal_every_time_and_for_any_columns(trained: TrainedModel) -> None:
    everything = of(trained, fan(3), np.arange(N_MOVIES))
    assert ((everything > 0) & (everything < 1)).all()
    np.testing.assert_array_equal(everything, of(trained, fan(3), np.arange(N_MOVIES)))
    np.testing.assert_allclose(everything[COLUMNS], of(trained, fan(3)), rtol=1e-4)
    assert of(trained, fan(3), np.empty(0, np.int64)).size == 0


def test_popularity_may_weigh_nothing_or_much(trained: TrainedModel) -> None:
    means = []
    for ratings in (0.0, 2.0, 30.5):
        configuration = dataclasses.replace(trained.configuration, popularity_ratings=ratings)
        model = dataclasses.replace(trained, configuration=configuration)
        row = fan(3)
        for n in (0, 1):
            result = of(model, fan(n))
            assert ((result > 0) & (result < 1)).all()
        np.testing.assert_array_equal(model.scores(fan(0))[0], model.popularity_scores)
        means.append(model.scores(row)[0, COLUMNS].mean())
    assert means[0] > means[1] > means[2]  # the less popularity weighs, the more the fan's own taste


def test_long_profiles_are_measured_on_a_part_of_them(trained: TrainedModel) -> None:
    long = RatingRows.single(np.arange(50), np.where(np.arange(50) < 20, 5.0, 2.0), N_MOVIES)
    assert 0.5 < float(of(trained, long, np.arange(50, 60)).mean()) < 1

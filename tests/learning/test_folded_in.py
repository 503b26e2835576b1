"""A row's scores do not depend on its batch, whatever parts the model has."""

from __future__ import annotations

import numpy as np
import pytest

from app.learning.configuration import TrainingConfiguration
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import N_MOVIES, finish, two_camps

COLUMNS = np.array([10, 0, 30, 45])  # one of them is rated
RATED, STARS = [0, 3, 7, 21, 25, 50], [5, 5, 4, 1, 2, 3]


@pytest.fixture(
    scope="module",
    params=[
        {"design": "rated"},
        {"design": "rated", "linear_units": 0},
        {"design": "rated", "weighted_units": 0, "like_strength": 0},
        {"design": "joint", "linear_units": 8},
        {"design": "masked"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def model(request: pytest.FixtureRequest) -> TrainedModel:
    return finish(two_camps(), TrainingConfiguration(epochs=2, **request.param))[0]


def rated(n: int, without: int | None = None) -> RatingRows:
    places = [place for place in range(n) if place != without]
    return RatingRows.single([RATED[place] for place in places], [STARS[place] for place in places], N_MOVIES)


def stacked(rows: list[RatingRows]) -> RatingRows:
    lengths = [row.n_ratings for row in rows]
    return RatingRows(
        np.concatenate(([0], np.cumsum(lengths))),
        np.concatenate([row.indices for row in rows]),
        np.concatenate([row.stars for row in rows]),
        N_MOVIES,
    )


@pytest.mark.parametrize(
    "rows",
    [
        [rated(6), *(rated(6, without) for without in range(6))],
        [rated(1), rated(1, 0)],
        [rated(6), rated(2), rated(0), rated(3, 0)],
        [two_camps().rows([user]) for user in range(40)] + [rated(2)],
    ],
    ids=["each left out", "the only rating left out", "parts", "many users"],
)
def test_a_row_scores_alone_as_in_a_batch(model: TrainedModel, rows: list[RatingRows]) -> None:
    folded = model.fold_in(stacked(rows))
    of_all, of_some, likes = folded.scores(), folded.scores(COLUMNS), folded.like_probability(COLUMNS)
    for place, row in enumerate(rows):
        alone = model.scores(row)[0]
        np.testing.assert_allclose(of_all[place], alone, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(of_some[place], alone[COLUMNS], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(likes[place], model.like_probability(row, COLUMNS)[0], rtol=1e-4)


def test_a_row_that_stands_for_more_ratings_differs_from_popularity_more(model: TrainedModel) -> None:
    row = rated(4)
    np.testing.assert_array_equal(model.fold_in(row, np.array([4])).scores(), model.scores(row))
    distances = [
        float(np.abs(model.fold_in(row, np.array([length])).scores() - model.popularity_scores).mean())
        for length in (1, 4, 16)
    ]
    assert distances == sorted(distances)

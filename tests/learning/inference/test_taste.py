"""Traits of a user with an obvious taste, of one without, and without ratings."""

from __future__ import annotations

import numpy as np

from app.learning.inference.popularity_prior import PopularityPrior
from app.learning.inference.taste import LEAST_DIFFERENCE, LEAST_STABILITY, traits
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION


def test_a_fan_is_distinguished_by_their_own_genre(trained: TrainedModel) -> None:
    popularity_prior = PopularityPrior.of(trained)
    for loved, hated in ((SCIENCE_FICTION, ROMANCE), (ROMANCE, SCIENCE_FICTION)):
        columns = [*loved[:10], *hated[:2]]
        row = RatingRows.single(columns, [5.0] * 10 + [1.0] * 2, N_MOVIES)
        result = traits(trained, popularity_prior, row, limit=3, n_movies_each=10)
        assert result
        for trait in result:
            assert abs(trait.activity - trait.usual_activity) >= LEAST_DIFFERENCE
            assert trait.stability >= LEAST_STABILITY
            assert np.isin(trait.columns, loved).sum() >= 8
            assert (np.diff(trait.effects) <= 0).all()
            assert (trait.effects > 0).all()
        differences = [abs(trait.activity - trait.usual_activity) for trait in result]
        assert differences == sorted(differences, reverse=True)


def test_equal_ratings_have_equal_traits(trained: TrainedModel) -> None:
    row = RatingRows.single(SCIENCE_FICTION[:8], [5.0] * 8, N_MOVIES)
    first, second = (
        traits(trained, PopularityPrior.of(trained), row, limit=5, n_movies_each=5) for _ in range(2)
    )
    assert [(trait.unit, trait.stability) for trait in first] == [
        (trait.unit, trait.stability) for trait in second
    ]


def test_no_ratings_have_no_taste_and_an_average_user_has_little(trained: TrainedModel) -> None:
    popularity_prior = PopularityPrior.of(trained)
    assert (
        traits(trained, popularity_prior, RatingRows.single([], [], N_MOVIES), limit=5, n_movies_each=5) == []
    )
    fans = traits(
        trained,
        popularity_prior,
        RatingRows.single(SCIENCE_FICTION[:10], [5.0] * 10, N_MOVIES),
        limit=20,
        n_movies_each=5,
    )
    everybody = popularity_prior.rows(np.random.default_rng(3), 20, 10)
    of_the_crowd = [
        len(traits(trained, popularity_prior, everybody.rows([user]), limit=20, n_movies_each=5))
        for user in range(20)
    ]
    assert np.mean(of_the_crowd) < len(fans) / 2

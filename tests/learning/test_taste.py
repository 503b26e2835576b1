"""Traits of a user with an obvious taste, of one without, and of nobody."""

from __future__ import annotations

import numpy as np

from app.learning.crowd import Crowd
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.taste import LEAST_DIFFERENCE, LEAST_STABILITY, traits
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION


def test_a_fan_is_told_from_others_by_what_they_are_a_fan_of(trained: Machines) -> None:
    crowd = Crowd.of(trained)
    for loved, hated in ((SCIENCE_FICTION, ROMANCE), (ROMANCE, SCIENCE_FICTION)):
        columns = [*loved[:10], *hated[:2]]
        row = RatingRows.single(columns, [5.0] * 10 + [1.0] * 2, N_MOVIES)
        found = traits(trained, crowd, row, limit=3, n_movies_each=10)
        assert found
        for one in found:
            assert abs(one.activity - one.usual_activity) >= LEAST_DIFFERENCE
            assert one.stability >= LEAST_STABILITY
            assert np.isin(one.columns, loved).sum() >= 8
            assert (np.diff(one.effects) <= 0).all()
            assert (one.effects > 0).all()
        differences = [abs(one.activity - one.usual_activity) for one in found]
        assert differences == sorted(differences, reverse=True)


def test_equal_ratings_have_equal_traits(trained: Machines) -> None:
    row = RatingRows.single(SCIENCE_FICTION[:8], [5.0] * 8, N_MOVIES)
    first, second = (traits(trained, Crowd.of(trained), row, limit=5, n_movies_each=5) for _ in range(2))
    assert [(one.unit, one.stability) for one in first] == [(one.unit, one.stability) for one in second]


def test_nobody_has_no_taste_and_one_of_the_crowd_has_little(trained: Machines) -> None:
    crowd = Crowd.of(trained)
    assert traits(trained, crowd, RatingRows.single([], [], N_MOVIES), limit=5, n_movies_each=5) == []
    fans = traits(
        trained,
        crowd,
        RatingRows.single(SCIENCE_FICTION[:10], [5.0] * 10, N_MOVIES),
        limit=20,
        n_movies_each=5,
    )
    everybody = crowd.rows(np.random.default_rng(3), 20, 10)
    of_the_crowd = [
        len(traits(trained, crowd, everybody.rows([user]), limit=20, n_movies_each=5)) for user in range(20)
    ]
    assert np.mean(of_the_crowd) < len(fans) / 2

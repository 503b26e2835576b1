"""Reasons are exact: each effect is what scoring anew without that rating gives."""

import numpy as np
import pytest

from app.learning.inference import explanation
from app.learning.inference.explanation import effects
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION

RATED, STARS = [0, 3, 7, 21, 25, 50], [5, 5, 4, 1, 2, 3]
COLUMNS = np.array([10, 30, 45])


@pytest.fixture
def fan() -> RatingRows:
    """Likes three science-fiction films, dislikes two romances, has seen a drama."""
    return RatingRows.single(RATED, STARS, N_MOVIES)


def test_an_effect_is_the_change_of_the_score_when_the_rating_is_taken_away(
    trained: TrainedModel, fan: RatingRows
) -> None:
    result = effects(trained, fan, COLUMNS)
    assert result.columns.tolist() == RATED
    with_all = trained.scores(fan)[0, COLUMNS]
    for place in range(len(RATED)):
        rest = RatingRows.single(np.delete(RATED, place), np.delete(STARS, place), N_MOVIES)
        without = trained.scores(rest)[0, COLUMNS]
        np.testing.assert_allclose(result.change[place], with_all - without, atol=1e-5)
    assert np.abs(result.change).max() > 0.05


def test_loved_science_fiction_speaks_for_science_fiction_and_not_for_romance(
    trained: TrainedModel, fan: RatingRows
) -> None:
    result = effects(trained, fan, np.concatenate([SCIENCE_FICTION[10:], ROMANCE[10:]]))
    for_own, for_other = result.change[:3, :10].mean(), result.change[:3, 10:].mean()
    assert for_own > 0
    assert for_own > for_other + 0.1


def test_the_only_rating_is_what_lifts_a_list_above_popularity(trained: TrainedModel) -> None:
    one = RatingRows.single([4], [5], N_MOVIES)
    result = effects(trained, one, COLUMNS)
    expected = trained.scores(one)[0, COLUMNS] - trained.popularity_scores[COLUMNS]
    np.testing.assert_allclose(result.change[0], expected, atol=1e-5)


def test_of_a_very_long_profile_the_likest_ratings_are_tried_and_stay_exact(
    trained: TrainedModel, fan: RatingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = effects(trained, fan, COLUMNS)
    monkeypatch.setattr(explanation, "MOST_TRIED", 4)
    some = effects(trained, fan, COLUMNS)
    assert len(some.columns) == 4
    kept = np.isin(everything.columns, some.columns)
    np.testing.assert_allclose(some.change, everything.change[kept], atol=1e-5)

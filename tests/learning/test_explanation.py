"""Reasons are exact: each effect is what scoring anew without that rating gives."""

import numpy as np
import pytest

from app.learning import explanation
from app.learning.explanation import effects
from app.learning.folded_in import FoldedIn
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION

RATED, STARS = [0, 3, 7, 21, 25, 50], [5, 5, 4, 1, 2, 3]
ASKED = np.array([10, 30, 45])


@pytest.fixture
def fan() -> RatingRows:
    """Likes three science-fiction films, dislikes two romances, and has seen a drama."""
    return RatingRows.single(RATED, STARS, N_MOVIES)


def test_an_effect_is_the_change_of_the_score_when_the_rating_is_taken_away(
    trained: Machines, fan: RatingRows
) -> None:
    found = effects(FoldedIn.of(trained, fan), ASKED)
    assert found.columns.tolist() == RATED
    with_all = trained.blended_scores(fan)[0, ASKED]
    for place in range(len(RATED)):
        rest = RatingRows.single(np.delete(RATED, place), np.delete(STARS, place), N_MOVIES)
        without = trained.blended_scores(rest)[0, ASKED]
        np.testing.assert_allclose(found.change[place], with_all - without, atol=1e-5)
    assert np.abs(found.change).max() > 0.05


def test_loved_science_fiction_speaks_for_science_fiction_and_not_for_romance(
    trained: Machines, fan: RatingRows
) -> None:
    found = effects(FoldedIn.of(trained, fan), np.concatenate([SCIENCE_FICTION[10:], ROMANCE[10:]]))
    for_own, for_other = found.change[:3, :10].mean(), found.change[:3, 10:].mean()
    assert for_own > 0
    assert for_own > for_other + 0.1


def test_the_only_rating_is_what_lifts_a_list_above_popularity(trained: Machines) -> None:
    one = RatingRows.single([4], [5], N_MOVIES)
    found = effects(FoldedIn.of(trained, one), ASKED)
    expected = trained.blended_scores(one)[0, ASKED] - trained.popularity_scores()[ASKED]
    np.testing.assert_allclose(found.change[0], expected, atol=1e-5)


def test_of_a_very_long_profile_the_likest_ratings_are_tried_and_stay_exact(
    trained: Machines, fan: RatingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = effects(FoldedIn.of(trained, fan), ASKED)
    monkeypatch.setattr(explanation, "MOST_TRIED", 4)
    some = effects(FoldedIn.of(trained, fan), ASKED)
    assert len(some.columns) == 4
    kept = np.isin(everything.columns, some.columns)
    np.testing.assert_allclose(some.change, everything.change[kept], atol=1e-5)

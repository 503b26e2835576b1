"""One list for several people."""

import numpy as np
import pytest
from sqlalchemy.orm import Session

from app.model_versions.serving import LoadedVersion
from app.ratings import read as ratings
from app.recommendations import lists
from app.recommendations.groups import Agreement, Member, for_group, in_agreement
from app.recommendations.lists import ListQuery
from app.recommendations.predictions import predictions

AGREEMENTS: tuple[Agreement, ...] = ("average", "least_misery")
EVEN = Member(stars={f"even{n}": 5.0 for n in range(6)})
ODD = Member(stars={f"odd{n}": 5.0 for n in range(6)})


def test_scores_are_standardised_before_they_are_put_together() -> None:
    # The second member says the opposite, a hundred times as loud; the third of the
    # allowed suits both.
    scores = np.array([[3.0, 1.0, 2.4, 9.0], [-100.0, 100.0, 60.0, 900.0]])
    allowed = np.array([True, True, True, False])
    standard = np.array([(row - row[:3].mean()) / row[:3].std() for row in scores])
    np.testing.assert_allclose(in_agreement(scores, allowed, "average"), standard.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(in_agreement(scores, allowed, "least_misery"), standard.min(axis=0), rtol=1e-5)
    assert in_agreement(scores, allowed, "least_misery")[:3].argmax() == 2


def test_where_nothing_differs_or_nothing_is_allowed_scores_stay_finite() -> None:
    assert np.isfinite(in_agreement(np.ones((2, 3)), np.array([True, False, False]), "average")).all()
    assert np.isfinite(in_agreement(np.eye(2, 3), np.zeros(3, bool), "least_misery")).all()


@pytest.mark.parametrize("agreement", AGREEMENTS)
def test_a_group_of_one_gets_their_own_list(
    session: Session, loaded: LoadedVersion, agreement: Agreement
) -> None:
    query = ListQuery(limit=8, year_from=1983)
    group = for_group(session, loaded, [Member("even0")], agreement, query)
    alone = lists.for_user(session, loaded, "even0", query)
    assert [item.movie_id for item in group.items] == [item.movie_id for item in alone.items]
    assert [item.like_probability for item in group.items] == pytest.approx(
        [item.like_probability for item in alone.items], abs=1e-6
    )
    assert group.next_cursor == alone.next_cursor
    assert (group.members[0].user_id, group.members[0].strategy) == ("even0", "rbm")


def test_a_mixed_group_sees_what_none_has_rated_with_everybodys_probability(
    session: Session, loaded: LoadedVersion
) -> None:
    members = [Member("even0"), ODD, Member("nobody"), Member(stars={"unheard": 4.0})]
    rated = {rating.movie_id for rating in ratings.of_user(session, "even0")} | set(ODD.stars)
    for agreement in AGREEMENTS:
        page = for_group(session, loaded, members, agreement, ListQuery(limit=100))
        assert page.strategy == agreement
        assert [member.strategy for member in page.members] == ["rbm", "rbm", "popular", "popular"]
        assert page.members[3].ignored_movie_ids == ["unheard"]
        assert not rated & {item.movie_id for item in page.items}
        scores = [item.score for item in page.items]
        assert scores == sorted(scores, reverse=True)
        for item in page.items:
            likings = [
                member.like_probability for member in item.members if member.like_probability is not None
            ]
            assert len(likings) == 4
            together = np.mean(likings) if agreement == "average" else min(likings)
            assert item.like_probability == pytest.approx(together, abs=1e-6)
        (first, *_) = page.items
        (predicted,) = predictions(loaded, ODD.stars, [first.movie_id]).items
        assert first.members[1].like_probability == pytest.approx(predicted.like_probability, abs=1e-6)
    everything = for_group(session, loaded, members, "average", ListQuery(limit=100, include_rated=True))
    assert rated <= {item.movie_id for item in everything.items}


def test_two_camps_meet_in_the_middle_where_neither_is_unhappy(
    session: Session, loaded: LoadedVersion
) -> None:
    """Three fans of the even outvote one of the odd on average, not by least misery."""
    members = [EVEN, EVEN, EVEN, ODD]
    items_by = {
        agreement: for_group(session, loaded, members, agreement, ListQuery(limit=6)).items
        for agreement in AGREEMENTS
    }
    n_even = {
        agreement: sum(item.movie_id.startswith("even") for item in items)
        for agreement, items in items_by.items()
    }
    assert n_even["average"] == 6
    assert n_even["least_misery"] < 6


def test_before_the_first_version_a_group_sees_what_is_rated_most(session: Session, tastes: None) -> None:
    page = for_group(session, None, [EVEN, ODD], "average", ListQuery(limit=4))
    assert (page.model_version, len(page.items)) == (None, 4)
    assert not {*EVEN.stars, *ODD.stars} & {item.movie_id for item in page.items}
    assert [member.like_probability for member in page.items[0].members] == [None, None]
    more = for_group(session, None, [EVEN, ODD], "average", ListQuery(limit=100, cursor=page.next_cursor))
    assert not {item.movie_id for item in page.items} & {item.movie_id for item in more.items}
    assert len(more.items) == 30 - 12 - 4

"""What a list would be with other ratings, and what of it changed."""

import pytest
from sqlalchemy.orm import Session

from app import ratings, recommendations
from app.errors import InvalidInput
from app.model_registry import Serving
from app.recommendations import RankedMovie, RecommendationList, Wanted
from app.recommendations.comparisons import Change, compared


def listed(*movie_ids: str) -> RecommendationList:
    items = [
        RankedMovie(rank, movie_id, movie_id.upper(), None, [], 0.0, None)
        for rank, movie_id in enumerate(movie_ids, start=1)
    ]
    return RecommendationList("ann", 1, "rbm", items=items)


def test_what_entered_left_and_moved_is_told_by_rank() -> None:
    changes = compared(listed("a", "b", "c", "d"), listed("b", "a", "e", "d"))
    assert changes.entered == [Change("e", "E", 3, None)]
    assert changes.left == [Change("c", "C", None, 3)]
    assert changes.moved == [Change("b", "B", 1, 2), Change("a", "A", 2, 1)]


def test_equal_lists_have_no_changes() -> None:
    changes = compared(listed("a", "b"), listed("a", "b"))
    assert (changes.entered, changes.left, changes.moved) == ([], [], [])


def test_a_what_if_is_the_list_of_the_changed_ratings_and_stores_nothing(
    session: Session, serving: Serving
) -> None:
    wanted = Wanted(limit=8)
    stored = {one.movie_id: one.stars for one in ratings.of_user(session, "even0")}
    removed = [movie_id for movie_id in stored if movie_id.startswith("even")][:6]
    given = {f"odd{n}": 5.0 for n in range(10)}
    found, changes = recommendations.what_if(session, serving, "even0", given, removed, wanted)

    told = {one: stars for one, stars in stored.items() if one not in removed} | given
    expected = recommendations.for_ratings(session, serving, told, wanted, user_id="even0")
    assert found == expected
    assert {one.movie_id: one.stars for one in ratings.of_user(session, "even0")} == stored

    before = recommendations.for_user(session, serving, "even0", wanted)
    assert changes is not None
    were, are = ({item.movie_id for item in one.items} for one in (before, found))
    assert {one.movie_id for one in changes.entered} == are - were
    assert {one.movie_id for one in changes.left} == were - are
    assert changes.entered


def test_with_nothing_changed_nothing_changes(session: Session, serving: Serving) -> None:
    found, changes = recommendations.what_if(session, serving, "even0", {}, [], Wanted())
    assert found == recommendations.for_user(session, serving, "even0", Wanted())
    assert changes == recommendations.Changes([], [], [])
    _, later = recommendations.what_if(session, serving, "even0", {}, [], Wanted(cursor=found.next_cursor))
    assert later is None


def test_a_rating_that_is_not_there_cannot_be_removed(session: Session, serving: Serving) -> None:
    rated = ratings.of_user(session, "even0")[0].movie_id
    with pytest.raises(InvalidInput) as caught:
        recommendations.what_if(session, serving, "even0", {}, [rated, "never"], Wanted())
    assert [one.location for one in caught.value.errors] == ["remove[1]"]

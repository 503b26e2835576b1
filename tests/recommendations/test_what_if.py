"""What a list would be with other ratings, and what of it changed."""

import pytest
from sqlalchemy.orm import Session

from app.errors import InvalidInput
from app.model_versions.serving import LoadedVersion
from app.ratings import read as ratings
from app.recommendations import lists
from app.recommendations.lists import ListQuery, RankedMovie, RecommendationList
from app.recommendations.what_if import ComparedList, ListChanges, RankChange, compared, what_if


def listed(*movie_ids: str) -> RecommendationList:
    items = [
        RankedMovie(rank, movie_id, movie_id.upper(), None, [], 0.0, None)
        for rank, movie_id in enumerate(movie_ids, start=1)
    ]
    return RecommendationList("ann", 1, "rbm", items=items)


def test_what_entered_left_and_moved_has_its_ranks() -> None:
    changes = compared(listed("a", "b", "c", "d"), listed("b", "a", "e", "d"))
    assert changes.entered == [RankChange("e", "E", 3, None)]
    assert changes.left == [RankChange("c", "C", None, 3)]
    assert changes.moved == [RankChange("b", "B", 1, 2), RankChange("a", "A", 2, 1)]


def test_equal_lists_have_no_changes() -> None:
    changes = compared(listed("a", "b"), listed("a", "b"))
    assert (changes.entered, changes.left, changes.moved) == ([], [], [])


def test_a_what_if_is_the_list_of_the_changed_ratings_and_stores_nothing(
    session: Session, loaded: LoadedVersion
) -> None:
    query = ListQuery(limit=8)
    stored = {rating.movie_id: rating.stars for rating in ratings.of_user(session, "even0")}
    removed = [movie_id for movie_id in stored if movie_id.startswith("even")][:6]
    added = {f"odd{n}": 5.0 for n in range(10)}
    changed = what_if(session, loaded, "even0", added, removed, query)

    combined = {movie_id: stars for movie_id, stars in stored.items() if movie_id not in removed} | added
    expected = lists.for_ratings(session, loaded, combined, query, user_id="even0")
    assert changed == ComparedList(**vars(expected), changes=changed.changes)
    assert {rating.movie_id: rating.stars for rating in ratings.of_user(session, "even0")} == stored

    before = lists.for_user(session, loaded, "even0", query)
    assert (changes := changed.changes) is not None
    were, are = ({item.movie_id for item in page.items} for page in (before, changed))
    assert {movie.movie_id for movie in changes.entered} == are - were
    assert {movie.movie_id for movie in changes.left} == were - are
    assert changes.entered


def test_with_nothing_changed_nothing_changes(session: Session, loaded: LoadedVersion) -> None:
    equal = what_if(session, loaded, "even0", {}, [], ListQuery())
    assert equal.items == lists.for_user(session, loaded, "even0", ListQuery()).items
    assert equal.changes == ListChanges([], [], [])
    later = what_if(session, loaded, "even0", {}, [], ListQuery(cursor=equal.next_cursor))
    assert later.changes is None


def test_a_rating_that_is_not_there_cannot_be_removed(session: Session, loaded: LoadedVersion) -> None:
    rated = ratings.of_user(session, "even0")[0].movie_id
    with pytest.raises(InvalidInput) as caught:
        what_if(session, loaded, "even0", {}, [rated, "never"], ListQuery())
    assert [error.location for error in caught.value.errors] == ["remove[1]"]

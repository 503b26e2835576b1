"""Ranking for one row of ratings: the strategies, what is left out, and what a dislike does."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app import ratings, recommendations
from app.database import Database
from app.errors import InvalidInput
from app.learning.diversity import mean_likeness
from app.learning.geometry import unit_vectors
from app.learning.preferences import RatingRows
from app.model_registry import Serving
from app.ratings import RatingBatch
from app.recommendations import RecommendationList, Wanted, lists
from tests.tastes import N_MOVIES


def ids(found: RecommendationList) -> list[str]:
    return [item.movie_id for item in found.items]


def test_the_strategy_follows_the_evidence(session: Session, serving: Serving) -> None:
    seen = [
        recommendations.for_ratings(
            session, serving, {f"even{n}": 5.0 for n in range(rated)}, Wanted()
        ).strategy
        for rated in range(7)
    ]
    assert seen == ["popular", *["blended"] * 4, "rbm", "rbm"]


def test_a_list_never_shows_what_is_rated_excluded_or_filtered_out(
    session: Session, serving: Serving
) -> None:
    rated = {"even0": 5.0, "odd0": 1.0}
    wanted = Wanted(limit=100, exclude=("even1", "unknown"), year_from=1981)
    found = recommendations.for_ratings(session, serving, rated, wanted)
    everything = {f"{half}{n}" for half in ("even", "odd") for n in range(N_MOVIES // 2)}
    assert set(ids(found)) == everything - {"even0", "odd0", "even1"}
    assert len(ids(found)) == len(set(ids(found)))


def test_more_is_never_another_order(session: Session, serving: Serving) -> None:
    rated = {f"even{n}": 5.0 for n in range(6)}
    long = ids(recommendations.for_ratings(session, serving, rated, Wanted(limit=20)))
    short = ids(recommendations.for_ratings(session, serving, rated, Wanted(limit=5)))
    assert long[:5] == short


def test_a_disliked_movie_moves_its_kind_down(session: Session, serving: Serving) -> None:
    def mean_place_of_odd(stars: float) -> float:
        order = ids(recommendations.for_ratings(session, serving, {"odd0": stars}, Wanted(limit=100)))
        places = [place for place, movie in enumerate(order) if movie.startswith("odd")]
        return sum(places) / len(places)

    assert mean_place_of_odd(1.0) > mean_place_of_odd(5.0)


def test_without_a_version_predictions_are_unknown(serving: Serving) -> None:
    (found,) = recommendations.predictions(None, {}, ["even0"])
    assert found.like_probability is None
    known, unknown = recommendations.predictions(serving, {}, ["even0", "never"])
    assert known.like_probability is not None
    assert unknown.like_probability is None


FAN = {f"even{n}": 5.0 for n in range(4)} | {"even4": 4.3, "odd0": 1.0}  # 4.3 is no float32


def pages(
    session: Session, serving: Serving | None, wanted: Wanted, stars: dict[str, float]
) -> list[list[str]]:
    """Every page of a list, to its end."""
    found: list[list[str]] = []
    cursor = None
    while True:
        page = recommendations.for_ratings(
            session, serving, stars, dataclasses.replace(wanted, cursor=cursor)
        )
        n_before = sum(len(one) for one in found)
        assert [item.rank for item in page.items] == [n_before + 1 + n for n in range(len(page.items))]
        found.append(ids(page))
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(limit=7),
        Wanted(limit=7, diversity=0.6),
        Wanted(limit=4, genre="Odd", exclude=("odd3",)),
        Wanted(limit=12, include_rated=True, include_obscure=True),
    ],
    ids=["plain", "diverse", "filtered", "everything"],
)
def test_the_pages_of_a_list_are_the_list(session: Session, serving: Serving, wanted: Wanted) -> None:
    whole = ids(recommendations.for_ratings(session, serving, FAN, dataclasses.replace(wanted, limit=100)))
    found = pages(session, serving, wanted, FAN)
    assert [movie for page in found for movie in page] == whole
    assert [len(page) for page in found[:-1]] == [wanted.limit] * (len(found) - 1)
    assert 0 < len(found[-1]) <= wanted.limit


def test_before_the_first_version_there_are_pages_too(session: Session, tastes: None) -> None:
    whole = ids(recommendations.for_ratings(session, None, FAN, Wanted(limit=100)))
    assert [movie for page in pages(session, None, Wanted(limit=7), FAN) for movie in page] == whole
    assert len(whole) == N_MOVIES - len(FAN)


def test_no_page_repeats_a_movie_when_ratings_come_in_between(session: Session, serving: Serving) -> None:
    first = recommendations.for_ratings(session, serving, FAN, Wanted(limit=6))
    other_taste = {f"odd{n}": 5.0 for n in range(3)} | {first.items[0].movie_id: 1.0}
    seen, cursor = ids(first), first.next_cursor
    while cursor is not None:
        page = recommendations.for_ratings(session, serving, other_taste, Wanted(limit=6, cursor=cursor))
        assert page.items[0].rank == len(seen) + 1
        seen += ids(page)
        cursor = page.next_cursor
    assert len(seen) == len(set(seen))
    assert {f"{half}{n}" for half in ("even", "odd") for n in range(N_MOVIES // 2)} - set(seen) == set(
        other_taste
    ) - {first.items[0].movie_id}


def test_no_page_repeats_a_movie_of_the_list_before_the_first_version(
    session: Session, serving: Serving
) -> None:
    before = recommendations.for_ratings(session, None, FAN, Wanted(limit=10))
    after = recommendations.for_ratings(session, serving, FAN, Wanted(limit=100, cursor=before.next_cursor))
    assert not set(ids(before)) & set(ids(after))
    assert len(ids(before)) + len(ids(after)) == N_MOVIES - len(FAN)


def test_a_walk_ends_where_its_cursor_would_grow_too_long(
    session: Session, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LONGEST_WALK", 8)
    assert [len(page) for page in pages(session, serving, Wanted(limit=5), FAN)] == [5, 5]


def test_a_made_up_cursor_is_refused(session: Session, serving: Serving) -> None:
    with pytest.raises(InvalidInput) as caught:
        recommendations.for_ratings(session, serving, FAN, Wanted(cursor="made-up!"))
    assert caught.value.errors[0].location == "cursor"


def test_what_hardly_anybody_liked_comes_last_unless_asked_for(session: Session, serving: Serving) -> None:
    plain = ids(recommendations.for_ratings(session, serving, FAN, Wanted(limit=100)))
    likes = serving.machines.likes.copy()
    likes[serving.machines.vocabulary.columns(plain[:2])] = lists.LEAST_LIKES - 1
    dark = dataclasses.replace(serving, machines=dataclasses.replace(serving.machines, likes=likes))
    found = ids(recommendations.for_ratings(session, dark, FAN, Wanted(limit=100)))
    assert set(found[-2:]) == set(plain[:2])
    assert found[:-2] == plain[2:]
    asked = Wanted(limit=100, include_obscure=True)
    whole = recommendations.for_ratings(session, dark, FAN, asked)
    scores = [item.score for item in whole.items]
    assert scores == sorted(scores, reverse=True)
    assert set(ids(whole)) == set(found)
    assert ids(whole) != found


def test_reasons_are_recomputed_by_leaving_each_rating_out(session: Session, serving: Serving) -> None:
    machines = serving.machines
    found = recommendations.for_ratings(session, serving, FAN, Wanted(limit=10, explain=True))

    def score(stars: dict[str, float], movie_id: str) -> float:
        columns = machines.vocabulary.columns(list(stars))
        row = RatingRows.single(columns, list(stars.values()), machines.n_movies)
        return float(machines.blended_scores(row)[0, machines.vocabulary.columns([movie_id])[0]])

    for item in found.items:
        true = {
            rated: item.score - score({one: FAN[one] for one in FAN if one != rated}, item.movie_id)
            for rated in FAN
        }
        assert item.reasons is not None
        assert item.reasons_against is not None
        for reason in [*item.reasons, *item.reasons_against]:
            assert reason.effect == pytest.approx(true[reason.movie_id], abs=1e-4)
            assert reason.stars == FAN[reason.movie_id]
            assert reason.title.endswith(f"Film {reason.movie_id.lstrip('evnod')}")
        strongest = sorted((one for one in true.values() if one > 1e-4), reverse=True)[: lists.REASONS]
        assert [one.effect for one in item.reasons if one.effect > 1e-4] == pytest.approx(strongest, abs=1e-4)
        worst = sorted(one for one in true.values() if one < -1e-4)[: lists.REASONS]
        against = [one.effect for one in item.reasons_against if one.effect < -1e-4]
        assert against == pytest.approx(worst, abs=1e-4)
    assert all(item.reasons for item in found.items if item.movie_id.startswith("even"))


def test_without_ratings_or_without_being_asked_there_are_no_reasons(
    session: Session, serving: Serving
) -> None:
    for version in (serving, None):
        (item, *_) = recommendations.for_ratings(session, version, {}, Wanted(explain=True)).items
        assert (item.reasons, item.reasons_against) == ([], [])
        (item, *_) = recommendations.for_ratings(session, version, FAN, Wanted()).items
        assert (item.reasons, item.reasons_against) == (None, None)


def test_diversity_makes_a_list_less_alike_and_keeps_the_best_first(
    session: Session, serving: Serving
) -> None:
    vectors, columns = unit_vectors(serving.machines), serving.machines.vocabulary.columns
    alike = []
    for diversity in (0.0, 0.5, 1.0):
        found = recommendations.for_ratings(session, serving, FAN, Wanted(limit=6, diversity=diversity))
        alike.append(mean_likeness(vectors[columns(ids(found))]))
        assert ids(found)[0] == ids(recommendations.for_ratings(session, serving, FAN, Wanted()))[0]
    assert alike[0] > alike[1] >= alike[2]


def test_a_batch_holds_everybodys_own_list_in_the_order_asked(
    database: Database, session: Session, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ["odd1", "nobody", "even0", "odd1", "even2"]
    wanted = Wanted(limit=5, genre="Odd", diversity=0.2)
    alone = [recommendations.for_user(session, serving, user, wanted) for user in users]
    for at_once in (lists.SCORES_AT_ONCE, 2 * N_MOVIES):  # all in one block, and two people a block
        monkeypatch.setattr(lists, "SCORES_AT_ONCE", at_once)
        together = recommendations.for_users(session, serving, users, wanted)
        assert [(one.user_id, one.strategy, ids(one)) for one in together] == [
            (one.user_id, one.strategy, ids(one)) for one in alone
        ]
        for one, other in zip(together, alone, strict=True):
            figures, expected = (
                np.array([(item.score, item.like_probability) for item in each.items], np.float64)
                for each in (one, other)
            )
            np.testing.assert_allclose(figures, expected, rtol=1e-4)
            assert one.next_cursor == other.next_cursor
    before = recommendations.for_users(session, None, users, Wanted(limit=3))
    assert [ids(one) for one in before] == [
        ids(recommendations.for_user(session, None, user, Wanted(limit=3))) for user in users
    ]


def test_a_batch_asks_the_database_as_often_as_a_single_list(
    database: Database, session: Session, serving: Serving
) -> None:
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    session.connection()  # begins the transaction, which is a statement on SQLite
    event.listen(database.engine, "before_cursor_execute", note)
    try:
        recommendations.for_user(
            session, serving, "even1", Wanted(genre="Odd")
        )  # titles are kept from now on
        asked.clear()
        recommendations.for_user(session, serving, "even0", Wanted(genre="Odd"))
        single = len(asked)
        asked.clear()
        users = [f"{half}{n}" for half in ("even", "odd") for n in range(50)]
        recommendations.for_users(session, serving, users, Wanted(genre="Odd"))
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert len(asked) == single == 3


def test_given_ratings_give_the_very_list_that_the_same_stored_ones_give(
    database: Database, serving: Serving
) -> None:
    with database.writing() as session:
        # Stored in another order than given.
        rows = [("fan", movie_id, stars, None) for movie_id, stars in reversed(FAN.items())]
        ratings.store(session, RatingBatch.of(rows), received_at=datetime.now(UTC))
    wanted = Wanted(limit=30, explain=True, diversity=0.3)
    with database.reading() as session:
        stored = recommendations.for_user(session, serving, "fan", wanted)
        given = recommendations.for_ratings(session, serving, FAN, wanted)
    assert stored.items == given.items
    assert stored.next_cursor == given.next_cursor

"""Ranking for one row of ratings: strategies, exclusions, effect of a dislike."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.errors import InvalidInput
from app.learning.inference.diversity import mean_likeness
from app.learning.inference.similarity import unit_vectors
from app.learning.rating_matrix import RatingRows
from app.model_versions.serving import LoadedVersion
from app.ratings import store as ratings
from app.ratings.batch import RatingBatch
from app.recommendations import lists
from app.recommendations.lists import ListQuery, RecommendationList
from app.recommendations.predictions import predictions
from app.storage.database import Database
from tests.tastes import N_MOVIES


def ids(page: RecommendationList) -> list[str]:
    return [item.movie_id for item in page.items]


def test_the_strategy_follows_the_evidence(session: Session, loaded: LoadedVersion) -> None:
    seen = [
        lists.for_ratings(session, loaded, {f"even{n}": 5.0 for n in range(rated)}, ListQuery()).strategy
        for rated in range(7)
    ]
    assert seen == ["popular", *["blended"] * 4, "rbm", "rbm"]


def test_a_list_never_shows_what_is_rated_excluded_or_filtered_out(
    session: Session, loaded: LoadedVersion
) -> None:
    rated = {"even0": 5.0, "odd0": 1.0}
    query = ListQuery(limit=100, exclude=("even1", "unknown"), year_from=1981)
    page = lists.for_ratings(session, loaded, rated, query)
    everything = {f"{half}{n}" for half in ("even", "odd") for n in range(N_MOVIES // 2)}
    assert set(ids(page)) == everything - {"even0", "odd0", "even1"}
    assert len(ids(page)) == len(set(ids(page)))


def test_more_is_never_another_order(session: Session, loaded: LoadedVersion) -> None:
    rated = {f"even{n}": 5.0 for n in range(6)}
    long = ids(lists.for_ratings(session, loaded, rated, ListQuery(limit=20)))
    short = ids(lists.for_ratings(session, loaded, rated, ListQuery(limit=5)))
    assert long[:5] == short


def test_a_disliked_movie_moves_its_kind_down(session: Session, loaded: LoadedVersion) -> None:
    def mean_place_of_odd(stars: float) -> float:
        order = ids(lists.for_ratings(session, loaded, {"odd0": stars}, ListQuery(limit=100)))
        places = [place for place, movie in enumerate(order) if movie.startswith("odd")]
        return sum(places) / len(places)

    assert mean_place_of_odd(1.0) > mean_place_of_odd(5.0)


def test_without_a_version_predictions_are_unknown(loaded: LoadedVersion) -> None:
    (prediction,) = predictions(None, {}, ["even0"]).items
    assert prediction.like_probability is None
    known, unknown = predictions(loaded, {}, ["even0", "never"]).items
    assert known.like_probability is not None
    assert unknown.like_probability is None


FAN = {f"even{n}": 5.0 for n in range(4)} | {"even4": 4.3, "odd0": 1.0}  # 4.3 is no float32


def pages(
    session: Session, loaded: LoadedVersion | None, query: ListQuery, stars: dict[str, float]
) -> list[list[str]]:
    """Every page of a list, to its end."""
    result: list[list[str]] = []
    cursor = None
    while True:
        page = lists.for_ratings(session, loaded, stars, dataclasses.replace(query, cursor=cursor))
        n_before = sum(len(page) for page in result)
        assert [item.rank for item in page.items] == [n_before + 1 + n for n in range(len(page.items))]
        result.append(ids(page))
        cursor = page.next_cursor
        if cursor is None:
            return result


@pytest.mark.parametrize(
    "query",
    [
        ListQuery(limit=7),
        ListQuery(limit=7, diversity=0.6),
        ListQuery(limit=4, genre="Odd", exclude=("odd3",)),
        ListQuery(limit=12, include_rated=True, include_obscure=True),
    ],
    ids=["plain", "diverse", "filtered", "everything"],
)
def test_the_pages_of_a_list_are_the_list(session: Session, loaded: LoadedVersion, query: ListQuery) -> None:
    whole = ids(lists.for_ratings(session, loaded, FAN, dataclasses.replace(query, limit=100)))
    result = pages(session, loaded, query, FAN)
    assert [movie for page in result for movie in page] == whole
    assert [len(page) for page in result[:-1]] == [query.limit] * (len(result) - 1)
    assert 0 < len(result[-1]) <= query.limit


def test_before_the_first_version_there_are_pages_too(session: Session, tastes: None) -> None:
    whole = ids(lists.for_ratings(session, None, FAN, ListQuery(limit=100)))
    assert [movie for page in pages(session, None, ListQuery(limit=7), FAN) for movie in page] == whole
    assert len(whole) == N_MOVIES - len(FAN)


def test_no_page_repeats_a_movie_when_ratings_come_in_between(
    session: Session, loaded: LoadedVersion
) -> None:
    first = lists.for_ratings(session, loaded, FAN, ListQuery(limit=6))
    other_taste = {f"odd{n}": 5.0 for n in range(3)} | {first.items[0].movie_id: 1.0}
    seen, cursor = ids(first), first.next_cursor
    while cursor is not None:
        page = lists.for_ratings(session, loaded, other_taste, ListQuery(limit=6, cursor=cursor))
        assert page.items[0].rank == len(seen) + 1
        seen += ids(page)
        cursor = page.next_cursor
    assert len(seen) == len(set(seen))
    assert {f"{half}{n}" for half in ("even", "odd") for n in range(N_MOVIES // 2)} - set(seen) == set(
        other_taste
    ) - {first.items[0].movie_id}


def test_no_page_repeats_a_movie_of_the_list_before_the_first_version(
    session: Session, loaded: LoadedVersion
) -> None:
    before = lists.for_ratings(session, None, FAN, ListQuery(limit=10))
    after = lists.for_ratings(session, loaded, FAN, ListQuery(limit=100, cursor=before.next_cursor))
    assert not set(ids(before)) & set(ids(after))
    assert len(ids(before)) + len(ids(after)) == N_MOVIES - len(FAN)


def test_a_walk_ends_where_its_cursor_would_grow_too_long(
    session: Session, loaded: LoadedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "LONGEST_WALK", 8)
    assert [len(page) for page in pages(session, loaded, ListQuery(limit=5), FAN)] == [5, 5]


def test_a_made_up_cursor_is_refused(session: Session, loaded: LoadedVersion) -> None:
    with pytest.raises(InvalidInput) as caught:
        lists.for_ratings(session, loaded, FAN, ListQuery(cursor="made-up!"))
    assert caught.value.errors[0].location == "cursor"


def test_what_few_users_liked_comes_last_unless_requested(session: Session, loaded: LoadedVersion) -> None:
    plain = ids(lists.for_ratings(session, loaded, FAN, ListQuery(limit=100)))
    likes = loaded.model.likes.copy()
    likes[loaded.model.vocabulary.columns(plain[:2])] = lists.LEAST_LIKES - 1
    dark = dataclasses.replace(loaded, model=dataclasses.replace(loaded.model, likes=likes))
    page = ids(lists.for_ratings(session, dark, FAN, ListQuery(limit=100)))
    assert set(page[-2:]) == set(plain[:2])
    assert page[:-2] == plain[2:]
    query = ListQuery(limit=100, include_obscure=True)
    whole = lists.for_ratings(session, dark, FAN, query)
    scores = [item.score for item in whole.items]
    assert scores == sorted(scores, reverse=True)
    assert set(ids(whole)) == set(page)
    assert ids(whole) != page


def test_reasons_are_recomputed_by_leaving_each_rating_out(session: Session, loaded: LoadedVersion) -> None:
    model = loaded.model
    page = lists.for_ratings(session, loaded, FAN, ListQuery(limit=10, explain=True))

    def score(stars: dict[str, float], movie_id: str) -> float:
        columns = model.vocabulary.columns(list(stars))
        row = RatingRows.single(columns, list(stars.values()), model.n_movies)
        return float(model.scores(row)[0, model.vocabulary.columns([movie_id])[0]])

    for item in page.items:
        true = {
            rated: item.score - score({movie: FAN[movie] for movie in FAN if movie != rated}, item.movie_id)
            for rated in FAN
        }
        assert item.reasons is not None
        assert item.reasons_against is not None
        for reason in [*item.reasons, *item.reasons_against]:
            assert reason.effect == pytest.approx(true[reason.movie_id], abs=1e-4)
            assert reason.stars == FAN[reason.movie_id]
            assert reason.title.endswith(f"Film {reason.movie_id.lstrip('evnod')}")
        strongest = sorted((effect for effect in true.values() if effect > 1e-4), reverse=True)[
            : lists.REASONS
        ]
        assert [reason.effect for reason in item.reasons if reason.effect > 1e-4] == pytest.approx(
            strongest, abs=1e-4
        )
        worst = sorted(effect for effect in true.values() if effect < -1e-4)[: lists.REASONS]
        against = [reason.effect for reason in item.reasons_against if reason.effect < -1e-4]
        assert against == pytest.approx(worst, abs=1e-4)
    assert all(item.reasons for item in page.items if item.movie_id.startswith("even"))


def test_without_ratings_or_without_explain_there_are_no_reasons(
    session: Session, loaded: LoadedVersion
) -> None:
    for version in (loaded, None):
        (item, *_) = lists.for_ratings(session, version, {}, ListQuery(explain=True)).items
        assert (item.reasons, item.reasons_against) == ([], [])
        (item, *_) = lists.for_ratings(session, version, FAN, ListQuery()).items
        assert (item.reasons, item.reasons_against) == (None, None)


def test_diversity_makes_a_list_less_alike_and_keeps_the_best_first(
    session: Session, loaded: LoadedVersion
) -> None:
    vectors, columns = unit_vectors(loaded.model), loaded.model.vocabulary.columns
    alike = []
    for diversity in (0.0, 0.5, 1.0):
        page = lists.for_ratings(session, loaded, FAN, ListQuery(limit=6, diversity=diversity))
        alike.append(mean_likeness(vectors[columns(ids(page))]))
        assert ids(page)[0] == ids(lists.for_ratings(session, loaded, FAN, ListQuery()))[0]
    assert alike[0] > alike[1] >= alike[2]


def test_a_batch_holds_every_users_own_list_in_the_order_of_the_request(
    database: Database, session: Session, loaded: LoadedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = ["odd1", "nobody", "even0", "odd1", "even2"]
    query = ListQuery(limit=5, genre="Odd", diversity=0.2)
    alone = [lists.for_user(session, loaded, user, query) for user in users]
    for at_once in (lists.SCORES_AT_ONCE, 2 * N_MOVIES):  # all in one block, and two people a block
        monkeypatch.setattr(lists, "SCORES_AT_ONCE", at_once)
        together = lists.for_users(session, loaded, users, query)
        assert [(page.user_id, page.strategy, ids(page)) for page in together] == [
            (page.user_id, page.strategy, ids(page)) for page in alone
        ]
        for one, other in zip(together, alone, strict=True):
            figures, expected = (
                np.array([(item.score, item.like_probability) for item in page.items], np.float64)
                for page in (one, other)
            )
            np.testing.assert_allclose(figures, expected, rtol=1e-4)
            assert one.next_cursor == other.next_cursor
    before = lists.for_users(session, None, users, ListQuery(limit=3))
    assert [ids(page) for page in before] == [
        ids(lists.for_user(session, None, user, ListQuery(limit=3))) for user in users
    ]


def test_a_batch_asks_the_database_as_often_as_a_single_list(
    database: Database, session: Session, loaded: LoadedVersion
) -> None:
    query: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        query.append(statement)

    session.connection()  # begins the transaction, which is a statement on SQLite
    event.listen(database.engine, "before_cursor_execute", note)
    try:
        lists.for_user(session, loaded, "even1", ListQuery(genre="Odd"))  # titles are kept from now on
        query.clear()
        lists.for_user(session, loaded, "even0", ListQuery(genre="Odd"))
        single = len(query)
        query.clear()
        users = [f"{half}{n}" for half in ("even", "odd") for n in range(50)]
        lists.for_users(session, loaded, users, ListQuery(genre="Odd"))
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert len(query) == single == 3


def test_given_ratings_give_the_very_list_that_the_same_stored_ones_give(
    database: Database, loaded: LoadedVersion
) -> None:
    with database.writing() as session:
        # Stored in another order than posted.
        rows = [("fan", movie_id, stars, None) for movie_id, stars in reversed(FAN.items())]
        ratings.upsert(session, RatingBatch.of(rows), received_at=datetime.now(UTC))
    query = ListQuery(limit=30, explain=True, diversity=0.3)
    with database.reading() as session:
        stored = lists.for_user(session, loaded, "fan", query)
        posted = lists.for_ratings(session, loaded, FAN, query)
    assert stored.items == posted.items
    assert stored.next_cursor == posted.next_cursor

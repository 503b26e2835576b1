"""The synthetic raters: fixed by the seed, of recognisable tastes, critical."""

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import pytest

from app.demo.catalogue import GENRES, Film, films
from app.demo.raters import (
    FEWEST_RATINGS,
    MOST_RATINGS,
    PERSONAS,
    RATERS,
    TASTES,
    DemoRating,
    Persona,
    people,
    ratings,
)


@cache
def _default() -> tuple[DemoRating, ...]:
    return tuple(ratings())


def _film() -> dict[str, Film]:
    return {film.movie_id: film for film in films()}


def test_ratings_depend_on_the_seed_alone() -> None:
    assert ratings(seed=1, raters=5) == ratings(seed=1, raters=5)
    assert ratings(seed=1, raters=5) != ratings(seed=2, raters=5)


def test_more_raters_change_nothing_about_the_first_ones() -> None:
    few, many = ratings(raters=7), ratings(raters=9)
    assert many[: len(few)] == few


def test_a_rating_is_one_that_the_service_takes() -> None:
    known = _film()
    for rating in _default():
        assert rating.movie_id in known
        assert 0.5 <= rating.stars <= 5.0
        assert (2 * rating.stars).is_integer()
        assert rating.rated_at.tzinfo is UTC
        assert datetime(2025, 1, 1, tzinfo=UTC) <= rating.rated_at < datetime(2027, 1, 1, tzinfo=UTC)
        assert rating.rated_at.year > known[rating.movie_id].year
        assert rating.user_id.startswith("demo-")


def test_no_rater_rates_a_film_twice_or_two_films_at_once() -> None:
    assert len({(rating.user_id, rating.movie_id) for rating in _default()}) == len(_default())
    assert len({(rating.user_id, rating.rated_at) for rating in _default()}) == len(_default())


def test_every_rater_has_rated_enough() -> None:
    counts = Counter(rating.user_id for rating in _default())
    named = {persona.user_id for persona in PERSONAS}
    raters = [counts[person.user_id] for person in people()]
    assert len(raters) == RATERS == len(counts) - len(named)
    assert FEWEST_RATINGS <= min(raters) < max(raters) <= MOST_RATINGS
    assert people()[0].user_id == "demo-user-001"


def test_every_film_has_enough_raters_and_the_famous_have_many_more() -> None:
    counts = Counter(rating.movie_id for rating in _default())
    assert min(counts[film.movie_id] for film in films()) >= 10
    by_fame = [
        np.mean([counts[film.movie_id] for film in films() if film.fame == fame]) for fame in (1, 3, 5)
    ]
    assert by_fame[0] < by_fame[1] < by_fame[2]
    assert by_fame[2] > 3 * by_fame[0]


def test_some_of_what_is_watched_is_not_liked() -> None:
    stars = np.array([rating.stars for rating in _default()])
    assert 0.15 <= np.mean(stars < 3.0) <= 0.30
    assert 0.35 <= np.mean(stars >= 4.0) <= 0.65


def test_raters_disagree_about_every_well_known_film() -> None:
    by_film = defaultdict(list)
    for rating in _default():
        by_film[rating.movie_id].append(rating.stars)
    for film in films():
        if film.fame == 5:
            rated = by_film[film.movie_id]
            assert min(rated) < 3.0 < 4.0 <= max(rated), film.title
            assert np.std(rated) > 0.5


def test_the_shares_of_the_tastes_sum_to_one_and_their_genres_exist() -> None:
    assert sum(taste.share for taste in TASTES) == pytest.approx(1.0)
    for taste in TASTES:
        assert set(taste.genres) <= set(GENRES)
    held = Counter(name for person in people() for name in person.tastes)
    assert set(held) == {taste.name for taste in TASTES}


@pytest.mark.parametrize(
    ("taste", "loves", "leaves"),
    [
        ("science fiction", "Sci-Fi", "Romance"),
        ("romance", "Romance", "Sci-Fi"),
        ("family", "Children", "Horror"),
        ("horror", "Horror", "Romance"),
        ("crime and suspense", "Crime", "Musical"),
        ("westerns and war", "Western", "Romance"),
        ("musicals", "Musical", "Horror"),
        ("documentaries", "Documentary", "Horror"),
    ],
)
def test_a_taste_shows_in_what_is_watched_and_in_the_stars(taste: str, loves: str, leaves: str) -> None:
    known = _film()
    members = {person.user_id for person in people() if person.tastes == (taste,)}
    theirs = [rating for rating in _default() if rating.user_id in members]

    def stars_on(genre: str) -> list[float]:
        return [rating.stars for rating in theirs if genre in known[rating.movie_id].genres]

    assert np.mean(stars_on(loves)) > np.mean(stars_on(leaves)) + 0.7

    def share_watched(genre: str, watched: list[DemoRating] | tuple[DemoRating, ...]) -> float:
        return float(np.mean([genre in known[rating.movie_id].genres for rating in watched]))

    assert share_watched(loves, theirs) > 1.4 * share_watched(loves, _default())
    assert share_watched(leaves, theirs) < share_watched(leaves, _default())
    assert len(stars_on(leaves)) > 0  # people do step outside of their taste


@pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.user_id)
def test_a_persona_rates_bundled_films_up_and_down(persona: Persona) -> None:
    rated = persona.ratings()
    assert 8 <= len(rated) <= 15
    assert {rating.movie_id for rating in rated} <= set(_film())
    assert {rating.user_id for rating in rated} == {persona.user_id}
    assert min(rating.stars for rating in rated) < 3.0 <= max(rating.stars for rating in rated)
    assert rated[1].rated_at - rated[0].rated_at == timedelta(minutes=1)


def test_the_personas_belong_to_the_ratings_and_are_distinct_from_the_raters() -> None:
    assert {persona.user_id for persona in PERSONAS} >= {"demo-ada", "demo-luis"}
    for persona in PERSONAS:
        assert [r for r in _default() if r.user_id == persona.user_id] == persona.ratings()

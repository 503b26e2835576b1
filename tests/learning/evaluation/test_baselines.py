"""Baselines: one contract for all, obvious answers, references, EASE's definition."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import metrics, splitting
from app.learning.evaluation.baselines import (
    EASE,
    EASE_BYTES_PER_CELL,
    BiasedFactorisation,
    ItemNeighbours,
    LikeBiases,
    Popularity,
    Scorer,
    Sum,
    TooManyMovies,
)
from app.learning.evaluation.quality import ranking_quality
from app.learning.rating_matrix import RatingRows
from tests.learning.tastes import DRAMA, N_MOVIES, ROMANCE, SCIENCE_FICTION, finish, ml_100k, two_camps

REGULARISATION = 20.0  # for these small sets


def factorisation(rows: RatingRows, n_factors: int = 4) -> BiasedFactorisation:
    return BiasedFactorisation(rows, liked_at_least=3.0, rng=np.random.default_rng(1), n_factors=n_factors)


BASELINES: dict[str, Callable[[RatingRows], Scorer]] = {
    "popularity": Popularity,
    "item neighbours": ItemNeighbours,
    "EASE rated": lambda rows: EASE(rows, regularisation=REGULARISATION),
    "EASE liked": lambda rows: EASE(rows, liked_at_least=4.0, regularisation=REGULARISATION),
    "EASE summed": lambda rows: Sum(
        [EASE(rows, liked_at_least=least, regularisation=REGULARISATION) for least in (None, 4.0)]
    ),
    "factorisation": factorisation,
}
PERSONAL = [name for name in BASELINES if name != "popularity"]


@pytest.fixture
def few() -> RatingRows:
    """40 users, 12 movies, the last one unrated."""
    rng = np.random.default_rng(5)
    users, movies = np.nonzero(rng.random((40, 11)) < 0.4)
    return RatingRows.from_coordinates(users, movies, rng.integers(1, 6, users.size), 40, 12)


def dense(rows: RatingRows, liked_at_least: float | None = None) -> np.ndarray:
    """1 where rated, or liked, 0 elsewhere; shape (n_users, n_movies)."""
    result = np.zeros((rows.n_users, rows.n_movies))
    chosen = rows.stars >= (-np.inf if liked_at_least is None else liked_at_least)
    result[rows.users[chosen], rows.indices[chosen]] = 1
    return result


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_scores_anyone(name: str, few: RatingRows) -> None:
    before = few.stars.copy()
    scorer = BASELINES[name](few)
    others = RatingRows.from_coordinates([0, 0, 2], [3, 11, 5], [5, 1, 4], 3, 12)  # user 1 rated nothing
    scores = scorer.scores(others)
    assert scores.dtype == np.float32
    assert scores.shape == (3, 12)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[[2]], scorer.scores(others.rows([2])), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(few.stars, before)


@pytest.mark.parametrize("name", PERSONAL)
def test_each_camp_is_recommended_its_own_films(name: str, camps: RatingRows) -> None:
    scorer = BASELINES[name](camps)
    fan = RatingRows.single([0, 1, 2, ROMANCE[0]], [5, 5, 4, 1], N_MOVIES)
    scores = scorer.scores(fan)[0]
    assert scores[SCIENCE_FICTION[3:]].mean() > scores[DRAMA].mean() > scores[ROMANCE[1:]].mean()


def test_popularity_counts_ratings(few: RatingRows) -> None:
    np.testing.assert_array_equal(Popularity(few).scores(few)[7], dense(few).sum(axis=0))


@pytest.mark.parametrize("n_neighbours", [3, 50])
def test_item_neighbours_agree_with_the_slow_reference(few: RatingRows, n_neighbours: int) -> None:
    X = dense(few)
    cosine = np.zeros((12, 12))
    for i in range(12):
        for j in range(12):
            both = X[:, i] @ X[:, j]
            if i != j and both:
                cosine[i, j] = both / np.sqrt(X[:, i].sum() * X[:, j].sum())
    expected = np.zeros_like(X)
    for i in range(12):
        least = sorted(cosine[i], reverse=True)[:n_neighbours][-1]
        for user in range(40):
            near = [cosine[i, j] for j in range(12) if X[user, j] and cosine[i, j] >= least - 1e-12]
            expected[user, i] = sum(near)
    scores = ItemNeighbours(few, n_neighbours=n_neighbours).scores(few)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("liked_at_least", [None, 4.0])
def test_ease_is_a_ridge_regression_of_every_movie_on_all_others(
    few: RatingRows, liked_at_least: float | None
) -> None:
    ease = EASE(few, liked_at_least=liked_at_least, regularisation=7.0)
    X = dense(few, liked_at_least)
    assert (ease.weights.diagonal() == 0).all()
    for movie in range(12):
        others = np.delete(np.arange(12), movie)
        normal = X[:, others].T @ X[:, others] + 7.0 * np.eye(11)
        expected = np.linalg.solve(normal, X[:, others].T @ X[:, movie])
        np.testing.assert_allclose(ease.weights[others, movie], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ease.scores(few), X @ ease.weights, rtol=1e-5, atol=1e-6)


def test_ease_refuses_what_does_not_fit_before_it_allocates() -> None:
    wide = RatingRows.from_coordinates([0], [0], [5], 1, 59_000)
    with pytest.raises(
        TooManyMovies, match=r"59,000 movies takes about 81\.0 GiB, more than the limit of 2\.0"
    ):
        EASE(wide)


def test_ease_takes_no_more_memory_than_it_says() -> None:
    n_movies = 700
    users, movies = np.nonzero(np.random.default_rng(0).random((60, n_movies)) < 0.5)
    rows = RatingRows.from_coordinates(users, movies, np.full(users.size, 4), 60, n_movies)
    tracemalloc.start()
    try:
        EASE(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 < peak / (EASE_BYTES_PER_CELL * n_movies**2) < 1.05


def test_a_sum_adds_up(few: RatingRows) -> None:
    parts: list[Scorer] = [Popularity(few), ItemNeighbours(few)]
    expected = parts[0].scores(few) + parts[1].scores(few)
    np.testing.assert_allclose(Sum(parts).scores(few), expected, rtol=1e-6)


def test_folding_in_a_user_minimises_the_objective(few: RatingRows) -> None:
    scorer = factorisation(few)
    rows = RatingRows.single([2, 5, 7], [5, 2, 4], 12)

    def loss(user: np.ndarray) -> float:
        stars = scorer.mean + user[0] + scorer.movies[:, 0] + scorer.movies[:, 1:] @ user[1:]
        error = np.square(stars[rows.indices] - rows.stars).sum()
        return float(error + 3.0 * user[0] ** 2 + 0.14 * 3 * (user[1:] ** 2).sum())

    # The user that the scores came from: the movies' factors have full rank.
    known = scorer.scores(rows)[0].astype(np.float64) - scorer.mean - scorer.movies[:, 0]
    inputs = np.hstack([np.ones((12, 1)), scorer.movies[:, 1:]])
    user = np.linalg.lstsq(inputs, known)[0]
    least = loss(user)
    for direction in np.eye(5):
        assert loss(user + 1e-2 * direction) > least
        assert loss(user - 1e-2 * direction) > least


def test_factorisation_finds_the_biases_and_factors_of_made_up_stars() -> None:
    rng = np.random.default_rng(3)
    n_users, n_movies = 200, 50
    stars = 3 + 0.5 * rng.normal(size=(n_users, 1)) + 0.5 * rng.normal(size=n_movies)
    stars = stars + rng.normal(size=(n_users, 1)) * rng.normal(size=n_movies)
    users, movies = np.nonzero(rng.random(stars.shape) < 0.5)
    rows = RatingRows.from_coordinates(users, movies, stars[users, movies], n_users, n_movies)
    profiles, test = splitting.stratified(rows, rng)
    scorer = BiasedFactorisation(profiles, liked_at_least=3.0, rng=rng, n_factors=3, regularisation=0.02)
    error = scorer.stars_of(profiles, test) - test.stars
    assert np.sqrt(np.square(error).mean()) < 0.35 * test.stars.std()
    np.testing.assert_allclose(
        scorer.stars_of(profiles, test), scorer.scores(profiles)[test.users, test.indices], rtol=1e-4
    )


@pytest.mark.parametrize("least", [3.0, 4.0])
def test_like_models_rank_unseen_ratings(camps: RatingRows, least: float) -> None:
    profiles, test = splitting.stratified(camps, np.random.default_rng(0))
    liked, rng = test.stars >= least, np.random.default_rng(0)
    taste = BiasedFactorisation(profiles, liked_at_least=least, rng=rng, n_factors=4)
    biases = LikeBiases(profiles, liked_at_least=least, rng=rng)
    constant = metrics.brier(liked, np.full(liked.size, liked.mean()))
    by_taste, by_biases = (
        model.like_probability(profiles)[test.users, test.indices] for model in (taste, biases)
    )
    assert metrics.auc(liked, by_taste) > 0.8
    assert metrics.brier(liked, by_taste) < constant - 0.02
    # In camps a movie is loved by those who rate it most; the biases know that much and
    # no more.
    assert metrics.auc(liked, by_taste) > metrics.auc(liked, by_biases) + 0.05
    for like_model in (taste, biases):
        np.testing.assert_array_equal(
            like_model.like_probability(profiles, np.array([3, 1])),
            like_model.like_probability(profiles)[:, [3, 1]],
        )
        assert (
            like_model.like_probability(profiles.where(np.zeros(profiles.n_ratings, np.bool_))).std() < 0.35
        )


def test_biases_see_the_generous_user_and_the_good_movie() -> None:
    rng = np.random.default_rng(0)
    generous, good = np.arange(300) % 2, np.arange(60) % 3 == 0
    users, movies = np.nonzero(rng.random((300, 60)) < 0.5)
    truth = expit(-1.5 + 2.0 * generous[:, None] + 1.5 * good)
    stars = np.where(rng.random(users.size) < truth[users, movies], 5, 1)
    rows = RatingRows.from_coordinates(users, movies, stars, 300, 60)
    probability = LikeBiases(rows, liked_at_least=3.0, rng=rng).like_probability(rows)
    for user_kind in (0, 1):
        for movie_kind in (0, 1):
            kind = np.ix_(generous == user_kind, good == movie_kind)
            assert probability[kind].mean() == pytest.approx(truth[kind].mean(), abs=0.06)


# Leak canaries


def shuffled(rows: RatingRows, rng: np.random.Generator) -> RatingRows:
    """Other user-movie pairs with equal counts by user and movie (curveball trades).

    Two users at a time pool the movies that only one of them has rated and deal them
    out anew.
    """
    sets = [set(rows.indices[rows.indptr[u] : rows.indptr[u + 1]].tolist()) for u in range(rows.n_users)]
    for _ in range(10 * rows.n_users):
        one, other = rng.choice(rows.n_users, 2, replace=False)
        common, apart = sets[one] & sets[other], sorted(sets[one] ^ sets[other])
        dealt = rng.permutation(apart).tolist()
        n_one = len(sets[one]) - len(common)
        sets[one], sets[other] = common | set(dealt[:n_one]), common | set(dealt[n_one:])
    users = np.repeat(np.arange(rows.n_users), [len(chosen) for chosen in sets])
    movies = [movie for chosen in sets for movie in sorted(chosen)]
    return RatingRows.from_coordinates(users, movies, rows.stars, rows.n_users, rows.n_movies)


@pytest.fixture(scope="module")
def random_pairs() -> RatingRows:
    """Two camps, with more ratings of low drama by the busier half, shuffled."""
    rng = np.random.default_rng(2)
    camps = two_camps(400)
    share = 1 / (1 + np.arange(N_MOVIES) % 20)
    kept = rng.random(camps.n_ratings) < share[camps.indices] ** 0.5
    rows = camps.where(kept)
    result = shuffled(rows, rng)
    np.testing.assert_array_equal(result.lengths, rows.lengths)
    np.testing.assert_array_equal(result.ratings_per_movie(), rows.ratings_per_movie())
    return result


@pytest.fixture(scope="module")
def without_taste(random_pairs: RatingRows) -> tuple[RatingRows, RatingRows, dict[str, Scorer]]:
    """Training rows, test rows, and every contestant fitted on the training rows."""
    profiles, test = splitting.stratified(random_pairs, np.random.default_rng(0))
    scorers = {name: fit(profiles) for name, fit in BASELINES.items()}
    scorers["machine"], _ = finish(profiles, TrainingConfiguration(epochs=20, hidden_units=20))
    return profiles, test, scorers


def test_a_leak_of_test_ratings_shows(random_pairs: RatingRows) -> None:
    profiles, test = splitting.stratified(random_pairs, np.random.default_rng(0))
    popularity = ranking_quality(Popularity(profiles).scores, profiles, test).means()["ndcg"]
    for name in ("item neighbours", "EASE rated", "EASE liked"):
        leaking = BASELINES[name](random_pairs)  # fitted on the test ratings, too
        assert ranking_quality(leaking.scores, profiles, test).means()["ndcg"] > popularity + 0.05


# The factorisation is not among them: it ranks by stars, where a leak of pairs does not
# show.
@pytest.mark.parametrize("name", [*(name for name in PERSONAL if name != "factorisation"), "machine"])
def test_on_random_pairs_no_baseline_beats_popularity(
    name: str, without_taste: tuple[RatingRows, RatingRows, dict[str, Scorer]]
) -> None:
    profiles, test, scorers = without_taste
    quality, popularity = (
        ranking_quality(scorers[method].scores, profiles, test).means()["ndcg"]
        for method in (name, "popularity")
    )
    assert popularity > 0.2
    assert quality < popularity + 0.02


@pytest.mark.parametrize("name", [*BASELINES, "machine"])
def test_test_rows_as_input_score_exactly_0(
    name: str, without_taste: tuple[RatingRows, RatingRows, dict[str, Scorer]]
) -> None:
    _, test, scorers = without_taste
    assert np.nanmax(ranking_quality(scorers[name].scores, test, test).ndcg) == 0


@pytest.mark.slow
def test_ease_on_movielens_is_as_published() -> None:
    profiles, test = splitting.stratified(ml_100k(), np.random.default_rng(42))
    rated, liked = EASE(profiles), EASE(profiles, liked_at_least=4.0)
    for scorer, least, known in (
        (rated, None, 0.476),
        (liked, 4.0, 0.400),
        (Sum([rated, liked]), 4.0, 0.411),
    ):
        ndcg = ranking_quality(scorer.scores, profiles, test, relevant_at_least=least).means()["ndcg"]
        assert ndcg == pytest.approx(known, abs=0.01)

"""What serving asks of trained machines."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest

from app.learning import machines as machines_module
from app.learning.configuration import TrainingConfiguration
from app.learning.linear_units import LinearUnits
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import top
from app.learning.weighted_units import WeightedUnits
from tests.learning.tastes import (
    DRAMA,
    N_MOVIES,
    ROMANCE,
    SCIENCE_FICTION,
    finish,
    two_camps,
)


@pytest.fixture
def fan() -> RatingRows:
    """Likes three science-fiction films, dislikes two romances."""
    return RatingRows.single([0, 3, 7, 21, 25], [5, 5, 4, 1, 2], N_MOVIES)


def best(scores: np.ndarray, rows: RatingRows, limit: int = 10) -> np.ndarray:
    allowed = ~np.isin(np.arange(rows.n_movies), rows.indices)
    return top(scores, limit, allowed)


def test_who_likes_science_fiction_is_shown_science_fiction(trained: Machines, fan: RatingRows) -> None:
    for scores in (trained.scores(fan), trained.blended_scores(fan)):
        assert np.isin(best(scores[0], fan), SCIENCE_FICTION).sum() >= 9


def test_one_rating_is_enough_to_tell_the_camps_apart(trained: Machines) -> None:
    one, other = (RatingRows.single([column], [5], N_MOVIES) for column in (4, 24))
    assert np.isin(best(trained.scores(one)[0], one), SCIENCE_FICTION).sum() >= 8
    assert np.isin(best(trained.scores(other)[0], other), ROMANCE).sum() >= 8


def test_the_masked_design_puts_liked_above_disliked() -> None:
    masked, _ = finish(two_camps(), TrainingConfiguration(design="masked"))
    row = RatingRows.single([0, 3, 7, 9, 12, 15], [5, 5, 5, 5, 5, 5], N_MOVIES)
    scores = masked.scores(row)[0]
    assert scores[SCIENCE_FICTION].mean() > scores[ROMANCE].mean() + 0.5
    assert (scores <= 0).all()


def test_the_positive_design_recommends_what_is_liked_by_the_like_minded() -> None:
    positive, _ = finish(two_camps(), TrainingConfiguration(design="positive", epochs=150))
    fan = RatingRows.single([0, 3, 7, 21, 25], [5, 5, 4, 1, 2], N_MOVIES)
    assert np.isin(best(positive.scores(fan)[0], fan), SCIENCE_FICTION).sum() >= 9
    nobody = RatingRows.single([], [], N_MOVIES)
    np.testing.assert_array_equal(positive.blended_scores(nobody)[0], positive.popularity_scores())
    np.testing.assert_allclose(
        np.exp(positive.popularity_scores()), (positive.likes + 0.5) / (positive.n_users + 1), rtol=1e-5
    )


def test_the_conditional_design_learns_from_what_was_rated_whatever_the_stars() -> None:
    # Everyone dislikes what they rate of a genre as often as not: only which movies they rated tells camps.
    rng = np.random.default_rng(0)
    users, movies, stars = [], [], []
    for user in range(200):
        genre, liked = (SCIENCE_FICTION, 5) if user % 2 else (ROMANCE, 1)
        users += [user] * 16
        movies += rng.choice(genre, 10, replace=False).tolist() + rng.choice(DRAMA, 6, replace=False).tolist()
        stars += rng.choice([1, 5], 10).tolist() + [liked] * 6  # who rates science fiction likes drama
    rows = RatingRows.from_coordinates(users, movies, stars, 200, N_MOVIES)
    shown = [RatingRows.single(genre[:8], [1, 5] * 4, N_MOVIES) for genre in (SCIENCE_FICTION, ROMANCE)]
    differences = {}
    for design in ("masked", "conditional"):
        settings = {"design": design, "epochs": 100, "hidden_units": 20}
        machines, _ = finish(rows, TrainingConfiguration.from_dict(settings))
        fan, other = (machines.scores(row)[0, DRAMA].mean() for row in shown)
        differences[design] = fan - other
    assert differences["conditional"] > 0.3
    assert differences["conditional"] > differences["masked"] + 0.2


def test_scores_have_one_row_a_user_whatever_the_block(
    trained: Machines, camps: RatingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = trained.scores(camps)
    assert scores.shape == (camps.n_users, N_MOVIES)
    assert scores.dtype == np.float32
    monkeypatch.setattr(machines_module, "BLOCK_ENTRIES", 7 * trained.rbm.n_visible)
    np.testing.assert_allclose(trained.scores(camps), scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.scores(camps.rows([5])), scores[5:6], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("design", ["rated", "joint", "masked", "positive", "conditional"])
def test_a_few_columns_are_scored_as_among_all(
    design: Literal["rated", "joint", "masked", "positive", "conditional"],
) -> None:
    machines, _ = finish(two_camps(), TrainingConfiguration(design=design, epochs=2))
    rows, columns = two_camps().rows(np.arange(5)), np.array([25, 0, 7])
    for score in (machines.scores, machines.blended_scores):
        np.testing.assert_allclose(score(rows, columns), score(rows)[:, columns], rtol=1e-4, atol=1e-5)
    assert machines.scores(rows, np.array([], np.int64)).shape == (5, 0)


def test_a_movie_vector_holds_the_weights_of_its_units(trained: Machines, joint: Machines) -> None:
    vectors = joint.movie_vectors()
    assert vectors.shape == (N_MOVIES, 2 * joint.n_hidden)
    both = np.concatenate([joint.rbm.weights[7], joint.rbm.weights[N_MOVIES + 7]])
    np.testing.assert_array_equal(vectors[7], both)
    np.testing.assert_array_equal(trained.movie_vectors(), trained.rbm.weights)


@pytest.fixture(scope="module")
def joint() -> Machines:
    machines, _ = finish(two_camps(), TrainingConfiguration(design="joint"))
    return machines


def test_scores_are_log_odds_of_rated_by_all_kinds_of_units_and_of_liked(
    trained: Machines, fan: RatingRows
) -> None:
    grades = np.zeros(N_MOVIES)
    grades[fan.indices] = trained.grading.grades(fan.stars)
    scale = trained.mean_length / 5
    power = trained.configuration.fold_in_length_power
    hidden = 1 / (1 + np.exp(-(scale**power * grades @ trained.rbm.weights + trained.rbm.hidden_bias)))
    np.testing.assert_allclose(trained.fold_in(fan)[0], hidden, rtol=1e-4)
    coupled = np.zeros((N_MOVIES, N_MOVIES))
    A = trained.linear.weights
    for weights, variance in (
        (A, trained.linear.variance),
        (A[:, :30], trained.linear.leading_variance),
    ):
        coupled += weights @ weights.T * variance
    np.fill_diagonal(coupled, 0)
    expected = hidden @ trained.rbm.weights.T + trained.rbm.visible_bias
    settings = trained.configuration
    expected += settings.linear_strength * scale**0.25 * grades @ coupled
    weighted = trained.weighted.hidden_mean(trained.grading.rows(fan))
    reconstruction = trained.weighted.reconstruction(weighted)[0]
    expected += settings.weighted_strength * (reconstruction - reconstruction.mean())
    assert settings.like_strength == 0.4
    liked = trained.judge.log_odds(fan)[0]
    user_bias = trained.judge.fold_in(fan)[0][0]
    expected += 0.4 * (liked - user_bias - trained.judge.liked_log_odds)
    np.testing.assert_allclose(trained.scores(fan)[0], expected, rtol=1e-3, atol=1e-4)


def test_each_part_can_be_left_out_of_the_scores(trained: Machines, fan: RatingRows) -> None:
    configuration = trained.configuration
    for without in (
        dataclasses.replace(configuration, like_strength=0.0),
        dataclasses.replace(configuration, weighted_strength=0.0),
        dataclasses.replace(configuration, linear_strength=0.0),
    ):
        scores = dataclasses.replace(trained, configuration=without).scores(fan)
        assert np.abs(scores - trained.scores(fan)).max() > 0.01
    bare = dataclasses.replace(
        trained,
        configuration=dataclasses.replace(trained.configuration, like_strength=0.0),
        linear=LinearUnits.none(N_MOVIES),
        weighted=WeightedUnits.none(N_MOVIES),
    )
    np.testing.assert_array_equal(bare.scores(fan), bare.scores_of(bare.fold_in(fan)))


def test_plain_scores_are_those_of_a_textbook_machine(trained: Machines, fan: RatingRows) -> None:
    visible = np.zeros(N_MOVIES)
    visible[fan.indices] = 1
    hidden = 1 / (1 + np.exp(-(visible @ trained.rbm.weights + trained.rbm.hidden_bias)))
    expected = hidden @ trained.rbm.weights.T + trained.rbm.visible_bias
    np.testing.assert_allclose(trained.plain_scores(fan)[0], expected, rtol=1e-4, atol=1e-5)


def test_scores_are_the_log_probabilities_of_the_two_units(joint: Machines, fan: RatingRows) -> None:
    trained = joint
    threshold = trained.configuration.rank_liked_at_least
    assert threshold is not None
    visible = np.zeros(2 * N_MOVIES)
    visible[fan.indices] = 1
    visible[N_MOVIES + fan.indices[fan.stars >= threshold]] = 1
    scale = (trained.mean_length / 5) ** trained.configuration.fold_in_length_power
    hidden = 1 / (1 + np.exp(-(scale * visible @ trained.rbm.weights + trained.rbm.hidden_bias)))
    np.testing.assert_allclose(trained.fold_in(fan)[0], hidden, rtol=1e-4)
    log_probability = -np.logaddexp(0, -(hidden @ trained.rbm.weights.T + trained.rbm.visible_bias))
    expected = log_probability[:N_MOVIES] + log_probability[N_MOVIES:]
    np.testing.assert_allclose(trained.scores(fan)[0], expected, rtol=1e-4)


def test_an_empty_row_is_scored_and_blended_to_popularity(trained: Machines) -> None:
    nobody = RatingRows.single([], [], N_MOVIES)
    assert np.isfinite(trained.scores(nobody)).all()
    np.testing.assert_array_equal(trained.blended_scores(nobody)[0], trained.popularity_scores())


def test_a_star_moves_away_from_films_like_this_one(trained: Machines) -> None:
    """One star lowers its kind, against the same profile without that rating, in score and in rank."""
    others = np.setdiff1d(SCIENCE_FICTION, [0, 3])
    for given in ([(3, 4)], [(3, 5), (25, 5)], [(45, 4), (50, 3), (3, 4)]):
        columns, stars = zip(*given, strict=True)
        before = RatingRows.single(columns, stars, N_MOVIES)
        after = RatingRows.single([*columns, 0], [*stars, 1], N_MOVIES)
        for ask in (trained.scores, trained.blended_scores):
            scores = [ask(row)[0] for row in (before, after)]
            assert scores[1][others].mean() < scores[0][others].mean()
            ranks = [np.argsort(np.argsort(-one))[others].mean() for one in scores]
            assert ranks[1] >= ranks[0]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 15])
def test_who_has_told_nothing_but_dislikes_of_a_kind_is_shown_the_other(trained: Machines, n: int) -> None:
    for hated, other in ((SCIENCE_FICTION, ROMANCE), (ROMANCE, SCIENCE_FICTION)):
        row = RatingRows.single(hated[:n], [1] * n, N_MOVIES)
        for scores in (trained.scores(row)[0], trained.blended_scores(row)[0]):
            assert scores[other].mean() > scores[hated[n:]].mean()
            assert np.isin(best(scores, row), hated).sum() <= (2 if n > 1 else 4)


def test_popularity_scores_are_what_a_machine_without_weights_says(joint: Machines, fan: RatingRows) -> None:
    trained = joint
    bias = np.concatenate([trained.popularity, trained.likes]) + 0.5
    blank = dataclasses.replace(
        trained,
        rbm=dataclasses.replace(
            trained.rbm,
            weights=np.zeros_like(trained.rbm.weights),
            visible_bias=np.log(bias / (trained.n_users + 1 - bias)).astype(np.float32),
        ),
    )
    np.testing.assert_allclose(blank.scores(fan)[0], trained.popularity_scores(), rtol=1e-5)


def test_like_probability_is_a_probability_and_answers_for_anyone(trained: Machines, fan: RatingRows) -> None:
    nobody = RatingRows.single([], [], N_MOVIES)
    for rows in (fan, nobody):
        probability = trained.like_probability(rows)
        assert probability.shape == (1, N_MOVIES)
        assert probability.dtype == np.float32
        assert ((probability > 0) & (probability < 1)).all()
    chosen = trained.like_probability(fan, np.array([50, 2]))
    np.testing.assert_array_equal(chosen[0], trained.like_probability(fan)[0, [50, 2]])


def test_who_likes_everything_is_more_likely_to_like_the_next_movie(trained: Machines) -> None:
    likes, dislikes = (RatingRows.single(DRAMA[:8], [stars] * 8, N_MOVIES) for stars in (5, 1))
    assert (trained.like_probability(likes) > trained.like_probability(dislikes)).all()


def test_rows_over_another_catalogue_are_refused(trained: Machines) -> None:
    for ask in (trained.scores, trained.like_probability):
        with pytest.raises(ValueError, match="the vocabulary has 60"):
            ask(RatingRows.single([0], [5], 3))


def test_sizes_are_told(trained: Machines) -> None:
    assert (trained.n_movies, trained.liked_at_least) == (N_MOVIES, 3.0)
    assert trained.n_hidden == trained.configuration.hidden_units
    assert trained.nbytes > trained.rbm.weights.nbytes

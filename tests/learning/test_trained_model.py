"""What serving asks of a trained model."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest

from app.learning import trained_model
from app.learning.boltzmann.linear_units import LinearUnits
from app.learning.boltzmann.weighted_units import WeightedUnits
from app.learning.configuration import TrainingConfiguration
from app.learning.inference.ranking import top
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch
from app.learning.trained_model import TrainedModel
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


def unblended(model: TrainedModel) -> TrainedModel:
    """The model without the popularity prior."""
    return dataclasses.replace(
        model, configuration=dataclasses.replace(model.configuration, popularity_ratings=0.0)
    )


def best(scores: np.ndarray, rows: RatingRows, limit: int = 10) -> np.ndarray:
    allowed = ~np.isin(np.arange(rows.n_movies), rows.indices)
    return top(scores, limit, allowed)


def test_who_likes_science_fiction_gets_science_fiction(trained: TrainedModel, fan: RatingRows) -> None:
    assert np.isin(best(trained.scores(fan)[0], fan), SCIENCE_FICTION).sum() >= 9


def test_one_rating_is_enough_to_tell_the_camps_apart(trained: TrainedModel) -> None:
    one, other = (RatingRows.single([column], [5], N_MOVIES) for column in (4, 24))
    assert np.isin(best(trained.scores(one)[0], one), SCIENCE_FICTION).sum() >= 8
    assert np.isin(best(trained.scores(other)[0], other), ROMANCE).sum() >= 8


def test_the_masked_design_puts_liked_above_disliked() -> None:
    masked, _ = finish(two_camps(), TrainingConfiguration(design="masked"))
    row = RatingRows.single([0, 3, 7, 9, 12, 15], [5, 5, 5, 5, 5, 5], N_MOVIES)
    scores = masked.scores(row)[0]
    assert scores[SCIENCE_FICTION].mean() > scores[ROMANCE].mean() + 0.5
    assert (scores <= 0).all()


def test_scores_have_one_row_a_user_whatever_the_block(
    trained: TrainedModel, camps: RatingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = trained.scores(camps)
    assert scores.shape == (camps.n_users, N_MOVIES)
    assert scores.dtype == np.float32
    monkeypatch.setattr(trained_model, "BLOCK_ENTRIES", 7 * trained.vectors.shape[1])
    np.testing.assert_allclose(trained.scores(camps), scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.scores(camps.rows([5])), scores[5:6], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("design", ["rated", "joint", "masked"])
def test_a_few_columns_are_scored_as_among_all(
    design: Literal["rated", "joint", "masked"],
) -> None:
    model, _ = finish(two_camps(), TrainingConfiguration(design=design, epochs=2))
    rows, columns = two_camps().rows(np.arange(5)), np.array([25, 0, 7])
    np.testing.assert_allclose(
        model.scores(rows, columns), model.scores(rows)[:, columns], rtol=1e-4, atol=1e-5
    )
    assert model.scores(rows, np.array([], np.int64)).shape == (5, 0)


def test_a_movie_vector_holds_the_weights_of_its_units(trained: TrainedModel, joint: TrainedModel) -> None:
    vectors = joint.movie_vectors()
    assert vectors.shape == (N_MOVIES, 2 * joint.n_hidden)
    both = np.concatenate([joint.rbm.weights[7], joint.rbm.weights[N_MOVIES + 7]])
    np.testing.assert_array_equal(vectors[7], both)
    np.testing.assert_array_equal(trained.movie_vectors(), trained.rbm.weights)


@pytest.fixture(scope="module")
def joint() -> TrainedModel:
    model, _ = finish(two_camps(), TrainingConfiguration(design="joint"))
    return model


def test_scores_are_log_odds_of_rated_by_all_kinds_of_units_and_of_liked(
    trained: TrainedModel, fan: RatingRows
) -> None:
    x = np.zeros(N_MOVIES)
    x[fan.indices] = trained.star_weights.weights(fan.stars)
    scale = trained.mean_length / 5
    power = trained.configuration.fold_in_length_power
    hidden = 1 / (1 + np.exp(-(scale**power * x @ trained.rbm.weights + trained.rbm.hidden_bias)))
    np.testing.assert_allclose(trained.fold_in(fan).hidden[0], hidden, rtol=1e-4)
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
    expected += settings.linear_strength * scale**0.25 * x @ coupled
    batch = RowBatch(fan, N_MOVIES)
    weighted = trained.weighted.state(batch, trained.star_weights.weights(fan.stars))
    reconstruction = (weighted @ trained.weighted.weights.T)[0]
    expected += settings.weighted_strength * (reconstruction - reconstruction.mean())
    watching = trained.fold_in(fan).scores(of_watching=True)[0]
    blend, popularity = 5 / (5 + settings.popularity_ratings), trained.popularity_scores
    np.testing.assert_allclose(watching, blend * expected + (1 - blend) * popularity, rtol=1e-3, atol=1e-4)
    assert settings.like_strength == 0.4
    like_model = trained.like_model
    state = like_model.fold_in(batch, fan.stars)
    expected += 0.4 * (like_model.log_odds(state)[0] - state.user_bias - like_model.liked_log_odds)
    np.testing.assert_allclose(unblended(trained).scores(fan)[0], expected, rtol=1e-3, atol=1e-4)
    scores = trained.scores(fan)[0]
    np.testing.assert_allclose(scores, blend * expected + (1 - blend) * popularity, rtol=1e-3, atol=1e-4)


def test_each_part_can_be_left_out_of_the_scores(trained: TrainedModel, fan: RatingRows) -> None:
    configuration = trained.configuration
    for without in (
        dataclasses.replace(configuration, like_strength=0.0),
        dataclasses.replace(configuration, weighted_strength=0.0),
        dataclasses.replace(configuration, linear_strength=0.0),
    ):
        scores = dataclasses.replace(trained, configuration=without).scores(fan)
        assert np.abs(scores - trained.scores(fan)).max() > 0.01
    bare = dataclasses.replace(
        unblended(trained),
        configuration=dataclasses.replace(configuration, like_strength=0.0, popularity_ratings=0.0),
        linear=LinearUnits.none(N_MOVIES),
        weighted=WeightedUnits.none(N_MOVIES),
    )
    np.testing.assert_array_equal(bare.scores(fan), bare.binary_scores(bare.fold_in(fan).hidden))


def test_plain_scores_are_those_of_a_textbook_rbm(trained: TrainedModel, fan: RatingRows) -> None:
    visible = np.zeros(N_MOVIES)
    visible[fan.indices] = 1
    hidden = 1 / (1 + np.exp(-(visible @ trained.rbm.weights + trained.rbm.hidden_bias)))
    expected = hidden @ trained.rbm.weights.T + trained.rbm.visible_bias
    np.testing.assert_allclose(trained.plain_scores(fan)[0], expected, rtol=1e-4, atol=1e-5)


def test_scores_are_the_log_probabilities_of_the_two_units(joint: TrainedModel, fan: RatingRows) -> None:
    trained = joint
    threshold = trained.configuration.rank_liked_at_least
    assert threshold is not None
    visible = np.zeros(2 * N_MOVIES)
    visible[fan.indices] = 1
    visible[N_MOVIES + fan.indices[fan.stars >= threshold]] = 1
    scale = (trained.mean_length / 5) ** trained.configuration.fold_in_length_power
    hidden = 1 / (1 + np.exp(-(scale * visible @ trained.rbm.weights + trained.rbm.hidden_bias)))
    np.testing.assert_allclose(trained.fold_in(fan).hidden[0], hidden, rtol=1e-4)
    log_probability = -np.logaddexp(0, -(hidden @ trained.rbm.weights.T + trained.rbm.visible_bias))
    expected = log_probability[:N_MOVIES] + log_probability[N_MOVIES:]
    np.testing.assert_allclose(unblended(trained).scores(fan)[0], expected, rtol=1e-4)


def test_an_empty_row_is_scored_and_blended_to_popularity(trained: TrainedModel) -> None:
    empty = RatingRows.single([], [], N_MOVIES)
    assert np.isfinite(trained.scores(empty)).all()
    np.testing.assert_array_equal(trained.scores(empty)[0], trained.popularity_scores)


def test_a_star_moves_away_from_films_like_this_one(trained: TrainedModel) -> None:
    """One star lowers its kind in score and rank, against the profile without it."""
    others = np.setdiff1d(SCIENCE_FICTION, [0, 3])
    for profiles in ([(3, 4)], [(3, 5), (25, 5)], [(45, 4), (50, 3), (3, 4)]):
        columns, stars = zip(*profiles, strict=True)
        before = RatingRows.single(columns, stars, N_MOVIES)
        after = RatingRows.single([*columns, 0], [*stars, 1], N_MOVIES)
        scores = [trained.scores(row)[0] for row in (before, after)]
        assert scores[1][others].mean() < scores[0][others].mean()
        ranks = [np.argsort(np.argsort(-of_row))[others].mean() for of_row in scores]
        assert ranks[1] >= ranks[0]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 15])
def test_a_row_of_dislikes_of_one_kind_ranks_the_other_higher(trained: TrainedModel, n: int) -> None:
    for hated, other in ((SCIENCE_FICTION, ROMANCE), (ROMANCE, SCIENCE_FICTION)):
        row = RatingRows.single(hated[:n], [1] * n, N_MOVIES)
        scores = trained.scores(row)[0]
        assert scores[other].mean() > scores[hated[n:]].mean()
        assert np.isin(best(scores, row), hated).sum() <= (2 if n > 1 else 4)


def test_popularity_scores_are_what_a_model_without_weights_says(
    joint: TrainedModel, fan: RatingRows
) -> None:
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
    np.testing.assert_allclose(blank.scores(fan)[0], trained.popularity_scores, rtol=1e-5)


def test_like_probability_is_a_probability_and_answers_for_anyone(
    trained: TrainedModel, fan: RatingRows
) -> None:
    empty = RatingRows.single([], [], N_MOVIES)
    for rows in (fan, empty):
        probability = trained.like_probability(rows)
        assert probability.shape == (1, N_MOVIES)
        assert probability.dtype == np.float32
        assert ((probability > 0) & (probability < 1)).all()
    chosen = trained.like_probability(fan, np.array([50, 2]))
    np.testing.assert_array_equal(chosen[0], trained.like_probability(fan)[0, [50, 2]])


def test_who_likes_everything_is_more_likely_to_like_the_next_movie(trained: TrainedModel) -> None:
    likes, dislikes = (RatingRows.single(DRAMA[:8], [stars] * 8, N_MOVIES) for stars in (5, 1))
    assert (trained.like_probability(likes) > trained.like_probability(dislikes)).all()


def test_rows_over_another_catalogue_are_refused(trained: TrainedModel) -> None:
    with pytest.raises(ValueError, match="the vocabulary has 60"):
        trained.fold_in(RatingRows.single([0], [5], 3))


def test_sizes_are_counted(trained: TrainedModel) -> None:
    assert (trained.n_movies, trained.liked_at_least) == (N_MOVIES, 3.0)
    assert trained.n_hidden == trained.configuration.hidden_units
    assert trained.nbytes > trained.rbm.weights.nbytes

"""The training generator: reports, determinism, refusals, learning, warm starts."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from app.learning.boltzmann.divergence import Diverged
from app.learning.configuration import InvalidConfiguration, TrainingConfiguration
from app.learning.epoch_reports import EpochReport
from app.learning.model_file import dump, load
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.training import (
    BINARY,
    StepReport,
    TooLittleData,
    balanced_threshold,
    completed,
    train,
)
from app.learning.vocabulary import Vocabulary
from tests.learning.tastes import finish, two_camps, vocabulary

SHORT = TrainingConfiguration(epochs=3, hidden_units=8, batch_size=32)
ALGORITHMS: list[dict[str, Any]] = [
    {"design": "rated", "algorithm": "cd"},
    {"design": "rated", "algorithm": "pcd"},
    {"design": "joint", "algorithm": "cd"},
    {"design": "joint", "algorithm": "cd", "k": 3},
    {"design": "joint", "algorithm": "pcd"},
    {"design": "masked", "algorithm": "cd"},
    {"design": "masked", "algorithm": "cd", "k": 2},
]


def test_every_minibatch_and_every_epoch_is_reported_with_rising_progress(camps: RatingRows) -> None:
    reports = list(train(camps, vocabulary(), SHORT))
    epochs = [report for report in reports if isinstance(report, EpochReport)]
    assert [report.epoch for report in epochs] == [1, 2, 3]
    progress = [report.progress for report in reports]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    first, last = reports.index(epochs[0]), reports.index(epochs[-1])
    assert reports[last - 1] == StepReport(epochs[-1].progress) == StepReport(BINARY.end)
    # Four minibatches in each epoch.
    assert [report.progress for report in reports[first - 4 : first]] == pytest.approx(
        [BINARY.progress(n / 12) for n in (1, 2, 3, 4)]
    )
    assert sum(BINARY.start < report.progress <= BINARY.end for report in reports) == 12 + 3
    assert any(report.progress > BINARY.end for report in reports)


def test_an_epoch_report_is_plain_json(camps: RatingRows) -> None:
    _, reports = finish(camps, SHORT)
    values = reports[-1].as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["free_energy_gap"] is None
    broken = dataclasses.replace(reports[-1], reconstruction_error=float("nan"))
    assert broken.as_dict()["reconstruction_error"] is None


@pytest.mark.parametrize("settings", ALGORITHMS)
def test_the_pseudo_likelihood_rises_and_the_reconstruction_error_falls(
    camps: RatingRows, settings: dict[str, Any]
) -> None:
    _, reports = finish(camps, TrainingConfiguration(epochs=30, hidden_units=16, **settings))
    assert reports[-1].pseudo_log_likelihood > reports[0].pseudo_log_likelihood
    assert reports[-1].reconstruction_error < reports[0].reconstruction_error
    assert reports[-1].learning_rate < reports[0].learning_rate


@pytest.mark.parametrize("settings", ALGORITHMS)
def test_equal_seeds_give_equal_models_and_other_seeds_others(
    camps: RatingRows, settings: dict[str, Any]
) -> None:
    configuration = dataclasses.replace(SHORT, **settings)
    first, again = (dump(finish(camps, configuration)[0]) for _ in range(2))
    other = dump(finish(camps, dataclasses.replace(configuration, seed=1))[0])
    assert first == again
    assert first != other


def test_users_without_ratings_are_left_out(camps: RatingRows) -> None:
    with_empty = RatingRows(
        np.concatenate([[0, 0], camps.indptr[1:], camps.indptr[-1:]]),
        camps.indices,
        camps.stars,
        camps.n_movies,
    )
    model, _ = finish(with_empty, SHORT)
    assert with_empty.n_users == camps.n_users + 2
    assert model.n_users == camps.n_users
    assert dump(model) == dump(finish(camps, SHORT)[0])


def test_every_rating_counts_in_the_popularity(camps: RatingRows) -> None:
    model, _ = finish(camps, SHORT)
    assert model.popularity.tolist() == camps.ratings_per_movie().tolist()
    assert model.mean_length == 16.0


def test_the_ranking_threshold_splits_the_stars_in_halves_but_never_below_liked_at_least(
    camps: RatingRows,
) -> None:
    assert balanced_threshold(np.array([1.0, 2, 3, 4, 4, 5, 5, 5])) == 4.0
    assert balanced_threshold(np.array([5.0, 5.0])) == 5.0
    assert balanced_threshold(np.array([1.0, 5.0, 5.0])) == 5.0
    camps = RatingRows(camps.indptr, camps.indices, np.minimum(camps.stars, 4), camps.n_movies)
    assert finish(camps, SHORT)[0].configuration.rank_liked_at_least == 4.0
    demanding = dataclasses.replace(SHORT, liked_at_least=4.5)
    assert finish(camps, demanding)[0].configuration.rank_liked_at_least == 4.5
    masked = dataclasses.replace(SHORT, design="masked")
    assert finish(camps, masked)[0].configuration.rank_liked_at_least == 3.0
    explicit = dataclasses.replace(SHORT, rank_liked_at_least=2.0)
    assert finish(camps, explicit)[0].configuration.rank_liked_at_least == 2.0


def test_too_little_data_is_refused_with_what_there_is_and_the_least_that_works() -> None:
    rows = two_camps(4)
    with pytest.raises(
        TooLittleData, match=r"64 ratings .* by 4 users.*least is 50 ratings by 10 users"
    ) as caught:
        next(train(rows, vocabulary(), TrainingConfiguration()))
    assert caught.value.n_users == 4
    assert caught.value.n_ratings == 64
    nothing = RatingRows.from_coordinates([], [], [], 0, 60)
    with pytest.raises(TooLittleData, match="0 ratings"):
        next(train(nothing, vocabulary(), TrainingConfiguration()))


def test_the_least_that_works_works() -> None:
    users, movies = np.divmod(np.arange(50), 5)
    rows = RatingRows.from_coordinates(users, (movies + users) % 10, 1 + np.arange(50) % 5, 10, 10)
    model, _ = finish(rows)
    assert np.isfinite(model.scores(rows)).all()
    assert np.isfinite(model.like_probability(rows)).all()


def test_ratings_that_are_all_liked_train_the_joint_design_and_are_refused_by_the_masked_one() -> None:
    camps = two_camps(30)
    liked = RatingRows(camps.indptr, camps.indices, np.full(camps.n_ratings, 5.0, np.float32), camps.n_movies)
    model, _ = finish(liked, SHORT)
    assert model.like_probability(liked).min() > 0.8
    with pytest.raises(TooLittleData, match=r"The masked design .* both sides"):
        finish(liked, dataclasses.replace(SHORT, design="masked"))


def test_decay_that_alone_makes_the_weights_swing_is_named(camps: RatingRows) -> None:
    configuration = TrainingConfiguration(learning_rate=1.0, weight_decay=9.0, momentum=0.0, epochs=50)
    with pytest.raises(Diverged, match=r"lower weight_decay \(it was 9; try 0.02\)") as caught:
        finish(camps, configuration)
    assert caught.value.setting == "weight_decay"
    model, _ = finish(camps, dataclasses.replace(configuration, weight_decay=0.02))
    assert np.isfinite(model.rbm.weights).all()


def test_exploding_weights_are_caught_before_a_report_is_measured_on_them(camps: RatingRows) -> None:
    configuration = TrainingConfiguration(learning_rate=10, weight_decay=10, momentum=0.999, epochs=50)
    with pytest.raises(Diverged, match="lower learning_rate"):  # and no warning of an overflow
        finish(camps, configuration)


@pytest.mark.parametrize("rate", [3.0, 10.0])
def test_divergence_is_caught_within_the_epoch_and_names_the_setting_to_lower(
    camps: RatingRows, rate: float
) -> None:
    configuration = TrainingConfiguration(
        learning_rate=rate, momentum=0.99, weight_decay=5.0, epochs=50, batch_size=10, hidden_units=16
    )
    with pytest.raises(Diverged, match="lower learning_rate") as caught:
        finish(camps, configuration)
    assert caught.value.setting == "learning_rate"
    assert 1 <= caught.value.epoch <= 50


def test_a_setting_that_is_not_allowed_is_refused_before_anything_else(camps: RatingRows) -> None:
    with pytest.raises(InvalidConfiguration, match="epochs"):
        next(train(camps, vocabulary(), TrainingConfiguration(epochs=0)))


def test_a_vocabulary_of_another_size_is_refused(camps: RatingRows) -> None:
    with pytest.raises(ValueError, match="the vocabulary has 3"):
        next(train(camps, vocabulary(3), SHORT))


def test_weighted_units_grow_out_of_the_linear_ones_whatever_the_seed(camps: RatingRows) -> None:
    def weighted(seed: int, **settings: Any) -> np.ndarray:
        model, _ = finish(camps, dataclasses.replace(SHORT, seed=seed, weighted_units=6, **settings))
        return model.weighted.weights

    np.testing.assert_array_equal(weighted(0), weighted(1))
    assert np.abs(weighted(0, linear_units=0) - weighted(1, linear_units=0)).max() > 0.01


@pytest.mark.slow
def test_no_array_of_users_times_movies_ever_exists() -> None:
    rng = np.random.default_rng(0)
    n_users, n_movies = 3_000, 4_000
    users, movies = (
        np.repeat(np.arange(n_users), 10),
        rng.permuted(np.tile(np.arange(n_movies), (300, 1)), axis=1),
    )
    cells = np.unique(users * n_movies + movies[:, :100].ravel())
    stars = rng.integers(1, 6, cells.size)
    rows = RatingRows.from_coordinates(cells // n_movies, cells % n_movies, stars, n_users, n_movies)
    tracemalloc.start()
    try:
        finish(
            rows,
            TrainingConfiguration(epochs=1, hidden_units=4, linear_units=8, weighted_units=4, batch_size=50),
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * n_users * n_movies  # bytes: half of a float32 array


def test_unrated_movies_train_and_rank_last(camps: RatingRows) -> None:
    wider = RatingRows(camps.indptr, camps.indices, camps.stars, camps.n_movies + 2)
    model, _ = finish(wider)
    scores = model.scores(wider)
    assert (scores[:, -2:].max(axis=1) < scores[:, :-2].min(axis=1)).mean() > 0.9


def first_epoch(rows: RatingRows, settings: TrainingConfiguration, **how: Any) -> EpochReport:
    reports = train(rows, vocabulary(), settings, **how)
    return next(report for report in reports if isinstance(report, EpochReport))


@pytest.mark.parametrize("design", ["rated", "joint", "masked"])
def test_held_out_users_are_measured_and_change_nothing(camps: RatingRows, design: Any) -> None:
    unseen = two_camps(20, seed=9)
    with_empty = RatingRows(
        np.concatenate([[0, 0], unseen.indptr[1:], unseen.indptr[-1:]]), unseen.indices, unseen.stars, 60
    )
    settings = dataclasses.replace(SHORT, design=design)
    watched = first_epoch(camps, settings, held_out=unseen)
    assert watched.weight_norm == first_epoch(camps, settings).weight_norm
    assert watched.free_energy_gap is not None
    assert watched.held_out_pseudo_log_likelihood is not None
    assert watched.held_out_pseudo_log_likelihood < 0
    again = first_epoch(camps, settings, held_out=with_empty)
    assert again.held_out_pseudo_log_likelihood == watched.held_out_pseudo_log_likelihood


def test_held_out_users_over_other_movies_are_refused(camps: RatingRows) -> None:
    with pytest.raises(ValueError, match="held-out rows have 3 movies"):
        first_epoch(camps, SHORT, held_out=RatingRows.single([0], [5], 3))


def test_a_warm_start_begins_where_the_model_was_left(camps: RatingRows, trained: TrainedModel) -> None:
    still = TrainingConfiguration(epochs=1, learning_rate=1e-6, weight_decay=0.0)
    again, reports = finish(camps, still, start_from=trained)
    np.testing.assert_allclose(again.rbm.weights, trained.rbm.weights, atol=1e-4)
    np.testing.assert_allclose(again.scores(camps), trained.scores(camps), atol=1e-2)
    assert again.configuration.rank_liked_at_least == trained.configuration.rank_liked_at_least
    _, from_nothing = finish(camps, still)
    assert reports[0].pseudo_log_likelihood > from_nothing[0].pseudo_log_likelihood + 0.05
    assert not np.shares_memory(again.rbm.weights, trained.rbm.weights)


@pytest.mark.parametrize("design", ["rated", "joint", "masked"])
def test_a_warm_start_keeps_the_movies_that_stayed(camps: RatingRows, design: Any) -> None:
    configuration = TrainingConfiguration(design=design, epochs=20, hidden_units=8)
    earlier = load(dump(finish(camps, configuration)[0]))  # read-only arrays, as a stored version has
    gone = 5
    order = np.random.default_rng(0).permutation(60)
    order = order[order != gone]
    ids = [f"m{column}" for column in order] + ["new one", "new two"]
    column_of = np.full(60, -1)
    column_of[order] = np.arange(59)
    kept = camps.where(camps.indices != gone)
    rows = RatingRows.from_coordinates(
        [*kept.users, 0, 1], [*column_of[kept.indices], 59, 60], [*kept.stars, 5, 1], camps.n_users, 61
    )
    still = dataclasses.replace(configuration, epochs=1, learning_rate=1e-6, weight_decay=0.0)
    model = completed(train(rows, Vocabulary(ids), still, start_from=earlier))
    blocks = model.rbm.n_visible // 61
    before = earlier.rbm.weights.reshape(blocks, 60, 8)
    after = model.rbm.weights.reshape(blocks, 61, 8)
    np.testing.assert_allclose(after[:, :59], before[:, order], atol=1e-4)
    assert np.abs(after[:, 59:]).max() < 0.1
    bias = model.rbm.visible_bias.reshape(blocks, 61)
    np.testing.assert_allclose(
        bias[:, :59], earlier.rbm.visible_bias.reshape(blocks, 60)[:, order], atol=1e-4
    )
    np.testing.assert_allclose(model.rbm.hidden_bias, earlier.rbm.hidden_bias, atol=1e-4)


def test_a_warm_start_of_another_kind_of_model_is_refused(camps: RatingRows, trained: TrainedModel) -> None:
    with pytest.raises(InvalidConfiguration, match=r"design = 'masked'.*'rated'"):
        finish(camps, TrainingConfiguration(design="masked"), start_from=trained)
    with pytest.raises(InvalidConfiguration, match="hidden_units = 7"):
        finish(camps, TrainingConfiguration(hidden_units=7), start_from=trained)

"""Sampled negative phase: plain CD if all is sampled, unbiased and lazy otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning.boltzmann.contrastive_divergence import ContrastiveDivergence
from app.learning.boltzmann.divergence import Diverged
from app.learning.boltzmann.optimisers import SGD
from app.learning.boltzmann.rbm import RBM, Sparse
from app.learning.boltzmann.sampled_negatives import SampledContrastiveDivergence
from app.learning.configuration import InvalidConfiguration, TrainingConfiguration
from app.learning.evaluation.quality import ranking_quality
from app.learning.evaluation.splitting import stratified
from app.learning.model_file import dump
from app.learning.rating_matrix import RatingRows
from tests.learning.tastes import finish, ml_100k

N_VISIBLE, N_HIDDEN = 40, 5


def random_rbm(seed: int = 0) -> RBM:
    rng = np.random.default_rng(seed)
    bias = rng.normal(-2.0, 1.0, N_VISIBLE)
    return RBM.initial(bias, N_HIDDEN, rng, deviation=0.5, dtype=np.float64)


def minibatches(n: int, seed: int = 1) -> list[Sparse]:
    """Rows that never have the second half of the units on."""
    rng = np.random.default_rng(seed)
    rows = (rng.random((n, 6, N_VISIBLE)) < 0.15).astype(np.float64)
    rows[:, :, N_VISIBLE // 2 :] = 0
    return [sp.csr_array(part) for part in rows]


def sampled(rbm: RBM, n_sampled: int, seed: int = 3, **settings: Any) -> SampledContrastiveDivergence:
    popularity, rng = np.arange(N_VISIBLE), np.random.default_rng(seed)
    return SampledContrastiveDivergence(
        rbm, popularity, n_sampled, momentum=0.5, weight_decay=0.2, rng=rng, **settings
    )


def test_sampling_every_unit_is_plain_contrastive_divergence() -> None:
    dense, lazy = random_rbm(), random_rbm()
    rng, optimiser, learning = np.random.default_rng(3), SGD(0.5, 0.2), sampled(lazy, N_VISIBLE)
    for number, rows in enumerate(minibatches(7)):
        rate = 0.3 / (number + 1)
        optimiser.ascend(dense, ContrastiveDivergence().gradient(dense, rows, rng), rate)
        learning.update(rows, rate)
    learning.settle()
    np.testing.assert_allclose(lazy.weights, dense.weights, atol=1e-12)
    np.testing.assert_allclose(lazy.visible_bias, dense.visible_bias, atol=1e-12)
    np.testing.assert_allclose(lazy.hidden_bias, dense.hidden_bias, atol=1e-12)


@pytest.mark.parametrize("settle_every", [1, 3, 100])
def test_untouched_weights_decay_and_keep_their_momentum_as_if_every_update_passed_over_them(
    settle_every: int,
) -> None:
    eager, lazy = random_rbm(), random_rbm()
    now_and_then, once = sampled(eager, 3), sampled(lazy, 3)
    for number, rows in enumerate(minibatches(12), start=1):
        rate = 0.3 / number
        for learning in (now_and_then, once):
            learning.update(rows, rate)
        now_and_then.settle()
        if number % settle_every == 0:
            once.settle()
    once.settle()
    np.testing.assert_allclose(lazy.weights, eager.weights, atol=1e-12)


def test_without_a_gradient_settling_equals_the_written_out_recurrence() -> None:
    rbm = random_rbm()
    untouched = N_VISIBLE - 1
    weights, step = rbm.weights[untouched].copy(), np.zeros(N_HIDDEN)
    learning = sampled(rbm, 0)  # nothing but the minibatch's own units
    for rows in minibatches(9):
        learning.update(rows, 0.4)
        step = 0.5 * step - 0.4 * 0.2 * weights
        weights += step
    assert not np.allclose(rbm.weights[untouched], weights)
    learning.settle()
    np.testing.assert_allclose(rbm.weights[untouched], weights)


@pytest.mark.parametrize("rows_of_a_group", [50, 2, 1])
def test_the_hidden_input_is_on_average_that_of_the_whole_reconstruction(rows_of_a_group: int) -> None:
    """All units in all rows, in three groups of two rows, and in six of one."""
    rbm, rows = random_rbm(), minibatches(1)[0]
    learning = sampled(rbm, 6, rows_of_a_group=rows_of_a_group)
    state = np.random.default_rng(2).integers(0, 2, (6, N_HIDDEN)).astype(np.float64)
    whole = rbm.hidden_input(rbm.visible_mean(state))
    draws = np.empty((6_000, 6, N_HIDDEN))
    for number in range(len(draws)):
        touched = learning.touched(rows)
        assert np.isin(rows.indices, touched.units).all()
        assert np.unique(touched.units).size == touched.units.size
        part = RBM(rbm.weights[touched.units], rbm.visible_bias[touched.units], rbm.hidden_bias)
        draws[number] = touched.reconstruction(part, state).hidden_input
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (error > 0).all()
    assert (np.abs(draws.mean(axis=0) - whole) < 4.5 * error).all()


def test_units_that_are_often_on_are_reconstructed_in_every_row_and_others_in_one_group() -> None:
    rng = np.random.default_rng(0)
    share = np.repeat([0.5, 0.02], [8, 32])  # on in 100 and in 4 of 200 rows
    rows = sp.csr_array((rng.random((200, N_VISIBLE)) < share).astype(np.float64))
    learning = SampledContrastiveDivergence(
        random_rbm(), np.rint(1e4 * share).astype(int), 0, momentum=0.0, weight_decay=0.0, rng=rng
    )
    touched = learning.touched(rows)
    whole, *groups = touched.blocks
    assert sorted(touched.units[whole.units].tolist()) == [*range(8)]
    assert whole.rows == slice(0, 200)
    assert [block.rows.start for block in groups] == [0, 50, 100, 150]
    others = np.concatenate([touched.units[block.units] for block in groups])
    assert sorted(others.tolist()) == sorted(np.unique(rows.indices[rows.indices >= 8]).tolist())


@pytest.mark.parametrize("rows_of_a_group", [30, 7, 1])
def test_without_weights_a_group_of_rows_gives_the_gradient_of_all(rows_of_a_group: int) -> None:
    """Without weights, reconstructions do not depend on the hidden states."""
    rows = sp.csr_array((np.random.default_rng(1).random((60, N_VISIBLE)) < 0.1).astype(np.float64))
    bias = np.linspace(-3, 0, N_VISIBLE)
    by_all, by_groups = (RBM(np.zeros((N_VISIBLE, N_HIDDEN)), bias.copy(), np.ones(N_HIDDEN)) for _ in "ab")
    sampled(by_all, 0, rows_of_a_group=60).update(rows, 1.0)
    grouped = sampled(by_groups, 0, rows_of_a_group=rows_of_a_group)
    grouped.update(rows, 1.0)
    assert len(grouped.touched(rows).blocks) == 1 + 60 // rows_of_a_group
    np.testing.assert_allclose(by_groups.weights, by_all.weights, atol=1e-12)
    np.testing.assert_allclose(by_groups.visible_bias, by_all.visible_bias, atol=1e-12)


def test_minibatches_are_not_changed() -> None:
    rows = minibatches(1)[0]
    before = rows.copy()
    sampled(random_rbm(), 3).update(rows, 0.1)
    assert (rows.indices == before.indices).all()
    assert (rows.data == before.data).all()


def test_training_with_a_sample_is_deterministic_and_learns(camps: RatingRows) -> None:
    configuration = TrainingConfiguration(epochs=60, hidden_units=16, negative_sample=20)
    model, reports = finish(camps, configuration)
    assert dump(model) == dump(finish(camps, configuration)[0])
    assert reports[-1].pseudo_log_likelihood > reports[0].pseudo_log_likelihood
    assert model.configuration.negative_sample == 20


def test_divergence_is_caught_at_the_end_of_the_epoch(camps: RatingRows) -> None:
    configuration = TrainingConfiguration(
        learning_rate=10.0, momentum=0.99, weight_decay=5.0, epochs=50, hidden_units=16, negative_sample=20
    )
    with pytest.raises(Diverged, match="lower"):
        finish(camps, configuration)


def test_the_shape_of_the_data_decides_where_the_setting_is_open() -> None:
    small = TrainingConfiguration().resolved(943, 1_682, 100_000)
    medium = TrainingConfiguration().resolved(6_040, 3_706, 1_000_000)
    large = TrainingConfiguration().resolved(162_000, 59_000, 25_000_000)
    assert (small.negative_sample, medium.negative_sample) == (0, 0)
    assert large.negative_sample is not None
    assert large.negative_sample > 0
    assert TrainingConfiguration(negative_sample=0).resolved(162_000, 59_000, 25_000_000).negative_sample == 0
    for other in (TrainingConfiguration(k=2), TrainingConfiguration(algorithm="pcd")):
        assert other.resolved(162_000, 59_000, 25_000_000).negative_sample == 0
        with pytest.raises(InvalidConfiguration, match="negative_sample"):
            dataclasses.replace(other, negative_sample=100).validated()


@pytest.mark.slow
def test_on_movielens_the_sample_costs_less_than_a_hundredth_of_ndcg() -> None:
    train, test = stratified(ml_100k(), np.random.default_rng(42))
    ndcg = []
    for n_sampled in (0, 300):
        binary = {"linear_units": 0, "weighted_units": 0, "like_strength": 0.0, "epochs": 50}
        model, _ = finish(train, TrainingConfiguration.from_dict(binary | {"negative_sample": n_sampled}))
        ndcg.append(ranking_quality(model.scores, train, test).means()["ndcg"])
    assert ndcg[1] > 0.99 * ndcg[0]

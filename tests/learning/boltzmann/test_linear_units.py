"""Linear hidden units against a Gaussian's conditionals, EASE and an exact search."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning.boltzmann import linear_units
from app.learning.boltzmann.linear_units import LinearUnits
from app.learning.boltzmann.rbm import Sparse
from app.learning.evaluation.baselines import EASE
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch
from tests.learning.tastes import two_camps


def ones(rows: RatingRows) -> Sparse:
    return sp.csr_array(
        (np.ones(rows.n_ratings, np.float32), rows.indices, rows.indptr), shape=(rows.n_users, rows.n_movies)
    )


def compressed(dense: np.ndarray) -> Sparse:
    return sp.csr_array(dense.astype(np.float32))


@pytest.fixture
def visible() -> Sparse:
    """30 users, 12 movies: weights of either sign, lengths from 0, an unrated movie."""
    rng = np.random.default_rng(0)
    dense = rng.normal(1, 0.6, (30, 12)) * (rng.random((30, 12)) < rng.uniform(0.1, 0.9, 30)[:, None])
    dense[:, 11] = 0
    return compressed(dense)


def expected(units: LinearUnits, rows: Sparse, mean_length: float) -> np.ndarray:
    """What all other movies of a row say of each movie."""
    batch = RowBatch(rows, rows.shape[1])
    state, vectors = units.state(batch, rows.data, mean_length), units.vectors()
    own = rows.toarray() * batch.scale(mean_length, linear_units.FOLD_IN_POWER)[:, None]
    result: np.ndarray = state @ vectors.T - own * (units.weights * vectors).sum(axis=1)
    return result


def precision(visible: Sparse) -> np.ndarray:
    """The inverse of the weighted second moments with their ridge, by the book."""
    dense = visible.toarray().astype(np.float64)
    lengths = (dense != 0).sum(axis=1)
    weight = (lengths.mean() / np.maximum(lengths, 1)) ** linear_units.LENGTH_POWER
    moments = dense.T @ (dense * weight[:, None])
    ridge = linear_units.RIDGE + linear_units.RIDGE_BY_MASS * np.diag(moments)
    return np.linalg.inv(moments + np.diag(ridge))


def conditionals(P: np.ndarray) -> np.ndarray:
    """E[x_i | all others] = x B of a Gaussian with the precision P."""
    B = -P / np.diag(P)
    np.fill_diagonal(B, 0)
    return B


def test_all_units_say_what_a_gaussian_says_of_one_movie_by_the_others(
    visible: Sparse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_units, "LEADING", 12)  # all of them: both parts are the whole
    units = LinearUnits.fit(visible, 100, np.random.default_rng(0))
    assert units.n_units <= 11  # the last movie is unrated, so nothing varies there
    P = precision(visible)
    np.testing.assert_allclose(units.variance, 1 / np.diag(P), rtol=1e-4)
    mean_length = 5.0
    lengths = np.maximum(np.diff(visible.indptr), 1)
    scale = (mean_length / lengths) ** linear_units.FOLD_IN_POWER
    by_the_book = 2 * (visible.toarray() * scale[:, None]) @ conditionals(P)
    np.testing.assert_allclose(expected(units, visible, mean_length), by_the_book, rtol=1e-3, atol=1e-5)


def test_without_weights_of_users_and_with_an_even_ridge_it_is_ease(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LENGTH_POWER", 0.0), ("RIDGE_BY_MASS", 0.0), ("FOLD_IN_POWER", 0.0)):
        monkeypatch.setattr(linear_units, name, value)
    monkeypatch.setattr(linear_units, "LEADING", 60)
    rows = two_camps()
    units = LinearUnits.fit(ones(rows), 60, np.random.default_rng(0))
    ease = EASE(rows, regularisation=linear_units.RIDGE)
    np.testing.assert_allclose(expected(units, ones(rows), 1.0) / 2, ease.scores(rows), rtol=1e-3, atol=1e-5)


def test_the_leading_units_are_a_model_of_their_own(visible: Sparse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_units, "LEADING", 3)
    units = LinearUnits.fit(visible, 12, np.random.default_rng(0))
    alone = LinearUnits.fit(visible, 3, np.random.default_rng(0))  # where both parts are these three
    np.testing.assert_allclose(units.leading_variance, alone.variance, rtol=1e-5)
    monkeypatch.setattr(linear_units, "LEADING", 0)
    all_alone = expected(units, visible, 5.0)
    leading_alone = expected(alone, visible, 5.0)
    monkeypatch.setattr(linear_units, "LEADING", 3)
    np.testing.assert_allclose(expected(units, visible, 5.0), all_alone + leading_alone, rtol=1e-3, atol=1e-5)


def test_searched_units_are_those_found_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    visible = ones(two_camps())
    exact = LinearUnits.fit(visible, 2, np.random.default_rng(0))
    monkeypatch.setattr(linear_units, "EXACT_TO", 0)
    monkeypatch.setattr(linear_units, "EXACT_FOR_MANY_TO", 0)
    searched = LinearUnits.fit(visible, 2, np.random.default_rng(1))
    np.testing.assert_allclose(
        expected(searched, visible, 16.0), expected(exact, visible, 16.0), rtol=0.02, atol=1e-3
    )


def test_a_row_and_its_columns_may_be_the_smaller_side(visible: Sparse) -> None:
    few_users = compressed(visible.toarray()[3:7])
    assert np.diff(few_users.indptr).all()
    units = LinearUnits.fit(few_users, 100, np.random.default_rng(0))
    assert units.n_units == 4
    np.testing.assert_allclose(units.variance, 1 / np.diag(precision(few_users)), rtol=1e-4)


def test_nothing_to_learn_gives_no_units(visible: Sparse) -> None:
    for rows, n_units in ((visible, 0), (compressed(np.zeros((3, 12))), 5)):
        units = LinearUnits.fit(rows, n_units, np.random.default_rng(0))
        assert units.n_units == 0
        assert not expected(units, visible, 5.0).any()
        assert np.isfinite(units.variance).all()


def test_arrays_that_do_not_fit_are_refused() -> None:
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        LinearUnits(np.zeros((4, 2), np.float32), ones, ones)

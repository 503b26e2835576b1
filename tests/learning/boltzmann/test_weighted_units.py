"""Weighted hidden units against the regressions that define them, written densely."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning.boltzmann import weighted_units
from app.learning.boltzmann.rbm import Dense, Sparse
from app.learning.boltzmann.weighted_units import WeightedUnits, fitted
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION, two_camps


def fit(weighted_rows: Sparse, n_units: int, seed: int = 0) -> WeightedUnits:
    return finished(fitted(weighted_rows, n_units, np.random.default_rng(seed)))[0]


def finished(fitting: Generator[float, None, WeightedUnits]) -> tuple[WeightedUnits, list[float]]:
    shares = []
    while True:
        try:
            shares.append(next(fitting))
        except StopIteration as end:
            return end.value, shares


def compressed(dense: np.ndarray) -> Sparse:
    return sp.csr_array(dense.astype(np.float32))


def ones(rows: RatingRows) -> Sparse:
    return sp.csr_array(
        (np.ones(rows.n_ratings, np.float32), rows.indices, rows.indptr), shape=(rows.n_users, rows.n_movies)
    )


@pytest.fixture
def weighted_rows() -> Sparse:
    """Star weights of either sign; a user without ratings, and a movie."""
    rng = np.random.default_rng(0)
    rated = rng.random((40, 12)) < rng.uniform(0.2, 0.9, 40)[:, None]
    rated[7], rated[:, 11] = False, False
    users, movies = np.nonzero(rated)
    values = rng.normal(1, 0.6, users.size).astype(np.float32)
    values[3] = 0  # rated all the same
    return sp.csr_array((values, (users, movies)), shape=rated.shape)


@pytest.fixture
def units() -> WeightedUnits:
    return WeightedUnits(np.random.default_rng(1).normal(0, 1, (12, 4)).astype(np.float32), ridge=RIDGE)


RIDGE = 7.5


def state(units: WeightedUnits, rows: Sparse) -> Dense:
    """The hidden means of rows of star weights."""
    return units.state(RowBatch(rows, rows.shape[1]), rows.data)


def rated_of(visible: Sparse) -> np.ndarray:
    rated = np.zeros(visible.shape, np.bool_)
    rated[np.repeat(np.arange(visible.shape[0]), np.diff(visible.indptr)), visible.indices] = True
    return rated


def visible_of(weighted_rows: Sparse) -> np.ndarray:
    return np.where(rated_of(weighted_rows), 1 + weighted_units.STAR_SHARE * (weighted_rows.toarray() - 1), 0)


def energy(
    weighted_rows: Sparse, hidden: np.ndarray, weights: np.ndarray, ridge: float | np.ndarray = RIDGE
) -> np.ndarray:
    """E(x, g) of each row, by the book."""
    precision = 1 + weighted_units.CONFIDENCE * rated_of(weighted_rows)
    left = visible_of(weighted_rows) - hidden @ weights.T
    result: np.ndarray = (precision * left**2).sum(axis=1) / 2 + ridge * (hidden**2).sum(axis=1) / 2
    return result


def energy_of_row(row: Sparse, units: WeightedUnits) -> Callable[[np.ndarray], float]:
    return lambda hidden: float(energy(row, hidden[None], units.weights)[0])


def slope(value: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences."""
    result, step = np.zeros(at.size), 1e-3
    for place in range(at.size):
        moved = np.zeros(at.size)
        moved[place] = step
        ahead, behind = value(at + moved.reshape(at.shape)), value(at - moved.reshape(at.shape))
        result[place] = (ahead - behind) / (2 * step)
    return result


def test_the_hidden_mean_is_where_the_energy_is_least(
    weighted_rows: Sparse, units: WeightedUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a row, g is Gaussian, so its mean is its mode."""
    unshrunk(monkeypatch)
    hidden = state(units, weighted_rows).astype(np.float64)
    assert hidden.shape == (40, 4)
    for user in (0, 7, 21):
        slopes = slope(energy_of_row(weighted_rows[[user]], units), hidden[user])
        np.testing.assert_allclose(slopes, 0, atol=1e-3)
    assert not hidden[7].any()  # nothing rated says nothing
    assert np.abs(hidden[0]).max() > 0.01


def test_a_rated_movie_speaks_louder_than_an_absent_one(units: WeightedUnits) -> None:
    """With one unit and two movies the regression can be done by hand."""
    two = WeightedUnits(np.array([[2.0], [1.0]], np.float32), ridge=RIDGE)
    row = sp.csr_array(np.array([[1.0, 0.0]], np.float32))
    weight = 1 + weighted_units.CONFIDENCE
    by_hand = weight * 2 / (weight * 4 + 1 + RIDGE)
    assert state(two, row)[0, 0] == pytest.approx(by_hand, rel=1e-6)
    np.testing.assert_allclose(state(two, row) @ two.weights.T, [[2 * by_hand, by_hand]], rtol=1e-6)


def test_leaving_out_each_rating_is_what_regressing_each_rest_alone_gives(
    weighted_rows: Sparse, units: WeightedUnits
) -> None:
    """One inverse serves all rows of such a batch."""
    row = weighted_rows[[0]].toarray()[0]
    rated = np.flatnonzero(rated_of(weighted_rows[[0]])[0])
    rest = [np.where(np.arange(12) == left_out, 0, row) for left_out in rated]
    together = state(units, compressed(np.array([row, *rest])))
    for result, alone in zip(together, [row, *rest], strict=True):
        np.testing.assert_allclose(result, state(units, compressed(alone[None]))[0], rtol=1e-4, atol=1e-6)
    assert together.dtype == np.float32
    assert np.abs(together[1:] - together[0]).max() > 0.01


def test_a_row_that_stands_for_twice_its_ratings_is_regressed_with_each_of_them_twice(
    weighted_rows: Sparse, units: WeightedUnits
) -> None:
    row = weighted_rows[[0]]
    lengths = np.array([2 * row.nnz])
    result = units.state(RowBatch(row, 12, lengths), row.data)
    rated = units.weights[row.indices].astype(np.float64)
    precision = units.weights.T @ units.weights + 2 * weighted_units.CONFIDENCE * rated.T @ rated
    pull = 2 * (1 + weighted_units.CONFIDENCE) * visible_of(row)[0, row.indices] @ rated
    by_the_book = np.linalg.solve(precision + RIDGE * np.eye(4), pull)
    np.testing.assert_allclose(result[0], by_the_book, rtol=1e-4)


def test_the_last_step_of_learning_leaves_the_movies_where_their_density_is_highest(
    weighted_rows: Sparse, monkeypatch: pytest.MonkeyPatch
) -> None:
    unshrunk(monkeypatch)
    monkeypatch.setattr(weighted_units, "ROUNDS", 60)  # by then the users do not move any more either
    units = fit(weighted_rows, 3)
    rated = rated_of(weighted_rows)
    user_ridge, ridge = (
        weighted_units.RIDGE * np.sqrt(np.maximum(rated.sum(axis=axis), 1)) for axis in (1, 0)
    )
    hidden = np.concatenate(
        [
            state(WeightedUnits(units.weights, float(of_user)), weighted_rows[[user]])
            for user, of_user in enumerate(user_ridge)
        ]
    )

    def whole(weights: np.ndarray) -> float:
        of_users = energy(weighted_rows, hidden, weights, user_ridge).sum()
        return float(of_users + (ridge * (weights**2).sum(axis=1)).sum() / 2)

    slopes = slope(whole, units.weights.astype(np.float64))
    np.testing.assert_allclose(slopes, 0, atol=0.02)
    assert np.abs(slope(whole, units.weights * 1.2)).max() > 0.2  # elsewhere it is steep
    assert not units.weights[11].any()  # unrated
    assert units.ridge == pytest.approx(weighted_units.RIDGE * np.sqrt(rated.sum() / 40))


def unshrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink no row, whatever its star weights."""
    monkeypatch.setattr(weighted_units, "shrinkage", lambda mean: np.ones(np.shape(mean), np.float32))


@pytest.mark.parametrize(
    ("star_weights", "factor"), [([-0.2, -0.1, 0.0], 0.0), ([0.1, 0.5, 0.6], 0.5), ([0.6, 1.2, 1.0], 1.0)]
)
def test_a_row_of_dislikes_is_shrunk(
    star_weights: list[float], factor: float, units: WeightedUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = sp.csr_array((np.array(star_weights, np.float32), np.arange(3), [0, 3]), shape=(1, 12))
    shrunk = state(units, row)
    unshrunk(monkeypatch)
    assert np.abs(state(units, row)).max() > 0.01
    np.testing.assert_allclose(shrunk, factor * state(units, row), rtol=1e-5, atol=1e-7)


def test_camps_are_separated_by_one_rating() -> None:
    weighted_rows = ones(two_camps())
    units = fit(weighted_rows, 4)
    for loved, other in ((SCIENCE_FICTION, ROMANCE), (ROMANCE, SCIENCE_FICTION)):
        row = sp.csr_array((np.ones(1, np.float32), [loved[0]], [0, 1]), shape=(1, N_MOVIES))
        result = (state(units, row) @ units.vectors().T)[0]
        assert result[loved].min() > result[other].max()
        assert result.mean() == pytest.approx(0, abs=1e-5)


def test_progress_rises_to_one_and_equal_seeds_give_equal_units(
    weighted_rows: Sparse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_units, "SOLVED_AT_ONCE", 9)
    units, shares = finished(fitted(weighted_rows, 3, np.random.default_rng(5)))
    assert len(shares) == weighted_units.ROUNDS * (5 + 2)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    monkeypatch.undo()
    np.testing.assert_allclose(fit(weighted_rows, 3, 5).weights, units.weights, rtol=1e-4, atol=1e-6)
    assert fit(weighted_rows, 3, 5).weights.tobytes() == fit(weighted_rows, 3, 5).weights.tobytes()


def test_where_learning_starts_is_no_matter_of_chance_or_of_scale(weighted_rows: Sparse) -> None:
    start = np.random.default_rng(2).normal(0, 1, (12, 5)).astype(np.float32)
    first = begun(weighted_rows, 3, start, seed=0)
    np.testing.assert_allclose(begun(weighted_rows, 3, 50 * start, seed=1), first, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(begun(weighted_rows, 3, start[:, :3], seed=2), first)  # the leading columns
    assert np.abs(first - fit(weighted_rows, 3).weights).max() > 0.01
    # Absent columns of the start are drawn, and nothing at all says nothing.
    one, other = (begun(weighted_rows, 3, start[:, :2], seed) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.01
    for nothing in (start[:, :0], np.zeros_like(start)):
        np.testing.assert_array_equal(begun(weighted_rows, 3, nothing, seed=0), fit(weighted_rows, 3).weights)


def begun(weighted_rows: Sparse, n_units: int, start: Dense, seed: int) -> Dense:
    return finished(fitted(weighted_rows, n_units, np.random.default_rng(seed), start))[0].weights


def test_long_rows_are_squared_in_parts(weighted_rows: Sparse, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(weighted_rows, 3)
    monkeypatch.setattr(weighted_units, "ENTRIES_AT_ONCE", 4)
    np.testing.assert_allclose(fit(weighted_rows, 3).weights, whole.weights, rtol=1e-3, atol=1e-5)


def test_there_are_never_more_units_than_users_or_movies(weighted_rows: Sparse) -> None:
    assert fit(weighted_rows, 100).n_units == 12
    assert fit(compressed(weighted_rows.toarray()[:5]), 100).n_units == 5


def test_nothing_to_learn_gives_no_units(weighted_rows: Sparse) -> None:
    for rows, n_units in ((weighted_rows, 0), (compressed(np.zeros((3, 12))), 5)):
        units = fit(rows, n_units)
        assert units.n_units == 0
        assert state(units, weighted_rows).shape == (40, 0)
        assert units.vectors().shape == (12, 0)

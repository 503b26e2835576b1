"""Weighted hidden units against the regressions that they stand for, written out densely."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning import weighted_units
from app.learning.preferences import RatingRows
from app.learning.rbm import Dense, Sparse
from app.learning.weighted_units import WeightedUnits, fitted
from tests.learning.tastes import DRAMA, N_MOVIES, ROMANCE, SCIENCE_FICTION, two_camps


def fit(graded: Sparse, n_units: int, seed: int = 0) -> WeightedUnits:
    return finished(fitted(graded, n_units, np.random.default_rng(seed)))[0]


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
def graded() -> Sparse:
    """40 users and 12 movies: grades of either sign, a user without ratings, a movie that nobody rated."""
    rng = np.random.default_rng(0)
    rated = rng.random((40, 12)) < rng.uniform(0.2, 0.9, 40)[:, None]
    rated[7], rated[:, 11] = False, False
    users, movies = np.nonzero(rated)
    grades = rng.normal(1, 0.6, users.size).astype(np.float32)
    grades[3] = 0  # rated all the same
    return sp.csr_array((grades, (users, movies)), shape=rated.shape)


@pytest.fixture
def units() -> WeightedUnits:
    return WeightedUnits(np.random.default_rng(1).normal(0, 1, (12, 4)).astype(np.float32), ridge=RIDGE)


RIDGE = 7.5


def rated_of(visible: Sparse) -> np.ndarray:
    rated = np.zeros(visible.shape, np.bool_)
    rated[np.repeat(np.arange(visible.shape[0]), np.diff(visible.indptr)), visible.indices] = True
    return rated


def visible_of(graded: Sparse) -> np.ndarray:
    return np.where(rated_of(graded), 1 + weighted_units.GRADE_SHARE * (graded.toarray() - 1), 0)


def energy(
    graded: Sparse, hidden: np.ndarray, weights: np.ndarray, ridge: float | np.ndarray = RIDGE
) -> np.ndarray:
    """E(x, g) of each row, by the book."""
    precision = 1 + weighted_units.CONFIDENCE * rated_of(graded)
    left = visible_of(graded) - hidden @ weights.T
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
    graded: Sparse, units: WeightedUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a row g is Gaussian, so its mean is its mode."""
    everybody(monkeypatch)
    hidden = units.hidden_mean(graded).astype(np.float64)
    assert hidden.shape == (40, 4)
    for user in (0, 7, 21):
        slopes = slope(energy_of_row(graded[[user]], units), hidden[user])
        np.testing.assert_allclose(slopes, 0, atol=1e-3)
    assert not hidden[7].any()  # nothing rated says nothing
    assert np.abs(hidden[0]).max() > 0.01


def test_a_rated_movie_speaks_louder_than_an_absent_one(units: WeightedUnits) -> None:
    """With one unit and two movies the regression can be done by hand."""
    two = WeightedUnits(np.array([[2.0], [1.0]], np.float32), ridge=RIDGE)
    row = sp.csr_array(np.array([[1.0, 0.0]], np.float32))
    weight = 1 + weighted_units.CONFIDENCE
    by_hand = weight * 2 / (weight * 4 + 1 + RIDGE)
    assert two.hidden_mean(row)[0, 0] == pytest.approx(by_hand, rel=1e-6)
    np.testing.assert_allclose(two.reconstruction(two.hidden_mean(row)), [[2 * by_hand, by_hand]], rtol=1e-6)


def test_taking_ratings_out_one_by_one_is_what_regressing_anew_gives(
    graded: Sparse, units: WeightedUnits
) -> None:
    row = graded[[0]]
    places = np.arange(row.nnz)[::-1]
    shorter = []
    for place in places:
        kept = np.arange(row.nnz) != place
        shorter.append(sp.csr_array((row.data[kept], row.indices[kept], [0, row.nnz - 1]), shape=row.shape))
    expected = np.concatenate([units.hidden_mean(rest) for rest in shorter])
    found = units.hidden_mean_without_each(row.indices, row.data, places)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found.dtype == np.float32
    assert np.abs(found - units.hidden_mean(row)).max() > 0.01


def test_parts_of_a_row_are_regressed_as_rows_of_their_own(graded: Sparse, units: WeightedUnits) -> None:
    row = graded[[0]]
    parts = np.random.default_rng(0).random((5, row.nnz)) < 0.5
    parts[0], parts[1] = True, False
    found = units.hidden_mean_of_parts(row.indices, row.data, parts.astype(np.float32))
    assert found.dtype == np.float32
    for mean, part in zip(found, parts, strict=True):
        alone = sp.csr_array((row.data[part], row.indices[part], [0, part.sum()]), shape=row.shape)
        np.testing.assert_allclose(mean, units.hidden_mean(alone)[0], rtol=1e-4, atol=1e-6)
    twice = np.concatenate([row.indices, row.indices]), np.concatenate([row.data, row.data])
    np.testing.assert_allclose(
        units.hidden_mean_of_parts(row.indices, row.data, np.full((1, row.nnz), 2, np.float32)),
        units.hidden_mean_of_parts(*twice, np.ones((1, 2 * row.nnz), np.float32)),
        rtol=1e-4,
    )


def test_the_last_step_of_learning_leaves_the_movies_where_their_density_is_highest(
    graded: Sparse, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody(monkeypatch)
    monkeypatch.setattr(weighted_units, "ROUNDS", 60)  # by then the users do not move any more either
    units = fit(graded, 3)
    rated = rated_of(graded)
    user_ridge, ridge = (
        weighted_units.RIDGE * np.sqrt(np.maximum(rated.sum(axis=axis), 1)) for axis in (1, 0)
    )
    hidden = np.concatenate(
        [
            WeightedUnits(units.weights, float(of_user)).hidden_mean(graded[[user]])
            for user, of_user in enumerate(user_ridge)
        ]
    )

    def whole(weights: np.ndarray) -> float:
        of_users = energy(graded, hidden, weights, user_ridge).sum()
        return float(of_users + (ridge * (weights**2).sum(axis=1)).sum() / 2)

    slopes = slope(whole, units.weights.astype(np.float64))
    np.testing.assert_allclose(slopes, 0, atol=0.02)
    assert np.abs(slope(whole, units.weights * 1.2)).max() > 0.2  # elsewhere it is steep
    assert not units.weights[11].any()  # nobody rated it
    assert units.ridge == pytest.approx(weighted_units.RIDGE * np.sqrt(rated.sum() / 40))


def everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe them all, whatever their grades."""
    monkeypatch.setattr(weighted_units, "_belief", lambda total, _: np.ones(np.shape(total), np.float32))


@pytest.mark.parametrize(
    ("grades", "belief"), [([-0.2, -0.1, 0.0], 0.0), ([0.1, 0.5, 0.6], 0.5), ([0.6, 1.2, 1.0], 1.0)]
)
def test_who_dislikes_all_that_they_chose_is_not_believed_to_choose_the_like(
    grades: list[float], belief: float, units: WeightedUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = sp.csr_array((np.array(grades, np.float32), np.arange(3), [0, 3]), shape=(1, 12))
    shrunk = units.hidden_mean(row)
    everybody(monkeypatch)
    assert np.abs(units.hidden_mean(row)).max() > 0.01
    np.testing.assert_allclose(shrunk, belief * units.hidden_mean(row), rtol=1e-5, atol=1e-7)


def test_camps_are_told_apart_by_one_rating() -> None:
    graded = ones(two_camps())
    units = fit(graded, 4)
    for loved, other in ((SCIENCE_FICTION, ROMANCE), (ROMANCE, SCIENCE_FICTION)):
        row = sp.csr_array((np.ones(1, np.float32), [loved[0]], [0, 1]), shape=(1, N_MOVIES))
        found = units.reconstruction(units.hidden_mean(row))[0]
        assert found[loved].min() > found[other].max()
        columns = np.array([loved[3], DRAMA[0]])
        of_two = units.reconstruction(units.hidden_mean(row), columns)[0]
        np.testing.assert_allclose(of_two, found[columns], rtol=1e-5)


def test_progress_rises_to_one_and_equal_seeds_give_equal_units(
    graded: Sparse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weighted_units, "SOLVED_AT_ONCE", 9)
    units, shares = finished(fitted(graded, 3, np.random.default_rng(5)))
    assert len(shares) == weighted_units.ROUNDS * (5 + 2)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    monkeypatch.undo()
    np.testing.assert_allclose(fit(graded, 3, 5).weights, units.weights, rtol=1e-4, atol=1e-6)
    assert fit(graded, 3, 5).weights.tobytes() == fit(graded, 3, 5).weights.tobytes()


def test_where_learning_starts_is_no_matter_of_chance_or_of_scale(graded: Sparse) -> None:
    start = np.random.default_rng(2).normal(0, 1, (12, 5)).astype(np.float32)
    first = begun(graded, 3, start, seed=0)
    np.testing.assert_allclose(begun(graded, 3, 50 * start, seed=1), first, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(begun(graded, 3, start[:, :3], seed=2), first)  # the leading columns
    assert np.abs(first - fit(graded, 3).weights).max() > 0.01
    # Columns that are not given are drawn, and nothing at all says nothing.
    one, other = (begun(graded, 3, start[:, :2], seed) for seed in (0, 1))
    assert np.abs(one - other).max() > 0.01
    for nothing in (start[:, :0], np.zeros_like(start)):
        np.testing.assert_array_equal(begun(graded, 3, nothing, seed=0), fit(graded, 3).weights)


def begun(graded: Sparse, n_units: int, start: Dense, seed: int) -> Dense:
    return finished(fitted(graded, n_units, np.random.default_rng(seed), start))[0].weights


def test_long_rows_are_squared_in_parts(graded: Sparse, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(graded, 3)
    monkeypatch.setattr(weighted_units, "ENTRIES_AT_ONCE", 4)
    np.testing.assert_allclose(fit(graded, 3).weights, whole.weights, rtol=1e-3, atol=1e-5)


def test_there_are_never_more_units_than_users_or_movies(graded: Sparse) -> None:
    assert fit(graded, 100).n_units == 12
    assert fit(compressed(graded.toarray()[:5]), 100).n_units == 5


def test_nothing_to_learn_gives_no_units(graded: Sparse) -> None:
    for rows, n_units in ((graded, 0), (compressed(np.zeros((3, 12))), 5)):
        units = fit(rows, n_units)
        assert units.n_units == 0
        hidden = units.hidden_mean(graded)
        assert hidden.shape == (40, 0)
        assert not units.reconstruction(hidden).any()
        row = graded[[0]]
        assert units.hidden_mean_without_each(row.indices, row.data, np.array([0, 1])).shape == (2, 0)
        whole = np.ones((3, row.nnz), np.float32)
        assert units.hidden_mean_of_parts(row.indices, row.data, whole).shape == (3, 0)

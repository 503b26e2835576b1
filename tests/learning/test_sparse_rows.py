"""Products with rows that lie unit by unit, with SciPy's functions behind the operators and without them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning import sparse_rows
from app.learning.sparse_rows import Dense, RowsByUnit


@pytest.fixture(params=["in place", "by operators"], autouse=True)
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by operators":
        monkeypatch.setattr(sparse_rows, "_IN_PLACE", None)


def some_rows(dtype: type[np.floating] = np.float64) -> Dense:
    """Seven rows of 30 units, one row empty, one unit never on, values between 0 and 1."""
    rng = np.random.default_rng(0)
    rows = ((rng.random((7, 30)) < 0.2) * rng.random((7, 30))).astype(dtype)
    rows[3], rows[:, 4] = 0, 0
    rows[5, 6] = 1
    return rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_and_sums_are_those_of_the_dense_rows(dtype: type[np.floating]) -> None:
    rows, rng = some_rows(dtype), np.random.default_rng(1)
    found = RowsByUnit.of(sp.csr_array(rows))
    weights, hidden = rng.random((30, 5)).astype(dtype), rng.random((7, 5)).astype(dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert (found.n, found.n_visible) == rows.shape
    np.testing.assert_array_equal(found.by_row().toarray(), rows)
    product = found @ weights
    assert product.dtype == dtype
    np.testing.assert_allclose(product, rows @ weights, atol=tolerance)
    np.testing.assert_allclose(found.sums(), rows.sum(axis=0), atol=tolerance)
    assert found.sums().dtype == dtype
    total = rng.random((30, 5)).astype(dtype)
    expected = total + rows.T @ hidden
    found.add_product(hidden, total)
    np.testing.assert_allclose(total, expected, atol=tolerance)


@pytest.mark.parametrize(("first", "last"), [(0, 7), (2, 5), (3, 4), (5, 7), (3, 3), (2, None)])
def test_a_part_of_the_rows_can_be_taken(first: int, last: int | None) -> None:
    found = RowsByUnit.of(sp.csr_array(some_rows()), first, last)
    expected = some_rows()[first:last]
    assert found.n == len(expected)
    np.testing.assert_array_equal(found.by_row().toarray(), expected)


@pytest.mark.parametrize("turned", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]])
def test_any_layout_will_do(turned: Callable[[Dense], Dense]) -> None:
    rows, rng = some_rows(), np.random.default_rng(1)
    found = RowsByUnit.of(sp.csr_array(rows))
    weights, hidden = turned(rng.random((30, 5))), turned(rng.random((7, 5)))
    np.testing.assert_allclose(found @ weights, rows @ weights)
    total = turned(np.ones((30, 5)))
    found.add_product(hidden, total)
    np.testing.assert_allclose(total, 1 + rows.T @ hidden)


def test_another_precision_than_that_of_the_weights_is_no_trouble() -> None:
    rows = some_rows()
    found = RowsByUnit.of(sp.csr_array(rows.astype(np.float32)))
    np.testing.assert_allclose(found @ np.ones((30, 2)), rows @ np.ones((30, 2)), atol=1e-6)
    total = np.zeros((30, 2))
    found.add_product(np.ones((7, 2)), total)
    np.testing.assert_allclose(total, rows.T @ np.ones((7, 2)), atol=1e-6)


def test_ones_are_where_they_were_said_to_be() -> None:
    on = np.random.default_rng(2).random((11, 6)) < 0.3  # by unit: 11 units, 6 rows
    on[0], on[-1] = False, False
    found = RowsByUnit.of_ones(np.flatnonzero(on), 11, 6, np.dtype(np.float32))
    assert found.values.dtype == np.float32
    np.testing.assert_array_equal(found.by_row().toarray(), on.T)
    assert found.sums().dtype == np.float32
    np.testing.assert_array_equal(found.sums(), on.sum(axis=1))
    nothing = RowsByUnit.of_ones(np.zeros(0, np.intp), 11, 6, np.dtype(np.float32))
    assert not nothing.by_row().toarray().any()
    assert not (nothing @ np.ones((11, 3), np.float32)).any()


def test_what_does_not_fit_is_refused_before_memory_is_touched() -> None:
    found = RowsByUnit.of(sp.csr_array(some_rows()))
    with pytest.raises(ValueError, match=r"size|mismatch|30 units"):
        found @ np.ones((29, 5))
    for hidden, total in (((6, 5), (30, 5)), ((7, 5), (29, 5)), ((7, 5), (30, 4))):
        with pytest.raises(ValueError, match="7 rows of 30 units"):
            found.add_product(np.ones(hidden), np.zeros(total))


def test_functions_that_do_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = importlib.import_module("scipy.sparse._sparsetools")
    product = real.csr_matvecs
    assert sparse_rows._adds_in_place() is real

    def replacing(*given: Any) -> None:
        given[-1][:] = 0
        product(*given)

    monkeypatch.setattr(real, "csr_matvecs", replacing)
    assert sparse_rows._adds_in_place() is None
    monkeypatch.delattr(real, "csr_matvecs")
    assert sparse_rows._adds_in_place() is None

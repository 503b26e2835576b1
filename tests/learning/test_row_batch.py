"""Products of sparse rows are those of the dense matrix, by either way."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning import row_batch
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch

ROWS = RatingRows.from_coordinates([0, 0, 2, 2, 2], [1, 4, 0, 1, 3], [5, 4, 3, 2, 1], 3, 6)


@pytest.mark.parametrize("cells_per_entry", [0, 100])
def test_a_product_is_that_of_the_dense_rows(cells_per_entry: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_batch, "CELLS_PER_ENTRY", cells_per_entry)
    weights = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    dense = sp.csr_array((ROWS.stars, ROWS.indices, ROWS.indptr), shape=(3, 6)).toarray()
    for chosen in ([0, 1, 2], [2], [1]):
        rows = ROWS.rows(chosen)
        product = RowBatch(rows, 6).times(rows.stars, weights)
        np.testing.assert_allclose(product, dense[chosen] @ weights, rtol=1e-5)
        assert product.dtype == np.float32


def test_the_columns_in_use_are_all_that_the_dense_rows_have() -> None:
    batch = RowBatch(ROWS, 6)
    assert batch.columns.tolist() == [0, 1, 3, 4]
    assert batch.dense(ROWS.stars).tolist() == [[0, 5, 0, 4], [0, 0, 0, 0], [3, 2, 1, 0]]
    assert batch.owners.tolist() == [0, 0, 2, 2, 2]


def test_rows_may_stand_for_more_ratings_than_they_have() -> None:
    batch = RowBatch(ROWS, 6, np.array([4, 3, 3]))
    assert batch.repeats.tolist() == [2, 3, 1]
    np.testing.assert_allclose(batch.scale(12.0, 0.5), [2 * 3**0.5, 3 * 2, 2], rtol=1e-6)
    assert RowBatch(ROWS, 6).repeats.tolist() == [1, 0, 1]
    assert RowBatch(ROWS, 6).scale(8.0, 1.0).tolist() == pytest.approx([4, 0, 8 / 3])

"""Fixtures of the learning tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits

from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import finish, two_camps


@pytest.fixture(scope="session", autouse=True)
def _one_blas_thread() -> Iterator[None]:
    """Waiting threads on a busy computer take five times as long as a single one."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def camps() -> RatingRows:
    """120 raters in two camps over 60 movies."""
    return two_camps()


@pytest.fixture(scope="session")
def trained(camps: RatingRows) -> TrainedModel:
    """TrainedModel trained on `camps` with the default configuration."""
    model, _ = finish(camps)
    return model

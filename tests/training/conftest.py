"""A fitted model, and its version."""

import pytest

from app.learning.trained_model import TrainedModel
from app.storage.database import Database
from tests.model_versions.stored import add_version, fitted, rows_of


@pytest.fixture(scope="session")
def model() -> TrainedModel:
    return fitted(*rows_of(60))


@pytest.fixture
def version(database: Database, model: TrainedModel) -> int:
    """An active version that no run of this test has made."""
    return add_version(database, model)

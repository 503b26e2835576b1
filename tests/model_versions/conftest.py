"""Two fitted models, and a stored version of the first."""

import pytest

from app.learning.trained_model import TrainedModel
from app.storage.database import Database
from tests.model_versions.stored import add_version, fitted, rows_of


@pytest.fixture(scope="session")
def model() -> TrainedModel:
    return fitted(*rows_of(60))


@pytest.fixture(scope="session")
def other_model() -> TrainedModel:
    """It has hardly learned anything."""
    rows, vocabulary = rows_of(60)
    return fitted(
        rows,
        vocabulary,
        epochs=1,
        hidden_units=2,
        linear_units=0,
        weighted_units=0,
        like_strength=0,
        seed=9,
    )


@pytest.fixture
def version(database: Database, model: TrainedModel) -> int:
    """The first version, and active."""
    return add_version(database, model)

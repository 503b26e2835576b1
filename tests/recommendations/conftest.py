"""A version trained on two tastes, and a session, on each database."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app import model_registry
from app.database import Database
from app.model_registry import Serving
from app.settings import Settings
from tests.tastes import store_tastes, train_version


@pytest.fixture
def tastes(database: Database) -> None:
    """Two tastes' movies and ratings."""
    store_tastes(database)


@pytest.fixture
def serving(tastes: None, database: Database, settings: Settings) -> Serving:
    """The version trained on them."""
    version = train_version(database, settings)
    with database.reading() as session:
        return Serving(version, 1, model_registry.load(session, version))


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.reading() as session:
        yield session

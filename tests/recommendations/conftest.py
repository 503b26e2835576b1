"""A version trained on two tastes, and a session, on each database."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from app.model_versions import store as model_registry
from app.model_versions.serving import LoadedVersion
from app.storage.database import Database


@pytest.fixture
def loaded(trained_version: int, database: Database) -> LoadedVersion:
    """The version trained on two tastes."""
    with database.reading() as session:
        return LoadedVersion(trained_version, 1, model_registry.load(session, trained_version))


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.reading() as session:
        yield session

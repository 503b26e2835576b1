"""The service in this process, over a fresh database of each kind."""

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.database import Database
from app.main import create_app
from app.settings import Settings
from app.worker import JOB_HANDLERS, Worker
from tests.tastes import store_tastes, train_version


@pytest.fixture
def application(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(application: FastAPI) -> Iterator[TestClient]:
    with TestClient(application, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def work(settings: Settings, database: Database) -> Callable[[], None]:
    """Runs every job that is queued, in this process."""
    return lambda: Worker(database, settings, JOB_HANDLERS).run(until_idle=True)


@pytest.fixture
def tastes(database: Database) -> None:
    """Two tastes' movies and ratings, not trained on yet."""
    store_tastes(database)


@pytest.fixture
def trained(tastes: None, database: Database, settings: Settings, application: FastAPI) -> int:
    """The active version, trained on the two tastes."""
    version = train_version(database, settings)
    # Now, not within a second: the client may be there already.
    application.state.active_machines.refresh()
    return version

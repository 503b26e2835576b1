"""The service in this process, over a fresh database of each kind."""

from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.jobs.loop import Worker
from app.main import create_app
from app.settings import Settings
from app.storage.database import Database
from app.worker.process import JOB_HANDLERS


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
def trained(trained_version: int, application: FastAPI) -> int:
    """The active version, trained on the two tastes."""
    # At once, not within a second: the client may be there already.
    application.state.version_watcher.refresh()
    return trained_version

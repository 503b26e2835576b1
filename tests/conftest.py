"""Fixtures for whatever touches a database: on SQLite and on a real PostgreSQL, fresh for each test."""

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from app import logs
from app.database import Database
from app.settings import Settings
from tests.postgres import HOW_TO_GET_IT, Cluster, find_programs

BACKENDS = ("sqlite", "postgresql")
_numbers = count(1)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tests see neither the developer's environment nor a .env file."""
    for name in list(os.environ):
        if name.startswith("HARMONIUM_") and not name.startswith("HARMONIUM_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """structlog's own default renders every local variable of a traceback, which takes seconds."""
    logs.configure(Settings(_env_file=None, log_format="text"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A running throwaway PostgreSQL, one a test process."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test on PostgreSQL, but {HOW_TO_GET_IT}")
        pytest.skip(HOW_TO_GET_IT)
    with Cluster(programs) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture(scope="session")
def _migrated_postgres(postgres: Cluster) -> str:
    database = Database(postgres.create_database("migrated"))
    database.upgrade()
    database.close()
    return "migrated"


@pytest.fixture(params=BACKENDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table, on each backend in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    name = f"empty{next(_numbers)}"
    yield cluster.create_database(name)
    cluster.drop_database(name)


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with every migration applied, on each backend in turn."""
    if request.param == "sqlite":
        template: Path = request.getfixturevalue("_migrated_sqlite")
        shutil.copy(template, tmp_path / "test.db")
        yield f"sqlite:///{tmp_path}/test.db"
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    name = f"test{next(_numbers)}"
    yield cluster.create_database(name, template=request.getfixturevalue("_migrated_postgres"))
    cluster.drop_database(name)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a service on the test's database, with its folders in the test's own."""
    return Settings(database_url=database_url, spool_dir=tmp_path / "spool")

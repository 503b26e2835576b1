"""Tiers of tests, and fixtures for whatever touches a database:

SQLite and a real PostgreSQL.

Tiers: `pytest --all` (`make test-all`) runs everything, `pytest` (`make test`) what
`_is_quick` says.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from app import logs
from app.learning.likes import ordinal_rbm
from app.settings import Settings
from app.storage.database import Database
from tests.postgres import HOW_TO_GET_IT, Cluster, SharedDatabase, find_programs
from tests.tastes import store_tastes, train_version

BACKENDS = ("sqlite", "postgresql")
_numbers = count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the slow tests, and the API on PostgreSQL")


def pytest_report_header(config: pytest.Config) -> str | None:
    return None if config.getoption("--all") else "the quick tests only; all of them: --all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    slow = [item for item in items if not _is_quick(item)]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


def _is_quick(item: pytest.Item) -> bool:
    """Whether a test is quick: no processes, not slow, no API on PostgreSQL."""
    if item.get_closest_marker("slow"):
        return False
    if item.get_closest_marker("acceptance"):
        return item.get_closest_marker("smoke") is not None
    if item.path.is_relative_to(Path(__file__).parent / "api"):
        return "postgresql" not in item.name or item.path.stem == "test_both_databases"
    return True


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
    """Plain logs: structlog's default renders all local variables, for seconds."""
    logs.configure(Settings(_env_file=None, log_format="text"))


@pytest.fixture(autouse=True)
def _short_fits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The like model takes few steps where quality is not tested."""
    room = request.path.relative_to(Path(__file__).parent).parts[0]
    if room not in ("learning", "evaluation", "demo"):
        monkeypatch.setattr(ordinal_rbm, "LEAST_UPDATES", 20)


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
def _templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


@pytest.fixture(scope="session")
def _migrated_sqlite(_templates: Path) -> Path:
    path = _templates / "migrated.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture(scope="session")
def _shared_postgres(postgres: Cluster) -> SharedDatabase:
    """One PostgreSQL database for all tests of a process, with content `migrated`."""
    shared = SharedDatabase(postgres.create_database("shared"))
    database = Database(shared.url)
    database.upgrade()
    database.close()
    shared.save("migrated")
    return shared


def _train_two_tastes(url: str, folder: Path) -> None:
    database = Database(url)
    store_tastes(database)
    train_version(database, Settings(_env_file=None, database_url=url, spool_dir=folder))
    database.close()


@pytest.fixture(scope="session")
def _trained_sqlite(_migrated_sqlite: Path, _templates: Path) -> Path:
    path = _templates / "trained.db"
    shutil.copy(_migrated_sqlite, path)
    _train_two_tastes(f"sqlite:///{path}", _templates)
    return path


@pytest.fixture(scope="session")
def _trained_postgres(_shared_postgres: SharedDatabase, _templates: Path) -> SharedDatabase:
    """The same database, which from now on knows the content `trained`, too."""
    _shared_postgres.load("migrated")
    _train_two_tastes(_shared_postgres.url, _templates)
    _shared_postgres.save("trained")
    return _shared_postgres


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
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database as the migrations leave it, on each backend in turn."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), tmp_path / "test.db")
        return f"sqlite:///{tmp_path}/test.db"
    shared: SharedDatabase = request.getfixturevalue("_shared_postgres")
    shared.load("migrated", alone=True)
    return shared.url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a service on the test's database and in the test's folder."""
    return Settings(database_url=database_url, spool_dir=tmp_path / "spool")


@pytest.fixture
def tastes(database: Database) -> None:
    """Two tastes' movies and ratings, not trained on yet: see tests/tastes.py."""
    store_tastes(database)


@pytest.fixture
def trained_version(database: Database, request: pytest.FixtureRequest) -> int:
    """The active version of a database with two tastes, as `train_version` leaves it.

    It was trained once in this test process, and is copied.
    """
    if database.is_sqlite:
        with (
            closing(sqlite3.connect(request.getfixturevalue("_trained_sqlite"))) as trained,
            closing(sqlite3.connect(str(database.url.database))) as target,
        ):
            trained.backup(target)
    else:
        request.getfixturevalue("_trained_postgres").load("trained")
    return 1

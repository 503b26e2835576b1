"""Engine, sessions and migrations, on SQLite and on PostgreSQL."""

import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from app.database import Database, alembic_config
from app.errors import Misconfigured, Unavailable
from app.tables import Table

REVISIONS = ["0001", "0002", "0003", "0004", "0005", "0006"]  # oldest first


def test_upgrade_creates_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert not database.is_current()
    assert database.upgrade() == REVISIONS
    assert database.is_current()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    database.close()


def test_a_second_upgrade_changes_nothing(database: Database) -> None:
    assert database.upgrade() == []


def test_two_upgrades_at_once_apply_the_migrations_once(empty_database_url: str) -> None:
    applied: list[list[str]] = []

    def upgrade() -> None:
        database = Database(empty_database_url, timeout=30)
        applied.append(database.upgrade())
        database.close()

    threads = [threading.Thread(target=upgrade) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], [], [], REVISIONS]


def at_revision(url: str, revision: str) -> Database:
    """A database as an earlier version of the code has left it."""
    database = Database(url)
    config = alembic_config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    return database


def insert(connection: Connection, table: str, row: dict[str, object]) -> None:
    names, values = ", ".join(row), ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)


def test_the_history_of_activations_begins_with_the_pointer_of_before(empty_database_url: str) -> None:
    database = at_revision(empty_database_url, "0001")
    kept: dict[str, dict[str, object]] = {
        "jobs": {"job_id": 1, "kind": "training", "state": "succeeded", "payload": "{}"}
        | {"attempt": 1, "failures": 0, "max_attempts": 3, "heartbeat": 0, "progress": 1.0}
        | {"cancel_requested": False, "created_at": 1},
        "training_runs": {"run_id": 1, "job_id": 1, "overrides": "{}", "created_at": 1},
        "model_versions": {"version": 7, "run_id": 1, "sha256": "0", "n_bytes": 0, "n_movies": 0}
        | {"configuration": "{}", "metrics": "{}", "verdict": "{}", "created_at": 1}
        | {"trained_user_keys": b""},
        "active_version": {"pointer": 1, "version": 7, "generation": 5, "activated_at": 123},
    }
    with database.engine.begin() as connection:
        for table, row in kept.items():
            insert(connection, table, row)
    assert "0002" in database.upgrade()
    with database.engine.connect() as connection:
        found = connection.execute(text("SELECT generation, version, cause, activated_at FROM activations"))
        assert found.all() == [(5, 7, "request", 123)]
    database.close()


def test_imports_of_before_took_what_their_jobs_took(empty_database_url: str) -> None:
    database = at_revision(empty_database_url, "0005")
    job: dict[str, object] = {"kind": "import", "state": "succeeded", "payload": "{}", "attempt": 1}
    job |= {"failures": 0, "max_attempts": 3, "heartbeat": 0, "progress": 1.0, "cancel_requested": False}
    one: dict[str, object] = {"spool_path": "import-", "file_bytes": 9, "kind": "ratings", "format": "csv"}
    one |= dict.fromkeys(["rows", "inserted", "updated", "unchanged", "superseded", "rejected"], 0)
    times = {1: (5_000_000, 7_500_000), 2: (5_000_000, None), 3: (None, None), 4: (7_000_000, 5_000_000)}
    with database.engine.begin() as connection:
        for number, (started_at, finished_at) in times.items():
            moments = {"created_at": 1, "started_at": started_at, "finished_at": finished_at}
            insert(connection, "jobs", {"job_id": number, **job, **moments})
            numbers = {"import_id": number, "job_id": number, "created_at": 1}
            insert(connection, "imports", {**numbers, **one, "errors": "[]"})
    assert "0006" in database.upgrade()
    with database.engine.connect() as connection:
        found = connection.execute(text("SELECT import_id, seconds FROM imports ORDER BY import_id")).all()
    assert found == [(1, 2.5), (2, 0.0), (3, 0.0), (4, 0.0)]
    database.close()


def test_writing_commits_at_the_end_and_rolls_back_on_an_error(database: Database) -> None:
    insert = text("INSERT INTO users (user_id, created_at) VALUES (:id, 0)")
    with database.writing() as session:
        session.execute(insert, {"id": "kept"})

    def fail() -> None:
        with database.writing() as session:
            session.execute(insert, {"id": "lost"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.reading() as session:
        assert session.execute(text("SELECT user_id FROM users")).scalars().all() == ["kept"]


def test_reading_keeps_no_change(database: Database) -> None:
    with database.reading() as session:
        session.execute(text("INSERT INTO users (user_id, created_at) VALUES ('x', 0)"))
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM users")).scalar_one() == 0


def test_a_locked_sqlite_file_is_reported_as_unavailable(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL has no single writer")
    impatient = Database(str(database.url), timeout=0.1)
    with database.writing(), pytest.raises(Unavailable), impatient.writing():
        pass
    impatient.close()


def test_writing_about_something_just_deleted_is_to_be_tried_again(database: Database) -> None:
    word = text("INSERT INTO movie_words (word, movie_key) VALUES ('heat', 77)")

    def write() -> None:
        with database.writing() as session:
            session.execute(word)

    with pytest.raises(Unavailable, match="deleted"):
        write()


def test_an_exhausted_pool_is_reported_as_unavailable(database_url: str) -> None:
    database = Database(database_url, pool_size=1, timeout=0.1)
    with database.reading() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(Unavailable), database.reading() as second:
            second.execute(text("SELECT 1"))
    database.close()


def test_a_database_that_is_away_is_reported_as_unavailable() -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(Unavailable):
        database.ping()
    database.close()


@pytest.mark.parametrize("url", ["postgresql://u:p@h:port/x", "nonsense"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="HARMONIUM_DATABASE_URL"):
        Database(url)


def test_an_sqlite_database_in_memory_is_refused() -> None:
    with pytest.raises(Misconfigured, match="needs a file"):
        Database("sqlite:///:memory:")

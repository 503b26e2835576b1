"""Engine, sessions and migrations, on SQLite and on PostgreSQL."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from app.errors import Misconfigured, Unavailable
from app.storage.database import Database
from app.storage.tables import Table

REVISIONS = ["0001"]  # oldest first


def test_upgrade_creates_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    assert not database.is_current()
    assert database.upgrade() == REVISIONS
    assert database.is_current()
    with database.engine.connect() as connection:
        # `movie_search` differs between the databases, so it is in the migration only.
        options = {
            "compare_type": True,
            "include_name": lambda name, *_: not str(name).startswith("movie_search"),
        }
        context = MigrationContext.configure(connection, opts=options)
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
    line = text(
        "INSERT INTO job_log_lines (job_id, attempt, level, message, logged_at) VALUES (77, 1, 'info', '', 0)"
    )

    def write() -> None:
        with database.writing() as session:
            session.execute(line)

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
    with pytest.raises(Unavailable), database.reading():
        pass
    database.close()


@pytest.mark.parametrize("url", ["postgresql://u:p@h:port/x", "nonsense"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match="HARMONIUM_DATABASE_URL"):
        Database(url)


def test_an_sqlite_database_in_memory_is_refused() -> None:
    with pytest.raises(Misconfigured, match="needs a file"):
        Database("sqlite:///:memory:")

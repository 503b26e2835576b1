"""Fresh databases to measure in, on SQLite and on PostgreSQL."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.exc import ProgrammingError

from app.errors import Misconfigured
from app.storage.database import Database


@contextmanager
def fresh_sqlite(folder: Path) -> Iterator[str]:
    """The URL of a fresh SQLite database, for as long as it is used."""
    path = folder / f"{secrets.token_hex(4)}.db"
    url = f"sqlite:///{path}"
    _upgrade(url)
    try:
        yield url
    finally:
        for leftover in folder.glob(f"{path.name}*"):
            leftover.unlink()


@contextmanager
def fresh_postgresql(server: str) -> Iterator[str]:
    """The URL of a fresh database on the server, for as long as it is used."""
    name = f"harmonium_bench_{secrets.token_hex(4)}"
    autocommit = {"isolation_level": "AUTOCOMMIT"}
    with (
        opened(server) as database,
        database.engine.connect().execution_options(**autocommit) as connection,
    ):
        try:
            connection.execute(text(f"CREATE DATABASE {name}"))
        except ProgrammingError as error:
            raise Misconfigured(
                "The benchmark makes a PostgreSQL database of its own, and may not. Give the role CREATEDB."
            ) from error
        try:
            url = make_url(server).set(database=name).render_as_string(hide_password=False)
            _upgrade(url)
            yield url
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """A database that answers; closed afterwards."""
    with closing(Database(url)) as database:
        with database.reading():
            pass
        yield database


def _upgrade(url: str) -> None:
    with closing(Database(url)) as database:
        database.upgrade()


def name_of(database: Database) -> str:
    """The database and its version."""
    if database.is_sqlite:
        return f"SQLite {sqlite3.sqlite_version}"
    with database.reading() as session:
        return "PostgreSQL " + str(session.scalar(text("SHOW server_version"))).split()[0]


def size_of(database: Database) -> int:
    """Bytes on disk."""
    if not database.is_sqlite:
        with database.reading() as session:
            return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")  # a checkpoint is no part of a transaction
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
        connection.exec_driver_sql("BEGIN")
        return int((pages - free) * connection.exec_driver_sql("PRAGMA page_size").scalar_one())

"""The database: engines, sessions, migrations. Nothing is built at import.

There are two kinds of session, because SQLite has one writer. `reading()` sees a
snapshot and never waits for a writer. `writing()` takes the write lock at its
beginning: a transaction that begins as a reader and turns writer fails at once when
another one wrote in between, whatever the timeout. On PostgreSQL a reading session is
REPEATABLE READ, so it sees one moment there too, and a writing one is READ COMMITTED.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    ARRAY,
    Connection,
    Engine,
    NullPool,
    Text,
    create_engine,
    event,
    func,
    literal,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import HarmoniumError, Misconfigured, StorageFull, Unavailable
from app.settings import Settings

log = structlog.get_logger()

Item = TypeVar("Item")

# Any fixed number: it names Harmonium's migrations among PostgreSQL's advisory locks.
MIGRATION_LOCK = 0x4861726D6F6E6975

# Ids looked up in one statement; SQLite takes 32,766 bound parameters at most,
# PostgreSQL 65,535.
LOOKUP_IDS = 30_000

# Keys of `Session.info`: whether a session sees one moment, and the catalogue's
# generation at that moment.
ONE_MOMENT = "one_moment"
CATALOGUE_GENERATION = "catalogue_generation"

# Seconds between two tries to get SQLite's write lock. SQLite itself waits longer and
# longer, and so may miss gap after gap that an import leaves between its transactions.
LOCK_POLL = 0.003
PING_AFTER_IDLE = 1.0  # seconds after which a pooled connection is pinged before it is used
CONNECT_TIMEOUT = 5  # seconds until a PostgreSQL that does not answer counts as away

# SQLSTATEs of PostgreSQL and error names of SQLite.
DISK_FULL = ("53100", "SQLITE_FULL")
BROKEN_REFERENCE = ("23503", "SQLITE_CONSTRAINT_FOREIGNKEY")
MISSING_TABLE_OR_COLUMN = ("42P01", "42703")  # SQLite has only words for it


class Database:
    """An engine and the sessions made from it.

    Args:
        url: `sqlite:///PATH` or `postgresql://…` (psycopg 3).
        pool_size: connections kept open by this process.
        timeout: seconds to wait for a connection of the pool, or for SQLite's write
            lock.
    """

    def __init__(self, url: str, *, pool_size: int = 8, timeout: float = 10.0) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError) as error:
            raise Misconfigured(
                "HARMONIUM_DATABASE_URL cannot be read. It is sqlite:///PATH or "
                "postgresql://USER:PASSWORD@HOST:PORT/NAME."
            ) from error
        self.timeout = timeout
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = self._build_engine(pool_size=pool_size, max_overflow=0, pool_timeout=timeout)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Database":
        return cls(
            settings.database_url, pool_size=settings.database_pool_size, timeout=settings.database_timeout
        )

    def __repr__(self) -> str:
        return f"Database({self.url.render_as_string(hide_password=True)!r})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; its changes are rolled back."""
        with _translated_errors(self.engine), Session(self.engine, expire_on_commit=False) as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            session.info[ONE_MOMENT] = True
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits at the end of the block, or rolls back on an error."""
        with _translated_errors(self.engine), Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"sqlite_begin": "IMMEDIATE"})
            yield session
            session.commit()

    def close(self) -> None:
        self.engine.dispose()

    def upgrade(self) -> list[str]:
        """Apply the missing migrations, under a lock; return their revisions in order.

        Of two processes that call this at once the second waits and has nothing to do.
        """
        engine = self._build_engine(poolclass=NullPool)
        config = alembic_config()
        try:
            with _translated_errors(engine), engine.connect() as connection:
                if self.is_sqlite:
                    # A migration that rebuilds a table must not cascade into the tables
                    # that refer to it. The pragma does nothing inside a transaction.
                    driver: Any = connection.connection.driver_connection
                    driver.execute("PRAGMA foreign_keys = OFF")
                connection = connection.execution_options(sqlite_begin="IMMEDIATE")
                with connection.begin():
                    if not self.is_sqlite:
                        lock = text("SELECT pg_advisory_xact_lock(:lock)")
                        connection.execute(lock, {"lock": MIGRATION_LOCK})
                    before = _revision(connection)
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                    after = _revision(connection)
                    if self.is_sqlite and (broken := _broken_references(connection)):
                        raise Misconfigured(
                            f"The migration would leave {broken} rows that refer to nothing; "
                            "nothing was changed. Restore the database from a backup."
                        )
        finally:
            engine.dispose()
        if before == after:
            return []
        script = ScriptDirectory.from_config(config)
        applied = [step.revision for step in script.iterate_revisions(after or "head", before or "base")]
        return list(reversed(applied))

    def is_current(self) -> bool:
        """Whether the schema is the one this code was written for."""
        with _translated_errors(self.engine), self.engine.connect() as connection:
            return _revision(connection) == _newest_revision()

    def _build_engine(self, **pool: Any) -> Engine:
        if not self.is_sqlite:
            engine = create_engine(self.url, connect_args={"connect_timeout": CONNECT_TIMEOUT}, **pool)
            _ping_idle_connections(engine)
            return engine
        if self.url.database in (None, "", ":memory:"):
            raise Misconfigured(
                "An SQLite database needs a file, as in sqlite:///data/harmonium.db: API and worker share it."
            )
        Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(self.url, connect_args={"timeout": self.timeout}, **pool)
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", self._begin)
        return engine

    def _begin(self, connection: Connection) -> None:
        """Begin a transaction on SQLite, as a writer if the options say so."""
        if connection.get_execution_options().get("sqlite_begin") != "IMMEDIATE":
            connection.exec_driver_sql("BEGIN DEFERRED")
            return
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            self._take_write_lock(connection, driver)
        finally:
            driver.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")

    def _take_write_lock(self, connection: Connection, driver: sqlite3.Connection) -> None:
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    break
                time.sleep(LOCK_POLL)
            else:
                return
        # Once more through SQLAlchemy, which raises an error of its own.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def in_parts(items: Sequence[Item], size: int = LOOKUP_IDS) -> Iterator[list[Item]]:
    """The items in lists that one statement can take."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def is_postgresql(session: Session) -> bool:
    """Whether the session's database is PostgreSQL; otherwise it is SQLite."""
    return session.get_bind().dialect.name == "postgresql"


def insert_of(session: Session, table: type[Any]) -> Any:
    """An INSERT that takes the ON CONFLICT clause of the session's database."""
    return (postgresql if is_postgresql(session) else sqlite).insert(table.__table__)


def as_rows(session: Session, ids: Sequence[str]) -> Any:
    """Ids as a relation with the column `value`: one parameter for any number."""
    if is_postgresql(session):
        return func.unnest(literal(list(ids), ARRAY(Text))).table_valued("value").render_derived()
    return func.json_each(json.dumps(ids, ensure_ascii=False)).table_valued("value")


def alembic_config() -> Config:
    """Alembic's configuration, in a checkout or installed from a wheel."""
    package = Path(__file__).parent.parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").exists():
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            return config
    raise Misconfigured("The migrations are missing from this installation. Install Harmonium again.")


@cache
def _newest_revision() -> str | None:
    """The revision of this code's schema, read once: it is slow and asked for often."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _broken_references(connection: Connection) -> int:
    """The number of rows on SQLite that refer to a row that is not there."""
    return len(connection.execute(text("PRAGMA foreign_key_check")).all())


def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    # The driver must not begin transactions by itself: `Database._begin` does, in the
    # right mode.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    # Safe against a crash of the process; a power cut may lose the last commits, never
    # the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")


def _ping_idle_connections(engine: Engine) -> None:
    """Replace connections that the server has closed, before a request meets them.

    SQLAlchemy's own `pool_pre_ping` pings every time: under load, one more round trip
    for each session.
    """

    def note(_connection: Any, record: ConnectionPoolEntry, *_: Any) -> None:
        record.info["last_used"] = time.monotonic()

    event.listen(engine, "connect", note)
    event.listen(engine, "checkin", note)

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get("last_used", 0.0) < PING_AFTER_IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool tries again with a new connection


@contextmanager
def _translated_errors(engine: Engine) -> Iterator[None]:
    """Turn database errors into Harmonium's: 503 if away or locked, 507 if full."""
    driver: Any = engine.dialect.loaded_dbapi
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("Every database connection is busy. Try again shortly.") from error
    except (DBAPIError, driver.Error) as error:
        # Where the driver is used directly, it raises its own errors.
        wrapped = (
            error
            if isinstance(error, DBAPIError)
            else DBAPIError.instance(None, None, error, driver.Error, dialect=engine.dialect)
        )
        if (translated := _translated(wrapped)) is None:
            raise
        raise translated from error


def _translated(error: DBAPIError) -> HarmoniumError | None:
    """The error for the caller; None for one that only a mistake here explains."""
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    if code in DISK_FULL:
        return StorageFull(
            "The database has no space left; nothing of this request was stored. Free some space."
        )
    if code in BROKEN_REFERENCE:
        return Unavailable(
            "A user or movie was deleted while this was written; nothing was stored. Try again."
        )
    if code in MISSING_TABLE_OR_COLUMN or str(error.orig).startswith(("no such table", "no such column")):
        return Unavailable("The schema of the database is not current. Run: harmonium db upgrade")
    if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
        log.warning("database_unavailable", error=str(error.orig))
        return Unavailable("The database is away or busy. Try again shortly.")
    return None

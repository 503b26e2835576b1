"""The database: engine, SQLite's pragmas, sessions, migrations. Nothing is built at import.

Two kinds of session, because SQLite has one writer: `reading()` sees a snapshot and never waits for a
writer; `writing()` takes the write lock at its beginning (a transaction that begins as a reader and turns
writer fails at once when another one wrote in between, whatever the timeout). On PostgreSQL a reading session
is REPEATABLE READ, so it sees one moment there too; a writing one is READ COMMITTED.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

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
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.errors import Misconfigured, StorageFull, Unavailable
from app.settings import Settings

log = structlog.get_logger()

# Any fixed number: it names Harmonium's migrations among PostgreSQL's advisory locks.
MIGRATION_LOCK = 0x4861726D6F6E6975

# Ids looked up in one statement; SQLite takes 32,766 bound parameters at most, PostgreSQL 65,535.
LOOKUP_IDS = 30_000

# In `Session.info`: that a session sees one moment, and the catalogue's generation at that moment once read.
ONE_MOMENT = "one_moment"
CATALOGUE_GENERATION = "catalogue_generation"
# Seconds between two tries to get SQLite's write lock. SQLite itself waits longer and longer, and so may miss
# gap after gap that an import leaves between its transactions.
LOCK_POLL = 0.003

LAST_USED = "last_used"  # in a pooled connection's info
IDLE_SECONDS = 1.0  # after which a connection is asked whether it is still there

CONNECT_TIMEOUT = 5  # seconds until a PostgreSQL that does not answer counts as away


class Database:
    """One engine and the sessions made from it.

    Args:
        url: `sqlite:///PATH` or `postgresql://…` (psycopg 3).
        pool_size: connections kept open by this process.
        timeout: seconds to wait for a connection of the pool, or for SQLite's write lock.
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
        self.engine = self._build_engine(pool_size=pool_size)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Database":
        return cls(
            settings.database_url, pool_size=settings.database_pool_size, timeout=settings.database_timeout
        )

    def __repr__(self) -> str:
        return f"Database({self.url.render_as_string(hide_password=True)!r})"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads; whatever it changed is rolled back."""
        with _translated_errors(self.engine), Session(self.engine, expire_on_commit=False) as session:
            if not self.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            session.info[ONE_MOMENT] = True
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits at the end of the block and rolls back when the block raises."""
        with _translated_errors(self.engine), Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"sqlite_begin": "IMMEDIATE"})
            yield session
            session.commit()

    def ping(self) -> None:
        """Raise `Unavailable` unless the database answers."""
        with self.reading() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()

    def upgrade(self) -> list[str]:
        """Apply the migrations that are missing, under a lock; return the revisions applied, oldest first.

        Two processes may call this at once: the second waits and finds nothing to do.
        """
        engine = self._build_engine(migrating=True)
        try:
            with _translated_errors(engine), engine.connect() as connection:
                connection = connection.execution_options(sqlite_begin="IMMEDIATE")
                with connection.begin():
                    if not self.is_sqlite:
                        connection.execute(
                            text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}
                        )
                    before = _revision(connection)
                    config = alembic_config()
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                    after = _revision(connection)
                    if self.is_sqlite:
                        broken = connection.execute(text("PRAGMA foreign_key_check")).all()
                        if broken:
                            raise Misconfigured(
                                f"The migration would leave {len(broken)} rows that refer to nothing; "
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
        # Once more, for SQLAlchemy to make its own error of what goes wrong.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _build_engine(self, *, pool_size: int = 1, migrating: bool = False) -> Engine:
        pool: dict[str, Any] = (
            {"poolclass": NullPool}
            if migrating
            else {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": self.timeout}
        )
        if not self.is_sqlite:
            engine = create_engine(self.url, connect_args={"connect_timeout": CONNECT_TIMEOUT}, **pool)
            _ping_what_was_idle(engine)
            return engine
        if self.url.database in (None, "", ":memory:"):
            raise Misconfigured(
                "An SQLite database needs a file, as in sqlite:///data/harmonium.db: API and worker share it."
            )
        Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(self.url, connect_args={"timeout": self.timeout}, **pool)

        @event.listens_for(engine, "connect")
        def set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
            # The driver must not begin transactions by itself: `begin` below does, in the right mode.
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode = WAL")
            # Safe against a crash of the process; a power cut may lose the last commits, never the file.
            cursor.execute("PRAGMA synchronous = NORMAL")
            # A migration that rebuilds a table must not cascade into the tables that refer to it.
            cursor.execute(f"PRAGMA foreign_keys = {'OFF' if migrating else 'ON'}")
            cursor.execute("PRAGMA temp_store = MEMORY")
            cursor.close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
            if mode != "IMMEDIATE":
                connection.exec_driver_sql(f"BEGIN {mode}")
                return
            driver = connection.connection.driver_connection
            assert driver is not None  # noqa: S101  (a checked-out connection has one)
            driver.execute("PRAGMA busy_timeout = 0")
            try:
                self._take_write_lock(connection, driver)
            finally:
                driver.execute(f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")

        return engine


def _ping_what_was_idle(engine: Engine) -> None:
    """Replace connections that the server has closed meanwhile, before a request finds out.

    SQLAlchemy's own `pool_pre_ping` asks every time: under load, one more round trip for each session.
    """

    def note(_connection: Any, record: ConnectionPoolEntry, *_: Any) -> None:
        record.info[LAST_USED] = time.monotonic()

    event.listen(engine, "connect", note)
    event.listen(engine, "checkin", note)

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get(LAST_USED, 0.0) < IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool tries again with a new connection


def in_parts(items: Sequence[str], size: int = LOOKUP_IDS) -> Iterator[list[str]]:
    """The items in lists that one statement can take."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def as_rows(session: Session, ids: Sequence[str]) -> Any:
    """Ids as a relation with the column `value`: one parameter, however many they are."""
    if session.get_bind().dialect.name == "postgresql":
        return func.unnest(literal(list(ids), ARRAY(Text))).table_valued("value").render_derived()
    return func.json_each(json.dumps(ids, ensure_ascii=False)).table_valued("value")


def alembic_config() -> Config:
    """Alembic's configuration, wherever Harmonium is installed: in a checkout or from a wheel."""
    package = Path(__file__).parent
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").exists():
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            return config
    raise Misconfigured("The migrations are missing from this installation. Install Harmonium again.")


@cache
def _newest_revision() -> str | None:
    """The revision of this code's schema, read once: it takes long, and probes ask often."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _wrapped_errors(engine: Engine) -> Iterator[None]:
    """Give what the driver itself raises, where it is used directly, the shape that SQLAlchemy gives it."""
    driver: Any = engine.dialect.loaded_dbapi
    try:
        yield
    except driver.Error as error:
        raise DBAPIError.instance(None, None, error, driver.Error, dialect=engine.dialect) from error


@contextmanager
def _translated_errors(engine: Engine) -> Iterator[None]:
    """Turn the driver's troubles into Harmonium's: away and locked are 503, a full disk is 507."""
    try:
        with _wrapped_errors(engine):
            yield
    except PoolTimeout as error:
        raise Unavailable("Every database connection is busy. Try again shortly.") from error
    except (OperationalError, InterfaceError, DBAPIError) as error:
        if _is_disk_full(error):
            raise StorageFull(
                "The database has no space left; nothing of this request was stored. Free some space."
            ) from error
        if _is_reference_broken(error):
            raise Unavailable(
                "A user or movie was deleted while this was written; nothing was stored. Try again."
            ) from error
        if _is_table_missing(error):
            raise Unavailable(
                "The schema of the database is not current. Run: harmonium db upgrade"
            ) from error
        if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
            log.warning("database_unavailable", error=str(error.orig))
            raise Unavailable("The database is away or busy. Try again shortly.") from error
        raise


def _is_reference_broken(error: DBAPIError) -> bool:
    # SQLSTATE 23503 is foreign_key_violation.
    return (
        getattr(error.orig, "sqlstate", None) == "23503"
        or getattr(error.orig, "sqlite_errorname", None) == "SQLITE_CONSTRAINT_FOREIGNKEY"
    )


def _is_table_missing(error: DBAPIError) -> bool:
    # SQLSTATE 42P01 is undefined_table and 42703 undefined_column; SQLite has only the words.
    return getattr(error.orig, "sqlstate", None) in ("42P01", "42703") or str(error.orig).startswith(
        ("no such table", "no such column")
    )


def _is_disk_full(error: DBAPIError) -> bool:
    # SQLSTATE 53100 is PostgreSQL's disk_full.
    return (
        getattr(error.orig, "sqlstate", None) == "53100"
        or getattr(error.orig, "sqlite_errorname", None) == "SQLITE_FULL"
    )

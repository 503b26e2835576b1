"""A throwaway private PostgreSQL cluster in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import psycopg

HOW_TO_GET_IT = "no PostgreSQL found: on Debian, apt-get install postgresql"

# Nothing outlives the tests, so nothing has to reach the disk; and nothing may run
# beside them.
SETTINGS = {
    "listen_addresses": "''",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}


def find_programs() -> Path | None:
    """The folder that holds initdb and pg_ctl, the newest first, or None."""
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True
    )
    on_path = shutil.which("initdb")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    return None


class Cluster:
    """A running server that listens on a socket in its own folder only."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="hm-pg-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
            self._as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups"]

    def __enter__(self) -> Self:
        self._run(
            "initdb", "-D", f"{self.folder}/data", "-U", "app", "-A", "trust", "-E", "UTF8", "--no-sync"
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        options = f"-k {self.folder} " + " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        self._run(
            "pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def create_database(self, name: str) -> str:
        """Make an empty database and return its URL."""
        self._run("createdb", "-h", str(self.folder), "-U", "app", name)
        return f"postgresql+psycopg://app@/{name}?host={self.folder}"

    def drop_database(self, name: str) -> None:
        self._run("dropdb", "-h", str(self.folder), "-U", "app", "--force", "--if-exists", name)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, str(self.programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=60,
        )


class SharedDatabase:
    """A migrated database that takes a saved content before each test.

    What was saved lies beside the tables, each table's rows in a table of the schema of
    that name, so the server copies them without the client.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._loading: dict[str, str] = {}

    def save(self, name: str) -> None:
        """Keep the rows and sequences of all tables under `name`."""
        # What is generated cannot be inserted.
        tables = (
            "SELECT table_name, string_agg(quote_ident(column_name), ', ') FROM information_schema.columns "
            "WHERE table_schema = 'public' AND is_generated = 'NEVER' GROUP BY table_name"
        )
        loading = []
        with self._connect() as connection:
            connection.execute(f"CREATE SCHEMA {name}")
            for table, columns in connection.execute(tables).fetchall():
                connection.execute(f"CREATE TABLE {name}.{table} AS TABLE {table}")
                loading += [
                    f"DELETE FROM {table}",
                    f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {name}.{table}",
                ]
            sequences = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'"
            for sequence, last in connection.execute(sequences).fetchall():
                reached = "1, false" if last is None else f"{last}, true"
                loading.append(f"SELECT setval('{sequence}', {reached})")
        self._loading[name] = "; ".join(loading)

    def load(self, name: str, *, alone: bool = False) -> None:
        """Replace the content of all tables by what was saved under `name`.

        Args:
            name: what it was saved under.
            alone: whether to end all other connections, with the transactions and locks
                that they hold.
        """
        with self._connect() as connection:
            if alone:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                    "AND datname = current_database() AND backend_type = 'client backend'"
                )
            # A lock that is still held fails the load instead of hanging it. Neither
            # references nor triggers are looked at: the rows were whole when they were
            # saved. All in one message to the server.
            connection.execute(
                "SET LOCAL lock_timeout = '5s'; SET LOCAL session_replication_role = replica; "
                + self._loading[name]
            )

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url.replace("+psycopg", ""))

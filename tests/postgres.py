"""A throwaway PostgreSQL cluster in a temporary folder: real, private, gone when the tests end."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

HOW_TO_GET_IT = "no PostgreSQL found: on Debian, apt-get install postgresql"


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
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
        self._run(
            "pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o", options, "start"
        )

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database and return its URL."""
        self._run("createdb", "-h", str(self.folder), "-U", "app", "-T", template, name)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self._run("dropdb", "-h", str(self.folder), "-U", "app", "--force", "--if-exists", name)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://app@/{name}?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*self._as_user, str(self.programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=60,
        )

"""Harmonium as real processes, for tests that call it over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx2


class Service:
    """`harmonium serve` in a folder of its own, on a free port."""

    def __init__(
        self, folder: Path, database_url: str, *, with_worker: bool = True, **settings: object
    ) -> None:
        self.folder = folder
        self._options = [] if with_worker else ["--no-worker"]
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("HARMONIUM_")
        }
        self.environment |= {
            "HARMONIUM_DATABASE_URL": database_url,
            "HARMONIUM_SPOOL_DIR": str(folder / "spool"),
            "HARMONIUM_PORT": str(self.port),
            "HARMONIUM_VERSION_POLL_SECONDS": "0.2",
            "HARMONIUM_WORKER_POLL_SECONDS": "0.1",
            # Tests ask for runs themselves, unless they say otherwise.
            "HARMONIUM_RETRAIN_AFTER_RATINGS": "0",
            "HARMONIUM_RETRAIN_EVERY_HOURS": "0",
        } | {f"HARMONIUM_{name.upper()}": str(value) for name, value in settings.items()}
        self.log = folder / "service.log"
        self.http = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def start(self) -> None:
        """Start the processes and return at once."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve", *self._options],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        self.wait_until(lambda: self._answers("/health/ready"), 60)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.http.close()

    def stop(self) -> int:
        """SIGTERM, as `docker stop` sends it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line on the same database."""
        return subprocess.run(
            [sys.executable, "-m", "app", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def finished(self, path: str, seconds: float) -> dict[str, object]:
        """Poll an import or a training run until it has ended."""
        seen: dict[str, object] = {}

        def has_ended() -> bool:
            nonlocal seen
            seen = self.http.get(path).raise_for_status().json()
            return seen["state"] not in ("queued", "running")

        self.wait_until(has_ended, seconds)
        return seen

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"the service has ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.log.read_text()[-5000:]}"
            time.sleep(0.1)

    def is_live(self) -> bool:
        return self._answers("/health/live")

    def _answers(self, path: str) -> bool:
        try:
            return self.http.get(path).status_code == 200
        except httpx2.TransportError:
            return False

"""Latency of requests, idle and while a fit runs beside them.

    python -m benchmarks.beside_fit [--ratings u.data] [--rate 50] [--json FILE]

A real service is started, as `harmonium serve` starts it: one API process and its
supervised worker, on SQLite. Requests come at an even rate over a few connections, as
visitors do, not as fast as they are answered: then a queue of the load's own making
would be measured. A fit runs all the time, and the worker is stopped and continued by
signals every other second: other load of the computer meets both alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import Misconfigured
from app.evaluation.machine import describe_machine
from app.learning.evaluation.synthetic import synthetic_ratings
from benchmarks.report import parser, say, show

START_PATIENCE = 120.0  # seconds for requests of the service before the measurement
TURN = 1.0  # seconds that the worker is stopped, then continues
ENDLESS_EPOCHS = 100_000  # a fit that goes on until it is cancelled


@dataclass(frozen=True)
class Load:
    """What the service is measured with.

    Attributes:
        rate: requests a second, all connections together.
        connections: kept open.
        seconds: of each state in a round.
        rounds: how often that is measured.
        shape: users, movies and ratings of the made-up data, unless a file is named.
    """

    rate: float = 50.0
    connections: int = 4
    seconds: float = 20.0
    rounds: int = 5
    shape: tuple[int, int, int] = (943, 1_682, 100_000)


@dataclass(frozen=True)
class Round:
    """Milliseconds of GET …/recommendations, idle and while a fit runs."""

    idle_p50: float
    idle_p99: float
    fitting_p50: float
    fitting_p99: float
    requests: int

    @property
    def p99_ratio(self) -> float:
        return self.fitting_p99 / self.idle_p99


@dataclass(frozen=True)
class ServingReport:
    """What was measured, for people and as JSON."""

    load: Load
    rounds: list[Round]
    epochs_per_second: float
    api_bytes: int
    worker_bytes: int
    machine: dict[str, Any]

    @property
    def p99_ratio(self) -> float:
        """Median over the rounds of p99 while fitting over p99 idle."""
        return statistics.median(turn.p99_ratio for turn in self.rounds)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"p99_ratio": self.p99_ratio}

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """A line a round, and the medians."""
        names = ("idle_p50", "fitting_p50", "idle_p99", "fitting_p99")
        rows = [[getattr(turn, name) for name in names] for turn in self.rounds]
        lines = [
            [str(number), *(f"{value:.1f}" for value in row), f"{turn.p99_ratio:.2f}"]
            for number, (row, turn) in enumerate(zip(rows, self.rounds, strict=True), start=1)
        ]
        medians = (f"{statistics.median(column):.1f}" for column in zip(*rows, strict=True))
        columns = ["round", "p50 idle", "p50 fitting", "p99 idle", "p99 fitting", "p99 ratio"]
        title = f"GET …/recommendations, {self.load.rate:g} a second, milliseconds"
        yield title, columns, [*lines, ["median", *medians, f"{self.p99_ratio:.2f}"]]


def measure_fit_beside_serving(
    load: Load,
    *,
    ratings: Path | None = None,
    environment: dict[str, str] | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ServingReport:
    """Start a service in its own folder; measure requests with and without a fit.

    Args:
        ratings: a file that imports; None: made-up ratings.
        environment: settings of the service that differ, as
            `{"HARMONIUM_TRAINING_THREADS": "2"}`.

    Raises:
        Misconfigured: the service did not start or refused a request; the
            message has its log.
    """
    with tempfile.TemporaryDirectory() as name, _service(Path(name), environment or {}) as service:
        on_progress("importing and training")
        service.prepare(ratings.read_bytes() if ratings else _made_up(load.shape))
        users = service.some_users()
        turn = dataclasses.replace(load, seconds=TURN)
        _phase(service, users, turn)  # caches
        rounds = []
        with service.fitting() as epochs:
            made, began = epochs(), time.monotonic()
            for number in range(1, load.rounds + 1):
                idle: list[float] = []
                fitting: list[float] = []
                for _ in range(max(1, round(load.seconds / TURN))):
                    with service.worker_stopped():
                        idle += _phase(service, users, turn)
                    fitting += _phase(service, users, turn)
                rounds.append(
                    Round(
                        idle_p50=_percentile(idle, 0.5),
                        idle_p99=_percentile(idle, 0.99),
                        fitting_p50=_percentile(fitting, 0.5),
                        fitting_p99=_percentile(fitting, 0.99),
                        requests=len(idle) + len(fitting),
                    )
                )
                on_progress(
                    f"round {number} of {load.rounds}: p99 {rounds[-1].idle_p99:.1f} ms idle, "
                    f"{rounds[-1].fitting_p99:.1f} ms while fitting"
                )
            pace = (epochs() - made) / (time.monotonic() - began) * 2  # it was stopped half of the time
        return ServingReport(load, rounds, pace, *service.most_resident(), machine=describe_machine())


class _Service:
    """`harmonium serve` as a process, and requests to it over HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        connection = self.connect()
        try:
            kind = {"Content-Type": "application/json"} if body and body.startswith(b"{") else {}
            connection.request(method, path, body, kind)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status >= 400:
                raise self.failed(f"{method} {path} answered {answer.status}: {content.decode()}")
            return json.loads(content)
        finally:
            connection.close()

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_PATIENCE
        while not is_so():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failed("the service refused a request")
            time.sleep(0.1)

    def failed(self, what: str) -> Misconfigured:
        return Misconfigured(f"{what}. Its log ends with:\n{self._log.read_text()[-2000:]}")

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.call("GET", "/health/ready")["ready"])
        return False

    def prepare(self, file: bytes) -> None:
        """Import a file and train the first version."""
        made = self.call("POST", "/v1/imports", file)
        self.finish(f"/v1/imports/{made['id']}")
        run = self.call("POST", "/v1/admin/retrain", b'{"epochs": 20}')
        self.finish(f"/v1/admin/training-runs/{run['id']}")
        self.wait_until(lambda: self.call("GET", "/health/ready")["model_version"] is not None)

    def finish(self, path: str) -> None:
        seen: dict[str, Any] = {}

        def has_ended() -> bool:
            seen.update(self.call("GET", path))
            return seen["state"] not in ("queued", "running")

        self.wait_until(has_ended)
        if seen["state"] != "succeeded":
            raise self.failed(f"{path} has {seen['state']}: {seen['error']}")

    def some_users(self) -> list[str]:
        """Users who have rated, in the order of the export."""
        connection = self.connect()
        connection.request("GET", "/v1/admin/ratings.csv")
        lines = connection.getresponse().read().decode().splitlines()[1:]
        connection.close()
        return list(dict.fromkeys(line.split(",", 1)[0] for line in lines))

    def workers(self) -> list[int]:
        """The process ids of what the service has started."""
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/children")  # a thread starts the worker
        return [int(child) for children in threads for child in children.read_text().split()]

    @contextlib.contextmanager
    def worker_stopped(self) -> Iterator[None]:
        """Whatever the worker does, it does not do it in this block."""
        stopped = self.workers()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def fitting(self) -> Iterator[Callable[[], float]]:
        """A fit that runs until the block ends; gives a function that counts epochs."""
        body = json.dumps({"epochs": ENDLESS_EPOCHS}).encode()
        path = f"/v1/admin/training-runs/{self.call('POST', '/v1/admin/retrain', body)['id']}"

        def epochs() -> float:
            progress = self.call("GET", path)["progress"]
            return float(max(0.0, (progress - 0.02) / 0.94 * ENDLESS_EPOCHS))

        self.wait_until(lambda: epochs() > 0)
        try:
            yield epochs
        finally:
            self.call("POST", f"{path}/cancel")
            self.wait_until(lambda: self.call("GET", path)["state"] == "cancelled")

    def most_resident(self) -> tuple[int, int]:
        """Most bytes that the API process and the worker have held."""
        worker = max((_most_resident(pid) for pid in self.workers()), default=0)
        return _most_resident(self.process.pid), worker


@contextlib.contextmanager
def _service(folder: Path, environment: dict[str, str]) -> Iterator[_Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "service.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HARMONIUM_")}
    settings = {
        "HARMONIUM_DATABASE_URL": f"sqlite:///{folder}/bench.db",
        "HARMONIUM_SPOOL_DIR": str(folder / "spool"),
        "HARMONIUM_PORT": str(port),
        "HARMONIUM_RETRAIN_AFTER_RATINGS": "0",
        "HARMONIUM_RETRAIN_EVERY_HOURS": "0",
    }
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"],
            cwd=folder,
            env=inherited | settings | environment,
            stdout=file,
            stderr=file,
        )
    service = _Service(process, port, log)
    try:
        service.wait_until(service.is_ready)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _phase(service: _Service, users: list[str], load: Load) -> list[float]:
    """Milliseconds of every request of one phase, counted from when it was due."""
    times: list[float] = []
    failures: list[str] = []
    numbers = itertools.count()
    began = time.perf_counter()
    n_requests = int(load.rate * load.seconds)

    def visit() -> None:
        connection = service.connect()
        chosen = random.Random(threading.get_ident())
        while (number := next(numbers)) < n_requests:
            due = began + number / load.rate
            time.sleep(max(0.0, due - time.perf_counter()))
            # A visitor who finds every connection busy waits, too: from when they came,
            # not from when they were let in.
            connection.request("GET", f"/v1/users/{chosen.choice(users)}/recommendations?limit=10")
            answer = connection.getresponse()
            answer.read()
            times.append((time.perf_counter() - due) * 1000)
            if answer.status != 200:
                failures.append(str(answer.status))
        connection.close()

    visitors = [threading.Thread(target=visit) for _ in range(load.connections)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    if failures or len(times) < n_requests:
        raise service.failed(f"{n_requests - len(times) + len(failures)} of {n_requests} requests failed")
    return times


def _percentile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _made_up(shape: tuple[int, int, int]) -> bytes:
    rows = synthetic_ratings(*shape)
    triples = zip(rows.users.tolist(), rows.indices.tolist(), rows.stars.tolist(), strict=True)
    return ("userId,movieId,rating\n" + "".join(f"{u},{m},{s}\n" for u, m, s in triples)).encode()


def _most_resident(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__)
    options_of.add_argument("--ratings", type=Path, metavar="FILE", help="synthetic ratings without it")
    options_of.add_argument("--rate", type=float, default=Load.rate, help="requests a second")
    options_of.add_argument("--seconds", type=float, default=Load.seconds, help="of each phase")
    options_of.add_argument("--rounds", type=int, default=Load.rounds, help="turns of idle and fitting")
    options_of.add_argument("--threads", type=int, default=1, help="BLAS threads of the fit; 0: all")
    options = options_of.parse_args(arguments)
    report = measure_fit_beside_serving(
        Load(rate=options.rate, seconds=options.seconds, rounds=options.rounds),
        ratings=options.ratings,
        environment={"HARMONIUM_TRAINING_THREADS": str(options.threads)},
        on_progress=say,
    )
    show(report, options.json)


if __name__ == "__main__":
    main()

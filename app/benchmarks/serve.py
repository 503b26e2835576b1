"""Requests a second of the real server, beside routes that do everything but recommend.

`harmonium serve --no-worker` runs as a process of its own over a database filled for the occasion, and wrk,
an HTTP load tool, drives it. In turns with it runs `app.benchmarks.constant`: the same application with two
more routes, one of which takes the same key, reads the same rows by the same SELECT and returns a constant
list, while the other parses the same body and returns a constant list; and a bare FastAPI application with a
single route.
What is left between two figures is what recommending costs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from app import access, catalogue, model_registry, ratings
from app.benchmarks.machine import describe_machine
from app.catalogue import MovieEntry
from app.database import Database
from app.errors import Misconfigured
from app.learning import model_file
from app.learning.configuration import TrainingConfiguration
from app.learning.grading import Grading
from app.learning.judge import Judge, JudgeSettings
from app.learning.like_probability import LengthCalibration
from app.learning.linear_units import LinearUnits
from app.learning.machines import Machines
from app.learning.metrics import Reliability
from app.learning.ordinal_biases import Levels
from app.learning.preferences import RatingRows
from app.learning.rbm import RBM
from app.learning.synthetic import synthetic_ratings
from app.learning.visible_design import DESIGNS
from app.learning.vocabulary import Vocabulary
from app.learning.weighted_units import WeightedUnits
from app.ratings import UNTIMED, RatingBatch
from app.tables import Job, TrainingRun

HOW_TO_GET_WRK = "No wrk found, which makes the load: on Debian, apt-get install wrk"
GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "Western")
START_SECONDS = 60.0
STORE_ROWS = 50_000
LOAD = 0.7  # of the most requests a second, for the latencies
LOAD_CONNECTIONS = 32
LIMIT = 10  # movies in a list


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        small: users, movies, ratings of the catalogue that requests a second are measured with.
        small_hidden: hidden units of its machine.
        huge: the same for memory and the time of one request.
        huge_hidden: hidden units of its machine.
        seconds: of each turn, whole ones: wrk takes no others.
        rounds: turns of each route.
        connections: at once, for the most requests a second.
    """

    small: tuple[int, int, int] = (943, 1_682, 100_000)
    small_hidden: int = 400
    huge: tuple[int, int, int] = (2_000, 59_000, 300_000)
    huge_hidden: int = 400
    seconds: int = 4
    rounds: int = 5
    connections: int = 8


@dataclass(frozen=True)
class Load:
    """What wrk saw in one turn; latencies in milliseconds.

    `processor` is the server's own processor time in milliseconds a request, which waits for nobody: on a
    busy machine it says more than the clock.
    """

    per_second: float
    processor: float
    p50: float
    p99: float
    n_errors: int


@dataclass
class ServeReport:
    """What was measured; every list holds one dict a row."""

    machine: dict[str, Any]
    throughput: list[dict[str, Any]] = field(default_factory=list)
    latency: list[dict[str, Any]] = field(default_factory=list)
    huge: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe values."""
        return asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and lines of each table."""
        if self.throughput:
            yield (
                "Requests a second",
                [
                    "",
                    "recommending",
                    "constant list",
                    "ratio",
                    "bare framework",
                    "processor ms",
                    "constant list's",
                    "ratio",
                ],
                [
                    [
                        f"{one['database']}, {one['kind']}",
                        f"{one['per_second']:.0f}",
                        f"{one['constant']:.0f}",
                        f"{one['ratio']:.2f}",
                        f"{one['bare']:.0f}",
                        f"{one['processor']:.2f}",
                        f"{one['constant_processor']:.2f}",
                        f"{one['processor_ratio']:.2f}",
                    ]
                    for one in self.throughput
                ],
            )
        if self.latency:
            yield (
                f"Milliseconds at {LOAD:.0%} of the most requests a second",
                ["", "requests a second", "p50", "p99", "p99 / p50", "constant list p99 / p50"],
                [
                    [
                        f"{one['database']}, {one['kind']}",
                        f"{one['per_second']:.0f}",
                        f"{one['p50']:.2f}",
                        f"{one['p99']:.2f}",
                        f"{one['ratio']:.1f}",
                        f"{one['constant_ratio']:.1f}",
                    ]
                    for one in self.latency
                ],
            )
        if self.huge:
            yield (
                "A huge catalogue, one request at a time",
                [
                    "",
                    "p50 ms",
                    "p99 ms",
                    "processor ms",
                    "resident MB",
                    "most MB",
                    "of a second process, its own MB",
                ],
                [
                    [
                        one["database"],
                        f"{one['p50']:.1f}",
                        f"{one['p99']:.1f}",
                        f"{one['processor']:.1f}",
                        f"{one['resident'] / 1e6:.0f}",
                        f"{one['most_resident'] / 1e6:.0f}",
                        f"{one['second_private'] / 1e6:.0f}",
                    ]
                    for one in self.huge
                ],
            )


def measure_serving(
    postgres_url: str | None = None,
    *,
    scale: Scale | None = None,
    huge: bool = True,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ServeReport:
    """Measure on SQLite in a temporary folder and, where a URL is given, on PostgreSQL.

    Args:
        postgres_url: of an empty database, which is filled and not emptied again.
        scale: how much.
        huge: measure the huge catalogue, too; it is on SQLite only.
        on_progress: is told what happens.

    Raises:
        Misconfigured: there is no wrk, the database is not empty, or a server does not start.
    """
    scale = scale or Scale()
    if shutil.which("wrk") is None:
        raise Misconfigured(HOW_TO_GET_WRK)
    report = ServeReport(describe_machine())
    with tempfile.TemporaryDirectory(prefix="harmonium-bench-") as name:
        folder = Path(name)
        databases = {"SQLite": f"sqlite:///{folder}/small.db"}
        if postgres_url:
            databases["PostgreSQL"] = postgres_url
        for database_name, url in databases.items():
            on_progress(f"{database_name}: filling a database")
            filled = fill(url, scale.small, scale.small_hidden)
            _measure_throughput(report, database_name, url, filled, folder, scale, on_progress)
        if huge:
            on_progress("a huge catalogue: filling a database")
            url = f"sqlite:///{folder}/huge.db"
            filled = fill(url, scale.huge, scale.huge_hidden)
            _measure_huge(report, url, filled, folder, scale, on_progress)
    return report


# What is served


@dataclass(frozen=True, eq=False)
class Filled:
    """What a database was filled with.

    Attributes:
        rows: the ratings; row u is user u, column m is movie m, by their decimal numbers.
        secret: a key that may read.
    """

    rows: RatingRows
    secret: str


def fill(url: str, shape: tuple[int, int, int], hidden_units: int) -> Filled:
    """Migrate an empty database and put made-up ratings, movies, machines and a key there."""
    rows = synthetic_ratings(*shape)
    database = Database(url)
    now = datetime.now(UTC)
    try:
        database.upgrade()
        with database.reading() as session:
            if ratings.count(session):
                raise Misconfigured("The benchmark fills an empty database, and this one holds ratings.")
        for start in range(0, rows.n_movies, STORE_ROWS):
            entries = [
                MovieEntry(str(number), f"Film number {number}", 1950 + number % 75, _genres(number))
                for number in range(start, min(start + STORE_ROWS, rows.n_movies))
            ]
            with database.writing() as session:
                catalogue.store(session, entries, now=now)
        users, movies = rows.users.astype(str).tolist(), rows.indices.astype(str).tolist()
        for start in range(0, rows.n_ratings, STORE_ROWS):
            part = slice(start, start + STORE_ROWS)
            batch = RatingBatch.of_columns(
                users[part],
                movies[part],
                rows.stars[part].astype(np.float64),
                np.full(len(users[part]), UNTIMED),
            )
            with database.writing() as session:
                ratings.store(session, batch, received_at=now)
        machines = made_up_machines(rows, hidden_units)
        content = model_file.dump(machines)
        with database.writing() as session:
            job = Job(kind="benchmark", state="succeeded", payload={}, progress=1.0, created_at=now)
            session.add(job)
            session.flush()
            run = TrainingRun(job_id=job.job_id, overrides={}, created_at=now)
            session.add(run)
            session.flush()
            version = model_registry.store(
                session,
                machines,
                content,
                run_id=run.run_id,
                trained_user_keys=np.empty(0, np.int64),
                metrics={},
                verdict={"outcome": "not_evaluated", "words": "made up by a benchmark"},
            )
            model_registry.activate(session, version.version)
            _, secret = access.create(session, "benchmark", "read")
    finally:
        database.close()
    return Filled(rows, secret)


def made_up_machines(rows: RatingRows, hidden_units: int) -> Machines:
    """Machines of the shape that training gives, with the data's visible biases and random weights."""
    rng = np.random.default_rng(0)
    wanted = TrainingConfiguration(hidden_units=hidden_units, rank_liked_at_least=4.0)
    configuration = wanted.resolved(rows.n_users, rows.n_movies, rows.n_ratings)
    preferences = rows.preferences(4.0)
    design = DESIGNS[configuration.design]
    rbm = RBM.initial(design.initial_bias(preferences), hidden_units, rng, deviation=0.1)
    mean_length = rows.n_ratings / rows.n_users
    n_linear = configuration.linear_units or 0
    variance = np.full(rows.n_movies, 0.01, np.float32)
    linear = LinearUnits(
        rng.standard_normal((rows.n_movies, n_linear), np.float32) * np.float32(0.1), variance, variance
    )
    n_judging = JudgeSettings.by_shape(rows.n_users, rows.n_movies, rows.n_ratings).hidden_units
    movie_bias = rng.normal(0.0, 0.5, rows.n_movies)
    judge = Judge(
        levels=Levels.of(rows.stars, configuration.liked_at_least),
        rbm=RBM.initial(np.concatenate([movie_bias, np.zeros(rows.n_movies)]), n_judging, rng, deviation=0.1),
        mean_length=mean_length,
    )
    return Machines(
        vocabulary=Vocabulary([str(number) for number in range(rows.n_movies)]),
        configuration=configuration,
        rbm=rbm,
        linear=linear,
        weighted=WeightedUnits(
            rng.standard_normal((rows.n_movies, configuration.weighted_units or 0), np.float32)
            * np.float32(0.1),
            ridge=27.0,
        ),
        grading=Grading.of(rows.stars, configuration.grade_slope),
        mean_length=mean_length,
        judge=judge,
        calibration=LengthCalibration(),
        reliability=Reliability((), (), ()),
        n_users=rows.n_users,
        popularity=preferences.ratings_per_movie(),
        likes=preferences.likes_per_movie(),
    )


def _genres(number: int) -> tuple[str, ...]:
    return GENRES[number % 8], GENRES[(number // 8 + number % 8 + 1) % 8]


# Processes


@dataclass(frozen=True)
class Server:
    """A running server process."""

    url: str
    pid: int


@contextlib.contextmanager
def serving(folder: Path, database_url: str, *module: str) -> Iterator[Server]:
    """A process of this Python that serves on a free port until the block ends; by default the real one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARMONIUM_")}
    environment |= {
        "HARMONIUM_DATABASE_URL": database_url,
        "HARMONIUM_PORT": str(port),
        "HARMONIUM_SPOOL_DIR": str(folder / "spool"),
        "HARMONIUM_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", *(module or ("app", "serve", "--no-worker"))]
    log = folder / f"{port}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{url}/health/ready"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise Misconfigured(f"A server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Server(url, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def memory_of(pid: int) -> dict[str, int]:
    """Bytes of a process: resident, the most it ever was, and private to it; 0 where nobody says."""
    found = {"resident": 0, "most_resident": 0, "private": 0}
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = {
            name: rest.split()[0] for name, _, rest in (one.partition(":") for one in lines) if rest.strip()
        }
        found["resident"] = int(values["VmRSS"]) * 1024
        found["most_resident"] = int(values["VmHWM"]) * 1024
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found["private"] = 1024 * sum(
            int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean", "Private_Dirty"))
        )
    return found


def processor_seconds(pid: int) -> float:
    """Time that all threads of a process have run; 0 where nobody says."""
    with contextlib.suppress(OSError):
        # The name, in brackets, may hold anything; utime and stime are the 14th and 15th field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


# Load

_SCRIPT = """
local paths = {%(paths)s}
local bodies = {%(bodies)s}
local method = "%(method)s"
local headers = {["Authorization"] = "Bearer %(secret)s", ["Content-Type"] = "application/json"}
local counter = 0
local mean_delay = %(mean_delay)f
math.randomseed(1)
function request()
  counter = counter + 1
  local path = paths[counter %% #paths + 1]
  local body = nil
  if #bodies > 0 then body = bodies[counter %% #bodies + 1] end
  return wrk.format(method, path, headers, body)
end
if mean_delay > 0 then
  -- Poisson arrivals: each connection waits an exponential time between two requests, in milliseconds.
  function delay() return math.floor(-mean_delay * math.log(1 - math.random()) + 0.5) end
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('\\nRESULT {"n": %%d, "us": %%d, "p50": %%f, "p99": %%f, "errors": %%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True)
class Requests:
    """What is asked, over and over: paths, and bodies where it is posted."""

    secret: str
    paths: Sequence[str]
    bodies: Sequence[str] = ()

    def drive(
        self, server: Server, folder: Path, seconds: int, connections: int, *, per_second: float = 0.0
    ) -> Load:
        """One turn of wrk: as fast as it goes, or at about `per_second` with random pauses."""
        mean_delay = 1000 * connections / per_second if per_second else 0.0
        script = folder / "load.lua"
        script.write_text(
            _SCRIPT
            % {
                "paths": ", ".join(json.dumps(one) for one in self.paths),
                "bodies": ", ".join(f"[==[{one}]==]" for one in self.bodies),
                "method": "POST" if self.bodies else "GET",
                "secret": self.secret,
                "mean_delay": mean_delay,
            }
        )
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), server.url]
        before = processor_seconds(server.pid)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        used = processor_seconds(server.pid) - before
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        result = json.loads(line.removeprefix("RESULT "))
        if result["errors"]:
            raise Misconfigured(f"{result['errors']} of {result['n']} requests failed: {done.stdout}")
        return Load(
            per_second=result["n"] / (result["us"] / 1e6),
            processor=1000 * used / max(result["n"], 1),
            p50=result["p50"] / 1000,
            p99=result["p99"] / 1000,
            n_errors=result["errors"],
        )


def _stored(filled: Filled, prefix: str = "/v1") -> Requests:
    users = np.random.default_rng(0).permutation(filled.rows.n_users)[:500]
    return Requests(
        filled.secret, [f"{prefix}/users/{user}/recommendations?limit={LIMIT}" for user in users.tolist()]
    )


def _posted(filled: Filled, prefix: str = "/v1") -> Requests:
    rows, bodies = filled.rows, []
    for user in np.random.default_rng(1).permutation(rows.n_users)[:200].tolist():
        own = slice(rows.indptr[user], rows.indptr[user + 1])
        given = [
            {"movie_id": str(movie), "stars": float(stars)}
            for movie, stars in zip(rows.indices[own], rows.stars[own], strict=True)
        ]
        bodies.append(json.dumps({"ratings": given, "limit": LIMIT}))
    return Requests(filled.secret, [f"{prefix}/recommendations"], bodies)


# What is measured


def _measure_throughput(
    report: ServeReport,
    database_name: str,
    url: str,
    filled: Filled,
    folder: Path,
    scale: Scale,
    on_progress: Callable[[str], None],
) -> None:
    constant = "app.benchmarks.constant"
    with (
        serving(folder, url) as real,
        serving(folder, url, constant, "same") as same,
        serving(folder, url, constant, "bare") as bare,
    ):
        bare_requests = Requests(filled.secret, ["/bare"])
        for kind, requests, control in (
            ("stored user", _stored(filled), _stored(filled, "/constant")),
            ("ratings in the body", _posted(filled), _posted(filled, "/constant")),
        ):
            on_progress(f"{database_name}: {kind}, {scale.rounds} rounds")
            turns = ((real, requests), (same, control), (bare, bare_requests))
            for server, asked in turns:  # caches and threads
                asked.drive(server, folder, min(2, scale.seconds), scale.connections)
            most = [
                [asked.drive(server, folder, scale.seconds, scale.connections) for server, asked in turns]
                for _ in range(scale.rounds)
            ]
            speeds = [[one.per_second for one in turn] for turn in most]
            times = [[one.processor for one in turn] for turn in most]
            ours, constants, bares = (statistics.median(column) for column in zip(*speeds, strict=True))
            report.throughput.append(
                {
                    "database": database_name,
                    "kind": kind,
                    "per_second": ours,
                    "constant": constants,
                    "bare": bares,
                    "ratio": statistics.median(turn[0] / turn[1] for turn in speeds),
                    "processor": statistics.median(turn[0] for turn in times),
                    "constant_processor": statistics.median(turn[1] for turn in times),
                    "processor_ratio": statistics.median(turn[1] / max(turn[0], 1e-9) for turn in times),
                    "rounds": speeds,
                }
            )
            paced = [
                [
                    asked.drive(
                        server,
                        folder,
                        2 * scale.seconds,
                        LOAD_CONNECTIONS,
                        per_second=_pace(LOAD * speed, p50),
                    )
                    for server, asked, speed, p50 in (
                        (real, requests, ours, most[-1][0].p50 / scale.connections),
                        (same, control, constants, most[-1][1].p50 / scale.connections),
                    )
                ]
                for _ in range(scale.rounds)
            ]
            report.latency.append(
                {
                    "database": database_name,
                    "kind": kind,
                    "per_second": statistics.median(turn[0].per_second for turn in paced),
                    "p50": statistics.median(turn[0].p50 for turn in paced),
                    "p99": statistics.median(turn[0].p99 for turn in paced),
                    "ratio": statistics.median(turn[0].p99 / turn[0].p50 for turn in paced),
                    "constant_ratio": statistics.median(turn[1].p99 / turn[1].p50 for turn in paced),
                }
            )


def _pace(per_second: float, service_milliseconds: float) -> float:
    """What to ask wrk for, whose pauses begin when an answer has come: the answers take their time, too."""
    pause = LOAD_CONNECTIONS / per_second - 2 * service_milliseconds / 1000
    return LOAD_CONNECTIONS / max(pause, 1e-3)


def _measure_huge(
    report: ServeReport,
    url: str,
    filled: Filled,
    folder: Path,
    scale: Scale,
    on_progress: Callable[[str], None],
) -> None:
    on_progress("a huge catalogue: one request at a time")
    with serving(folder, url) as first, serving(folder, url) as second:
        requests = _stored(filled)
        for server in (first, second):
            requests.drive(server, folder, min(2, scale.seconds), 1)
        loads = [requests.drive(first, folder, scale.seconds, 1) for _ in range(scale.rounds)]
        memory, of_second = memory_of(first.pid), memory_of(second.pid)
        report.huge.append(
            {
                "database": "SQLite",
                "shape": list(scale.huge),
                "hidden_units": scale.huge_hidden,
                "p50": statistics.median(one.p50 for one in loads),
                "p99": statistics.median(one.p99 for one in loads),
                "per_second": statistics.median(one.per_second for one in loads),
                "processor": statistics.median(one.processor for one in loads),
                "resident": memory["resident"],
                "most_resident": memory["most_resident"],
                "private": memory["private"],
                "second_private": of_second["private"],
            }
        )

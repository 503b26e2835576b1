"""Requests a second of the real server, beside routes that do everything but recommend.

    python -m benchmarks.serve [--postgresql URL] [--json FILE]

`harmonium serve --no-worker` runs as a process of its own over a database with
synthetic ratings, and wrk, an HTTP load tool, drives it. In turns with it runs
`benchmarks.constant`: the application with two more routes, which take the key, read
the ratings or parse the body as the real ones do, and return a constant list; and a
bare FastAPI application with a single route. The difference is the cost of
recommending.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from app import access
from app.catalogue import movies as catalogue
from app.catalogue.movies import MovieEntry
from app.errors import Misconfigured
from app.evaluation.machine import describe_machine
from app.learning import model_file
from app.learning.boltzmann.linear_units import LinearUnits
from app.learning.boltzmann.rbm import RBM
from app.learning.boltzmann.visible_design import DESIGNS
from app.learning.boltzmann.weighted_units import WeightedUnits
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.metrics import Reliability
from app.learning.evaluation.synthetic import synthetic_ratings
from app.learning.likes.calibration import LengthCalibration
from app.learning.likes.ordinal_biases import Levels
from app.learning.likes.ordinal_rbm import OrdinalRBM, OrdinalRBMSettings
from app.learning.rating_matrix import RatingRows
from app.learning.star_weights import StarWeights
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary
from app.model_versions import activation
from app.model_versions import store as model_registry
from app.ratings import read, store
from app.ratings.batch import UNTIMED, RatingBatch
from app.storage.database import Database
from app.storage.tables import Job, TrainingRun
from benchmarks.report import parser, say, show
from benchmarks.server import Load, Requests, memory_of, serving

HOW_TO_GET_WRK = "wrk is missing, which makes the load: on Debian, apt-get install wrk"
GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "Western")
STORE_ROWS = 50_000
LOAD = 0.7  # of the most requests a second, for the latencies
LOAD_CONNECTIONS = 32
LIMIT = 10  # movies in a list

# Columns of the tables: the figure and its digits.
THROUGHPUT = {
    "recommending": ("per_second", 0),
    "constant list": ("constant", 0),
    "ratio": ("ratio", 2),
    "bare framework": ("bare", 0),
    "processor ms": ("processor", 2),
    "of a constant list": ("constant_processor", 2),
    "their ratio": ("processor_ratio", 2),
}
LATENCY = {
    "requests a second": ("per_second", 0),
    "p50": ("p50", 2),
    "p99": ("p99", 2),
    "p99 / p50": ("ratio", 1),
    "of a constant list": ("constant_ratio", 1),
}
HUGE = {
    "p50 ms": ("p50", 1),
    "p99 ms": ("p99", 1),
    "processor ms": ("processor", 1),
    "resident MB": ("resident_mb", 0),
    "most MB": ("most_resident_mb", 0),
    "own MB of a second process": ("second_private_mb", 0),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        small: users, movies, ratings of the catalogue that requests a second are
            measured with.
        small_hidden: hidden units of its model.
        huge: as `small`, for memory and the time of one request.
        huge_hidden: hidden units of its model.
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


@dataclass
class ServeReport:
    """The figures; every list holds one dict a row."""

    machine: dict[str, Any]
    throughput: list[dict[str, Any]] = field(default_factory=list)
    latency: list[dict[str, Any]] = field(default_factory=list)
    huge: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe values."""
        return asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Title, columns and lines of each table."""
        pacing = f"Milliseconds at {LOAD:.0%} of the most requests a second"
        for title, names, rows in (
            ("Requests a second", THROUGHPUT, self.throughput),
            (pacing, LATENCY, self.latency),
            ("A huge catalogue, one request at a time", HUGE, self.huge),
        ):
            if rows:
                lines = [
                    [
                        ", ".join(row[name] for name in ("database", "kind") if name in row),
                        *(f"{row[name]:,.{digits}f}" for name, digits in names.values()),
                    ]
                    for row in rows
                ]
                yield title, ["", *names], lines


def measure_serving(
    postgres_url: str | None = None,
    *,
    scale: Scale | None = None,
    huge: bool = True,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ServeReport:
    """Measure on SQLite in a temporary folder and, with a URL, on PostgreSQL.

    Args:
        postgres_url: of an empty database, which is filled and not emptied again.
        scale: how much.
        huge: measure the huge catalogue, too; it is on SQLite only.
        on_progress: called with each step.

    Raises:
        Misconfigured: there is no wrk, the database is not empty, or a server does not
            start.
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
    """The content of a database.

    Attributes:
        rows: the ratings; row u is user u, column m is movie m, by their decimal
            numbers.
        secret: a key that may read.
    """

    rows: RatingRows
    secret: str


def fill(url: str, shape: tuple[int, int, int], hidden_units: int) -> Filled:
    """Migrate an empty database; store synthetic ratings, movies, a model and a key."""
    rows = synthetic_ratings(*shape)
    database = Database(url)
    now = datetime.now(UTC)
    try:
        database.upgrade()
        with database.reading() as session:
            if read.count(session):
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
                store.upsert(session, batch, received_at=now)
        model = synthetic_model(rows, hidden_units)
        content = model_file.dump(model)
        with database.writing() as session:
            job = Job(kind="benchmark", state="succeeded", payload={}, progress=1.0, created_at=now)
            session.add(job)
            session.flush()
            run = TrainingRun(job_id=job.job_id, overrides={}, created_at=now)
            session.add(run)
            session.flush()
            version = model_registry.add(
                session,
                model,
                content,
                run_id=run.run_id,
                trained_user_keys=np.empty(0, np.int64),
                metrics={},
                verdict={"outcome": "not_evaluated", "words": "made up by a benchmark"},
            )
            activation.activate(session, version.version)
            secret = access.create(session, "benchmark", "read").key
    finally:
        database.close()
    return Filled(rows, secret)


def synthetic_model(rows: RatingRows, hidden_units: int) -> TrainedModel:
    """A model of the shape of a trained one, with random weights."""
    rng = np.random.default_rng(0)
    settings = TrainingConfiguration(hidden_units=hidden_units, rank_liked_at_least=4.0)
    configuration = settings.resolved(rows.n_users, rows.n_movies, rows.n_ratings)
    preferences = rows.preferences(4.0)
    design = DESIGNS[configuration.design]
    rbm = RBM.initial(design.initial_bias(preferences), hidden_units, rng, deviation=0.1)
    mean_length = rows.n_ratings / rows.n_users
    n_linear = configuration.linear_units or 0
    variance = np.full(rows.n_movies, 0.01, np.float32)
    linear = LinearUnits(
        rng.standard_normal((rows.n_movies, n_linear), np.float32) * np.float32(0.1), variance, variance
    )
    n_judging = OrdinalRBMSettings.by_shape(rows.n_users, rows.n_movies, rows.n_ratings).hidden_units
    movie_bias = rng.normal(0.0, 0.5, rows.n_movies)
    like_model = OrdinalRBM(
        levels=Levels.of(rows.stars, configuration.liked_at_least),
        rbm=RBM.initial(np.concatenate([movie_bias, np.zeros(rows.n_movies)]), n_judging, rng, deviation=0.1),
        mean_length=mean_length,
    )
    return TrainedModel(
        vocabulary=Vocabulary([str(number) for number in range(rows.n_movies)]),
        configuration=configuration,
        rbm=rbm,
        linear=linear,
        weighted=WeightedUnits(
            rng.standard_normal((rows.n_movies, configuration.weighted_units or 0), np.float32)
            * np.float32(0.1),
            ridge=27.0,
        ),
        star_weights=StarWeights.of(rows.stars, configuration.grade_slope),
        mean_length=mean_length,
        like_model=like_model,
        calibration=LengthCalibration(),
        reliability=Reliability((), (), ()),
        n_users=rows.n_users,
        popularity=preferences.ratings_per_movie(),
        likes=preferences.likes_per_movie(),
    )


def _genres(number: int) -> tuple[str, ...]:
    return GENRES[number % 8], GENRES[(number // 8 + number % 8 + 1) % 8]


def _stored(filled: Filled, prefix: str = "/v1") -> Requests:
    users = np.random.default_rng(0).permutation(filled.rows.n_users)[:500]
    return Requests(
        filled.secret, [f"{prefix}/users/{user}/recommendations?limit={LIMIT}" for user in users.tolist()]
    )


def _posted(filled: Filled, prefix: str = "/v1") -> Requests:
    rows, bodies = filled.rows, []
    for user in np.random.default_rng(1).permutation(rows.n_users)[:200].tolist():
        own = slice(rows.indptr[user], rows.indptr[user + 1])
        profile = [
            {"movie_id": str(movie), "stars": float(stars)}
            for movie, stars in zip(rows.indices[own], rows.stars[own], strict=True)
        ]
        bodies.append(json.dumps({"ratings": profile, "limit": LIMIT}))
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
    constant = "benchmarks.constant"
    with (
        serving(folder, url) as real,
        serving(folder, url, constant, "same") as same,
        serving(folder, url, constant, "bare") as bare,
    ):
        for kind, requests, control in (
            ("stored user", _stored(filled), _stored(filled, "/constant")),
            ("ratings in the body", _posted(filled), _posted(filled, "/constant")),
        ):
            on_progress(f"{database_name}: {kind}, {scale.rounds} rounds")
            of_table = {"database": database_name, "kind": kind}
            turns = ((real, requests), (same, control), (bare, Requests(filled.secret, ["/bare"])))
            for server, load in turns:  # caches and threads
                load.drive(server, folder, min(2, scale.seconds), scale.connections)
            most = [
                [load.drive(server, folder, scale.seconds, scale.connections) for server, load in turns]
                for _ in range(scale.rounds)
            ]
            report.throughput.append(of_table | _throughput(most))
            paces = [
                _pace(LOAD * report.throughput[-1][name], most[-1][place].p50 / scale.connections)
                for place, name in enumerate(("per_second", "constant"))
            ]
            paced = [
                [
                    load.drive(server, folder, 2 * scale.seconds, LOAD_CONNECTIONS, per_second=pace)
                    for (server, load), pace in zip(turns[:2], paces, strict=True)
                ]
                for _ in range(scale.rounds)
            ]
            report.latency.append(of_table | _latency(paced))


def _throughput(rounds: Sequence[Sequence[Load]]) -> dict[str, Any]:
    """Medians over rounds of the real server, constant list and bare framework."""
    speeds = [[load.per_second for load in turn] for turn in rounds]
    times = [[load.processor for load in turn] for turn in rounds]
    ours, constants, bares = (statistics.median(column) for column in zip(*speeds, strict=True))
    return {
        "per_second": ours,
        "constant": constants,
        "bare": bares,
        "ratio": statistics.median(turn[0] / turn[1] for turn in speeds),
        "processor": statistics.median(turn[0] for turn in times),
        "constant_processor": statistics.median(turn[1] for turn in times),
        "processor_ratio": statistics.median(turn[1] / max(turn[0], 1e-9) for turn in times),
        "rounds": speeds,
    }


def _latency(rounds: Sequence[Sequence[Load]]) -> dict[str, float]:
    """Medians over rounds of the real server, and the ratio of the constant list."""
    return {
        "per_second": statistics.median(turn[0].per_second for turn in rounds),
        "p50": statistics.median(turn[0].p50 for turn in rounds),
        "p99": statistics.median(turn[0].p99 for turn in rounds),
        "ratio": statistics.median(turn[0].p99 / turn[0].p50 for turn in rounds),
        "constant_ratio": statistics.median(turn[1].p99 / turn[1].p50 for turn in rounds),
    }


def _pace(per_second: float, service_milliseconds: float) -> float:
    """The rate to ask wrk for, whose pauses begin at the end of an answer."""
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
                "p50": statistics.median(load.p50 for load in loads),
                "p99": statistics.median(load.p99 for load in loads),
                "per_second": statistics.median(load.per_second for load in loads),
                "processor": statistics.median(load.processor for load in loads),
                "resident_mb": memory["resident"] / 1e6,
                "most_resident_mb": memory["most_resident"] / 1e6,
                "second_private_mb": of_second["private"] / 1e6,
            }
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__)
    options_of.add_argument("--postgresql", metavar="URL", help="of an empty database to fill")
    options_of.add_argument("--rounds", type=int, default=5, help="turns of each route")
    options_of.add_argument("--seconds", type=int, default=4, help="of a turn")
    options_of.add_argument("--no-huge", action="store_true", help="leave out the model of 59,000 movies")
    options = options_of.parse_args(arguments)
    scale = Scale(rounds=options.rounds, seconds=options.seconds)
    report = measure_serving(options.postgresql, scale=scale, huge=not options.no_huge, on_progress=say)
    show(report, options.json)


if __name__ == "__main__":
    main()

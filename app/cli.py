"""The command line: `harmonium demo | serve | worker | import | train | …`.

Results go to standard output, progress and logs to standard error. The exit code is 0 only on success:
1 says that what was asked for failed, 2 that it was asked for wrongly.
"""

import json
import math
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import structlog
import typer
import uvicorn
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

from app import (
    access,
    benchmarks,
    catalogue,
    evaluation,
    imports,
    jobs,
    logs,
    model_registry,
    ratings,
    recommendations,
    training_runs,
)
from app.catalogue import MovieEntry
from app.database import Database
from app.demo import catalogue as demo_catalogue
from app.demo import movielens, raters
from app.errors import HarmoniumError, InvalidInput, Misconfigured, Unavailable
from app.evaluation import Evaluation, ProtocolName, Section
from app.learning.metrics import Interval
from app.main import create_app
from app.model_registry import Serving
from app.ratings import RatingBatch
from app.recommendations import RecommendationList, Wanted
from app.settings import Settings
from app.signs_of_life import is_alive
from app.tables import Job
from app.worker import JOB_HANDLERS, SupervisedWorker, Worker, run_worker, usable_cores

log = structlog.get_logger()
out = Console()
err = Console(stderr=True)

app = typer.Typer(
    name="harmonium",
    help="Movie recommendations over REST from a restricted Boltzmann machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="API keys.", no_args_is_help=True)
db = typer.Typer(help="The database.", no_args_is_help=True)
versions = typer.Typer(help="Model versions.", no_args_is_help=True)
bench = typer.Typer(help="Measure speed.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(db, name="db")
app.add_typer(versions, name="model-versions")
app.add_typer(bench, name="bench")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DATABASE_PAUSE = 2.0  # seconds between two tries to migrate a database that is away


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        app(args=arguments, standalone_mode=True)
    except ValidationError as error:
        for one in error.errors():
            name = "_".join(str(part) for part in one["loc"]).upper()
            message = str(one["msg"]).removeprefix("Value error, ")
            _say(f"HARMONIUM_{name}: {message}" if name else message)
        sys.exit(2)
    except HarmoniumError as error:
        _say(f"{error.title()}: {error.detail}")
        for mistake in error.errors:
            _say(f"  {mistake.location}: {mistake.message}")
        sys.exit(2 if isinstance(error, InvalidInput | Misconfigured) else 1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    worker: Annotated[bool, typer.Option(help="Run a worker beside the API.")] = True,
) -> None:
    """Start the API and, unless told not to, a supervised worker process."""
    settings = _settings(**_given(host=host, port=port))
    _serve(settings, with_worker=worker)


@app.command()
def worker(
    name: Annotated[str | None, typer.Option(help="What the jobs' rows show.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether a worker is alive here.")] = False,
    stop_with_stdin: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> None:
    """Run imports and training runs until stopped."""
    settings = _settings()
    if check:
        raise typer.Exit(0 if is_alive(settings) else 1)
    raise typer.Exit(run_worker(settings, name=name, stop_with_stdin=stop_with_stdin))


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="u.data, u.item, ratings.csv, movies.dat, a zip, …")],
    kind: Annotated[Literal["auto", "ratings", "movies"], typer.Option()] = "auto",
    format_: Annotated[str, typer.Option("--format", help="Override what the content looks like.")] = "auto",
    on_error: Annotated[
        Literal["reject", "skip"], typer.Option(help="A bad row stops the whole file, or is left out.")
    ] = "reject",
    as_json: AsJson = False,
) -> None:
    """Load files of ratings or movies, in the order given."""
    settings = _settings()
    results = []
    with _database(settings) as database:
        for path in files:
            with _progress(f"importing {path.name}") as on_progress:
                started = time.monotonic()
                result = imports.import_file(
                    database,
                    settings,
                    path,
                    kind=kind,
                    format_=format_,
                    on_error=on_error,
                    on_progress=on_progress,
                )
                seconds = time.monotonic() - started
            results.append({"file": str(path), **result})
            if not as_json:
                _print_import(path, result, seconds)
    if as_json:
        _print_json(results)


@app.command()
def train(
    epochs: Annotated[int | None, typer.Option()] = None,
    hidden_units: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    design: Annotated[Literal["joint", "positive", "masked", "conditional"] | None, typer.Option()] = None,
    k: Annotated[int | None, typer.Option(help="Gibbs steps of contrastive divergence.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    note: Annotated[str | None, typer.Option()] = None,
    as_json: AsJson = False,
) -> None:
    """Train here and now, in the foreground; the new version becomes active if it wins at the gate."""
    settings = _settings()
    overrides = _given(
        epochs=epochs,
        hidden_units=hidden_units,
        learning_rate=learning_rate,
        design=design,
        k=k,
        seed=seed,
    )
    with _database(settings) as database:
        run = _train(database, settings, overrides, note)
    if as_json:
        _print_json(run)
    else:
        _tell(f"model version {run['model_version']}: {run['evaluation']['words']}")


@app.command()
def retrain(
    wait: Annotated[bool, typer.Option("--wait", help="Watch the run to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a training run for the worker."""
    settings = _settings()
    with _database(settings) as database:
        with database.writing() as session:
            view, created = training_runs.request(session, {}, settings)
            run_id, job_id = view.run.run_id, view.job.job_id
        if not as_json:
            _tell(f"training run {run_id} {'is queued' if created else 'was queued already'}")
        if wait:
            job = _watch(database, job_id, f"training run {run_id}")
            _fail_unless_succeeded(job)
        with database.reading() as session:
            view = training_runs.get(session, run_id)
    if as_json:
        _print_json({"training_run": run_id, "state": view.job.state, "model_version": view.model_version})
    elif wait:
        _tell(f"model version {view.model_version}: {(view.run.evaluation or {})['words']}")


@app.command()
def evaluate(
    ratings_file: Annotated[Path, typer.Option("--ratings", help="A file of ratings.")],
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Splits, seeded 0, 1, …")] = 1,
    first_seed: Annotated[int, typer.Option(min=0)] = 0,
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="Test a share of everyone's ratings, the newest ratings, or new users."),
    ] = "stratified",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Split a file of ratings, train, rank the full catalogue, and compare with baselines."""
    settings = _settings()
    data = evaluation.read_rows(ratings_file, settings)
    configuration = training_runs.configuration_of({}, settings)
    with (
        _progress("evaluating") as on_progress,
        threadpool_limits(settings.training_threads or usable_cores(), user_api="blas"),
    ):
        found = evaluation.evaluate(
            data,
            protocol,
            configuration,
            seeds=list(range(first_seed, first_seed + seeds)),
            relevant_at_least=settings.relevant_at_least,
            on_progress=on_progress,
        )
    if json_file is not None:
        json_file.write_text(json.dumps(evaluation.as_json(found), indent=2, allow_nan=False) + "\n")
    for section in found.sections:
        _print_section(found, section)


@app.command()
def recommend(
    user: Annotated[str, typer.Argument(help="A user's id.")],
    limit: Annotated[int, typer.Option(min=1, max=500)] = 10,
    genre: Annotated[str | None, typer.Option()] = None,
    as_json: AsJson = False,
) -> None:
    """Print a user's recommendations by the active version."""
    settings = _settings()
    with _database(settings) as database, database.reading() as session:
        pointer = model_registry.active(session)
        serving = None
        if pointer is not None:
            machines = model_registry.load(session, pointer.version)
            serving = Serving(pointer.version, pointer.generation, machines)
        found = recommendations.for_user(session, serving, user, Wanted(limit=limit, genre=genre))
    if as_json:
        _print_json(asdict(found))
    else:
        _print_list(found)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write; - is standard output.")] = Path("-"),
) -> None:
    """Write every rating as CSV; importing it again gives the same ratings."""
    settings = _settings()
    with _database(settings) as database, database.reading() as session:
        if str(file) == "-":
            for piece in ratings.csv_lines(session):
                sys.stdout.write(piece)
            return
        unfinished = file.with_name(file.name + ".part")
        with unfinished.open("w", encoding="utf-8", newline="") as target:
            for piece in ratings.csv_lines(session):
                target.write(piece)
        unfinished.replace(file)


@app.command()
def demo(
    movielens_set: Annotated[
        str | None,
        typer.Option("--movielens", help="Fetch a real set from GroupLens: small, 100k, 1m, 25m or 32m."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A MovieLens zip that you have already.")] = None,
    host: Annotated[str | None, typer.Option()] = None,
    port: Annotated[int | None, typer.Option()] = None,
    folder: Annotated[Path, typer.Option(help="Where the demo's own database lives.")] = Path("data/demo"),
    start: Annotated[bool, typer.Option("--serve/--no-serve", help="Start the service afterwards.")] = True,
) -> None:
    """Load demo data into a database of its own, train, and start the service."""
    started = time.monotonic()
    if movielens_set and file:
        raise InvalidInput("Give either --movielens or --file, not both.")
    name = "demo"
    if movielens_set:
        name = f"movielens-{movielens.movielens_set(movielens_set).name}"
    elif file:
        name = f"movielens-{file.stem}"
    settings = _settings(
        database_url=f"sqlite:///{folder}/{name}.db",
        spool_dir=folder / "spool",
        **_given(host=host, port=port),
    )
    with _database(settings) as database:
        if movielens_set or file:
            _load_movielens(database, settings, movielens_set, file, folder)
        else:
            _load_demo(database)
        with database.reading() as session:
            pointer = model_registry.active(session)
        if pointer is None:
            run = _train(database, settings, {}, "demo")
            _say(f"trained model version {run['model_version']}: {run['evaluation']['words']}")
    _say(f"ready after {time.monotonic() - started:.0f} s; the database is {folder}/{name}.db")
    if start:
        is_bundled = not (movielens_set or file)
        _serve(settings, with_worker=True, greeting=_greeting(settings, bundled=is_bundled))


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Who the key is for.")],
    role: Annotated[Literal["read", "write", "admin"], typer.Option()],
    output: Annotated[
        Path | None, typer.Option(help="Write the key to this file, readable by its owner only.")
    ] = None,
    unless_any: Annotated[
        bool, typer.Option("--unless-any", help="Do nothing when there is a key already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it, this once."""
    with _database(_settings()) as database, database.writing() as session:
        if unless_any and access.any_key(session):
            _say("there is a key already")
            return
        row, secret = access.create(session, name, role)
        if output is not None:
            # Written before the commit: a key that could not be handed over must not come into force.
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch(mode=0o600)
            output.write_text(secret + "\n")
    if as_json:
        _print_json({"id": row.key_id, "name": row.name, "role": row.role, "key": secret})
    elif output is None:
        _tell(secret)
        _say("Keep it: it is not stored and cannot be shown again.")
    else:
        _say(f"the key is in {output}")


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """Show keys by their first characters."""
    with _database(_settings()) as database, database.reading() as session:
        rows, _ = access.page(session, limit=10_000)
    if as_json:
        _print_json(
            [
                {"id": row.key_id, "name": row.name, "role": row.role, "revoked_at": row.revoked_at}
                for row in rows
            ]
        )
        return
    table = Table("id", "name", "role", "begins with", "created", "revoked")
    for row in rows:
        table.add_row(
            str(row.key_id), row.name, row.role, row.prefix, _when(row.created_at), _when(row.revoked_at)
        )
    out.print(table)


@keys.command("revoke")
def keys_revoke(key_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Put a key out of force for good."""
    with _database(_settings()) as database, database.writing() as session:
        row = access.revoke(session, key_id)
    _tell(f"key {row.key_id} ({row.name}) is revoked")


@db.command("upgrade")
def db_upgrade() -> None:
    """Apply the migrations that are missing; safe to run twice, and at once."""
    database = Database.from_settings(_settings())
    try:
        applied = database.upgrade()
    finally:
        database.close()
    _tell(f"applied {', '.join(applied)}" if applied else "nothing to do")


@versions.command("list")
def versions_list(as_json: AsJson = False) -> None:
    """Show the versions, newest first."""
    with _database(_settings()) as database, database.reading() as session:
        rows, _ = model_registry.page(session, limit=1_000)
        pointer = model_registry.active(session)
    active = pointer.version if pointer else None
    if as_json:
        _print_json(
            [
                {
                    "version": row.version,
                    "active": row.version == active,
                    "created_at": row.created_at,
                    "metrics": row.metrics,
                    "verdict": row.verdict,
                }
                for row in rows
            ]
        )
        return
    table = Table("version", "active", "created", "movies", "MB", "verdict")
    for row in rows:
        table.add_row(
            str(row.version),
            "*" if row.version == active else "",
            _when(row.created_at),
            str(row.n_movies),
            f"{row.n_bytes / 1e6:.1f}",
            row.verdict["words"],
        )
    out.print(table)


@versions.command("activate")
def versions_activate(
    version: int,
    force: Annotated[bool, typer.Option("--force", help="Even if it has not won at the gate.")] = False,
) -> None:
    """Serve this version; every process follows within a poll."""
    with _database(_settings()) as database, database.writing() as session:
        model_registry.activate(session, version, force=force)
    _tell(f"model version {version} is active")


@bench.callback()
def _bench() -> None:
    """Measure speed, side by side with something else."""


@bench.command("rbm")
def bench_rbm(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(benchmarks.PARTS)}; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of each measurement.")] = 7,
    threads: Annotated[int, typer.Option(min=1, max=256, help="BLAS threads.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
) -> None:
    """Time the machine's learning: beside scikit-learn, beside the processor's peak, and as data grow."""
    unknown = set(only or ()) - set(benchmarks.PARTS)
    if unknown:
        raise InvalidInput(f"--only takes {', '.join(benchmarks.PARTS)}, not {', '.join(sorted(unknown))}.")
    report = benchmarks.measure_rbm(
        tuple(only or benchmarks.PARTS),
        scale=benchmarks.Scale(rounds=rounds),
        threads=threads,
        on_progress=_say,
    )
    for title, columns, lines in report.tables():
        shown = Table(title=title)
        for column in columns:
            shown.add_column(column, justify="left" if column == columns[0] else "right")
        for line in lines:
            shown.add_row(*line)
        out.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2) + "\n")


def _settings(**overrides: Any) -> Settings:
    settings = Settings(**overrides)
    logs.configure(settings)
    return settings


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The database with its schema brought up to date."""
    database = Database.from_settings(settings)
    try:
        database.upgrade()
        yield database
    finally:
        database.close()


def _serve(settings: Settings, *, with_worker: bool, greeting: str = "") -> None:
    database = Database.from_settings(settings)
    stopping = threading.Event()
    if not _upgraded(database):
        # It may come back while we serve: probes say so until then.
        threading.Thread(target=_upgrade_later, args=(database, stopping), daemon=True).start()
    else:
        with database.reading() as session:
            has_keys = access.any_key(session)
        if not has_keys and not settings.listens_on_loopback:
            raise Misconfigured(
                f"{settings.host} can be reached from elsewhere, and there is no API key. Make one first: "
                "harmonium keys create --name admin --role admin"
            )
        if not has_keys:
            _say(
                f"There is no API key: only {settings.host} is served, and anyone here may do everything.\n"
                "Make a key with: harmonium keys create --name admin --role admin"
            )
    supervised = SupervisedWorker(settings, database) if with_worker else None
    service = create_app(settings)
    server = _Server(
        uvicorn.Config(
            service,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.shutdown_grace_seconds),
        ),
        greeting=greeting,
        on_exit=service.state.stopping.set,
    )
    # uvicorn raises the signal that stopped it once more; it must not end us before the worker is stopped.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if supervised is not None:
        supervised.start()
    try:
        server.run()
    except KeyboardInterrupt:
        pass  # uvicorn raises it again after it has shut down in order
    finally:
        stopping.set()
        if supervised is not None:
            supervised.stop()
        database.close()
    if not server.started:
        raise Misconfigured(f"Could not listen on {settings.host}:{settings.port}; the log says why.")


class _Server(uvicorn.Server):
    """uvicorn, which greets once it listens, and says that it is to stop before it does."""

    def __init__(self, config: uvicorn.Config, *, greeting: str, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._greeting = greeting
        self._on_exit = on_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_exit()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._greeting:
            _say(self._greeting)


def _upgraded(database: Database) -> bool:
    try:
        database.upgrade()
    except Unavailable as error:
        log.warning("database_away", error=error.detail)
        return False
    return True


def _upgrade_later(database: Database, stopping: threading.Event) -> None:
    while not stopping.wait(DATABASE_PAUSE):
        if _upgraded(database):
            log.info("database_is_back")
            return


def _train(
    database: Database, settings: Settings, overrides: dict[str, Any], note: str | None
) -> dict[str, Any]:
    """Request a run, claim it before any worker can, and carry it out."""
    runner = Worker(database, settings, JOB_HANDLERS)
    with database.writing() as session:
        view, _ = training_runs.request(session, overrides, settings, note=note)
        job = jobs.claim(session, [training_runs.JOB_KIND], runner.name, job_id=view.job.job_id)
    if job is None:
        raise Unavailable(
            f"Training run {view.run.run_id} is queued and cannot begin yet. Try again shortly."
        )
    with _progress("training") as on_progress:
        job = runner.run_claimed(job, on_progress)
    _fail_unless_succeeded(job)
    with database.reading() as session:
        view = training_runs.get(session, view.run.run_id)
        return {
            "training_run": view.run.run_id,
            "model_version": view.model_version,
            "configuration": view.run.configuration,
            "snapshot": view.run.snapshot,
            "evaluation": view.run.evaluation,
        }


def _watch(database: Database, job_id: int, description: str) -> Job:
    with _progress(description) as on_progress:
        while True:
            with database.reading() as session:
                job = jobs.get(session, job_id)
            on_progress(job.progress)
            if job.state not in ("queued", "running"):
                return job
            time.sleep(0.5)


def _fail_unless_succeeded(job: Job) -> None:
    if job.state != "succeeded":
        _say(f"the job is {job.state}: {job.error or 'see its log'}")
        raise typer.Exit(1)


def _load_demo(database: Database) -> None:
    """The bundled films and raters; loading them again changes nothing."""
    now = datetime.now(UTC)
    films = [MovieEntry(one.movie_id, one.title, one.year, one.genres) for one in demo_catalogue.films()]
    with database.writing() as session:
        catalogue.store(session, films, now=now)
    given = RatingBatch.of((one.user_id, one.movie_id, one.stars, one.rated_at) for one in raters.ratings())
    with database.writing() as session:
        counts = ratings.store(session, given, received_at=now)
    _say(f"{len(films)} films; {counts.inserted} new ratings of {counts.total}")


def _load_movielens(
    database: Database, settings: Settings, name: str | None, file: Path | None, folder: Path
) -> None:
    with database.reading() as session:
        if ratings.count(session):
            return
    if name:
        _say(movielens.licence_notice(name))
        with _progress(f"fetching {name}") as on_progress:
            file = movielens.fetch(
                name, folder, on_progress=lambda done, total: on_progress(done / total if total else 0.0)
            )
    if file is None:
        raise InvalidInput("Give --movielens NAME or --file ZIP.")
    movielens.members(file)  # says clearly what is wrong with a file that is not MovieLens
    with _progress(f"importing {file.name}") as on_progress:
        result = imports.import_file(database, settings, file, on_progress=on_progress)
    _say(f"imported {result['rows']} rows")


def _greeting(settings: Settings, *, bundled: bool) -> str:
    at = f"http://{settings.host}:{settings.port}"
    user = "demo-ada" if bundled else "1"
    stars = (
        {
            "demo-alien-1979": 5,
            "demo-the-matrix-1999": 5,
            "demo-blade-runner-1982": 4.5,
            "demo-titanic-1997": 1,
            "demo-notting-hill-1999": 1.5,
        }
        if bundled
        else {"1": 5, "50": 5, "172": 4}
    )
    given = json.dumps([{"movie_id": movie_id, "stars": value} for movie_id, value in stars.items()])
    return f"""
Harmonium serves on {at} (documentation at {at}/docs). Try:

  curl '{at}/v1/users/{user}/recommendations?limit=5'
  curl {at}/v1/recommendations -H 'Content-Type: application/json' -d '{{"limit": 5, "ratings": {given}}}'
  curl -X PUT {at}/v1/users/me/ratings/{"demo-aliens-1986" if bundled else "50"} \
-H 'Content-Type: application/json' -d '{{"stars": 5}}'
  curl '{at}/v1/users/me/recommendations?limit=5'
  curl -X POST {at}/v1/admin/retrain
"""


@contextmanager
def _progress(description: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, a line every tenth elsewhere; both on standard error."""
    if err.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=1.0)
            yield lambda share: bar.update(task, completed=share)
        return
    shown = -1

    def show(share: float) -> None:
        nonlocal shown
        if int(share * 10) > shown:
            shown = int(share * 10)
            _say(f"{description}: {shown * 10} %")

    yield show


def _say(words: str) -> None:
    """To standard error, as it is: a narrow terminal wraps it, a file does not."""
    err.print(words, markup=False, highlight=False, soft_wrap=True)


def _tell(words: str) -> None:
    """To standard output, as it is."""
    out.print(words, markup=False, highlight=False, soft_wrap=True)


def _print_import(path: Path, result: dict[str, Any], seconds: float) -> None:
    counts = ", ".join(
        f"{result[name]} {name}" for name in ("inserted", "updated", "unchanged", "superseded", "rejected")
    )
    rate = result["rows"] / seconds if seconds else 0.0
    _tell(f"{path.name}: {result['rows']} rows: {counts} ({seconds:.1f} s, {rate:,.0f} rows/s)")


def _print_section(found: Evaluation, section: Section) -> None:
    """The figures that say most: nDCG@10 of what ranks, the like_probability of what judges."""
    seeds = f"{len(found.seeds)} seed{'s'[: len(found.seeds) > 1]}"
    asked = f"{section.n_users:,.0f} users, {section.n_test_ratings:,.0f} test ratings, {seeds}"
    shown = Table(
        title=": ".join(part for part in (found.protocol, section.title, asked) if part),
        caption=f"nDCG@10 (relevant: >= {found.relevant_at_least:g}) and like_probability "
        f"(>= {found.liked_at_least:g}), ± half the 95 % interval over {found.interval}",
    )
    names = ("any_ndcg", "relevant_ndcg", "auc", "brier", "calibration_error")
    for column in ("", "any", "relevant", "AUC", "Brier", "ECE"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for row in section.rows:
        shown.add_row(row.name, *(_figure(row.figures.get(name)) for name in names))
    out.print(shown)
    for reason in sorted({row.skipped for row in section.rows if row.skipped is not None}):
        _tell(f"left out: {reason}")


def _figure(interval: Interval | None) -> str:
    """As .417±.012, so that a row fits into 80 columns; a dash for what is not measured."""
    if interval is None or math.isnan(interval.mean):
        return "-"
    half = interval.high - interval.mean
    words = f"{interval.mean:.3f}" + (f"±{half:.3f}" if math.isfinite(half) else "")
    return re.sub(r"\b0\.", ".", words)


def _print_list(found: RecommendationList) -> None:
    table = Table("", "movie", "title", "year", "score", "P(like)")
    for item in found.items:
        table.add_row(
            str(item.rank),
            item.movie_id,
            item.title,
            str(item.year or ""),
            f"{item.score:.2f}",
            "" if item.like_probability is None else f"{item.like_probability:.2f}",
        )
    out.print(table)
    _tell(f"{found.strategy}, model version {found.model_version}")


def _print_json(value: Any) -> None:
    out.print_json(json.dumps(value, default=str))


def _when(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else ""

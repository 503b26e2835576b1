"""`harmonium serve | worker | demo`: the processes that keep running."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import structlog
import typer
import uvicorn

from app import access
from app.catalogue import movies
from app.catalogue.movies import MovieEntry
from app.cli.terminal import (
    open_database,
    print_message,
    progress,
    read_settings,
    set_options,
)
from app.cli.training import train_now
from app.demo import catalogue, movielens, raters
from app.errors import InvalidInput, Misconfigured, Unavailable
from app.imports.run import import_file
from app.main import create_app
from app.model_versions import activation
from app.ratings import read, store
from app.ratings.batch import RatingBatch
from app.settings import Settings
from app.storage.database import Database
from app.worker.liveness import is_alive
from app.worker.process import run_worker
from app.worker.supervisor import SupervisedWorker

app = typer.Typer()

log = structlog.get_logger()

DATABASE_PAUSE = 2.0  # seconds between two tries to migrate a database that is away


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    worker: Annotated[bool, typer.Option(help="Run a worker beside the API.")] = True,
) -> None:
    """Start the API and, by default, a supervised worker process."""
    settings = read_settings(**set_options(host=host, port=port))
    _serve(settings, with_worker=worker)


@app.command()
def worker(
    name: Annotated[str | None, typer.Option(help="What the jobs' rows show.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say whether a worker is alive here.")] = False,
    stop_with_stdin: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> None:
    """Run imports and training runs until stopped."""
    settings = read_settings()
    if check:
        raise typer.Exit(0 if is_alive(settings) else 1)
    raise typer.Exit(run_worker(settings, name=name, stop_with_stdin=stop_with_stdin))


@app.command()
def demo(
    movielens_set: Annotated[
        str | None,
        typer.Option("--movielens", help="Fetch a real set from GroupLens: small, 100k, 1m, 25m or 32m."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A MovieLens zip that you have already.")
    ] = None,
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
    settings = read_settings(
        database_url=f"sqlite:///{folder}/{name}.db",
        spool_dir=folder / "spool",
        **set_options(host=host, port=port),
    )
    with open_database(settings) as database:
        if movielens_set or file:
            _load_movielens(database, settings, movielens_set, file, folder)
        else:
            _load_demo(database)
        with database.reading() as session:
            pointer = activation.active(session)
        if pointer is None:
            run = train_now(database, settings, {}, "demo")
            print_message(f"trained model version {run['model_version']}: {run['evaluation']['words']}")
    print_message(f"ready after {time.monotonic() - started:.0f} s; the database is {folder}/{name}.db")
    if start:
        is_bundled = not (movielens_set or file)
        _serve(settings, with_worker=True, greeting=_greeting(settings, bundled=is_bundled))


def _serve(settings: Settings, *, with_worker: bool, greeting: str = "") -> None:
    database = Database.from_settings(settings)
    stopping = threading.Event()
    if not _upgraded(database):
        # It may come back while we serve: probes say so until then. Routes look for a
        # key at every request.
        if not settings.listens_on_loopback:
            log.warning(
                "api_keys_not_checked",
                host=settings.host,
                reason="the database is away; if it holds no key, every request will be refused",
            )
        threading.Thread(target=_upgrade_later, args=(database, settings, stopping), daemon=True).start()
    else:
        with database.reading() as session:
            has_keys = access.any_key(session)
        if not has_keys and not settings.listens_on_loopback:
            raise Misconfigured(access.NO_KEY_IN_PUBLIC.format(host=settings.host))
        if not has_keys:
            print_message(
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
    # uvicorn raises the signal that stopped it once more; it must not end us before the
    # worker is stopped.
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
    """uvicorn with a greeting at its start and a callback before it stops."""

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
            print_message(self._greeting)


def _upgraded(database: Database) -> bool:
    try:
        database.upgrade()
    except Unavailable as error:
        log.warning("database_away", error=error.detail)
        return False
    return True


def _upgrade_later(database: Database, settings: Settings, stopping: threading.Event) -> None:
    """Migrate as soon as the database is there, then look for an API key."""
    while not stopping.wait(DATABASE_PAUSE):
        if not _upgraded(database):
            continue
        try:
            with database.reading() as session:
                has_keys = access.any_key(session)
        except Unavailable:
            continue
        log.info("database_is_back")
        if not has_keys and not settings.listens_on_loopback:
            log.error("no_api_key", reason=access.NO_KEY_IN_PUBLIC.format(host=settings.host))
        return


def _load_demo(database: Database) -> None:
    """The bundled films and raters; loading twice changes nothing."""
    now = datetime.now(UTC)
    films = [MovieEntry(film.movie_id, film.title, film.year, film.genres) for film in catalogue.films()]
    with database.writing() as session:
        movies.store(session, films, now=now)
    batch = RatingBatch.of((row.user_id, row.movie_id, row.stars, row.rated_at) for row in raters.ratings())
    with database.writing() as session:
        counts = store.upsert(session, batch, received_at=now)
    print_message(f"{len(films)} films; {counts.inserted} new ratings of {counts.total}")


def _load_movielens(
    database: Database, settings: Settings, name: str | None, file: Path | None, folder: Path
) -> None:
    with database.reading() as session:
        if read.count(session):
            return
    if name:
        print_message(movielens.licence_notice(name))
        with progress(f"fetching {name}") as on_progress:
            file = movielens.fetch(
                name, folder, on_progress=lambda done, total: on_progress(done / total if total else 0.0)
            )
    if file is None:
        raise InvalidInput("Give --movielens NAME or --file ZIP.")
    with progress(f"importing {file.name}") as on_progress:
        result = import_file(database, settings, file, on_progress=on_progress)
    print_message(f"imported {result['rows']} rows")


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
    body = json.dumps([{"movie_id": movie_id, "stars": value} for movie_id, value in stars.items()])
    return f"""
Harmonium serves on {at} (documentation at {at}/docs). Try:

  curl '{at}/v1/users/{user}/recommendations?limit=5'
  curl {at}/v1/recommendations -H 'Content-Type: application/json' -d '{{"limit": 5, "ratings": {body}}}'
  curl -X PUT {at}/v1/users/me/ratings/{"demo-aliens-1986" if bundled else "50"} \
-H 'Content-Type: application/json' -d '{{"stars": 5}}'
  curl '{at}/v1/users/me/recommendations?limit=5'
  curl -X POST {at}/v1/admin/retrain
"""

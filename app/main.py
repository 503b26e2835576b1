"""The web application; `create_app` puts its parts together."""

import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from threadpoolctl import threadpool_limits

from app.api import (
    admin,
    imports,
    jobs,
    model_versions,
    movies,
    problems,
    questions,
    ratings,
    recommendations,
    system,
    taste,
    training_runs,
)
from app.api.body_limit import BodyLimit
from app.api.caching import CacheHeaders
from app.api.failed_keys import FailedKeys
from app.api.run_events import RunEventStreams
from app.api.telemetry import RequestTelemetry, Telemetry
from app.model_versions.serving import VersionWatcher
from app.settings import Settings
from app.storage.database import Database

DESCRIPTION = """\
Movie recommendations from a restricted Boltzmann machine. Ratings are folded into the hidden layer on every
request: a rating counts on the next one, without retraining.

Errors are `application/problem+json` (RFC 9457). With API keys, send `Authorization: Bearer KEY`.
"""

# In the order of the OpenAPI document.
ROUTES = (
    recommendations,
    taste,
    questions,
    ratings,
    movies,
    imports,
    training_runs,
    model_versions,
    jobs,
    admin,
    system,
)


def create_app(settings: Settings) -> FastAPI:
    """The application over a migrated database."""
    database = Database.from_settings(settings)
    version_watcher = VersionWatcher(
        database, poll_seconds=settings.version_poll_seconds, kept_in=settings.spool_dir / "models"
    )
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Requests run side by side in threads: a second BLAS thread for each only makes
        # them wait (measured in docs/benchmarks.md).
        app.state.quick_threads = CapacityLimiter(settings.quick_threads)
        with threadpool_limits(limits=1):
            await run_in_threadpool(version_watcher.start)
            # Objects of the start stay: a garbage collection of all of them would make
            # requests wait.
            gc.freeze()
            yield
            gc.unfreeze()
            app.state.stopping.set()
            await run_in_threadpool(version_watcher.stop)
            await run_in_threadpool(run_event_streams.close)
            database.close()

    app = FastAPI(
        title="Harmonium",
        version=version("harmonium"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # api/system.py has a page that needs no other server
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.database = database
    app.state.version_watcher = version_watcher
    app.state.telemetry = telemetry
    app.state.failed_keys = FailedKeys(settings.failed_keys_limit, settings.failed_keys_window)
    app.state.stopping = threading.Event()
    run_event_streams = RunEventStreams(database, app.state.stopping)
    app.state.run_event_streams = run_event_streams
    problems.install(app)
    app.add_middleware(BodyLimit, limit=settings.body_limit, exempt=frozenset({imports.PATH}))
    app.add_middleware(CacheHeaders)
    app.add_middleware(RequestTelemetry, telemetry=telemetry)
    for part in ROUTES:
        app.include_router(part.router)
    app.mount(system.DOCS_FILES, system.docs_files())
    return app

"""Probes, metrics and the documentation page."""

from fastapi import APIRouter, Request, Response, status
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from app import access
from app.api.dependencies import ReadCall
from app.api.problems import OF_EVERY_ROUTE, declared
from app.api.telemetry import Telemetry
from app.errors import HarmoniumError
from app.model_versions.serving import VersionWatcher
from app.settings import Settings
from app.storage.database import Database

DOCS_FILES = "/docs/files"
METRICS = "# TYPE harmonium_model_version gauge\nharmonium_model_version 7.0\n"

router = APIRouter(tags=["system"])


class Liveness(BaseModel):
    status: str = "live"


class Readiness(BaseModel):
    """Whether requests can be answered, and by what."""

    model_config = ConfigDict(protected_namespaces=())

    ready: bool
    database: str = Field(examples=["ok"])
    model_version: int | None = Field(examples=[7])
    trouble: str | None = Field(
        description="why the active version cannot be used, while an older one serves"
    )


@router.get("/health/live", operation_id="live")
async def live() -> Liveness:
    """The process runs. Touches nothing else."""
    return Liveness()


@router.get(
    "/health/ready", operation_id="ready", responses={503: {"model": Readiness, "description": "not ready"}}
)
def ready(request: Request, response: Response) -> Readiness:
    """The database answers, its schema is current and the process is not about to stop.

    On an address that others can reach there also is an API key: without one every
    request is refused.
    """
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    watcher: VersionWatcher = request.app.state.version_watcher
    try:
        state = "ok" if database.is_current() else "its schema is not current: run harmonium db upgrade"
        if state == "ok" and not settings.listens_on_loopback:
            with database.reading() as session:
                if not access.any_key(session):
                    state = access.NO_KEY_IN_PUBLIC.format(host=settings.host)
    except HarmoniumError as error:
        state = error.detail
    if request.app.state.stopping.is_set():
        state = "this process is stopping"
    if state != "ok":
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(
        ready=state == "ok",
        database=state,
        model_version=watcher.current.version if watcher.current else None,
        trouble=watcher.trouble,
    )


@router.get(
    "/metrics",
    responses=declared(*OF_EVERY_ROUTE) | {200: {"content": {"text/plain": {"example": METRICS}}}},
    response_class=PlainTextResponse,
    operation_id="metrics",
)
def metrics(call: ReadCall) -> Response:
    """Prometheus metrics of this process."""
    call.check_key()
    telemetry: Telemetry = call.request.app.state.telemetry
    watcher: VersionWatcher = call.request.app.state.version_watcher
    telemetry.model_version.set(call.loaded_version.version if call.loaded_version else 0)
    telemetry.model_version_refused.set(watcher.trouble is not None)
    return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The OpenAPI document as a page; all its files are of this server."""
    root = request.scope.get("root_path", "").rstrip("/")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Harmonium: the API",
        swagger_js_url=f"{root}{DOCS_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{DOCS_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{root}{DOCS_FILES}/favicon-32x32.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )


def docs_files() -> StaticFiles:
    """Swagger UI's script and style."""
    return StaticFiles(packages=[("fastapi_swagger", "resources")])


@router.get("/", include_in_schema=False)
def index() -> RedirectResponse:
    """The documentation, until there is a page."""
    return RedirectResponse("/docs")

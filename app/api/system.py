"""Probes, metrics, and the way in."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, status
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from app import access
from app.api.dependencies import DatabaseNow, SettingsNow, get_active_machines, needs
from app.api.problems import declared
from app.api.telemetry import Telemetry
from app.errors import HarmoniumError
from app.model_registry import ActiveMachines

DOCS_FILES = "/docs/files"

router = APIRouter(tags=["system"])


class LiveView(BaseModel):
    status: str = "live"


class ReadyView(BaseModel):
    """Whether requests can be answered, and by what."""

    model_config = ConfigDict(protected_namespaces=())

    ready: bool
    database: str = Field(examples=["ok"])
    model_version: int | None
    trouble: str | None = Field(
        description="why the active version cannot be used, while an older one serves"
    )


@router.get("/health/live", operation_id="live")
async def live() -> LiveView:
    """The process runs. Touches nothing else."""
    return LiveView()


@router.get(
    "/health/ready", operation_id="ready", responses={503: {"model": ReadyView, "description": "not ready"}}
)
def ready(
    request: Request,
    response: Response,
    database: DatabaseNow,
    settings: SettingsNow,
    machines: Annotated[ActiveMachines, Depends(get_active_machines)],
) -> ReadyView:
    """The database answers, its schema is current and the process is not about to stop.

    On an address that others can reach there also is an API key: without one every request is refused.
    """
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
    serving = machines.current
    return ReadyView(
        ready=state == "ok",
        database=state,
        model_version=serving.version if serving else None,
        trouble=machines.trouble,
    )


@router.get(
    "/metrics",
    dependencies=[needs("read")],
    responses=declared(),
    response_class=PlainTextResponse,
    operation_id="metrics",
)
def metrics(request: Request, machines: Annotated[ActiveMachines, Depends(get_active_machines)]) -> Response:
    """Prometheus metrics of this process."""
    telemetry: Telemetry = request.app.state.telemetry
    serving = machines.current
    telemetry.model_version.set(serving.version if serving else 0)
    telemetry.model_version_refused.set(machines.trouble is not None)
    return Response(generate_latest(telemetry.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> HTMLResponse:
    """The OpenAPI document to read and to try, with files of this server only: it works offline."""
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

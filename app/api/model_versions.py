"""Model versions over HTTP: list, inspect, activate, roll back."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from app import model_registry
from app.api.dependencies import Reading, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, RowId, Strict
from app.model_registry import etag
from app.tables import ModelVersion

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])


class ModelVersionView(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    version: int
    active: bool
    training_run_id: int
    parent_version: int | None
    sha256: str
    n_bytes: int
    n_movies: int
    configuration: dict[str, Any]
    metrics: dict[str, Any]
    verdict: dict[str, Any]
    note: str | None
    created_at: datetime


class ActivateIn(Strict):
    force: bool = Field(False, description="activate a candidate all the same")


class ActivationView(BaseModel):
    version: int
    activated_at: datetime


@router.get("/model-versions", responses=declared(), operation_id="list_model_versions")
def list_model_versions(
    session: Reading, response: Response, limit: Limit = 20, cursor: Cursor = None
) -> Page[ModelVersionView]:
    """Versions, newest first. The `ETag` is that of the active pointer, for activation's `If-Match`."""
    rows, next_cursor = model_registry.page(session, limit=limit, cursor=cursor)
    pointer = model_registry.active(session)
    response.headers["ETag"] = etag(pointer)
    active = pointer.version if pointer else None
    return Page(items=[_version_view(row, active) for row in rows], next_cursor=next_cursor)


@router.get("/model-versions/{version}", responses=declared(404), operation_id="get_model_version")
def get_model_version(version: RowId, session: Reading, response: Response) -> ModelVersionView:
    """One version: settings, metrics and the verdict on it."""
    row = model_registry.get(session, version)
    pointer = model_registry.active(session)
    response.headers["ETag"] = etag(pointer)
    return _version_view(row, pointer.version if pointer else None)


@router.post(
    "/model-versions/{version}/activate",
    responses=declared(404, 409, 412),
    operation_id="activate_model_version",
)
def activate_model_version(
    version: RowId,
    session: Writing,
    response: Response,
    if_match: Annotated[str | None, Header(max_length=64)] = None,
    body: ActivateIn | None = None,
) -> ActivationView:
    """Serve this version from now on; every process follows within a poll.

    A candidate, which has not won at the gate, needs `force`.
    """
    force = body.force if body else False
    pointer = model_registry.activate(session, version, if_match=if_match, force=force)
    response.headers["ETag"] = etag(pointer)
    return ActivationView(version=pointer.version, activated_at=pointer.activated_at)


def _version_view(row: ModelVersion, active: int | None) -> ModelVersionView:
    return ModelVersionView(
        version=row.version,
        active=row.version == active,
        training_run_id=row.run_id,
        parent_version=row.parent_version,
        sha256=row.sha256,
        n_bytes=row.n_bytes,
        n_movies=row.n_movies,
        configuration=row.configuration,
        metrics=row.metrics,
        verdict=row.verdict,
        note=row.note,
        created_at=row.created_at,
    )

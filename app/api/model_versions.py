"""Model versions over HTTP: list, inspect, compare, activate, roll back, annotate, delete."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response, status
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app import comparison, model_registry
from app.api.dependencies import Reading, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, RowId, Strict
from app.model_registry import etag
from app.tables import ModelVersion

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])

IfMatch = Annotated[
    str | None, Header(max_length=64, description="the ETag that you saw; 412 if the pointer has moved since")
]


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


class PastActivationView(ActivationView):
    generation: int = Field(description="counts activations; it is the ETag of the pointer at that time")
    cause: Literal["gate", "request", "rollback"]
    until: datetime | None = Field(description="when the next activation ended it; null for the last one")


class AnnotateIn(Strict):
    note: Annotated[str, StringConstraints(max_length=model_registry.LONGEST_NOTE)] | None = Field(
        description="null removes it"
    )


class MetricView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    first: float | None
    second: float | None
    difference: float | None = Field(description="second minus first")


class ListOverlapView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    n_users: int
    length: int = Field(description="movies in a list at most")
    mean: float | None = Field(description="mean share of a list's movies that the other has too")
    least: float | None
    identical: int = Field(description="users whose two lists are equal, order included")
    disjoint: int = Field(description="users whose two lists share nothing")


class SettingView(BaseModel):
    first: Any
    second: Any


class ComparisonView(BaseModel):
    first: int
    second: int
    settings: dict[str, SettingView] = Field(description="those that differ")
    metrics: dict[str, MetricView] = Field(description="of each version's own evaluation, by path")
    shared_movies: int
    only_first: int
    only_second: int
    lists: ListOverlapView = Field(description="what a sample of users would be recommended now")


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


@router.patch("/model-versions/{version}", responses=declared(404), operation_id="annotate_model_version")
def annotate_model_version(version: RowId, session: Writing, body: AnnotateIn) -> ModelVersionView:
    """Replace the note, the one thing about a version that may change."""
    row = model_registry.annotate(session, version, body.note)
    pointer = model_registry.active(session)
    return _version_view(row, pointer.version if pointer else None)


@router.delete(
    "/model-versions/{version}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=declared(404, 409),
    operation_id="delete_model_version",
)
def delete_model_version(version: RowId, session: Writing) -> None:
    """Delete a version for good. The active one cannot be deleted."""
    model_registry.remove(session, version)


@router.get(
    "/model-versions/{version}/compare",
    responses=declared(404, 409),
    operation_id="compare_model_versions",
)
def compare_model_versions(
    version: RowId,
    session: Reading,
    other: Annotated[RowId, Query(alias="with", description="the version to compare with")],
    users: Annotated[
        int, Query(ge=1, le=comparison.MOST_SAMPLED_USERS, description="users whose lists are compared")
    ] = comparison.SAMPLED_USERS,
) -> ComparisonView:
    """This version (`first`) beside another (`second`): settings, metrics, and lists of a sample of users."""
    found = comparison.compare(session, version, other, n_users=users)
    return ComparisonView(
        first=found.first.version,
        second=found.second.version,
        settings={
            name: SettingView(first=first, second=second) for name, (first, second) in found.settings.items()
        },
        metrics={name: MetricView.model_validate(one) for name, one in found.metrics.items()},
        shared_movies=found.shared_movies,
        only_first=found.only_first,
        only_second=found.only_second,
        lists=ListOverlapView.model_validate(found.lists),
    )


@router.get("/activations", responses=declared(), operation_id="list_activations")
def list_activations(session: Reading, limit: Limit = 20, cursor: Cursor = None) -> Page[PastActivationView]:
    """Which version was active when, newest first. Versions that have been deleted are named, too."""
    found, next_cursor = model_registry.history(session, limit=limit, cursor=cursor)
    items = [
        PastActivationView(
            version=one.version,
            activated_at=one.activated_at,
            generation=one.generation,
            cause=one.cause,
            until=until,
        )
        for one, until in found
    ]
    return Page(items=items, next_cursor=next_cursor)


@router.post("/model-versions/rollback", responses=declared(409, 412), operation_id="roll_back_model_version")
def roll_back_model_version(session: Writing, response: Response, if_match: IfMatch = None) -> ActivationView:
    """Undo the last activation: the version that was active before it serves again.

    A second rollback goes back one more, not forward again. Versions that have been deleted or cannot be read
    are passed over.
    """
    pointer = model_registry.roll_back(session, if_match=if_match)
    response.headers["ETag"] = etag(pointer)
    return ActivationView(version=pointer.version, activated_at=pointer.activated_at)


@router.post(
    "/model-versions/{version}/activate",
    responses=declared(404, 409, 412),
    operation_id="activate_model_version",
)
def activate_model_version(
    version: RowId,
    session: Writing,
    response: Response,
    if_match: IfMatch = None,
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

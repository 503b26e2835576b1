"""Model versions over HTTP."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Header, Query, status
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.api.dependencies import AdminCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import Cursor, Limit, RowId, Strict
from app.model_versions import activation, comparison, retention, store
from app.model_versions.activation import PastActivation, etag
from app.model_versions.comparison import Comparison
from app.storage.cursors import Page
from app.storage.tables import ActiveVersion, ModelVersion

router = new_router("/v1/admin", "admin")

IfMatch = Annotated[
    str | None, Header(max_length=64, description="the ETag that you saw; 412 if the pointer has moved since")
]


class ModelVersionRecord(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    version: int = Field(examples=[7])
    active: bool
    training_run_id: int = Field(examples=[4])
    parent_version: int | None = Field(examples=[6])
    sha256: str = Field(examples=["daec2c16357b5c88…"])
    n_bytes: int = Field(examples=[2_775_336])
    n_movies: int = Field(examples=[728])
    configuration: dict[str, Any] = Field(examples=[{"design": "rated", "hidden_units": 200, "epochs": 60}])
    metrics: dict[str, Any] = Field(
        examples=[{"machine": {"any": 0.24, "relevant": 0.174}, "popularity": {"any": 0.121}}]
    )
    verdict: dict[str, Any] = Field(
        examples=[{"outcome": "activated", "words": "nDCG@10 0.174 against 0.173 of active version 6"}]
    )
    note: str | None = Field(examples=["after the import"])
    created_at: datetime


class ActivateIn(Strict):
    force: bool = Field(False, description="activate a candidate all the same")


class ActiveVersionRecord(BaseModel):
    version: int = Field(examples=[7])
    activated_at: datetime


class AnnotateIn(Strict):
    note: Annotated[str, StringConstraints(max_length=store.LONGEST_NOTE)] | None = Field(
        examples=["the one for the spring campaign"], description="null removes it"
    )


@router.get("/model-versions", operation_id="list_model_versions")
def list_model_versions(
    call: AdminCall, limit: Limit = 20, cursor: Cursor = None
) -> Page[ModelVersionRecord]:
    """Versions, newest first.

    The `ETag` is that of the active version, for activation's `If-Match`.
    """
    with call.reading() as session:
        page = store.page(session, limit=limit, cursor=cursor)
        pointer = activation.active(session)
    call.response.headers["ETag"] = etag(pointer)
    return page.map(lambda row: _record(row, pointer))


@router.get("/model-versions/{version}", responses=declared(404), operation_id="get_model_version")
def get_model_version(version: RowId, call: AdminCall) -> ModelVersionRecord:
    """One version: settings, metrics and the verdict on it."""
    with call.reading() as session:
        row = store.get(session, version)
        pointer = activation.active(session)
    call.response.headers["ETag"] = etag(pointer)
    return _record(row, pointer)


@router.patch("/model-versions/{version}", responses=declared(404), operation_id="annotate_model_version")
def annotate_model_version(version: RowId, call: AdminCall, body: AnnotateIn) -> ModelVersionRecord:
    """Replace the note, the one thing about a version that may change."""
    with call.writing() as session:
        row = store.annotate(session, version, body.note)
        return _record(row, activation.active(session))


@router.delete(
    "/model-versions/{version}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=declared(404, 409),
    operation_id="delete_model_version",
)
def delete_model_version(version: RowId, call: AdminCall) -> None:
    """Delete a version for good. The active one cannot be deleted."""
    with call.writing() as session:
        retention.remove(session, version)


@router.get(
    "/model-versions/{version}/compare", responses=declared(404, 409), operation_id="compare_model_versions"
)
def compare_model_versions(
    version: RowId,
    call: AdminCall,
    other: Annotated[RowId, Query(alias="with", description="the version to compare with")],
    users: Annotated[
        int, Query(ge=1, le=comparison.MOST_SAMPLED_USERS, description="users whose lists are compared")
    ] = comparison.SAMPLED_USERS,
) -> Comparison:
    """Settings, metrics and sampled lists of this version (`first`) and another."""
    with call.reading() as session:
        return comparison.compare(session, version, other, n_users=users)


@router.get("/activations", operation_id="list_activations")
def list_activations(call: AdminCall, limit: Limit = 20, cursor: Cursor = None) -> Page[PastActivation]:
    """Which version was active when, newest first.

    Versions that have been deleted are named, too.
    """
    with call.reading() as session:
        return activation.history(session, limit=limit, cursor=cursor)


@router.post("/model-versions/rollback", responses=declared(409, 412), operation_id="roll_back_model_version")
def roll_back_model_version(call: AdminCall, if_match: IfMatch = None) -> ActiveVersionRecord:
    """Undo the last activation: the version that was active before it serves again.

    A second rollback goes back one more, not forward again. Versions that have been
    deleted or cannot be read are passed over.
    """
    with call.writing() as session:
        pointer = activation.roll_back(session, if_match=if_match)
    call.response.headers["ETag"] = etag(pointer)
    return ActiveVersionRecord(version=pointer.version, activated_at=pointer.activated_at)


@router.post(
    "/model-versions/{version}/activate",
    responses=declared(404, 409, 412),
    operation_id="activate_model_version",
)
def activate_model_version(
    version: RowId, call: AdminCall, if_match: IfMatch = None, body: ActivateIn | None = None
) -> ActiveVersionRecord:
    """Serve this version from now on; every process follows within a poll.

    A candidate, which has not won at the gate, needs `force`.
    """
    force = body.force if body else False
    with call.writing() as session:
        pointer = activation.activate(session, version, if_match=if_match, force=force)
    call.response.headers["ETag"] = etag(pointer)
    return ActiveVersionRecord(version=pointer.version, activated_at=pointer.activated_at)


def _record(row: ModelVersion, pointer: ActiveVersion | None) -> ModelVersionRecord:
    return ModelVersionRecord(
        version=row.version,
        active=pointer is not None and row.version == pointer.version,
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

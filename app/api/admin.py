"""What operators do over HTTP: retrain, versions, jobs, keys, export."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from app import access, jobs, model_registry, ratings, training_runs
from app.access import Role
from app.api.dependencies import DatabaseNow, Reading, SettingsNow, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, Strict
from app.model_registry import etag
from app.tables import ApiKey, Job, ModelVersion
from app.training_runs import RunView

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]


class RetrainIn(Strict):
    """Settings of the fit that differ from the defaults; what is left out is chosen by the data's shape."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"epochs": 60, "hidden_units": 200}]})

    design: Literal["joint", "positive", "masked", "conditional"] | None = None
    hidden_units: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    final_rate_share: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    k: int | None = Field(None, description="Gibbs steps of contrastive divergence")
    algorithm: Literal["cd", "pcd"] | None = None
    chains: int | None = None
    negative_sample: int | None = Field(
        None, description="units that the negative phase samples beside the minibatch's own; 0 takes all"
    )
    liked_at_least: float | None = None
    rank_liked_at_least: float | None = None
    fold_in_length_power: float | None = None
    seed: int | None = None
    note: Annotated[str, StringConstraints(max_length=1000)] | None = None


class EpochReportView(BaseModel):
    epoch: int
    reported_at: datetime
    report: dict[str, Any]


class TrainingRunView(BaseModel):
    """A training run; `state` and `progress` are those of its job."""

    model_config = ConfigDict(protected_namespaces=())

    id: int
    job_id: int
    state: State
    progress: float
    attempt: int
    error: str | None
    overrides: dict[str, Any]
    configuration: dict[str, Any] | None = Field(description="what the overrides became for this data")
    snapshot: dict[str, Any] | None
    environment: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    model_version: int | None
    note: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TrainingRunDetail(TrainingRunView):
    epoch_reports: list[EpochReportView]


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


class JobView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    job_id: int
    kind: str
    state: State
    progress: float
    attempt: int
    max_attempts: int
    worker: str | None
    error: str | None
    result: dict[str, Any] | None
    cancel_requested: bool
    run_after: datetime | None = Field(description="not before then; null: at once")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class LogLineView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    attempt: int
    level: str
    message: str
    logged_at: datetime


class JobDetail(JobView):
    log: list[LogLineView]


class ApiKeyIn(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    role: Role


class ApiKeyView(BaseModel):
    id: int
    name: str
    role: Role
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


class NewApiKeyView(ApiKeyView):
    key: str = Field(description="shown this once; only its hash is stored")


@router.post(
    "/retrain",
    responses=declared(409),
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="retrain",
)
def retrain(
    session: Writing, settings: SettingsNow, response: Response, body: RetrainIn | None = None
) -> TrainingRunView:
    """Queue a training run; `Location` says where to watch it. An equal request joins the queued run."""
    overrides = body.model_dump(exclude_none=True, exclude={"note"}) if body else {}
    view, _ = training_runs.request(session, overrides, settings, note=body.note if body else None)
    response.headers["Location"] = f"/v1/admin/training-runs/{view.run.run_id}"
    return _run_view(view)


@router.get("/training-runs", responses=declared(), operation_id="list_training_runs")
def list_training_runs(session: Reading, limit: Limit = 20, cursor: Cursor = None) -> Page[TrainingRunView]:
    """Training runs, newest first."""
    views, next_cursor = training_runs.page(session, limit=limit, cursor=cursor)
    return Page(items=[_run_view(view) for view in views], next_cursor=next_cursor)


@router.get("/training-runs/{run}", responses=declared(404), operation_id="get_training_run")
def get_training_run(run: RowId, session: Reading) -> TrainingRunDetail:
    """State, progress, the report of every epoch so far and, in the end, the evaluation."""
    view = training_runs.get(session, run)
    reports = training_runs.epoch_reports(session, run, view.job.attempt)
    return TrainingRunDetail(
        **_run_view(view).model_dump(),
        epoch_reports=[
            EpochReportView(epoch=row.epoch, reported_at=row.reported_at, report=row.report)
            for row in reports
        ],
    )


@router.post("/training-runs/{run}/cancel", responses=declared(404, 409), operation_id="cancel_training_run")
def cancel_training_run(run: RowId, session: Writing) -> TrainingRunView:
    """Cancel a run: at once while it is queued, within seconds while it is under way."""
    return _run_view(training_runs.cancel(session, run))


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


@router.get("/jobs", responses=declared(), operation_id="list_jobs")
def list_jobs(
    session: Reading,
    state: Annotated[State | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=32)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[JobView]:
    """The queue and its past, newest first."""
    rows, next_cursor = jobs.page(session, state=state, kind=kind, limit=limit, cursor=cursor)
    return Page(items=[JobView.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/jobs/{job}", responses=declared(404), operation_id="get_job")
def get_job(job: RowId, session: Reading) -> JobDetail:
    """One job with its log."""
    return _job_detail(session, jobs.get(session, job))


@router.post("/jobs/{job}/cancel", responses=declared(404, 409), operation_id="cancel_job")
def cancel_job(job: RowId, session: Writing) -> JobDetail:
    """Cancel a job: at once while it is queued, at its next step while it is running."""
    return _job_detail(session, jobs.request_cancel(session, job))


@router.get("/api-keys", responses=declared(), operation_id="list_api_keys")
def list_api_keys(session: Reading, limit: Limit = 50, cursor: Cursor = None) -> Page[ApiKeyView]:
    """Keys by their first characters; the keys themselves are stored nowhere."""
    rows, next_cursor = access.page(session, limit=limit, cursor=cursor)
    return Page(items=[ApiKeyView(**_key_fields(row)) for row in rows], next_cursor=next_cursor)


@router.post(
    "/api-keys", responses=declared(), status_code=status.HTTP_201_CREATED, operation_id="create_api_key"
)
def create_api_key(body: ApiKeyIn, session: Writing, response: Response) -> NewApiKeyView:
    """Make a key. From the first key on every route but the probes needs one."""
    row, secret = access.create(session, body.name, body.role)
    response.headers["Cache-Control"] = "no-store"
    return NewApiKeyView(**_key_fields(row), key=secret)


@router.delete("/api-keys/{key}", responses=declared(404), operation_id="revoke_api_key")
def revoke_api_key(key: RowId, session: Writing) -> ApiKeyView:
    """Put a key out of force for good."""
    return ApiKeyView(**_key_fields(access.revoke(session, key)))


@router.get(
    "/ratings.csv",
    responses=declared() | {200: {"content": {"text/csv": {}}, "description": "every rating"}},
    response_class=StreamingResponse,
    operation_id="export_ratings",
)
def export_ratings(database: DatabaseNow) -> StreamingResponse:
    """Every rating as CSV, streamed; importing it again gives the same ratings."""

    def lines() -> Iterator[str]:
        # A session of its own: the route's would be closed before the stream has begun.
        with database.reading() as session:
            yield from ratings.csv_lines(session)

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")


def _run_view(view: RunView) -> TrainingRunView:
    run, job = view.run, view.job
    return TrainingRunView(
        id=run.run_id,
        job_id=job.job_id,
        state=job.state,
        progress=job.progress,
        attempt=job.attempt,
        error=job.error,
        overrides=run.overrides,
        configuration=run.configuration,
        snapshot=run.snapshot,
        environment=run.environment,
        evaluation=run.evaluation,
        model_version=view.model_version,
        note=run.note,
        created_at=run.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


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


def _job_detail(session: Session, row: Job) -> JobDetail:
    lines = [LogLineView.model_validate(line) for line in jobs.log_lines(session, row.job_id)]
    return JobDetail(**JobView.model_validate(row).model_dump(), log=lines)


def _key_fields(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "name": row.name,
        "role": row.role,
        "prefix": row.prefix,
        "created_at": row.created_at,
        "revoked_at": row.revoked_at,
    }

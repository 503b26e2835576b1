"""Retraining and its runs over HTTP."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response, status
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app import training_runs
from app.api.dependencies import Reading, SettingsNow, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, RowId, State, Strict
from app.training_runs import RunView

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])


class RetrainIn(Strict):
    """Settings of the fit that differ from the defaults; what is left out is chosen by the data's shape."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"epochs": 60, "hidden_units": 200}]})

    design: Literal["rated", "joint", "positive", "masked", "conditional"] | None = None
    hidden_units: int | None = None
    linear_units: int | None = Field(
        None, description="linear hidden units beside the binary ones; 0 for none"
    )
    linear_strength: float | None = None
    grade_slope: float | None = None
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

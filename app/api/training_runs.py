"""Retraining and its runs over HTTP."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Header, Query, Request, Response, status
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from app import idempotency, training_runs
from app.api.dependencies import Reading, SettingsNow, Writing, needs
from app.api.problems import declared
from app.api.run_events import RunEventStreams
from app.api.schemas import Cursor, Limit, Page, RowId, State, Strict
from app.run_events import START, Position
from app.training_runs import RunView

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])


EVENTS_EXAMPLE = """\
id: 1.0.0.0.running
event: state
data: {"state":"running","progress":0.0,"attempt":1,"error":null}

id: 1.1.0.20.running
event: epoch
data: {"attempt":1,"epoch":1,"reported_at":"2026-01-01T00:00:00+00:00","report":{"reconstruction_error":0.04}}

id: 1.130.9.1000.succeeded
event: end
data: {"state":"succeeded","progress":1.0,"attempt":1,"error":null,"model_version":7,"evaluation":{}}

"""

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=idempotency.LONGEST,
        pattern="^[!-~]+$",
        description="any string of your own: the same request under the same key is carried out once, and "
        "answered alike for 24 hours",
        examples=["8f14e45f-nightly-2026-01-01"],
    ),
]


class RetrainIn(Strict):
    """Settings of the fit that differ from the defaults; what is left out is chosen by the data's shape."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"epochs": 60, "hidden_units": 200}]})

    design: Literal["rated", "joint", "positive", "masked", "conditional"] | None = None
    hidden_units: int | None = None
    linear_units: int | None = Field(
        None, description="linear hidden units beside the binary ones; 0 for none"
    )
    linear_strength: float | None = None
    weighted_units: int | None = Field(
        None, description="hidden units to which a rating says more than an absence; 0 for none"
    )
    weighted_strength: float | None = None
    like_strength: float | None = Field(
        None, description="what the odds of liking a movie count beside the odds of watching it; 0: nothing"
    )
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
    popularity_ratings: float | None = Field(
        None, description="what popularity weighs in every list, in ratings of the user"
    )
    seed: int | None = None
    warm_start: StrictBool | None = Field(
        None,
        description="go on from the active version, with a fifth of the epochs unless said otherwise; "
        "its design and hidden units stay",
    )
    note: Annotated[str, StringConstraints(max_length=1000)] | None = None


class RerunIn(Strict):
    note: Annotated[str, StringConstraints(max_length=1000)] | None = None


class ShapeView(BaseModel):
    n_users: int
    n_movies: int
    n_ratings: int


class EstimateView(BaseModel):
    """What the fit was thought to cost when it was asked for."""

    memory_bytes: int = Field(description="most held at once, meant as an upper bound")
    available_bytes: int | None = Field(description="what a fit may take; null where nothing says")
    memory: dict[str, int] = Field(description="bytes by part; model_file is what the database will keep")
    seconds: float = Field(description="from its beginning to the model version, a guess")
    seconds_from: str = Field(description="whose speed that was reckoned by")
    shape: ShapeView = Field(description="the size of the data at most")


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
    trigger: Literal["request", "schedule", "rerun"] = Field(description="who asked for it")
    estimate: EstimateView | None
    parent_version: int | None = Field(description="the version that was active when the fit began")
    warm_start: bool = Field(description="whether it goes on from the parent version's parameters")
    rerun_of: int | None = Field(description="the training run that it does again")
    sha256: str | None = Field(description="of the finished model file: equal ones are equal bit for bit")
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
    session: Writing,
    settings: SettingsNow,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    body: RetrainIn | None = None,
) -> TrainingRunView:
    """Queue a training run; `Location` says where to watch it. An equal request joins the queued run.

    The answer holds an estimate of memory and time. A fit that would not fit into the memory is refused with
    409, saying which settings to lower and to what.
    """
    asked = body.model_dump(exclude_none=True) if body else {}
    if idempotency_key is not None:
        known = idempotency.recall(session, "retrain", idempotency_key, asked, now=datetime.now(UTC))
        if known is not None:
            headers = {"Location": known["location"], "Idempotency-Replayed": "true"}
            return cast(
                TrainingRunView, JSONResponse(known["body"], status.HTTP_202_ACCEPTED, headers=headers)
            )
    note = asked.pop("note", None)
    view = _run_view(training_runs.request(session, asked, settings, note=note)[0])
    location = f"/v1/admin/training-runs/{view.id}"
    if idempotency_key is not None:
        answer = {"location": location, "body": view.model_dump(mode="json")}
        idempotency.remember(session, "retrain", idempotency_key, answer)
    response.headers["Location"] = location
    return view


@router.get("/training-runs", responses=declared(), operation_id="list_training_runs")
def list_training_runs(
    session: Reading,
    state: Annotated[State | None, Query()] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[TrainingRunView]:
    """Training runs, newest first."""
    views, next_cursor = training_runs.page(session, state=state, limit=limit, cursor=cursor)
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


@router.post(
    "/training-runs/{run}/rerun",
    responses=declared(404, 409),
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="rerun_training_run",
)
def rerun_training_run(
    run: RowId, session: Writing, settings: SettingsNow, response: Response, body: RerunIn | None = None
) -> TrainingRunView:
    """Do a finished run again: same configuration, same seed, same parent.

    The new run's evaluation says whether its parameters are bitwise the same, and which of ratings, code,
    libraries, processor and threads differ. It never becomes active by itself.
    """
    view = training_runs.request_rerun(session, run, settings, note=body.note if body else None)
    response.headers["Location"] = f"/v1/admin/training-runs/{view.run.run_id}"
    return _run_view(view)


@router.get(
    "/training-runs/{run}/events",
    responses=declared(404)
    | {
        200: {
            "description": "Events until the end of the run: `state`, `epoch`, `log` and one `end`.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENTS_EXAMPLE}},
        },
        204: {"description": "This listener has heard the end already; a browser stops reconnecting"},
    },
    response_class=Response,
    operation_id="listen_to_training_run",
)
async def listen_to_training_run(
    run: RowId,
    request: Request,
    last_event_id: Annotated[
        str | None,
        Header(max_length=100, description="the id of the last event heard; the stream goes on after it"),
    ] = None,
) -> Response:
    """A training run as server-sent events, as they happen.

    `state` tells state, progress and attempt (a higher attempt begins with epoch 1 again), `epoch` an epoch's
    report, `log` a line of the job's log. The stream ends after `end`. Every event's id is a place to go on
    from, at any process of the service; without `Last-Event-ID` everything is told from the beginning.
    """
    streams = cast(RunEventStreams, request.app.state.run_event_streams)
    position = Position.parse(last_event_id) if last_event_id else START
    missed = await streams.first(run, position)
    if position.is_end and not missed:
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold events back
    return EventSourceResponse(streams.stream(run, position, missed), headers=headers)


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
        trigger=run.trigger,
        estimate=EstimateView.model_validate(run.estimate) if run.estimate else None,
        parent_version=run.parent_version,
        warm_start=run.is_warm_start,
        rerun_of=run.rerun_of,
        sha256=run.sha256,
        created_at=run.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )

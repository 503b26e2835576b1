"""Retraining and its runs over HTTP."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Query, Response, status
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse
from pydantic import ConfigDict, Field, StrictBool, StringConstraints, create_model
from pydantic_core import to_jsonable_python

from app.api.dependencies import AdminCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.run_events import RunEventStreams
from app.api.schemas import Cursor, Limit, RowId, Strict
from app.jobs.queue import State
from app.learning.configuration import Setting, TrainingConfiguration
from app.storage import idempotency
from app.storage.cursors import Page
from app.training import requests
from app.training.events import START, Position
from app.training.requests import Run, RunWithReports

router = new_router("/v1/admin", "admin")


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


def _setting_field(setting: Setting) -> Any:
    # The type only: values out of range are refused by the domain, which says what is
    # allowed.
    kinds: dict[str, Any] = {"whole": int, "real": float, "choice": Literal[setting.choices]}
    return kinds[setting.kind] | None, Field(None, description=setting.description)


_SETTINGS = {setting.name: _setting_field(setting) for setting in TrainingConfiguration.settings()}


class RetrainIn(create_model("Overrides", __base__=Strict, **_SETTINGS)):  # type: ignore[misc]
    """Settings of the fit that differ from the defaults."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"epochs": 60, "hidden_units": 200}]})

    warm_start: StrictBool | None = Field(
        None,
        description="go on from the active version, with a fifth of the epochs unless `epochs` is set; "
        "its design and hidden units stay",
    )
    note: Annotated[str, StringConstraints(max_length=1000)] | None = None


class RerunIn(Strict):
    note: Annotated[str, StringConstraints(max_length=1000)] | None = Field(
        None, examples=["on the new server"]
    )


@router.post(
    "/retrain",
    responses=declared(409),
    response_model=Run,
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="retrain",
)
def retrain(
    call: AdminCall, idempotency_key: IdempotencyKey = None, body: RetrainIn | None = None
) -> Run | JSONResponse:
    """Queue a training run;

    `Location` says where to watch it. An equal request joins the queued run.

    The answer holds an estimate of memory and time. A fit that would not fit into the
    memory is refused with 409, saying which settings to lower and to what.
    """
    content = body.model_dump(exclude_none=True) if body else {}
    with call.writing() as session:
        if idempotency_key is not None:
            known = idempotency.recall(session, "retrain", idempotency_key, content, now=datetime.now(UTC))
            if known is not None:
                headers = {"Location": known["location"], "Idempotency-Replayed": "true"}
                return JSONResponse(known["body"], status.HTTP_202_ACCEPTED, headers=headers)
        overrides = {name: value for name, value in content.items() if name != "note"}
        run, _ = requests.request(session, overrides, call.settings, note=content.get("note"))
        location = f"/v1/admin/training-runs/{run.id}"
        if idempotency_key is not None:
            answer = {"location": location, "body": to_jsonable_python(run)}
            idempotency.remember(session, "retrain", idempotency_key, answer)
    call.response.headers["Location"] = location
    return run


@router.get("/training-runs", operation_id="list_training_runs")
def list_training_runs(
    call: AdminCall,
    state: Annotated[State | None, Query()] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[Run]:
    """Training runs, newest first."""
    with call.reading() as session:
        return requests.page(session, state=state, limit=limit, cursor=cursor)


@router.get("/training-runs/{run}", responses=declared(404), operation_id="get_training_run")
def get_training_run(run: RowId, call: AdminCall) -> RunWithReports:
    """State, progress, report of every epoch so far and, at the end, evaluation."""
    with call.reading() as session:
        return requests.with_reports(session, run)


@router.post("/training-runs/{run}/cancel", responses=declared(404, 409), operation_id="cancel_training_run")
def cancel_training_run(run: RowId, call: AdminCall) -> Run:
    """Cancel a run: at once if it is queued, within seconds if it is under way."""
    with call.writing() as session:
        return requests.cancel(session, run)


@router.post(
    "/training-runs/{run}/rerun",
    responses=declared(404, 409),
    status_code=status.HTTP_202_ACCEPTED,
    operation_id="rerun_training_run",
)
def rerun_training_run(run: RowId, call: AdminCall, body: RerunIn | None = None) -> Run:
    """Do a finished run again: same configuration, same seed, same parent.

    The new run's evaluation says whether its ratings are equal and its parameters equal
    bit for bit. It leaves no model version.
    """
    with call.writing() as session:
        queued = requests.request_rerun(session, run, call.settings, note=body.note if body else None)
    call.response.headers["Location"] = f"/v1/admin/training-runs/{queued.id}"
    return queued


@router.get(
    "/training-runs/{run}/events",
    responses=declared(404)
    | {
        200: {
            "description": "Events until the end of the run: `state`, `epoch`, `log` and one `end`",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EVENTS_EXAMPLE}},
        },
        204: {"description": "`Last-Event-ID` is that of the end; a browser stops reconnecting"},
    },
    response_class=Response,
    operation_id="listen_to_training_run",
)
async def listen_to_training_run(
    run: RowId,
    call: AdminCall,
    last_event_id: Annotated[
        str | None,
        Header(max_length=100, description="the id of the last event received; the stream goes on after it"),
    ] = None,
) -> Response:
    """A training run as server-sent events, as they happen.

    `state` holds state, progress and attempt (a higher attempt begins with epoch 1
    again), `epoch` an epoch's report, `log` a line of the job's log. The stream ends
    after `end`. Every event's id is a place to go on from, at any process of the
    service; without `Last-Event-ID` the stream starts at the beginning.
    """
    await run_in_threadpool(call.check_key)
    streams: RunEventStreams = call.request.app.state.run_event_streams
    position = Position.parse(last_event_id) if last_event_id else START
    missed = await streams.first(run, position)
    if position.is_end and not missed:
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold events back
    return EventSourceResponse(streams.stream(run, position, missed), headers=headers)

"""The queue over HTTP."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.api.dependencies import AdminCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import Cursor, Limit, RowId
from app.jobs import queue
from app.jobs.queue import State
from app.storage.cursors import Page
from app.storage.tables import Job

router = new_router("/v1/admin", "admin")


class JobRecord(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    job_id: int = Field(examples=[13])
    kind: str = Field(examples=["training"])
    state: State
    progress: float = Field(examples=[0.4])
    attempt: int = Field(examples=[1])
    max_attempts: int = Field(examples=[3])
    worker: str | None = Field(examples=["worker-1"])
    error: str | None
    result: dict[str, Any] | None
    cancel_requested: bool
    run_after: datetime | None = Field(description="not before then; null: at once")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class LogLine(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    attempt: int = Field(examples=[1])
    level: str = Field(examples=["info"])
    message: str = Field(examples=["fitting"])
    logged_at: datetime


class JobWithLog(JobRecord):
    log: list[LogLine]


@router.get("/jobs", operation_id="list_jobs")
def list_jobs(
    call: AdminCall,
    state: Annotated[State | None, Query()] = None,
    kind: Annotated[str | None, Query(max_length=32)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[JobRecord]:
    """The queue and its past, newest first."""
    with call.reading() as session:
        page = queue.page(session, state=state, kind=kind, limit=limit, cursor=cursor)
        return page.map(JobRecord.model_validate)


@router.get("/jobs/{job}", responses=declared(404), operation_id="get_job")
def get_job(job: RowId, call: AdminCall) -> JobWithLog:
    """One job with its log."""
    with call.reading() as session:
        return _with_log(session, queue.get(session, job))


@router.post("/jobs/{job}/cancel", responses=declared(404, 409), operation_id="cancel_job")
def cancel_job(job: RowId, call: AdminCall) -> JobWithLog:
    """Cancel a job: at once if it is queued, at its next step if it is running."""
    with call.writing() as session:
        return _with_log(session, queue.request_cancel(session, job))


def _with_log(session: Session, row: Job) -> JobWithLog:
    lines = [LogLine.model_validate(line) for line in queue.log_lines(session, row.job_id)]
    return JobWithLog(**JobRecord.model_validate(row).model_dump(), log=lines)

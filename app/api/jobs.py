"""The queue over HTTP."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app import jobs
from app.api.dependencies import Reading, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, RowId, State
from app.tables import Job

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])


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


def _job_detail(session: Session, row: Job) -> JobDetail:
    lines = [LogLineView.model_validate(line) for line in jobs.log_lines(session, row.job_id)]
    return JobDetail(**JobView.model_validate(row).model_dump(), log=lines)

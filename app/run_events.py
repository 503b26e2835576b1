"""What has happened in a training run since a listener last heard of it.

An event's id is the listener's whole position after it. So a listener may go on anywhere: after a lost
connection, after a restart, at another process of the service. Everything is read from the database; nothing
is kept for a listener.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import training_runs
from app.errors import FieldError, InvalidInput
from app.tables import EpochReportRow, Job, JobLogLine, TrainingRun

EVENTS_AT_ONCE = 500  # of each kind in one reading
FINAL = ("succeeded", "failed", "cancelled")

_POSITION = re.compile(
    r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})\.(\d{1,4})\.(|queued|running|succeeded|failed|cancelled)"
)


@dataclass(frozen=True)
class Position:
    """How much of a run a listener knows.

    Attributes:
        attempt, epoch: the last epoch report heard; numbers begin anew with every attempt.
        line_id: the last log line heard.
        permille: the last progress heard.
        state: the last state heard; empty: none yet.
    """

    attempt: int = 0
    epoch: int = 0
    line_id: int = 0
    permille: int = 0
    state: str = ""

    def __str__(self) -> str:
        return f"{self.attempt}.{self.epoch}.{self.line_id}.{self.permille}.{self.state}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position that an event's id names; `InvalidInput` for anything else."""
        found = _POSITION.fullmatch(text)
        if found is None:
            message = "this is not the id of an event of a training run; leave it out to hear all of them"
            raise InvalidInput(
                f"Last-Event-ID: {message}.", errors=[FieldError("header.last-event-id", message)]
            )
        attempt, epoch, line_id, permille = map(int, found.groups()[:4])
        return cls(attempt, epoch, line_id, permille, found[5])

    @property
    def is_end(self) -> bool:
        return self.state in FINAL


START = Position()


@dataclass(frozen=True)
class RunEvent:
    """Something that happened.

    Attributes:
        name: `state` (with progress and attempt: one that rises says that the epochs begin anew), `log`,
            `epoch`, or `end`, after which nothing comes.
        data: JSON-safe.
        position: of a listener who has heard it.
    """

    name: Literal["state", "log", "epoch", "end"]
    data: dict[str, Any]
    position: Position


def mark(session: Session, run_id: int) -> tuple[Any, ...]:
    """A value that changes whenever there may be something new: one small query.

    Raises:
        NotFound: there is no such run.
    """
    row = session.execute(
        select(
            Job.state,
            Job.attempt,
            Job.progress,
            select(func.max(EpochReportRow.epoch))
            .where(EpochReportRow.run_id == run_id, EpochReportRow.attempt == Job.attempt)
            .scalar_subquery(),
            select(func.max(JobLogLine.line_id)).where(JobLogLine.job_id == Job.job_id).scalar_subquery(),
        )
        .join(TrainingRun, TrainingRun.job_id == Job.job_id)
        .where(TrainingRun.run_id == run_id)
    ).one_or_none()
    if row is None:
        training_runs.get(session, run_id)  # says that there is none
    return tuple(row or ())


def since(session: Session, run_id: int, position: Position) -> list[RunEvent]:
    """What a listener at this position has not heard, oldest first, at most about a thousand events.

    A final state is told by the `end` alone, and only once everything before it was.

    Raises:
        NotFound: there is no such run.
    """
    view = training_runs.get(session, run_id)
    job, run = view.job, view.run
    events: list[RunEvent] = []
    permille = int(job.progress * 1000)
    told = (position.state, position.attempt, position.permille)
    if told != (job.state, job.attempt, permille) and not (job.state in FINAL and position.is_end):
        epoch = position.epoch if position.attempt == job.attempt else 0
        state = position.state if job.state in FINAL else job.state
        position = Position(job.attempt, epoch, position.line_id, permille, state)
        if job.state not in FINAL:
            data = {"state": job.state, "progress": job.progress, "attempt": job.attempt, "error": job.error}
            events.append(RunEvent("state", data, position))
    reports = session.scalars(
        select(EpochReportRow)
        .where(
            EpochReportRow.run_id == run_id,
            EpochReportRow.attempt == job.attempt,
            EpochReportRow.epoch > position.epoch,
        )
        .order_by(EpochReportRow.epoch)
        .limit(EVENTS_AT_ONCE)
    ).all()
    lines = session.scalars(
        select(JobLogLine)
        .where(JobLogLine.job_id == job.job_id, JobLogLine.line_id > position.line_id)
        .order_by(JobLogLine.line_id)
        .limit(EVENTS_AT_ONCE)
    ).all()
    happened: list[tuple[datetime, EpochReportRow | JobLogLine]] = [
        *((report.reported_at, report) for report in reports),
        *((line.logged_at, line) for line in lines),
    ]
    for moment, one in sorted(happened, key=lambda item: item[0]):
        if isinstance(one, EpochReportRow):
            position = Position(
                job.attempt, max(position.epoch, one.epoch), position.line_id, permille, position.state
            )
            data = {"attempt": one.attempt, "epoch": one.epoch, "reported_at": moment, "report": one.report}
            events.append(RunEvent("epoch", data, position))
        else:
            position = Position(
                job.attempt, position.epoch, max(position.line_id, one.line_id), permille, position.state
            )
            data = {
                "attempt": one.attempt,
                "level": one.level,
                "message": one.message,
                "logged_at": moment,
            }
            events.append(RunEvent("log", data, position))
    is_all = len(reports) < EVENTS_AT_ONCE and len(lines) < EVENTS_AT_ONCE
    if job.state in FINAL and is_all and not position.is_end:
        position = Position(job.attempt, position.epoch, position.line_id, permille, job.state)
        data = {
            "state": job.state,
            "progress": job.progress,
            "attempt": job.attempt,
            "error": job.error,
            "model_version": view.model_version,
            "evaluation": run.evaluation,
        }
        events.append(RunEvent("end", data, position))
    return events

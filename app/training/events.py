"""The events of a training run after a listener's position.

An event's id is the whole position of a listener who has received it. So a listener may
go on anywhere: after a lost connection, after a restart, at another process of the
service. Everything is read from the database; nothing is kept for a listener.
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import FieldError, InvalidInput
from app.storage.tables import EpochReportRow, Job, JobLogLine, TrainingRun
from app.training import requests
from app.training.requests import Run

EVENTS_AT_ONCE = 500  # of each kind in one reading
FINAL = ("succeeded", "failed", "cancelled")

_POSITION = re.compile(
    r"(\d{1,18})\.(\d{1,18})\.(\d{1,18})\.(\d{1,4})\.(|queued|running|succeeded|failed|cancelled)"
)


@dataclass(frozen=True)
class Position:
    """How much of a run a listener has received."""

    attempt: int = 0
    epoch: int = 0
    """The last epoch report of that attempt; numbers begin anew with every attempt."""
    line_id: int = 0
    """The last log line."""
    permille: int = 0
    """The last progress."""
    state: str = ""
    """The last state; empty before the first."""

    def __str__(self) -> str:
        return f"{self.attempt}.{self.epoch}.{self.line_id}.{self.permille}.{self.state}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """The position that an event's id names; `InvalidInput` for anything else."""
        match = _POSITION.fullmatch(text)
        if match is None:
            message = "this is not the id of an event of a training run; leave it out to hear all of them"
            raise InvalidInput(
                f"Last-Event-ID: {message}.", errors=[FieldError("header.last-event-id", message)]
            )
        attempt, epoch, line_id, permille = map(int, match.groups()[:4])
        return cls(attempt, epoch, line_id, permille, match[5])

    @property
    def is_end(self) -> bool:
        return self.state in FINAL


START = Position()


@dataclass(frozen=True)
class RunEvent:
    """Something that happened."""

    name: Literal["state", "log", "epoch", "end"]
    """`state` tells progress and attempt (a higher one begins with epoch 1 again);
    `end` is the last."""
    data: dict[str, Any]
    """JSON-safe but for moments."""
    position: Position
    """Of a listener who has received it."""


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
        requests.get(session, run_id)  # raises NotFound
    return tuple(row or ())


def since(session: Session, run_id: int, position: Position) -> list[RunEvent]:
    """The events after a position, oldest first, at most about a thousand.

    A final state is said by the `end` alone, and only once everything before it was.

    Raises:
        NotFound: there is no such run.
    """
    run = requests.get(session, run_id)
    events: list[RunEvent] = []
    is_final = run.state in FINAL
    permille = int(run.progress * 1000)
    has_moved = (position.state, position.attempt, position.permille) != (run.state, run.attempt, permille)
    if has_moved and not (is_final and position.is_end):
        position = replace(
            position,
            attempt=run.attempt,
            epoch=position.epoch if position.attempt == run.attempt else 0,
            permille=permille,
            state=position.state if is_final else run.state,
        )
        if not is_final:
            data = {"state": run.state, "progress": run.progress, "attempt": run.attempt, "error": run.error}
            events.append(RunEvent("state", data, position))
    rows = _rows_after(session, run, position)
    for row in rows:
        if isinstance(row, EpochReportRow):
            position = replace(position, epoch=max(position.epoch, row.epoch))
            events.append(RunEvent("epoch", _fields(row, "attempt epoch reported_at report"), position))
        else:
            position = replace(position, line_id=max(position.line_id, row.line_id))
            events.append(RunEvent("log", _fields(row, "attempt level message logged_at"), position))
    if is_final and not position.is_end and _is_all(rows):
        position = replace(position, attempt=run.attempt, state=run.state)
        data = _fields(run, "state progress attempt error model_version evaluation")
        events.append(RunEvent("end", data, position))
    return events


def _rows_after(session: Session, run: Run, position: Position) -> list[EpochReportRow | JobLogLine]:
    """The epoch reports and log lines after a position, by time."""
    reports = session.scalars(
        select(EpochReportRow)
        .where(
            EpochReportRow.run_id == run.id,
            EpochReportRow.attempt == run.attempt,
            EpochReportRow.epoch > position.epoch,
        )
        .order_by(EpochReportRow.epoch)
        .limit(EVENTS_AT_ONCE)
    )
    lines = session.scalars(
        select(JobLogLine)
        .where(JobLogLine.job_id == run.job_id, JobLogLine.line_id > position.line_id)
        .order_by(JobLogLine.line_id)
        .limit(EVENTS_AT_ONCE)
    )
    return sorted([*reports, *lines], key=_moment)


def _is_all(rows: list[EpochReportRow | JobLogLine]) -> bool:
    n_reports = sum(isinstance(row, EpochReportRow) for row in rows)
    return max(n_reports, len(rows) - n_reports) < EVENTS_AT_ONCE


def _moment(row: EpochReportRow | JobLogLine) -> datetime:
    return row.reported_at if isinstance(row, EpochReportRow) else row.logged_at


def _fields(row: object, names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names.split()}

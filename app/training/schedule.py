"""Retraining by schedule: after enough changed ratings or hours.

Every worker looks; one at a time decides, under a lock on the schedule's one row, so
that two never request two runs. The count and the hours go from the last run, by
request or schedule and however it ended, so that a run that failed or was cancelled is
not begun again at once; reruns, which only repeat, do not count.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, InvalidInput, NotEnoughMemory, TooLittleTrainingData
from app.imports import requests as import_requests
from app.jobs import queue
from app.learning.training import LEAST_RATINGS
from app.model_versions import activation, store
from app.ratings import changes
from app.settings import Settings
from app.storage.answers import Answer
from app.storage.database import Database
from app.storage.tables import Job, RetrainSchedule, TrainingRun, User
from app.training import requests

LOOK_EVERY = 10.0  # seconds between two looks of a worker
REFUSAL_RESTS = timedelta(hours=1)  # after a run could not be queued
SUM_UP_FROM = 1_000  # rows of changes

Due = Literal["ratings", "hours"]


@dataclass(frozen=True)
class Plan(Answer):
    """When and why the next run will be requested by schedule."""

    why: Annotated[str, Field(examples=["after 2400 more changed ratings or at 2026-01-02 03:04 UTC, …"])]
    """All of this in words."""
    due: Due | None
    """The rule that requests a run now."""
    waits_for: str | None
    """What holds the run up, in words."""
    changes_since: Annotated[int, Field(examples=[400])]
    """Ratings changed since the snapshot of the last run, or ever."""
    more_changes: Annotated[int | None, Field(examples=[9_600])]
    """How many more start a run; None where that rule is off."""
    next_at: datetime | None
    """When the hours start a run; None where that rule is off, or no rating has
    changed."""
    is_warm_start: bool
    """Whether that run goes on from the active version."""
    refusal: str | None
    """Why the last attempt could not be queued."""
    refused_at: datetime | None


@dataclass(frozen=True)
class Staleness(Answer):
    """How far the ratings have moved on since the active version was trained."""

    version: Annotated[int, Field(examples=[7])]
    """The active one."""
    trained_at: datetime
    """When its training run was requested."""
    newest_rated_at: datetime | None
    """The newest rating that it was trained on."""
    ratings: Annotated[int | None, Field(examples=[32_143])]
    """How many ratings it was trained on."""
    changes_since: Annotated[int, Field(examples=[400])]
    """Ratings added, changed and removed since."""


def plan(session: Session, settings: Settings, *, now: datetime | None = None) -> Plan:
    """When and why the next run will be requested, as things stand."""
    now = now or datetime.now(UTC)
    row = session.get(RetrainSchedule, 1, populate_existing=True)
    refusal, refused_at = (row.refusal, row.refused_at) if row else (None, None)
    totals = changes.changes(session)
    runs = select(TrainingRun).where(TrainingRun.rerun_of.is_(None)).order_by(TrainingRun.run_id.desc())
    last = session.scalar(runs.limit(1))
    finished = session.scalar(
        runs.join(Job, Job.job_id == TrainingRun.job_id).where(Job.state == "succeeded").limit(1)
    )
    since = max(0, totals.total - (last.rating_changes if last else 0))
    # The hours repeat a failed run.
    has_news = totals.total > (finished.rating_changes if finished else 0)
    by_hours = _by_hours(session, last, settings) if has_news else None
    more = max(0, settings.retrain_after_ratings - since) if settings.retrain_after_ratings else None

    waits_for = _held_up_by(session, totals.n_ratings, more == 0)
    if refused_at is not None and now < refused_at + REFUSAL_RESTS:
        waits_for = waits_for or f"the last attempt was refused: {refusal}"
    due: Due | None = None
    if waits_for is None:
        due = "ratings" if more == 0 else "hours" if by_hours is not None and by_hours <= now else None
    why = _in_words(settings, since, more, by_hours, waits_for, due)
    return Plan(
        due=due,
        changes_since=since,
        more_changes=more,
        next_at=by_hours,
        is_warm_start=_is_warm_start(session, settings),
        waits_for=waits_for,
        why=why,
        refusal=refusal,
        refused_at=refused_at,
    )


def tick(database: Database, settings: Settings) -> int | None:
    """Request a run if one is due; return its number.

    Cheap where nothing is due: a few small queries and no write lock.
    """
    with database.reading() as session:
        is_due = plan(session, settings).due is not None
        n_rows = changes.change_rows(session)
    if n_rows >= SUM_UP_FROM:
        with database.writing() as session:
            changes.sum_up_changes(session)
    if not is_due:
        return None
    with database.writing() as session:
        row = session.scalars(select(RetrainSchedule).with_for_update()).one()
        decided = plan(session, settings)  # another worker may have been here since the first look
        if decided.due is None:
            return None
        overrides = {"warm_start": True} if decided.is_warm_start else {}
        try:
            with session.begin_nested():
                requested = requests.request(
                    session, overrides, settings, note=f"by schedule: {decided.why}", trigger="schedule"
                )
        except (Conflict, InvalidInput, NotEnoughMemory, TooLittleTrainingData) as error:
            row.refusal, row.refused_at = error.detail, datetime.now(UTC)
            return None
        row.refusal = row.refused_at = None
        return requested.run.id


def staleness(session: Session) -> Staleness | None:
    """How stale the active version is; None before the first."""
    pointer = activation.active(session)
    if pointer is None:
        return None
    run_id = store.get(session, pointer.version).run_id
    run = session.get_one(TrainingRun, run_id)
    seen = run.snapshot or {}
    newest = seen.get("newest_rated_at")
    return Staleness(
        version=pointer.version,
        trained_at=run.created_at,
        newest_rated_at=datetime.fromisoformat(newest) if newest else None,
        ratings=seen.get("n_ratings"),
        changes_since=max(0, changes.changes(session).total - run.rating_changes),
    )


def _by_hours(session: Session, last: TrainingRun | None, settings: Settings) -> datetime | None:
    """When the hours start the next run, from the last run or the first user."""
    if not settings.retrain_every_hours:
        return None
    began = last.created_at if last else session.scalar(select(func.min(User.created_at)))
    if began is None:
        return None
    # Drawn from the moment itself, so that all workers and /v1/admin agree on it
    # without another table.
    digest = hashlib.blake2b(began.isoformat().encode(), digest_size=8).digest()
    drawn = int.from_bytes(digest, "big") / 2**64
    return began + timedelta(hours=settings.retrain_every_hours * (1 + settings.retrain_jitter * drawn))


def _held_up_by(session: Session, n_ratings: int, by_ratings: bool) -> str | None:
    if n_ratings < LEAST_RATINGS:
        return f"there are {n_ratings} ratings, and the least that can be trained on is {LEAST_RATINGS}"
    under_way = queue.active(session, requests.JOB_KIND)
    if under_way:
        return f"a training run is {under_way[-1].state}"
    if by_ratings and any(job.state == "running" for job in queue.active(session, import_requests.JOB_KIND)):
        return "a file is being imported"  # half of it would be trained on now, and all of it soon after
    return None


def _is_warm_start(session: Session, settings: Settings) -> bool:
    """Whether the next run is a warm start: not without a version, nor every time."""
    if activation.active(session) is None:
        return False
    succeeded = (
        select(TrainingRun.run_id)
        .join(Job, Job.job_id == TrainingRun.job_id)
        .where(Job.state == "succeeded", TrainingRun.rerun_of.is_(None))
    )
    full = session.scalar(
        succeeded.where(TrainingRun.is_warm_start.is_(False)).order_by(TrainingRun.run_id.desc()).limit(1)
    )
    warm = succeeded.where(TrainingRun.is_warm_start.is_(True), TrainingRun.run_id > (full or 0))
    n_warm = session.scalar(select(func.count()).select_from(warm.subquery())) or 0
    return n_warm + 1 < settings.full_fit_every


def _in_words(
    settings: Settings,
    since: int,
    more: int | None,
    next_at: datetime | None,
    waits_for: str | None,
    due: Due | None,
) -> str:
    if not settings.retrain_after_ratings and not settings.retrain_every_hours:
        return "never: both rules are switched off"
    changed = f"{since} {'rating has' if since == 1 else 'ratings have'} changed since the last run"
    if waits_for is not None:
        return f"not now, {waits_for}; {changed}"
    if due == "ratings":
        return f"now: {changed}, and {settings.retrain_after_ratings} are enough"
    if due == "hours":
        return f"now: {settings.retrain_every_hours:g} hours are over, and {changed}"
    rules = []
    if more is not None:
        rules.append(f"after {more} more changed ratings")
    if next_at is not None:
        rules.append(f"at {next_at:%Y-%m-%d %H:%M} UTC")
    elif settings.retrain_every_hours:
        rules.append(f"{settings.retrain_every_hours:g} hours after the last run, once a rating has changed")
    return f"{' or '.join(rules)}{', whichever comes first' if len(rules) > 1 else ''}; {changed}"

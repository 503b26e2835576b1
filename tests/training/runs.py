"""Training runs in a database, fitted in this process or ended without a fit."""

from typing import Any

from app.jobs import queue
from app.jobs.loop import Worker
from app.ratings import changes as ratings
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import TrainingRun
from app.training import requests
from app.training.requests import Run
from app.worker.process import JOB_HANDLERS

SMALL: dict[str, Any] = {"epochs": 3, "hidden_units": 5}


def run_now(database: Database, settings: Settings, **overrides: Any) -> Run:
    """Request a small fit and carry it out."""
    with database.writing() as session:
        run_id = requests.request(session, SMALL | overrides, settings).run.id
    return work(database, settings, run_id)


def work(database: Database, settings: Settings, run_id: int) -> Run:
    """Carry out what is queued; return this run."""
    Worker(database, settings, JOB_HANDLERS).run(until_idle=True)
    with database.reading() as session:
        return requests.get(session, run_id)


def end_without_fit(database: Database, run_id: int, state: queue.FinalState = "succeeded") -> None:
    """End a queued run as if it had read the ratings as they are now."""
    with database.writing() as session:
        row = session.get_one(TrainingRun, run_id)
        job = queue.claim(session, [requests.JOB_KIND], "worker", job_id=row.job_id)
        assert job is not None
        row.rating_changes = ratings.changes(session).total
        queue.finish(session, job.job_id, job.attempt, state)

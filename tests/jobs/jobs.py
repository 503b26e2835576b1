"""Jobs in a database: queue, claim, look, end."""

from typing import Any

from app.jobs import queue
from app.storage.database import Database
from app.storage.tables import Job


def add(database: Database, kind: str = "training", **options: Any) -> int:
    with database.writing() as session:
        return queue.enqueue(session, kind, {"kind": kind}, **options).job.job_id


def take(database: Database, worker: str = "w1", **options: Any) -> Job | None:
    with database.writing() as session:
        return queue.claim(session, ["training", "import"], worker, **options)


def take_one(database: Database, worker: str = "w1") -> Job:
    job = take(database, worker)
    assert job is not None
    return job


def look(database: Database, job_id: int) -> Job:
    with database.reading() as session:
        return queue.get(session, job_id)


def beat(database: Database, job: Job) -> bool:
    with database.writing() as session:
        return queue.heartbeat(session, job.job_id, job.attempt)


def end(database: Database, job: Job, state: queue.FinalState = "succeeded") -> None:
    with database.writing() as session:
        queue.finish(session, job.job_id, job.attempt, state)

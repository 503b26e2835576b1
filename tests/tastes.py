"""Ratings with a known answer: two groups of users, each fond of half the movies."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import select

from app.catalogue import movies as catalogue
from app.catalogue.movies import MovieEntry
from app.jobs import queue as jobs
from app.jobs.loop import Worker
from app.model_versions import activation
from app.model_versions import store as model_versions
from app.ratings import keys
from app.ratings import store as ratings
from app.ratings.batch import UNTIMED, RatingBatch
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Job, ModelVersion, ModelVersionChunk, Table, TrainingRun
from app.training import requests as training_runs
from app.worker.process import JOB_HANDLERS

Row = TypeVar("Row", bound=Table)

N_USERS, N_MOVIES, RATINGS_EACH = 60, 30, 12


def two_tastes(seed: int = 0, n_users: int = N_USERS) -> RatingBatch:
    """Users `even0`… rate and like mostly movies `even0`…; users `odd0`… the odd.

    One rating in six is of the other half, and is a dislike.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, float]] = []
    for user in range(n_users):
        own, other = ("even", "odd") if user % 2 == 0 else ("odd", "even")
        n_other = RATINGS_EACH // 6
        liked = rng.permutation(N_MOVIES // 2)[: RATINGS_EACH - n_other]
        disliked = rng.permutation(N_MOVIES // 2)[:n_other]
        rows += [(f"{own}{user}", f"{own}{movie}", float(rng.choice([4, 4.5, 5]))) for movie in liked]
        rows += [(f"{own}{user}", f"{other}{movie}", float(rng.choice([1, 1.5, 2]))) for movie in disliked]
    return RatingBatch.of_columns(
        users=[row[0] for row in rows],
        movies=[row[1] for row in rows],
        stars=np.array([row[2] for row in rows]),
        rated_at=np.full(len(rows), UNTIMED),
    )


def store_tastes(database: Database, n_users: int = N_USERS) -> None:
    """Two tastes' movies and ratings, not trained on."""
    now = datetime.now(UTC)
    with database.writing() as session:
        films = [
            MovieEntry(f"{half}{number}", f"{half.title()} Film {number}", 1980 + number, (half.title(),))
            for half in ("even", "odd")
            for number in range(N_MOVIES // 2)
        ]
        catalogue.store(session, films, now=now)
        ratings.upsert(session, two_tastes(n_users=n_users), received_at=now)


def train_version(database: Database, settings: Settings, **overrides: Any) -> int:
    """Request a training run, carry it out in this process and return the version."""
    worker = Worker(database, settings, JOB_HANDLERS)
    with database.writing() as session:
        options = {"epochs": 40, "hidden_units": 20} | overrides
        view, _ = training_runs.request(session, options, settings)
        job = jobs.claim(session, [training_runs.JOB_KIND], worker.name, job_id=view.job_id)
    assert job is not None
    finished = worker.run_claimed(job)
    assert finished.state == "succeeded", finished.error
    assert finished.result is not None
    return int(finished.result["model_version"])


def another_version(database: Database, of: int | None = None) -> int:
    """Store a version again, as a run of its own with its outcome, and activate it.

    Args:
        of: the version; the newest if None.

    Returns:
        The new version's number.
    """
    with database.writing() as session:
        newest = select(ModelVersion).order_by(ModelVersion.version.desc()).limit(1)
        before = session.get_one(ModelVersion, of) if of else session.scalars(newest).one()
        run = session.get_one(TrainingRun, before.run_id)
        job = _copy_of(session.get_one(Job, run.job_id), "job_id")
        session.add(job)
        session.flush()
        run = _copy_of(run, "run_id", job_id=job.job_id)
        session.add(run)
        session.flush()
        chunks = select(ModelVersionChunk.content).filter_by(version=before.version)
        version = model_versions.add(
            session,
            model_versions.load(session, before.version),
            b"".join(session.scalars(chunks.order_by(ModelVersionChunk.number))),
            run_id=run.run_id,
            trained_user_keys=keys.unpack_keys(before.trained_user_keys),
            metrics=before.metrics,
            verdict=before.verdict,
        )
        activation.activate(session, version.version, cause="gate")
        return version.version


def _copy_of(row: Row, key: str, **changes: object) -> Row:
    """A new row with a key from the database, and with the changes."""
    names = [attribute.key for attribute in row.__mapper__.column_attrs if attribute.key != key]
    return type(row)(**{name: getattr(row, name) for name in names} | changes)

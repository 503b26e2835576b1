"""Ratings with an answer known in advance: two groups of people, each fond of one half of the movies."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from app import catalogue, jobs, ratings, training_runs
from app.catalogue import MovieEntry
from app.database import Database
from app.ratings import UNTIMED, RatingBatch
from app.settings import Settings
from app.worker import JOB_HANDLERS, Worker

N_USERS, N_MOVIES, RATINGS_EACH = 60, 30, 12


def two_tastes(seed: int = 0, n_users: int = N_USERS) -> RatingBatch:
    """Users `even0`… rate mostly movies `even0`… and like them; users `odd0`… the odd ones.

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
        ratings.store(session, two_tastes(n_users=n_users), received_at=now)


def train_version(database: Database, settings: Settings, **overrides: Any) -> int:
    """Request a training run, carry it out in this process and return the version."""
    worker = Worker(database, settings, JOB_HANDLERS)
    with database.writing() as session:
        wanted = {"epochs": 40, "hidden_units": 20} | overrides
        view, _ = training_runs.request(session, wanted, settings)
        job = jobs.claim(session, [training_runs.JOB_KIND], worker.name, job_id=view.job.job_id)
    assert job is not None
    finished = worker.run_claimed(job)
    assert finished.state == "succeeded", finished.error
    assert finished.result is not None
    return int(finished.result["model_version"])

"""Versions of tiny models, fitted once and stored without a training run's job."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from app.jobs import queue
from app.learning import model_file
from app.learning.configuration import TrainingConfiguration
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.training import completed, train
from app.learning.vocabulary import Vocabulary
from app.model_versions import activation, store
from app.storage.database import Database
from app.storage.tables import TrainingRun
from tests.tastes import two_tastes


def rows_of(n_users: int, movie_ids: list[str] | None = None) -> tuple[RatingRows, Vocabulary]:
    """The two tastes' ratings over all their movies, or over these."""
    batch = two_tastes(n_users=n_users)
    vocabulary = Vocabulary(movie_ids or sorted(set(batch.movie_ids)))
    columns = vocabulary.columns(batch.movie_ids)[batch.movie_codes]
    inside = columns >= 0
    rows = RatingRows.from_coordinates(
        batch.user_codes[inside],
        columns[inside],
        batch.stars[inside].astype(np.float32),
        n_users=len(batch.user_ids),
        n_movies=len(vocabulary),
    )
    return rows, vocabulary


def fitted(rows: RatingRows, vocabulary: Vocabulary, **settings: Any) -> TrainedModel:
    """A model that has learned the two tastes, unless the settings prevent it."""
    configuration = TrainingConfiguration.from_dict({"epochs": 10, "hidden_units": 5} | settings)
    return completed(train(rows, vocabulary, configuration))


def add_version(
    database: Database,
    model: TrainedModel,
    *,
    active: bool = True,
    outcome: str = "activated",
    metrics: dict[str, Any] | None = None,
) -> int:
    """Store a version as a training run would; return its number."""
    with database.writing() as session:
        job = queue.enqueue(session, "stored", {}).job  # of a kind that no worker knows
        run = TrainingRun(job_id=job.job_id, overrides={}, created_at=datetime.now(UTC))
        session.add(run)
        session.flush()
        row = store.add(
            session,
            model,
            model_file.dump(model),
            run_id=run.run_id,
            trained_user_keys=np.arange(1, 4),
            metrics=metrics or {},
            verdict={"outcome": outcome, "words": "0.3 against 0.2"},
        )
        if active:
            activation.activate(session, row.version, force=True, cause="gate")
        return row.version

"""Small seeded data with an obvious answer, and a loop that drains the training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.learning.configuration import TrainingConfiguration
from app.learning.epoch_reports import EpochReport
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.training import Report, completed, train
from app.learning.vocabulary import Vocabulary

N_MOVIES = 60
SCIENCE_FICTION = np.arange(0, 20)
ROMANCE = np.arange(20, 40)
DRAMA = np.arange(40, 60)


def two_camps(n_users: int = 120, seed: int = 0) -> RatingRows:
    """Raters who like science fiction or romance, dislike the other, see some drama."""
    rng = np.random.default_rng(seed)
    users, movies, stars = [], [], []
    for user in range(n_users):
        loved, hated = (SCIENCE_FICTION, ROMANCE) if user % 2 else (ROMANCE, SCIENCE_FICTION)
        for genre, n, low, high in ((loved, 10, 4, 5), (hated, 2, 1, 2), (DRAMA, 4, 2, 5)):
            chosen = rng.choice(genre, n, replace=False)
            users += [user] * n
            movies += chosen.tolist()
            stars += rng.integers(low, high + 1, n).tolist()
    return RatingRows.from_coordinates(users, movies, stars, n_users, N_MOVIES)


def vocabulary(n_movies: int = N_MOVIES) -> Vocabulary:
    """Movie ids m0, m1, …"""
    return Vocabulary([f"m{column}" for column in range(n_movies)])


def finish(
    rows: RatingRows, configuration: TrainingConfiguration | None = None, **how: Any
) -> tuple[TrainedModel, list[EpochReport]]:
    """Train to the end, with `train`'s keyword arguments: model and epoch reports."""
    training = train(rows, vocabulary(rows.n_movies), configuration or TrainingConfiguration(), **how)
    reports: list[EpochReport] = []

    def note(report: Report) -> None:
        if isinstance(report, EpochReport):
            reports.append(report)

    return completed(training, note), reports


def ml_100k() -> RatingRows:
    """MovieLens 100K, or a skipped test where it is absent."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "ml-100k"
    folder = Path(os.environ["HARMONIUM_TEST_DATA"]) if "HARMONIUM_TEST_DATA" in os.environ else beside
    file = next((path for path in (folder / "u.data", folder / "ml-100k" / "u.data") if path.exists()), None)
    if file is None:
        pytest.skip(f"no u.data in {folder}; set HARMONIUM_TEST_DATA to the folder of MovieLens 100K")
    table = np.loadtxt(file, dtype=np.int64)
    users, rows = np.unique(table[:, 0], return_inverse=True)
    movies, columns = np.unique(table[:, 1], return_inverse=True)
    return RatingRows.from_coordinates(rows, columns, table[:, 2], users.size, movies.size)

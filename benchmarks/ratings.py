"""Ratings of a file, and models trained with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.learning.configuration import TrainingConfiguration
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.training import completed, train
from app.learning.vocabulary import Vocabulary

RELEVANT_AT_LEAST = 4.0  # stars


def read(path: Path) -> RatingRows:
    """The ratings of a file like u.data, users and movies in order of their numbers.

    That order decides what a seed splits: the splits of docs/experiments.md are of this
    one.
    """
    users, movies, stars = np.loadtxt(path, usecols=(0, 1, 2)).T
    (of_users, user), (of_movies, movie) = (np.unique(ids, return_inverse=True) for ids in (users, movies))
    return RatingRows.from_coordinates(user, movie, stars, of_users.size, of_movies.size)


def trained(rows: RatingRows, configuration: TrainingConfiguration) -> TrainedModel:
    """The model of a whole fit, with the column numbers as movie ids."""
    vocabulary = Vocabulary([str(column) for column in range(rows.n_movies)])
    return completed(train(rows, vocabulary, configuration))

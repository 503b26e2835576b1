"""Where movies lie to one another, by one model.

Two pictures of a movie, each computed once and kept as long as the model is: its
weights, and the state of the hidden units, binary and leading linear ones, of a user
who loves that movie alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from app.learning.boltzmann.linear_units import LEADING
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel

LOVED = 1_000.0  # stars; above every threshold
LEADING_SHARE = 0.5  # weight of the cosine by the leading linear units beside that by the binary ones
# How much of the popularity score, log-odds, is added to a similarity. Likeness alone
# finds the alike, and movies that hardly any user knows among them (measured in
# docs/benchmarks.md).
POPULARITY_SHARE = 1 / 6

Matrix = NDArray[np.float32]

_lock = threading.Lock()
_pictures: WeakKeyDictionary[TrainedModel, dict[str, Matrix]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Neighbours:
    """How near every movie is to one movie.

    Attributes:
        similarity: float32 of shape (n_movies,), a weighted mean of two cosines, from
            -1 to 1.
        score: float32 of shape (n_movies,), what neighbours are ranked by: similarity,
            a little popularity.
    """

    similarity: Matrix
    score: Matrix


def neighbours(model: TrainedModel, column: int) -> Neighbours:
    """Compare a movie with every other by the users who love them.

    A movie's picture is the hidden layer of a user who loves it and has rated nothing
    else: its binary units, minus the mean of these layers over all ratings of the
    training, and beside them, half as heavy, its leading linear units. The similarity
    is the cosine of two pictures.

    Args:
        model: what the hidden layer is that of.
        column: the movie's column.
    """
    pictures = _kept(model, "hidden", _unit_hidden)
    similarity = pictures @ pictures[column]
    score = similarity + np.float32(POPULARITY_SHARE) * model.popularity_scores
    return Neighbours(similarity, score)


def unit_vectors(model: TrainedModel) -> Matrix:
    """Every movie's vector of weights, of length 1: float32 (n_movies, d)."""
    return _kept(model, "weights", lambda of: normalised(of.movie_vectors()))


def normalised(vectors: NDArray[np.floating]) -> Matrix:
    """Rows scaled to length 1, shape (n, d); a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def _unit_hidden(model: TrainedModel) -> Matrix:
    n = model.n_movies
    alone = RatingRows(np.arange(n + 1), np.arange(n, dtype=np.int32), np.full(n, LOVED, np.float32), n)
    hidden = model.fold_in(alone).hidden
    weight = model.popularity / max(int(model.popularity.sum()), 1)
    binary = normalised(hidden - (weight @ hidden).astype(np.float32))
    # Of a row with one movie the linear units are its weights, times a number.
    linear = normalised(model.linear.weights[:, :LEADING])
    if not linear.shape[1]:
        return binary
    share = LEADING_SHARE / (1 + LEADING_SHARE)
    return np.concatenate((np.sqrt(1 - share) * binary, np.sqrt(share) * linear), axis=1, dtype=np.float32)


def _kept(model: TrainedModel, name: str, compute: Callable[[TrainedModel], Matrix]) -> Matrix:
    with _lock:  # so that two requests at once do not both compute, and both hold, the same matrix
        pictures = _pictures.setdefault(model, {})
        if name not in pictures:
            pictures[name] = compute(model)
        return pictures[name]

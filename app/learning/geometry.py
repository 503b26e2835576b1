"""Where movies lie to one another, by the machines of one version.

Two pictures of a movie, each computed once a version and kept as long as its machines are: its weights, and
what somebody who loves that movie alone looks like to the hidden units, binary and leading linear ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from app.learning.linear_units import LEADING
from app.learning.machines import Machines
from app.learning.preferences import RatingRows

LOVED = 1_000.0  # stars; above every threshold
LEADING_SHARE = 0.5  # weight of the cosine by the leading linear units beside that by the binary ones
# How much of the popularity score, log-odds, is added to a similarity. Likeness alone finds the alike, and
# movies that hardly anybody knows among them (measured in docs/benchmarks.md).
POPULARITY_SHARE = 1 / 6

Matrix = NDArray[np.float32]

_lock = threading.Lock()
_pictures: WeakKeyDictionary[Machines, dict[str, Matrix]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Neighbours:
    """How near every movie is to one movie.

    Attributes:
        similarity: float32 of shape (n_movies,), a weighted mean of two cosines, from -1 to 1.
        score: float32 of shape (n_movies,), what neighbours are ranked by: similarity, a little popularity.
    """

    similarity: Matrix
    score: Matrix


def neighbours(machines: Machines, column: int) -> Neighbours:
    """Compare a movie with every other by whom it calls to mind.

    A movie's picture is the hidden layer of somebody who loves it and has rated nothing else: its binary
    units, minus the mean of these layers over all ratings of the training, and beside them, half as heavy,
    its leading linear units. The similarity is the cosine of two pictures.

    Args:
        machines: what the hidden layer is that of.
        column: the movie's column.
    """
    pictures = _kept(machines, "hidden", _unit_hidden)
    similarity = pictures @ pictures[column]
    score = similarity + np.float32(POPULARITY_SHARE) * machines.popularity_scores()
    return Neighbours(similarity, score)


def unit_vectors(machines: Machines) -> Matrix:
    """Every movie's vector of weights, scaled to length 1: float32 of shape (n_movies, d)."""
    return _kept(machines, "weights", lambda these: normalised(these.movie_vectors()))


def normalised(vectors: NDArray[np.floating]) -> Matrix:
    """Rows scaled to length 1, shape (n, d); a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)


def _unit_hidden(machines: Machines) -> Matrix:
    n = machines.n_movies
    alone = RatingRows(np.arange(n + 1), np.arange(n, dtype=np.int32), np.full(n, LOVED, np.float32), n)
    hidden = machines.fold_in(alone)
    weight = machines.popularity / max(int(machines.popularity.sum()), 1)
    binary = normalised(hidden - (weight @ hidden).astype(np.float32))
    # Of a row with one movie the linear units are its weights, times a number.
    linear = normalised(machines.linear.weights[:, :LEADING])
    if not linear.shape[1]:
        return binary
    share = LEADING_SHARE / (1 + LEADING_SHARE)
    return np.concatenate((np.sqrt(1 - share) * binary, np.sqrt(share) * linear), axis=1, dtype=np.float32)


def _kept(machines: Machines, name: str, compute: Callable[[Machines], Matrix]) -> Matrix:
    with _lock:  # so that two requests at once do not both compute, and both hold, the same matrix
        pictures = _pictures.setdefault(machines, {})
        if name not in pictures:
            pictures[name] = compute(machines)
        return pictures[name]

"""Ratings, stored or given in a request, as rows over a version's vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from sqlalchemy.orm import Session

from app import ratings
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import LITTLE_EVIDENCE

Strategy = Literal["rbm", "blended", "popular"]

Stars = Mapping[str, float]
"""Movie id -> stars of one person."""


@dataclass(frozen=True)
class Profiles:
    """Several people's ratings, ready to fold in.

    Attributes:
        rows: over the columns of a version's vocabulary.
        ignored: of each person, the ids of rated movies that the vocabulary lacks.
    """

    rows: RatingRows
    ignored: list[list[str]]

    @property
    def strategies(self) -> list[Strategy]:
        """Of each person, how their list is made: by how many ratings can be folded in."""
        return [strategy_of(int(length)) for length in self.rows.lengths]


def of_users(session: Session, user_ids: Sequence[str]) -> dict[str, dict[str, float]]:
    """The stored ratings of each user in one query; nothing for a user whom nobody has heard of."""
    found = ratings.of_users(session, list(dict.fromkeys(user_ids)))
    return {user_id: dict(rated) for user_id, rated in found.items()}


def of_user(session: Session, user_id: str) -> dict[str, float]:
    """The stored ratings of one user."""
    return of_users(session, [user_id])[user_id]


def folded(machines: Machines, people: Sequence[Stars]) -> Profiles:
    """Everybody's ratings as rows, in the order given."""
    if len(people) == 1:
        return _folded_alone(machines, people[0])
    lengths = np.fromiter((len(stars) for stars in people), np.int64, len(people))
    movie_ids = [movie_id for stars in people for movie_id in stars]
    values = np.fromiter((value for stars in people for value in stars.values()), np.float32, len(movie_ids))
    columns = machines.vocabulary.columns(movie_ids)
    owners = np.repeat(np.arange(len(people)), lengths)
    inside = columns >= 0
    ignored: list[list[str]] = [[] for _ in people]
    for position in np.flatnonzero(~inside).tolist():
        ignored[owners[position]].append(movie_ids[position])
    if not inside.all():
        owners, columns, values = owners[inside], columns[inside], values[inside]
    # A movie is there once for each person, so the columns only have to be put in order.
    order = np.lexsort((columns, owners))
    indptr = np.concatenate(([0], np.cumsum(np.bincount(owners, minlength=len(people)))))
    rows = RatingRows(indptr, columns[order].astype(np.int32), values[order], machines.n_movies)
    return Profiles(rows, ignored)


def _folded_alone(machines: Machines, stars: Stars) -> Profiles:
    """The same for one person, which most requests are about."""
    columns = machines.vocabulary.columns(list(stars))
    values = np.array(list(stars.values()), np.float32)
    order = np.argsort(columns)
    n_outside = int(np.searchsorted(columns[order], 0))  # columns of -1 come first
    ignored: list[str] = []
    if n_outside:
        ignored = [movie_id for movie_id, column in zip(stars, columns.tolist(), strict=True) if column < 0]
        order = order[n_outside:]
    rows = RatingRows.unchecked(
        np.array([0, order.size]), columns[order].astype(np.int32), values[order], machines.n_movies
    )
    return Profiles(rows, [ignored])


def strategy_of(n_ratings: int) -> Strategy:
    """What a list made from so many ratings is called."""
    if n_ratings >= LITTLE_EVIDENCE:
        return "rbm"
    return "blended" if n_ratings else "popular"

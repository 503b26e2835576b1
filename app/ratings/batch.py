"""Ratings as they arrive, by column, and the counts of what became of them."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from app.storage.answers import Answer
from app.storage.tables import to_microseconds

UNTIMED = int(np.iinfo(np.int64).min)  # in an array of times: this rating came without one


@dataclass(frozen=True)
class Counts(Answer):
    """Outcomes of the rows received; the five sum to their number."""

    inserted: Annotated[int, Field(examples=[1])] = 0
    """Ratings of pairs that had none."""
    updated: Annotated[int, Field(examples=[0])] = 0
    """Ratings that replaced an older one."""
    unchanged: Annotated[int, Field(examples=[0])] = 0
    """Ratings that are stored already."""
    superseded: Annotated[int, Field(examples=[0])] = 0
    """Older ratings of a pair that has a newer one."""
    rejected: Annotated[int, Field(examples=[0])] = 0
    """Rows that are no valid rating."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True)
class RatingBatch:
    """Validated ratings: clean ids, finite stars within bounds."""

    user_ids: Sequence[str]
    """The users that occur, each once."""
    user_codes: NDArray[np.int64]
    """int64 (n,): positions in `user_ids`."""
    movie_ids: Sequence[str]
    """The movies that occur, each once."""
    movie_codes: NDArray[np.int64]
    """int64 (n,): positions in `movie_ids`."""
    stars: NDArray[np.float64]
    """float64 (n,)."""
    rated_at: NDArray[np.int64]
    """int64 (n,): microseconds since 1970 in UTC; `UNTIMED` for a rating without a
    time."""

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, float, datetime | None]]) -> "RatingBatch":
        """A batch of (user id, movie id, stars, aware time or None) rows."""
        users, movies, stars, times = zip(*rows, strict=True) if (rows := list(rows)) else ((),) * 4
        moments = [UNTIMED if time is None else to_microseconds(time) for time in times]
        return cls.of_columns(
            users, movies, np.array(stars, dtype=np.float64), np.array(moments, dtype=np.int64)
        )

    @classmethod
    def of_columns(
        cls,
        users: Sequence[str],
        movies: Sequence[str],
        stars: NDArray[np.float64],
        rated_at: NDArray[np.int64],
    ) -> "RatingBatch":
        """A batch of columns, with one user id and one movie id a rating."""
        return cls(*_coded(users), *_coded(movies), stars, rated_at)

    def __len__(self) -> int:
        return len(self.stars)


def _coded(ids: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Each id once, and the position of every id among them, int64 (n,)."""
    positions: dict[str, int] = {}
    codes = [positions.setdefault(id_, len(positions)) for id_ in ids]
    return list(positions), np.array(codes, dtype=np.int64)

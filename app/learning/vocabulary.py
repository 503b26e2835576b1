"""The order of the movies: the movie id of each column."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray


class Vocabulary:
    """An immutable, ordered set of movie ids; the id at position j names column j.

    Args:
        movie_ids: the ids, in the order of the columns. An id that occurs twice is a
            ValueError.
    """

    __slots__ = ("_column_of", "_movie_ids")

    def __init__(self, movie_ids: Sequence[str]) -> None:
        self._movie_ids = tuple(movie_ids)
        self._column_of = {movie_id: column for column, movie_id in enumerate(self._movie_ids)}
        if len(self._column_of) != len(self._movie_ids):
            repeated = next(
                movie_id
                for column, movie_id in enumerate(self._movie_ids)
                if self._column_of[movie_id] != column
            )
            raise ValueError(f"movie id {repeated!r} occurs more than once in the vocabulary")

    @property
    def movie_ids(self) -> tuple[str, ...]:
        """The ids in the order of their columns."""
        return self._movie_ids

    def columns(self, movie_ids: Sequence[str]) -> NDArray[np.int64]:
        """The column of each id, -1 where the id is unknown.

        Args:
            movie_ids: n ids in any order, repeated or not.

        Returns:
            int64 array of shape (n,).
        """
        columns = map(self._column_of.get, movie_ids, repeat(-1))
        return np.fromiter(columns, dtype=np.int64, count=len(movie_ids))

    def __len__(self) -> int:
        return len(self._movie_ids)

    def __contains__(self, movie_id: object) -> bool:
        return movie_id in self._column_of

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return self._movie_ids == other._movie_ids

    def __hash__(self) -> int:
        return hash(self._movie_ids)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} movies)"

"""One user's ratings, folded in once for all that a list asks of them.

A list asks the same machines about many rows that are nearly one: all ratings for the ranking, parts of them
drawn at random for the confidence, all but one for the reasons. What each rating adds to the hidden units is
the same in all of these, so it is looked up once, and the rows are sums of it. The scores are those that
`Machines.blended_scores` gives for the same rows, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from app.learning.linear_units import FOLD_IN_POWER
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import blended
from app.learning.rbm import sigmoid

Matrix = NDArray[np.float32]
Columns = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class FoldedIn:
    """Ratings and what each of them adds.

    Attributes:
        machines: what they are folded into.
        columns: the rated movies, shape (n,).
        stars: float32 of shape (n,).
        grades: what the stars count, float32 of shape (n,).
        additions: what each rating adds to the input of the binary hidden units, before the scale by length;
            float32 of shape (n, n_hidden).
    """

    machines: Machines
    columns: NDArray[np.int32]
    stars: Matrix
    grades: Matrix
    additions: Matrix

    @classmethod
    def of(cls, machines: Machines, row: RatingRows) -> Self:
        """The ratings of one user; an empty row is allowed."""
        if row.n_users != 1:
            raise ValueError(f"the ratings of one user can be folded in here, not those of {row.n_users}")
        return cls.of_ratings(machines, row.indices, row.stars)

    @classmethod
    def of_ratings(cls, machines: Machines, columns: NDArray[np.int32], stars: Matrix) -> Self:
        """Any ratings; a movie may be there several times, in no order, where only parts are asked about."""
        grades = machines.grading.grades(stars)
        return cls(machines, columns, stars, grades, machines.hidden_additions(columns, stars))

    @property
    def n_ratings(self) -> int:
        """Number of ratings."""
        return self.columns.size

    def blended_scores(self) -> Matrix:
        """What lists are made from, of all movies, by all ratings: float32 of shape (n_movies,)."""
        machines, lengths = self.machines, np.array([self.n_ratings])
        hidden = self._hidden(self.additions.sum(axis=0)[None], lengths)[0]
        inputs = machines.rbm.weights @ hidden
        inputs += machines.rbm.visible_bias
        scores: Matrix = machines.design.scores(inputs[None])[0].astype(np.float32, copy=False)
        if machines.linear.n_units and self.n_ratings:
            scale = machines.configuration.linear_strength * self._linear_scale(lengths)[0]
            scores += machines.pairs.towards_all(self.columns, self.grades * np.float32(scale))
        return blended(scores, machines.popularity_scores(), self.n_ratings)

    def of_parts(
        self,
        parts: NDArray[np.bool_],
        columns: Columns,
        others: FoldedIn | None = None,
        of_others: NDArray[np.bool_] | None = None,
        as_long_as: int | None = None,
    ) -> Matrix:
        """The same of a few movies, by parts of the ratings alone, and of another's beside them.

        Args:
            parts: which ratings each part holds, shape (k, n); none holds a movie twice.
            columns: m movies in question.
            others: more ratings, n2 of them.
            of_others: which of those each part holds, shape (k, n2).
            as_long_as: ratings that each part stands for: each of its own counts for several, or for less
                than one. What a row says grows with its length, and so do its scores.

        Returns:
            float32 of shape (k, m).
        """
        inputs, expected, lengths = self.sums(parts, columns)
        if others is not None and of_others is not None:
            more_inputs, more_expected, more = others.sums(of_others, columns)
            inputs += more_inputs
            expected += more_expected
            lengths += more
        if as_long_as is not None:
            times = (as_long_as / np.maximum(lengths, 1)).astype(np.float32)[:, None]
            inputs *= times
            expected *= times
            lengths = np.full_like(lengths, as_long_as)
        return self._blended(inputs, expected, lengths, columns)

    def sums(self, parts: NDArray[np.bool_], columns: Columns) -> tuple[Matrix, Matrix, NDArray[np.intp]]:
        """What parts of the ratings add up to: for binary units, for asked movies by linear ones; lengths."""
        chosen = parts.astype(np.float32)
        inputs = chosen @ self.additions
        chosen *= self.grades
        return inputs, chosen @ self._pairs(columns), np.count_nonzero(parts, axis=1)

    def without_each(self, left_out: NDArray[np.integer[Any]], columns: Columns) -> Matrix:
        """The same by all ratings but one.

        Args:
            left_out: which rating is missing in each of k rows, shape (k,).
            columns: m movies in question.

        Returns:
            float32 of shape (k, m).
        """
        pairs = self._pairs(columns) * self.grades[:, None]
        return self._blended(
            self.additions.sum(axis=0) - self.additions[left_out],
            pairs.sum(axis=0) - pairs[left_out],
            np.full(left_out.size, self.n_ratings - 1),
            columns,
        )

    def _pairs(self, columns: Columns) -> Matrix:
        """What each rating's movie says of each asked one by the linear units, shape (n, m)."""
        if not self.machines.linear.n_units:
            return np.zeros((self.n_ratings, columns.size), np.float32)
        return self.machines.pairs.between(self.columns, columns)

    def _blended(
        self, inputs: Matrix, expected: Matrix, lengths: NDArray[np.integer[Any]], columns: Columns
    ) -> Matrix:
        """Scores from what k rows add up to, hidden units (k, n_hidden) and linear ones (k, m)."""
        machines = self.machines
        scores = machines.scores_of(self._hidden(inputs, lengths), columns)
        if machines.linear.n_units:
            scale = machines.configuration.linear_strength * self._linear_scale(lengths)
            scores += expected * scale.astype(np.float32)[:, None]
        return blended(scores, machines.popularity_scores()[columns], lengths)

    def _hidden(self, inputs: Matrix, lengths: NDArray[np.integer[Any]]) -> Matrix:
        inputs = inputs * self.machines.fold_in_scale(lengths)[:, None]
        inputs += self.machines.rbm.hidden_bias
        return sigmoid(inputs)

    def _linear_scale(self, lengths: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        scale: NDArray[np.float64] = (self.machines.mean_length / np.maximum(lengths, 1)) ** FOLD_IN_POWER
        return scale

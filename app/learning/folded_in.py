"""One user's ratings, folded in once for all that a list asks of them.

A list asks the same machines about many rows that are nearly one: all ratings for the ranking, parts of them
drawn at random for the confidence, all but one for the reasons. What each rating adds to the hidden units is
the same in all of these, so it is looked up once, and the rows are sums of it. The scores are those that
`Machines.blended_scores` gives for the same rows, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, cast

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

    @cached_property
    def _judged(self) -> tuple[NDArray[np.float64], Matrix]:
        """The user's bias and the hidden layer of the machine that judges; lists ask for both twice."""
        return self.machines.judge.fold_in(self._rows(np.ones((1, self.n_ratings), np.bool_)))

    def like_probability(self, columns: Columns) -> Matrix:
        """`Machines.like_probability` of m movies, by all ratings: float32 of shape (m,)."""
        judge = self.machines.judge
        log_odds = judge.location(*self._judged, columns) + judge.liked_log_odds
        probability = self.machines.calibration.probability(log_odds, np.array([self.n_ratings]))
        return cast(Matrix, probability[0])

    def blended_scores(self) -> Matrix:
        """What lists are made from, of all movies, by all ratings: float32 of shape (n_movies,)."""
        machines, lengths = self.machines, np.array([self.n_ratings])
        settings = machines.configuration
        hidden = self._hidden(self.additions.sum(axis=0)[None], lengths)[0]
        inputs = machines.rbm.weights @ hidden
        inputs += machines.rbm.visible_bias
        scores: Matrix = machines.design.scores(inputs[None])[0].astype(np.float32, copy=False)
        if machines.linear.n_units and self.n_ratings:
            scale = settings.linear_strength * self._linear_scale(lengths)[0]
            scores += machines.pairs.towards_all(self.columns, self.grades * np.float32(scale))
        if machines.weighted.n_units:
            everything = np.ones((1, self.n_ratings), np.float32)
            mean = machines.weighted.hidden_mean_of_parts(self.columns, self.grades, everything)
            scores += machines.weighted.above_mean(mean * np.float32(settings.weighted_strength))[0]
        if settings.like_strength:
            bias, judged = self._judged
            liked = machines.judge.location(np.zeros_like(bias), judged)[0]
            liked *= np.float32(settings.like_strength)
            scores += liked
        return blended(scores, machines.popularity_scores(), self.n_ratings, settings.popularity_ratings)

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
        if others is not None and of_others is not None:
            both = self._beside(others)
            return both.of_parts(np.concatenate([parts, of_others], axis=1), columns, as_long_as=as_long_as)
        machines, settings = self.machines, self.machines.configuration
        lengths = np.count_nonzero(parts, axis=1)
        times = parts.astype(np.float32)
        stands_for = lengths if as_long_as is None else np.full_like(lengths, as_long_as)
        times *= (stands_for / np.maximum(lengths, 1)).astype(np.float32)[:, None]
        weighted = machines.weighted.hidden_mean_of_parts(self.columns, self.grades, times)
        liked = None
        if settings.like_strength:
            liked = machines.judge.movie_log_odds(self._rows(parts), columns, stands_for)
        expected = cast(Matrix, (times * self.grades) @ self._pairs(columns))
        return self._blended(times @ self.additions, expected, weighted, liked, stands_for, columns)

    def without_each(self, left_out: NDArray[np.integer[Any]], columns: Columns) -> Matrix:
        """The same by all ratings but one.

        Args:
            left_out: which rating is missing in each of k rows, shape (k,).
            columns: m movies in question.

        Returns:
            float32 of shape (k, m).
        """
        machines = self.machines
        pairs = self._pairs(columns) * self.grades[:, None]
        liked = None
        if machines.configuration.like_strength:
            rest = np.arange(self.n_ratings) != left_out[:, None]
            liked = machines.judge.movie_log_odds(self._rows(rest), columns)
        return self._blended(
            self.additions.sum(axis=0) - self.additions[left_out],
            pairs.sum(axis=0) - pairs[left_out],
            machines.weighted.hidden_mean_without_each(self.columns, self.grades, left_out),
            liked,
            np.full(left_out.size, self.n_ratings - 1),
            columns,
        )

    def _beside(self, others: FoldedIn) -> FoldedIn:
        """All ratings of both."""
        return FoldedIn(
            self.machines,
            np.concatenate([self.columns, others.columns]),
            np.concatenate([self.stars, others.stars]),
            np.concatenate([self.grades, others.grades]),
            np.concatenate([self.additions, others.additions]),
        )

    def _rows(self, parts: NDArray[np.bool_]) -> RatingRows:
        """Parts of the ratings, shape (k, n), as rows, for who adds nothing up rating by rating."""
        places = np.nonzero(parts)[1]
        indptr = np.zeros(len(parts) + 1, np.int64)
        np.cumsum(np.count_nonzero(parts, axis=1), out=indptr[1:])
        return RatingRows.unchecked(indptr, self.columns[places], self.stars[places], self.machines.n_movies)

    def _pairs(self, columns: Columns) -> Matrix:
        """What each rating's movie says of each asked one by the linear units, shape (n, m)."""
        if not self.machines.linear.n_units:
            return np.zeros((self.n_ratings, columns.size), np.float32)
        return self.machines.pairs.between(self.columns, columns)

    def _blended(
        self,
        inputs: Matrix,
        expected: Matrix,
        weighted: Matrix,
        liked: Matrix | None,
        lengths: NDArray[np.integer[Any]],
        columns: Columns,
    ) -> Matrix:
        """Scores from what k rows add up to.

        Args:
            inputs: of the binary hidden units, before the scale by length, shape (k, n_hidden).
            expected: by the linear units, before the same, shape (k, m).
            weighted: means of the weighted hidden units, shape (k, n_units).
            liked: the judge's log-odds, shape (k, m), if they count.
            lengths: of the rows, shape (k,).
            columns: the m movies.
        """
        machines, settings = self.machines, self.machines.configuration
        scores = machines.scores_of(self._hidden(inputs, lengths), columns)
        if machines.linear.n_units:
            scale = settings.linear_strength * self._linear_scale(lengths)
            scores += expected * scale.astype(np.float32)[:, None]
        if machines.weighted.n_units:
            scores += machines.weighted.above_mean(weighted * np.float32(settings.weighted_strength), columns)
        if liked is not None:
            scores += liked * np.float32(settings.like_strength or 0.0)
        return blended(scores, machines.popularity_scores()[columns], lengths, settings.popularity_ratings)

    def _hidden(self, inputs: Matrix, lengths: NDArray[np.integer[Any]]) -> Matrix:
        inputs = inputs * self.machines.fold_in_scale(lengths)[:, None]
        inputs += self.machines.rbm.hidden_bias
        return sigmoid(inputs)

    def _linear_scale(self, lengths: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        scale: NDArray[np.float64] = (self.machines.mean_length / np.maximum(lengths, 1)) ** FOLD_IN_POWER
        return scale

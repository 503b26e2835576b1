"""All that serving needs of one model version: a machine that ranks and a machine that judges."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from app.learning.configuration import TrainingConfiguration
from app.learning.grading import Grading
from app.learning.judge import Judge
from app.learning.like_probability import LengthCalibration
from app.learning.linear_units import LinearUnits
from app.learning.metrics import Reliability
from app.learning.pairs import Pairs
from app.learning.preferences import RatingRows
from app.learning.ranking import blended
from app.learning.rbm import RBM, Dense, Sparse
from app.learning.visible_design import DESIGNS, VisibleDesign
from app.learning.vocabulary import Vocabulary
from app.learning.weighted_units import WeightedUnits

BLOCK_ENTRIES = 4_000_000  # visible units worked on at once; 16 MB of float32


@dataclass(frozen=True, eq=False)
class Machines:
    """A trained result, immutable; it takes anyone's ratings as `RatingRows` over its vocabulary's columns.

    Attributes:
        vocabulary: the movies, in the order of the columns.
        configuration: the resolved settings of the training run.
        rbm: the binary hidden units of the machine that ranks, and the biases.
        linear: its linear hidden units; there may be none.
        weighted: its weighted hidden units; there may be none.
        grading: what a rating counts at fold-in by its stars.
        mean_length: mean number of ratings of the users it was trained with.
        judge: log-odds of liking, given watched and rated.
        calibration: from the judge's log-odds to probabilities.
        reliability: like_probability beside what came out, of ratings held back in training.
        n_users: number of users it was trained with.
        popularity: int64 of shape (n_movies,); ratings of each movie in training.
        likes: int64 of shape (n_movies,); those that reached `configuration.rank_liked_at_least`.
    """

    vocabulary: Vocabulary
    configuration: TrainingConfiguration
    rbm: RBM
    linear: LinearUnits
    weighted: WeightedUnits
    grading: Grading
    mean_length: float
    judge: Judge
    calibration: LengthCalibration
    reliability: Reliability
    n_users: int
    popularity: NDArray[np.int64]
    likes: NDArray[np.int64]

    @property
    def liked_at_least(self) -> float:
        """Stars from which a movie counts as liked in `like_probability`."""
        return self.configuration.liked_at_least

    @property
    def n_movies(self) -> int:
        """Number of movies in the vocabulary."""
        return len(self.vocabulary)

    @property
    def n_hidden(self) -> int:
        """Number of binary hidden units of the machine that ranks."""
        return self.rbm.n_hidden

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        others = self.judge.nbytes + self.popularity.nbytes + self.likes.nbytes
        return self.rbm.nbytes + self.linear.nbytes + self.weighted.nbytes + others

    @property
    def design(self) -> VisibleDesign:
        """The visible layer of the machine that ranks."""
        return DESIGNS[self.configuration.design]

    def fold_in(self, rows: RatingRows) -> Dense:
        """The probabilities of the binary hidden units that each user's ratings give rise to.

        The visible-to-hidden input is scaled by (mean length / the user's length) ** power. The machine has
        only seen complete rows, and would read a short one as a person who turned everything else down. In
        the rated design a rating counts by its grade, so that dislikes speak against a kind of movies.

        Returns:
            float32 of shape (n_users, n_hidden).
        """
        self._check(rows)
        visible = self.grading.rows(rows) if self.configuration.design == "rated" else self._units(rows)
        return self.rbm.hidden_probability(visible, self.fold_in_scale(rows.lengths))

    def fold_in_scale(self, lengths: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """What the visible-to-hidden input of rows of these lengths is multiplied by, in their shape."""
        scale = (self.mean_length / np.maximum(lengths, 1)) ** self.configuration.fold_in_length_power
        return cast(NDArray[np.float32], scale.astype(np.float32))

    def hidden_additions(self, columns: NDArray[np.int32], stars: NDArray[np.float32]) -> NDArray[np.float32]:
        """What each of n ratings adds to the visible-to-hidden input, before the scale.

        Args:
            columns: the rated movies, shape (n,).
            stars: shape (n,).

        Returns:
            float32 of shape (n, n_hidden); the sum over a row's ratings is v W.
        """
        if self.configuration.design == "rated":
            additions = self.rbm.weights[columns]
            additions *= self.grading.grades(stars)[:, None]
        else:
            alone = RatingRows(np.arange(columns.size + 1), columns, stars, self.n_movies)
            additions = self._units(alone) @ self.rbm.weights
        return cast(NDArray[np.float32], additions)

    def scores(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """What each user's movies are ranked by; movies already rated are scored like all others.

        In the rated design it is the movie's log-odds of being rated, after fold-in: b + h W', plus what the
        linear units expect of it, plus what the weighted units reconstruct above the mean of all movies, each
        times its strength. To that come the judge's log-odds that the user likes the movie, if they rate it,
        times `like_strength`: who looks for a movie to watch wants both. Of these the part that is the same
        for all movies of a user is left out. The joint design has log P(rated) + log P(liked), the others
        log P(liked), and nothing else.

        Args:
            rows: the users' ratings; an empty row is allowed.
            columns: m movie columns; None for all. A few cost a fraction of all.

        Returns:
            float32 of shape (n_users, m or n_movies), comparable within these machines only.
        """
        self._check(rows)
        settings = self.configuration
        result = self.scores_of(self.fold_in(rows), columns)
        block = max(1, BLOCK_ENTRIES // max(self.n_movies if columns is None else len(columns), 1))
        for start in range(0, rows.n_users, block):
            chosen = slice(start, start + block)
            part = rows if rows.n_users <= block else rows.rows(np.arange(rows.n_users)[chosen])
            graded = self.grading.rows(part)
            if self.linear.n_units:
                expected = self.linear.expected(graded, self.mean_length, columns)
                expected *= np.float32(settings.linear_strength)
                result[chosen] += expected
            if self.weighted.n_units:
                hidden = self.weighted.hidden_mean(graded) * np.float32(settings.weighted_strength)
                result[chosen] += self.weighted.above_mean(hidden, columns)
            if settings.like_strength:
                liked = self.judge.movie_log_odds(part, columns)
                liked *= np.float32(settings.like_strength)
                result[chosen] += liked
        return result

    def scores_of(
        self, hidden: Dense, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """What given states of the binary hidden units say of movies, without all other units.

        Args:
            hidden: probabilities or states of the hidden units, shape (n, n_hidden), laid out as `fold_in`
                gives them.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n, m or n_movies): of what `fold_in` gives, these are the `scores` but for what
            the other hidden units and the judge add.
        """
        rbm = self.rbm if columns is None else self._part(columns)
        result = np.empty((len(hidden), self.n_movies if columns is None else len(columns)), np.float32)
        block = max(1, BLOCK_ENTRIES // max(rbm.n_visible, 1))
        for start in range(0, len(hidden), block):
            chosen = slice(start, start + block)
            result[chosen] = self.design.scores(rbm.visible_input(hidden[chosen]))
        return result

    def plain_scores(self, rows: RatingRows) -> NDArray[np.float32]:
        """The scores of the binary machine as a textbook has it, for comparison.

        Its units as they were in training, no scale by length, no other units, no judge.

        Args:
            rows: the users' ratings.

        Returns:
            float32 of shape (n_users, n_movies).
        """
        self._check(rows)
        return self.design.scores(self.rbm.visible_input(self.rbm.hidden_probability(self._units(rows))))

    def blended_scores(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """What lists are made from: `scores` and `popularity_scores`, blended by each user's evidence.

        Args:
            rows: the users' ratings; an empty row is allowed.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n_users, m or n_movies).
        """
        popularity = self.popularity_scores()
        if columns is not None:
            popularity = popularity[columns]
        return blended(
            self.scores(rows, columns), popularity, rows.lengths, self.configuration.popularity_ratings
        )

    def movie_vectors(self) -> Dense:
        """What a movie means to the hidden units: the weights of all its units side by side.

        Returns:
            float32 of shape (n_movies, d); d depends on the design and on the number of hidden units.
        """
        units = self.rbm.weights.reshape(-1, self.n_movies, self.rbm.n_hidden)
        vectors: Dense = np.concatenate(list(units), axis=1)
        return vectors

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """P(stars >= liked_at_least), calibrated, given that the user watches and rates the movie.

        Args:
            rows: the users' ratings; an empty row gives the average user's answer.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n_users, m or n_movies).
        """
        self._check(rows)
        return self.calibration.probability(self.judge.log_odds(rows, columns), rows.lengths)

    @cached_property
    def pairs(self) -> Pairs:
        """What one movie says about another by the linear units; see there what is kept of it."""
        return Pairs(self.linear)

    @cached_property
    def of_watching(self) -> Machines:
        """These machines with scores that only say what is likely to be rated, however it is liked."""
        return replace(self, configuration=replace(self.configuration, like_strength=0.0))

    def popularity_scores(self) -> NDArray[np.float32]:
        """What movies are ranked by when nothing is known of a user, shape (n_movies,).

        By the shares of all users: the log-odds of rated, and half as heavily those of liked, in the rated
        design; log P(liked) in the positive one, log P(rated) + log P(liked) in the others. That is on the
        scale of what a machine without any weights says.
        """
        return self._popularity_scores

    @cached_property
    def _popularity_scores(self) -> NDArray[np.float32]:
        """Worked out once: every list is blended with them."""
        result = self.design.popularity_scores(self.popularity, self.likes, self.n_users).astype(np.float32)
        result.flags.writeable = False
        return result

    def _units(self, rows: RatingRows) -> Sparse:
        """The rows as visible units in training have it."""
        threshold = self.configuration.rank_liked_at_least
        assert threshold is not None  # noqa: S101 - for mypy: training resolves it
        return self.design.units(rows.preferences(threshold))

    def _part(self, columns: NDArray[np.integer[Any]]) -> RBM:
        """The machine that ranks without the visible units of all other movies."""
        units = np.arange(0, self.rbm.n_visible, self.n_movies)[:, None] + np.asarray(columns, np.int64)
        kept = units.ravel()
        return RBM(self.rbm.weights[kept], self.rbm.visible_bias[kept], self.rbm.hidden_bias)

    def _check(self, rows: RatingRows) -> None:
        if rows.n_movies != self.n_movies:
            raise ValueError(f"the rows have {rows.n_movies} movies, the vocabulary has {self.n_movies}")

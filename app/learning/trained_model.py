"""A trained model, and rows of ratings folded into it: the scores of movies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.learning.boltzmann.linear_units import FOLD_IN_POWER, LinearUnits
from app.learning.boltzmann.rbm import RBM, Dense, Sparse, sigmoid
from app.learning.boltzmann.visible_design import DESIGNS, VisibleDesign
from app.learning.boltzmann.weighted_units import WeightedUnits
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation.metrics import Reliability
from app.learning.likes.calibration import LengthCalibration
from app.learning.likes.ordinal_rbm import LikeState, OrdinalRBM
from app.learning.rating_matrix import RatingRows
from app.learning.row_batch import RowBatch
from app.learning.star_weights import StarWeights
from app.learning.vocabulary import Vocabulary

BLOCK_ENTRIES = 4_000_000  # scores, or states of units, worked on at once; 16 MB of float32


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained result, immutable, over its vocabulary's columns.

    A row of ratings has a state of hidden units, and a movie has a vector of weights;
    see `FoldedIn.scores` for how they make a score.
    """

    vocabulary: Vocabulary
    """The movies, in the order of the columns."""
    configuration: TrainingConfiguration
    """The resolved settings of the training run."""
    rbm: RBM
    """The binary hidden units, and the biases of the visible ones."""
    linear: LinearUnits
    """Linear hidden units; there may be none."""
    weighted: WeightedUnits
    """Weighted hidden units; there may be none."""
    star_weights: StarWeights
    """What a rating counts at fold-in by its stars."""
    mean_length: float
    """Mean number of ratings of the users it was trained with."""
    like_model: OrdinalRBM
    """Log-odds of liking a movie that is watched and rated."""
    calibration: LengthCalibration
    """From the like model's log-odds to probabilities."""
    reliability: Reliability
    """like_probability beside what came out, of ratings held back in training."""
    n_users: int
    """Number of users it was trained with."""
    popularity: NDArray[np.int64]
    """Ratings of each movie in training, shape (n_movies,)."""
    likes: NDArray[np.int64]
    """Ratings that reached `configuration.rank_liked_at_least`, shape (n_movies,)."""

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
        """Number of binary hidden units."""
        return self.rbm.n_hidden

    @property
    def nbytes(self) -> int:
        """Memory that the model file's arrays take, in bytes."""
        others = self.like_model.nbytes + self.popularity.nbytes + self.likes.nbytes
        return self.rbm.nbytes + self.linear.nbytes + self.weighted.nbytes + others

    @property
    def design(self) -> VisibleDesign:
        """The visible layer of the binary units."""
        return DESIGNS[self.configuration.design]

    def fold_in(self, rows: RatingRows, lengths: NDArray[np.integer[Any]] | None = None) -> FoldedIn:
        """The rows in the hidden units of this model.

        Args:
            rows: n rows; a row may be empty.
            lengths: shape (n,); for how many ratings like its own each row stands.
                None: for its own.
        """
        return FoldedIn(self, rows, lengths)

    def scores(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """`FoldedIn.scores` block by block, so that memory stays bounded.

        Args:
            rows: n rows of ratings.
            columns: m distinct movie columns; None for all.

        Returns:
            float32 of shape (n, m or n_movies).
        """
        n_columns = self.n_movies if columns is None else len(columns)
        block = max(1, BLOCK_ENTRIES // max(n_columns, self.vectors.shape[1], self.n_hidden))
        if rows.n_users <= block:
            return self.fold_in(rows).scores(columns)
        result = np.empty((rows.n_users, n_columns), np.float32)
        for start in range(0, rows.n_users, block):
            numbers = np.arange(start, min(start + block, rows.n_users))
            result[numbers] = self.fold_in(rows.rows(numbers)).scores(columns)
        return result

    def binary_scores(self, hidden: Dense, columns: NDArray[np.integer[Any]] | None = None) -> Dense:
        """Scores by states of the binary units: the design's scores of h W' + b.

        Args:
            hidden: probabilities or states of the binary units, shape (n, n_hidden).
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n, m or n_movies).
        """
        rbm = self.rbm
        if columns is not None:
            units = np.arange(0, rbm.n_visible, self.n_movies)[:, None] + np.asarray(columns, np.int64)
            kept = units.ravel()
            rbm = RBM(rbm.weights[kept], rbm.visible_bias[kept], rbm.hidden_bias)
        return self.design.scores(rbm.visible_input(hidden))

    def plain_scores(self, rows: RatingRows) -> NDArray[np.float32]:
        """The scores of the binary units as a textbook has them, for comparison.

        The units as they were in training, no scale by length, no other units, no
        popularity prior.

        Args:
            rows: the users' ratings.

        Returns:
            float32 of shape (n_users, n_movies).
        """
        return self.binary_scores(self.rbm.hidden_probability(self.units(rows)))

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """Calibrated P(stars >= liked_at_least) of a movie that the user rates.

        Args:
            rows: the users' ratings; an empty row gives the average user's answer.
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n_users, m or n_movies).
        """
        return self.fold_in(rows).like_probability(columns)

    def units(self, rows: RatingRows) -> Sparse:
        """The rows as visible units in training, CSR of shape (n_users, n_visible)."""
        threshold = self.configuration.rank_liked_at_least
        assert threshold is not None  # noqa: S101 - for mypy: training resolves it
        return self.design.units(rows.preferences(threshold))

    def movie_vectors(self) -> Dense:
        """A movie to the binary units: all its visible units' weights side by side.

        Returns:
            float32 of shape (n_movies, d); d depends on the design and on the number of
            hidden units.
        """
        units = self.rbm.weights.reshape(-1, self.n_movies, self.rbm.n_hidden)
        vectors: Dense = np.concatenate(list(units), axis=1)
        return vectors

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Every movie's vector: weights to all but the binary units, times strengths.

        Side by side: linear units, weighted units, and the like model's, with the
        movie's bias as the weight of a last unit that is always 1.

        Returns:
            float32 of shape (n_movies, n_units).
        """
        settings = self.configuration
        parts = [
            settings.linear_strength * self.linear.vectors(),
            settings.weighted_strength * self.weighted.vectors(),
        ]
        if settings.like_strength:
            parts.append(settings.like_strength * self.like_model.vectors())
        return _constant(np.concatenate(parts, axis=1, dtype=np.float32))

    @property
    def n_expecting(self) -> int:
        """Number of units, the first of `vectors`, about what a user will rate."""
        return self.linear.n_units + self.weighted.n_units

    @cached_property
    def self_coupling(self) -> NDArray[np.float32]:
        """A rating's part in its own movie's linear score, at weight 1, (n_movies,)."""
        linear = self.vectors[:, : self.linear.n_units]
        return _constant(np.einsum("mj,mj->m", self.linear.weights, linear))

    @cached_property
    def popularity_scores(self) -> NDArray[np.float32]:
        """What movies are ranked by when nothing is known of a user, shape (n_movies,).

        By the shares of all users: the log-odds of rated, and half as heavily those of
        liked, in the rated design; log P(rated) + log P(liked) in the others. That is
        on the scale of what the binary units say without any weights.
        """
        popularity = self.design.popularity_scores(self.popularity, self.likes, self.n_users)
        return _constant(popularity.astype(np.float32))


@dataclass(frozen=True, eq=False)
class FoldedIn:
    """A batch of rows in a model's hidden units; each kind of units is computed once.

    Attributes:
        model: what the ratings are folded into.
        rows: n rows; a row may be empty.
        lengths: shape (n,); for how many ratings like its own each row stands. None:
            for its own.
    """

    model: TrainedModel
    rows: RatingRows
    lengths: NDArray[np.integer[Any]] | None = None

    def __post_init__(self) -> None:
        if self.rows.n_movies != self.model.n_movies:
            raise ValueError(
                f"the rows have {self.rows.n_movies} movies, the vocabulary has {self.model.n_movies}"
            )

    @cached_property
    def hidden(self) -> Dense:
        """P(h = 1 | row) of the binary units, float32 of shape (n, n_hidden).

        The input is scaled by (mean length / the row's length) ** power. In the rated
        design a rating counts by its star weight, so that dislikes speak against a kind
        of movies.
        """
        model, batch = self.model, self._batch
        if model.configuration.design == "rated":
            hidden = batch.times(self._star_weights, model.rbm.weights)
        else:
            units = model.units(self.rows)
            hidden = RowBatch(units, model.rbm.n_visible).times(units.data, model.rbm.weights)
        hidden *= batch.scale(model.mean_length, model.configuration.fold_in_length_power)[:, None]
        hidden += model.rbm.hidden_bias
        return sigmoid(hidden)

    @cached_property
    def state(self) -> Dense:
        """States of all but the binary units side by side, as `TrainedModel.vectors`.

        Returns:
            float32 of shape (n, n_units).
        """
        model = self.model
        parts = [
            model.linear.state(self._batch, self._star_weights, model.mean_length),
            model.weighted.state(self._batch, self._star_weights),
        ]
        if model.configuration.like_strength:
            parts += [self._liking.active, np.ones((self.rows.n_users, 1), np.float32)]
        return np.concatenate(parts, axis=1)

    def scores(
        self, columns: NDArray[np.integer[Any]] | None = None, *, of_watching: bool = False
    ) -> NDArray[np.float32]:
        """The scores that rank movies; rated movies are scored like all others.

            score_i = w (binary_i(h) + state·vector_i - own_i) + (1 - w) popularity_i

        with w = n / (n + popularity ratings) for a row of n ratings: what the binary
        units say by the design (log-odds of rated, or log-probabilities), what all
        other units expect, less what a rated movie says of itself by the linear units,
        blended with the popularity prior. Both sides are log-odds or log-probabilities,
        so this is a geometric mean of odds or of probabilities.

        Args:
            columns: m distinct movie columns; None for all. A few cost a fraction of
                all.
            of_watching: leave out how the user will like the movie, and say only how
                likely they rate it.

        Returns:
            float32 of shape (n, m or n_movies), comparable within one model.
        """
        model = self.model
        vectors = model.vectors if columns is None else model.vectors[columns]
        n_units = model.n_expecting if of_watching else vectors.shape[1]
        scores = model.binary_scores(self.hidden, columns)
        scores += self.state[:, :n_units] @ vectors[:, :n_units].T
        self._take_own_away(scores, columns)
        n = self._batch.lengths
        weight = n / np.maximum(n + model.configuration.popularity_ratings, 1e-9)  # 0 of 0: popularity alone
        popularity = model.popularity_scores if columns is None else model.popularity_scores[columns]
        scores *= weight.astype(np.float32)[:, None]
        scores += (1 - weight).astype(np.float32)[:, None] * popularity
        return scores

    def like_probability(self, columns: NDArray[np.integer[Any]] | None = None) -> NDArray[np.float32]:
        """Calibrated P(stars >= liked_at_least) of a movie that the user rates.

        Args:
            columns: m movie columns; None for all.

        Returns:
            float32 of shape (n, m or n_movies).
        """
        log_odds = self.model.like_model.log_odds(self._liking, columns)
        return self.model.calibration.probability(log_odds, self._batch.lengths)

    @cached_property
    def _batch(self) -> RowBatch:
        return RowBatch(self.rows, self.rows.n_movies, self.lengths)

    @cached_property
    def _star_weights(self) -> NDArray[np.float32]:
        """The weight of each rating, shape (n_ratings,)."""
        return self.model.star_weights.weights(self.rows.stars)

    @cached_property
    def _liking(self) -> LikeState:
        return self.model.like_model.fold_in(self._batch, self.rows.stars)

    def _take_own_away(self, scores: Dense, columns: NDArray[np.integer[Any]] | None) -> None:
        """Subtract in place each rated movie's own part in its linear score."""
        batch, movies = self._batch, self.rows.indices
        if not self.model.linear.n_units:
            return
        own = self._star_weights * self.model.self_coupling[movies]
        own *= batch.scale(self.model.mean_length, FOLD_IN_POWER)[batch.owners]
        if columns is None:
            scores[batch.owners, movies] -= own
            return
        places = np.full(self.model.n_movies, -1)
        places[columns] = np.arange(len(columns))
        places = places[movies]
        listed = places >= 0
        scores[batch.owners[listed], places[listed]] -= own[listed]


def _constant(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array, from now on read-only."""
    array.flags.writeable = False
    return array

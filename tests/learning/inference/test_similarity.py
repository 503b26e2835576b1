"""A movie's neighbours are of its kind; caches go when their models go."""

import gc

import numpy as np
from numpy.typing import NDArray

from app.learning.boltzmann.linear_units import LEADING
from app.learning.configuration import TrainingConfiguration
from app.learning.inference import similarity as geometry
from app.learning.inference.ranking import top
from app.learning.inference.similarity import (
    LEADING_SHARE,
    LOVED,
    POPULARITY_SHARE,
    neighbours,
    normalised,
    unit_vectors,
)
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from tests.learning.tastes import N_MOVIES, ROMANCE, SCIENCE_FICTION, finish, two_camps


def test_neighbours_of_science_fiction_are_science_fiction(trained: TrainedModel) -> None:
    for column in (0, 12, 25, 33):
        own = SCIENCE_FICTION if column in SCIENCE_FICTION else ROMANCE
        allowed = np.arange(N_MOVIES) != column
        assert np.isin(top(neighbours(trained, column).score, 10, allowed), own).sum() >= 9


def test_similarity_is_the_cosine_of_what_two_lovers_call_to_mind(trained: TrainedModel) -> None:
    def loved(column: int) -> NDArray[np.float32]:
        hidden: NDArray[np.float32] = trained.fold_in(RatingRows.single([column], [LOVED], N_MOVIES)).hidden[
            0
        ]
        return hidden

    def picture(column: int) -> NDArray[np.float64]:
        hidden: NDArray[np.float64] = loved(column) - mean
        return hidden

    weight = trained.popularity / trained.popularity.sum()
    everyone = [loved(column) for column in range(N_MOVIES)]
    mean = weight @ np.array(everyone, dtype=np.float64)
    one, other = picture(3), picture(17)
    binary = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    one, other = (trained.linear.weights[column, :LEADING].astype(np.float64) for column in (3, 17))
    linear = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    expected = (binary + LEADING_SHARE * linear) / (1 + LEADING_SHARE)
    result = neighbours(trained, 3)
    np.testing.assert_allclose(result.similarity[17], expected, rtol=1e-4)
    np.testing.assert_allclose(result.similarity[3], 1.0, rtol=1e-5)
    np.testing.assert_allclose(neighbours(trained, 17).similarity[3], result.similarity[17], rtol=1e-5)
    np.testing.assert_allclose(
        result.score - result.similarity, POPULARITY_SHARE * trained.popularity_scores, atol=1e-5
    )


def test_without_linear_units_the_binary_ones_tell_alone() -> None:
    model, _ = finish(two_camps(), TrainingConfiguration(linear_units=0))
    result = neighbours(model, 3)
    np.testing.assert_allclose(result.similarity[3], 1.0, rtol=1e-5)
    assert np.isin(top(result.score, 10, np.arange(N_MOVIES) != 3), SCIENCE_FICTION).sum() >= 9


def test_unit_vectors_point_where_the_weights_do(trained: TrainedModel) -> None:
    vectors = unit_vectors(trained)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    raw = trained.movie_vectors()[7]
    np.testing.assert_allclose(vectors[7], raw / np.linalg.norm(raw), rtol=1e-5)
    assert unit_vectors(trained) is vectors


def test_a_row_of_zeros_stays_one() -> None:
    np.testing.assert_array_equal(normalised(np.zeros((1, 3))), np.zeros((1, 3)))


def test_pictures_go_with_their_models() -> None:
    model, _ = finish(two_camps(), TrainingConfiguration(epochs=1))
    unit_vectors(model)
    neighbours(model, 0)
    assert model in geometry._pictures
    before = len(geometry._pictures)
    del model
    gc.collect()
    assert len(geometry._pictures) == before - 1

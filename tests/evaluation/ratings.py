"""Ratings for the tests of evaluations: two tastes, short rows and long ones."""

import numpy as np

from app.catalogue.movies import MovieEntry
from app.evaluation.rating_file import RatingData
from app.learning.rating_matrix import RatingRows
from app.learning.vocabulary import Vocabulary
from app.ratings.batch import UNTIMED
from tests.tastes import two_tastes


def tastes(movies: dict[str, MovieEntry] | None = None) -> RatingData:
    """The ratings of `two_tastes`: 60 users with 12 ratings each of 30 movies."""
    batch = two_tastes()
    movie_ids = sorted(batch.movie_ids)
    columns = np.array([movie_ids.index(movie_id) for movie_id in batch.movie_ids])[batch.movie_codes]
    stars = batch.stars.astype(np.float32)
    rows = RatingRows.from_coordinates(batch.user_codes, columns, stars, len(batch.user_ids), len(movie_ids))
    return RatingData(rows, Vocabulary(movie_ids), np.full(rows.n_ratings, UNTIMED), movies or {})


def long_rows(times: bool = True) -> RatingData:
    """80 raters of 30 movies each, of two tastes; user after user in time."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(80), 30)
    own = np.array([rng.permutation(40)[:25] for _ in range(80)])
    other = np.array([rng.permutation(40)[:5] for _ in range(80)])
    half = np.arange(80)[:, None] % 2 * 40
    movies = np.hstack([own + half, other + 40 - half]).ravel()
    stars = np.hstack([rng.integers(3, 6, own.shape), rng.integers(1, 4, other.shape)]).ravel()
    rows = RatingRows.from_coordinates(users, movies, stars, 80, 80)
    rated_at = np.arange(rows.n_ratings) // 5 if times else np.full(rows.n_ratings, UNTIMED)
    return RatingData(rows, Vocabulary([f"m{number}" for number in range(80)]), rated_at.astype(np.int64))

"""Ratings and movies of files, as rows over the file's own vocabulary."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.catalogue.movies import MovieEntry
from app.errors import InvalidInput
from app.imports.data_file import recognise
from app.imports.readers import MovieChunk, RatingChunk
from app.learning.rating_matrix import RatingRows
from app.learning.vocabulary import Vocabulary
from app.settings import Settings

STARS_LISTED = 20  # different numbers of stars; more are counted in ten steps


@dataclass(frozen=True)
class RatingData:
    """The content of a file.

    Attributes:
        rows: the ratings.
        vocabulary: the movies of the columns.
        rated_at: int64 of shape (n_ratings,), microseconds since 1970, in the order of
            `rows`; `UNTIMED` where the file has no time.
        movies: entries of a file of movies, by id; some or all may be missing.
    """

    rows: RatingRows
    vocabulary: Vocabulary
    rated_at: NDArray[np.int64]
    movies: dict[str, MovieEntry] = field(default_factory=dict)

    def genres(self) -> dict[str, NDArray[np.bool_]]:
        """The movies of each genre, bool of shape (n_movies,)."""
        result: dict[str, NDArray[np.bool_]] = defaultdict(lambda: np.zeros(len(self.vocabulary), np.bool_))
        for column, movie_id in enumerate(self.vocabulary.movie_ids):
            entry = self.movies.get(movie_id)
            for genre in (entry.genres if entry else None) or ():
                result[genre][column] = True
        return dict(result)


@dataclass(frozen=True)
class Shape:
    """Counts of the ratings.

    Attributes:
        n_users, n_movies, n_ratings: of the file, the newest rating of each pair.
        of_user, of_movie: fewest, median and most ratings of a user, of a movie.
        stars: each number of stars, or range of it, with its ratings.
    """

    n_users: int
    n_movies: int
    n_ratings: int
    of_user: tuple[float, float, float]
    of_movie: tuple[float, float, float]
    stars: list[tuple[str, int]]

    @classmethod
    def of(cls, rows: RatingRows) -> "Shape":
        """The shape of these rows."""
        values, n = np.unique(rows.stars, return_counts=True)
        names = [f"{value:g}" for value in values.tolist()]
        if values.size > STARS_LISTED:
            n, edges = np.histogram(rows.stars, 10)
            names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges.tolist())]
        return cls(
            rows.n_users,
            rows.n_movies,
            rows.n_ratings,
            _spread(rows.lengths),
            _spread(rows.ratings_per_movie()),
            list(zip(names, n.tolist(), strict=True)),
        )


def _spread(lengths: NDArray[np.int64]) -> tuple[float, float, float]:
    return float(lengths.min()), float(np.median(lengths)), float(lengths.max())


def read_ratings(path: Path, settings: Settings) -> RatingData:
    """The newest rating of each user and movie.

    Raises:
        InvalidInput: the file has bad rows, or no ratings.
    """
    user_numbers: dict[str, int] = {}
    movie_numbers: dict[str, int] = {}
    columns: list[tuple[NDArray[Any], ...]] = []
    for chunk in _chunks(path, "ratings", settings):
        if isinstance(chunk, RatingChunk):
            users = _numbers(chunk.users, user_numbers)
            movies = _numbers(chunk.movies, movie_numbers)
            columns.append((users[chunk.user_codes], movies[chunk.movie_codes], chunk.stars, chunk.rated_at))
    if not columns:
        raise InvalidInput(f"{path} holds no ratings.")
    users, movies, stars, rated_at = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    # Equal scores go by column, and columns in order of appearance would leak some of
    # the test ratings.
    movie_ids = sorted(movie_numbers)
    column_of = np.empty(len(movie_ids), np.int64)
    column_of[[movie_numbers[movie_id] for movie_id in movie_ids]] = np.arange(len(movie_ids))
    movies = column_of[movies]
    # The newest of each pair, at equal times the last in the file. By user, then by
    # movie: the order of rows.
    order = np.lexsort((rated_at, movies, users))
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (np.diff(users[order]) != 0) | (np.diff(movies[order]) != 0)
    kept = order[is_last]
    rows = RatingRows.from_coordinates(
        users[kept],
        movies[kept],
        stars[kept].astype(np.float32),
        n_users=len(user_numbers),
        n_movies=len(movie_ids),
    )
    return RatingData(rows, Vocabulary(movie_ids), rated_at[kept])


def read_movies(path: Path, settings: Settings) -> dict[str, MovieEntry]:
    """The movies of a file by id; later entries add to earlier ones.

    Raises:
        InvalidInput: the file has bad rows.
    """
    values: dict[str, dict[str, Any]] = {}
    for chunk in _chunks(path, "movies", settings):
        if isinstance(chunk, MovieChunk):
            for entry in chunk.entries:
                known = {name: value for name, value in vars(entry).items() if value is not None}
                values[entry.movie_id] = values.get(entry.movie_id, {}) | known
    return {movie_id: MovieEntry(**fields) for movie_id, fields in values.items()}


def _numbers(ids: Sequence[str], numbers: dict[str, int]) -> NDArray[np.int64]:
    """The number of each id, the next free ones for new ids."""
    return np.array([numbers.setdefault(id_, len(numbers)) for id_ in ids], np.int64)


def _chunks(
    path: Path, kind: Literal["ratings", "movies"], settings: Settings
) -> Iterator[RatingChunk | MovieChunk]:
    """The chunks of a file, none of which has bad rows."""
    for chunk in recognise(path, settings, kind=kind).chunks():
        if chunk.errors:
            first = chunk.errors[0]
            raise InvalidInput(f"{path}: {first.location}: {first.message}", errors=chunk.errors)
        yield chunk

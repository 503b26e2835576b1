"""Small catalogues that the tests of this room share."""

from collections.abc import Mapping
from datetime import UTC, datetime

from app.catalogue import movies
from app.catalogue.movies import MovieEntry
from app.ratings.batch import Counts
from app.storage.database import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

FILMS = [
    MovieEntry("1", "Amélie", 2001, ("Comedy", "Romance")),
    MovieEntry("2", "The Matrix", 1999, ("Action", "Sci-Fi")),
    MovieEntry("3", "100% Wolf", 2020, ("Animation",)),
    MovieEntry("4", "Matilda", 1996, ("Children", "Comedy")),
]


def store(database: Database, *entries: MovieEntry) -> Counts:
    """Store movies in a transaction of their own."""
    with database.writing() as session:
        return movies.store(session, entries, now=NOW)


def set_ratings(database: Database, n_ratings: Mapping[str, int]) -> None:
    """Make movies as popular as if they had so many ratings."""
    with database.writing() as session:
        for movie_id, movie in movies.of_ids(session, list(n_ratings)).items():
            movie.n_ratings = n_ratings[movie_id]

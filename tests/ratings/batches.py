"""Batches of ratings, stored and read back."""

from datetime import UTC, datetime, timedelta

from app.ratings import read
from app.ratings import store as ratings
from app.ratings.batch import Counts, RatingBatch
from app.storage.database import Database

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

EARLIER = NOW - timedelta(days=1)

LATER = NOW + timedelta(days=1)

Row = tuple[str, str, float, datetime | None]


def batch(*rows: Row) -> RatingBatch:
    return RatingBatch.of(rows)


def store(database: Database, *rows: Row, at: datetime = NOW) -> Counts:
    with database.writing() as session:
        return ratings.upsert(session, batch(*rows), received_at=at)


def stored(database: Database, user_id: str = "ann") -> list[tuple[str, float, datetime]]:
    with database.reading() as session:
        return [(rating.movie_id, rating.stars, rating.rated_at) for rating in read.of_user(session, user_id)]

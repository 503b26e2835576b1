"""Ratings over HTTP: one, a batch, a user's list; erasing a person."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import status
from pydantic import ConfigDict, Field

from app.api.dependencies import Call, ReadCall, WriteCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import (
    MAX_BATCH,
    Cursor,
    Id,
    Limit,
    Moment,
    PathId,
    Stars,
    Strict,
)
from app.ratings import read, store
from app.ratings.batch import Counts, RatingBatch
from app.ratings.read import StoredRating
from app.recommendations.rating_input import check_stars
from app.storage.answers import Answer
from app.storage.cursors import Page

router = new_router("/v1", "ratings")


class RatingIn(Strict):
    """A rating of the movie in the path."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"stars": 4.5}]})

    stars: Stars
    rated_at: Moment | None = Field(None, description="when the movie was rated; now, if left out")


class BatchRating(Strict):
    """One rating of a batch."""

    user_id: Id
    movie_id: Id
    stars: Stars
    rated_at: Moment | None = None


class BatchIn(Strict):
    """Up to 10,000 ratings, stored all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ratings": [
                        {"user_id": "42", "movie_id": "50", "stars": 5, "rated_at": "2026-01-31T20:15:00Z"}
                    ]
                }
            ]
        }
    )

    ratings: Annotated[list[BatchRating], Field(max_length=MAX_BATCH)]


@dataclass(frozen=True)
class ErasedUser(Answer):
    """The model versions that were trained with the person's ratings."""

    user_id: Annotated[str, Field(examples=["42"])]
    model_versions_trained_with_user: Annotated[list[int], Field(examples=[[6, 7]])]


@router.put("/users/{user}/ratings/{movie}", operation_id="put_rating")
def put_rating(user: PathId, movie: PathId, body: RatingIn, call: WriteCall) -> Counts:
    """Rate a movie, or change the rating.

    It counts from the next request on, without retraining.
    """
    rating = BatchRating(user_id=user, movie_id=movie, **body.model_dump())
    return _store(call, [rating], lambda _: "stars")


@router.delete(
    "/users/{user}/ratings/{movie}",
    responses=declared(404),
    status_code=status.HTTP_204_NO_CONTENT,
    operation_id="delete_rating",
)
def delete_rating(user: PathId, movie: PathId, call: WriteCall) -> None:
    """Take a rating back."""
    with call.writing() as session:
        store.delete(session, user, movie)


@router.get("/users/{user}/ratings", operation_id="list_user_ratings")
def list_user_ratings(
    user: PathId, call: ReadCall, limit: Limit = 100, cursor: Cursor = None
) -> Page[StoredRating]:
    """A user's ratings, newest first; empty for an unknown user."""
    with call.reading() as session:
        return read.page_of_user(session, user, limit=limit, cursor=cursor)


@router.post("/ratings", responses=declared(413), operation_id="post_ratings")
def post_ratings(body: BatchIn, call: WriteCall) -> Counts:
    """Store a batch, all or nothing; of one user and movie the newest rating wins."""
    return _store(call, body.ratings, lambda position: f"ratings[{position}].stars")


@router.delete("/users/{user}", responses=declared(404), operation_id="delete_user")
def delete_user(user: PathId, call: WriteCall) -> ErasedUser:
    """Erase a user; name the model versions that were trained with their ratings."""
    with call.writing() as session:
        versions = store.erase_user(session, user)
    return ErasedUser(user, versions)


def _store(call: Call, rows: list[BatchRating], location: Callable[[int], str]) -> Counts:
    batch = RatingBatch.of((row.user_id, row.movie_id, row.stars, row.rated_at) for row in rows)
    with call.writing() as session:
        check_stars([row.stars for row in rows], call.settings, location)
        return store.upsert(session, batch, received_at=datetime.now(UTC))

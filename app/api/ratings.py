"""Ratings over HTTP: one, a batch, a user's list; erasing a person."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app import ratings
from app.api.dependencies import Reading, SettingsNow, Writing, needs
from app.api.problems import declared
from app.api.schemas import (
    MAX_BATCH,
    CountsView,
    Cursor,
    Id,
    Limit,
    Moment,
    Page,
    PathId,
    Stars,
    Strict,
)
from app.ratings import RatingBatch
from app.recommendations.given import check_stars

router = APIRouter(prefix="/v1", tags=["ratings"])


class RatingIn(Strict):
    """A rating of the movie in the path."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"stars": 4.5}]})

    stars: Stars
    rated_at: Moment | None = Field(None, description="when it was given; now, if left out")


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


class RatingView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    stars: float
    rated_at: datetime


class ErasedView(BaseModel):
    """What still knows the person: the model versions that were trained with their ratings."""

    user_id: str
    model_versions_trained_with_user: list[int]


@router.put(
    "/users/{user}/ratings/{movie}",
    dependencies=[needs("write")],
    responses=declared(),
    operation_id="put_rating",
)
def put_rating(
    user: PathId, movie: PathId, body: RatingIn, session: Writing, settings: SettingsNow
) -> CountsView:
    """Rate a movie, or change the rating. It counts from the next request on, without retraining."""
    check_stars([body.stars], settings, lambda _: "stars")
    return _store(session, [BatchRating(user_id=user, movie_id=movie, **body.model_dump())])


@router.delete(
    "/users/{user}/ratings/{movie}",
    dependencies=[needs("write")],
    responses=declared(404),
    status_code=status.HTTP_204_NO_CONTENT,
    operation_id="delete_rating",
)
def delete_rating(user: PathId, movie: PathId, session: Writing) -> None:
    """Take a rating back."""
    ratings.remove(session, user, movie)


@router.get(
    "/users/{user}/ratings",
    dependencies=[needs("read")],
    responses=declared(),
    operation_id="list_user_ratings",
)
def list_user_ratings(
    user: PathId, session: Reading, limit: Limit = 100, cursor: Cursor = None
) -> Page[RatingView]:
    """What a user has rated, newest first; empty for a user whom nobody has heard of."""
    items, next_cursor = ratings.page_of_user(session, user, limit=limit, cursor=cursor)
    return Page(items=[RatingView.model_validate(item) for item in items], next_cursor=next_cursor)


@router.post("/ratings", dependencies=[needs("write")], responses=declared(413), operation_id="post_ratings")
def post_ratings(body: BatchIn, session: Writing, settings: SettingsNow) -> CountsView:
    """Store a batch, all or nothing; of one user and movie the newest rating wins."""
    check_stars([one.stars for one in body.ratings], settings, lambda n: f"ratings[{n}].stars")
    return _store(session, body.ratings)


@router.delete(
    "/users/{user}", dependencies=[needs("write")], responses=declared(404), operation_id="delete_user"
)
def delete_user(user: PathId, session: Writing) -> ErasedView:
    """Erase a person and all their ratings; names the model versions that were trained with them."""
    return ErasedView(user_id=user, model_versions_trained_with_user=ratings.erase_user(session, user))


def _store(session: Session, rows: list[BatchRating]) -> CountsView:
    batch = RatingBatch.of((row.user_id, row.movie_id, row.stars, row.rated_at) for row in rows)
    return CountsView.model_validate(ratings.store(session, batch, received_at=datetime.now(UTC)))

"""State of the service, API keys and exports over HTTP."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import status
from fastapi.responses import StreamingResponse
from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session

from app import access
from app.access import IssuedKey, NewKey, Role
from app.api.dependencies import AdminCall, Call
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import Cursor, Limit, RowId, Strict
from app.catalogue import movies
from app.jobs import queue
from app.jobs.queue import JobCounts
from app.ratings import changes, read
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.training import schedule
from app.training.schedule import Plan, Staleness

router = new_router("/v1/admin", "admin")

RATINGS_CSV = "user_id,movie_id,stars,rated_at\n42,50,4.5,2026-03-01T20:15:00.000000Z\n"
MOVIES_CSV = (
    "movie_id,plain_title,year,genres,imdb_id,tmdb_id\n50,Star Wars,1977,|Action|Sci-Fi|,tt0076759,11\n"
)


@dataclass(frozen=True)
class Schedule(Answer):
    """The settings of the schedule, and its next run."""

    retrain_after_ratings: Annotated[int, Field(examples=[10_000])]
    """0: never."""
    retrain_every_hours: Annotated[float, Field(examples=[24.0])]
    """0: never."""
    retrain_jitter: Annotated[float, Field(examples=[0.1])]
    full_fit_every: Annotated[int, Field(examples=[5])]
    next_run: Plan


@dataclass(frozen=True)
class Standing(Answer):
    """How the service stands."""

    ratings: Annotated[int, Field(examples=[32_543])]
    active_version: Staleness | None
    schedule: Schedule
    jobs: Annotated[dict[str, JobCounts], Field(examples=[{"import": {"queued": 0, "running": 1}}])]
    """By kind; kinds with nothing to do are left out."""


class ApiKeyIn(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)] = Field(examples=["site"])
    role: Role = Field(examples=["write"])


@router.get("", operation_id="get_standing")
def get_standing(call: AdminCall) -> Standing:
    """Ratings, staleness of the active version, next training run, jobs at work."""
    settings = call.settings
    with call.reading() as session:
        return Standing(
            ratings=changes.changes(session).n_ratings,
            active_version=schedule.staleness(session),
            schedule=Schedule(
                retrain_after_ratings=settings.retrain_after_ratings,
                retrain_every_hours=settings.retrain_every_hours,
                retrain_jitter=settings.retrain_jitter,
                full_fit_every=settings.full_fit_every,
                next_run=schedule.plan(session, settings),
            ),
            jobs=queue.counts(session),
        )


@router.get("/api-keys", operation_id="list_api_keys")
def list_api_keys(call: AdminCall, limit: Limit = 50, cursor: Cursor = None) -> Page[IssuedKey]:
    """Keys, oldest first, revoked ones too."""
    with call.reading() as session:
        return access.page(session, limit=limit, cursor=cursor)


@router.post("/api-keys", status_code=status.HTTP_201_CREATED, operation_id="create_api_key")
def create_api_key(body: ApiKeyIn, call: AdminCall) -> NewKey:
    """Make a key. From the first key on every route but the probes needs one."""
    with call.writing() as session:
        return access.create(session, body.name, body.role)


@router.delete("/api-keys/{key}", responses=declared(404), operation_id="revoke_api_key")
def revoke_api_key(key: RowId, call: AdminCall) -> IssuedKey:
    """Put a key out of force for good."""
    with call.writing() as session:
        return access.revoke(session, key)


@router.get(
    "/ratings.csv",
    responses={200: {"content": {"text/csv": {"example": RATINGS_CSV}}, "description": "every rating"}},
    response_class=StreamingResponse,
    operation_id="export_ratings",
)
def export_ratings(call: AdminCall) -> StreamingResponse:
    """Every rating as CSV, streamed; importing it again gives the same ratings."""
    return _streamed(call, read.csv_lines)


@router.get(
    "/movies.csv",
    responses={200: {"content": {"text/csv": {"example": MOVIES_CSV}}, "description": "every movie"}},
    response_class=StreamingResponse,
    operation_id="export_movies",
)
def export_movies(call: AdminCall) -> StreamingResponse:
    """Every movie as CSV, streamed; importing it again gives the same catalogue."""
    return _streamed(call, movies.csv_lines)


def _streamed(call: Call, lines_of: Callable[[Session], Iterator[str]]) -> StreamingResponse:
    call.check_key()  # now: once the stream has begun, the status is sent

    def lines() -> Iterator[str]:
        with call.database.reading() as session:
            yield from lines_of(session)

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")

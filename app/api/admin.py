"""What else operators do over HTTP: how things stand, keys and the export."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy.orm import Session

from app import access, catalogue, jobs, ratings, schedule
from app.access import Role
from app.api.dependencies import DatabaseNow, Reading, SettingsNow, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, RowId, Strict
from app.database import Database
from app.tables import ApiKey

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])


class NextRunView(BaseModel):
    """When and why the next training run will be asked for without anybody asking."""

    model_config = ConfigDict(from_attributes=True)

    why: str = Field(examples=["after 2400 more changed ratings or at 2026-01-02 03:04 UTC, …"])
    due: Literal["ratings", "hours"] | None = Field(description="the rule that asks for one now")
    waits_for: str | None = Field(description="what holds it up")
    changes_since: int = Field(description="ratings changed since the snapshot of the last run")
    more_changes: int | None = Field(description="how many more start a run; null: that rule is off")
    next_at: datetime | None = Field(
        description="when the hours start one; null: off, or nothing has changed"
    )
    is_warm_start: bool = Field(description="whether it will go on from the active version")
    refusal: str | None = Field(description="why the last attempt could not be queued")
    refused_at: datetime | None


class ScheduleView(BaseModel):
    """The settings that it goes by."""

    retrain_after_ratings: int = Field(description="0: never")
    retrain_every_hours: float = Field(description="0: never")
    retrain_jitter: float
    full_fit_every: int
    next_run: NextRunView


class StalenessView(BaseModel):
    """How far the ratings have moved on since the active version was trained."""

    model_config = ConfigDict(from_attributes=True)

    version: int
    trained_at: datetime
    newest_rated_at: datetime | None = Field(description="the newest rating that it has seen")
    ratings: int | None = Field(description="how many ratings it has seen")
    changes_since: int = Field(description="ratings added, changed and removed since")


class QueueView(BaseModel):
    queued: int
    running: int


class StandingView(BaseModel):
    ratings: int
    active_version: StalenessView | None
    schedule: ScheduleView
    jobs: dict[str, QueueView] = Field(description="by kind; kinds with nothing to do are left out")


class ApiKeyIn(Strict):
    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    role: Role


class ApiKeyView(BaseModel):
    id: int
    name: str
    role: Role
    prefix: str
    created_at: datetime
    revoked_at: datetime | None


class NewApiKeyView(ApiKeyView):
    key: str = Field(description="shown this once; only its hash is stored")


@router.get("", responses=declared(), operation_id="get_standing")
def get_standing(session: Reading, settings: SettingsNow) -> StandingView:
    """How stale the active version is, when and why the next training run begins, and what is at work."""
    return StandingView(
        ratings=ratings.changes(session).n_ratings,
        active_version=_staleness(session),
        schedule=ScheduleView(
            retrain_after_ratings=settings.retrain_after_ratings,
            retrain_every_hours=settings.retrain_every_hours,
            retrain_jitter=settings.retrain_jitter,
            full_fit_every=settings.full_fit_every,
            next_run=NextRunView.model_validate(schedule.plan(session, settings)),
        ),
        jobs={kind: QueueView(**numbers) for kind, numbers in jobs.counts(session).items()},
    )


@router.get("/api-keys", responses=declared(), operation_id="list_api_keys")
def list_api_keys(session: Reading, limit: Limit = 50, cursor: Cursor = None) -> Page[ApiKeyView]:
    """Keys by their first characters; the keys themselves are stored nowhere."""
    rows, next_cursor = access.page(session, limit=limit, cursor=cursor)
    return Page(items=[ApiKeyView(**_key_fields(row)) for row in rows], next_cursor=next_cursor)


@router.post(
    "/api-keys", responses=declared(), status_code=status.HTTP_201_CREATED, operation_id="create_api_key"
)
def create_api_key(body: ApiKeyIn, session: Writing, response: Response) -> NewApiKeyView:
    """Make a key. From the first key on every route but the probes needs one."""
    row, secret = access.create(session, body.name, body.role)
    response.headers["Cache-Control"] = "no-store"
    return NewApiKeyView(**_key_fields(row), key=secret)


@router.delete("/api-keys/{key}", responses=declared(404), operation_id="revoke_api_key")
def revoke_api_key(key: RowId, session: Writing) -> ApiKeyView:
    """Put a key out of force for good."""
    return ApiKeyView(**_key_fields(access.revoke(session, key)))


@router.get(
    "/ratings.csv",
    responses=declared() | {200: {"content": {"text/csv": {}}, "description": "every rating"}},
    response_class=StreamingResponse,
    operation_id="export_ratings",
)
def export_ratings(database: DatabaseNow) -> StreamingResponse:
    """Every rating as CSV, streamed; importing it again gives the same ratings."""
    return _streamed(database, ratings.csv_lines)


@router.get(
    "/movies.csv",
    responses=declared() | {200: {"content": {"text/csv": {}}, "description": "every movie"}},
    response_class=StreamingResponse,
    operation_id="export_movies",
)
def export_movies(database: DatabaseNow) -> StreamingResponse:
    """Every movie as CSV, streamed; importing it again gives the same catalogue."""
    return _streamed(database, catalogue.csv_lines)


def _streamed(database: Database, lines_of: Callable[[Session], Iterator[str]]) -> StreamingResponse:
    def lines() -> Iterator[str]:
        # A session of its own: the route's would be closed before the stream has begun.
        with database.reading() as session:
            yield from lines_of(session)

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")


def _staleness(session: Session) -> StalenessView | None:
    found = schedule.staleness(session)
    return StalenessView.model_validate(found) if found else None


def _key_fields(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "name": row.name,
        "role": row.role,
        "prefix": row.prefix,
        "created_at": row.created_at,
        "revoked_at": row.revoked_at,
    }

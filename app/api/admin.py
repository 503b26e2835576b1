"""What else operators do over HTTP: keys and the export."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response, status
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, StringConstraints

from app import access, ratings
from app.access import Role
from app.api.dependencies import DatabaseNow, Reading, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, RowId, Strict
from app.tables import ApiKey

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[needs("admin")])


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

    def lines() -> Iterator[str]:
        # A session of its own: the route's would be closed before the stream has begun.
        with database.reading() as session:
            yield from ratings.csv_lines(session)

    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8")


def _key_fields(row: ApiKey) -> dict[str, Any]:
    return {
        "id": row.key_id,
        "name": row.name,
        "role": row.role,
        "prefix": row.prefix,
        "created_at": row.created_at,
        "revoked_at": row.revoked_at,
    }

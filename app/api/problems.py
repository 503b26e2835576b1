"""Every error as RFC 9457 `application/problem+json`: one shape, one table."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from app import errors
from app.api.dependencies import Call
from app.errors import FieldError, HarmoniumError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
LISTED_ERRORS = 100  # mistakes named in one answer

# The table of errors: which types each status answers. In OpenAPI the first one's title
# describes it.
ERRORS: dict[HTTPStatus, tuple[type[HarmoniumError], ...]] = {
    HTTPStatus.UNAUTHORIZED: (errors.Unauthenticated,),
    HTTPStatus.FORBIDDEN: (errors.Forbidden,),
    HTTPStatus.NOT_FOUND: (errors.NotFound,),
    HTTPStatus.CONFLICT: (
        errors.Conflict,
        errors.TooLittleTrainingData,
        errors.NotEnoughMemory,
        errors.CorruptModelVersion,
    ),
    HTTPStatus.PRECONDITION_FAILED: (errors.PreconditionFailed,),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (errors.TooLarge,),
    HTTPStatus.UNPROCESSABLE_ENTITY: (errors.InvalidInput,),
    HTTPStatus.TOO_MANY_REQUESTS: (errors.TooManyFailures,),
    HTTPStatus.SERVICE_UNAVAILABLE: (errors.Unavailable,),
    HTTPStatus.INSUFFICIENT_STORAGE: (errors.StorageFull,),
}
STATUS_OF = {kind: status for status, kinds in ERRORS.items() for kind in kinds}
OF_EVERY_ROUTE = (401, 403, 422, 429, 503)
RETRY_AFTER = {
    "Retry-After": {"description": "seconds until trying again makes sense", "schema": {"type": "integer"}}
}


class Candidate(BaseModel):
    """A movie that a title may have meant."""

    movie_id: str = Field(examples=["50"])
    title: str = Field(examples=["Star Wars"])
    year: int | None = Field(examples=[1977])


class Mistake(BaseModel):
    """A mistake in the input."""

    location: str = Field(examples=["ratings[3].stars"])
    message: str = Field(examples=["Input should be a finite number"])
    candidates: list[Candidate] | None = Field(None, description="movies that a title may have meant")


class Problem(BaseModel):
    """An error, and what to do about it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The input is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["ratings[3].stars: Input should be a finite number"])
    instance: str = Field(examples=["/v1/ratings"])
    errors: list[Mistake] | None = Field(None, description="for bad input: every mistake, the first 100")


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route or router that may answer with these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": ERRORS[HTTPStatus(status)][0].title(), "content": content}
        | ({"headers": RETRY_AFTER} if status in (429, 503) else {})
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Answer every error of this app as a problem."""

    @app.exception_handler(HarmoniumError)
    def handle_domain_error(request: Request, error: HarmoniumError) -> JSONResponse:
        status = next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), None)
        if status is None:
            log.exception("unexpected_domain_error", error=str(error))
            return respond(request, HTTPStatus.INTERNAL_SERVER_ERROR, error.title(), error.detail)
        headers: dict[str, str] = {}
        if isinstance(error, errors.Unauthenticated):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, errors.Unavailable | errors.TooManyFailures):
            headers["Retry-After"] = str(error.retry_after_seconds)
        return respond(request, status, error.title(), error.detail, mistakes=error.errors, headers=headers)

    @app.exception_handler(RequestValidationError)
    def handle_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        try:
            # Without a key the answer is 401, whatever is wrong with the input.
            Call(request, Response(), getattr(request.state, "role", "read")).check_key()
        except HarmoniumError as refusal:
            return handle_domain_error(request, refusal)
        mistakes = [FieldError(_location(part["loc"]), _message(part)) for part in error.errors()]
        detail = "; ".join(
            f"{mistake.location}: {mistake.message}" if mistake.location else mistake.message
            for mistake in mistakes[:3]
        )
        if len(mistakes) > 3:
            detail += f"; and {len(mistakes) - 3} more"
        title = errors.InvalidInput.title()
        return respond(request, HTTPStatus.UNPROCESSABLE_ENTITY, title, detail, mistakes=mistakes)

    @app.exception_handler(HTTPException)
    def handle_http_error(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        if status is HTTPStatus.NOT_MODIFIED:  # no error, and it must not have a body
            return Response(status_code=status, headers=error.headers)
        detail = str(error.detail)
        if status is HTTPStatus.NOT_FOUND and detail == status.phrase:
            detail = f"There is nothing at {request.url.path}. The routes are listed at /docs."
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible here. The routes are listed at /docs."
        return respond(request, status, status.phrase, detail, headers=error.headers)

    make_document = app.openapi

    def document() -> dict[str, Any]:
        """The OpenAPI document with the schema that every declared error refers to."""
        made = make_document()
        schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = made["components"]["schemas"]
        schemas |= schema.pop("$defs")
        schemas["Problem"] = schema
        return made

    app.openapi = document  # type: ignore[method-assign]


def answer_bug(request: Request) -> JSONResponse:
    """The answer to a fault of Harmonium itself."""
    return respond(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "Something went wrong in Harmonium",
        "This is a fault of the service, and it has been logged. Please report it with the X-Request-ID.",
    )


def respond(
    request: Request,
    status: HTTPStatus,
    title: str,
    detail: str,
    *,
    mistakes: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as an answer to this request."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status.value,
        "detail": _printable(detail),
        "instance": _printable(request.url.path),
    }
    if mistakes:
        content["errors"] = [
            {"location": _printable(mistake.location), "message": _printable(mistake.message)}
            | ({"candidates": [dict(movie) for movie in mistake.candidates]} if mistake.candidates else {})
            for mistake in mistakes[:LISTED_ERRORS]
        ]
    return JSONResponse(content, status_code=status.value, media_type=MEDIA_TYPE, headers=headers)


def _location(parts: Sequence[str | int]) -> str:
    """The place as in `ratings[3].stars`; sources but the body keep their name."""
    source, *rest = parts or ("body",)
    names = rest if source == "body" else [source, *rest]
    location = ""
    for name in names:
        if isinstance(name, int):
            location += f"[{name}]"
        else:
            location += f".{name}" if location else name
    return location


def _message(error: Mapping[str, Any]) -> str:
    message = str(error["msg"])
    if error["type"] == "json_invalid":
        position = error["loc"][-1] if error["loc"] else "?"
        return f"The body is not JSON: {error.get('ctx', {}).get('error', message)} at character {position}"
    return message.removeprefix("Value error, ")


def _printable(words: str) -> str:
    """A lone surrogate, legal in JSON input, cannot be encoded on the way out."""
    return words.encode("utf-8", "replace").decode("utf-8")

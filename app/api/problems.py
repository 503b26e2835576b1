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
from app.api.examples import add_examples
from app.errors import FieldError, HarmoniumError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
LISTED_ERRORS = 100  # mistakes named in one answer

STATUS_OF: dict[type[HarmoniumError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.TooLittleTrainingData: HTTPStatus.CONFLICT,
    errors.NotEnoughMemory: HTTPStatus.CONFLICT,
    errors.PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.TooManyFailures: HTTPStatus.TOO_MANY_REQUESTS,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.CorruptModelVersion: HTTPStatus.CONFLICT,
}


class Candidate(BaseModel):
    """A movie that a title may have meant."""

    movie_id: str
    title: str
    year: int | None


class BadRow(BaseModel):
    """A row of a file, and what is wrong with it."""

    location: str = Field(examples=["line 17"])
    message: str = Field(examples=["stars 'five' are not a number"])


class Mistake(BaseModel):
    """One thing that is wrong with the input."""

    location: str = Field(examples=["ratings[3].stars"])
    message: str = Field(examples=["Input should be a finite number"])
    candidates: list[Candidate] | None = Field(None, description="movies that a title may have meant")


class Problem(BaseModel):
    """What went wrong and what to do about it."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The input is not valid"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["ratings[3].stars: Input should be a finite number"])
    instance: str = Field(examples=["/v1/ratings"])
    errors: list[Mistake] | None = Field(None, description="for bad input: every mistake, the first 100")


_TEXTS = {
    401: "An API key is needed",
    403: "The API key's role does not allow this",
    404: "There is no such thing",
    409: "It conflicts with the present state",
    412: "The state has changed since you read it",
    413: "The content is too large",
    422: "The input is not valid",
    429: "Too many keys that are not in force came from this address; Retry-After says when to try again",
    503: "The database is away or busy; Retry-After says when to try again",
    507: "There is no space left to store this",
}


_RETRY_AFTER = {
    "Retry-After": {"description": "seconds until trying again makes sense", "schema": {"type": "integer"}}
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these statuses, beside those of every route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": _TEXTS[status], "content": content}
        | ({"headers": _RETRY_AFTER} if status in (429, 503) else {})
        for status in sorted({*statuses, 401, 403, 422, 429, 503})
    }


def install(app: FastAPI) -> None:
    """Answer every error of this app in the one shape."""

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
        found = [FieldError(_location(one["loc"]), _message(one)) for one in error.errors()]
        detail = "; ".join(
            f"{one.location}: {one.message}" if one.location else one.message for one in found[:3]
        )
        if len(found) > 3:
            detail += f"; and {len(found) - 3} more"
        return respond(
            request, HTTPStatus.UNPROCESSABLE_ENTITY, errors.InvalidInput.title(), detail, mistakes=found
        )

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
        # FastAPI declares its own shape for 422 only where a route declares none.
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        add_examples(made)
        return made

    app.openapi = document  # type: ignore[method-assign]


def answer_bug(request: Request) -> JSONResponse:
    """What a fault of Harmonium itself looks like from outside."""
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
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status.value,
        "detail": _printable(detail),
        "instance": _printable(request.url.path),
    }
    if mistakes:
        content["errors"] = [
            {"location": _printable(one.location), "message": _printable(one.message)}
            | ({"candidates": [dict(movie) for movie in one.candidates]} if one.candidates else {})
            for one in mistakes[:LISTED_ERRORS]
        ]
    return JSONResponse(content, status_code=status.value, media_type=MEDIA_TYPE, headers=headers)


def _location(parts: Sequence[str | int]) -> str:
    """`("body", "ratings", 3, "stars")` as `ratings[3].stars`; other sources keep their name in front."""
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

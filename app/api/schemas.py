"""Types of fields and bodies that several routes share."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from app.catalogue.movies import YEARS
from app.storage.identifiers import LONGEST, clean_id

RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]

MAX_BATCH = 10_000  # ratings in one request
MAX_PROFILE = 10_000  # ratings that one list is folded in from
MAX_LIMIT = 500  # movies in one list, items in one page

# Clocks differ; a rating from further ahead is a mistake, and would win over every
# later one.
AHEAD = timedelta(days=1)


def _not_ahead(moment: datetime) -> datetime:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    if moment > datetime.now(UTC) + AHEAD:
        raise ValueError("this time is in the future")
    if moment.year < 1900:
        raise ValueError("this time is before the year 1900")
    return moment


def _number(value: object) -> object:
    """JSON numbers only: neither "5" nor true is a number of stars."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("stars are a number")
    if isinstance(value, int) and abs(value) > 10**6:
        raise ValueError("stars are out of range")
    return float(value)


_ID_SCHEMA = {
    "anyOf": [{"type": "string", "minLength": 1, "maxLength": LONGEST}, {"type": "integer"}],
}
Id = Annotated[str, BeforeValidator(clean_id), WithJsonSchema(_ID_SCHEMA, mode="validation")]
PathId = Annotated[
    str,
    BeforeValidator(clean_id),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": LONGEST}),
]
Stars = Annotated[
    float,
    BeforeValidator(_number),
    Field(allow_inf_nan=False, examples=[4.5]),
    WithJsonSchema({"type": "number", "description": "0.5 to 5.0 unless the service is set otherwise"}),
]
Moment = Annotated[datetime, AfterValidator(_not_ahead)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]
Cursor = Annotated[str | None, Query(max_length=200, description="next_cursor of the page before")]
Year = Annotated[int, Field(ge=YEARS.start, le=YEARS.stop - 1)]


def clean_words(words: str) -> str:
    """A title or name without control characters; `ValueError` otherwise."""
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in words):
        raise ValueError("control characters and lone surrogates are not allowed")
    return words


Title = Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True), AfterValidator(clean_words)]


class Strict(BaseModel):
    """A body whose unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class RatingInput(Strict):
    """A rating in a request that stores nothing.

    It names the movie by id, or by title and year, and has stars, or a like or dislike.
    """

    movie_id: Id | None = None
    title: Annotated[Title, StringConstraints(min_length=1)] | None = Field(
        None, description="instead of movie_id; case, accents and the place of an article do not matter"
    )
    year: Year | None = Field(None, description="tells movies of one title apart")
    stars: Stars | None = None
    liked: StrictBool | None = Field(None, description="instead of stars: the most of them, or the least")

    @model_validator(mode="before")
    @classmethod
    def _one_of_the_two(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if (data.get("movie_id") is None) == (data.get("title") is None):
                raise ValueError("say either movie_id or title")
            if data.get("year") is not None and data.get("title") is None:
                raise ValueError("a year goes with a title")
            if (data.get("stars") is None) == (data.get("liked") is None):
                raise ValueError("say either stars or liked")
        return data

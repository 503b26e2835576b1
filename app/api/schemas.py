"""What several routes take and give."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

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
from sqlalchemy.orm import Session

from app import catalogue
from app.catalogue import YEARS
from app.errors import FieldError, InvalidInput
from app.identifiers import LONGEST, clean_id
from app.settings import Settings

Item = TypeVar("Item")

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]

MAX_BATCH = 10_000  # ratings in one request
MAX_PROFILE = 10_000  # ratings that one list is folded in from
MAX_LIMIT = 500  # movies in one list, items in one page
CANDIDATES = 10  # movies named for a title that does not tell which is meant
SUGGESTED_FOR = 10  # titles that nobody has, for which movies that look alike are named

# Clocks differ; a rating from further ahead is a mistake, and would win over every later one.
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
    """Words of a title or a name: refuse what no text holds."""
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in words):
        raise ValueError("control characters and lone surrogates are not allowed")
    return words


Title = Annotated[str, StringConstraints(max_length=1000, strip_whitespace=True), AfterValidator(clean_words)]


class Strict(BaseModel):
    """A body that says what the route knows, and nothing else: a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next_cursor: str | None = Field(description="pass it as `cursor` for the next page; null at the end")


class CountsView(BaseModel):
    """What became of the rows; the five sum to the rows received."""

    model_config = ConfigDict(from_attributes=True)

    inserted: int
    updated: int
    unchanged: int
    superseded: int = Field(description="an older rating of a pair that has a newer one")
    rejected: int


class GivenRating(Strict):
    """A rating in a request that stores nothing.

    The movie is told by its id, or by title and year; what is said of it are stars, or a like or dislike.
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


def stars_by_movie(
    given: list[GivenRating], settings: Settings, session: Session, name: str = "ratings"
) -> dict[str, float]:
    """Movie id -> stars; of several ratings of a movie the last counts. A like is full stars.

    Raises `InvalidInput` with the location of every rating whose stars are out of bounds, and of every title
    that means no movie or several, with those that it may mean.
    """
    check_stars([one.stars for one in given], settings, lambda n: f"{name}[{n}].stars")
    movie_ids = _resolved_ids(given, session, name)
    return {
        movie_id: one.stars
        if one.stars is not None
        else (settings.stars_max if one.liked else settings.stars_min)
        for movie_id, one in zip(movie_ids, given, strict=True)
    }


def _resolved_ids(given: list[GivenRating], session: Session, name: str) -> list[str]:
    """The id of the movie that each rating is of."""
    titled = [(place, one.title, one.year) for place, one in enumerate(given) if one.title is not None]
    found = catalogue.of_titles(session, [(title, year) for _, title, year in titled]) if titled else []
    meant = {place: movies for (place, _, _), movies in zip(titled, found, strict=True)}
    movie_ids: list[str] = []
    mistakes: list[FieldError] = []
    for place, one in enumerate(given):
        if one.title is None:
            movie_ids.append(str(one.movie_id))
        elif len(meant[place]) == 1:
            movie_ids.append(meant[place][0].movie_id)
        else:
            message = f"{len(meant[place])} movies have this title; say its year, or movie_id instead"
            nearest = meant[place]
            if not nearest:
                message = "no movie has this title" + ("" if one.year is None else " and year")
                # Looking for what was meant takes a while, and a long list of strangers needs no more of it.
                nearest = catalogue.like_title(session, one.title) if len(mistakes) < SUGGESTED_FOR else []
            mistakes.append(
                FieldError(
                    f"{name}[{place}].title",
                    message,
                    [
                        {"movie_id": movie.movie_id, "title": movie.title, "year": movie.year}
                        for movie in nearest[:CANDIDATES]
                    ],
                )
            )
    if mistakes:
        first = mistakes[0]
        likely = ", ".join(f"{one['title']} ({one['year']}): {one['movie_id']}" for one in first.candidates)
        detail = f"{first.location}: {first.message}" + (f"; candidates: {likely}" if likely else "")
        raise InvalidInput(f"{detail}.", errors=mistakes)
    return movie_ids


def check_stars(stars: list[float | None], settings: Settings, location: Any) -> None:
    """Refuse stars outside the settings' bounds, naming each by `location(position)`."""
    mistakes = [
        FieldError(location(position), f"stars lie between {settings.stars_min:g} and {settings.stars_max:g}")
        for position, value in enumerate(stars)
        if value is not None and not settings.stars_min <= value <= settings.stars_max
    ]
    if mistakes:
        raise InvalidInput(
            f"{mistakes[0].location}: {mistakes[0].message}; nothing was stored.", errors=mistakes
        )


Strategy = Literal["rbm", "blended", "popular"]

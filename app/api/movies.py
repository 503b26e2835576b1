"""The catalogue over HTTP."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.api.dependencies import ReadCall, WriteCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import Cursor, Limit, PathId, Strict, Title, Year, clean_words
from app.catalogue import movies, search
from app.catalogue.movies import MovieEntry
from app.storage.cursors import Page

router = new_router("/v1/movies", "movies")


def _genre(words: str) -> str:
    if "|" in words:
        raise ValueError("a genre must not contain |")
    return clean_words(words)


Genre = Annotated[
    str, StringConstraints(min_length=1, max_length=64, strip_whitespace=True), AfterValidator(_genre)
]
OutsideId = Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(clean_words)]
GenreFilter = Annotated[Genre | None, Query(description="a whole genre name, as the catalogue spells it")]
YearFilter = Annotated[Year | None, Query()]


class MovieIn(Strict):
    """A movie; fields left out stay as they are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"title": "Star Wars", "year": 1977, "genres": ["Action", "Sci-Fi"]}]}
    )

    title: Title | None = None
    year: Year | None = None
    genres: Annotated[list[Genre], Field(max_length=32)] | None = None
    imdb_id: OutsideId | None = None
    tmdb_id: OutsideId | None = None


class MovieRecord(BaseModel):
    """A movie; `title` is empty while only ratings have named it."""

    model_config = ConfigDict(from_attributes=True)

    movie_id: str = Field(examples=["50"])
    title: str = Field(examples=["Star Wars"])
    year: int | None = Field(examples=[1977])
    genres: list[str] = Field(examples=[["Action", "Sci-Fi"]])
    imdb_id: str | None = Field(examples=["tt0076759"])
    tmdb_id: str | None = Field(examples=["11"])


@router.get("", operation_id="list_movies")
def list_movies(
    call: ReadCall,
    query: Annotated[str, Query(max_length=200, description="beginnings of words of the title")] = "",
    genre: GenreFilter = None,
    year_from: YearFilter = None,
    year_to: YearFilter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[MovieRecord]:
    """Search and filter the catalogue; case and accents do not matter."""
    with call.reading() as session:
        page = search.page(
            session,
            query=query,
            genre=genre,
            year_from=year_from,
            year_to=year_to,
            limit=limit,
            cursor=cursor,
        )
        return page.map(MovieRecord.model_validate)


@router.get("/{movie}", responses=declared(404), operation_id="get_movie")
def get_movie(movie: PathId, call: ReadCall) -> MovieRecord:
    """One movie."""
    with call.reading() as session:
        return MovieRecord.model_validate(movies.get(session, movie))


@router.put("/{movie}", operation_id="put_movie")
def put_movie(movie: PathId, body: MovieIn, call: WriteCall) -> MovieRecord:
    """Add a movie, or complete and change it."""
    fields = body.model_dump(exclude={"genres"})
    entry = MovieEntry(movie, genres=None if body.genres is None else tuple(body.genres), **fields)
    with call.writing() as session:
        movies.store(session, [entry], now=datetime.now(UTC))
        return MovieRecord.model_validate(movies.get(session, movie))

"""The catalogue over HTTP."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app import catalogue
from app.api.dependencies import Reading, Writing, needs
from app.api.problems import declared
from app.api.schemas import Cursor, Limit, Page, PathId, Strict, Title, Year, clean_words
from app.catalogue import MovieEntry

router = APIRouter(prefix="/v1/movies", tags=["movies"])


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


class MovieView(BaseModel):
    """A movie; `title` is empty while only ratings have named it."""

    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    imdb_id: str | None
    tmdb_id: str | None


@router.get("", dependencies=[needs("read")], responses=declared(), operation_id="list_movies")
def list_movies(
    session: Reading,
    query: Annotated[str, Query(max_length=200, description="beginnings of words of the title")] = "",
    genre: GenreFilter = None,
    year_from: YearFilter = None,
    year_to: YearFilter = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[MovieView]:
    """Search and filter the catalogue; case and accents do not matter."""
    movies, next_cursor = catalogue.page(
        session, query=query, genre=genre, year_from=year_from, year_to=year_to, limit=limit, cursor=cursor
    )
    return Page(items=[MovieView.model_validate(movie) for movie in movies], next_cursor=next_cursor)


@router.get("/{movie}", dependencies=[needs("read")], responses=declared(404), operation_id="get_movie")
def get_movie(movie: PathId, session: Reading) -> MovieView:
    """One movie."""
    return MovieView.model_validate(catalogue.get(session, movie))


@router.put("/{movie}", dependencies=[needs("write")], responses=declared(), operation_id="put_movie")
def put_movie(movie: PathId, body: MovieIn, session: Writing) -> MovieView:
    """Add a movie, or complete and change it."""
    fields = body.model_dump(exclude={"genres"})
    entry = MovieEntry(movie, genres=None if body.genres is None else tuple(body.genres), **fields)
    catalogue.store(session, [entry], now=datetime.now(UTC))
    return MovieView.model_validate(catalogue.get(session, movie))

"""Recommendations and predictions over HTTP: for stored users, and for ratings in the body."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from app import recommendations
from app.api.dependencies import Reading, ServingNow, SettingsNow, needs
from app.api.movies import Genre, GenreFilter, YearFilter
from app.api.problems import declared
from app.api.schemas import (
    MAX_LIMIT,
    MAX_PROFILE,
    GivenRating,
    Id,
    Limit,
    PathId,
    Strategy,
    Strict,
    Year,
    stars_by_movie,
)
from app.recommendations import Wanted

router = APIRouter(prefix="/v1", tags=["recommendations"])

MAX_MOVIES = 1_000  # movies in one request for predictions, or to leave out of a list

Exclude = Annotated[list[Id], Field(max_length=MAX_MOVIES)]


class RecommendIn(Strict):
    """Ratings to fold in, and what the list should hold. Nothing of it is stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"ratings": [{"movie_id": "50", "stars": 5}, {"movie_id": "172", "liked": True}], "limit": 10}
            ]
        }
    )

    ratings: Annotated[list[GivenRating], Field(max_length=MAX_PROFILE)]
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 10
    exclude: Exclude = Field(default_factory=list)
    genre: Genre | None = None
    year_from: Year | None = None
    year_to: Year | None = None
    include_rated: bool = False


class PredictIn(Strict):
    """Ratings to fold in, and the movies in question. Nothing of it is stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ratings": [{"movie_id": "50", "stars": 5}], "movie_ids": ["172", "181"]}]
        }
    )

    ratings: Annotated[list[GivenRating], Field(max_length=MAX_PROFILE)]
    movie_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_MOVIES)]


class ItemView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    rank: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    score: float = Field(description="what the list is ranked by; comparable within one model version")
    like_probability: float | None = Field(
        description="calibrated probability that the user likes the movie, given that they watch and rate it"
    )


class ListView(BaseModel):
    """A ranked list."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    user_id: str | None
    model_version: int | None = Field(description="the version that ranked; null before the first one")
    strategy: Strategy = Field(
        description="rbm; blended: few ratings, leaning on popularity; popular: nothing known of the user"
    )
    ignored_movie_ids: list[str] = Field(description="rated, but unknown to this version")
    items: list[ItemView]


class PredictionView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    like_probability: float | None = Field(description="null for a movie that the version does not know")


class PredictionsView(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model_version: int | None
    items: list[PredictionView]


@router.get(
    "/users/{user}/recommendations",
    dependencies=[needs("read")],
    responses=declared(),
    operation_id="recommend_for_user",
)
def recommend_for_user(
    user: PathId,
    session: Reading,
    serving: ServingNow,
    limit: Limit = 10,
    exclude: Annotated[list[Id], Query(max_length=MAX_MOVIES, description="movies to leave out")] = [],  # noqa: B006
    genre: GenreFilter = None,
    year_from: YearFilter = None,
    year_to: YearFilter = None,
    include_rated: bool = False,
) -> ListView:
    """The best movies that a user has not rated, by the ratings stored at this moment.

    An unknown user gets the popular movies; a user who has rated everything gets an empty list.
    """
    wanted = Wanted(limit, exclude, genre, year_from, year_to, include_rated)
    return ListView.model_validate(recommendations.for_user(session, serving, user, wanted))


@router.post(
    "/recommendations", dependencies=[needs("read")], responses=declared(413), operation_id="recommend"
)
def recommend(body: RecommendIn, session: Reading, serving: ServingNow, settings: SettingsNow) -> ListView:
    """The same for ratings in the body: for anyone, at once, and nothing is stored."""
    stars = stars_by_movie(body.ratings, settings)
    wanted = Wanted(body.limit, body.exclude, body.genre, body.year_from, body.year_to, body.include_rated)
    return ListView.model_validate(recommendations.for_ratings(session, serving, stars, wanted))


@router.get("/popular", dependencies=[needs("read")], responses=declared(), operation_id="list_popular")
def list_popular(
    session: Reading,
    serving: ServingNow,
    limit: Limit = 10,
    genre: GenreFilter = None,
    year_from: YearFilter = None,
    year_to: YearFilter = None,
) -> ListView:
    """What anybody gets of whom nothing is known."""
    wanted = Wanted(limit, (), genre, year_from, year_to)
    return ListView.model_validate(recommendations.popular(session, serving, wanted))


@router.get(
    "/users/{user}/predictions",
    dependencies=[needs("read")],
    responses=declared(),
    operation_id="predict_for_user",
)
def predict_for_user(
    user: PathId,
    session: Reading,
    serving: ServingNow,
    movie_id: Annotated[list[Id], Query(min_length=1, max_length=MAX_MOVIES)],
) -> PredictionsView:
    """How likely a user is to like these movies, given that they watch and rate them."""
    found = recommendations.predictions_for_user(session, serving, user, movie_id)
    return _predictions(serving, found)


@router.post("/predictions", dependencies=[needs("read")], responses=declared(413), operation_id="predict")
def predict(body: PredictIn, serving: ServingNow, settings: SettingsNow) -> PredictionsView:
    """The same for ratings in the body; nothing is stored."""
    stars = stars_by_movie(body.ratings, settings)
    return _predictions(serving, recommendations.predictions(serving, stars, body.movie_ids))


def _predictions(serving: ServingNow, found: list[recommendations.Prediction]) -> PredictionsView:
    return PredictionsView(
        model_version=serving.version if serving else None,
        items=[PredictionView.model_validate(one) for one in found],
    )

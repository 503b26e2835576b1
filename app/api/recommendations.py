"""Recommendations and predictions over HTTP, for users and for ratings in the body."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

from fastapi import Query
from pydantic import ConfigDict, Field, model_validator

from app.api.caching import NOT_MODIFIED, answer_conditionally
from app.api.dependencies import QuickReadCall, ReadCall
from app.api.movies import Genre
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import (
    MAX_LIMIT,
    MAX_PROFILE,
    Id,
    PathId,
    RatingInput,
    Strict,
    Year,
)
from app.errors import FieldError, InvalidInput
from app.ratings import read
from app.recommendations import groups, lists, predictions, similar, what_if
from app.recommendations.groups import Agreement, GroupList, Member
from app.recommendations.lists import LEAST_LIKES, ListQuery, RecommendationList
from app.recommendations.predictions import PredictionList
from app.recommendations.rating_input import stars_by_movie
from app.recommendations.similar import SimilarMovies
from app.recommendations.what_if import ComparedList
from app.storage.answers import Answer

router = new_router("/v1", "recommendations")

POPULAR_SECONDS = 60  # that a client may keep the popular list without asking
MAX_MOVIES = 1_000  # movies in one request for predictions, or to leave out of a list
MAX_USERS = 1_000  # in one batch
MAX_BATCH_LIMIT = 100  # movies in each list of a batch, so that the answer stays within some 20 MB
MAX_MEMBERS = 50  # of a group

ListCursor = Annotated[
    str | None, Field(max_length=30_000, description="next_cursor of the page before")
]  # longer than any of a list: nine bytes a movie, in base64
Diversity = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="0: best first; 1: each movie as unlike those before it as can be",
    ),
]
Exclude = Annotated[list[Id], Field(max_length=MAX_MOVIES)]


class Choosing(Strict):
    """Which movies a list may hold."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 10
    exclude: Exclude = Field(default_factory=list, description="ids of movies to leave out")
    genre: Genre | None = Field(None, description="a whole genre name, as the catalogue spells it")
    year_from: Year | None = None
    year_to: Year | None = None
    include_obscure: bool = Field(
        False,
        description=f"rank movies that fewer than {LEAST_LIKES} people liked in training like all others; "
        "otherwise they come after all others",
    )

    def list_query(self) -> ListQuery:
        """The domain's query; ratings and other fields stay behind."""
        names = {field.name for field in fields(ListQuery)}
        return ListQuery(**{name: value for name, value in self if name in names})


class Listing(Choosing):
    """Which movies a list may hold, and in which order."""

    cursor: ListCursor = None
    include_rated: bool = Field(False, description="rank rated movies, too")
    diversity: Diversity = 0.0


class Explaining(Listing):
    """Which movies a list may hold, in which order, and with reasons or not."""

    explain: bool = Field(
        False, description="name the ratings that speak for and against each movie, with their effects"
    )


class RecommendIn(Explaining):
    """Ratings to fold in, and which movies the list may hold. Nothing of it is stored.

    With a `user_id` the ratings count beside that user's stored ones, and the answer
    lists what changes.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ratings": [
                        {"movie_id": "50", "stars": 5},
                        {"title": "The Matrix", "year": 1999, "liked": True},
                    ],
                    "limit": 10,
                    "explain": True,
                },
                {"user_id": "42", "ratings": [{"movie_id": "50", "stars": 5}], "remove": ["172"]},
            ]
        }
    )

    user_id: Id | None = Field(None, description="whose stored ratings are folded in, too")
    ratings: Annotated[list[RatingInput], Field(max_length=MAX_PROFILE)] | None = Field(
        None, description="needed unless there is a user_id"
    )
    remove: Annotated[list[Id], Field(max_length=MAX_PROFILE)] = Field(
        default_factory=list, description="movies whose stored ratings are left out"
    )


class RecommendBatchIn(Choosing):
    """Users, and which movies the list of each may hold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_ids": ["42", "43"], "limit": 10}]})

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    limit: Annotated[int, Field(ge=1, le=MAX_BATCH_LIMIT)] = 10
    include_rated: bool = Field(False, description="rank rated movies, too")
    diversity: Diversity = 0.0


class MemberIn(Strict):
    """A member of a group: a user, or ratings."""

    user_id: Id | None = None
    ratings: Annotated[list[RatingInput], Field(max_length=MAX_PROFILE)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_of_the_two(cls, data: Any) -> Any:
        if isinstance(data, dict) and (data.get("user_id") is None) == (data.get("ratings") is None):
            raise ValueError("say either user_id or ratings")
        return data


class GroupIn(Listing):
    """Members of a group, and which movies their list may hold.

    Nothing of it is stored.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "members": [{"user_id": "42"}, {"ratings": [{"movie_id": "50", "stars": 5}]}],
                    "strategy": "least_misery",
                    "limit": 5,
                }
            ]
        }
    )

    members: Annotated[list[MemberIn], Field(min_length=1, max_length=MAX_MEMBERS)]
    strategy: Agreement = Field(
        "average", description="average: the mean of the members' scores; least_misery: the least of them"
    )


class PredictIn(Strict):
    """Ratings to fold in, and the movies in question. Nothing of it is stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ratings": [{"movie_id": "50", "stars": 5}], "movie_ids": ["172", "181"]}]
        }
    )

    ratings: Annotated[list[RatingInput], Field(max_length=MAX_PROFILE)]
    movie_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_MOVIES)]


@dataclass(frozen=True)
class RecommendationLists(Answer):
    """A list for each user, in the order of the request."""

    items: list[RecommendationList]


@router.get("/users/{user}/recommendations", responses=NOT_MODIFIED, operation_id="recommend_for_user")
def recommend_for_user(
    user: PathId, call: QuickReadCall, query: Annotated[Explaining, Query()]
) -> RecommendationList:
    """The best movies that a user has not rated, by the ratings stored at this moment.

    An unknown user gets the popular movies; a user who has rated everything gets an
    empty list.
    """
    with call.reading() as session:
        stars = read.profile(session, user)
        answer_conditionally(call, session, stars)
        return lists.for_ratings(session, call.loaded_version, stars, query.list_query(), user_id=user)


@router.post("/recommendations", responses=declared(413), operation_id="recommend")
def recommend(body: RecommendIn, call: QuickReadCall) -> ComparedList:
    """A list for ratings in the body, which are not stored.

    With a `user_id` it says what would be: the ratings of the body count beside the
    stored ones, those of `remove` do not, and `changes` lists what entered, left and
    moved.
    """
    query, loaded = body.list_query(), call.loaded_version
    with call.reading() as session:
        if body.ratings is None and body.user_id is None:
            raise _mistake("ratings", "say which ratings to fold in, or whose: ratings or user_id")
        if body.remove and body.user_id is None:
            raise _mistake("remove", "there is nothing to remove without a user_id")
        stars = stars_by_movie(body.ratings or [], call.settings, session)
        if body.user_id is None:
            return ComparedList(**vars(lists.for_ratings(session, loaded, stars, query)))
        return what_if.what_if(session, loaded, body.user_id, stars, body.remove, query)


@router.post("/recommendations/batch", responses=declared(413), operation_id="recommend_for_users")
def recommend_for_users(body: RecommendBatchIn, call: ReadCall) -> RecommendationLists:
    """The lists of many users at once, in the order of the request."""
    with call.reading() as session:
        ranked = lists.for_users(session, call.loaded_version, body.user_ids, body.list_query())
    return RecommendationLists(ranked)


@router.post("/recommendations/group", responses=declared(413), operation_id="recommend_for_group")
def recommend_for_group(body: GroupIn, call: QuickReadCall) -> GroupList:
    """One list for several people: users, ratings in the body, or both.

    What a member has rated is left out.
    """
    with call.reading() as session:
        members = [
            Member(
                member.user_id,
                stars_by_movie(member.ratings or [], call.settings, session, f"members[{place}].ratings"),
            )
            for place, member in enumerate(body.members)
        ]
        return groups.for_group(session, call.loaded_version, members, body.strategy, body.list_query())


@router.get("/popular", responses=NOT_MODIFIED, operation_id="list_popular")
def list_popular(call: QuickReadCall, query: Annotated[Listing, Query()]) -> RecommendationList:
    """The list for users without ratings."""
    with call.reading() as session:
        answer_conditionally(call, session, {})
        call.response.headers["Cache-Control"] = f"private, max-age={POPULAR_SECONDS}"
        return lists.popular(session, call.loaded_version, query.list_query())


@router.get(
    "/movies/{movie}/similar", responses=declared(404), operation_id="list_similar_movies", tags=["movies"]
)
def list_similar_movies(
    movie: PathId, call: QuickReadCall, query: Annotated[Choosing, Query()]
) -> SimilarMovies:
    """Movies like a movie, by the hidden states of users who love one of them alone."""
    with call.reading() as session:
        return similar.similar(session, call.loaded_version, movie, query.list_query())


@router.get("/users/{user}/predictions", responses=NOT_MODIFIED, operation_id="predict_for_user")
def predict_for_user(
    user: PathId,
    call: QuickReadCall,
    movie_id: Annotated[list[Id], Query(min_length=1, max_length=MAX_MOVIES)],
) -> PredictionList:
    """How likely a user is to like these movies, if they watch and rate them."""
    with call.reading() as session:
        stars = read.profile(session, user)
        answer_conditionally(call, session, stars)
    return predictions.predictions(call.loaded_version, stars, movie_id)


@router.post("/predictions", responses=declared(413), operation_id="predict")
def predict(body: PredictIn, call: QuickReadCall) -> PredictionList:
    """Like probabilities of movies by ratings in the body, which are not stored."""
    with call.reading() as session:
        stars = stars_by_movie(body.ratings, call.settings, session)
    return predictions.predictions(call.loaded_version, stars, body.movie_ids)


def _mistake(location: str, message: str) -> InvalidInput:
    return InvalidInput(f"{location}: {message}.", errors=[FieldError(location, message)])

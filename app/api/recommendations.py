"""Recommendations and predictions over HTTP: for stored users, and for ratings in the body."""

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy.orm import Session

from app import ratings, recommendations
from app.api.caching import NOT_MODIFIED, ConditionalNow
from app.api.dependencies import ReadingRoute, ServingNow, SettingsNow, reads
from app.api.movies import Genre
from app.api.problems import declared
from app.api.schemas import (
    MAX_LIMIT,
    MAX_PROFILE,
    GivenRating,
    Id,
    PathId,
    Strategy,
    Strict,
    Year,
)
from app.errors import FieldError, InvalidInput
from app.recommendations import Member, Wanted
from app.recommendations.given import stars_by_movie
from app.recommendations.groups import Agreement
from app.recommendations.lists import LEAST_LIKES, LONGEST_WALK

router = APIRouter(prefix="/v1", route_class=ReadingRoute, tags=["recommendations"])

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

    def wanted(self) -> Wanted:
        """The same for the domain."""
        names = {field.name for field in dataclasses.fields(Wanted)}
        return Wanted(**{name: value for name, value in self if name in names})


class Listing(Choosing):
    """What a list should hold, and in which order."""

    cursor: ListCursor = None
    include_rated: bool = Field(False, description="rank rated movies, too")
    diversity: Diversity = 0.0


class Explaining(Listing):
    """The same, with reasons."""

    explain: bool = Field(
        False, description="name the ratings that speak for and against each movie, with their effects"
    )


class RecommendIn(Explaining):
    """Ratings to fold in, and what the list should hold. Nothing of it is stored.

    With a `user_id` the ratings count as if that user had given them, too, and the answer says what changes.
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
    ratings: Annotated[list[GivenRating], Field(max_length=MAX_PROFILE)] | None = Field(
        None, description="needed unless there is a user_id"
    )
    remove: Annotated[list[Id], Field(max_length=MAX_PROFILE)] = Field(
        default_factory=list, description="movies whose stored ratings are left aside"
    )


class RecommendBatchIn(Choosing):
    """Users, and what the list of each should hold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_ids": ["42", "43"], "limit": 10}]})

    user_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_USERS)]
    limit: Annotated[int, Field(ge=1, le=MAX_BATCH_LIMIT)] = 10
    include_rated: bool = Field(False, description="rank rated movies, too")
    diversity: Diversity = 0.0


class MemberIn(Strict):
    """Somebody in a group: a user, or anybody's ratings."""

    user_id: Id | None = None
    ratings: Annotated[list[GivenRating], Field(max_length=MAX_PROFILE)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_of_the_two(cls, data: Any) -> Any:
        if isinstance(data, dict) and (data.get("user_id") is None) == (data.get("ratings") is None):
            raise ValueError("say either user_id or ratings")
        return data


class GroupIn(Listing):
    """The members of a group, and what their list should hold. Nothing of it is stored."""

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
        "average", description="average: what suits most; least_misery: what displeases nobody"
    )


class PredictIn(Strict):
    """Ratings to fold in, and the movies in question. Nothing of it is stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ratings": [{"movie_id": "50", "stars": 5}], "movie_ids": ["172", "181"]}]
        }
    )

    ratings: Annotated[list[GivenRating], Field(max_length=MAX_PROFILE)]
    movie_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_MOVIES)]


class ReasonView(BaseModel):
    """A rating and what it does to a movie's score."""

    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    title: str
    stars: float
    effect: float = Field(description="the movie's score minus what it would be without this rating")


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
    confidence: float | None = Field(
        description="0 to 1: how well the score is supported by what the user told and by the movie's ratings"
    )
    reasons: list[ReasonView] | None = Field(
        description="the ratings that speak for it most, the strongest first; null unless explain is true"
    )
    reasons_against: list[ReasonView] | None = Field(description="those that speak against it most")


_MOVIE: dict[str, Any] = {
    "rank": 1,
    "movie_id": "50",
    "title": "Star Wars",
    "year": 1977,
    "genres": ["Action", "Sci-Fi"],
}
_LIST: dict[str, Any] = {
    "user_id": "42",
    "model_version": 7,
    "strategy": "rbm",
    "ignored_movie_ids": [],
    "items": [
        {
            **_MOVIE,
            "score": -0.42,
            "like_probability": 0.93,
            "confidence": 0.81,
            "reasons": [{"movie_id": "172", "title": "Alien", "stars": 5.0, "effect": 0.12}],
            "reasons_against": [{"movie_id": "97", "title": "Grease", "stars": 1.0, "effect": -0.07}],
        }
    ],
    "next_cursor": "Mg",
}


class ListView(BaseModel):
    """A ranked list."""

    model_config = ConfigDict(
        from_attributes=True, protected_namespaces=(), json_schema_extra={"examples": [_LIST]}
    )

    user_id: str | None
    model_version: int | None = Field(description="the version that ranked; null before the first one")
    strategy: Strategy = Field(
        description="rbm; blended: few ratings, leaning on popularity; popular: nothing known of the user"
    )
    ignored_movie_ids: list[str] = Field(description="rated, but unknown to this version")
    items: list[ItemView]
    next_cursor: str | None = Field(
        description="pass it as `cursor` for the movies that follow; none comes twice, even when ratings or "
        f"a new version come in between; null at the end, and after {LONGEST_WALK} movies"
    )


class ChangeView(BaseModel):
    """A movie whose place differs."""

    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    title: str
    rank: int | None = Field(description="null where it left the list")
    rank_before: int | None = Field(description="null where it entered the list")


class ChangesView(BaseModel):
    """How the list differs from the user's present one of the same length."""

    model_config = ConfigDict(from_attributes=True)

    entered: list[ChangeView]
    left: list[ChangeView]
    moved: list[ChangeView]


class ComparedListView(ListView):
    """A ranked list, and how it differs from the user's present one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                _LIST
                | {
                    "changes": {
                        "entered": [{"movie_id": "50", "title": "Star Wars", "rank": 1, "rank_before": None}],
                        "left": [{"movie_id": "97", "title": "Grease", "rank": None, "rank_before": 10}],
                        "moved": [],
                    }
                }
            ]
        }
    )

    changes: ChangesView | None = Field(None, description="null without a user_id, and on later pages")


class ListsView(BaseModel):
    """A list for each user, in the order asked."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [_LIST]}]})

    items: list[ListView]


class MemberStateView(BaseModel):
    """How a member's scores were made."""

    model_config = ConfigDict(from_attributes=True)

    user_id: str | None
    strategy: Strategy
    ignored_movie_ids: list[str]


class LikingView(BaseModel):
    """How likely a member is to like a movie."""

    model_config = ConfigDict(from_attributes=True)

    user_id: str | None
    like_probability: float | None


class GroupItemView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    rank: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    score: float = Field(
        description="mean or least of the members' scores, each member's standardised over the movies that "
        "may be listed; comparable within one list"
    )
    like_probability: float | None = Field(description="the members' mean, or their least")
    members: list[LikingView] = Field(description="in the order asked")


class GroupListView(BaseModel):
    """A ranked list for all members."""

    model_config = ConfigDict(
        from_attributes=True,
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "model_version": 7,
                    "strategy": "least_misery",
                    "members": [
                        {"user_id": "42", "strategy": "rbm", "ignored_movie_ids": []},
                        {"user_id": None, "strategy": "blended", "ignored_movie_ids": []},
                    ],
                    "items": [
                        {
                            **_MOVIE,
                            "score": 1.9,
                            "like_probability": 0.81,
                            "members": [
                                {"user_id": "42", "like_probability": 0.93},
                                {"user_id": None, "like_probability": 0.81},
                            ],
                        }
                    ],
                    "next_cursor": "Mg",
                }
            ]
        },
    )

    model_version: int | None = Field(description="the version that ranked; null before the first one")
    strategy: Agreement
    members: list[MemberStateView]
    items: list[GroupItemView]
    next_cursor: str | None


class SimilarView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    rank: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    similarity: float = Field(
        description="cosine, from -1 to 1, of what the two movies say of somebody who loves them"
    )
    score: float = Field(description="what the list is ranked by: the similarity and a little popularity")


class SimilarListView(BaseModel):
    """Movies like a movie; none where the version does not know it."""

    model_config = ConfigDict(
        from_attributes=True,
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "movie_id": "172",
                    "title": "Alien",
                    "model_version": 7,
                    "items": [{**_MOVIE, "similarity": 0.61, "score": 0.43}],
                }
            ]
        },
    )

    movie_id: str
    title: str
    model_version: int | None
    items: list[SimilarView]


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
    responses=declared() | NOT_MODIFIED,
    operation_id="recommend_for_user",
)
@reads("read")
def recommend_for_user(
    user: PathId,
    session: Session,
    serving: ServingNow,
    conditional: ConditionalNow,
    query: Annotated[Explaining, Query()],
) -> ListView:
    """The best movies that a user has not rated, by the ratings stored at this moment.

    An unknown user gets the popular movies; a user who has rated everything gets an empty list.
    """
    stars = ratings.profile(session, user)
    conditional.check(session, serving, stars)
    found = recommendations.for_ratings(session, serving, stars, query.wanted(), user_id=user)
    return ListView.model_validate(found)


@router.post("/recommendations", responses=declared(413), operation_id="recommend")
@reads("read")
def recommend(
    body: RecommendIn, session: Session, serving: ServingNow, settings: SettingsNow
) -> ComparedListView:
    """The same for ratings in the body: for anyone, at once, and nothing is stored.

    With a `user_id` it says what would be: the ratings of the body count beside the stored ones, those of
    `remove` do not, and `changes` tells what entered, left and moved.
    """
    if body.ratings is None and body.user_id is None:
        raise _mistake("ratings", "say which ratings to fold in, or whose: ratings or user_id")
    if body.remove and body.user_id is None:
        raise _mistake("remove", "there is nothing to remove without a user_id")
    stars = stars_by_movie(body.ratings or [], settings, session)
    wanted = body.wanted()
    if body.user_id is None:
        found = recommendations.for_ratings(session, serving, stars, wanted)
        return ComparedListView.model_validate(found)
    found, changes = recommendations.what_if(session, serving, body.user_id, stars, body.remove, wanted)
    view = ComparedListView.model_validate(found)
    view.changes = None if changes is None else ChangesView.model_validate(changes)
    return view


@router.post(
    "/recommendations/batch",
    responses=declared(413),
    operation_id="recommend_for_users",
)
@reads("read", quick=False)
def recommend_for_users(body: RecommendBatchIn, session: Session, serving: ServingNow) -> ListsView:
    """The lists of many users at once, in the order asked; a user who is named twice has two."""
    found = recommendations.for_users(session, serving, body.user_ids, body.wanted())
    return ListsView(items=[ListView.model_validate(one) for one in found])


@router.post(
    "/recommendations/group",
    responses=declared(413),
    operation_id="recommend_for_group",
)
@reads("read")
def recommend_for_group(
    body: GroupIn, session: Session, serving: ServingNow, settings: SettingsNow
) -> GroupListView:
    """One list for several people: users, anybody's ratings, or both.

    What one of them has rated is left out.
    """
    members = [
        Member(
            one.user_id,
            stars_by_movie(one.ratings or [], settings, session, f"members[{place}].ratings"),
        )
        for place, one in enumerate(body.members)
    ]
    found = recommendations.for_group(session, serving, members, body.strategy, body.wanted())
    return GroupListView.model_validate(found)


@router.get(
    "/popular",
    responses=declared() | NOT_MODIFIED,
    operation_id="list_popular",
)
@reads("read")
def list_popular(
    session: Session,
    serving: ServingNow,
    conditional: ConditionalNow,
    response: Response,
    query: Annotated[Listing, Query()],
) -> ListView:
    """What anybody gets of whom nothing is known."""
    conditional.check(session, serving, {})
    response.headers["Cache-Control"] = f"private, max-age={POPULAR_SECONDS}"
    return ListView.model_validate(recommendations.popular(session, serving, query.wanted()))


@router.get(
    "/movies/{movie}/similar",
    responses=declared(404),
    operation_id="list_similar_movies",
    tags=["movies"],
)
@reads("read")
def list_similar_movies(
    movie: PathId, session: Session, serving: ServingNow, query: Annotated[Choosing, Query()]
) -> SimilarListView:
    """Movies like a movie, by what each says to the machine of somebody who loves it."""
    found = recommendations.similar(session, serving, movie, query.wanted())
    return SimilarListView.model_validate(found)


@router.get(
    "/users/{user}/predictions",
    responses=declared() | NOT_MODIFIED,
    operation_id="predict_for_user",
)
@reads("read")
def predict_for_user(
    user: PathId,
    session: Session,
    serving: ServingNow,
    conditional: ConditionalNow,
    movie_id: Annotated[list[Id], Query(min_length=1, max_length=MAX_MOVIES)],
) -> PredictionsView:
    """How likely a user is to like these movies, given that they watch and rate them."""
    stars = ratings.profile(session, user)
    conditional.check(session, serving, stars)
    return _predictions(serving, recommendations.predictions(serving, stars, movie_id))


@router.post("/predictions", responses=declared(413), operation_id="predict")
@reads("read")
def predict(body: PredictIn, session: Session, serving: ServingNow, settings: SettingsNow) -> PredictionsView:
    """The same for ratings in the body; nothing is stored."""
    stars = stars_by_movie(body.ratings, settings, session)
    return _predictions(serving, recommendations.predictions(serving, stars, body.movie_ids))


def _predictions(serving: ServingNow, found: list[recommendations.Prediction]) -> PredictionsView:
    return PredictionsView(
        model_version=serving.version if serving else None,
        items=[PredictionView.model_validate(one) for one in found],
    )


def _mistake(location: str, message: str) -> InvalidInput:
    return InvalidInput(f"{location}: {message}.", errors=[FieldError(location, message)])

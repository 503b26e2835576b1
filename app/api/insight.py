"""A user's taste, and what to ask them next, over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app import insight, ratings
from app.api.caching import NOT_MODIFIED, ConditionalNow
from app.api.dependencies import ReadingRoute, ServingNow, SettingsNow, reads
from app.api.problems import declared
from app.api.schemas import MAX_PROFILE, GivenRating, Id, PathId, Strict
from app.recommendations.given import stars_by_movie

router = APIRouter(prefix="/v1", route_class=ReadingRoute, tags=["insight"])

MOST_TRAITS = 20
MOST_QUESTIONS = 50
MOST_EXCLUDED = 1_000


class QuestionsIn(Strict):
    """What somebody has told so far. Nothing of it is stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ratings": [{"movie_id": "50", "stars": 5}], "limit": 3, "exclude": ["100"]}]
        }
    )

    ratings: Annotated[list[GivenRating], Field(max_length=MAX_PROFILE)]
    limit: Annotated[int, Field(ge=1, le=MOST_QUESTIONS)] = 5
    exclude: Annotated[
        list[Id], Field(max_length=MOST_EXCLUDED, description="not to ask about, such as what was not seen")
    ] = Field(default_factory=list)


class TraitMovieView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    effect: float = Field(description="how much the trait raises the movie's score above the mean movie's")


class TraitGenreView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    genre: str
    share: float = Field(description="of the twenty movies that the trait speaks for most")
    usual_share: float = Field(description="of all movies that are well known")


class TraitView(BaseModel):
    """A hidden unit that is more, or less, active in this user than in others who have rated as much."""

    model_config = ConfigDict(from_attributes=True)

    unit: int = Field(description="the hidden unit; its number means something within one version only")
    activity: float
    usual_activity: float
    stability: float = Field(
        description="how often the difference stays when a third of the ratings is left out; at least 0.9"
    )
    movies: list[TraitMovieView] = Field(description="what the trait speaks for, strongest first")
    genres: list[TraitGenreView] = Field(description="more frequent among them than elsewhere; may be empty")


class TasteView(BaseModel):
    """What tells a user from others; `items` is empty where nothing stable does."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    user_id: str
    model_version: int | None
    n_ratings: int = Field(description="that this version knows the movies of")
    items: list[TraitView]


class QuestionView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    movie_id: str
    title: str
    year: int | None
    genres: list[str]
    information: float | None = Field(
        description="expected change of the entropy of the hidden units by the answer, in nats"
    )
    seen_probability: float | None = Field(description="that the person has an answer")
    like_probability: float | None = Field(description="that an answer is a like, as the machine means it")


class QuestionsView(BaseModel):
    """The movies to ask about next, best first."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())

    user_id: str | None
    model_version: int | None = Field(
        description="null before the first one: then these are the movies with the most ratings"
    )
    items: list[QuestionView]


@router.get(
    "/users/{user}/taste",
    responses=declared() | NOT_MODIFIED,
    operation_id="get_taste",
)
@reads("read")
def get_taste(
    user: PathId,
    session: Session,
    serving: ServingNow,
    conditional: ConditionalNow,
    limit: Annotated[int, Query(ge=1, le=MOST_TRAITS, description="traits at most")] = 5,
) -> TasteView:
    """The hidden units that tell this user from others, each labelled by its strongest movies and genres.

    Only units that stay different when a third of the ratings is left out; there may be none.
    """
    stars = ratings.profile(session, user)
    conditional.check(session, serving, stars)
    return TasteView.model_validate(insight.taste(session, serving, user, stars, limit=limit))


@router.get(
    "/users/{user}/questions",
    responses=declared() | NOT_MODIFIED,
    operation_id="list_questions_for_user",
)
@reads("read")
def list_questions_for_user(
    user: PathId,
    session: Session,
    serving: ServingNow,
    conditional: ConditionalNow,
    limit: Annotated[int, Query(ge=1, le=MOST_QUESTIONS, description="movies at most")] = 5,
    exclude: Annotated[
        list[Id],
        Query(max_length=MOST_EXCLUDED, description="not to ask about, such as what was not seen"),
    ] = [],  # noqa: B006
) -> QuestionsView:
    """The unrated movies whose answers would tell most about this user.

    Ask one at a time where you can: the best second question depends on the first answer.
    """
    stars = ratings.profile(session, user)
    conditional.check(session, serving, stars)
    found = insight.ask(session, serving, stars, limit=limit, exclude=exclude, user_id=user)
    return QuestionsView.model_validate(found)


@router.post("/questions", responses=declared(413), operation_id="list_questions")
@reads("read")
def list_questions(
    body: QuestionsIn, session: Session, serving: ServingNow, settings: SettingsNow
) -> QuestionsView:
    """The same for ratings in the body: to get to know somebody who has not signed up; nothing is stored."""
    stars = stars_by_movie(body.ratings, settings, session)
    found = insight.ask(session, serving, stars, limit=body.limit, exclude=body.exclude)
    return QuestionsView.model_validate(found)

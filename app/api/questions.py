"""What to ask a user next, over HTTP."""

from typing import Annotated

from fastapi import Query
from pydantic import ConfigDict, Field

from app.api.caching import NOT_MODIFIED, answer_conditionally
from app.api.dependencies import QuickReadCall
from app.api.problems import declared
from app.api.routing import new_router
from app.api.schemas import MAX_PROFILE, Id, PathId, RatingInput, Strict
from app.ratings import read
from app.recommendations import questions
from app.recommendations.questions import QuestionList
from app.recommendations.rating_input import stars_by_movie

router = new_router("/v1", "insight")

MOST_QUESTIONS = 50
MOST_EXCLUDED = 1_000


class QuestionsIn(Strict):
    """The ratings so far. Nothing of it is stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ratings": [{"movie_id": "50", "stars": 5}], "limit": 3, "exclude": ["100"]}]
        }
    )

    ratings: Annotated[list[RatingInput], Field(max_length=MAX_PROFILE)]
    limit: Annotated[int, Field(ge=1, le=MOST_QUESTIONS)] = 5
    exclude: Annotated[
        list[Id], Field(max_length=MOST_EXCLUDED, description="not to ask about, such as what was not seen")
    ] = Field(default_factory=list)


@router.get("/users/{user}/questions", responses=NOT_MODIFIED, operation_id="list_questions_for_user")
def list_questions_for_user(
    user: PathId,
    call: QuickReadCall,
    limit: Annotated[int, Query(ge=1, le=MOST_QUESTIONS, description="movies at most")] = 5,
    exclude: Annotated[
        list[Id],
        Query(max_length=MOST_EXCLUDED, description="not to ask about, such as what was not seen"),
    ] = [],  # noqa: B006
) -> QuestionList:
    """The unrated movies whose answers would say most about this user.

    Ask one at a time where you can: the best second question depends on the first
    answer.
    """
    with call.reading() as session:
        stars = read.profile(session, user)
        answer_conditionally(call, session, stars)
        return questions.ask(session, call.loaded_version, stars, limit=limit, exclude=exclude, user_id=user)


@router.post("/questions", responses=declared(413), operation_id="list_questions")
def list_questions(body: QuestionsIn, call: QuickReadCall) -> QuestionList:
    """Questions for ratings in the body, which are not stored."""
    with call.reading() as session:
        stars = stars_by_movie(body.ratings, call.settings, session)
        return questions.ask(session, call.loaded_version, stars, limit=body.limit, exclude=body.exclude)

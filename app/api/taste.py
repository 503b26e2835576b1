"""A user's taste over HTTP."""

from typing import Annotated

from fastapi import Query

from app.api.caching import NOT_MODIFIED, answer_conditionally
from app.api.dependencies import QuickReadCall
from app.api.routing import new_router
from app.api.schemas import PathId
from app.ratings import read
from app.recommendations import taste
from app.recommendations.taste import Taste

router = new_router("/v1", "insight")

MOST_TRAITS = 20


@router.get("/users/{user}/taste", responses=NOT_MODIFIED, operation_id="get_taste")
def get_taste(
    user: PathId,
    call: QuickReadCall,
    limit: Annotated[int, Query(ge=1, le=MOST_TRAITS, description="traits at most")] = 5,
) -> Taste:
    """Hidden units by which this user differs, labelled by their movies and genres.

    Only units that stay different when a third of the ratings is left out; there may be
    none.
    """
    with call.reading() as session:
        stars = read.profile(session, user)
        answer_conditionally(call, session, stars)
        return taste.taste(session, call.loaded_version, user, stars, limit=limit)

"""`python -m benchmarks.constant same|bare`: what the real server is measured beside.

`same` is the whole application with two more routes, which do all that a list needs
except to recommend; `bare` is FastAPI with a single route and nothing around it.
"""

import sys

import uvicorn
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from app import logs
from app.api.dependencies import QuickReadCall
from app.api.recommendations import RecommendIn
from app.api.schemas import Limit, PathId
from app.main import create_app
from app.ratings import read as ratings
from app.recommendations.lists import RankedMovie, RecommendationList
from app.recommendations.rating_input import stars_by_movie
from app.recommendations.what_if import ComparedList
from app.settings import Settings


def constant_list(limit: int) -> RecommendationList:
    """What a list looks like, of arbitrary movies."""
    items = [
        RankedMovie(
            rank=rank,
            movie_id=str(rank),
            title=f"Film number {rank}",
            year=1990,
            genres=["Drama", "Western"],
            score=-1.25 * rank,
            like_probability=0.75,
            confidence=0.5,
        )
        for rank in range(1, limit + 1)
    ]
    return RecommendationList(user_id="42", model_version=1, strategy="rbm", items=items)


def add_constant_routes(app: FastAPI) -> None:
    """The real routes' key, SELECT, body, schema and middleware; constant lists."""
    router = APIRouter()

    @router.get("/constant/users/{user}/recommendations")
    def constant_for_user(user: PathId, call: QuickReadCall, limit: Limit = 10) -> RecommendationList:
        with call.reading() as session:
            ratings.profile(session, user)
        return constant_list(limit)

    @router.post("/constant/recommendations")
    def constant_for_ratings(body: RecommendIn, call: QuickReadCall) -> ComparedList:
        with call.reading() as session:
            stars_by_movie(body.ratings or [], call.settings, session)
        return ComparedList(**vars(constant_list(body.limit)))

    app.include_router(router)


class Answer(BaseModel):
    movie_ids: list[str]


def bare_app() -> FastAPI:
    """The framework alone: one coroutine, one small declared answer."""
    app = FastAPI()

    @app.get("/bare")
    async def bare() -> Answer:
        return Answer(movie_ids=["1", "2", "3"])

    @app.get("/health/ready")
    async def ready() -> Answer:
        return Answer(movie_ids=[])

    return app


def main(kind: str) -> None:
    """Serve as `harmonium serve` does, on the port of the settings."""
    settings = Settings()
    if kind == "same":
        logs.configure(settings)
        app = create_app(settings)
        add_constant_routes(app)
    else:
        app = bare_app()
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main(sys.argv[1])

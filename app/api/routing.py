"""Routers and routes of the API."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from app.api.problems import OF_EVERY_ROUTE, declared


class Route(APIRoute):
    """A route whose function takes one trip to a thread.

    FastAPI takes a second one to validate what a plain function returns. An answer is a
    checked type already, and a trip costs about as much as a small list.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if not inspect.iscoroutinefunction(endpoint):
            endpoint = _in_thread(endpoint)
        super().__init__(path, endpoint, **options)


def new_router(prefix: str, tag: str) -> APIRouter:
    """A router for routes that need a key."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=Route, responses=declared(*OF_EVERY_ROUTE))


def _in_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def endpoint(**arguments: Any) -> Any:
        return await run_in_threadpool(function, **arguments)

    return endpoint

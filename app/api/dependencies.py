"""What routes ask for: settings, sessions, the machines that serve, and leave to do what they do."""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, cast
from urllib.parse import urlsplit

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import Depends, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app import access
from app.access import Role
from app.api.failed_keys import FailedKeys
from app.database import CATALOGUE_GENERATION, Database
from app.errors import Forbidden, TooManyFailures, Unauthenticated, Unavailable
from app.model_registry import ActiveMachines, Serving
from app.settings import LOOPBACK_HOSTS, Settings

# Only documents the scheme in OpenAPI; `_require` gives the errors.
_bearer = HTTPBearer(auto_error=False, description="An API key, as `harmonium keys create` prints it.")


# Coroutines, though they wait for nothing: FastAPI sends any other function to a thread and back.


async def get_settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def get_active_machines(request: Request) -> ActiveMachines:
    return cast(ActiveMachines, request.app.state.active_machines)


async def get_serving(machines: Annotated[ActiveMachines, Depends(get_active_machines)]) -> Serving | None:
    """The version that serves this request from beginning to end; None before the first one."""
    return machines.current


def get_reading_session(
    request: Request, database: Annotated[Database, Depends(get_database)]
) -> Iterator[Session]:
    with database.reading() as session:
        # As it was when the key was looked at, a moment ago; a user's ratings bring a newer one along.
        known = getattr(request.state, CATALOGUE_GENERATION, None)
        if known is not None:
            session.info[CATALOGUE_GENERATION] = known
        yield session


def get_writing_session(database: Annotated[Database, Depends(get_database)]) -> Iterator[Session]:
    with database.writing() as session:
        yield session


SettingsNow = Annotated[Settings, Depends(get_settings)]
DatabaseNow = Annotated[Database, Depends(get_database)]
ServingNow = Annotated[Serving | None, Depends(get_serving)]
# With the scope "function" a session commits before the answer leaves: a failing commit is an error that the
# client sees. FastAPI's default would answer first.
Reading = Annotated[Session, Depends(get_reading_session, scope="function")]
Writing = Annotated[Session, Depends(get_writing_session, scope="function")]


@dataclass(frozen=True)
class Caller:
    """Who asks: the key that came along, and where it is looked up."""

    request: Request
    settings: Settings
    database: Database
    credentials: HTTPAuthorizationCredentials | None

    def must_be(self, role: Role, session: Session) -> None:
        """Raise unless the key is in force and of this role or a greater one.

        Without a key that is so for this machine's own callers while there are no keys at all.
        """
        if self.credentials is None:
            if self.settings.listens_on_loopback and not access.any_key(session):
                _refuse_strangers(self.request)
                return
            raise Unauthenticated("Send an API key as: Authorization: Bearer KEY")
        key = access.authenticate(session, self.credentials.credentials)
        if key is None:
            raise _unknown_key(self.request)
        if not access.allows(key.role, role):
            raise Forbidden(f"This needs a key with the role {role}; yours has the role {key.role}.")

    def check(self, role: Role) -> None:
        """`must_be` in a session of its own."""
        with self.database.reading() as session:
            self.must_be(role, session)
            setattr(self.request.state, CATALOGUE_GENERATION, session.info.get(CATALOGUE_GENERATION))


async def get_caller(
    request: Request,
    settings: SettingsNow,
    database: DatabaseNow,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    return Caller(request, settings, database, credentials)


CallerNow = Annotated[Caller, Depends(get_caller)]


def _require(role: Role) -> Callable[..., None]:
    def check(caller: CallerNow) -> None:
        caller.check(role)

    return check


Answer: TypeAlias = Callable[..., Coroutine[Any, Any, Response]]


def reads(role: Role, *, quick: bool = True) -> Callable[[Callable[..., BaseModel]], Answer]:
    """Let a function that only reads answer a route, for callers with a key of this role or a greater one.

    Key, function and answer share one session and one trip to a thread. As dependencies, FastAPI would send
    the check, the beginning and the end of the session, the function and the validation of what it returns to
    a thread and back, one after the other, with a session for the key alone: that takes about as long as
    making a list. The function gets the session as `session`; what it returns is written as JSON as it is.
    The router's `route_class` must be `ReadingRoute`.

    Args:
        role: what the key must be good for.
        quick: take one of the few threads for quick answers. Python runs one thread at a time, and many that
            want to run slow one another down; nobody here waits for a lock, as writers do.
    """

    def decorate(function: Callable[..., BaseModel]) -> Answer:
        asked = inspect.signature(function)

        @functools.wraps(function)
        async def answer(*, caller: Caller, sub_response: Response, **given: Any) -> Response:
            if "response" in asked.parameters:
                given["response"] = sub_response

            def work() -> bytes:
                with caller.database.reading() as session:
                    caller.must_be(role, session)
                    found = function(session=session, **given)
                return found.__pydantic_serializer__.to_json(found, by_alias=True)

            if quick:
                async with _quick_thread(caller):
                    content = await to_thread.run_sync(work)
            else:
                content = await to_thread.run_sync(work)
            made = Response(content, media_type="application/json")
            # What the function and its dependencies have set; FastAPI adds it to answers of its own only.
            made.raw_headers.extend(sub_response.raw_headers)
            return made

        kept = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, one in asked.parameters.items()
            if name not in ("session", "response")
        ]
        own = [
            inspect.Parameter("caller", inspect.Parameter.KEYWORD_ONLY, annotation=CallerNow),
            inspect.Parameter("sub_response", inspect.Parameter.KEYWORD_ONLY, annotation=Response),
        ]
        # Where FastAPI looks for what a function wants, and ReadingRoute for whom it answers.
        vars(answer).update(__signature__=asked.replace(parameters=[*kept, *own]), needed_role=role)
        return answer

    return decorate


@asynccontextmanager
async def _quick_thread(caller: Caller) -> AsyncIterator[None]:
    """One of the places for quick answers; `Unavailable` where none becomes free in time."""
    places: CapacityLimiter = caller.request.app.state.quick_threads
    borrower = object()
    try:
        with fail_after(caller.settings.database_timeout):
            await places.acquire_on_behalf_of(borrower)
    except TimeoutError as error:
        raise Unavailable("There are more requests than can be answered. Try again shortly.") from error
    try:
        yield
    finally:
        places.release_on_behalf_of(borrower)


class ReadingRoute(APIRoute):
    """A route of `reads`, at which a missing key is told before what is wrong with the question."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        role: Role = vars(self.endpoint)["needed_role"]  # a KeyError: the function lacks its @reads

        async def answer_key_holders(request: Request) -> Response:
            try:
                return await answer(request)
            except RequestValidationError:
                settings, database = await get_settings(request), await get_database(request)
                caller = Caller(request, settings, database, await _bearer(request))
                await run_in_threadpool(caller.check, role)
                raise

        return answer_key_holders


def _unknown_key(request: Request) -> Unauthenticated | TooManyFailures:
    """What a key that is not in force is answered: 401, and 429 to whoever sends many of them."""
    failed: FailedKeys = request.app.state.failed_keys
    seconds = failed.count(request.client.host if request.client else None)
    if seconds is None:
        return Unauthenticated("This API key is unknown or was revoked.")
    return TooManyFailures(
        "This API key is unknown or was revoked, and too many such keys came from this address. "
        f"Try again in {seconds} s; a key that is in force is taken at any time.",
        retry_after_seconds=seconds,
    )


def _refuse_strangers(request: Request) -> None:
    """Keep the pages of other sites, open in a browser on this machine, from using the open service.

    They may come by a name of their own that points to 127.0.0.1 (DNS rebinding), or send a form or a file
    across (cross-site request forgery).
    """
    origin = request.headers.get("origin")
    if request.url.hostname in LOOPBACK_HOSTS and (
        origin is None or urlsplit(origin).hostname in LOOPBACK_HOSTS
    ):
        return
    raise Forbidden(
        "Without API keys only this machine's own names are answered, and no page of another site: use "
        "http://127.0.0.1, or make a key with: harmonium keys create --name admin --role admin"
    )


def needs(role: Role) -> Any:
    """A route's leave: a key of this role or a greater one, or none on loopback while there are no keys."""
    return Depends(_require(role))

"""The call of a route: who may make it, and what it works with.

Every route has a parameter of the type `ReadCall`, `QuickReadCall`, `WriteCall` or
`AdminCall`. The key is checked where a session opens, so check, session and work share
one trip to a thread; as dependencies of FastAPI each of them would take one.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from anyio import CapacityLimiter, fail_after
from fastapi import Depends, Request, Response, Security
from fastapi.security import HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from sqlalchemy.orm import Session

from app import access
from app.access import Role
from app.api.failed_keys import FailedKeys
from app.errors import Forbidden, TooManyFailures, Unauthenticated, Unavailable
from app.model_versions.serving import LoadedVersion
from app.settings import LOOPBACK_HOSTS, Settings
from app.storage.database import Database


class Call:
    """A request to a route that needs a role.

    Attributes:
        request: the request itself.
        response: headers and status set here are those of the answer.
        role: what the key must allow.
        settings: of this process.
        database: of this process. Its sessions check no key: use `reading` and
            `writing`.
        loaded_version: the version that serves this request from beginning to end; None
            before the first one.
    """

    def __init__(self, request: Request, response: Response, role: Role) -> None:
        state = request.app.state
        self.request = request
        self.response = response
        self.role = role
        self.settings: Settings = state.settings
        self.database: Database = state.database
        self.loaded_version: LoadedVersion | None = state.version_watcher.current

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A reading session in which the key has been checked."""
        with self.database.reading() as session:
            self._check_key(session)
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A writing session, which commits at the end of the block.

        The key is checked before: a caller without a key must not take SQLite's write
        lock.
        """
        self.check_key()
        with self.database.writing() as session:
            yield session

    def check_key(self) -> None:
        """Check the key in a session of its own, where a route needs no other."""
        with self.reading():
            pass

    def _check_key(self, session: Session) -> None:
        """Raise unless the key is in force and of this role or a greater one.

        While there are no keys at all, callers of this machine need none.
        """
        scheme, secret = get_authorization_scheme_param(self.request.headers.get("authorization"))
        if scheme.lower() != "bearer" or not secret:
            if self.settings.listens_on_loopback and not access.any_key(session):
                _refuse_foreign_origin(self.request)
                return
            raise Unauthenticated("Send an API key as: Authorization: Bearer KEY")
        key = access.authenticate(session, secret)
        if key is None:
            raise _unknown_key(self.request)
        if not access.allows(key.role, self.role):
            raise Forbidden(f"This needs a key with the role {self.role}; yours has the role {key.role}.")


class _Needs(HTTPBearer):
    """The dependency that makes a `Call`, as a coroutine: functions go to a thread."""

    def __init__(self, role: Role) -> None:
        super().__init__(
            scheme_name="HTTPBearer", description="An API key, as `harmonium keys create` prints it."
        )
        self._role = role

    async def __call__(self, request: Request, response: Response) -> Call:  # type: ignore[override]
        request.state.role = self._role  # for `problems`, where the input is not valid
        return Call(request, response, self._role)


ReadCall: TypeAlias = Annotated[Call, Security(_Needs("read"))]
WriteCall: TypeAlias = Annotated[Call, Security(_Needs("write"))]
AdminCall: TypeAlias = Annotated[Call, Security(_Needs("admin"))]


async def _quick_read(call: ReadCall) -> AsyncIterator[Call]:
    """A call that holds one of the few places for quick answers, or `Unavailable`.

    Python runs one thread at a time, and many that compute slow one another down.
    Writers, which may wait for a lock, need no place.
    """
    places: CapacityLimiter = call.request.app.state.quick_threads
    borrower = object()
    try:
        with fail_after(call.settings.database_timeout):
            await places.acquire_on_behalf_of(borrower)
    except TimeoutError as error:
        raise Unavailable("There are more requests than can be answered. Try again shortly.") from error
    try:
        yield call
    finally:
        places.release_on_behalf_of(borrower)


# With the scope "function" the place is free again before the answer is sent.
QuickReadCall: TypeAlias = Annotated[Call, Depends(_quick_read, scope="function")]


def _unknown_key(request: Request) -> Unauthenticated | TooManyFailures:
    """The error for a key that is not in force: 401, after too many 429."""
    failed: FailedKeys = request.app.state.failed_keys
    seconds = failed.count(request.client.host if request.client else None)
    if seconds is None:
        return Unauthenticated("This API key is unknown or was revoked.")
    return TooManyFailures(
        "This API key is unknown or was revoked, and too many such keys came from this address. "
        f"Try again in {seconds} s; a key that is in force is taken at any time.",
        retry_after_seconds=seconds,
    )


def _refuse_foreign_origin(request: Request) -> None:
    """Refuse pages of other sites that a browser on this machine has open.

    They may come by a name of their own that points to 127.0.0.1 (DNS rebinding), or
    send a form or a file across (cross-site request forgery).
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

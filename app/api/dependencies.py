"""What routes ask for: settings, sessions, the machines that serve, and leave to do what they do."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, cast
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from app import access
from app.access import Role
from app.database import CATALOGUE_GENERATION, Database
from app.errors import Forbidden, Unauthenticated
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


def _require(role: Role) -> Callable[..., None]:
    def check(
        request: Request,
        settings: SettingsNow,
        database: DatabaseNow,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    ) -> None:
        with database.reading() as session:
            if credentials is None:
                if settings.listens_on_loopback and not access.any_key(session):
                    _refuse_strangers(request)
                    return
                raise Unauthenticated("Send an API key as: Authorization: Bearer KEY")
            key = access.authenticate(session, credentials.credentials)
            setattr(request.state, CATALOGUE_GENERATION, session.info.get(CATALOGUE_GENERATION))
        if key is None:
            raise Unauthenticated("This API key is unknown or was revoked.")
        if not access.allows(key.role, role):
            raise Forbidden(f"This needs a key with the role {role}; yours has the role {key.role}.")

    return check


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

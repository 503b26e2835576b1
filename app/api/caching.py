"""What may be kept of an answer and for how long: `Cache-Control`, `Vary`, `ETag` and `304`.

Lists change with the next rating, so a client may keep them but has to ask; an `ETag` makes asking cheap. Two
answers have the same one exactly if they follow from the same ratings, model version, catalogue, question and
code.
"""

import hashlib
from array import array
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from sqlalchemy.orm import Session
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import catalogue
from app.model_registry import Serving

ASK_AGAIN = "private, no-cache"
KEEP_NOTHING = "no-store"
CODE = version("harmonium")

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "What `If-None-Match` names is still right; there is no body"}
}


class Conditional:
    """The `If-None-Match` of one request and the `ETag` of its answer."""

    def __init__(self, request: Request, response: Response) -> None:
        self._request = request
        self._response = response

    def check(self, session: Session, serving: Serving | None, stars: dict[str, float]) -> None:
        """Answer 304 here and now if the client has what this request would give; else set the `ETag`.

        Args:
            session: where the ratings were read, so that all that the answer follows from is of one moment.
            serving: the version; without one lists follow from everybody's ratings, and get no `ETag`.
            stars: the ratings that the answer follows from, in the order in which they are always read.
        """
        if serving is None:
            return
        scope = self._request.scope
        facts = (
            CODE,
            (serving.version, serving.generation),
            catalogue.generation(session),
            (scope["path"], scope["query_string"]),
            "\0".join(stars),  # no id holds a control character
        )
        digest = hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass"))
        digest.update(array("d", stars.values()))
        etag = f'"{digest.hexdigest()[:32]}"'
        if _names(self._request.headers.get("if-none-match"), etag):
            raise HTTPException(304, headers={"ETag": etag, "Cache-Control": ASK_AGAIN})
        self._response.headers["ETag"] = etag


def _names(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    given = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return "*" in given or etag in given


async def get_conditional(request: Request, response: Response) -> Conditional:
    return Conditional(request, response)


ConditionalNow = Annotated[Conditional, Depends(get_conditional)]


class CacheHeaders:
    """ASGI middleware: what every answer says that does not say otherwise.

    What was read with a key is for its holder alone. Errors, what administrators see (keys among it), and
    answers to anything but reading are not kept at all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]

        async def send_with_rule(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if path.startswith(("/v1/", "/metrics", "/health")):
                    headers.add_vary_header("Authorization")
                    kept = path.startswith("/v1/") and not path.startswith("/v1/admin")
                    kept = kept and method in ("GET", "HEAD") and message["status"] < 400
                    headers.setdefault("Cache-Control", ASK_AGAIN if kept else KEEP_NOTHING)
            await send(message)

        await self.app(scope, receive, send_with_rule)

"""How long clients may keep an answer: `Cache-Control`, `Vary`, `ETag` and `304`.

Lists change with the next rating, so a client may keep them but has to ask; an `ETag`
makes asking cheap. Two answers have equal ETags exactly if they follow from equal
ratings, model version, catalogue, query and code.
"""

import hashlib
from array import array
from importlib.metadata import version
from typing import Any

from sqlalchemy.orm import Session
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dependencies import Call
from app.catalogue import cards

ASK_AGAIN = "private, no-cache"
KEEP_NOTHING = "no-store"
CODE = version("harmonium")

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "`If-None-Match` names the present answer; there is no body"}
}


def answer_conditionally(call: Call, session: Session, stars: dict[str, float]) -> None:
    """Set the `ETag` of a list; raise 304 at once where `If-None-Match` names it.

    Args:
        call: of the route.
        session: where the ratings were read, so that the `ETag` describes one moment.
        stars: the ratings that the answer follows from, in the order in which they are
            always read.
    """
    loaded = call.loaded_version
    if loaded is None:
        return  # before the first version lists follow from all users' ratings
    scope = call.request.scope
    facts = (
        CODE,
        (loaded.version, loaded.generation),
        cards.generation(session),
        (scope["path"], scope["query_string"]),
        "\0".join(stars),  # no id holds a control character
    )
    digest = hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass"))
    digest.update(array("d", stars.values()))
    etag = f'"{digest.hexdigest()[:32]}"'
    if _names(call.request.headers.get("if-none-match"), etag):
        raise HTTPException(304, headers={"ETag": etag, "Cache-Control": ASK_AGAIN})
    call.response.headers["ETag"] = etag


def _names(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    etags = {part.strip().removeprefix("W/") for part in if_none_match.split(",")}
    return "*" in etags or etag in etags


class CacheHeaders:
    """ASGI middleware: `Cache-Control` of every answer that sets none itself.

    Answers to a key are for its holder alone. Errors, answers to administrators (keys
    among them) and answers to writes are not kept at all.
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

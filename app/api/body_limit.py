"""A limit on the size of request bodies.

FastAPI's `max_body_size` is not used: Starlette answers it in plain text instead of a
problem.
"""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """ASGI middleware: reading a body beyond the limit raises 413 where it is read.

    Args:
        limit: bytes at most.
        exempt: paths with a limit of their own.
    """

    def __init__(self, app: ASGIApp, limit: int, exempt: frozenset[str]) -> None:
        self.app = app
        self.limit = limit
        self.exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.exempt:
            await self.app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        n_bytes = 0

        async def limited_receive() -> Message:
            nonlocal n_bytes
            if announced.isdigit() and int(announced) > self.limit:
                raise self._too_large()
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.limit:
                raise self._too_large()
            return message

        await self.app(scope, limited_receive, send)

    def _too_large(self) -> HTTPException:
        detail = f"The body of this request may have {self.limit:,} bytes at most. Send it in parts."
        return HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"})

"""An id, a log line and Prometheus metrics for every request."""

import re
import time
import uuid

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import answer_bug

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Telemetry:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "harmonium_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "harmonium_request_seconds",
            "Time to the last byte of the answer",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
            registry=self.registry,
        )
        self.model_version = Gauge(
            "harmonium_model_version", "Model version that serves; 0 before the first", registry=self.registry
        )
        self.model_version_refused = Gauge(
            "harmonium_model_version_refused",
            "1 while the active version cannot be used and an older one serves",
            registry=self.registry,
        )


class RequestTelemetry:
    """ASGI middleware. An `X-Request-ID` of the caller is kept if it is harmless."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex.encode()
        status = 500
        has_answered = False
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status, has_answered
            if message["type"] == "http.response.start":
                has_answered = True
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                log.exception("unexpected_error", path=scope["path"])
                if has_answered:
                    raise  # the server must cut the connection: the answer cannot be completed
                await answer_bug(Request(scope))(scope, receive, send_with_id)
            finally:
                seconds = time.perf_counter() - started
                # The route's pattern, not the path: a label for every user would never
                # end.
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"]
                self.telemetry.requests.labels(method, route, status).inc()
                self.telemetry.seconds.labels(method, route).observe(seconds)
                log.info(
                    "request",
                    method=method,
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 1),
                )

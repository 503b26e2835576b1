"""Training runs as server-sent events, by two threads and two connections at most.

Listeners are coroutines of the event loop. For each run that is listened to, one task
looks at the database twice a second; when something is new, listeners at the same place
share one reading. The wire format is FastAPI's; the route is in `training_runs`.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from fastapi.sse import format_sse_event
from sqlalchemy.orm import Session

from app.errors import HarmoniumError, Unavailable
from app.storage.database import Database
from app.training import events
from app.training.events import Position, RunEvent

log = structlog.get_logger()

LOOK_EVERY = 0.5  # seconds between two looks at a run that is listened to
KEEP_ALIVE_EVERY = 15.0  # seconds of silence, shorter than proxies cut a connection for
RECONNECT_AFTER = 2_000  # milliseconds, for browsers
READERS = 2  # threads, and connections, for all listeners of this process
LISTENERS_MAX = 1_000  # of this process

Result = TypeVar("Result")


class RunEventStreams:
    """The listeners of one process."""

    def __init__(self, database: Database, stopping: threading.Event) -> None:
        self._database = database
        self._stopping = stopping
        self._feeds: dict[int, _Feed] = {}
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="run-events")
        self.listeners = 0

    async def read(self, of_session: Callable[[Session], Result]) -> Result:
        """What `of_session` returns, in one of the few threads that listeners share."""

        def reading() -> Result:
            with self._database.reading() as session:
                return of_session(session)

        return await asyncio.get_running_loop().run_in_executor(self._readers, reading)

    async def first(self, run_id: int, position: Position) -> list[RunEvent]:
        """Events that a new listener has missed; empty only after the end of the run.

        Raises:
            NotFound: there is no such run.
            Unavailable: there are too many listeners already.
        """
        if self.listeners >= LISTENERS_MAX:
            raise Unavailable(
                f"{LISTENERS_MAX} listeners are as many as a process serves. Try again, or poll the run."
            )
        return await self.read(lambda session: events.since(session, run_id, position))

    async def stream(self, run_id: int, position: Position, missed: list[RunEvent]) -> AsyncIterator[bytes]:
        """The run's events as bytes for the wire, until its end, or this process's.

        Closing the iterator, as a client that goes away does, ends the subscription.
        """
        self.listeners += 1
        feed = self._feeds.get(run_id)
        if feed is None:
            feed = self._feeds[run_id] = _Feed(self, run_id)
        feed.listeners += 1
        try:
            yield format_sse_event(retry=RECONNECT_AFTER, comment=f"training run {run_id}")
            events = missed
            while True:
                for event in events:
                    yield _as_bytes(event)
                    position = event.position
                if position.is_end or self._stopping.is_set():
                    return
                try:
                    events = await asyncio.wait_for(feed.after(position), KEEP_ALIVE_EVERY)
                except TimeoutError:
                    events = []
                    yield format_sse_event(comment="still here")
        finally:
            self.listeners -= 1
            feed.listeners -= 1
            if feed.listeners == 0:
                feed.close()
                del self._feeds[run_id]

    def close(self) -> None:
        """Wait for readings at work: they must end before the database closes."""
        self._readers.shutdown()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()


class _Feed:
    """One run that is listened to."""

    def __init__(self, streams: RunEventStreams, run_id: int) -> None:
        self.listeners = 0
        self._streams = streams
        self._run_id = run_id
        self._news = asyncio.Event()
        # The readings since the last news, by where they begin.
        self._readings: dict[Position, asyncio.Task[list[RunEvent]]] = {}
        self._has_failed = False
        self._watching = asyncio.create_task(self._watch())

    def close(self) -> None:
        self._watching.cancel()

    async def after(self, position: Position) -> list[RunEvent]:
        """Wait for the events after a position; empty when the process stops."""
        while not self._streams.is_stopping:
            news = self._news  # before the reading: what is new meanwhile must not be waited for
            reading = self._readings.get(position)
            if reading is None:
                reading = self._readings[position] = asyncio.create_task(self._read(position))
            # Shielded: others wait for it, too.
            events = await asyncio.shield(reading)
            if events:
                return events
            await news.wait()
        return []

    async def _read(self, position: Position) -> list[RunEvent]:
        try:
            return await self._streams.read(lambda session: events.since(session, self._run_id, position))
        except HarmoniumError as error:
            self._has_failed = True  # so that the next look of the watch is news
            log.warning("run_events_not_read", run_id=self._run_id, error=error.detail)
            return []

    async def _watch(self) -> None:
        seen: object = None
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                try:
                    mark: object = await self._streams.read(
                        lambda session: events.mark(session, self._run_id)
                    )
                except HarmoniumError as error:
                    log.warning("run_events_not_watched", run_id=self._run_id, error=error.detail)
                    mark = None  # so that the next look that succeeds is news
                except Exception:
                    log.exception("run_events_not_watched", run_id=self._run_id)
                    mark = None
                if mark != seen or self._has_failed or self._streams.is_stopping:
                    seen, self._has_failed = mark, False
                    self._readings.clear()
                    self._news.set()
                    self._news = asyncio.Event()
                await asyncio.sleep(LOOK_EVERY)


def _as_bytes(event: RunEvent) -> bytes:
    data = json.dumps(event.data, default=lambda moment: moment.isoformat(), separators=(",", ":"))
    return format_sse_event(event=event.name, data_str=data, id=str(event.position))

"""Retraining over HTTP: idempotency, estimates, reruns, events, standing."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api.run_events import LISTENERS_MAX, RunEventStreams
from app.errors import NotFound, Unavailable
from app.main import create_app
from app.settings import Settings
from app.storage.database import Database
from app.training import events as run_events
from app.training import requests as training_runs
from app.training.events import START
from tests.tastes import store_tastes

RETRAIN = "/v1/admin/retrain"


def events_of(text: str) -> list[dict[str, Any]]:
    """Server-sent events by their specification: name, id and data, no comments."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            events.append({"event": fields["event"], "id": fields["id"], "data": json.loads(fields["data"])})
    return events


class TestIdempotency:
    def test_the_same_request_twice_is_one_run_and_one_answer(
        self, client: TestClient, tastes: None, work: Callable[[], None]
    ) -> None:
        headers = {"Idempotency-Key": "nightly-1"}
        first = client.post(RETRAIN, json={"epochs": 3, "note": "a"}, headers=headers)
        work()  # without the key, a request after the run's end would begin another
        again = client.post(RETRAIN, json={"note": "a", "epochs": 3}, headers=headers)
        assert (first.status_code, again.status_code) == (202, 202)
        assert again.json() == first.json()
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotency-Replayed"] == "true"
        assert "Idempotency-Replayed" not in first.headers
        assert len(client.get("/v1/admin/training-runs").json()["items"]) == 1
        other = client.post(RETRAIN, json={"epochs": 3, "note": "a"}, headers={"Idempotency-Key": "2"})
        assert other.headers["Location"] != first.headers["Location"]

    def test_another_body_under_the_key_is_refused(self, client: TestClient, tastes: None) -> None:
        headers = {"Idempotency-Key": "k"}
        client.post(RETRAIN, json={"epochs": 3}, headers=headers)
        answer = client.post(RETRAIN, json={"epochs": 4}, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["location"] == "header.idempotency-key"

    def test_a_refused_request_may_be_mended_under_its_key(self, client: TestClient, tastes: None) -> None:
        headers = {"Idempotency-Key": "k"}
        assert client.post(RETRAIN, json={"epochs": 0}, headers=headers).status_code == 422
        assert client.post(RETRAIN, json={"epochs": 1}, headers=headers).status_code == 202

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256])
    def test_a_key_that_is_none_is_refused(self, client: TestClient, tastes: None, key: str) -> None:
        answer = client.post(RETRAIN, headers={"Idempotency-Key": key})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["location"] == "header.idempotency-key"


class TestRetraining:
    def test_the_answer_says_what_the_fit_will_cost(self, client: TestClient, tastes: None) -> None:
        costs = client.post(RETRAIN, json={"epochs": 3, "hidden_units": 20}).json()["estimate"]
        assert costs["shape"] == {"n_users": 60, "n_movies": 30, "n_ratings": 720}
        assert 0 < costs["seconds"] < 60
        parts = {part: size for part, size in costs["memory"].items() if part != "model_file"}
        assert sum(parts.values()) == costs["memory_bytes"] < costs["available_bytes"]

    def test_what_cannot_fit_is_refused_with_what_would(self, database: Database, settings: Settings) -> None:
        store_tastes(database)
        tight = settings.model_copy(update={"training_memory_limit": 70_000_000})
        with TestClient(create_app(tight), base_url="http://127.0.0.1") as client:
            answer = client.post(RETRAIN, json={"hidden_units": 9_000})
            assert answer.status_code == 409
            problem = answer.json()
            assert problem["title"] == "There is not enough memory for this fit"
            assert [error["location"] for error in problem["errors"]] == ["hidden_units"]
            fits = int(problem["errors"][0]["message"].split()[0])
            assert client.post(RETRAIN, json={"hidden_units": fits}).status_code == 202

    def test_a_warm_start_is_requested_by_name(
        self, client: TestClient, tastes: None, work: Callable[[], None]
    ) -> None:
        assert client.post(RETRAIN, json={"warm_start": True}).status_code == 409
        assert client.post(RETRAIN, json={"warm_start": "yes"}).status_code == 422
        client.post(RETRAIN, json={"epochs": 3, "warm_start": False})
        work()
        path = client.post(RETRAIN, json={"warm_start": True}).headers["Location"]
        work()
        run = client.get(path).json()
        assert (run["state"], run["warm_start"], run["parent_version"]) == ("succeeded", True, 1)

    def test_a_rerun_is_requested_and_answered(
        self, client: TestClient, tastes: None, work: Callable[[], None]
    ) -> None:
        path = client.post(RETRAIN, json={"epochs": 3, "seed": 4}).headers["Location"]
        assert client.post(f"{path}/rerun").status_code == 409
        work()
        answer = client.post(f"{path}/rerun", json={"note": "again"})
        assert answer.status_code == 202
        work()
        run = client.get(answer.headers["Location"]).json()
        assert (run["trigger"], run["rerun_of"], run["note"]) == ("rerun", 1, "again")
        assert run["evaluation"]["rerun"]["same_parameters"]
        assert run["sha256"] == client.get(path).json()["sha256"]
        assert client.post("/v1/admin/training-runs/99/rerun").status_code == 404

    def test_runs_are_filtered_by_state(
        self, client: TestClient, tastes: None, work: Callable[[], None]
    ) -> None:
        client.post(RETRAIN, json={"epochs": 1})
        work()
        client.post(RETRAIN, json={"epochs": 1})
        for state, ids in (("succeeded", [1]), ("queued", [2]), ("failed", [])):
            items = client.get("/v1/admin/training-runs", params={"state": state}).json()["items"]
            assert [item["id"] for item in items] == ids
        assert client.get("/v1/admin/training-runs", params={"state": "lost"}).status_code == 422


class TestStanding:
    def test_it_says_how_stale_the_version_is_and_when_the_next_run_comes(
        self, client: TestClient, trained: int
    ) -> None:
        client.put("/v1/users/ann/ratings/even1", json={"stars": 4})
        seen = client.get("/v1/admin").json()
        assert seen["ratings"] == 721
        active = seen["active_version"]
        assert (active["version"], active["ratings"], active["changes_since"]) == (trained, 720, 1)
        following = seen["schedule"]["next_run"]
        assert following["more_changes"] == 9_999
        assert following["next_at"] is not None
        assert following["due"] is None
        assert "after 9999 more changed ratings or at " in following["why"]
        assert seen["jobs"] == {}

    def test_an_empty_service_has_an_answer_too(self, client: TestClient) -> None:
        seen = client.get("/v1/admin").json()
        assert (seen["ratings"], seen["active_version"]) == (0, None)
        assert "0 ratings" in seen["schedule"]["next_run"]["waits_for"]

    def test_the_queue_is_counted(self, client: TestClient, tastes: None) -> None:
        client.post(RETRAIN)
        assert client.get("/v1/admin").json()["jobs"] == {"training": {"queued": 1, "running": 0}}


class TestEvents:
    @pytest.fixture
    def path(self, client: TestClient, tastes: None, work: Callable[[], None]) -> str:
        location: str = client.post(RETRAIN, json={"epochs": 6}).headers["Location"]
        work()
        return f"{location}/events"

    def test_a_run_is_streamed_to_its_end(self, client: TestClient, path: str) -> None:
        answer = client.get(path)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        events = events_of(answer.text)
        assert [event["data"]["epoch"] for event in events if event["event"] == "epoch"] == [1, 2, 3, 4, 5, 6]
        assert events[-1]["event"] == "end"
        assert events[-1]["data"]["model_version"] == 1

    def test_it_goes_on_after_the_last_event_heard(self, client: TestClient, path: str) -> None:
        events = events_of(client.get(path).text)
        third = next(event for event in events if event["event"] == "epoch" and event["data"]["epoch"] == 3)
        rest = events_of(client.get(path, headers={"Last-Event-ID": third["id"]}).text)
        assert rest == events[events.index(third) + 1 :]
        done = client.get(path, headers={"Last-Event-ID": events[-1]["id"]})
        assert (done.status_code, done.content) == (204, b"")

    def test_mistakes_are_answered_before_the_stream_begins(self, client: TestClient, path: str) -> None:
        assert client.get("/v1/admin/training-runs/99/events").status_code == 404
        answer = client.get(path, headers={"Last-Event-ID": "17"})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["location"] == "header.last-event-id"

    def test_a_process_that_stops_ends_the_streams(
        self, client: TestClient, application: FastAPI, tastes: None
    ) -> None:
        location = client.post(RETRAIN).headers["Location"]  # queued, and no worker runs
        application.state.stopping.set()
        events = events_of(client.get(f"{location}/events").text)
        assert [event["data"]["state"] for event in events] == ["queued"]


_opened: list[RunEventStreams] = []


def opened(database: Database) -> RunEventStreams:
    _opened.append(RunEventStreams(database, threading.Event()))
    return _opened[-1]


class TestStreams:
    """The listeners of one process, without HTTP."""

    @pytest.fixture(autouse=True)
    def _closed(self, database: Database) -> Iterator[None]:
        yield
        while _opened:
            _opened.pop().close()

    @pytest.fixture
    def run_id(self, database: Database, settings: Settings) -> int:
        store_tastes(database)
        with database.writing() as session:
            return training_runs.request(session, {}, settings).run.id

    def test_listeners_share_threads_and_readings_and_leave_nothing_behind(
        self, database: Database, run_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        readings, at_once, most = 0, 0, 0
        counting = threading.Lock()
        real = run_events.since

        def counted(*arguments: Any) -> list[run_events.RunEvent]:
            nonlocal readings, at_once, most
            with counting:
                readings, at_once = readings + 1, at_once + 1
                most = max(most, at_once)
            try:
                return real(*arguments)
            finally:
                with counting:
                    at_once -= 1

        async def listen() -> None:
            monkeypatch.setattr(run_events, "since", counted)
            streams = opened(database)

            async def one() -> list[bytes]:
                missed = await streams.first(run_id, START)
                return [part async for part in streams.stream(run_id, START, missed)]

            listeners = [asyncio.create_task(one()) for _ in range(100)]
            while streams.listeners < 100:
                await asyncio.sleep(0.02)
            await asyncio.sleep(1.2)  # two looks, of which nothing comes
            before = readings
            await asyncio.to_thread(cancel)
            heard = await asyncio.gather(*listeners)
            assert readings - before < 20  # not one a listener
            assert most <= 2
            assert all(b"event: end" in parts[-1] for parts in heard)
            assert streams.listeners == 0
            assert streams._feeds == {}

        def cancel() -> None:
            with database.writing() as session:
                training_runs.cancel(session, run_id)

        asyncio.run(listen())

    def test_a_listener_that_goes_away_gives_everything_back(self, database: Database, run_id: int) -> None:
        async def listen() -> None:
            streams = opened(database)
            missed = await streams.first(run_id, START)
            stream: AsyncIterator[bytes] = streams.stream(run_id, START, missed)

            async def forever() -> None:
                async for _ in stream:
                    pass

            listening = asyncio.create_task(forever())
            while not streams._feeds:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.1)
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            await stream.aclose()  # type: ignore[attr-defined]
            assert (streams.listeners, streams._feeds) == (0, {})
            await asyncio.sleep(0)
            assert not [task for task in asyncio.all_tasks() if "_watch" in repr(task) and not task.done()]

        asyncio.run(listen())

    def test_silence_is_filled_with_comments(
        self, database: Database, run_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.api.run_events.KEEP_ALIVE_EVERY", 0.05)

        async def listen() -> None:
            streams = opened(database)
            missed = await streams.first(run_id, START)
            stream = streams.stream(run_id, START, missed)
            parts = [await anext(stream) for _ in range(4)]
            await stream.aclose()  # type: ignore[attr-defined]
            assert parts[0].startswith(b": ")
            assert b"event: state" in parts[1]
            assert parts[2] == parts[3] == b": still here\n\n"

        asyncio.run(listen())

    def test_a_database_that_is_away_for_a_while_ends_no_stream(
        self, database: Database, run_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = run_events.since
        away = threading.Event()

        def unreliable(*arguments: Any) -> list[run_events.RunEvent]:
            if away.is_set():
                raise Unavailable("away")
            return real(*arguments)

        async def listen() -> None:
            monkeypatch.setattr(run_events, "since", unreliable)
            streams = opened(database)
            missed = await streams.first(run_id, START)

            async def rest() -> bytes:
                return b"".join([part async for part in streams.stream(run_id, START, missed)])

            listening = asyncio.create_task(rest())
            await asyncio.sleep(0.7)
            away.set()
            await asyncio.to_thread(cancel)
            await asyncio.sleep(1.2)
            assert not listening.done()
            away.clear()
            assert b"event: end" in await asyncio.wait_for(listening, 20)

        def cancel() -> None:
            with database.writing() as session:
                training_runs.cancel(session, run_id)

        asyncio.run(listen())

    def test_too_many_listeners_and_unknown_runs_are_refused(self, database: Database, run_id: int) -> None:
        async def listen() -> None:
            streams = opened(database)
            with pytest.raises(NotFound):
                await streams.first(99, START)
            streams.listeners = LISTENERS_MAX
            with pytest.raises(Unavailable, match="poll the run"):
                await streams.first(run_id, START)

        asyncio.run(listen())

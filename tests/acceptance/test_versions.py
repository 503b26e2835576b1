"""Rows 17 to 20 of the faults: real processes that share one database."""

import hashlib
import io
import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from sqlalchemy import select, update

from app.model_versions import activation
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import ModelVersion, ModelVersionChunk
from tests.acceptance.service import Service
from tests.tastes import store_tastes, train_version

pytestmark = pytest.mark.acceptance

PATH = "/v1/admin/model-versions"
GIVEN = {"ratings": [{"movie_id": "even1", "stars": 5}, {"movie_id": "odd2", "stars": 1}], "limit": 10}
CONVERGED_WITHIN = 2.0  # seconds
ACTIVATIONS = 100


@pytest.fixture
def versions(database: Database, settings: Settings) -> list[int]:
    """Three versions that differ, active one after the other."""
    store_tastes(database)
    return [train_version(database, settings, epochs=10, hidden_units=5, seed=seed) for seed in range(3)]


@pytest.fixture
def services(database_url: str, versions: list[int], tmp_path: Path) -> Iterator[list[Service]]:
    """Two API processes on one database."""
    with ExitStack() as stack:
        made = []
        for name in ("one", "other"):
            folder = tmp_path / name
            folder.mkdir()
            service = Service(folder, database_url, with_worker=False)
            service.start()  # both at once
            stack.callback(service.stop)  # also if one of them does not become ready
            made.append(service)
        for service in made:
            service.wait_until(service.is_live, 180)  # two at once start slowly on a busy machine
        yield [stack.enter_context(service) for service in made]


def recommended(client: httpx2.Client) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json=GIVEN)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def activate(client: httpx2.Client, version: int) -> None:
    client.post(f"{PATH}/{version}/activate").raise_for_status()


def converge(services: list[Service], version: int) -> float:
    """Seconds until every process serves this version."""
    began = time.monotonic()
    while any(recommended(service.http)["model_version"] != version for service in services):
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    return time.monotonic() - began


def test_activations_back_and_forth_under_load_never_mix_versions(
    services: list[Service], versions: list[int]
) -> None:
    """Every response is of the version that it names; all processes end at the last."""
    first, second = versions[:2]
    expected = {}
    for version in (first, second):
        activate(services[0].http, version)
        converge(services, version)
        lists = [recommended(service.http) for service in services]
        assert lists[0] == lists[1]
        expected[version] = lists[0]
    assert expected[first]["items"] != expected[second]["items"]

    over = threading.Event()
    pauses = random.Random(0)
    seen: list[list[dict[str, Any]]] = [[] for _ in range(4)]  # by client

    def ask(number: int) -> None:
        service = services[number % len(services)]
        with httpx2.Client(base_url=service.http.base_url, timeout=60) as client:
            while not over.is_set():
                seen[number].append(recommended(client))

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]
        try:
            for number in range(ACTIVATIONS):
                activate(services[number % 2].http, (first, second)[number % 2])
                time.sleep(pauses.uniform(0.02, 0.2))  # uneven, so that polls find either version
            took = converge(services, second)
        finally:
            over.set()
        for one in asking:
            one.result()
    assert took < CONVERGED_WITHIN
    for answers in seen:
        named = [found["model_version"] for found in answers]
        assert set(named) == {first, second}
        assert sum(before != after for before, after in itertools.pairwise(named)) >= 3
        for found in answers:
            assert found == expected[found["model_version"]]


def test_of_parallel_activations_with_one_etag_one_wins(services: list[Service], versions: list[int]) -> None:
    """Row 20, through two processes."""
    for _ in range(5):
        etag = services[0].http.get(PATH).headers["ETag"]
        barrier = threading.Barrier(2)

        def attempt(number: int, etag: str = etag, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            path = f"{PATH}/{versions[number]}/activate"
            return services[number].http.post(path, headers={"If-Match": etag}).status_code

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(attempt, range(2))) == [200, 412]


def overwrite(database: Database, version: int, content: bytes, *, signed: bool) -> None:
    """Replace a version's bytes;

    `signed` makes the checksum fit, as a foreign writer would.
    """
    with database.writing() as session:
        session.execute(
            update(ModelVersionChunk).where(ModelVersionChunk.version == version).values(content=content)
        )
        if signed:
            digest = hashlib.sha256(content).hexdigest()
            session.execute(
                update(ModelVersion)
                .where(ModelVersion.version == version)
                .values(sha256=digest, n_bytes=len(content))
            )


class Touch:
    """Unpickling it makes a file: proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_damaged_bytes_are_skipped_at_the_start_and_it_is_said(
    database: Database, database_url: str, versions: list[int], tmp_path: Path
) -> None:
    """Rows 17 and 18: torn, flipped and pickled bytes of the active version."""
    _, before, active = versions
    with database.reading() as session:
        content = session.scalars(
            select(ModelVersionChunk.content).where(ModelVersionChunk.version == active)
        ).one()
    flipped = bytearray(content)
    flipped[-200] ^= 1
    proof = tmp_path / "code-ran"
    pickled = io.BytesIO()
    np.savez(pickled, weights=np.array([Touch(proof)], dtype=object))
    damages = [
        (content[: len(content) // 2], False),
        (bytes(flipped), False),
        (pickled.getvalue(), True),
    ]
    for damaged, signed in damages:
        overwrite(database, active, damaged, signed=signed)
        with Service(tmp_path, database_url, with_worker=False) as service:
            assert recommended(service.http)["model_version"] == before
            ready = service.http.get("/health/ready").json()
            assert (ready["ready"], ready["model_version"]) == (True, before)
            assert f"model version {active} " in ready["trouble"].lower()
            metrics = service.http.get("/metrics").text.splitlines()
            assert "harmonium_model_version_refused 1.0" in metrics
            assert f"harmonium_model_version {before:.1f}" in metrics
            assert service.http.post(f"{PATH}/{active}/activate").status_code == 409
            assert service.http.get(f"{PATH}/{active}/compare?with={before}").status_code == 409
            activate(service.http, before)
            service.wait_until(lambda: service.http.get("/health/ready").json()["trouble"] is None, 30)
            assert "harmonium_model_version_refused 0.0" in service.http.get("/metrics").text.splitlines()
        overwrite(database, active, content, signed=True)
        with database.writing() as session:
            activation.activate(session, active)
    assert not proof.exists()

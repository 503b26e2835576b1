"""Requests a second on a tiny scale, with real servers and, if installed, wrk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.errors import Misconfigured
from app.main import create_app
from app.model_versions import activation
from app.model_versions import store as model_registry
from app.settings import Settings
from app.storage.database import Database
from benchmarks import constant, serve, server
from benchmarks.serve import Scale, measure_serving

TINY = Scale(
    small=(20, 40, 200),
    small_hidden=5,
    huge=(20, 200, 300),
    huge_hidden=6,
    seconds=1,
    rounds=1,
    connections=2,
)

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason=serve.HOW_TO_GET_WRK)


def test_a_filled_database_serves_lists_and_constant_lists(database_url: str, tmp_path: Path) -> None:
    filled = serve.fill(database_url, TINY.small, TINY.small_hidden)
    app = create_app(Settings(_env_file=None, database_url=database_url, spool_dir=tmp_path / "spool"))
    constant.add_constant_routes(app)
    headers = {"Authorization": f"Bearer {filled.secret}"}
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for make in (serve._stored, serve._posted):
            real, control = make(filled), make(filled, "/constant")
            answers = [
                client.request(
                    "POST" if load.bodies else "GET",
                    load.paths[0],
                    content=load.bodies[0] if load.bodies else None,
                    headers=headers | {"Content-Type": "application/json"},
                )
                for load in (real, control)
            ]
            assert [answer.status_code for answer in answers] == [200, 200]
            lists = [answer.json() for answer in answers]
            assert lists[0].keys() == lists[1].keys()
            assert lists[0]["items"][0].keys() == lists[1]["items"][0].keys()
            assert lists[0]["strategy"] in ("rbm", "blended")
            assert client.request("POST" if real.bodies else "GET", control.paths[0]).status_code == 401
    with pytest.raises(Misconfigured, match="empty database"):
        serve.fill(database_url, TINY.small, TINY.small_hidden)


def test_constant_routes_are_no_part_of_the_service(tmp_path: Path) -> None:
    app = create_app(Settings(_env_file=None, database_url=f"sqlite:///{tmp_path}/none.db"))
    assert not [path for path in app.openapi()["paths"] if "constant" in path or "bare" in path]


@pytest.mark.acceptance
@needs_wrk
def test_every_part_reports_figures_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "Scale", lambda **_: TINY)
    file = tmp_path / "serve.json"
    serve.main(["--json", str(file)])
    values = json.loads(file.read_text())
    assert [row["kind"] for row in values["throughput"]] == ["stored user", "ratings in the body"]
    for row in values["throughput"]:
        assert row["bare"] > row["constant"] > 0
        assert row["ratio"] > 0
        assert len(row["rounds"]) == TINY.rounds
    assert all(0 < load["p50"] <= load["p99"] for load in values["latency"])
    (huge,) = values["huge"]
    assert huge["p50"] > 0
    if Path("/proc/self/smaps_rollup").exists():
        assert huge["most_resident_mb"] >= huge["resident_mb"] > huge["second_private_mb"] > 10


def test_without_wrk_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Misconfigured, match="apt-get install wrk"):
        measure_serving(scale=TINY)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(Misconfigured, match="No module named"),
        server.serving(tmp_path, f"sqlite:///{tmp_path}/x.db", "no_such_module"),
    ):
        pass


def test_memory_is_that_of_the_process() -> None:
    result = server.memory_of(os.getpid())
    assert result["most_resident"] >= result["resident"] >= result["private"] > 1_000_000
    assert server.processor_seconds(os.getpid()) > 0.1
    assert server.processor_seconds(2**22 + 1) == 0
    assert server.memory_of(2**22 + 1) == {"resident": 0, "most_resident": 0, "private": 0}


def test_the_made_up_version_is_active(database: Database, database_url: str) -> None:
    serve.fill(database_url, TINY.small, TINY.small_hidden)
    with database.reading() as session:
        pointer = activation.active(session)
        assert pointer is not None
        model = model_registry.load(session, pointer.version)
    assert (model.n_movies, model.n_hidden) == (40, 5)
    assert (model.configuration.design, model.linear.n_units) == ("rated", 20)

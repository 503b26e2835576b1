"""Every operation once, on SQLite and on PostgreSQL.

The other tests of this room use SQLite only.
"""

import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.storage.database import Database
from tests.tastes import another_version

IDS = {"user": "even0", "movie": "even1", "run": 1, "version": 1, "job": 1, "key": 1, "import_id": 1}
RATINGS = [{"movie_id": "even2", "stars": 5}, {"movie_id": "odd2", "stars": 1}]
CSV = b"userId,movieId,rating\nann,even1,4\nann,odd1,2\nbob,even1,5\n"

# Method, path, body or query, status; in an order that makes each of them succeed.
# Version 2 is active.
READING: list[tuple[str, str, Any, int]] = [
    ("GET", "/health/live", None, 200),
    ("GET", "/health/ready", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/v1/users/{user}/recommendations", {"explain": True, "genre": "Even"}, 200),
    ("POST", "/v1/recommendations", {"ratings": RATINGS}, 200),
    ("POST", "/v1/recommendations/batch", {"user_ids": ["even0", "nobody"]}, 200),
    ("POST", "/v1/recommendations/group", {"members": [{"user_id": "even0"}, {"user_id": "odd1"}]}, 200),
    ("GET", "/v1/popular", {"year_from": 1985, "diversity": 0.5}, 200),
    ("GET", "/v1/movies/{movie}/similar", {"limit": 3}, 200),
    ("GET", "/v1/users/{user}/predictions", {"movie_id": ["odd1", "even3"]}, 200),
    ("POST", "/v1/predictions", {"ratings": RATINGS, "movie_ids": ["odd1"]}, 200),
    ("GET", "/v1/users/{user}/taste", None, 200),
    ("GET", "/v1/users/{user}/questions", None, 200),
    ("POST", "/v1/questions", {"ratings": RATINGS}, 200),
    ("GET", "/v1/users/{user}/ratings", {"limit": 5}, 200),
    ("GET", "/v1/movies", {"query": "film 3", "genre": "Odd"}, 200),
    ("GET", "/v1/movies/{movie}", None, 200),
    ("GET", "/v1/imports", None, 200),
    ("GET", "/v1/imports/{import_id}", None, 200),
    ("GET", "/v1/admin", None, 200),
    ("GET", "/v1/admin/api-keys", None, 200),
    ("GET", "/v1/admin/ratings.csv", None, 200),
    ("GET", "/v1/admin/movies.csv", None, 200),
    ("GET", "/v1/admin/training-runs", {"state": "succeeded"}, 200),
    ("GET", "/v1/admin/training-runs/{run}", None, 200),
    ("GET", "/v1/admin/training-runs/{run}/events", None, 200),
    ("GET", "/v1/admin/model-versions", {"limit": 1}, 200),
    ("GET", "/v1/admin/model-versions/{version}", None, 200),
    ("GET", "/v1/admin/model-versions/{version}/compare", {"with": 2}, 200),
    ("GET", "/v1/admin/activations", None, 200),
    ("GET", "/v1/admin/jobs", {"kind": "training"}, 200),
    ("GET", "/v1/admin/jobs/{job}", None, 200),
]
WRITING: list[tuple[str, str, Any, int]] = [
    ("PUT", "/v1/users/{user}/ratings/{movie}", {"stars": 4.5}, 200),
    ("DELETE", "/v1/users/{user}/ratings/{movie}", None, 204),
    ("POST", "/v1/ratings", {"ratings": [{"user_id": "ann", **row} for row in RATINGS]}, 200),
    ("PUT", "/v1/movies/{movie}", {"title": "Amélie", "year": 2001, "genres": ["Even"]}, 200),
    ("DELETE", "/v1/users/{user}", None, 200),
    ("POST", "/v1/admin/model-versions/rollback", None, 200),
    ("POST", "/v1/admin/model-versions/{version}/activate", None, 200),
    ("PATCH", "/v1/admin/model-versions/{version}", {"note": "good"}, 200),
    ("DELETE", "/v1/admin/model-versions/2", None, 204),
    ("POST", "/v1/admin/retrain", {"epochs": 1}, 202),
    ("POST", "/v1/admin/training-runs/3/cancel", None, 200),
    ("POST", "/v1/admin/retrain", None, 202),
    ("POST", "/v1/admin/jobs/5/cancel", None, 200),
    ("POST", "/v1/admin/training-runs/{run}/rerun", None, 202),
]


def test_every_operation_succeeds(
    client: TestClient, trained: int, database: Database, work: Callable[[], None]
) -> None:
    another_version(database)
    client.app.state.version_watcher.refresh()  # type: ignore[attr-defined]
    secret = client.post("/v1/admin/api-keys", json={"name": "x", "role": "admin"}).json()["key"]
    client.headers["Authorization"] = f"Bearer {secret}"
    assert client.post("/v1/imports", params={"file_name": "ratings.csv"}, content=CSV).status_code == 202
    work()
    assert client.get("/v1/imports/1").json()["counts"]["inserted"] == 3
    for method, path, sent, status in [*READING, *WRITING]:
        answer = client.request(
            method, path.format_map(IDS), **{"params" if method == "GET" else "json": sent} if sent else {}
        )
        assert answer.status_code == status, (method, path, answer.text)
    work()
    states = [run["state"] for run in client.get("/v1/admin/training-runs").json()["items"]]
    assert states == ["succeeded", "cancelled", "cancelled", "succeeded", "succeeded"]
    assert client.delete("/v1/admin/api-keys/1").status_code == 200
    assert client.get("/v1/popular").status_code == 401


def test_the_calls_above_leave_out_no_operation(application: FastAPI) -> None:
    called = [(method, path.format_map(IDS)) for method, path, _, _ in [*READING, *WRITING]]
    called += [("POST", "/v1/admin/api-keys"), ("DELETE", "/v1/admin/api-keys/1"), ("POST", "/v1/imports")]
    left_out = [
        (method, path)
        for path, operations in application.openapi()["paths"].items()
        for method in operations
        if not any(
            (method.upper(), True) == (how, bool(re.fullmatch(re.sub(r"{\w+}", "[^/]+", path), where)))
            for how, where in called
        )
    ]
    assert left_out == []

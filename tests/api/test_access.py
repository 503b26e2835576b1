"""Every route of the OpenAPI document asks for the key that the contract says."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import access, logs
from app.api.failed_keys import FailedKeys
from app.main import create_app
from app.settings import Settings
from app.storage.database import Database

OPEN = {"/health/live", "/health/ready"}


@pytest.fixture
def secrets(database: Database) -> dict[str, str]:
    with database.writing() as session:
        return {role: access.create(session, role, role).key for role in access.ROLES}


def routes(application: FastAPI) -> list[tuple[str, str]]:
    document: dict[str, Any] = application.openapi()
    return [
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
        if path not in OPEN
    ]


def needed_role(method: str, path: str) -> access.Role:
    if path.startswith("/v1/admin"):
        return "admin"
    reading_posts = {
        "/v1/recommendations",
        "/v1/recommendations/batch",
        "/v1/recommendations/group",
        "/v1/predictions",
        "/v1/questions",
    }
    return "read" if method == "GET" or path in reading_posts else "write"


def call(client: TestClient, method: str, path: str, secret: str | None) -> int:
    url = path.format(user="u", movie="m", run=1, version=1, job=1, key=99, import_id=1)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return client.request(method, url, headers=headers).status_code


def test_every_route_wants_its_role(
    client: TestClient, application: FastAPI, secrets: dict[str, str]
) -> None:
    application.state.failed_keys = FailedKeys(0, 60.0)  # so many wrong keys are a guesser's otherwise
    operations = routes(application)
    assert len(operations) > 20
    for method, path in operations:
        assert call(client, method, path, None) == 401, (method, path)
        assert call(client, method, path, "hm_wrong") == 401, (method, path)
        needed = needed_role(method, path)
        for role, secret in secrets.items():
            status = call(client, method, path, secret)
            allowed = access.allows(role, needed)
            assert (status not in (401, 403)) == allowed, (method, path, role, status)


def test_probes_and_documents_are_open(client: TestClient, secrets: dict[str, str]) -> None:
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200, path


def test_a_refusal_is_a_problem_and_names_the_scheme(client: TestClient, secrets: dict[str, str]) -> None:
    answer = client.get("/v1/popular")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"
    lesser = client.post("/v1/admin/retrain", headers={"Authorization": f"Bearer {secrets['read']}"})
    assert lesser.status_code == 403
    assert "admin" in lesser.json()["detail"]


def test_a_public_address_is_never_open(settings: Settings) -> None:
    public = create_app(settings.model_copy(update={"host": "0.0.0.0"}))  # noqa: S104
    with TestClient(public, base_url="http://127.0.0.1") as client:
        assert client.get("/v1/popular").status_code == 401
        assert client.get("/health/live").status_code == 200


def test_without_keys_a_foreign_name_for_this_machine_is_refused(application: FastAPI) -> None:
    with TestClient(application, base_url="http://evil.example") as client:
        assert client.get("/v1/popular").status_code == 403
    with TestClient(application, base_url="http://localhost:8000") as client:
        assert client.get("/v1/popular").status_code == 200


def test_without_keys_the_pages_of_other_sites_are_refused(client: TestClient, tastes: None) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        assert client.post("/v1/admin/retrain", headers={"Origin": origin}).status_code == 403
        form = client.post("/v1/imports", files={"file": b"a,b"}, headers={"Origin": origin})
        assert form.status_code == 403
    own = client.post("/v1/admin/retrain", headers={"Origin": "http://127.0.0.1:8000"})
    assert own.status_code == 202


def test_the_key_does_not_reach_the_log(
    client: TestClient, secrets: dict[str, str], settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(settings)
    client.get("/v1/popular", headers={"Authorization": f"Bearer {secrets['read']}"})
    captured = capfd.readouterr()
    assert "/v1/popular" in captured.out + captured.err
    assert secrets["read"] not in captured.out + captured.err


@pytest.mark.parametrize(
    ("method", "path", "body", "role"),
    [
        ("POST", "/v1/recommendations", '{"ratings": [{"movie_id": "a", "stars": "many"}]}', "read"),
        ("POST", "/v1/questions", "{", "read"),
        ("GET", "/v1/users/ann/recommendations?limit=0", None, "read"),
        ("GET", "/v1/movies?limit=0", None, "read"),
        ("POST", "/v1/ratings", "{", "write"),
        ("PUT", "/v1/users/ann/ratings/a", '{"stars": 99}', "write"),
        ("POST", "/v1/imports?kind=unheard-of", "a,b", "write"),
        ("POST", "/v1/admin/retrain", '{"epochs": "many"}', "admin"),
    ],
)
def test_without_a_key_the_answer_is_401_whatever_is_wrong_with_the_input(
    client: TestClient, secrets: dict[str, str], method: str, path: str, body: str | None, role: str
) -> None:
    headers = {"Content-Type": "application/json"}
    assert client.request(method, path, content=body, headers=headers).status_code == 401
    headers["Authorization"] = f"Bearer {secrets[role]}"
    assert client.request(method, path, content=body, headers=headers).status_code == 422


def test_a_batch_does_not_take_the_threads_of_quick_answers(
    client: TestClient, application: FastAPI, settings: Settings
) -> None:
    quick = application.state.quick_threads
    assert quick.total_tokens == settings.quick_threads
    for _ in range(settings.quick_threads):
        quick.acquire_on_behalf_of_nowait(object())
    answer = client.post("/v1/recommendations/batch", json={"user_ids": ["ann"]})
    assert (answer.status_code, quick.available_tokens) == (200, 0)


def test_a_request_without_a_thread_in_time_is_made_to_retry(database: Database, settings: Settings) -> None:
    application = create_app(settings.model_copy(update={"database_timeout": 0.1, "quick_threads": 1}))
    with TestClient(application, base_url="http://127.0.0.1") as client:
        busy = object()
        application.state.quick_threads.acquire_on_behalf_of_nowait(busy)
        answer = client.get("/v1/popular")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.portal is not None
        client.portal.call(application.state.quick_threads.release_on_behalf_of, busy)
        assert client.get("/v1/popular").status_code == 200
        assert application.state.quick_threads.available_tokens == 1

"""Probes, metrics, the OpenAPI document and the one shape of errors."""

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app import access
from app.main import create_app
from app.settings import Settings
from app.storage.database import Database


def test_probes_say_what_serves(client: TestClient, trained: int) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert ready.json() == {"ready": True, "database": "ok", "model_version": trained, "trouble": None}


def test_a_stopping_process_is_not_ready(client: TestClient, application: FastAPI) -> None:
    application.state.stopping.set()
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_a_public_address_without_a_key_is_not_ready(database: Database, settings: Settings) -> None:
    public = create_app(settings.model_copy(update={"host": "0.0.0.0"}))  # noqa: S104
    with TestClient(public, base_url="http://127.0.0.1") as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "harmonium keys create" in answer.json()["database"]
        with database.writing() as session:
            access.create(session, "site", "read")
        assert client.get("/health/ready").status_code == 200


def test_an_unmigrated_database_is_not_ready(empty_database_url: str) -> None:
    settings = Settings(database_url=empty_database_url)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "harmonium db upgrade" in answer.json()["database"]


@pytest.fixture
def away() -> Iterator[TestClient]:
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:1/none")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def test_without_a_database_the_process_lives_and_answers_503(away: TestClient) -> None:
    assert away.get("/health/live").status_code == 200
    assert away.get("/health/ready").status_code == 503
    answer = away.get("/v1/users/ann/recommendations")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"


def test_metrics_count_requests_by_route(client: TestClient, trained: int) -> None:
    client.get("/v1/users/ann/recommendations")
    client.get("/v1/users/bob/recommendations")
    text = client.get("/metrics").text
    route = 'method="GET",route="/v1/users/{user}/recommendations"'
    assert f'harmonium_requests_total{{{route},status="200"}} 2.0' in text
    assert f"harmonium_request_seconds_count{{{route}}} 2.0" in text
    assert f"harmonium_model_version {trained}.0" in text


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("PATCH", "/v1/movies", 405)]
)
def test_what_is_not_there_is_a_problem_too(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["instance"]) == (status, path)
    assert problem["detail"]


def test_a_request_id_is_kept_or_made(client: TestClient) -> None:
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    made = client.get("/health/live", headers={"X-Request-ID": "no good\t"}).headers["X-Request-ID"]
    assert len(made) == 32
    assert client.get("/nowhere").headers["X-Request-ID"]


def test_a_bug_is_a_problem_without_its_inner_life(
    client: TestClient, application: FastAPI, database: Database
) -> None:
    def broken() -> None:
        raise RuntimeError("secret inner life")

    application.add_api_route("/broken", broken)
    answer = client.get("/broken")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


def test_the_document_is_complete(application: FastAPI) -> None:
    document = application.openapi()
    operations = [
        operation
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if not path.startswith("/health")
    ]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation.get("description"), operation["operationId"]
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                content = response["content"]["application/problem+json"]
                assert content["schema"]["$ref"] == "#/components/schemas/Problem"
        assert {"401", "403", "422", "429", "503"} <= set(operation["responses"])
    assert "Problem" in document["components"]["schemas"]


def test_the_documentation_needs_no_other_server(client: TestClient) -> None:
    page = client.get("/").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert link.startswith("/docs/files/")
        assert client.get(link).status_code == 200
    assert client.get("/docs/files/../main.py").status_code == 404


def test_movies_are_put_found_and_refused(client: TestClient) -> None:
    body = {"title": "Amélie", "year": 2001, "genres": ["Romance", "Comedy"], "imdb_id": "tt0211915"}
    put = client.put("/v1/movies/am", json=body)
    assert put.json() == body | {"movie_id": "am", "tmdb_id": None}
    assert client.put("/v1/movies/am", json={"tmdb_id": "194"}).json()["title"] == "Amélie"
    assert [
        item["movie_id"] for item in client.get("/v1/movies", params={"query": "amel"}).json()["items"]
    ] == ["am"]
    assert client.get("/v1/movies", params={"genre": "Rom"}).json()["items"] == []
    assert client.get("/v1/movies/am").json()["year"] == 2001
    assert client.get("/v1/movies/nope").status_code == 404
    for bad in ({"year": 1200}, {"title": "a\x00b"}, {"genres": ["a|b"]}, {"titel": "x"}):
        assert client.put("/v1/movies/am", json=bad).status_code == 422

"""The OpenAPI document is what clients are generated from: nothing in it is missing, and no name changes."""

import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from app.api.examples import REQUESTS, RESPONSES
from app.main import create_app
from app.settings import Settings

# Generated clients are called by these names: one may be added, none may change or go.
STABLE = {
    "recommend_for_user",
    "recommend",
    "recommend_for_users",
    "recommend_for_group",
    "list_popular",
    "list_similar_movies",
    "predict_for_user",
    "predict",
    "get_taste",
    "list_questions_for_user",
    "list_questions",
    "put_rating",
    "list_user_ratings",
    "post_ratings",
    "delete_rating",
    "delete_user",
    "list_movies",
    "get_movie",
    "put_movie",
    "create_import",
    "list_imports",
    "get_import",
    "retrain",
    "list_training_runs",
    "get_training_run",
    "cancel_training_run",
    "rerun_training_run",
    "listen_to_training_run",
    "list_model_versions",
    "get_model_version",
    "annotate_model_version",
    "delete_model_version",
    "compare_model_versions",
    "list_activations",
    "roll_back_model_version",
    "activate_model_version",
    "list_jobs",
    "get_job",
    "cancel_job",
    "get_standing",
    "list_api_keys",
    "create_api_key",
    "revoke_api_key",
    "export_ratings",
    "export_movies",
    "live",
    "ready",
    "metrics",
}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """Only its document is looked at; no database is opened."""
    folder = tmp_path_factory.mktemp("document")
    return create_app(Settings(_env_file=None, database_url=f"sqlite:///{folder}/none.db"))


@pytest.fixture(scope="module")
def document(application: FastAPI) -> dict[str, Any]:
    return application.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield f"{method.upper()} {path}", operation


def lacking(document: dict[str, Any]) -> list[str]:
    """What is missing, route by route."""
    missing = []
    for route, operation in operations(document):
        name = operation.get("operationId", "")
        if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name):
            missing.append(f"{route}: an operation_id in words, not {name!r}")
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            schema = media["schema"]
            of_schema = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            if not ("example" in media or of_schema.get("examples") or media_type == "multipart/form-data"):
                missing.append(f"{route}: an example of its body (examples.REQUESTS or its schema)")
        for status, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                if status.startswith("2") and "example" not in media:
                    missing.append(f"{route}: an example of its answer (examples.RESPONSES)")
        if route.split()[1].startswith("/v1/"):
            statuses = {"401", "403", "422", "429", "503"}
            statuses |= {"413"} if "requestBody" in operation else set()
            if route.split()[0] in ("PUT", "DELETE") or "/admin/" in route:
                statuses.discard("413")
            for status in sorted(statuses - set(operation["responses"])):
                missing.append(f"{route}: its answer {status} (responses=declared(…))")
    return missing


def test_every_route_has_a_name_examples_and_declared_errors(document: dict[str, Any]) -> None:
    assert lacking(document) == []


def test_a_route_without_them_would_be_named(application: FastAPI) -> None:
    bare = FastAPI()

    @bare.get("/v1/bare")
    def bare_route() -> dict[str, int]:
        return {}

    found = lacking(bare.openapi())
    assert len(found) == 7
    assert all(one.startswith("GET /v1/bare: ") for one in found)


def test_names_are_stable_and_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert set(names) >= STABLE


def test_every_example_is_one(application: FastAPI, document: dict[str, Any]) -> None:
    names = {operation["operationId"] for _, operation in operations(document)}
    assert set(RESPONSES) | set(REQUESTS) <= names, "an example of a route that is gone"
    answers = {
        operation["operationId"]: media["example"]
        for _, operation in operations(document)
        for status, answer in operation["responses"].items()
        for media in answer.get("content", {}).values()
        if status.startswith("2")
    }
    checked = 0
    for route in routes(application):
        if route.operation_id in answers and route.response_model is not None:
            TypeAdapter(route.response_model).validate_python(answers[route.operation_id])
            checked += 1
        if route.operation_id in REQUESTS and "body" in (hints := get_type_hints(route.endpoint)):
            TypeAdapter(hints["body"]).validate_python(REQUESTS[route.operation_id])
            checked += 1
    assert checked > 45


def routes(application: FastAPI) -> Iterator[APIRoute]:
    for included in application.router.routes:
        if isinstance(included, APIRoute):
            yield included
        else:
            inner = getattr(included, "original_router", None)
            yield from (one for one in getattr(inner, "routes", []) if isinstance(one, APIRoute))

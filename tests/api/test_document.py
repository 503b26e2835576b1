"""The OpenAPI document is complete, and its names do not change."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

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


BINARY = "application/octet-stream"


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """Only its document is looked at; no database is opened."""
    folder = tmp_path_factory.mktemp("document")
    return create_app(Settings(_env_file=None, database_url=f"sqlite:///{folder}/none.db"))


@pytest.fixture(scope="module")
def document(application: FastAPI) -> dict[str, Any]:
    return application.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


class Example:
    """An example of a schema, composed of the examples of its fields.

    Attributes:
        missing: places of numbers and texts that nothing says more about than their
            type.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._schemas = document.get("components", {}).get("schemas", {})
        self.missing: list[str] = []

    def of(self, schema: dict[str, Any], place: str = "") -> Any:
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return self.of(self._schemas[name] | {k: v for k, v in schema.items() if k != "$ref"}, name)
        for key in ("example", "const", "default"):
            if key in schema:
                return schema[key]
        for key in ("examples", "enum"):
            if key in schema:
                return schema[key][0]
        if "anyOf" in schema:
            return None if {"type": "null"} in schema["anyOf"] else self.of(schema["anyOf"][0], place)
        if schema.get("format") == "date-time":
            return "2026-03-01T20:15:00Z"
        match schema.get("type"):
            case "object" if "properties" in schema:
                fields = schema["properties"].items()
                return {name: self.of(field, f"{place}.{name}") for name, field in fields}
            case "array":
                return [self.of(schema["items"], place)]
            case "boolean":
                return False
        self.missing.append(place)
        return None


def lacking(document: dict[str, Any]) -> list[str]:
    """What is missing, route by route."""
    missing = []
    for route, operation in operations(document):
        name = operation.get("operationId", "")
        if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name):
            missing.append(f"{route}: an operation_id in words, not {name!r}")
        contents = [operation.get("requestBody", {}).get("content", {})]
        contents += [
            answer.get("content", {}) for code, answer in operation["responses"].items() if code < "3"
        ]
        for content in contents:
            for media_type, media in content.items():
                example = Example(document)
                if "example" not in media and media_type not in ("multipart/form-data", BINARY):
                    example.of(media["schema"])
                missing += [f"{route}: an example of {place or media_type}" for place in example.missing]
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

    problems = lacking(bare.openapi())
    assert len(problems) == 7, problems
    assert all(problem.startswith("GET /v1/bare: ") for problem in problems)


def test_names_are_stable_and_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert set(names) >= STABLE


def test_every_example_is_one(application: FastAPI, document: dict[str, Any]) -> None:
    contents = {operation["operationId"]: operation for _, operation in operations(document)}
    checked = 0
    for route in routes(application):
        operation = contents.get(str(route.operation_id), {"responses": {}})
        schemas: list[tuple[Any, dict[str, Any]]] = []
        if route.response_model is not None:
            answer = operation["responses"][str(route.status_code or 200)]["content"]["application/json"]
            schemas.append((route.response_model, answer["schema"]))
        if route.body_field is not None:
            body = operation["requestBody"]["content"]["application/json"]["schema"]
            schemas.append((route.body_field.field_info.annotation, body))
        for kind, schema in schemas:
            TypeAdapter(kind).validate_python(Example(document).of(schema))
            checked += 1
    assert checked > 50


def routes(application: FastAPI) -> Iterator[APIRoute]:
    for included in application.router.routes:
        if isinstance(included, APIRoute):
            yield included
        else:
            inner = getattr(included, "original_router", None)
            yield from (route for route in getattr(inner, "routes", []) if isinstance(route, APIRoute))

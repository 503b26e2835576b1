"""Model versions over HTTP: compare, roll back, annotate, delete, history."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from app.settings import Settings
from app.storage.database import Database
from tests.tastes import train_version

PATH = "/v1/admin/model-versions"


@pytest.fixture
def second(trained: int, database: Database, settings: Settings) -> int:
    """A second version, active in place of the first."""
    return train_version(database, settings, epochs=1, hidden_units=3)


def test_comparing_names_what_differs(client: TestClient, trained: int, second: int) -> None:
    answer = client.get(f"{PATH}/{trained}/compare", params={"with": second, "users": 20})
    assert answer.status_code == 200
    result = answer.json()
    assert (result["first"], result["second"]) == (trained, second)
    assert result["settings"]["hidden_units"] == {"first": 20, "second": 3}
    assert (result["shared_movies"], result["only_first"], result["only_second"]) == (30, 0, 0)
    assert result["lists"]["n_users"] == 20
    assert 0 <= result["lists"]["least"] <= result["lists"]["mean"] <= 1
    assert result["metrics"]["n_users"]["first"] == result["metrics"]["n_users"]["second"]


@pytest.mark.parametrize(
    ("query", "status", "location"),
    [
        ("", 422, "query.with"),
        ("?with=x", 422, "query.with"),
        ("?with=1&users=0", 422, "query.users"),
        ("?with=1&users=2001", 422, "query.users"),
        ("?with=99", 404, None),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(
    client: TestClient, trained: int, query: str, status: int, location: str | None
) -> None:
    answer = client.get(f"{PATH}/{trained}/compare{query}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert [error["location"] for error in answer.json().get("errors", [])] == (
        [location] if location else []
    )


def test_rolling_back_serves_the_version_before_and_heeds_if_match(
    client: TestClient, trained: int, second: int
) -> None:
    etag = client.get(PATH).headers["ETag"]
    answer = client.post(f"{PATH}/rollback", headers={"If-Match": etag})
    assert (answer.status_code, answer.json()["version"]) == (200, trained)
    assert answer.headers["ETag"] != etag
    assert client.get(PATH).headers["ETag"] == answer.headers["ETag"]
    assert client.post(f"{PATH}/rollback", headers={"If-Match": etag}).status_code == 412
    nothing_left = client.post(f"{PATH}/rollback")
    assert nothing_left.status_code == 409
    assert "Activate one of the versions" in nothing_left.json()["detail"]


def test_the_history_says_which_version_was_active_when(
    client: TestClient, trained: int, second: int
) -> None:
    client.post(f"{PATH}/{trained}/activate").raise_for_status()
    client.post(f"{PATH}/rollback").raise_for_status()
    items = client.get("/v1/admin/activations").json()["items"]
    assert [(item["generation"], item["version"], item["cause"]) for item in items] == [
        (4, second, "rollback"),
        (3, trained, "request"),
        (2, second, "gate"),
        (1, trained, "gate"),
    ]
    assert items[0]["until"] is None
    assert [item["until"] for item in items[1:]] == [item["activated_at"] for item in items[:-1]]
    page = client.get("/v1/admin/activations", params={"limit": 3}).json()
    rest = client.get("/v1/admin/activations", params={"cursor": page["next_cursor"]}).json()
    assert page["items"] + rest["items"] == items
    assert rest["next_cursor"] is None


def test_a_note_is_kept_replaced_and_removed(client: TestClient, trained: int) -> None:
    for note in ("the one of the autumn", "größer", None):
        answer = client.patch(f"{PATH}/{trained}", json={"note": note})
        assert (answer.status_code, answer.json()["note"]) == (200, note)
        assert answer.json()["active"]
        assert client.get(f"{PATH}/{trained}").json()["note"] == note
    for body, location in (
        ({}, "note"),
        ({"note": 3}, "note"),
        ({"note": "x" * 1001}, "note"),
        ({"note": "", "active": True}, "active"),
    ):
        refused = client.patch(f"{PATH}/{trained}", json=body)
        assert refused.status_code == 422
        assert [error["location"] for error in refused.json()["errors"]] == [location]
    assert client.patch(f"{PATH}/99", json={"note": "x"}).status_code == 404


def test_deleting_spares_the_active_version(
    client: TestClient, trained: int, second: int, work: Callable[[], None]
) -> None:
    refused = client.delete(f"{PATH}/{second}")
    assert refused.status_code == 409
    assert "is active" in refused.json()["detail"]
    gone = client.delete(f"{PATH}/{trained}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert client.get(f"{PATH}/{trained}").status_code == 404
    assert client.delete(f"{PATH}/{trained}").status_code == 404
    assert [item["version"] for item in client.get(PATH).json()["items"]] == [second]
    # Its training run stays, without a version, and it can no longer be gone back to.
    (run,) = [run for run in client.get("/v1/admin/training-runs").json()["items"] if run["id"] == 1]
    assert run["model_version"] is None
    assert client.post(f"{PATH}/rollback").status_code == 409

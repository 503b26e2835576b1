"""Retraining, versions, jobs and keys over HTTP."""

from collections.abc import Callable
from dataclasses import fields

import pytest
from fastapi.testclient import TestClient

from app.api.training_runs import RetrainIn
from app.learning.configuration import TrainingConfiguration


def test_retraining_answers_202_and_ends_in_an_active_version(
    client: TestClient, tastes: None, work: Callable[[], None]
) -> None:
    answer = client.post("/v1/admin/retrain", json={"epochs": 5, "seed": 3, "note": "first"})
    assert answer.status_code == 202
    run = client.get(answer.headers["Location"]).json()
    assert (run["state"], run["overrides"], run["note"]) == ("queued", {"epochs": 5, "seed": 3}, "first")
    work()
    run = client.get(answer.headers["Location"]).json()
    assert (run["state"], run["progress"], run["error"]) == ("succeeded", 1.0, None)
    assert [report["epoch"] for report in run["epoch_reports"]] == [1, 2, 3, 4, 5]
    assert run["epoch_reports"][0]["report"]["reconstruction_error"] > 0
    assert run["configuration"]["epochs"] == 5
    assert run["snapshot"]["n_ratings"] == 720
    assert run["evaluation"]["state"] == "not_evaluated"
    (version,) = client.get("/v1/admin/model-versions").json()["items"]
    assert version["active"]
    assert version["version"] == run["model_version"]
    assert version["note"] == "first"


def test_equal_requests_join_and_different_ones_conflict(client: TestClient, tastes: None) -> None:
    first = client.post("/v1/admin/retrain", json={"epochs": 5})
    again = client.post("/v1/admin/retrain", json={"epochs": 5})
    assert again.status_code == 202
    assert again.headers["Location"] == first.headers["Location"]
    other = client.post("/v1/admin/retrain", json={"epochs": 6})
    assert other.status_code == 409
    assert "queued with other settings" in other.json()["detail"]
    cancelled = client.post(first.headers["Location"] + "/cancel").json()
    assert cancelled["state"] == "cancelled"
    assert client.post("/v1/admin/retrain", json={"epochs": 6}).status_code == 202


def test_a_body_is_not_needed(client: TestClient, tastes: None) -> None:
    assert client.post("/v1/admin/retrain").status_code == 202


def test_training_on_too_little_says_what_would_do(client: TestClient) -> None:
    answer = client.post("/v1/admin/retrain")
    assert answer.status_code == 409
    assert "The least that can be trained on is" in answer.json()["detail"]


def test_training_on_too_few_users_fails_with_the_reason(
    client: TestClient, work: Callable[[], None]
) -> None:
    rows = [{"user_id": "one", "movie_id": f"m{n}", "stars": 1 + n % 5} for n in range(200)]
    client.post("/v1/ratings", json={"ratings": rows})
    location = client.post("/v1/admin/retrain").headers["Location"]
    work()
    run = client.get(location).json()
    assert run["state"] == "failed"
    assert "10 users" in run["error"]
    assert client.get("/v1/admin/model-versions").json()["items"] == []


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": "many"}, "epochs"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"design": "cubist"}, "design"),
        ({"hiden_units": 3}, "hiden_units"),
        ({"k": 10**9}, "k"),
    ],
)
def test_bad_settings_are_refused_with_their_name(
    client: TestClient, tastes: None, body: dict[str, object], location: str
) -> None:
    answer = client.post("/v1/admin/retrain", json=body)
    assert answer.status_code == 422
    assert [error["location"] for error in answer.json()["errors"]] == [location]


def test_divergence_is_a_failed_run_and_never_a_version(
    client: TestClient, tastes: None, work: Callable[[], None]
) -> None:
    location = client.post(
        "/v1/admin/retrain", json={"learning_rate": 10, "weight_decay": 10, "momentum": 0.999, "epochs": 50}
    ).headers["Location"]
    work()
    run = client.get(location).json()
    assert run["state"] == "failed"
    assert "lower learning_rate" in run["error"]
    assert client.get("/v1/admin/model-versions").json()["items"] == []


def test_every_setting_of_a_fit_can_be_overridden() -> None:
    assert set(RetrainIn.model_fields) - {"note", "warm_start"} == {
        field.name for field in fields(TrainingConfiguration)
    }


def test_activation_rolls_back_and_heeds_if_match(
    client: TestClient, trained: int, work: Callable[[], None]
) -> None:
    client.post("/v1/admin/retrain", json={"epochs": 3, "hidden_units": 5})
    work()
    listed = client.get("/v1/admin/model-versions")
    assert [item["active"] for item in listed.json()["items"]] == [True, False]
    second = listed.json()["items"][0]
    assert second["parent_version"] == trained
    etag = listed.headers["ETag"]
    path = f"/v1/admin/model-versions/{trained}/activate"
    answer = client.post(path, headers={"If-Match": etag})
    assert answer.status_code == 200
    assert answer.json()["version"] == trained
    assert client.get(f"/v1/admin/model-versions/{trained}").json()["active"]
    late = client.post(path, headers={"If-Match": etag})
    assert late.status_code == 412
    assert client.post("/v1/admin/model-versions/999/activate").status_code == 404


def test_jobs_are_listed_with_their_log(client: TestClient, tastes: None, work: Callable[[], None]) -> None:
    client.post("/v1/admin/retrain", json={"epochs": 3})
    (job,) = client.get("/v1/admin/jobs", params={"state": "queued"}).json()["items"]
    assert job["kind"] == "training"
    work()
    assert client.get("/v1/admin/jobs", params={"state": "queued"}).json()["items"] == []
    detail = client.get(f"/v1/admin/jobs/{job['job_id']}").json()
    assert detail["state"] == "succeeded"
    assert any("720 ratings" in line["message"] for line in detail["log"])
    assert client.post(f"/v1/admin/jobs/{job['job_id']}/cancel").status_code == 409
    assert client.get("/v1/admin/jobs/999").status_code == 404


def test_keys_are_made_listed_and_revoked(client: TestClient) -> None:
    made = client.post("/v1/admin/api-keys", json={"name": "ops", "role": "admin"})
    assert made.status_code == 201
    secret = made.json()["key"]
    assert client.get("/v1/admin/api-keys").status_code == 401
    client.headers["Authorization"] = f"Bearer {secret}"
    (listed,) = client.get("/v1/admin/api-keys").json()["items"]
    assert "key" not in listed
    assert secret not in str(listed)
    revoked = client.delete(f"/v1/admin/api-keys/{listed['id']}")
    assert revoked.json()["revoked_at"] is not None
    # The last key is gone: on loopback the service is open again.
    assert client.get("/v1/admin/api-keys").status_code == 401
    del client.headers["Authorization"]
    assert client.get("/v1/admin/api-keys").status_code == 200

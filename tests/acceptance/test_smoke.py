"""From ratings to recommendations over HTTP: what `make test` has of this folder."""

from pathlib import Path

import pytest

from tests.acceptance.service import Service

pytestmark = [pytest.mark.acceptance, pytest.mark.smoke]

# Forty users like one half of the twenty movies and dislike the other.
RATINGS = "userId,movieId,rating\n" + "".join(
    f"u{user},m{movie},{5 if user % 2 == movie % 2 else 1}\n"
    for user in range(40)
    for movie in range(20)
    if (user // 2 + movie // 2) % 3
)


def test_imported_ratings_are_trained_on_and_recommended_from(tmp_path: Path) -> None:
    with Service(tmp_path, f"sqlite:///{tmp_path}/smoke.db") as service:
        imported = service.http.post("/v1/imports", content=RATINGS).raise_for_status()
        assert service.finished(imported.headers["Location"], 30)["state"] == "succeeded"
        retrained = service.http.post("/v1/admin/retrain", json={"epochs": 40}).raise_for_status()
        run = service.finished(retrained.headers["Location"], 60)
        assert run["state"] == "succeeded", run
        ready = "/health/ready"  # names the version that this process serves
        service.wait_until(lambda: service.http.get(ready).json()["model_version"] == run["model_version"], 5)
        listed = service.http.get("/v1/users/u0/recommendations", params={"limit": 3}).json()
        assert listed["model_version"] == run["model_version"]
        assert {item["movie_id"] for item in listed["items"]} <= {f"m{movie}" for movie in range(0, 20, 2)}
        assert service.stop() == 0

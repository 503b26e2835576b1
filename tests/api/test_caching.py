"""ETag and 304: exactly while nothing that an answer depends on has changed."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.storage.database import Database
from tests.tastes import train_version

PATHS = (
    "/v1/users/even0/recommendations?limit=5",
    "/v1/users/even0/predictions?movie_id=odd1",
    "/v1/users/even0/taste",
    "/v1/users/even0/questions",
)


@pytest.fixture
def other(settings: Settings, trained: int) -> Iterator[TestClient]:
    """Another process on the same database, as far as one process can be another."""
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        yield client


def again(client: TestClient, path: str, etag: str) -> int:
    answer = client.get(path, headers={"If-None-Match": etag})
    if answer.status_code == 304:
        assert answer.content == b""
        assert answer.headers["ETag"] == etag
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["Vary"] == "Authorization"
    return answer.status_code


@pytest.mark.parametrize("path", [*PATHS, "/v1/popular"])
def test_what_has_not_changed_is_not_sent_again(client: TestClient, trained: int, path: str) -> None:
    first = client.get(path)
    etag = first.headers["ETag"]
    assert client.get(path).headers["ETag"] == etag
    assert again(client, path, etag) == 304
    assert client.get(path, headers={"If-None-Match": f'"other", W/{etag}'}).status_code == 304
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize("path", PATHS)
def test_a_rating_a_title_and_a_version_each_change_the_etag_on_every_process(
    client: TestClient, other: TestClient, database: Database, settings: Settings, path: str
) -> None:
    etags = [other.get(path).headers["ETag"]]

    def changed() -> None:
        assert again(other, path, etags[-1]) == 200
        etags.append(other.get(path).headers["ETag"])
        assert again(other, path, etags[-1]) == 304
        assert len(set(etags)) == len(etags)

    assert client.put("/v1/users/even0/ratings/odd3", json={"stars": 1}).status_code == 200
    changed()
    assert client.put("/v1/users/even0/ratings/odd3", json={"stars": 2}).status_code == 200
    changed()
    client.put("/v1/movies/even9", json={"title": "Another title"})
    changed()
    train_version(database, settings, seed=5)
    other.app.state.version_watcher.refresh()  # type: ignore[attr-defined]
    changed()
    # Another user's ratings change nothing of this user's answers.
    client.put("/v1/users/odd1/ratings/even3", json={"stars": 2})
    assert again(other, path, etags[-1]) == 304
    # What is taken back gives the answer of before, and may have its name.
    client.delete("/v1/users/even0/ratings/odd3")
    changed()


def test_another_question_has_another_etag(client: TestClient, trained: int) -> None:
    etags = {
        client.get("/v1/users/even0/recommendations", params=params).headers["ETag"]
        for params in ({}, {"limit": 5}, {"limit": 6}, {"genre": "Odd"}, {"exclude": "odd1"})
    }
    assert len(etags) == 5


def test_before_the_first_version_there_is_no_etag(client: TestClient, tastes: None) -> None:
    answer = client.get("/v1/users/even0/recommendations")
    assert "ETag" not in answer.headers
    assert answer.headers["Cache-Control"] == "private, no-cache"


def test_a_rating_and_a_title_are_seen_by_the_next_request_on_any_process(
    client: TestClient, other: TestClient
) -> None:
    path = "/v1/users/late/recommendations?limit=30"
    before = other.get(path).json()
    assert before["strategy"] == "popular"
    client.put("/v1/users/late/ratings/odd2", json={"stars": 5})
    after = other.get(path).json()
    assert after["strategy"] == "blended"
    assert "odd2" not in {item["movie_id"] for item in after["items"]}
    first = after["items"][0]["movie_id"]
    client.put(f"/v1/movies/{first}", json={"title": "Quite another title", "genres": ["New"]})
    seen = other.get(path).json()["items"][0]
    assert (seen["movie_id"], seen["title"], seen["genres"]) == (first, "Quite another title", ["New"])
    client.put(f"/v1/movies/{first}", json={"title": "And another"})
    posted = other.post("/v1/recommendations", json={"ratings": [{"movie_id": "odd2", "stars": 5}]}).json()
    assert posted["items"][0]["title"] == "And another"


def test_what_may_be_kept_is_said_of_every_answer(client: TestClient, trained: int) -> None:
    def rule(answer: object) -> tuple[str, str]:
        headers = answer.headers  # type: ignore[attr-defined]
        return headers["Cache-Control"], headers["Vary"]

    for path in (*PATHS, "/v1/movies", "/v1/users/even0/ratings"):
        assert rule(client.get(path)) == ("private, no-cache", "Authorization")
    assert rule(client.get("/v1/popular")) == ("private, max-age=60", "Authorization")
    nothing = ("no-store", "Authorization")
    created = client.post("/v1/admin/api-keys", json={"name": "a", "role": "admin"})
    assert rule(created) == nothing
    key = {"Authorization": f"Bearer {created.json()['key']}"}
    assert rule(client.get("/v1/admin/api-keys", headers=key)) == nothing
    assert rule(client.post("/v1/recommendations", json={"ratings": []}, headers=key)) == nothing
    assert rule(client.get("/v1/movies/none", headers=key)) == nothing
    assert rule(client.get("/v1/popular")) == nothing  # 401
    assert rule(client.get("/health/ready")) == nothing


def test_an_etag_tells_nothing_to_who_may_not_read(client: TestClient, trained: int) -> None:
    etag = client.get(PATHS[0]).headers["ETag"]
    client.post("/v1/admin/api-keys", json={"name": "a", "role": "admin"})
    assert client.get(PATHS[0], headers={"If-None-Match": etag}).status_code == 401

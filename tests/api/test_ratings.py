"""Ratings over HTTP: what is stored, what is refused and where it says so."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

COUNTS = {"inserted": 0, "updated": 0, "unchanged": 0, "superseded": 0, "rejected": 0}


def test_one_rating_is_put_changed_read_and_deleted(client: TestClient) -> None:
    path = "/v1/users/ann/ratings/heat"
    assert client.put(path, json={"stars": 4}).json() == COUNTS | {"inserted": 1}
    assert client.put(path, json={"stars": 4}).json() == COUNTS | {"unchanged": 1}
    assert client.put(path, json={"stars": 2.5}).json() == COUNTS | {"updated": 1}
    old = {"stars": 5, "rated_at": "2020-01-01T00:00:00+01:00"}
    assert client.put(path, json=old).json() == COUNTS | {"superseded": 1}
    (item,) = client.get("/v1/users/ann/ratings").json()["items"]
    assert (item["movie_id"], item["stars"]) == ("heat", 2.5)
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404
    assert client.get("/v1/users/ann/ratings").json() == {"items": [], "next_cursor": None}


def test_a_batch_is_stored_with_its_times(client: TestClient) -> None:
    rows = [
        {"user_id": 7, "movie_id": "heat", "stars": 4, "rated_at": "2024-05-06T07:08:09.123456Z"},
        {"user_id": "7", "movie_id": 12, "stars": 0.5},
        {"user_id": "7", "movie_id": "heat", "stars": 1, "rated_at": "2023-05-06T07:08:09Z"},
    ]
    assert client.post("/v1/ratings", json={"ratings": rows}).json() == COUNTS | {
        "inserted": 2,
        "superseded": 1,
    }
    items = {item["movie_id"]: item for item in client.get("/v1/users/7/ratings").json()["items"]}
    assert items["heat"] == {"movie_id": "heat", "stars": 4.0, "rated_at": "2024-05-06T07:08:09.123456Z"}
    assert items["12"]["stars"] == 0.5


@pytest.mark.parametrize(
    "stars",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1", "0", "5.5", '"5"', "true", "null", "[]", "1" * 400],
)
def test_what_is_no_number_of_stars_is_refused_with_its_location(client: TestClient, stars: str) -> None:
    good = '{"user_id": "a", "movie_id": "b", "stars": 3}'
    body = f'{{"ratings": [{good}, {{"user_id": "a", "movie_id": "c", "stars": {stars}}}]}}'
    answer = client.post("/v1/ratings", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["location"] for error in answer.json()["errors"]] == ["ratings[1].stars"]
    assert client.get("/v1/users/a/ratings").json()["items"] == []


@pytest.mark.parametrize(
    ("row", "location"),
    [
        ({"movie_id": "b", "stars": 3}, "ratings[0].user_id"),
        ({"user_id": "", "movie_id": "b", "stars": 3}, "ratings[0].user_id"),
        ({"user_id": "x" * 129, "movie_id": "b", "stars": 3}, "ratings[0].user_id"),
        ({"user_id": "a", "movie_id": "b/c", "stars": 3}, "ratings[0].movie_id"),
        ({"user_id": "a", "movie_id": "\ud800", "stars": 3}, "ratings[0].movie_id"),
        (
            {"user_id": "a", "movie_id": "b", "stars": 3, "rated_at": "3000-01-01T00:00:00Z"},
            "ratings[0].rated_at",
        ),
        ({"user_id": "a", "movie_id": "b", "stars": 3, "rated_at": "yesterday"}, "ratings[0].rated_at"),
        ({"user_id": "a", "movie_id": "b", "stars": 3, "rated_at": 1e300}, "ratings[0].rated_at"),
        ({"user_id": "a", "movie_id": "b", "stars": 3, "rating": 3}, "ratings[0].rating"),
    ],
)
def test_bad_rows_are_refused_with_their_location(
    client: TestClient, row: dict[str, Any], location: str
) -> None:
    # Escaped as ASCII, a lone surrogate travels in JSON.
    body = json.dumps({"ratings": [row]})
    answer = client.post("/v1/ratings", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert location in {error["location"] for error in answer.json()["errors"]}


@pytest.mark.parametrize("body", ["", "{", "[1,2", "{'a': 1}", "\x00", "[" * 100_000, "1" * 5_000])
def test_what_is_no_json_is_refused(client: TestClient, body: str) -> None:
    answer = client.post("/v1/ratings", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) >= {"type", "title", "status", "detail", "instance"}


def test_a_body_beyond_the_limit_is_refused(client: TestClient) -> None:
    answer = client.post(
        "/v1/ratings", content=b" " * (5 * 1024**2), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_batch_beyond_the_limit_is_refused_whole(client: TestClient) -> None:
    rows = [{"user_id": "a", "movie_id": f"m{n}", "stars": 3} for n in range(10_001)]
    assert client.post("/v1/ratings", json={"ratings": rows}).status_code == 422
    assert client.get("/v1/users/a/ratings").json()["items"] == []
    assert client.post("/v1/ratings", json={"ratings": rows[:-1]}).json()["inserted"] == 10_000


def test_ids_come_back_as_they_are(client: TestClient) -> None:
    for user in ("it's", "a b", "日本", "%00", "a?b=c", "$where"):
        for movie in ("x", "…"):
            rows = [{"user_id": user, "movie_id": movie, "stars": 3}]
            assert client.post("/v1/ratings", json={"ratings": rows}).json()["inserted"] == 1
    lines = client.get("/v1/admin/ratings.csv").text.splitlines()
    assert lines[0] == "user_id,movie_id,stars,rated_at"
    assert len(lines) == 13


def test_pages_hold_every_rating_once(client: TestClient) -> None:
    rows = [{"user_id": "a", "movie_id": f"m{n}", "stars": 3} for n in range(25)]
    client.post("/v1/ratings", json={"ratings": rows})
    seen, cursor = [], None
    while True:
        params = {"limit": 10} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/users/a/ratings", params=params).json()
        seen += [item["movie_id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(str(row["movie_id"]) for row in rows)
    assert client.get("/v1/users/a/ratings", params={"cursor": "bogus"}).status_code == 422


def test_erasing_a_person_names_the_versions_that_know_them(client: TestClient, trained: int) -> None:
    answers = {
        user: client.delete(f"/v1/users/{user}").json()["model_versions_trained_with_user"]
        for user in ("even0", "odd1", "even2", "odd3")
    }
    assert [trained] in answers.values()
    assert client.get("/v1/users/even0/ratings").json()["items"] == []
    assert client.delete("/v1/users/even0").status_code == 404


def test_a_url_with_an_id_that_cannot_be_is_refused(client: TestClient) -> None:
    answer = client.put("/v1/users/a%00b/ratings/x", json={"stars": 3})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["location"] == "path.user"
    assert json.loads(answer.text)["instance"].startswith("/v1/users/")

"""Lists for stored users and for ratings in the body: the known answer, the filters, the fallbacks."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

EVEN_FAN = [{"movie_id": f"even{n}", "stars": 5} for n in range(5)] + [{"movie_id": "odd0", "stars": 1}]


def halves(found: dict[str, Any]) -> list[str]:
    return [item["movie_id"].rstrip("0123456789") for item in found["items"]]


def test_a_list_holds_what_the_users_kind_likes(client: TestClient, trained: int) -> None:
    found = client.get("/v1/users/even0/recommendations", params={"limit": 5}).json()
    assert (found["user_id"], found["model_version"], found["strategy"]) == ("even0", trained, "rbm")
    assert halves(found) == ["even"] * 5
    assert [item["rank"] for item in found["items"]] == [1, 2, 3, 4, 5]
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)
    first = found["items"][0]
    assert first["title"].startswith("Even Film")
    assert first["genres"] == ["Even"]
    assert 0 < first["like_probability"] < 1
    rated = {item["movie_id"] for item in client.get("/v1/users/even0/ratings").json()["items"]}
    assert not rated & {item["movie_id"] for item in found["items"]}


def test_ratings_in_the_body_give_the_list_that_the_same_stored_ratings_give(
    client: TestClient, trained: int
) -> None:
    posted = client.post("/v1/recommendations", json={"ratings": EVEN_FAN, "limit": 8}).json()
    assert halves(posted)[:5] == ["even"] * 5
    assert client.get("/v1/users/newcomer/ratings").json()["items"] == []
    for rating in EVEN_FAN:
        answer = client.put(
            f"/v1/users/newcomer/ratings/{rating['movie_id']}", json={"stars": rating["stars"]}
        )
        assert answer.status_code == 200
    stored = client.get("/v1/users/newcomer/recommendations", params={"limit": 8}).json()
    assert stored["items"] == posted["items"]


def test_a_rating_counts_on_the_next_request_without_retraining(client: TestClient, trained: int) -> None:
    unknown = client.get("/v1/users/late/recommendations").json()
    assert unknown["strategy"] == "popular"
    for n in range(3):
        client.put(f"/v1/users/late/ratings/odd{n}", json={"stars": 5})
    after = client.get("/v1/users/late/recommendations", params={"limit": 5}).json()
    assert after["strategy"] == "blended"
    assert halves(after) == ["odd"] * 5
    assert after["model_version"] == trained
    client.delete("/v1/users/late/ratings/odd0")
    again = client.get("/v1/users/late/recommendations", params={"limit": 20}).json()
    assert "odd0" in {item["movie_id"] for item in again["items"]}


def test_likes_without_stars_are_full_and_least_stars(client: TestClient, trained: int) -> None:
    liked = [{"movie_id": f"even{n}", "liked": True} for n in range(5)] + [
        {"movie_id": "odd0", "liked": False}
    ]
    starred = [{"movie_id": f"even{n}", "stars": 5} for n in range(5)] + [{"movie_id": "odd0", "stars": 0.5}]
    lists = [client.post("/v1/recommendations", json={"ratings": given}).json() for given in (liked, starred)]
    assert lists[0] == lists[1]


def test_filters_come_before_ranking_so_the_list_is_still_full(client: TestClient, trained: int) -> None:
    body = {"ratings": EVEN_FAN, "limit": 5}
    found = client.post("/v1/recommendations", json=body | {"genre": "Odd"}).json()
    assert halves(found) == ["odd"] * 5
    found = client.post("/v1/recommendations", json=body | {"year_from": 1990, "year_to": 1991}).json()
    assert {item["year"] for item in found["items"]} == {1990, 1991}
    found = client.post("/v1/recommendations", json=body | {"genre": "None"}).json()
    assert found["items"] == []
    everything = client.post("/v1/recommendations", json=body | {"limit": 30}).json()
    without = client.post(
        "/v1/recommendations", json=body | {"limit": 30, "exclude": [everything["items"][0]["movie_id"]]}
    ).json()
    assert [item["movie_id"] for item in without["items"]] == [
        item["movie_id"] for item in everything["items"][1:]
    ]
    full = client.post("/v1/recommendations", json=body | {"limit": 30, "include_rated": True}).json()
    assert len(full["items"]) == 30


def test_unknown_movies_are_named_and_left_out(client: TestClient, trained: int) -> None:
    given = [*EVEN_FAN, {"movie_id": "unheard-of", "stars": 5}]
    found = client.post("/v1/recommendations", json={"ratings": given}).json()
    assert found["ignored_movie_ids"] == ["unheard-of"]
    only = client.post("/v1/recommendations", json={"ratings": [given[-1]]}).json()
    assert (only["strategy"], only["ignored_movie_ids"]) == ("popular", ["unheard-of"])
    assert len(only["items"]) == 10


def test_who_has_rated_everything_gets_an_empty_list(client: TestClient, trained: int) -> None:
    given = [{"movie_id": f"{half}{n}", "stars": 3} for half in ("even", "odd") for n in range(15)]
    answer = client.post("/v1/recommendations", json={"ratings": given})
    assert answer.status_code == 200
    assert answer.json()["items"] == []


def test_before_the_first_version_the_most_rated_movies_are_shown(client: TestClient, tastes: None) -> None:
    found = client.get("/v1/users/even0/recommendations", params={"limit": 40}).json()
    assert (found["strategy"], found["model_version"]) == ("popular", None)
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)
    assert found["items"][0]["like_probability"] is None
    rated = {item["movie_id"] for item in client.get("/v1/users/even0/ratings").json()["items"]}
    shown = {item["movie_id"] for item in found["items"]}
    assert not rated & shown
    assert len(rated | shown) == 30
    filtered = client.get("/v1/users/even0/recommendations", params={"limit": 40, "genre": "Odd"}).json()
    assert set(halves(filtered)) == {"odd"}


def test_an_empty_service_answers_with_an_empty_list(client: TestClient) -> None:
    for answer in (
        client.get("/v1/users/nobody/recommendations"),
        client.post("/v1/recommendations", json={"ratings": []}),
        client.get("/v1/popular"),
    ):
        assert answer.status_code == 200
        assert (answer.json()["items"], answer.json()["strategy"]) == ([], "popular")


def test_popular_movies_are_the_list_of_somebody_unknown(client: TestClient, trained: int) -> None:
    assert (
        client.get("/v1/popular").json()["items"]
        == client.get("/v1/users/who/recommendations").json()["items"]
    )


def test_predictions_are_probabilities_or_null(client: TestClient, trained: int) -> None:
    found = client.get("/v1/users/even0/predictions", params={"movie_id": ["even1", "odd1", "x"]}).json()
    assert found["model_version"] == trained
    by_id = {item["movie_id"]: item["like_probability"] for item in found["items"]}
    assert 0 < by_id["even1"] < 1
    assert by_id["x"] is None
    body = {"ratings": EVEN_FAN, "movie_ids": ["even7"]}
    listed = client.post("/v1/recommendations", json={"ratings": EVEN_FAN, "limit": 30}).json()["items"]
    expected = next(item["like_probability"] for item in listed if item["movie_id"] == "even7")
    assert client.post("/v1/predictions", json=body).json()["items"][0]["like_probability"] == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "ratings"),
        ({"ratings": [{"movie_id": "a"}]}, "ratings[0]"),
        ({"ratings": [{"movie_id": "a", "stars": 4, "liked": True}]}, "ratings[0]"),
        ({"ratings": [{"movie_id": "a", "stars": 7}]}, "ratings[0].stars"),
        ({"ratings": [{"movie_id": "a", "liked": "yes"}]}, "ratings[0].liked"),
        ({"ratings": [{"movie_id": "", "stars": 4}]}, "ratings[0].movie_id"),
        ({"ratings": [], "limit": 1_000_000}, "limit"),
        ({"ratings": [], "limit": 0}, "limit"),
        ({"ratings": [], "year_from": "soon"}, "year_from"),
        ({"ratings": [], "limt": 5}, "limt"),
    ],
)
def test_bad_requests_are_refused_with_the_location(
    client: TestClient, body: dict[str, Any], location: str
) -> None:
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert location in {one["location"] for one in answer.json()["errors"]}

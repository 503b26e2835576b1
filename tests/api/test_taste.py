"""Taste, questions and confidence over HTTP, on ratings with a known answer."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

EVEN_FAN = [{"movie_id": f"even{n}", "stars": 5} for n in range(8)] + [{"movie_id": "odd0", "stars": 1}]


def store(client: TestClient, user: str, ratings: list[dict[str, Any]]) -> None:
    body = {"ratings": [{"user_id": user, **rating} for rating in ratings]}
    assert client.post("/v1/ratings", json=body).status_code == 200


def test_a_users_taste_is_labelled_by_movies_and_genres_of_their_half(
    client: TestClient, trained: int
) -> None:
    store(client, "fan", EVEN_FAN)
    answer = client.get("/v1/users/fan/taste", params={"limit": 2}).json()
    assert (answer["user_id"], answer["model_version"], answer["n_ratings"]) == ("fan", trained, 9)
    assert 1 <= len(answer["items"]) <= 2
    for trait in answer["items"]:
        assert abs(trait["activity"] - trait["usual_activity"]) >= 0.15
        assert trait["stability"] >= 0.9
        halves = [movie["movie_id"].rstrip("0123456789") for movie in trait["movies"]]
        assert halves.count("even") >= 4
        assert trait["movies"][0]["title"].startswith("Even Film")
        assert [genre["genre"] for genre in trait["genres"]] in ([], ["Even"])


def test_a_user_without_ratings_has_no_taste_yet(client: TestClient, trained: int) -> None:
    answer = client.get("/v1/users/unknown/taste").json()
    assert (answer["n_ratings"], answer["items"]) == (0, [])


def test_questions_are_unrated_movies_with_what_their_answer_tells(client: TestClient, trained: int) -> None:
    store(client, "fan", EVEN_FAN)
    answer = client.get("/v1/users/fan/questions", params={"limit": 50}).json()
    assert (answer["user_id"], answer["model_version"]) == ("fan", trained)
    questions = {item["movie_id"] for item in answer["items"]}
    assert len(questions) == 21
    assert not questions & {rating["movie_id"] for rating in EVEN_FAN}
    for item in answer["items"]:
        assert item["information"] >= -1e-6
        assert 0 < item["seen_probability"] < 1
        assert 0 < item["like_probability"] < 1
    first = answer["items"][0]
    assert first["title"]
    left = client.get(
        "/v1/users/fan/questions", params={"limit": 50, "exclude": [first["movie_id"], "unknown"]}
    ).json()
    assert {item["movie_id"] for item in left["items"]} == questions - {first["movie_id"]}


def test_questions_for_ratings_in_the_body_are_those_for_the_same_stored_ratings(
    client: TestClient, trained: int
) -> None:
    posted = client.post("/v1/questions", json={"ratings": EVEN_FAN, "limit": 4}).json()
    assert client.get("/v1/users/fan/ratings").json()["items"] == []
    store(client, "fan", EVEN_FAN)
    stored = client.get("/v1/users/fan/questions", params={"limit": 4}).json()
    assert posted["items"] == stored["items"]
    assert posted["user_id"] is None


def test_before_the_first_version_the_best_known_movies_are_the_questions(
    client: TestClient, tastes: None
) -> None:
    answer = client.post("/v1/questions", json={"ratings": EVEN_FAN, "limit": 5}).json()
    assert answer["model_version"] is None
    assert len(answer["items"]) == 5
    assert {item["information"] for item in answer["items"]} == {None}
    assert client.get("/v1/users/even0/taste").json()["items"] == []


def test_confidence_grows_with_ratings_that_agree(client: TestClient, trained: int) -> None:
    means = []
    for n in (0, 2, 8):
        body = {"ratings": EVEN_FAN[:n], "limit": 5}
        answer = client.post("/v1/recommendations", json=body).json()
        assert answer["strategy"] == ("popular" if n == 0 else "blended" if n < 5 else "rbm")
        means.append(sum(item["confidence"] for item in answer["items"]) / 5)
        assert all(0 < item["confidence"] < 1 for item in answer["items"])
        assert client.post("/v1/recommendations", json=body).json() == answer
    assert means[0] < means[1] < means[2]


def test_without_a_version_no_confidence_is_claimed(client: TestClient, tastes: None) -> None:
    answer = client.get("/v1/popular").json()
    assert {item["confidence"] for item in answer["items"]} == {None}


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({}, "ratings"),
        ({"ratings": [], "limit": 51}, "limit"),
        ({"ratings": [{"movie_id": "a", "stars": 9}]}, "ratings[0].stars"),
        ({"ratings": [], "exclude": [""]}, "exclude[0]"),
        ({"ratings": [], "exlude": []}, "exlude"),
    ],
)
def test_bad_questions_are_refused_with_the_location(
    client: TestClient, body: dict[str, Any], location: str
) -> None:
    answer = client.post("/v1/questions", json=body)
    assert answer.status_code == 422
    assert location in {error["location"] for error in answer.json()["errors"]}

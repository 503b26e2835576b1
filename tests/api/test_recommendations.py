"""Lists for stored users and for ratings in the body: filters and fallbacks."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

EVEN_FAN = [{"movie_id": f"even{n}", "stars": 5} for n in range(5)] + [{"movie_id": "odd0", "stars": 1}]


def halves(answer: dict[str, Any]) -> list[str]:
    return [item["movie_id"].rstrip("0123456789") for item in answer["items"]]


def test_a_list_holds_what_the_users_kind_likes(client: TestClient, trained: int) -> None:
    answer = client.get("/v1/users/even0/recommendations", params={"limit": 5}).json()
    assert (answer["user_id"], answer["model_version"], answer["strategy"]) == ("even0", trained, "rbm")
    assert halves(answer) == ["even"] * 5
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    first = answer["items"][0]
    assert first["title"].startswith("Even Film")
    assert first["genres"] == ["Even"]
    assert 0 < first["like_probability"] < 1
    rated = {item["movie_id"] for item in client.get("/v1/users/even0/ratings").json()["items"]}
    assert not rated & {item["movie_id"] for item in answer["items"]}


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
    lists = [
        client.post("/v1/recommendations", json={"ratings": ratings}).json() for ratings in (liked, starred)
    ]
    assert lists[0] == lists[1]


def test_filters_come_before_ranking_so_the_list_is_still_full(client: TestClient, trained: int) -> None:
    body = {"ratings": EVEN_FAN, "limit": 5}
    answer = client.post("/v1/recommendations", json=body | {"genre": "Odd"}).json()
    assert halves(answer) == ["odd"] * 5
    answer = client.post("/v1/recommendations", json=body | {"year_from": 1990, "year_to": 1991}).json()
    assert {item["year"] for item in answer["items"]} == {1990, 1991}
    answer = client.post("/v1/recommendations", json=body | {"genre": "None"}).json()
    assert answer["items"] == []
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
    ratings = [*EVEN_FAN, {"movie_id": "unheard-of", "stars": 5}]
    answer = client.post("/v1/recommendations", json={"ratings": ratings}).json()
    assert answer["ignored_movie_ids"] == ["unheard-of"]
    only = client.post("/v1/recommendations", json={"ratings": [ratings[-1]]}).json()
    assert (only["strategy"], only["ignored_movie_ids"]) == ("popular", ["unheard-of"])
    assert len(only["items"]) == 10


def test_who_has_rated_everything_gets_an_empty_list(client: TestClient, trained: int) -> None:
    ratings = [{"movie_id": f"{half}{n}", "stars": 3} for half in ("even", "odd") for n in range(15)]
    answer = client.post("/v1/recommendations", json={"ratings": ratings})
    assert answer.status_code == 200
    assert answer.json()["items"] == []


def test_before_the_first_version_the_most_rated_movies_are_listed(client: TestClient, tastes: None) -> None:
    answer = client.get("/v1/users/even0/recommendations", params={"limit": 40}).json()
    assert (answer["strategy"], answer["model_version"]) == ("popular", None)
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["items"][0]["like_probability"] is None
    rated = {item["movie_id"] for item in client.get("/v1/users/even0/ratings").json()["items"]}
    listed = {item["movie_id"] for item in answer["items"]}
    assert not rated & listed
    assert len(rated | listed) == 30
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


def test_popular_movies_are_the_list_of_an_unknown_user(client: TestClient, trained: int) -> None:
    assert (
        client.get("/v1/popular").json()["items"]
        == client.get("/v1/users/who/recommendations").json()["items"]
    )


def test_predictions_are_probabilities_or_null(client: TestClient, trained: int) -> None:
    answer = client.get("/v1/users/even0/predictions", params={"movie_id": ["even1", "odd1", "x"]}).json()
    assert answer["model_version"] == trained
    by_id = {item["movie_id"]: item["like_probability"] for item in answer["items"]}
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
        ({"ratings": [{"stars": 4}]}, "ratings[0]"),
        ({"ratings": [{"movie_id": "a", "title": "A", "stars": 4}]}, "ratings[0]"),
        ({"ratings": [{"movie_id": "a", "year": 1999, "stars": 4}]}, "ratings[0]"),
        ({"ratings": [{"title": " ", "stars": 4}]}, "ratings[0].title"),
        ({"ratings": [{"title": "a\u0000b", "stars": 4}]}, "ratings[0].title"),
        ({"ratings": [{"title": "Nowhere", "stars": 4}]}, "ratings[0].title"),
        ({"ratings": [], "diversity": 1.1}, "diversity"),
        ({"ratings": [], "diversity": "NaN"}, "diversity"),
        ({"ratings": [], "cursor": "made up"}, "cursor"),
        ({"ratings": [], "explain": "perhaps"}, "explain"),
        ({"ratings": [], "remove": ["a"]}, "remove"),
        ({"user_id": "even0", "remove": ["never"]}, "remove[0]"),
    ],
)
def test_bad_requests_are_refused_with_the_location(
    client: TestClient, body: dict[str, Any], location: str
) -> None:
    answer = client.post("/v1/recommendations", json=body)
    assert answer.status_code == 422
    assert location in {error["location"] for error in answer.json()["errors"]}


def test_query_parameters_are_those_of_the_body(client: TestClient, trained: int) -> None:
    for rating in EVEN_FAN:
        client.put(f"/v1/users/fan/ratings/{rating['movie_id']}", json={"stars": rating["stars"]})
    params: dict[str, Any] = {
        "limit": 4,
        "exclude": ["even9", "even8"],
        "year_from": 1981,
        "year_to": 1992,
        "diversity": 0.4,
        "explain": True,
        "include_obscure": True,
        "include_rated": True,
    }
    stored = client.get("/v1/users/fan/recommendations", params=params).json()
    posted = client.post("/v1/recommendations", json=params | {"ratings": EVEN_FAN}).json()
    assert stored["items"] == posted["items"]
    assert stored["next_cursor"] == posted["next_cursor"]
    assert len(stored["items"]) == 4
    assert not {"even8", "even9"} & {item["movie_id"] for item in stored["items"]}


@pytest.mark.parametrize(
    ("path", "parameters", "location"),
    [
        ("/v1/users/even0/recommendations", {"limt": 5}, "query.limt"),
        ("/v1/users/even0/recommendations", {"diversity": -1}, "query.diversity"),
        ("/v1/users/even0/recommendations", {"cursor": "AA"}, "cursor"),
        ("/v1/users/even0/recommendations", {"exclude": ["", "a"]}, "query.exclude[0]"),
        ("/v1/popular", {"year_to": 99}, "query.year_to"),
        ("/v1/popular", {"explain": True}, "query.explain"),
        ("/v1/movies/even0/similar", {"limit": 0}, "query.limit"),
        ("/v1/movies/even0/similar", {"genre": "a|b"}, "query.genre"),
    ],
)
def test_bad_queries_are_refused_with_the_location(
    client: TestClient, path: str, parameters: dict[str, Any], location: str
) -> None:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 422
    assert [error["location"] for error in answer.json()["errors"]] == [location]


def test_pages_go_on_where_the_page_before_ended(client: TestClient, trained: int) -> None:
    for path, body in (("/v1/users/even0/recommendations", None), ("/v1/recommendations", EVEN_FAN)):
        seen: list[str] = []
        cursor = None
        while True:
            params: dict[str, Any] = {"limit": 8} | ({"cursor": cursor} if cursor else {})
            answer = (
                client.get(path, params=params)
                if body is None
                else client.post(path, json=params | {"ratings": body})
            )
            page = answer.json()
            seen += [item["movie_id"] for item in page["items"]]
            assert [item["rank"] for item in page["items"]] == list(
                range(len(seen) - len(page["items"]) + 1, len(seen) + 1)
            )
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == 30 - (12 if body is None else 6)


def test_movies_may_be_named_by_title_and_year(client: TestClient, trained: int) -> None:
    titled = [
        {"title": "even film 1", "stars": 5},
        {"title": "Even Film 2 (1982)", "liked": True},
        {"title": "ODD FILM 0", "year": 1980, "liked": False},
    ]
    by_id = [
        {"movie_id": "even1", "stars": 5},
        {"movie_id": "even2", "stars": 5},
        {"movie_id": "odd0", "stars": 0.5},
    ]
    lists = [
        client.post("/v1/recommendations", json={"ratings": ratings}).json() for ratings in (titled, by_id)
    ]
    assert lists[0] == lists[1]
    question = {"ratings": titled, "movie_ids": ["even7"]}
    assert (
        client.post("/v1/predictions", json=question).json()
        == client.post("/v1/predictions", json=question | {"ratings": by_id}).json()
    )


def test_titles_that_mean_several_movies_or_none_are_all_reported(client: TestClient, trained: int) -> None:
    client.put("/v1/movies/remake", json={"title": "Even Film 1", "year": 2020})
    ratings = [
        {"movie_id": "even0", "stars": 5},
        {"title": "Even Film 1", "stars": 5},
        {"title": "Even Film 1", "year": 2020, "stars": 5},
        {"title": "Evn Film 2", "stars": 5},
        {"title": "Odd Films 3", "stars": 5},
    ]
    answer = client.post("/v1/recommendations", json={"ratings": ratings})
    assert answer.status_code == 422
    problem = answer.json()
    assert "even1" in problem["detail"]
    by_location = {error["location"]: error for error in problem["errors"]}
    assert list(by_location) == ["ratings[1].title", "ratings[3].title", "ratings[4].title"]
    assert by_location["ratings[1].title"]["candidates"] == [
        {"movie_id": "even1", "title": "Even Film 1", "year": 1981},
        {"movie_id": "remake", "title": "Even Film 1", "year": 2020},
    ]
    assert "odd3" in {candidate["movie_id"] for candidate in by_location["ratings[4].title"]["candidates"]}
    members = [{"user_id": "even0"}, {"ratings": ratings[3:]}]
    group = client.post("/v1/recommendations/group", json={"members": members})
    assert [error["location"] for error in group.json()["errors"]] == [
        "members[1].ratings[0].title",
        "members[1].ratings[1].title",
    ]


def test_what_if_tells_what_entered_left_and_moved(client: TestClient, trained: int) -> None:
    rated = [item["movie_id"] for item in client.get("/v1/users/even0/ratings").json()["items"]]
    body = {
        "user_id": "even0",
        "ratings": [{"movie_id": f"odd{n}", "stars": 5} for n in range(12)],
        "remove": [movie for movie in rated if movie.startswith("even")],
        "limit": 6,
    }
    before = client.get("/v1/users/even0/recommendations", params={"limit": 6}).json()
    result = client.post("/v1/recommendations", json=body).json()
    assert result["user_id"] == "even0"
    were, are = ({item["movie_id"]: item["rank"] for item in answer["items"]} for answer in (before, result))
    changes = result["changes"]
    assert {movie["movie_id"]: movie["rank"] for movie in changes["entered"]} == {
        movie: rank for movie, rank in are.items() if movie not in were
    }
    assert {movie["movie_id"]: movie["rank_before"] for movie in changes["left"]} == {
        movie: rank for movie, rank in were.items() if movie not in are
    }
    assert {(movie["rank_before"], movie["rank"]) for movie in changes["moved"]} == {
        (were[movie], rank) for movie, rank in are.items() if movie in were and were[movie] != rank
    }
    assert changes["entered"]
    assert client.get("/v1/users/even0/recommendations", params={"limit": 6}).json() == before
    for plain in ({"ratings": EVEN_FAN}, body | {"cursor": before["next_cursor"]}):
        assert client.post("/v1/recommendations", json=plain).json()["changes"] is None


def test_a_batch_holds_each_users_own_list(client: TestClient, trained: int) -> None:
    users = ["odd1", "nobody", "even0", "odd1"]
    params: dict[str, Any] = {"limit": 3, "genre": "Even", "diversity": 0.1}
    answer = client.post("/v1/recommendations/batch", json=params | {"user_ids": users})
    assert answer.status_code == 200
    for user, result in zip(users, answer.json()["items"], strict=True):
        alone = client.get(f"/v1/users/{user}/recommendations", params=params).json()
        assert result["user_id"] == user
        assert result["strategy"] == alone["strategy"]
        assert [item["movie_id"] for item in result["items"]] == [item["movie_id"] for item in alone["items"]]


def test_a_batch_takes_a_thousand_users_and_no_more(client: TestClient, trained: int) -> None:
    users = [f"even{n}" for n in range(1_000)]
    result = client.post("/v1/recommendations/batch", json={"user_ids": users, "limit": 2}).json()
    assert [item["user_id"] for item in result["items"]] == users
    for body, location in (
        ({"user_ids": [*users, "one-more"]}, "user_ids"),
        ({"user_ids": []}, "user_ids"),
        ({"user_ids": ["a", ""]}, "user_ids[1]"),
        ({"user_ids": ["a"], "limit": 101}, "limit"),
        ({"user_ids": ["a"], "explain": True}, "explain"),
    ):
        answer = client.post("/v1/recommendations/batch", json=body)
        assert answer.status_code == 422
        assert [error["location"] for error in answer.json()["errors"]] == [location]


@pytest.mark.parametrize("strategy", ["average", "least_misery"])
def test_a_group_has_one_list_with_everybodys_probability(
    client: TestClient, trained: int, strategy: str
) -> None:
    members = [{"user_id": "odd1"}, {"ratings": EVEN_FAN}]
    body = {"members": members, "strategy": strategy, "limit": 5}
    answer = client.post("/v1/recommendations/group", json=body).json()
    assert (answer["strategy"], answer["model_version"]) == (strategy, trained)
    assert [member["user_id"] for member in answer["members"]] == ["odd1", None]
    rated = {item["movie_id"] for item in client.get("/v1/users/odd1/ratings").json()["items"]}
    rated |= {rating["movie_id"] for rating in EVEN_FAN}
    assert not rated & {item["movie_id"] for item in answer["items"]}
    for item in answer["items"]:
        likings = [member["like_probability"] for member in item["members"]]
        together = sum(likings) / 2 if strategy == "average" else min(likings)
        assert item["like_probability"] == pytest.approx(together, abs=1e-6)
    more = client.post("/v1/recommendations/group", json=body | {"cursor": answer["next_cursor"]}).json()
    assert more["items"][0]["rank"] == 6
    assert not {item["movie_id"] for item in answer["items"]} & {item["movie_id"] for item in more["items"]}


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"members": []}, "members"),
        ({"members": [{"user_id": "a"}] * 51}, "members"),
        ({"members": [{}]}, "members[0]"),
        ({"members": [{"user_id": "a"}, {"user_id": "b", "ratings": []}]}, "members[1]"),
        ({"members": [{"ratings": [{"movie_id": "a", "stars": 9}]}]}, "members[0].ratings[0].stars"),
        ({"members": [{"user_id": "a"}], "strategy": "most_pleasure"}, "strategy"),
        ({"members": [{"user_id": "a"}], "cursor": "!"}, "cursor"),
    ],
)
def test_bad_groups_are_refused_with_the_location(
    client: TestClient, body: dict[str, Any], location: str
) -> None:
    answer = client.post("/v1/recommendations/group", json=body)
    assert answer.status_code == 422
    assert location in {error["location"] for error in answer.json()["errors"]}


def test_similar_movies_are_of_a_kind(client: TestClient, trained: int) -> None:
    result = client.get("/v1/movies/odd4/similar", params={"limit": 6}).json()
    assert (result["movie_id"], result["title"], result["model_version"]) == ("odd4", "Odd Film 4", trained)
    assert halves(result) == ["odd"] * 6
    assert all(-1 <= item["similarity"] <= 1 for item in result["items"])
    other = client.get("/v1/movies/odd4/similar", params={"limit": 6, "genre": "Even"}).json()
    assert halves(other) == ["even"] * 6
    answer = client.get("/v1/movies/nowhere/similar")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")

"""ML-100K: import, retrain over HTTP, recommend better than popularity.

MovieLens may not be redistributed, so the data is not here: set HARMONIUM_TEST_DATA to
a folder with u.data and u.item, or unpack ml-100k into ../shared/data beside the
checkout.
"""

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.service import Service

FOLDER = Path(
    os.environ.get("HARMONIUM_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data" / "ml-100k"
)

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not (FOLDER / "u.data").exists(), reason=f"no ML-100K in {FOLDER}"),
    pytest.mark.timeout(280),
]

HELD_OUT_USERS = 60


def ndcg_at_10(ranked: list[str], relevant: set[str]) -> float:
    gained = sum(1 / math.log2(rank + 2) for rank, movie in enumerate(ranked[:10]) if movie in relevant)
    return gained / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(relevant))))


@dataclass(frozen=True)
class HalvedData:
    """Ratings as lines of u.data by user; half of the tested users' is withheld."""

    tested: list[str]
    ratings: dict[str, list[str]]
    withheld: dict[str, set[str]]


def halved() -> HalvedData:
    ratings: dict[str, list[str]] = {}
    for line in (FOLDER / "u.data").read_text().splitlines():
        ratings.setdefault(line.split("\t")[0], []).append(line)
    rng = np.random.default_rng(7)
    tested = sorted(
        rng.choice(sorted(user for user, rows in ratings.items() if len(rows) >= 20), HELD_OUT_USERS)
    )
    withheld: dict[str, set[str]] = {}
    for user in tested:
        rows = ratings[user]
        chosen = set(rng.permutation(len(rows))[: len(rows) // 2].tolist())
        withheld[user] = {row.split("\t")[1] for place, row in enumerate(rows) if place in chosen}
        ratings[user] = [row for place, row in enumerate(rows) if place not in chosen]
    return HalvedData(tested, ratings, withheld)


def import_over_http(service: Service, ratings: dict[str, list[str]], file: Path) -> None:
    """Import the movies by the command line and the ratings over HTTP."""
    file.write_text("\n".join(row for rows in ratings.values() for row in rows))
    imported = service.run("import", str(FOLDER / "u.item"), "--json")
    assert imported.returncode == 0, imported.stderr
    assert '"rows": 1682' in imported.stdout
    with file.open("rb") as content:
        answer = service.http.post("/v1/imports", content=content)
    assert answer.status_code == 202, answer.text
    done = service.finished(answer.headers["Location"], 60)
    assert done["state"] == "succeeded", done
    assert done["counts"] == {
        "inserted": sum(map(len, ratings.values())),
        "updated": 0,
        "unchanged": 0,
        "superseded": 0,
        "rejected": 0,
    }


def test_ml_100k_from_file_to_recommendations(database_url: str, tmp_path: Path) -> None:
    data = halved()
    ratings = data.ratings
    with Service(tmp_path, database_url) as service:
        import_over_http(service, ratings, tmp_path / "ratings")

        popular = service.http.get("/v1/users/nobody/recommendations").json()
        assert (popular["strategy"], popular["model_version"]) == ("popular", None)

        answer = service.http.post("/v1/admin/retrain", json={})
        assert answer.status_code == 202, answer.text
        location = answer.headers["Location"]
        seen: list[float] = []

        def is_under_way() -> bool:
            seen.append(service.http.get(location).json()["progress"])
            return 0.05 < seen[-1] < 1

        service.wait_until(is_under_way, 60)
        run = service.finished(location, 200)
        assert run["state"] == "succeeded", run
        assert run["evaluation"]["state"] == "evaluated"  # type: ignore[index]

        def is_serving() -> bool:
            return bool(service.http.get("/health/ready").json()["model_version"] == run["model_version"])

        service.wait_until(is_serving, 5)
        counts = Counter(row.split("\t")[1] for rows in ratings.values() for row in rows)
        most_rated = [movie for movie, _ in counts.most_common()]
        by_model, by_popularity = [], []
        for user in data.tested:
            listed = service.http.get(f"/v1/users/{user}/recommendations").json()
            assert listed["model_version"] == run["model_version"]
            assert all(item["title"] for item in listed["items"])
            rated = {row.split("\t")[1] for row in ratings[user]}
            ranked = [item["movie_id"] for item in listed["items"]]
            assert not rated & set(ranked)
            by_model.append(ndcg_at_10(ranked, data.withheld[user]))
            unrated = [movie for movie in most_rated if movie not in rated]
            by_popularity.append(ndcg_at_10(unrated, data.withheld[user]))
        model, popularity = np.mean(by_model), np.mean(by_popularity)
        assert model > popularity + 0.1

        # A rating counts on the next request, without retraining.
        before = service.http.get("/v1/users/newcomer/recommendations").json()
        assert before["strategy"] == "popular"
        for movie, stars in (("50", 5), ("172", 5), ("181", 5)):  # the first three of one space saga
            service.http.put(f"/v1/users/newcomer/ratings/{movie}", json={"stars": stars}).raise_for_status()
        after = service.http.get("/v1/users/newcomer/recommendations").json()
        assert after["strategy"] == "blended"
        assert [item["movie_id"] for item in after["items"]] != [item["movie_id"] for item in before["items"]]
        assert service.stop() == 0

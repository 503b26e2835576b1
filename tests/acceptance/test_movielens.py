"""The whole way on real data: import ML-100K, retrain over HTTP, and recommend better than popularity.

MovieLens may not be redistributed, so the data is not here: set HARMONIUM_TEST_DATA to a folder with u.data
and u.item, or unpack ml-100k into ../shared/data beside the checkout.
"""

import math
import os
from collections import Counter
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


def ndcg_at_10(shown: list[str], relevant: set[str]) -> float:
    gained = sum(1 / math.log2(rank + 2) for rank, movie in enumerate(shown[:10]) if movie in relevant)
    return gained / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(relevant))))


def test_ml_100k_from_file_to_recommendations(database_url: str, tmp_path: Path) -> None:
    lines = (FOLDER / "u.data").read_text().splitlines()
    ratings: dict[str, list[str]] = {}
    for line in lines:
        ratings.setdefault(line.split("\t")[0], []).append(line)
    # Half of each tested user's ratings are kept back, and never reach the service.
    rng = np.random.default_rng(7)
    tested = sorted(
        rng.choice(sorted(user for user, rows in ratings.items() if len(rows) >= 20), HELD_OUT_USERS)
    )
    kept_back: dict[str, set[str]] = {}
    for user in tested:
        rows = ratings[user]
        chosen = set(rng.permutation(len(rows))[: len(rows) // 2].tolist())
        kept_back[user] = {row.split("\t")[1] for place, row in enumerate(rows) if place in chosen}
        ratings[user] = [row for place, row in enumerate(rows) if place not in chosen]
    training = tmp_path / "ratings"
    training.write_text("\n".join(row for rows in ratings.values() for row in rows))
    n_ratings = sum(map(len, ratings.values()))

    with Service(tmp_path, database_url) as service:
        imported = service.run("import", str(FOLDER / "u.item"), "--json")
        assert imported.returncode == 0, imported.stderr
        assert '"rows": 1682' in imported.stdout

        with training.open("rb") as file:
            answer = service.http.post("/v1/imports", content=file)
        assert answer.status_code == 202, answer.text
        done = service.finished(answer.headers["Location"], 60)
        assert done["state"] == "succeeded", done
        assert done["counts"] == {
            "inserted": n_ratings,
            "updated": 0,
            "unchanged": 0,
            "superseded": 0,
            "rejected": 0,
        }

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
        by_machine, by_popularity = [], []
        for user in tested:
            listed = service.http.get(f"/v1/users/{user}/recommendations").json()
            assert listed["model_version"] == run["model_version"]
            assert all(item["title"] for item in listed["items"])
            rated = {row.split("\t")[1] for row in ratings[user]}
            shown = [item["movie_id"] for item in listed["items"]]
            assert not rated & set(shown)
            by_machine.append(ndcg_at_10(shown, kept_back[user]))
            unrated = [movie for movie in most_rated if movie not in rated]
            by_popularity.append(ndcg_at_10(unrated, kept_back[user]))
        machine, popularity = np.mean(by_machine), np.mean(by_popularity)
        assert machine > popularity + 0.1

        # A rating counts on the next request, without retraining.
        before = service.http.get("/v1/users/newcomer/recommendations").json()
        assert before["strategy"] == "popular"
        for movie, stars in (("50", 5), ("172", 5), ("181", 5)):  # the first three of one space saga
            service.http.put(f"/v1/users/newcomer/ratings/{movie}", json={"stars": stars}).raise_for_status()
        after = service.http.get("/v1/users/newcomer/recommendations").json()
        assert after["strategy"] == "blended"
        assert [item["movie_id"] for item in after["items"]] != [item["movie_id"] for item in before["items"]]
        assert service.stop() == 0

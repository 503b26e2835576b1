"""Files over HTTP: as the body or in a form, spooled, imported by the worker."""

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

CSV = b"userId,movieId,rating,timestamp\n1,10,4.0,1000000000\n1,11,2.5,1000000001\n2,10,5.0,1000000002\n"
MOVIES = b'movieId,title,genres\n10,"Heat (1995)",Action|Crime\n11,"Matrix, The (1999)",Action|Sci-Fi\n'


def send(client: TestClient, content: bytes, **params: str) -> dict[str, Any]:
    answer = client.post(
        "/v1/imports", params=params, content=content, headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/v1/imports/{answer.json()['id']}"
    return dict(answer.json())


def spooled(settings: Settings) -> list[Path]:
    return list(settings.spool_dir.glob("import-*")) if settings.spool_dir.exists() else []


def test_a_body_becomes_ratings(client: TestClient, work: Callable[[], None], settings: Settings) -> None:
    queued = send(client, CSV, file_name="ratings.csv")
    assert (queued["state"], queued["file_name"], queued["file_bytes"]) == ("queued", "ratings.csv", len(CSV))
    assert len(spooled(settings)) == 1
    work()
    done = client.get(f"/v1/imports/{queued['id']}").json()
    assert (done["state"], done["rows"], done["kind"], done["format"]) == ("succeeded", 3, "ratings", "csv")
    assert done["counts"] == {"inserted": 3, "updated": 0, "unchanged": 0, "superseded": 0, "rejected": 0}
    assert spooled(settings) == []
    items = client.get("/v1/users/1/ratings").json()["items"]
    assert [(item["movie_id"], item["stars"]) for item in items] == [("11", 2.5), ("10", 4.0)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_form_becomes_movies(client: TestClient, work: Callable[[], None], packed: bool) -> None:
    content = gzip.compress(MOVIES) if packed else MOVIES
    answer = client.post("/v1/imports", files={"file": ("a/../movies.csv", content)}, data={"note": "x"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["file_name"] == "movies.csv"
    assert answer.json()["file_bytes"] == len(content)
    work()
    assert client.get("/v1/movies/11").json()["title"] == "The Matrix"
    assert client.get("/v1/movies/11").json()["year"] == 1999


def test_the_exported_catalogue_changes_nothing(client: TestClient, work: Callable[[], None]) -> None:
    send(client, MOVIES)
    work()
    exported = client.get("/v1/admin/movies.csv")
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    assert exported.text.splitlines()[1] == "10,Heat,1995,|Action|Crime|,,"
    again = send(client, exported.content)
    work()
    counts = client.get(f"/v1/imports/{again['id']}").json()["counts"]
    assert (counts["unchanged"], sum(counts.values())) == (2, 2)


def test_a_bad_row_stops_the_file_and_is_named(client: TestClient, work: Callable[[], None]) -> None:
    bad = CSV + b"3,12,eleven,1000000003\n"
    queued = send(client, bad)
    work()
    done = client.get(f"/v1/imports/{queued['id']}").json()
    assert done["state"] == "failed"
    assert [error["location"] for error in done["errors"]] == ["line 5"]
    assert client.get("/v1/users/1/ratings").json()["items"] == []
    skipped = send(client, bad, on_error="skip")
    work()
    done = client.get(f"/v1/imports/{skipped['id']}").json()
    assert (done["state"], done["counts"]["inserted"], done["counts"]["rejected"]) == ("succeeded", 3, 1)


def test_columns_and_scale_are_taken_along(client: TestClient, work: Callable[[], None]) -> None:
    queued = send(client, b"who,what,mark\n1,10,7\n", columns="user=who,movie=what,stars=mark", scale="10")
    work()
    assert client.get(f"/v1/imports/{queued['id']}").json()["counts"]["inserted"] == 1
    assert client.get("/v1/users/1/ratings").json()["items"][0]["stars"] == 3.5
    queued = send(client, b"who,what,mark\n1,10,7\n", columns="user=whom")
    work()
    assert "'who', 'what', 'mark'" in client.get(f"/v1/imports/{queued['id']}").json()["error"]


def test_imports_are_listed_newest_first(client: TestClient) -> None:
    ids = [send(client, CSV)["id"] for _ in range(3)]
    listed = client.get("/v1/imports", params={"limit": 2}).json()
    assert [item["id"] for item in listed["items"]] == ids[:0:-1]
    rest = client.get("/v1/imports", params={"limit": 2, "cursor": listed["next_cursor"]}).json()
    assert [item["id"] for item in rest["items"]] == ids[:1]
    assert client.get("/v1/imports/999").status_code == 404


@pytest.mark.parametrize(
    ("params", "location"),
    [
        ({"kind": "songs"}, "query.kind"),
        ({"format": "xlsx"}, "format"),
        ({"columns": "uid"}, "columns"),
        ({"scale": "many"}, "scale"),
    ],
)
def test_unknown_options_are_refused_before_the_body_is_kept(
    client: TestClient, settings: Settings, params: dict[str, str], location: str
) -> None:
    answer = client.post("/v1/imports", params=params, content=CSV)
    assert answer.status_code == 422
    assert [error["location"] for error in answer.json()["errors"]] == [location]
    assert spooled(settings) == []


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "application/octet-stream"),
        (b"no form", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\nbroken off",
            "multipart/form-data; boundary=x",
        ),
        (b"--x--", "multipart/form-data; boundary=x"),
        (CSV, "multipart/form-data"),
    ],
)
def test_what_holds_no_file_is_refused_and_leaves_nothing(
    client: TestClient, settings: Settings, content: bytes, content_type: str
) -> None:
    answer = client.post("/v1/imports", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert spooled(settings) == []
    assert client.get("/v1/imports").json()["items"] == []


@pytest.fixture
def small(settings: Settings) -> Iterator[TestClient]:
    limited = settings.model_copy(update={"upload_limit": 10_000})
    with TestClient(create_app(limited), base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("as_form", [False, True])
@pytest.mark.parametrize("announced", [False, True])
def test_a_file_beyond_the_limit_is_refused_and_leaves_nothing(
    small: TestClient, settings: Settings, as_form: bool, announced: bool
) -> None:
    content = b"x" * 200_000
    headers = {}
    if as_form:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        content = head + content + b"\r\n--x--\r\n"
        headers["Content-Type"] = "multipart/form-data; boundary=x"

    def blocks() -> Iterator[bytes]:
        for start in range(0, len(content), 5_000):
            yield content[start : start + 5_000]

    answer = small.post("/v1/imports", content=content if announced else blocks(), headers=headers)
    assert answer.status_code == 413
    assert "10,000 bytes" in answer.json()["detail"]
    assert spooled(settings) == []


def test_a_file_that_the_disk_has_no_space_for_is_refused_and_leaves_nothing(settings: Settings) -> None:
    greedy = settings.model_copy(update={"disk_reserve": 2**62})
    with TestClient(create_app(greedy), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/imports", content=CSV)
    assert answer.status_code == 507
    assert answer.headers["content-type"] == "application/problem+json"
    assert "HARMONIUM_DISK_RESERVE" in answer.json()["detail"]
    assert spooled(settings) == []


@pytest.mark.parametrize("packing", ["gzip", "zip"])
def test_a_packed_file_that_says_it_unpacks_to_too_much_is_refused_at_once(
    packing: str, settings: Settings
) -> None:
    limited = settings.model_copy(update={"unpacked_limit": len(CSV) - 1})
    packed = io.BytesIO()
    if packing == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ratings.csv", CSV)
    else:
        packed.write(gzip.compress(CSV))
    with TestClient(create_app(limited), base_url="http://127.0.0.1") as client:
        answer = client.post("/v1/imports", content=packed.getvalue())
        assert answer.status_code == 413, answer.text
        assert "HARMONIUM_UNPACKED_LIMIT" in answer.json()["detail"]
        assert spooled(settings) == []
        assert client.post("/v1/imports", content=gzip.compress(CSV[:-1])).status_code == 202
        assert client.post("/v1/imports", content=b"\x1f\x8b").status_code == 202


def test_a_file_at_the_limit_is_taken(small: TestClient) -> None:
    assert small.post("/v1/imports", content=b"x" * 10_000).status_code == 202
    assert small.post("/v1/imports", files={"file": b"x" * 10_000}).status_code == 202

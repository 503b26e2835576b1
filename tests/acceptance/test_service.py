"""The service as a newcomer starts it: real processes, the demo, the end."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.service import Service
from tests.postgres import Cluster

pytestmark = pytest.mark.acceptance


def test_the_demo_shows_science_fiction_to_whom_likes_it(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "app", "demo", "--no-serve"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    assert "trained model version 1" in made.stderr
    with Service(tmp_path, f"sqlite:///{tmp_path}/data/demo/demo.db") as service:
        stars = {
            "demo-alien-1979": 5,
            "demo-the-matrix-1999": 5,
            "demo-blade-runner-1982": 4.5,
            "demo-titanic-1997": 1,
            "demo-notting-hill-1999": 1.5,
        }
        given = [{"movie_id": movie_id, "stars": value} for movie_id, value in stars.items()]
        found = service.http.post("/v1/recommendations", json={"ratings": given}).json()
        genres = [item["genres"] for item in found["items"]]
        assert sum("Sci-Fi" in one for one in genres) >= 7
        assert not any("Romance" in one and "Sci-Fi" not in one for one in genres)
    again = subprocess.run(
        [sys.executable, "-m", "app", "demo", "--no-serve"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert again.returncode == 0
    assert "0 new ratings" in again.stderr
    assert "trained" not in again.stderr


def test_a_public_address_without_a_key_refuses_to_start(tmp_path: Path) -> None:
    environment = os.environ | {"HARMONIUM_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    command = [sys.executable, "-m", "app", "serve", "--host", "0.0.0.0", "--port", "0"]  # noqa: S104
    refused = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2
    assert "harmonium keys create" in refused.stderr


def test_bad_settings_are_named(tmp_path: Path) -> None:
    environment = os.environ | {"HARMONIUM_STARS_MIN": "6", "HARMONIUM_PORT": "http"}
    command = [sys.executable, "-m", "app", "serve"]
    refused = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 2
    assert "HARMONIUM_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_a_clear_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = os.environ | {"HARMONIUM_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
        command = [sys.executable, "-m", "app", "serve", "--no-worker", "--port", str(port)]
        refused = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
    assert refused.returncode != 0
    assert str(port) in refused.stderr
    assert "Traceback" not in refused.stderr


def test_keys_from_the_command_line_open_the_service(database_url: str, tmp_path: Path) -> None:
    with Service(tmp_path, database_url) as service:
        assert service.http.get("/v1/popular").status_code == 200
        made = service.run("keys", "create", "--name", "ops", "--role", "admin")
        assert made.returncode == 0, made.stderr
        secret = made.stdout.strip()
        assert service.http.get("/v1/popular").status_code == 401
        service.http.headers["Authorization"] = f"Bearer {secret}"
        assert service.http.get("/v1/popular").status_code == 200
        assert service.http.get("/v1/admin/jobs").status_code == 200
        again = service.run("keys", "create", "--name", "x", "--role", "admin", "--unless-any")
        assert (again.returncode, again.stdout) == (0, "")
        listed = json.loads(service.run("keys", "list", "--json").stdout)
        assert [key["name"] for key in listed] == ["ops"]
        assert service.run("keys", "revoke", str(listed[0]["id"])).returncode == 0
        assert service.http.get("/v1/popular").status_code == 401
        assert secret not in service.log.read_text()


def test_import_export_and_the_same_again(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    rows = "".join(f"u{n % 5},m{n},{1 + n % 5},{1_700_000_000 + n}\n" for n in range(50))
    file.write_text("userId,movieId,rating,timestamp\n" + rows)
    service = Service(tmp_path, database_url)
    done = service.run("import", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["inserted"] == 50
    exported = service.run("export", "out.csv")
    assert exported.returncode == 0, exported.stderr
    again = json.loads(service.run("import", "out.csv", "--json").stdout)[0]
    assert (again["rows"], again["unchanged"]) == (50, 50)
    bad = tmp_path / "bad.csv"
    bad.write_text("userId,movieId,rating\na,b,3\na,c,nine\n")
    refused = service.run("import", str(bad))
    assert refused.returncode == 2
    assert "line 3" in refused.stderr
    assert json.loads(service.run("recommend", "a", "--json").stdout)["strategy"] == "popular"


def test_a_client_that_goes_away_leaves_nothing_behind(database_url: str, tmp_path: Path) -> None:
    with Service(tmp_path, database_url, with_worker=False) as service:
        uploads = tmp_path / "spool"
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(
                b"POST /v1/imports HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
                b"userId,movieId,rating\n1,2,3\n"
            )
            service.wait_until(lambda: len(list(uploads.glob("import-*"))) == 1, 20)
        service.wait_until(lambda: not list(uploads.glob("import-*")), 20)
        assert service.http.get("/v1/imports").json()["items"] == []


def test_an_import_whose_worker_is_killed_ends_by_itself_and_right(database_url: str, tmp_path: Path) -> None:
    n_rows = 400_000
    file = "userId,movieId,rating\n" + "".join(f"{n // 100},{n % 100},{1 + n % 5}\n" for n in range(n_rows))
    with Service(tmp_path, database_url) as service:
        place = service.http.post("/v1/imports", content=gzip.compress(file.encode())).headers["Location"]

        def state() -> dict[str, Any]:
            return dict(service.http.get(place).json())

        service.wait_until(lambda: state()["rows"] > 0, 60)
        started = [line for line in service.log.read_text().splitlines() if "worker_process_started" in line]
        os.kill(json.loads(started[-1])["pid"], signal.SIGKILL)
        service.wait_until(lambda: state()["state"] in ("succeeded", "failed"), 90)
        done = state()
        assert (done["state"], done["rows"], done["counts"]["inserted"]) == ("succeeded", n_rows, n_rows)
        assert service.http.get("/v1/movies", params={"limit": 1}).json()["items"][0]["movie_id"] == "99"
        assert service.http.get("/v1/admin/ratings.csv").text.count("\n") == n_rows + 1


def test_stopping_is_in_order_and_leaves_no_process_behind(database_url: str, tmp_path: Path) -> None:
    with Service(tmp_path, database_url) as service:

        def log_lines(event: str) -> list[dict[str, Any]]:
            lines = [
                json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")
            ]
            return [line for line in lines if line["event"] == event]

        service.wait_until(lambda: bool(log_lines("worker_started")), 60)
        (worker,) = log_lines("worker_process_started")
        assert Path(f"/proc/{worker['pid']}").exists()
        assert service.stop() == 0
        assert not Path(f"/proc/{worker['pid']}").exists()
        with pytest.raises(httpx2.TransportError):
            service.http.get("/health/live")


def test_a_hundred_equal_retrain_requests_make_one_run_or_a_follow_up(
    database_url: str, tmp_path: Path
) -> None:
    with Service(tmp_path, database_url) as service:
        rows = [
            {"user_id": f"u{user}", "movie_id": f"m{movie}", "stars": 5 if user % 2 == movie % 2 else 1}
            for user in range(20)
            for movie in range(12)
        ]
        service.http.post("/v1/ratings", json={"ratings": rows}).raise_for_status()

        def retrain(_: int) -> tuple[int, str]:
            answer = service.http.post("/v1/admin/retrain", json={"epochs": 100_000})
            return answer.status_code, answer.headers["Location"]

        with ThreadPoolExecutor(20) as pool:
            answers = set(pool.map(retrain, range(100)))
        assert {status for status, _ in answers} == {202}
        runs = service.http.get("/v1/admin/training-runs").json()["items"]
        assert len(runs) == len(answers)
        assert len(runs) <= 2
        for _, location in answers:
            service.http.post(f"{location}/cancel").raise_for_status()
        for _, location in answers:
            assert service.finished(location, 60)["state"] == "cancelled"


def test_ctrl_c_ends_it_as_well(tmp_path: Path) -> None:
    with Service(tmp_path, f"sqlite:///{tmp_path}/x.db") as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(timeout=30) == 0


def test_the_service_starts_before_its_database_and_recovers(postgres: Cluster, tmp_path: Path) -> None:
    url = postgres.create_database("late")
    postgres.stop()
    try:
        service = Service(tmp_path, url)
        service.start()
        service.wait_until(service.is_live, 30)
        assert service.http.get("/health/ready").status_code == 503
        assert service.http.get("/v1/popular").status_code == 503
    finally:
        postgres.start()
    with service:
        assert service.http.get("/v1/popular").status_code == 200


def test_a_public_service_that_started_before_its_database_says_that_there_is_no_key(
    postgres: Cluster, tmp_path: Path
) -> None:
    url = postgres.create_database("late_and_public")
    postgres.stop()
    try:
        service = Service(tmp_path, url, with_worker=False, host="0.0.0.0")  # noqa: S104
        service.start()
        service.wait_until(service.is_live, 30)
        service.wait_until(lambda: "api_keys_not_checked" in service.log.read_text(), 10)
    finally:
        postgres.start()
    try:
        service.wait_until(lambda: '"no_api_key"' in service.log.read_text(), 60)
        ready = service.http.get("/health/ready")
        assert ready.status_code == 503
        assert "harmonium keys create" in ready.json()["database"]
        assert service.http.get("/v1/popular").status_code == 401
        made = service.run("keys", "create", "--name", "ops", "--role", "read")
        assert service.http.get("/health/ready").status_code == 200
        service.http.headers["Authorization"] = f"Bearer {made.stdout.strip()}"
        assert service.http.get("/v1/popular").status_code == 200
    finally:
        service.stop()
        service.http.close()

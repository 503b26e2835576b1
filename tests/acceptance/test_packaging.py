"""The wheel is whole; Dockerfile and docker-compose.yml agree with the code.

The image itself needs an engine to be built; here is what can be known without one.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def test_the_wheel_holds_the_package_and_the_migrations_and_nothing_else(wheel: Path) -> None:
    expected = {
        str(Path("app") / path.relative_to(folder.parent if folder.name == "migrations" else folder))
        for folder in (ROOT / "app", ROOT / "migrations")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_a_database_can_be_migrated_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    script = (
        "import app.storage.database; from app.storage.database import Database; "
        "print(app.storage.database.__file__); database = Database('sqlite:///new.db'); "
        "print(database.upgrade()); assert database.is_current()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    file, applied = done.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    assert "0001" in applied


def test_the_image_is_built_with_the_uv_of_the_makefile() -> None:
    makefile = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.M)
    dockerfile = re.search(r"^ARG UV_VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert makefile
    assert dockerfile
    assert makefile[1] == dockerfile[1]


def test_one_service_is_built_and_the_others_use_its_image(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "build" in service] == ["api"]
    assert {name: service["image"] for name, service in services.items()} == {
        "database": "postgres:17",
        "migrate": "harmonium",
        "api": "harmonium",
        "worker": "harmonium",
    }


def test_only_the_api_can_be_reached_and_only_from_this_machine(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name == "api":
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        else:
            assert "ports" not in service
            assert service["network_mode"] == "none"


def test_every_service_gives_up_what_it_does_not_need(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert ("cap_add" in service) is (name == "database")


def test_containers_are_not_killed_while_they_still_may_finish(services: dict[str, dict[str, Any]]) -> None:
    for name in ("api", "worker"):
        grace = float(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= 2 * Settings().shutdown_grace_seconds


def test_the_worker_is_not_asked_what_only_the_api_answers(services: dict[str, dict[str, Any]]) -> None:
    assert services["worker"]["healthcheck"]["test"] == ["CMD", "python", "-m", "app.worker.liveness"]
    assert services["migrate"]["healthcheck"] == {"disable": True}

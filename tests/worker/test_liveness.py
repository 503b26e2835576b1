"""Whether a worker lives, by the file that it rewrites."""

import json
import os
import time
from pathlib import Path

import pytest

from app.settings import Settings
from app.worker.liveness import LivenessFile, is_alive


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(spool_dir=tmp_path)


def test_a_worker_that_goes_round_is_alive_until_it_goes(settings: Settings) -> None:
    assert not is_alive(settings)
    liveness = LivenessFile(settings, "a/b worker")
    liveness.update()
    assert is_alive(settings)
    liveness.remove()
    assert not is_alive(settings)


@pytest.mark.parametrize(
    "change",
    [
        {"monotonic": time.monotonic() - 61},
        {"monotonic": time.monotonic() + 3600},
        {"host": "another"},
        {"pid": 2**22 + 1},
        {"monotonic": "x"},
    ],
)
def test_a_stale_or_foreign_file_does_not_count(settings: Settings, change: dict[str, object]) -> None:
    LivenessFile(settings, "w").update()
    (path,) = (settings.spool_dir / "workers").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not is_alive(settings)


def test_files_of_workers_killed_long_ago_are_deleted(settings: Settings) -> None:
    LivenessFile(settings, "killed").update()
    (path,) = (settings.spool_dir / "workers").iterdir()
    os.utime(path, (0, 0))
    LivenessFile(settings, "next")
    assert not path.exists()


def test_a_folder_that_cannot_be_written_stops_no_worker(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    liveness = LivenessFile(Settings(spool_dir=tmp_path / "file"), "w")
    liveness.update()
    liveness.remove()

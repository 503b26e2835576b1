"""A process follows activations, and serves the last good version of damaged ones."""

import threading

import pytest

from app.errors import CorruptModelVersion, Unavailable
from app.learning.trained_model import TrainedModel
from app.model_versions import activation
from app.model_versions.serving import LoadedVersion, VersionWatcher
from app.storage.database import Database
from tests.model_versions.damage import Bomb, content_of, damages, overwrite
from tests.model_versions.stored import add_version


def watcher(database: Database) -> VersionWatcher:
    """A watcher that has looked once."""
    watching = VersionWatcher(database, poll_seconds=10)
    watching.refresh()
    return watching


def served(watching: VersionWatcher) -> int | None:
    return watching.current.version if watching.current else None


def activate(database: Database, version: int) -> None:
    with database.writing() as session:
        activation.activate(session, version)


def test_before_the_first_version_nothing_serves(database: Database) -> None:
    watching = watcher(database)
    assert (watching.current, watching.trouble) == (None, None)


def test_a_process_goes_on_with_the_last_good_version(
    database: Database, model: TrainedModel, version: int
) -> None:
    watching = watcher(database)
    assert (served(watching), watching.trouble) == (version, None)
    second = add_version(database, model)
    good = content_of(database, second)
    overwrite(database, second, good[:-10], signed=False)
    watching.refresh()
    assert served(watching) == version
    assert "SHA-256" in (watching.trouble or "")
    overwrite(database, second, good, signed=False)
    activate(database, second)
    watching.refresh()
    assert (served(watching), watching.trouble) == (second, None)


def test_with_damaged_bytes_the_last_good_version_serves_from_the_start_on(
    database: Database, model: TrainedModel, version: int
) -> None:
    """Rows 17 and 18 of the faults, at the start of a process and while it runs."""
    second, third = (add_version(database, model) for _ in range(2))
    running = watcher(database)
    content = content_of(database, third)
    overwrite(database, second, content[:-1], signed=False)
    for name, (damaged, is_signed) in damages(content).items():
        overwrite(database, third, damaged, signed=is_signed)
        started = watcher(database)
        assert served(started) == version, name  # the second is torn
        assert f"version {third} " in (started.trouble or ""), name
        assert f"version {version}, which was active before" in (started.trouble or ""), name
        with pytest.raises(CorruptModelVersion):
            activate(database, third)
        running.refresh()
        assert (served(running), running.trouble) == (third, None), name
    assert not Bomb.exploded
    activate(database, version)
    started.refresh()
    assert (served(started), started.trouble) == (version, None)
    # Processes that saw the version before and those that did not fall back to one
    # version.
    overwrite(database, third, content, signed=True)
    activate(database, third)
    overwrite(database, third, b"", signed=False)
    started.refresh()
    assert served(started) == served(watcher(database)) == version


def test_with_no_good_version_at_all_the_popular_list_serves(database: Database, version: int) -> None:
    running = watcher(database)
    overwrite(database, version, b"", signed=False)
    watching = watcher(database)
    assert watching.current is None
    assert "popular movies" in (watching.trouble or "")
    # A process that has a version in memory goes on with it, even if that was deleted.
    assert running.current is not None
    running.current = LoadedVersion(99, 0, running.current.model)
    activate_again(database, running)
    assert served(running) == 99
    assert "serves from memory" in (running.trouble or "")


def activate_again(database: Database, watching: VersionWatcher) -> None:
    """Move the pointer without moving it to a version that loads."""
    with database.writing() as session:
        pointer = activation.active(session)
        assert pointer is not None
        pointer.generation += 1
    watching.refresh()


def test_a_version_that_was_rolled_back_from_serves_last(
    database: Database, model: TrainedModel, version: int
) -> None:
    second, third = (add_version(database, model) for _ in range(2))
    with database.writing() as session:
        activation.roll_back(session)
    overwrite(database, second, b"", signed=False)
    assert served(watcher(database)) == version
    overwrite(database, version, b"", signed=False)
    assert served(watcher(database)) == third


def test_a_process_follows_the_pointer_by_itself_and_outlives_errors(
    database: Database, model: TrainedModel, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = VersionWatcher(database, poll_seconds=0.01)
    troubles = iter([Unavailable("away"), ZeroDivisionError("odd")])
    failed, swapped = threading.Event(), threading.Event()
    active, refresh = activation.active, VersionWatcher.refresh

    def unreliable(session: object) -> object:
        for trouble in troubles:
            raise trouble
        failed.set()
        return active(session)  # type: ignore[arg-type]

    def noting(watching: VersionWatcher) -> None:
        refresh(watching)
        if served(watching) == version + 1:
            swapped.set()

    watching.start()
    try:
        assert served(watching) == version
        monkeypatch.setattr(VersionWatcher, "refresh", noting)
        monkeypatch.setattr(activation, "active", unreliable)
        assert failed.wait(20)
        assert add_version(database, model) == version + 1
        assert swapped.wait(20)
    finally:
        watching.stop()

"""Versions come back as they were stored, damaged bytes never serve, and the pointer names what loads."""

import hashlib
import io
import json
import pickle
import threading
import time
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app import model_registry
from app.database import Database
from app.errors import Conflict, CorruptModelVersion, NotFound, PreconditionFailed
from app.learning import model_file
from app.learning.preferences import RatingRows
from app.model_registry import ActiveMachines
from app.settings import Settings
from app.tables import Activation, ActiveVersion, ModelVersion, ModelVersionChunk
from tests.tastes import store_tastes, train_version


@pytest.fixture
def version(database: Database, settings: Settings) -> int:
    store_tastes(database)
    return train_version(database, settings)


def overwrite(database: Database, version: int, content: bytes, *, honest: bool) -> None:
    """Replace a version's bytes; `honest` makes the checksum fit, as a foreign writer would."""
    with database.writing() as session:
        chunks = session.scalars(
            select(ModelVersionChunk.number).where(ModelVersionChunk.version == version)
        ).all()
        assert list(chunks) == [0]
        session.execute(
            update(ModelVersionChunk).where(ModelVersionChunk.version == version).values(content=content)
        )
        if honest:
            session.execute(
                update(ModelVersion)
                .where(ModelVersion.version == version)
                .values(sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))
            )


def content_of(database: Database, version: int) -> bytes:
    with database.reading() as session:
        return session.scalars(
            select(ModelVersionChunk.content).where(ModelVersionChunk.version == version)
        ).one()


def test_a_version_scores_after_loading_as_before(
    database: Database, settings: Settings, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.reading() as session:
        once, again = model_registry.load(session, version), model_registry.load(session, version)
    row = RatingRows.single(np.array([0, 3]), np.array([5.0, 1.0], np.float32), once.n_movies)
    assert np.array_equal(once.scores(row), again.scores(row))
    # Small chunks make many rows, and the same bytes.
    monkeypatch.setattr(model_registry, "CHUNK_BYTES", 1000)
    second = train_version(database, settings)
    with database.reading() as session:
        assert len(session.scalars(select(ModelVersionChunk).filter_by(version=second)).all()) > 5
        assert model_registry.load(session, second).n_movies == once.n_movies


def test_equal_settings_and_ratings_give_bitwise_equal_versions(
    database: Database, settings: Settings, version: int
) -> None:
    second = train_version(database, settings)
    with database.reading() as session:
        first_row, second_row = (model_registry.get(session, number) for number in (version, second))
    assert first_row.sha256 == second_row.sha256


def test_torn_and_flipped_bytes_are_refused_by_their_checksum(database: Database, version: int) -> None:
    content = content_of(database, version)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for damaged in (content[:-1], content[: len(content) // 2], b"", bytes(flipped)):
        overwrite(database, version, damaged, honest=False)
        with database.reading() as session, pytest.raises(CorruptModelVersion, match="SHA-256"):
            model_registry.load(session, version)
        with pytest.raises(CorruptModelVersion), database.writing() as session:
            model_registry.activate(session, version)
    overwrite(database, version, content, honest=False)
    with database.reading() as session:
        model_registry.load(session, version)


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return exec, ("from tests.test_model_registry import Bomb; Bomb.exploded = True",)


def test_bytes_of_another_kind_are_refused_and_run_no_code(database: Database, version: int) -> None:
    pickled = io.BytesIO()
    with zipfile.ZipFile(pickled, "w") as archive:
        array = io.BytesIO()
        np.save(array, np.array([Bomb()], dtype=object), allow_pickle=True)
        archive.writestr("weights.npy", array.getvalue())
    for foreign in (b"not a model", pickle.dumps(Bomb()), pickled.getvalue()):
        overwrite(database, version, foreign, honest=True)
        with database.reading() as session, pytest.raises(CorruptModelVersion, match="cannot be read"):
            model_registry.load(session, version)
    assert not Bomb.exploded


def test_a_process_goes_on_with_the_last_good_version(
    database: Database, settings: Settings, version: int
) -> None:
    serving = ActiveMachines(database, poll_seconds=0.05)
    serving.refresh()  # by hand, so that no poll comes between an activation and the damage
    assert serving.current is not None
    assert (serving.current.version, serving.trouble) == (version, None)
    second = train_version(database, settings)
    good = content_of(database, second)
    overwrite(database, second, good[:-10], honest=False)
    serving.refresh()
    assert serving.current.version == version
    assert "SHA-256" in (serving.trouble or "")
    overwrite(database, second, good, honest=False)
    with database.writing() as session:
        model_registry.activate(session, second)
    serving.refresh()
    assert (serving.current.version, serving.trouble) == (second, None)


def damages(content: bytes) -> dict[str, tuple[bytes, bool]]:
    """What may become of a version's bytes, and whether the stored checksum fits all the same."""
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 16
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        arrays = {name: file.read(name) for name in file.namelist()}

    def rewritten(name: str, array: np.ndarray) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w") as archive:
            for member, old in arrays.items():
                new = io.BytesIO()
                np.save(new, array, allow_pickle=True)
                archive.writestr(member, new.getvalue() if member == name else old)
        return result.getvalue()

    header = json.loads(np.load(io.BytesIO(arrays["header.npy"])).tobytes())
    newer = np.frombuffer(json.dumps(header | {"format": 99}).encode(), np.uint8)
    weights = np.load(io.BytesIO(arrays["weights.npy"]))
    return {
        "torn": (content[: len(content) // 2], False),
        "flipped": (bytes(flipped), False),
        "empty": (b"", False),
        "foreign": (b"PK\x03\x04 but nothing of ours", True),
        "pickled": (rewritten("weights.npy", np.array([Bomb()], dtype=object)), True),
        "newer format": (rewritten("header.npy", newer), True),
        "wrong shape": (rewritten("weights.npy", weights[:, :-1]), True),
        "not a number": (rewritten("weights.npy", np.full_like(weights, np.nan)), True),
    }


def test_whatever_became_of_the_bytes_the_last_good_version_serves_from_the_start_on(
    database: Database, settings: Settings, version: int
) -> None:
    """Rows 17 and 18 of the faults, at the start of a process and while it runs."""
    second = train_version(database, settings, epochs=1)
    third = train_version(database, settings, epochs=1)
    running = ActiveMachines(database, poll_seconds=10)
    running.refresh()  # the third, good until now
    content = content_of(database, third)
    overwrite(database, second, content_of(database, second)[:-1], honest=False)
    for name, (damaged, honest) in damages(content).items():
        overwrite(database, third, damaged, honest=honest)
        started = ActiveMachines(database, poll_seconds=10)
        started.refresh()
        assert started.current is not None, name
        assert started.current.version == version, name  # the second is torn
        assert f"version {third} " in (started.trouble or ""), name
        assert f"version {version}, which was active before" in (started.trouble or ""), name
        with pytest.raises(CorruptModelVersion), database.writing() as session:
            model_registry.activate(session, third)
        running.refresh()
        assert running.current is not None
        assert (running.current.version, running.trouble) == (third, None), name
    assert not Bomb.exploded
    activate(database, version)
    started.refresh()
    assert started.current is not None
    assert (started.current.version, started.trouble) == (version, None)
    # Processes that saw the version before and those that did not fall back to the same one.
    overwrite(database, third, content, honest=True)
    activate(database, third)
    overwrite(database, third, b"", honest=False)
    started.refresh()
    fresh = ActiveMachines(database, poll_seconds=10)
    fresh.refresh()
    assert fresh.current is not None
    assert started.current.version == fresh.current.version == version


def test_with_no_good_version_at_all_the_popular_list_serves_and_it_is_said(
    database: Database, version: int
) -> None:
    overwrite(database, version, b"", honest=False)
    serving = ActiveMachines(database, poll_seconds=10)
    serving.refresh()
    assert serving.current is None
    assert "popular movies" in (serving.trouble or "")


def test_a_version_that_was_rolled_back_from_serves_last(
    database: Database, settings: Settings, version: int
) -> None:
    second, third = (train_version(database, settings, epochs=1) for _ in range(2))
    with database.writing() as session:
        model_registry.roll_back(session)
    overwrite(database, second, b"", honest=False)
    serving = ActiveMachines(database, poll_seconds=10)
    serving.refresh()
    assert serving.current is not None
    assert serving.current.version == version
    overwrite(database, version, b"", honest=False)
    serving = ActiveMachines(database, poll_seconds=10)
    serving.refresh()
    assert serving.current is not None
    assert serving.current.version == third


def test_a_process_follows_the_pointer_by_itself(
    database: Database, settings: Settings, version: int
) -> None:
    serving = ActiveMachines(database, poll_seconds=0.02)
    serving.start()
    try:
        second = train_version(database, settings)
        deadline = time.monotonic() + 30
        while serving.current is None or serving.current.version != second:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        serving.stop()


def test_of_two_activations_with_the_same_etag_one_wins(
    database: Database, settings: Settings, version: int
) -> None:
    second = train_version(database, settings)
    with database.reading() as session:
        seen = model_registry.etag(model_registry.active(session))
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def activate(number: int) -> None:
        barrier.wait()
        try:
            with database.writing() as session:
                model_registry.activate(session, number, if_match=seen)
            outcomes.append("activated")
        except PreconditionFailed:
            outcomes.append("refused")

    threads = [threading.Thread(target=activate, args=(number,)) for number in (version, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["activated", "refused"]


def activate(database: Database, *versions: int) -> None:
    for version in versions:
        with database.writing() as session:
            model_registry.activate(session, version)


def versions_of(database: Database) -> list[int]:
    with database.reading() as session:
        return [row.version for row in model_registry.page(session, limit=100)[0]]


def prune(database: Database, keep: int, days: float) -> list[int]:
    with database.writing() as session:
        return model_registry.prune(session, keep=keep, keep_active=timedelta(days=days))


def long_ago(database: Database, days: float, up_to_generation: int) -> None:
    """Move the first activations into the past."""
    with database.writing() as session:
        for one in session.scalars(select(Activation).where(Activation.generation <= up_to_generation)):
            one.activated_at -= timedelta(days=days)


def test_old_versions_are_pruned_but_what_was_active_for_a_while_longer(
    database: Database, settings: Settings, version: int
) -> None:
    """Versions 1 to 6, each active in turn, then 1 again; the newest two are kept anyway."""
    for _ in range(5):
        train_version(database, settings, epochs=1)
    activate(database, 1)  # generation 7
    assert versions_of(database) == [6, 5, 4, 3, 2, 1]
    assert prune(database, 2, days=30) == []
    # Active until 40 days ago, the last of them (3) until now: 4 began today.
    long_ago(database, 40, up_to_generation=3)
    assert prune(database, 2, days=30) == [2]
    assert versions_of(database) == [6, 5, 4, 3, 1]
    assert prune(database, 2, days=0) == [4, 3]
    # The newest one is kept, 1 is active, and 6 is what a rollback would activate.
    assert prune(database, 1, days=0) == [5]
    assert versions_of(database) == [6, 1]
    with database.writing() as session:
        assert model_registry.roll_back(session).version == 6
    with database.reading() as session, pytest.raises(NotFound):
        model_registry.load(session, 3)


def test_the_version_to_roll_back_to_outlives_newer_candidates(
    database: Database, settings: Settings, version: int
) -> None:
    second = train_version(database, settings, epochs=1)
    third = train_version(database, settings, epochs=1)
    activate(database, second)
    with database.writing() as session:
        model_registry.roll_back(session)  # back to the third: now only the second was undone
    activate(database, version)
    long_ago(database, 400, up_to_generation=5)
    fourth, fifth = (train_version(database, settings, epochs=1) for _ in range(2))
    activate(database, version)
    assert prune(database, 1, days=0) == [fourth, third, second]
    assert versions_of(database) == [fifth, version]


def test_rolling_back_undoes_one_activation_after_the_other(
    database: Database, settings: Settings, version: int
) -> None:
    second, third = (train_version(database, settings, epochs=1) for _ in range(2))
    with database.writing() as session:
        assert model_registry.roll_back(session).version == second
    with database.writing() as session:
        assert model_registry.roll_back(session).version == version
    with pytest.raises(Conflict, match="no earlier active version"), database.writing() as session:
        model_registry.roll_back(session)
    activate(database, third, second)
    with database.writing() as session:
        assert model_registry.roll_back(session).version == third
    with database.reading() as session:
        found, cursor = model_registry.history(session, limit=100)
        first_page, following = model_registry.history(session, limit=3)
        rest, end = model_registry.history(session, limit=100, cursor=following)
    assert [(one.version, one.cause) for one, _ in reversed(found)] == [
        (version, "gate"),
        (second, "gate"),
        (third, "gate"),
        (second, "rollback"),
        (version, "rollback"),
        (third, "request"),
        (second, "request"),
        (third, "rollback"),
    ]
    assert [one.generation for one, _ in found] == [8, 7, 6, 5, 4, 3, 2, 1]
    starts = [one.activated_at for one, _ in found]
    assert [until for _, until in found] == [None, *starts[:-1]]
    assert (cursor, end) == (None, None)
    pages = [*first_page, *rest]
    assert [(one.generation, until) for one, until in pages] == [
        (one.generation, until) for one, until in found
    ]


def test_rolling_back_passes_over_what_is_gone_or_damaged(
    database: Database, settings: Settings, version: int
) -> None:
    second, third, fourth = (train_version(database, settings, epochs=1) for _ in range(3))
    overwrite(database, third, b"torn", honest=False)
    with database.writing() as session:
        model_registry.remove(session, second)
        assert model_registry.roll_back(session).version == version
    with database.reading() as session:
        pointer = model_registry.active(session)
        assert pointer is not None
        assert (pointer.version, pointer.generation) == (version, 5)
    with pytest.raises(PreconditionFailed), database.writing() as session:
        model_registry.roll_back(session, if_match='"4"')
    assert versions_of(database) == [fourth, third, version]


def test_the_active_version_is_never_deleted_and_others_wholly(
    database: Database, settings: Settings, version: int
) -> None:
    second = train_version(database, settings, epochs=1)
    with pytest.raises(Conflict, match="is active"), database.writing() as session:
        model_registry.remove(session, second)
    with database.writing() as session:
        model_registry.remove(session, version)
    with database.reading() as session:
        assert session.scalars(select(ModelVersionChunk.version).distinct()).all() == [second]
    with pytest.raises(NotFound), database.writing() as session:
        model_registry.remove(session, version)
    # Numbers are never given out again, not even that of the newest version.
    third = train_version(database, settings, epochs=1)
    activate(database, second)
    with database.writing() as session:
        model_registry.remove(session, third)
    assert train_version(database, settings, epochs=1) == third + 1


def test_deleting_and_activating_at_once_leave_a_pointer_that_loads(
    database: Database, settings: Settings, version: int
) -> None:
    for _ in range(8):
        second = train_version(database, settings, epochs=1)
        activate(database, version)
        barrier = threading.Barrier(2)
        outcomes: list[str] = []

        def attempt(
            name: str,
            act: Callable[[Session], object],
            barrier: threading.Barrier = barrier,
            outcomes: list[str] = outcomes,
        ) -> None:
            barrier.wait()
            try:
                with database.writing() as session:
                    act(session)
                outcomes.append(name)
            except (Conflict, NotFound):
                outcomes.append(f"no {name}")

        def delete_it(session: Session, number: int = second) -> None:
            model_registry.remove(session, number)

        def activate_it(session: Session, number: int = second) -> None:
            model_registry.activate(session, number)

        threads = [
            threading.Thread(target=attempt, args=("deletion", delete_it)),
            threading.Thread(target=attempt, args=("activation", activate_it)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) in (["activation", "no deletion"], ["deletion", "no activation"])
        with database.reading() as session:
            pointer = model_registry.active(session)
            assert pointer is not None
            model_registry.load(session, pointer.version)


def test_of_two_first_activations_at_once_one_wins(
    database: Database, settings: Settings, version: int
) -> None:
    second = train_version(database, settings, epochs=1)
    with database.writing() as session:
        session.execute(delete(ActiveVersion))
        session.execute(delete(Activation))
    outcomes: list[str] = []
    barrier = threading.Barrier(2)

    def first_of_all(number: int) -> None:
        barrier.wait()
        try:
            with database.writing() as session:
                model_registry.activate(session, number, if_match='"0"')
            outcomes.append("activated")
        except PreconditionFailed:
            outcomes.append("refused")

    threads = [threading.Thread(target=first_of_all, args=(number,)) for number in (version, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["activated", "refused"]


def test_a_note_is_replaced_and_removed(database: Database, version: int) -> None:
    for note, kept in (("best so far", "best so far"), ("", None), ("again", "again"), (None, None)):
        with database.writing() as session:
            model_registry.annotate(session, version, note)
        with database.reading() as session:
            assert model_registry.get(session, version).note == kept
    with pytest.raises(NotFound), database.writing() as session:
        model_registry.annotate(session, 99, "nothing there")


def test_before_the_first_version_nothing_serves(database: Database) -> None:
    serving = ActiveMachines(database, poll_seconds=10)
    serving.refresh()
    assert (serving.current, serving.trouble) == (None, None)


def test_a_mapped_version_is_the_same_and_its_arrays_are_used_where_they_are(
    database: Database, version: int, tmp_path: Path
) -> None:
    folder = tmp_path / "spool" / "machines"
    with database.reading() as session:
        plain = model_registry.load(session, version)
        sha256 = model_registry.get(session, version).sha256
        mapped = [model_registry.load(session, version, kept_in=folder) for _ in range(2)]
    assert [path.name for path in folder.iterdir()] == [f"{sha256}.npz"]
    row = RatingRows.single([0, 3], [5, 1], plain.n_movies)
    for machines in mapped:
        np.testing.assert_array_equal(machines.scores(row), plain.scores(row))
        assert model_file.dump(machines) == model_file.dump(plain)
        weights = machines.rbm.weights
        assert weights.flags.aligned
        assert not weights.flags.owndata
        assert not weights.flags.writeable
        assert weights.ctypes.data % 64 == 0


def test_a_damaged_or_foreign_kept_file_is_written_again_and_old_ones_go(
    database: Database, settings: Settings, version: int, tmp_path: Path
) -> None:
    with database.reading() as session:
        row = model_registry.get(session, version)
        path = tmp_path / f"{row.sha256}.npz"
        for damaged in (b"", b"x" * row.n_bytes):
            path.write_bytes(damaged)
            assert model_registry.load(session, version, kept_in=tmp_path).n_movies == row.n_movies
            assert path.stat().st_size == row.n_bytes
    second = train_version(database, settings, seed=5)
    with database.reading() as session:
        model_registry.load(session, second, kept_in=tmp_path)
    assert not path.exists()
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_damaged_bytes_are_refused_when_mapped_too(database: Database, version: int, tmp_path: Path) -> None:
    good = content_of(database, version)
    for torn in (good[:-1], good[:100] + b"!" + good[101:], b""):
        overwrite(database, version, torn, honest=False)
        with database.reading() as session, pytest.raises(CorruptModelVersion, match="SHA-256"):
            model_registry.load(session, version, kept_in=tmp_path)


def test_where_nothing_can_be_kept_a_version_is_read_into_memory(
    database: Database, version: int, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with database.reading() as session:
        assert model_registry.load(session, version, kept_in=blocked / "machines").n_movies == 30

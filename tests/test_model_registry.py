"""Versions come back as they were stored, damaged bytes never serve, and the pointer names what loads."""

import hashlib
import io
import pickle
import threading
import time
import zipfile

import numpy as np
import pytest
from sqlalchemy import select, update

from app import model_registry
from app.database import Database
from app.errors import CorruptModelVersion, NotFound, PreconditionFailed
from app.learning.preferences import RatingRows
from app.model_registry import ActiveMachines
from app.settings import Settings
from app.tables import ModelVersion, ModelVersionChunk
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


def test_old_versions_are_pruned_but_never_the_active_one(
    database: Database, settings: Settings, version: int
) -> None:
    later = [train_version(database, settings) for _ in range(3)]
    with database.writing() as session:
        model_registry.activate(session, version)
    with database.writing() as session:
        assert model_registry.prune(session, keep=2) == [later[0]]
    with database.reading() as session:
        rows, cursor = model_registry.page(session, limit=10)
        assert ([row.version for row in rows], cursor) == ([later[2], later[1], version], None)
        with pytest.raises(NotFound):
            model_registry.load(session, later[0])


def test_before_the_first_version_nothing_serves(database: Database) -> None:
    serving = ActiveMachines(database, poll_seconds=10)
    serving.refresh()
    assert (serving.current, serving.trouble) == (None, None)

"""Versions come back as they were stored, and damaged bytes never load."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from app.errors import CorruptModelVersion, NotFound
from app.learning import model_file
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.model_versions import activation, store
from app.storage.database import Database
from app.storage.tables import ModelVersionChunk
from tests.model_versions.damage import Bomb, content_of, damages, overwrite
from tests.model_versions.stored import add_version


def test_a_version_is_after_loading_as_before(
    database: Database, model: TrainedModel, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.reading() as session:
        loaded = store.load(session, version)
    row = RatingRows.single(np.array([0, 3]), np.array([5.0, 1.0], np.float32), model.n_movies)
    assert np.allclose(loaded.scores(row), model.scores(row), atol=1e-5)
    assert model_file.dump(loaded) == model_file.dump(model)
    # Small chunks make many rows, and equal bytes.
    monkeypatch.setattr(store, "CHUNK_BYTES", 1000)
    second = add_version(database, model)
    with database.reading() as session:
        assert len(session.scalars(select(ModelVersionChunk).filter_by(version=second)).all()) > 5
        assert store.get(session, second).sha256 == store.get(session, version).sha256
        assert model_file.dump(store.load(session, second)) == model_file.dump(model)


def test_damaged_bytes_neither_load_nor_become_active_and_run_no_code(
    database: Database, version: int, tmp_path: Path
) -> None:
    """Rows 17 and 18 of the faults."""
    content = content_of(database, version)
    for damaged, is_signed in damages(content).values():
        overwrite(database, version, damaged, signed=is_signed)
        reason = "cannot be read" if is_signed else "SHA-256"
        for kept_in in (None, tmp_path / "kept"):
            with database.reading() as session, pytest.raises(CorruptModelVersion, match=reason):
                store.load(session, version, kept_in=kept_in)
        with database.writing() as session, pytest.raises(CorruptModelVersion, match=reason):
            activation.activate(session, version)
    overwrite(database, version, pickle.dumps(Bomb()), signed=True)
    with database.reading() as session, pytest.raises(CorruptModelVersion, match="cannot be read"):
        store.load(session, version)
    assert not Bomb.exploded
    overwrite(database, version, content, signed=True)
    with database.reading() as session:
        store.load(session, version)


def test_versions_are_listed_newest_first_page_by_page(database: Database, model: TrainedModel) -> None:
    versions = [add_version(database, model, active=False) for _ in range(3)]
    with database.reading() as session:
        first = store.page(session, limit=2)
        rest = store.page(session, limit=2, cursor=first.next_cursor)
    assert [row.version for row in [*first.items, *rest.items]] == versions[::-1]
    assert rest.next_cursor is None


def test_a_note_is_replaced_and_removed(database: Database, version: int) -> None:
    for note, kept in (("best so far", "best so far"), ("", None), ("again", "again"), (None, None)):
        with database.writing() as session:
            store.annotate(session, version, note)
        with database.reading() as session:
            assert store.get(session, version).note == kept
    with pytest.raises(NotFound), database.writing() as session:
        store.annotate(session, 99, "nothing there")


def test_a_mapped_version_is_equal_and_its_arrays_are_used_where_they_are(
    database: Database, model: TrainedModel, version: int, tmp_path: Path
) -> None:
    folder = tmp_path / "spool" / "models"
    with database.reading() as session:
        sha256 = store.get(session, version).sha256
        mapped = [store.load(session, version, kept_in=folder) for _ in range(2)]
    assert [path.name for path in folder.iterdir()] == [f"{sha256}.npz"]
    for loaded in mapped:
        assert model_file.dump(loaded) == model_file.dump(model)
        weights = loaded.rbm.weights
        assert weights.flags.aligned
        assert not weights.flags.owndata
        assert not weights.flags.writeable
        assert weights.ctypes.data % 64 == 0


def test_a_damaged_or_foreign_kept_file_is_written_again_and_old_ones_go(
    database: Database, other_model: TrainedModel, version: int, tmp_path: Path
) -> None:
    with database.reading() as session:
        row = store.get(session, version)
        path = tmp_path / f"{row.sha256}.npz"
        for damaged in (b"", b"x" * row.n_bytes):
            path.write_bytes(damaged)
            assert store.load(session, version, kept_in=tmp_path).n_movies == row.n_movies
            assert path.stat().st_size == row.n_bytes
    second = add_version(database, other_model)
    with database.reading() as session:
        store.load(session, second, kept_in=tmp_path)
    assert not path.exists()
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_where_nothing_can_be_kept_a_version_is_read_into_memory(
    database: Database, version: int, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with database.reading() as session:
        assert store.load(session, version, kept_in=blocked / "models").n_movies == 30

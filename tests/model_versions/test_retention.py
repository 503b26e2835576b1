"""Which versions are deleted, and which never."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from app.errors import Conflict, NotFound
from app.learning.trained_model import TrainedModel
from app.model_versions import activation, retention, store
from app.storage.database import Database
from app.storage.tables import Activation, ModelVersionChunk
from tests.model_versions.stored import add_version


def activate(database: Database, version: int) -> None:
    with database.writing() as session:
        activation.activate(session, version)


def roll_back(database: Database) -> int:
    with database.writing() as session:
        return activation.roll_back(session).version


def versions_of(database: Database) -> list[int]:
    with database.reading() as session:
        return [row.version for row in store.page(session, limit=100).items]


def prune(database: Database, keep: int, days: float) -> list[int]:
    with database.writing() as session:
        return retention.prune(session, keep=keep, keep_active=timedelta(days=days))


def long_ago(database: Database, days: float, up_to_generation: int) -> None:
    """Move the first activations into the past."""
    with database.writing() as session:
        for past in session.scalars(select(Activation).where(Activation.generation <= up_to_generation)):
            past.activated_at -= timedelta(days=days)


def test_old_versions_are_pruned_and_lately_active_ones_later(
    database: Database, model: TrainedModel
) -> None:
    """Versions 1 to 6, each active in turn, then 1 again; the newest two are kept."""
    for _ in range(6):
        add_version(database, model)
    activate(database, 1)  # generation 7
    assert versions_of(database) == [6, 5, 4, 3, 2, 1]
    assert prune(database, 2, days=30) == []
    # Active until 40 days ago, the last of them (3) until now: 4 began today.
    long_ago(database, 40, up_to_generation=3)
    assert prune(database, 2, days=30) == [2]
    assert versions_of(database) == [6, 5, 4, 3, 1]
    assert prune(database, 2, days=0) == [4, 3]
    # The newest is kept, 1 is active, and 6 is what a rollback would activate.
    assert prune(database, 1, days=0) == [5]
    assert versions_of(database) == [6, 1]
    assert roll_back(database) == 6
    with database.reading() as session, pytest.raises(NotFound):
        store.load(session, 3)


def test_the_version_to_roll_back_to_outlives_newer_candidates(
    database: Database, model: TrainedModel
) -> None:
    first, second, third = (add_version(database, model) for _ in range(3))
    activate(database, second)
    assert roll_back(database) == third  # now only the second was undone
    activate(database, first)
    long_ago(database, 400, up_to_generation=5)
    fourth, fifth = (add_version(database, model) for _ in range(2))
    activate(database, first)
    assert prune(database, 1, days=0) == [fourth, third, second]
    assert versions_of(database) == [fifth, first]


def test_the_active_version_is_never_deleted_and_others_wholly(
    database: Database, model: TrainedModel, version: int
) -> None:
    second = add_version(database, model)
    with pytest.raises(Conflict, match="is active"), database.writing() as session:
        retention.remove(session, second)
    with database.writing() as session:
        retention.remove(session, version)
    with database.reading() as session:
        assert session.scalars(select(ModelVersionChunk.version).distinct()).all() == [second]
    with pytest.raises(NotFound), database.writing() as session:
        retention.remove(session, version)
    # Numbers are never used again, not even that of the newest version.
    third = add_version(database, model)
    activate(database, second)
    with database.writing() as session:
        retention.remove(session, third)
    assert add_version(database, model) == third + 1

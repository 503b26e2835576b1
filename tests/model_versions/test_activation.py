"""The pointer: ETags, rollbacks, history, and activations at once."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound, PreconditionFailed
from app.learning.trained_model import TrainedModel
from app.model_versions import activation, retention, store
from app.storage.database import Database
from app.storage.tables import Activation, ActiveVersion
from tests.model_versions.damage import overwrite
from tests.model_versions.stored import add_version


def activate(database: Database, *versions: int) -> None:
    for version in versions:
        with database.writing() as session:
            activation.activate(session, version)


def roll_back(database: Database) -> int:
    with database.writing() as session:
        return activation.roll_back(session).version


def at_once(database: Database, *actions: Callable[[Session], object]) -> list[str]:
    """Run all at once in transactions; return "done" or the error's name of each."""
    barrier = threading.Barrier(len(actions))
    outcomes = [""] * len(actions)

    def act(number: int) -> None:
        barrier.wait()
        try:
            with database.writing() as session:
                actions[number](session)
            outcomes[number] = "done"
        except (Conflict, NotFound, PreconditionFailed) as error:
            outcomes[number] = type(error).__name__

    threads = [threading.Thread(target=act, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_a_candidate_needs_force(database: Database, model: TrainedModel, version: int) -> None:
    candidate = add_version(database, model, active=False, outcome="candidate")
    with pytest.raises(Conflict, match="force"), database.writing() as session:
        activation.activate(session, candidate)
    with database.writing() as session:
        assert activation.activate(session, candidate, force=True).version == candidate


@pytest.mark.parametrize("is_first", [False, True])
def test_of_two_activations_with_one_etag_one_wins(
    database: Database, model: TrainedModel, version: int, is_first: bool
) -> None:
    """Row 20 of the faults; the very first activation has no row to lock."""
    second = add_version(database, model)
    if is_first:
        with database.writing() as session:
            session.execute(delete(ActiveVersion))
            session.execute(delete(Activation))
    with database.reading() as session:
        etag = activation.etag(activation.active(session))
    assert (etag == '"0"') == is_first
    outcomes = at_once(
        database,
        lambda session: activation.activate(session, version, if_match=etag),
        lambda session: activation.activate(session, second, if_match=etag),
    )
    assert sorted(outcomes) == ["PreconditionFailed", "done"]


def test_rolling_back_undoes_one_activation_after_the_other(
    database: Database, model: TrainedModel, version: int
) -> None:
    second, third = (add_version(database, model) for _ in range(2))
    assert [roll_back(database), roll_back(database)] == [second, version]
    with pytest.raises(Conflict, match="no earlier active version"):
        roll_back(database)
    activate(database, third, second)
    assert roll_back(database) == third
    with database.reading() as session:
        whole = activation.history(session, limit=100)
        first = activation.history(session, limit=3)
        rest = activation.history(session, limit=100, cursor=first.next_cursor)
    assert [(past.version, past.cause) for past in reversed(whole.items)] == [
        (version, "gate"),
        (second, "gate"),
        (third, "gate"),
        (second, "rollback"),
        (version, "rollback"),
        (third, "request"),
        (second, "request"),
        (third, "rollback"),
    ]
    assert [past.generation for past in whole.items] == [8, 7, 6, 5, 4, 3, 2, 1]
    starts = [past.activated_at for past in whole.items]
    assert [past.until for past in whole.items] == [None, *starts[:-1]]
    assert [*first.items, *rest.items] == whole.items
    assert (whole.next_cursor, rest.next_cursor) == (None, None)


def test_rolling_back_passes_over_deleted_and_damaged_versions(
    database: Database, model: TrainedModel, version: int
) -> None:
    second, third, _ = (add_version(database, model) for _ in range(3))
    overwrite(database, third, b"torn", signed=False)
    with database.writing() as session:
        retention.remove(session, second)
        assert activation.roll_back(session).version == version
    with database.reading() as session:
        pointer = activation.active(session)
    assert pointer is not None
    assert (pointer.version, pointer.generation) == (version, 5)
    with pytest.raises(PreconditionFailed), database.writing() as session:
        activation.roll_back(session, if_match='"4"')


def test_deleting_and_activating_at_once_leave_a_pointer_that_loads(
    database: Database, model: TrainedModel, version: int
) -> None:
    for _ in range(8):
        second = add_version(database, model)
        activate(database, version)
        deletion, activated = at_once(
            database,
            lambda session, number=second: retention.remove(session, number),  # type: ignore[misc]
            lambda session, number=second: activation.activate(session, number),  # type: ignore[misc]
        )
        assert (deletion, activated) in (("Conflict", "done"), ("done", "NotFound"))
        with database.reading() as session:
            pointer = activation.active(session)
            assert pointer is not None
            store.load(session, pointer.version)

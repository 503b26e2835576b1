"""Answers under an `Idempotency-Key`, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest

from app.errors import InvalidInput
from app.storage import idempotency
from app.storage.database import Database

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def ask(database: Database, key: str, request: object, answer: int, *, now: datetime = NOW) -> object:
    """The answer of a request: a new one, or the kept one."""
    with database.writing() as session:
        known = idempotency.recall(session, "retrain", key, request, now=now)
        if known is not None:
            return known["answer"]
        idempotency.remember(session, "retrain", key, {"answer": answer})
        return answer


def test_the_same_request_is_answered_alike(database: Database) -> None:
    assert ask(database, "a", {"epochs": 1, "k": 2}, 1) == 1
    assert ask(database, "a", {"k": 2, "epochs": 1}, 2) == 1
    assert ask(database, "b", {"epochs": 1, "k": 2}, 3) == 3


def test_another_request_under_the_key_is_refused_with_its_place(database: Database) -> None:
    ask(database, "a", {"epochs": 1}, 1)
    with pytest.raises(InvalidInput, match="another request") as refused:
        ask(database, "a", {"epochs": 2}, 2)
    assert refused.value.errors[0].location == "header.idempotency-key"
    assert ask(database, "a", {"epochs": 1}, 3) == 1


def test_a_refused_request_leaves_its_key_free(database: Database) -> None:
    def refuse() -> None:
        with database.writing() as session:
            assert idempotency.recall(session, "retrain", "a", {"epochs": 0}, now=NOW) is None
            raise InvalidInput("no")

    with pytest.raises(InvalidInput, match="no"):
        refuse()
    assert ask(database, "a", {"epochs": 1}, 1) == 1


def test_keys_are_forgotten_after_a_day(database: Database) -> None:
    ask(database, "a", {}, 1)
    assert ask(database, "a", {}, 2, now=NOW + timedelta(hours=23)) == 1
    assert ask(database, "a", {"other": 1}, 3, now=NOW + timedelta(hours=25)) == 3

"""Keys work until revoked, roles contain one another, only hashes are stored."""

import pytest
from sqlalchemy import select

from app import access
from app.errors import InvalidInput, NotFound
from app.storage.database import Database
from app.storage.tables import ApiKey


def test_a_key_is_recognised_until_it_is_revoked(database: Database) -> None:
    with database.writing() as session:
        assert not access.any_key(session)
        new = access.create(session, "site", "write")
        other = access.create(session, "other", "read")
    with database.writing() as session:
        assert access.authenticate(session, new.key) == access.KeyInForce(new.id, "write")
        assert access.authenticate(session, new.key + "x") is None
        assert access.authenticate(session, "\ud800") is None
        access.revoke(session, new.id)
        assert access.authenticate(session, new.key) is None
        assert access.any_key(session)
        access.revoke(session, other.id)
        assert not access.any_key(session)


def test_the_key_itself_is_stored_nowhere(database: Database) -> None:
    with database.writing() as session:
        new = access.create(session, "site", "admin")
        (row,) = session.scalars(select(ApiKey))
        assert new.key not in repr(vars(row))
        assert new.key not in repr(new)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("read", {"read"}), ("write", {"read", "write"}), ("admin", {"read", "write", "admin"}), ("x", set())],
)
def test_each_role_may_do_what_the_lesser_may(role: str, allowed: set[str]) -> None:
    assert {needed for needed in access.ROLES if access.allows(role, needed)} == allowed


def test_bad_names_and_roles_are_refused(database: Database) -> None:
    with database.writing() as session:
        with pytest.raises(InvalidInput):
            access.create(session, "", "read")
        with pytest.raises(InvalidInput):
            access.create(session, "x", "root")  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            access.revoke(session, 99)


def test_keys_are_listed_in_pages(database: Database) -> None:
    with database.writing() as session:
        for number in range(5):
            access.create(session, f"key{number}", "read")
        first = access.page(session, limit=3)
        second = access.page(session, limit=3, cursor=first.next_cursor)
    assert [key.name for key in first.items + second.items] == [f"key{number}" for number in range(5)]
    assert second.next_cursor is None

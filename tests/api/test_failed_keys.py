"""Guessing keys is answered 429 and locks no caller out."""

import ipaddress

import pytest
from fastapi.testclient import TestClient

from app import access
from app.api import failed_keys
from app.api.failed_keys import FailedKeys
from app.main import create_app
from app.settings import Settings
from app.storage.database import Database

LIMIT = 3


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_failures_beyond_the_limit_wait_for_the_end_of_their_window() -> None:
    clock = Clock()
    failed = FailedKeys(2, 60.0, clock=clock)
    assert [failed.count("192.0.2.1") for _ in range(2)] == [None, None]
    clock.now += 10.5
    assert failed.count("192.0.2.1") == 50
    assert failed.count("192.0.2.2") is None
    clock.now += 49.49
    assert failed.count("192.0.2.1") == 1
    clock.now += 0.02
    assert [failed.count("192.0.2.1") for _ in range(3)] == [None, None, 60]


def test_a_limit_of_zero_counts_nothing() -> None:
    failed = FailedKeys(0, 60.0)
    assert [failed.count("192.0.2.1") for _ in range(100)] == [None] * 100
    assert len(failed) == 0


def test_an_ipv6_network_is_one_client_and_a_mapped_address_is_the_ipv4_one() -> None:
    failed = FailedKeys(1, 60.0)
    assert failed.count("2001:db8::1") is None
    assert failed.count("2001:db8::ffff:2") is not None
    assert failed.count("2001:db8:0:1::1") is None
    assert failed.count("192.0.2.1") is None
    assert failed.count("::ffff:192.0.2.1") is not None
    assert failed.count(None) is None
    assert failed.count(None) is not None


def test_memory_is_bounded_and_what_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failed_keys, "ADDRESSES_KEPT", 50)
    clock = Clock()
    failed = FailedKeys(1, 60.0, clock=clock)
    for number in range(500):
        failed.count(str(ipaddress.IPv4Address(number)))
    assert len(failed) == 50
    assert failed.count(str(ipaddress.IPv4Address(499))) is not None
    clock.now += 60
    assert failed.count("192.0.2.1") is None
    assert len(failed) == 1


def test_many_wrong_keys_are_answered_429_and_a_good_one_is_taken(
    database: Database, settings: Settings
) -> None:
    with database.writing() as session:
        secret = access.create(session, "site", "read").key
        old = access.create(session, "old", "read")
        access.revoke(session, old.id)
    application = create_app(settings.model_copy(update={"failed_keys_limit": LIMIT}))
    with TestClient(application, base_url="http://127.0.0.1") as client:

        def ask(key: str | None) -> int:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            return client.get("/v1/popular", headers=headers).status_code

        assert [ask(None) for _ in range(LIMIT + 2)] == [401] * (LIMIT + 2), "no key is no guess"
        assert [ask("hm_wrong") for _ in range(LIMIT - 1)] == [401] * (LIMIT - 1)
        assert ask(old.key) == 401
        answer = client.get("/v1/popular", headers={"Authorization": "Bearer hm_other"})
        assert answer.status_code == 429
        assert answer.headers["content-type"] == "application/problem+json"
        assert 1 <= int(answer.headers["Retry-After"]) <= settings.failed_keys_window
        assert "hm_other" not in answer.text
        assert ask(secret) == 200
        assert ask("hm_wrong") == 429
        other = TestClient(application, base_url="http://127.0.0.1", client=("192.0.2.9", 1))
        assert other.get("/v1/popular", headers={"Authorization": "Bearer hm_wrong"}).status_code == 401


def test_it_can_be_switched_off(database: Database, settings: Settings) -> None:
    with database.writing() as session:
        access.create(session, "site", "read")
    application = create_app(settings.model_copy(update={"failed_keys_limit": 0}))
    with TestClient(application, base_url="http://127.0.0.1") as client:
        for _ in range(settings.failed_keys_limit + 1):
            answer = client.get("/v1/popular", headers={"Authorization": "Bearer hm_wrong"})
            assert answer.status_code == 401

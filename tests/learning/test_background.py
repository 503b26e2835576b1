"""A long step does not block the generator's caller, and keeps result and error."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from app.learning import background as aside_module
from app.learning.background import run_in_thread


def result_of(generator: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def test_it_yields_until_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside_module, "SECONDS_BETWEEN", 0.001)
    may_end = threading.Event()

    def work() -> str:
        assert may_end.wait(30)
        return "done"

    generator = run_in_thread(work)
    for _ in range(5):
        next(generator)
    may_end.set()
    assert result_of(generator) == "done"


def test_what_is_done_at_once_yields_nothing() -> None:
    assert result_of(run_in_thread(lambda: 7)) == 7


def test_an_error_is_raised_in_the_caller() -> None:
    def work() -> None:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        next(run_in_thread(work))


def test_closing_it_does_not_wait_for_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside_module, "SECONDS_BETWEEN", 0.001)
    may_end, ended = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait(30)
        ended.set()

    generator = run_in_thread(work)
    next(generator)
    generator.close()  # would hang for 30 s if it waited
    assert not ended.is_set()
    thread = next(thread for thread in threading.enumerate() if thread.name == "run_in_thread")
    assert thread.daemon
    may_end.set()
    deadline = time.monotonic() + 30
    while thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended.is_set()

"""Log lines are JSON objects off a terminal, at the set level, from libraries too."""

import json
import logging

import pytest
import structlog

from app import logs
from app.settings import Settings


def test_lines_are_json_and_carry_the_request(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="auto"))
    with structlog.contextvars.bound_contextvars(request_id="abc"):
        structlog.get_logger().info("something_happened", movies=3)
    logging.getLogger("a.library").warning("careful: %s", "hot")
    ours, theirs = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    assert ours["event"] == "something_happened"
    assert (ours["movies"], ours["request_id"], ours["level"]) == (3, "abc", "info")
    assert (theirs["event"], theirs["level"]) == ("careful: hot", "warning")


def test_an_error_brings_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    try:
        raise ZeroDivisionError("by nothing")
    except ZeroDivisionError:
        structlog.get_logger().exception("failed")
    line = json.loads(capfd.readouterr().err)
    assert "ZeroDivisionError: by nothing" in line["exception"]


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_lines_below_the_level_are_left_out(
    level: str, lines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Settings(log_format="text", log_level=level))
    log = structlog.get_logger()
    for write in (log.debug, log.info, log.warning, log.error):
        write("a line")
    assert len(capfd.readouterr().err.splitlines()) == lines

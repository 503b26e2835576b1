"""`harmonium model-versions` does what `/v1/admin/model-versions` does."""

import json
from typing import Any

import pytest

from app import cli
from app.database import Database
from app.settings import Settings
from tests.tastes import store_tastes, train_version


@pytest.fixture
def versions(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three versions that differ, active one after the other, in the database of the command line."""
    monkeypatch.setenv("HARMONIUM_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("COLUMNS", "200")
    store_tastes(database)
    return [train_version(database, settings, epochs=10, hidden_units=5, seed=seed) for seed in range(3)]


def test_versions_are_listed_compared_activated_annotated_and_deleted(
    versions: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["model-versions", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    def told(*arguments: str) -> str:
        code, output, errors = run(*arguments)
        assert code == 0, errors
        return output

    def asked(*arguments: str) -> Any:
        return json.loads(told(*arguments, "--json"))

    def refused(*arguments: str) -> tuple[int, str]:
        code, output, errors = run(*arguments)
        assert output == ""
        return code, " ".join(errors.split())

    first, second, third = versions
    listed = asked("list")
    assert [(one["version"], one["active"]) for one in listed] == [
        (third, True),
        (second, False),
        (first, False),
    ]
    shown = asked("show", str(third))
    assert shown["configuration"]["hidden_units"] == 5
    assert shown["active"]
    assert "SHA-256" in told("show", str(third))
    compared = asked("compare", str(first), str(third), "--users", "30")
    assert compared["settings"] == {"seed": {"first": 0, "second": 2}}
    assert compared["lists"]["n_users"] == 30
    assert "for 30 users" in told("compare", str(first), str(third), "--users", "30")
    assert asked("rollback", "--if-match", shown["etag"])["version"] == second
    assert refused("rollback", "--if-match", shown["etag"])[0] == 1
    assert told("activate", str(first)) == f"model version {first} is active\n"
    history = asked("history")
    assert [(one["version"], one["cause"]) for one in history[:2]] == [
        (first, "request"),
        (second, "rollback"),
    ]
    assert "rollback" in told("history")
    assert asked("annotate", str(second), "[bold]keep")["note"] == "[bold]keep"
    assert "[bold]keep" in told("list").replace("\n", "")
    code, words = refused("delete", str(second), str(first))
    assert (code, "is active" in words) == (1, True)
    assert len(asked("list")) == 3, "all or none"
    assert asked("delete", str(second), str(third)) == {"deleted": [second, third]}
    assert [one["version"] for one in asked("list")] == [first]
    assert refused("show", "99")[0] == 1
    assert refused("rollback")[0] == 1
    assert refused("annotate", str(first), "x" * 1001)[0] == 2

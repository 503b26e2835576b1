"""`harmonium model-versions` does what `/v1/admin/model-versions` does."""

import json
from typing import Any

import pytest

from app import cli
from app.settings import Settings
from app.storage.database import Database
from tests.tastes import store_tastes, train_version


@pytest.fixture
def versions(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three different versions, active one after the other, in the CLI's database."""
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

    def printed(*arguments: str) -> str:
        code, output, errors = run(*arguments)
        assert code == 0, errors
        return output

    def run_json(*arguments: str) -> Any:
        return json.loads(printed(*arguments, "--json"))

    def refused(*arguments: str) -> tuple[int, str]:
        code, output, errors = run(*arguments)
        assert output == ""
        return code, " ".join(errors.split())

    first, second, third = versions
    listed = run_json("list")
    assert [(version["version"], version["active"]) for version in listed] == [
        (third, True),
        (second, False),
        (first, False),
    ]
    third_version = run_json("show", str(third))
    assert third_version["configuration"]["hidden_units"] == 5
    assert third_version["active"]
    assert "SHA-256" in printed("show", str(third))
    compared = run_json("compare", str(first), str(third), "--users", "30")
    assert compared["settings"] == {"seed": {"first": 0, "second": 2}}
    assert compared["lists"]["n_users"] == 30
    assert "for 30 users" in printed("compare", str(first), str(third), "--users", "30")
    assert run_json("rollback", "--if-match", third_version["etag"])["version"] == second
    assert refused("rollback", "--if-match", third_version["etag"])[0] == 1
    assert printed("activate", str(first)) == f"model version {first} is active\n"
    history = run_json("history")
    assert [(activation["version"], activation["cause"]) for activation in history[:2]] == [
        (first, "request"),
        (second, "rollback"),
    ]
    assert "rollback" in printed("history")
    assert run_json("annotate", str(second), "[bold]keep")["note"] == "[bold]keep"
    assert "[bold]keep" in printed("list").replace("\n", "")
    code, words = refused("delete", str(second), str(first))
    assert (code, "is active" in words) == (1, True)
    assert len(run_json("list")) == 3, "all or none"
    assert run_json("delete", str(second), str(third)) == {"deleted": [second, third]}
    assert [version["version"] for version in run_json("list")] == [first]
    assert refused("show", "99")[0] == 1
    assert refused("rollback")[0] == 1
    assert refused("annotate", str(first), "x" * 1001)[0] == 2

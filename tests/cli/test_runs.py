"""`harmonium training-runs | jobs | retrain`: their output, as tables and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app import cli
from app.cli.training import SETTINGS
from app.errors import Conflict, InvalidInput, NotFound
from app.jobs.loop import Worker
from app.learning.configuration import TrainingConfiguration
from app.settings import Settings
from app.storage.database import Database
from app.worker.process import JOB_HANDLERS
from tests.tastes import store_tastes


@pytest.fixture(autouse=True)
def _service(database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARMONIUM_DATABASE_URL", database_url)
    monkeypatch.setenv("HARMONIUM_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.setenv("COLUMNS", "200")
    store_tastes(database)


def harmonium(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def as_json(*arguments: str) -> Any:
    result = harmonium(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_run_is_queued_listed_printed_watched_and_run_again(database: Database, settings: Settings) -> None:
    queued = harmonium("retrain", "--epochs", "3", "--seed", "5", "--batch-size", "7", "--note", "mine")
    assert queued.exit_code == 0, queued.output
    assert "training run 1 is queued" in queued.stdout
    assert "it will take about" in queued.stdout
    (listed,) = as_json("training-runs", "list")
    assert (listed["state"], listed["note"]) == ("queued", "mine")
    assert listed["overrides"] == {"epochs": 3, "batch_size": 7, "seed": 5}
    Worker(database, settings, JOB_HANDLERS).run(until_idle=True)

    table = harmonium("training-runs", "list", "--state", "succeeded").stdout
    assert "succeeded" in table
    assert "not_evaluated" in table
    assert "next by schedule: after 10000 more changed ratings" in table
    printed = as_json("training-runs", "show", "1")
    assert [report["epoch"] for report in printed["epoch_reports"]] == [1, 2, 3]
    assert "reconstruction error" in harmonium("training-runs", "show", "1").stdout
    watched = harmonium("training-runs", "watch", "1").stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in watched) == 3
    assert watched[-1] == "succeeded"
    lines = harmonium("training-runs", "watch", "1", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert events[-1]["event"] == "end"

    assert harmonium("training-runs", "rerun", "1").exit_code == 0
    Worker(database, settings, JOB_HANDLERS).run(until_idle=True)
    again = as_json("training-runs", "show", "2")
    assert again["evaluation"]["rerun"]["same_parameters"]

    (first, second) = as_json("jobs", "list", "--kind", "training")
    assert (first["job_id"], second["state"]) == (2, "succeeded")
    assert "training" in harmonium("jobs", "list").stdout
    assert any("720 ratings" in line["message"] for line in as_json("jobs", "show", "1")["log"])
    assert "attempt 1" in harmonium("jobs", "show", "1").stdout


def test_a_run_and_a_job_are_cancelled(database: Database) -> None:
    harmonium("retrain")
    assert "is cancelled" in harmonium("training-runs", "cancel", "1").stdout
    assert isinstance(harmonium("training-runs", "cancel", "1").exception, Conflict)
    watched = harmonium("training-runs", "watch", "1")
    assert (watched.exit_code, watched.stdout.splitlines()[-1]) == (1, "cancelled")
    harmonium("retrain")
    assert "is cancelled" in harmonium("jobs", "cancel", "2").stdout


def test_every_setting_of_a_fit_is_set_by_name() -> None:
    harmonium(
        "retrain", "--set", "popularity_ratings=2", "--set=design=joint", "--hidden-units=30", "--k", "2"
    )
    (run,) = as_json("training-runs", "list")
    expected = {"popularity_ratings": 2.0, "design": "joint", "hidden_units": 30, "k": 2}
    assert run["overrides"] == expected
    assert set(SETTINGS) == set(TrainingConfiguration().as_dict())
    for command in ("train", "retrain", "evaluate"):
        help_text = harmonium(command, "--help").stdout
        assert [name for name in SETTINGS if f"{name} (" not in help_text] == [], command


@pytest.mark.parametrize(
    ("arguments", "detail"),
    [
        (["--set", "epoch=3"], "there is no setting 'epoch'"),
        (["--set", "epochs"], "'epochs' needs a value"),
        (["--epoch", "3"], "there is no setting 'epoch'"),
        (["--epochs"], "'epochs' needs a value"),
        (["now"], "Unexpected argument 'now'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(arguments: list[str], detail: str) -> None:
    error = harmonium("retrain", *arguments).exception
    assert isinstance(error, InvalidInput)
    assert error.detail.startswith(detail)


def test_a_value_out_of_range_is_refused_with_the_allowed_values() -> None:
    for value in ("many", "0", "1.5"):
        error = harmonium("train", "--set", f"epochs={value}").exception
        assert isinstance(error, InvalidInput)
        assert "a whole number from 1 to 100000" in error.errors[0].message


def test_mistakes_are_named() -> None:
    assert isinstance(harmonium("training-runs", "list", "--state", "lost").exception, InvalidInput)
    assert isinstance(harmonium("training-runs", "show", "9").exception, NotFound)
    assert isinstance(harmonium("jobs", "show", "9").exception, NotFound)
    assert isinstance(harmonium("retrain", "--hidden-units", "0").exception, InvalidInput)
    assert isinstance(harmonium("retrain", "--warm-start").exception, Conflict)

"""`harmonium import` and `export` as people type them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app import cli

CSV = "who,what,mark\n" + "".join(f"{n % 5},{n},{n % 10 + 1}\n" for n in range(50))


@pytest.fixture
def _small_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARMONIUM_DATABASE_URL", f"sqlite:///{tmp_path}/small.db")


@pytest.mark.usefixtures("_small_database")
def test_a_file_goes_in_and_comes_out_again(tmp_path: Path) -> None:
    file = tmp_path / "marks.csv"
    file.write_text(CSV)
    options = ["--columns", "user=who,movie=what,stars=mark", "--scale", "10"]
    result = CliRunner().invoke(cli.app, ["import", str(file), *options])
    assert result.exit_code == 0, result.output
    assert "50 rows: 50 inserted, 0 updated" in result.output
    assert "50 rows stored" in result.stderr
    assert "rows/s" in result.stderr
    exported = tmp_path / "export.csv"
    assert CliRunner().invoke(cli.app, ["export", str(exported)]).exit_code == 0
    assert exported.read_text().splitlines()[1].startswith("0,0,0.5,")
    again = CliRunner().invoke(cli.app, ["import", str(exported), "--json"])
    assert json.loads(again.stdout)[0]["unchanged"] == 50
    packed = tmp_path / "all.zip"
    assert CliRunner().invoke(cli.app, ["export", str(packed)]).exit_code == 0
    again = CliRunner().invoke(cli.app, ["import", str(packed), "--json"])
    assert (json.loads(again.stdout)[0]["kind"], json.loads(again.stdout)[0]["unchanged"]) == (
        "movies+ratings",
        100,
    )


@pytest.mark.usefixtures("_small_database")
def test_columns_that_are_not_there_end_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "marks.csv"
    file.write_text(CSV)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["import", str(file), "--columns", "user=uid"])
    assert exit_.value.code == 2
    assert "'who', 'what', 'mark'" in capsys.readouterr().err


@pytest.mark.usefixtures("_small_database")
def test_rows_that_are_left_out_are_named(tmp_path: Path) -> None:
    file = tmp_path / "marks.csv"
    file.write_text("user,movie,stars\n" + "1,2,3\n" + "1,2,many\n" * 103)
    result = CliRunner().invoke(cli.app, ["import", str(file), "--on-error", "skip"])
    assert result.exit_code == 0, result.output
    assert "104 rows: 1 inserted, 0 updated, 0 unchanged, 0 superseded, 103 rejected" in result.output
    assert "line 3: stars 'many' are not a number" in result.stderr
    assert result.stderr.count("left out") == 100
    assert "and 3 more" in result.stderr
    as_json = CliRunner().invoke(cli.app, ["import", str(file), "--on-error", "skip", "--json"])
    assert json.loads(as_json.stdout)[0]["errors"][0] == {
        "location": "line 3",
        "message": "stars 'many' are not a number",
    }

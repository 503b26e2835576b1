"""Settings come from the environment or `.env`, bad ones are refused clearly.

`.env.example` is true.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app import cli
from app.settings import Settings

ROOT = Path(__file__).parents[1]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
SETTING = re.compile(r"# (HARMONIUM_[A-Z_]+)=(.*)")


def in_a_process(folder: Path, **variables: str) -> dict[str, object]:
    """The settings of a fresh process in this folder, which may have a .env."""
    script = "from app.settings import Settings; print(Settings().model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    settings: dict[str, object] = json.loads(done.stdout)
    return settings


def test_the_example_names_every_setting_with_its_default() -> None:
    documented = SETTING.findall(EXAMPLE)
    defaults = {
        f"HARMONIUM_{name.upper()}": str(field.default) for name, field in Settings.model_fields.items()
    }
    assert dict(documented) == defaults
    assert [name for name, _ in documented] == list(defaults), "in the order of app/settings.py, each once"


def test_the_example_says_something_about_every_setting() -> None:
    for paragraph in EXAMPLE.strip().split("\n\n")[1:]:
        *sentences, setting = paragraph.split("\n")
        assert SETTING.fullmatch(setting), paragraph
        assert sentences, paragraph
        assert sentences[-1].endswith("."), paragraph
        assert all(line.startswith("# ") and not SETTING.match(line) for line in sentences), paragraph


def test_the_example_is_a_valid_env_file_as_it_is_and_with_every_line_in_force(tmp_path: Path) -> None:
    defaults = Settings().model_dump(mode="json")
    (tmp_path / ".env").write_text(EXAMPLE, encoding="utf-8")
    assert in_a_process(tmp_path) == defaults
    (tmp_path / ".env").write_text(SETTING.sub(r"\1=\2", EXAMPLE), encoding="utf-8")
    assert in_a_process(tmp_path) == defaults


def test_env_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    lines = ["HARMONIUM_PORT=9000", 'HARMONIUM_LOG_LEVEL="debug"', "HARMONIUM_SPOOL_DIR=späße", "OTHER=1"]
    (tmp_path / ".env").write_text("\n".join(lines), encoding="utf-8")
    result = in_a_process(tmp_path, HARMONIUM_PORT="9001")
    assert result == Settings().model_dump(mode="json") | {
        "port": 9001,
        "log_level": "debug",
        "spool_dir": "späße",
    }


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PORT": "http"}, "HARMONIUM_PORT: Input should be a valid integer"),
        ({"PORT": "65536"}, "HARMONIUM_PORT: Input should be less than or equal to 65535"),
        ({"LOG_LEVEL": "loud"}, "HARMONIUM_LOG_LEVEL: Input should be 'debug', 'info', 'warning' or 'error'"),
        ({"DATABASE_URL": "mysql://db"}, "HARMONIUM_DATABASE_URL: must start with sqlite:/// or postgresql"),
        ({"UPLOAD_LIMIT": "0"}, "HARMONIUM_UPLOAD_LIMIT: Input should be greater than or equal to 1"),
        ({"RESERVED_USERS_SHARE": "0.6"}, "HARMONIUM_RESERVED_USERS_SHARE: Input should be less than or eq"),
        ({"STARS_MIN": "5"}, "HARMONIUM_STARS_MIN must be below HARMONIUM_STARS_MAX"),
        ({"STARS_MAX": "nan"}, "HARMONIUM_STARS_MAX: Input should be a finite number"),
        ({"STARS_MIN": "-inf"}, "HARMONIUM_STARS_MIN: Input should be a finite number"),
        ({"LIKED_AT_LEAST": "0.5"}, "HARMONIUM_LIKED_AT_LEAST must lie above HARMONIUM_STARS_MIN"),
        ({"RELEVANT_AT_LEAST": "5.5"}, "HARMONIUM_RELEVANT_AT_LEAST must lie above HARMONIUM_STARS_MIN"),
        ({"HEARTBEAT_SECONDS": "7"}, "HARMONIUM_RESCUE_AFTER_SECONDS must be at least three times"),
    ],
)
def test_a_bad_value_is_refused_by_name(
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"HARMONIUM_{name}", value)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["keys", "list"])
    assert exit_.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_thresholds_may_lie_on_the_most_stars_and_move_with_the_scale() -> None:
    settings = Settings(stars_min=0, stars_max=10, liked_at_least=6, relevant_at_least=10)
    assert (settings.liked_at_least, settings.relevant_at_least) == (6, 10)


def test_settings_do_not_change_after_they_were_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.0.2.7", False)],  # noqa: S104
)
def test_only_this_machine_can_reach_loopback(host: str, expected: bool) -> None:
    assert Settings(host=host).listens_on_loopback is expected

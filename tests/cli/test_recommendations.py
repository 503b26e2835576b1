"""`harmonium recommend` takes what the API takes, and gives the same lists."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import cli
from app.catalogue import movies as catalogue
from app.catalogue.movies import MovieEntry
from app.main import create_app
from app.settings import Settings
from app.storage.database import Database
from tests.tastes import store_tastes, train_version

Run = Callable[..., tuple[int, str, str]]
EVEN_FAN = [f"even{n}=5" for n in range(5)] + ["odd0=disliked"]
AS_JSON = [{"movie_id": f"even{n}", "stars": 5} for n in range(5)] + [{"movie_id": "odd0", "liked": False}]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command on the test's database: exit code, stdout, stderr."""
    monkeypatch.setenv("HARMONIUM_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["recommend", *arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def trained(database: Database, settings: Settings) -> int:
    store_tastes(database)
    return train_version(database, settings)


@pytest.fixture
def run_json(run: Run) -> Callable[..., Any]:
    """What `--json` prints."""

    def run_json(*arguments: str) -> Any:
        code, output, errors = run(*arguments, "--json")
        assert code == 0, errors
        return json.loads(output)

    return run_json


def rating_options(*ratings: str) -> list[str]:
    return [part for rating in ratings for part in ("--rating", rating)]


def close(result: Any, expected: Any) -> None:
    """Equal but for how a number is printed."""
    assert json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 5)) == json.loads(
        json.dumps(expected), parse_float=lambda text: round(float(text), 5)
    )


def test_every_option_gives_the_list_of_the_api(
    trained: int, settings: Settings, run_json: Callable[..., Any]
) -> None:
    options: list[tuple[list[str], dict[str, Any]]] = [
        ([], {}),
        (["--limit", "3"], {"limit": 3}),
        (["--exclude", "even1", "--exclude", "Even Film 2"], {"exclude": ["even1", "even2"]}),
        (["--genre", "Odd"], {"genre": "Odd"}),
        (["--year-from", "1985", "--year-to", "1988"], {"year_from": 1985, "year_to": 1988}),
        (["--include-rated", "--limit", "30"], {"include_rated": True, "limit": 30}),
        (["--include-obscure"], {"include_obscure": True}),
        (["--diversity", "0.7"], {"diversity": 0.7}),
        (["--explain"], {"explain": True}),
    ]
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        for arguments, query in options:
            stored = client.get("/v1/users/even0/recommendations", params=query).json()
            assert stored["items"]
            close(run_json("even0", *arguments), stored)
            posted = client.post("/v1/recommendations", json=query | {"ratings": AS_JSON}).json()
            del posted["changes"]
            close(run_json(*rating_options(*EVEN_FAN), *arguments), posted)


def test_what_if_a_user_had_rated_otherwise(
    trained: int, settings: Settings, run_json: Callable[..., Any], run: Run
) -> None:
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        rated = client.get("/v1/users/even0/ratings").json()["items"]
        removed = [rating["movie_id"] for rating in rated if rating["stars"] > 3]
        body = {
            "user_id": "even0",
            "ratings": [{"movie_id": f"odd{n}", "stars": 5} for n in range(5)],
            "remove": removed,
        }
        expected = client.post("/v1/recommendations", json=body).json()
    arguments = rating_options(*(f"odd{n}=5" for n in range(5)))
    for movie_id in removed:
        arguments += ["--remove", movie_id]
    close(run_json("even0", *arguments), expected)
    assert expected["changes"]["entered"]
    _, output, _ = run("even0", *arguments)
    first = expected["changes"]["entered"][0]
    assert f"{first['title']} ({first['rank']})" in " ".join(output.split())


def test_the_table_holds_titles_probabilities_confidences_and_reasons(trained: int, run: Run) -> None:
    arguments = rating_options("Even Film 0=5", "Even Film 1 (1981)=4.5", "odd3=1")
    code, output, errors = run(*arguments, "--explain", "--limit", "30")
    assert code == 0, errors
    assert "P(like)" in output
    assert "confidence" in output
    assert "Even Film 2" in output
    assert "1982" in output
    assert "Even Film 0 (5)" in output
    assert f"blended, model version {trained}" in output


def test_square_brackets_in_a_title_are_printed(trained: int, database: Database, run: Run) -> None:
    with database.writing() as session:
        catalogue.store(session, [MovieEntry("even7", "[Rec] Film", 2007)], now=datetime.now(UTC))
    _, output, _ = run(*rating_options("even0=5"), "--limit", "30")
    assert "[Rec] Film" in output


def test_what_cannot_be_understood_is_refused_and_named(trained: int, run: Run) -> None:
    for arguments, words in (
        ([], "--rating"),
        (["--remove", "even1"], "--rating"),
        ([*rating_options("even0=5"), "--remove", "even1"], "needs a user"),
        (rating_options("even0"), "MOVIE=STARS"),
        (rating_options("even0=many"), "MOVIE=STARS"),
        (rating_options("even0=9"), "stars lie between"),
        (rating_options("even0=nan"), "stars lie between"),
        (rating_options("Evan Film=5"), "no movie has this title"),
        (["even0", "--exclude", "Nothing of the kind"], "--exclude[0]"),
        (["even0", "--remove", "odd0", "--remove", "even14", *rating_options("odd0=5")], "no rating"),
        (["a/b"], "must not contain /"),
        (["even0", "--limit", "0"], "--limit"),
        (["even0", "--diversity", "2"], "--diversity"),
    ):
        code, output, errors = run(*arguments)
        assert code == 2, (arguments, output)
        assert words in " ".join(errors.split()), (arguments, errors)


def test_before_the_first_version_popular_movies_are_listed(
    database: Database, run_json: Callable[..., Any], run: Run
) -> None:
    store_tastes(database)
    result = run_json(*rating_options("even0=5"), "--limit", "3")
    assert (result["strategy"], result["model_version"], len(result["items"])) == ("popular", None, 3)
    assert "no model version yet" in run("even0")[1]

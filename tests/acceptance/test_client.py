"""docs/clients.md: generate a client, import it, call a running service."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from app import access
from app.settings import Settings
from app.storage.database import Database
from tests.acceptance.service import Service
from tests.tastes import store_tastes, train_version

pytestmark = pytest.mark.acceptance

DOCS = Path(__file__).parents[2] / "docs" / "clients.md"
NAME = "harmonium_client"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A running service with a trained version, and a key that may write."""
    folder = tmp_path_factory.mktemp("service")
    url = f"sqlite:///{folder}/client.db"
    database = Database(url)
    database.upgrade()
    store_tastes(database)
    train_version(database, Settings(_env_file=None, database_url=url, spool_dir=folder / "spool"))
    with database.writing() as session:
        secret = access.create(session, "client", "write").key
    database.close()
    with Service(folder, url) as running:
        yield running, secret


@pytest.fixture(scope="module")
def client_folder(service: tuple[Service, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the generated package lies; it can be imported while the tests run."""
    folder = tmp_path_factory.mktemp("generated")
    (command,) = re.findall(r"^openapi-python-client (generate .*)$", DOCS.read_text(), re.MULTILINE)
    arguments = command.replace("http://127.0.0.1:8000", str(service[0].http.base_url).rstrip("/")).split()
    scripts = Path(sys.executable).parent  # the generator formats what it wrote with the ruff on the path
    done = subprocess.run(
        [str(scripts / "openapi-python-client"), *arguments, "--fail-on-warning"],
        cwd=folder,
        env=os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def module(name: str) -> ModuleType:
    return importlib.import_module(f"{NAME}.{name}")


def test_the_documents_own_example_runs(
    service: tuple[Service, str], client_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running, secret = service
    (example,) = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    example = example.replace("http://127.0.0.1:8000", str(running.http.base_url)).replace("hm_…", secret)
    example = example.replace("demo-aliens-1986", "even1").replace("demo-alien-1979", "even2")
    names: dict[str, object] = {}
    exec(compile(example, str(DOCS), "exec"), names)  # noqa: S102 - it is our own documentation
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("1 Even Film")
    posted, question = names["posted"], names["next_question"]
    assert [item.rank for item in posted.items] == [1, 2, 3]  # type: ignore[attr-defined]
    assert question.movie_id not in ("even2",)  # type: ignore[attr-defined]
    assert question.information > 0  # type: ignore[attr-defined]


def test_errors_are_typed_and_the_key_is_sent(service: tuple[Service, str], client_folder: Path) -> None:
    running, secret = service
    package, models = importlib.import_module(NAME), module("models")
    put_rating = module("api.ratings.put_rating")
    url = str(running.http.base_url)
    with package.AuthenticatedClient(base_url=url, token=secret) as client:
        refused = put_rating.sync_detailed(
            user="me", movie="even1", body=models.RatingIn(stars=9.0), client=client
        )
        found = module("api.insight.get_taste").sync(user="even0", client=client)
    assert refused.status_code == 422
    assert isinstance(refused.parsed, models.Problem)
    assert refused.parsed.errors[0].location == "stars"
    assert found.user_id == "even0"
    assert found.n_ratings == 12
    with package.Client(base_url=url) as stranger:
        unknown = put_rating.sync(user="me", movie="even1", body=models.RatingIn(stars=4.0), client=stranger)
    assert isinstance(unknown, models.Problem)
    assert unknown.status == 401

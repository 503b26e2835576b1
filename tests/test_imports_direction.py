"""Imports run one way: a room imports only what stands below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
APP = ROOT / "app"

# Rooms from the top down. A room imports from lower floors only.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"main"},
    {"api", "worker"},
    {"evaluation"},
    {"training"},
    {"recommendations", "imports"},
    {"model_versions"},
    {"catalogue", "access"},
    {"ratings", "jobs"},
    {"storage", "demo", "logs"},
    {"settings", "errors", "learning"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Packages that a room must not import, even through others.
FORBIDDEN: dict[str, set[str]] = {
    "api": {"numpy", "scipy", "pandas"},
    "learning": {"pandas", "sqlalchemy", "fastapi", "pydantic"},
}


def imported_modules(path: Path) -> Iterator[str]:
    """The full names of all modules, or of the names in them, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wrong_turns(path: Path, room: str) -> Iterator[str]:
    """The imports of a file that its room must not have, each in words."""
    for name in imported_modules(path):
        package, _, rest = name.partition(".")
        if not package:
            yield f"{path}: {name} is relative, which hides the direction"
        elif package in FORBIDDEN.get(room, set()):
            yield f"{path}: {room} must not import {package}"
        elif package == "benchmarks" or package == "tests":
            yield f"{path}: the application must not import {package}"
        elif package == "app":
            other = rest.split(".")[0]
            if other not in FLOOR_OF:
                yield f"{path}: give {other} a floor"
            elif other != room and FLOOR_OF[other] <= FLOOR_OF[room]:
                yield f"{path}: {room} must not import {other}"
        elif room == "api" and package == "sqlalchemy" and name != "sqlalchemy.orm.Session":
            yield f"{path}: the API writes no SQL, it must not import {name}"


def test_imports_run_one_way() -> None:
    offenders: list[str] = []
    for path in sorted(APP.rglob("*.py")):
        room = path.relative_to(APP).with_suffix("").parts[0]
        if room == "__init__":
            continue
        offenders += wrong_turns(path, room) if room in FLOOR_OF else [f"{path}: give {room} a floor"]
    assert not offenders, "\n".join(offenders)


def test_a_wrong_turn_is_noticed(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from app import api\nimport app.worker\nfrom app.cli import main\nfrom . import x\n"
        "from app.api.ratings import router\nfrom app.learning import training\nimport app.new\n"
    )
    assert len(list(wrong_turns(wrong, "jobs"))) == 6

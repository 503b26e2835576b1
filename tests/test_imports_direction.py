"""Imports climb one way: a part may import what stands below it, never what stands above or beside."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parent.parent / "app"

# From the top down; a module may import from lower floors, and from its own where the floor says so.
FLOORS: list[set[str]] = [
    {"__main__"},
    {"cli"},
    {"benchmarks"},
    {"main"},
    {"api", "worker", "evaluation_page"},
    {"insight", "schedule", "run_events"},
    {"training_runs", "recommendations", "comparison", "imports", "evaluation"},
    {"gate", "implicit_als", "scoreboard", "training_costs", "idempotency"},
    {"model_registry", "rating_files"},
    {"packed_files", "file_fields"},
    {"catalogue", "access"},
    {"ratings", "jobs"},
    {"demo", "cursors"},
    {"tables", "database", "identifiers", "logs", "signs_of_life"},
    {"settings", "errors", "learning"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules() -> list[Path]:
    return sorted(path for path in APP.rglob("*.py") if path != APP / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(APP).with_suffix("").parts[0]


def imported_parts(path: Path) -> Iterator[str]:
    """The parts of `app` that a module imports, whatever way it spells it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names = (node.module or "").split(".")
            if names[0] == "app":
                yield from [names[1]] if len(names) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("app."):
                    yield alias.name.split(".")[1]


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(APP)))
def test_imports_climb_one_way(path: Path) -> None:
    own = part_of(path)
    assert own in FLOOR_OF, f"give {own} a floor"
    for other in imported_parts(path):
        assert other in FLOOR_OF, f"{own} imports {other}, which has no floor"
        if other != own:
            assert FLOOR_OF[other] > FLOOR_OF[own] or {own, other} <= NEIGHBOURS, (
                f"{own} must not import {other}"
            )


# These three stand together on one floor: reading files is one job in three modules.
NEIGHBOURS = {"packed_files", "file_fields"}


@pytest.mark.parametrize("path", sorted((APP / "api").glob("*.py")), ids=lambda path: path.name)
def test_the_api_writes_neither_sql_nor_numpy(path: Path) -> None:
    assert not imported_packages(path) & {"numpy", "scipy", "pandas"}
    tree = ast.parse(path.read_text())
    from_sqlalchemy = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
        for alias in node.names
    }
    assert from_sqlalchemy <= {"Session"}


def test_the_check_would_notice_a_wrong_turn(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from app import api\nimport app.worker\nfrom app.cli import main\n")
    assert set(imported_parts(wrong)) == {"api", "worker", "cli"}

"""What all commands share: settings, the database, and how to talk to a terminal or a file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app import logs
from app.database import Database
from app.settings import Settings

out = Console()

err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_settings(**overrides: Any) -> Settings:
    """The settings, with the options that a command was given, and logs as they ask for."""
    settings = Settings(**overrides)
    logs.configure(settings)
    return settings


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The database with its schema brought up to date."""
    database = Database.from_settings(settings)
    try:
        database.upgrade()
        yield database
    finally:
        database.close()


@contextmanager
def progress(description: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal, a line every tenth elsewhere; both on standard error."""
    if err.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=1.0)
            yield lambda share: bar.update(task, completed=share)
        return
    shown = -1

    def show(share: float) -> None:
        nonlocal shown
        if int(share * 10) > shown:
            shown = int(share * 10)
            say(f"{description}: {shown * 10} %")

    yield show


def say(words: str) -> None:
    """To standard error, as it is: a narrow terminal wraps it, a file does not."""
    err.print(words, markup=False, highlight=False, soft_wrap=True)


def tell(words: str) -> None:
    """To standard output, as it is."""
    out.print(words, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    out.print_json(json.dumps(value, default=str))


def when(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else ""

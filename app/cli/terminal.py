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


class Bar:
    """What `progress` hands out: call it with a number from 0 to 1."""

    def __init__(self, show: Callable[[float, str], None]) -> None:
        self._show = show
        self._words = ""

    def __call__(self, share: float) -> None:
        self._show(share, self._words)

    def words(self, words: str) -> None:
        """What to say beside the bar from the next call on."""
        self._words = words


@contextmanager
def progress(description: str) -> Iterator[Bar]:
    """A bar on a terminal, a line every tenth elsewhere; both on standard error."""
    if err.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[words]}"),
            console=err,
            transient=True,
        ) as bar:
            task = bar.add_task(description, total=1.0, words="")
            yield Bar(lambda share, words: bar.update(task, completed=share, words=words))
        return
    shown = -1

    def show(share: float, words: str) -> None:
        nonlocal shown
        if int(share * 10) > shown:
            shown = int(share * 10)
            say(f"{description}: {shown * 10} %" + (f", {words}" if words else ""))

    yield Bar(show)


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

"""Parts of all commands: settings, the database, output to a terminal or a file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from app import logs
from app.errors import InvalidInput
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import JOB_STATES

out = Console()

err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StateOption = Annotated[str | None, typer.Option("--state", help=f"Only {', '.join(JOB_STATES)}.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1_000, help="How many, newest first.")]


def read_settings(**overrides: Any) -> Settings:
    """The settings with a command's options; sets up the logs, too."""
    settings = Settings(**overrides)
    logs.configure(settings)
    return settings


def set_options(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def check_state(state: str | None) -> None:
    if state is not None and state not in JOB_STATES:
        raise InvalidInput(f"--state takes {', '.join(JOB_STATES)}, not {state}.")


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
    """A progress bar: call it with a number from 0 to 1."""

    def __init__(self, show: Callable[[float, str], None]) -> None:
        self._show = show
        self._words = ""

    def __call__(self, share: float) -> None:
        self._show(share, self._words)

    def words(self, words: str) -> None:
        """Words beside the bar from the next call on."""
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
    last = -1

    def show(share: float, words: str) -> None:
        nonlocal last
        if int(share * 10) > last:
            last = int(share * 10)
            print_message(f"{description}: {last * 10} %" + (f", {words}" if words else ""))

    yield Bar(show)


def print_message(words: str) -> None:
    """Print to standard error, without markup or line breaks."""
    err.print(words, markup=False, highlight=False, soft_wrap=True)


def print_result(words: str) -> None:
    """Print to standard output without markup."""
    out.print(words, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    out.print_json(json.dumps(value, default=str))


def when(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else ""

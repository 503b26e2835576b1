"""The command line, a file a group: `harmonium serve | train | import …`.

Results go to stdout, logs to stderr; exit code 1 is failure, 2 wrong usage.
May import every room. Start in terminal.py, then in the file of the command.
"""

import sys
from collections.abc import Sequence

import typer
from pydantic import ValidationError

from app.cli import data, evaluation, jobs, keys, recommendations, runs, serving, training, versions
from app.cli.terminal import print_message
from app.errors import HarmoniumError, InvalidInput, Misconfigured

app = typer.Typer(
    name="harmonium",
    help="Movie recommendations over REST from a restricted Boltzmann machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (serving.app, data.app, training.app, evaluation.app, recommendations.app):
    app.add_typer(commands)
app.add_typer(keys.app, name="keys")
app.add_typer(data.db, name="db")
app.add_typer(versions.app, name="model-versions")
app.add_typer(runs.app, name="training-runs")
app.add_typer(jobs.app, name="jobs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        app(args=arguments, standalone_mode=True)
    except ValidationError as error:
        for mistake in error.errors():
            name = "_".join(str(part) for part in mistake["loc"]).upper()
            message = str(mistake["msg"]).removeprefix("Value error, ")
            print_message(f"HARMONIUM_{name}: {message}" if name else message)
        sys.exit(2)
    except HarmoniumError as error:
        print_message(f"{error.title()}: {error.detail}")
        for field in error.errors:
            print_message(f"  {field.location}: {field.message}")
        sys.exit(2 if isinstance(error, InvalidInput | Misconfigured) else 1)

"""The command line: `harmonium demo | serve | worker | import | train | …`.

Results go to standard output, progress and logs to standard error. The exit code is 0 only on success:
1 says that what was asked for failed, 2 that it was asked for wrongly.
"""

import sys
from collections.abc import Sequence

import typer
from pydantic import ValidationError

from app.cli import bench, data, judging, keys, operations, recommending, serving, training, versions
from app.cli.terminal import say
from app.errors import HarmoniumError, InvalidInput, Misconfigured

app = typer.Typer(
    name="harmonium",
    help="Movie recommendations over REST from a restricted Boltzmann machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (serving.app, data.app, training.app, judging.app, recommending.app):
    app.add_typer(commands)
app.add_typer(keys.keys, name="keys")
app.add_typer(data.db, name="db")
app.add_typer(versions.versions, name="model-versions")
app.add_typer(operations.runs, name="training-runs")
app.add_typer(operations.queue, name="jobs")
app.add_typer(bench.bench, name="bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        app(args=arguments, standalone_mode=True)
    except ValidationError as error:
        for one in error.errors():
            name = "_".join(str(part) for part in one["loc"]).upper()
            message = str(one["msg"]).removeprefix("Value error, ")
            say(f"HARMONIUM_{name}: {message}" if name else message)
        sys.exit(2)
    except HarmoniumError as error:
        say(f"{error.title()}: {error.detail}")
        for mistake in error.errors:
            say(f"  {mistake.location}: {mistake.message}")
        sys.exit(2 if isinstance(error, InvalidInput | Misconfigured) else 1)

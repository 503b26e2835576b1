"""`harmonium bench`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from app.benchmarks import rbm
from app.cli.terminal import (
    out,
    say,
)
from app.errors import InvalidInput

bench = typer.Typer(help="Measure speed.", no_args_is_help=True)


@bench.callback()
def _bench() -> None:
    """Measure speed, side by side with something else."""


@bench.command("rbm")
def bench_rbm(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(rbm.PARTS)}; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of each measurement.")] = 7,
    threads: Annotated[int, typer.Option(min=1, max=256, help="BLAS threads.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
) -> None:
    """Time the machine's learning: beside scikit-learn, beside the processor's peak, and as data grow."""
    unknown = set(only or ()) - set(rbm.PARTS)
    if unknown:
        raise InvalidInput(f"--only takes {', '.join(rbm.PARTS)}, not {', '.join(sorted(unknown))}.")
    report = rbm.measure_rbm(
        tuple(only or rbm.PARTS),
        scale=rbm.Scale(rounds=rounds),
        threads=threads,
        on_progress=say,
    )
    for title, columns, lines in report.tables():
        shown = Table(title=title)
        for column in columns:
            shown.add_column(column, justify="left" if column == columns[0] else "right")
        for line in lines:
            shown.add_row(*line)
        out.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2) + "\n")

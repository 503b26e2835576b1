"""`harmonium bench`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from app.benchmarks import beside_fit, imports, rbm, serve
from app.cli.terminal import out, read_settings, say
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
    _show(report, json_file)


@bench.command("serve")
def bench_serve(
    postgres: Annotated[
        str | None, typer.Option(help="URL of an empty PostgreSQL database to fill and measure on, too.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of each route.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, max=600, help="Length of a turn.")] = 4,
    huge: Annotated[bool, typer.Option(help="Measure a model of 59,000 movies, too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
) -> None:
    """Drive the real server with wrk: requests a second beside a constant list, latency, memory."""
    report = serve.measure_serving(
        postgres, scale=serve.Scale(rounds=rounds, seconds=seconds), huge=huge, on_progress=say
    )
    _show(report, json_file)


@bench.command("import")
def bench_import(
    rows: Annotated[int, typer.Option(min=1_000, help="Ratings in the file.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Turns of driver and import.")] = 3,
    postgresql: Annotated[
        str | None,
        typer.Option(
            help="URL of a PostgreSQL database whose role may create others; by default "
            "HARMONIUM_DATABASE_URL, where that is one."
        ),
    ] = None,
    sqlite: Annotated[bool, typer.Option("--sqlite/--no-sqlite", help="Measure SQLite.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
) -> None:
    """Time imports beside the database drivers themselves, and what is read and written meanwhile."""
    settings = read_settings()
    if postgresql is None and settings.database_url.startswith("postgresql"):
        postgresql = settings.database_url
    if postgresql is None:
        if not sqlite:
            raise typer.BadParameter("Nothing is left to measure: give PostgreSQL's URL with --postgresql.")
        say("PostgreSQL is left out: give its URL with --postgresql.")
    # As many ratings a user and a movie as MovieLens' sets of that size have.
    shape = (max(50, rows // 154), max(300, round(59_000 * (rows / 25_000_000) ** 0.5)), rows)
    report = imports.measure_imports(
        imports.Scale(shape=shape, rounds=rounds), postgresql=postgresql, sqlite=sqlite, on_progress=say
    )
    _show(report, json_file)


def _show(report: rbm.SpeedReport | serve.ServeReport | imports.ImportReport, json_file: Path | None) -> None:
    """The tables, and the figures as JSON where they are wanted."""
    for title, columns, lines in report.tables():
        shown = Table(title=title)
        for column in columns:
            shown.add_column(column, justify="left" if column == columns[0] else "right")
        for line in lines:
            shown.add_row(*line)
        out.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2) + "\n")


@bench.command("fit-beside-serving")
def bench_fit_beside_serving(
    ratings_file: Annotated[
        Path | None, typer.Option("--ratings", help="A file of ratings; without it they are made up.")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, max=10_000, help="Requests a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Of each phase.")] = 20.0,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Turns of idle and fitting.")] = 5,
    threads: Annotated[int, typer.Option(min=0, max=256, help="BLAS threads of the fit; 0: all.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
) -> None:
    """Time recommendations of a real service, idle and while a fit runs beside them."""
    report = beside_fit.measure_fit_beside_serving(
        beside_fit.Load(rate=rate, seconds=seconds, rounds=rounds),
        ratings=ratings_file,
        environment={"HARMONIUM_TRAINING_THREADS": str(threads)},
        on_progress=say,
    )
    shown = Table(title=f"GET …/recommendations, {rate:g} a second, milliseconds")
    for column in ("round", "p50 idle", "p50 fitting", "p99 idle", "p99 fitting", "p99 ratio"):
        shown.add_column(column, justify="left" if column == "round" else "right")
    for line in report.lines():
        shown.add_row(*line)
    out.print(shown)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2) + "\n")

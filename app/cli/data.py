"""`harmonium import | export | db`: ratings and movies in and out."""

import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app.catalogue import movies
from app.cli.terminal import (
    AsJson,
    Bar,
    open_database,
    print_json,
    print_message,
    print_result,
    progress,
    read_settings,
)
from app.imports.run import import_file
from app.ratings import read
from app.storage.database import Database

app = typer.Typer()

db = typer.Typer(help="The database.", no_args_is_help=True)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="u.data, u.item, ratings.csv, movies.dat, a zip, …")],
    kind: Annotated[Literal["auto", "ratings", "movies"], typer.Option()] = "auto",
    format_: Annotated[str, typer.Option("--format", help="Override what the content looks like.")] = "auto",
    columns: Annotated[
        str, typer.Option(help="Names of columns, as in user=uid,movie=mid,stars=score.")
    ] = "",
    scale: Annotated[
        str, typer.Option(help="Marks that are no stars: 10 (1 to 10), 100 (0 to 100), or LOW-HIGH.")
    ] = "",
    on_error: Annotated[
        Literal["reject", "skip"], typer.Option(help="A bad row stops the whole file, or is left out.")
    ] = "reject",
    as_json: AsJson = False,
) -> None:
    """Load files of ratings or movies, in the order of the arguments."""
    settings = read_settings()
    results = []
    with open_database(settings) as database:
        for path in files:
            with progress(f"importing {path.name}") as bar:
                started = time.monotonic()
                result = import_file(
                    database,
                    settings,
                    path,
                    kind=kind,
                    format_=format_,
                    columns=columns,
                    scale=scale,
                    on_error=on_error,
                    on_progress=bar,
                    on_rows=_pace(bar),
                )
                seconds = time.monotonic() - started
            results.append({"file": str(path), **result})
            if not as_json:
                _print_import(path, result, seconds)
    if as_json:
        print_json(results)


@app.command()
def export(
    file: Annotated[
        Path, typer.Argument(help="Where to write; - is standard output. A .zip takes the movies along.")
    ] = Path("-"),
) -> None:
    """Write ratings as CSV, or ratings and movies as a zip, for `harmonium import`."""
    settings = read_settings()
    with open_database(settings) as database, database.reading() as session:
        if str(file) == "-":
            for piece in read.csv_lines(session):
                sys.stdout.write(piece)
            return
        unfinished = file.with_name(file.name + ".part")
        parts = (("movies.csv", movies.csv_lines), ("ratings.csv", read.csv_lines))
        if file.suffix.lower() == ".zip":
            with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, lines_of in parts:
                    with archive.open(name, "w", force_zip64=True) as member:
                        for piece in lines_of(session):
                            member.write(piece.encode())
        else:
            with unfinished.open("w", encoding="utf-8", newline="") as target:
                for piece in read.csv_lines(session):
                    target.write(piece)
        unfinished.replace(file)


@db.command("upgrade")
def db_upgrade() -> None:
    """Apply the migrations that are missing; safe to run twice, and at once."""
    database = Database.from_settings(read_settings())
    try:
        applied = database.upgrade()
    finally:
        database.close()
    print_result(f"applied {', '.join(applied)}" if applied else "nothing to do")


def _pace(bar: Bar) -> Callable[[str, int], None]:
    """Show beside the bar the rows that are checked or stored, and rows a second."""
    doing, began, now = "", 0.0, time.monotonic()

    def show(done: str, rows: int) -> None:
        nonlocal doing, began, now
        if done != doing:
            doing, began = done, now
        now = time.monotonic()
        bar.words(f"{rows:,} rows {done}, {rows / max(now - began, 1e-3):,.0f} rows/s")

    return show


def _print_import(path: Path, result: dict[str, Any], seconds: float) -> None:
    counts = ", ".join(
        f"{result[name]} {name}" for name in ("inserted", "updated", "unchanged", "superseded", "rejected")
    )
    rate = result["rows"] / seconds if seconds else 0.0
    print_result(f"{path.name}: {result['rows']} rows: {counts} ({seconds:.1f} s, {rate:,.0f} rows/s)")
    for error in result["errors"]:
        print_message(f"  left out, {error['location']}: {error['message']}")
    if result["rejected"] > len(result["errors"]) > 0:
        print_message(f"  and {result['rejected'] - len(result['errors']):,} more")

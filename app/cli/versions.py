"""`harmonium model-versions`: model versions, without a server."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.cli.terminal import (
    AsJson,
    open_database,
    out,
    print_json,
    print_result,
    read_settings,
    when,
)
from app.model_versions import activation, comparison, retention, store
from app.storage.tables import ActiveVersion, ModelVersion

app = typer.Typer(help="Model versions.", no_args_is_help=True)

IfMatch = Annotated[
    str | None,
    typer.Option(help="Only if the pointer's ETag, as `show --json` has it, is still this one."),
]
Version = Annotated[int, typer.Argument(metavar="VERSION")]


@app.command("list")
def versions_list(as_json: AsJson = False) -> None:
    """Show the versions, newest first."""
    with open_database(read_settings()) as database, database.reading() as session:
        rows = store.page(session, limit=1_000).items
        pointer = activation.active(session)
    if as_json:
        print_json([_as_json(row, pointer) for row in rows])
        return
    table = Table("version", "active", "created", "movies", "MB", "verdict", "note")
    for row in rows:
        table.add_row(
            str(row.version),
            "*" if _is_active(row, pointer) else "",
            when(row.created_at),
            str(row.n_movies),
            f"{row.n_bytes / 1e6:.1f}",
            row.verdict["words"],
            escape(row.note or ""),
        )
    out.print(table)


@app.command("show")
def versions_show(version: Version, as_json: AsJson = False) -> None:
    """Show one version: settings, metrics and the verdict on it."""
    with open_database(read_settings()) as database, database.reading() as session:
        row = store.get(session, version)
        pointer = activation.active(session)
    if as_json:
        print_json(_as_json(row, pointer) | {"etag": activation.etag(pointer)})
        return
    table = Table("", f"version {row.version}", show_header=True)
    facts = {
        "active": "yes" if _is_active(row, pointer) else "no",
        "created": when(row.created_at),
        "training run": row.run_id,
        "trained after version": "none" if row.parent_version is None else row.parent_version,
        "movies": row.n_movies,
        "bytes": row.n_bytes,
        "SHA-256": row.sha256,
        "verdict": row.verdict["words"],
        "note": row.note or "",
    }
    for section in (facts, row.configuration, comparison.numbers(row.metrics)):
        for name, value in section.items():
            table.add_row(name, escape(_cell(value)))
        table.add_section()
    out.print(table)


@app.command("compare")
def versions_compare(
    first: Annotated[int, typer.Argument(metavar="FIRST")],
    second: Annotated[int, typer.Argument(metavar="SECOND")],
    users: Annotated[
        int,
        typer.Option(min=1, max=comparison.MOST_SAMPLED_USERS, help="Users whose lists of ten are compared."),
    ] = comparison.SAMPLED_USERS,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: settings that differ, metrics, lists of sampled users."""
    with open_database(read_settings()) as database, database.reading() as session:
        compared = comparison.compare(session, first, second, n_users=users)
    if as_json:
        print_json(asdict(compared))
        return
    table = Table("", f"version {first}", f"version {second}", "difference")
    for name, setting in compared.settings.items():
        table.add_row(name, _cell(setting.first), _cell(setting.second), "")
    if not compared.settings:
        table.add_row("settings", "equal", "equal", "")
    table.add_section()
    for name, metric in compared.metrics.items():
        difference = "" if metric.difference is None else f"{metric.difference:+.4g}"
        table.add_row(name, _cell(metric.first), _cell(metric.second), difference)
    table.add_section()
    table.add_row("movies of its own", str(compared.only_first), str(compared.only_second), "")
    out.print(table)
    lists = compared.lists
    if lists.mean is None or lists.least is None:
        print_result("no user has ratings that lists could be made from")
        return
    print_result(
        f"lists of {lists.length} for {lists.n_users} users: {lists.mean:.0%} of the movies are the same "
        f"(least {lists.least:.0%}); {lists.identical} lists are equal, {lists.disjoint} share nothing"
    )


@app.command("activate")
def versions_activate(
    version: Version,
    force: Annotated[bool, typer.Option("--force", help="Even if it has not won at the gate.")] = False,
    if_match: IfMatch = None,
    as_json: AsJson = False,
) -> None:
    """Serve this version; every process follows within a poll."""
    with open_database(read_settings()) as database, database.writing() as session:
        pointer = activation.activate(session, version, force=force, if_match=if_match)
    _print_active(pointer, as_json)


@app.command("rollback")
def versions_rollback(if_match: IfMatch = None, as_json: AsJson = False) -> None:
    """Undo the last activation; a second rollback goes back one more."""
    with open_database(read_settings()) as database, database.writing() as session:
        pointer = activation.roll_back(session, if_match=if_match)
    _print_active(pointer, as_json)


@app.command("annotate")
def versions_annotate(
    version: Version,
    note: Annotated[str, typer.Argument(metavar="NOTE", help="An empty one removes it.")],
    as_json: AsJson = False,
) -> None:
    """Replace a version's note."""
    if len(note) > store.LONGEST_NOTE:
        raise typer.BadParameter(f"a note has at most {store.LONGEST_NOTE} characters")
    with open_database(read_settings()) as database, database.writing() as session:
        row = store.annotate(session, version, note)
    if as_json:
        print_json({"version": row.version, "note": row.note})
    else:
        print_result(f"model version {row.version}: {row.note or 'no note'}")


@app.command("delete")
def versions_delete(
    numbers: Annotated[list[int], typer.Argument(metavar="VERSION...")], as_json: AsJson = False
) -> None:
    """Delete versions for good, all or none; the active one cannot be deleted."""
    with open_database(read_settings()) as database, database.writing() as session:
        for number in dict.fromkeys(numbers):
            retention.remove(session, number)
    if as_json:
        print_json({"deleted": list(dict.fromkeys(numbers))})
    else:
        for number in dict.fromkeys(numbers):
            print_result(f"model version {number} is deleted")


@app.command("history")
def versions_history(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The last so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show which version was active when, newest first."""
    with open_database(read_settings()) as database, database.reading() as session:
        rows = activation.history(session, limit=limit).items
    if as_json:
        print_json(
            [
                {
                    "generation": row.generation,
                    "version": row.version,
                    "cause": row.cause,
                    "activated_at": row.activated_at,
                    "until": row.until,
                }
                for row in rows
            ]
        )
        return
    table = Table("activation", "version", "because of", "from", "until")
    for row in rows:
        table.add_row(
            str(row.generation), str(row.version), row.cause, when(row.activated_at), when(row.until) or "now"
        )
    out.print(table)


def _print_active(pointer: ActiveVersion, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "version": pointer.version,
                "activated_at": pointer.activated_at,
                "etag": activation.etag(pointer),
            }
        )
    else:
        print_result(f"model version {pointer.version} is active")


def _is_active(row: ModelVersion, pointer: ActiveVersion | None) -> bool:
    return pointer is not None and pointer.version == row.version


def _as_json(row: ModelVersion, pointer: ActiveVersion | None) -> dict[str, Any]:
    return {
        "version": row.version,
        "active": _is_active(row, pointer),
        "training_run_id": row.run_id,
        "parent_version": row.parent_version,
        "sha256": row.sha256,
        "n_bytes": row.n_bytes,
        "n_movies": row.n_movies,
        "configuration": row.configuration,
        "metrics": row.metrics,
        "verdict": row.verdict,
        "note": row.note,
        "created_at": row.created_at,
    }


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)

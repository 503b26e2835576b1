"""`harmonium keys`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from app import access
from app.cli.terminal import (
    AsJson,
    open_database,
    out,
    print_json,
    read_settings,
    say,
    tell,
    when,
)

keys = typer.Typer(help="API keys.", no_args_is_help=True)


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Who the key is for.")],
    role: Annotated[Literal["read", "write", "admin"], typer.Option()],
    output: Annotated[
        Path | None, typer.Option(help="Write the key to this file, readable by its owner only.")
    ] = None,
    unless_any: Annotated[
        bool, typer.Option("--unless-any", help="Do nothing when there is a key already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it, this once."""
    with open_database(read_settings()) as database, database.writing() as session:
        if unless_any and access.any_key(session):
            say("there is a key already")
            return
        row, secret = access.create(session, name, role)
        if output is not None:
            # Written before the commit: a key that could not be handed over must not come into force.
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch(mode=0o600)
            output.write_text(secret + "\n")
    if as_json:
        print_json({"id": row.key_id, "name": row.name, "role": row.role, "key": secret})
    elif output is None:
        tell(secret)
        say("Keep it: it is not stored and cannot be shown again.")
    else:
        say(f"the key is in {output}")


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """Show keys by their first characters."""
    with open_database(read_settings()) as database, database.reading() as session:
        rows, _ = access.page(session, limit=10_000)
    if as_json:
        print_json(
            [
                {"id": row.key_id, "name": row.name, "role": row.role, "revoked_at": row.revoked_at}
                for row in rows
            ]
        )
        return
    table = Table("id", "name", "role", "begins with", "created", "revoked")
    for row in rows:
        table.add_row(
            str(row.key_id), row.name, row.role, row.prefix, when(row.created_at), when(row.revoked_at)
        )
    out.print(table)


@keys.command("revoke")
def keys_revoke(key_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Put a key out of force for good."""
    with open_database(read_settings()) as database, database.writing() as session:
        row = access.revoke(session, key_id)
    tell(f"key {row.key_id} ({row.name}) is revoked")

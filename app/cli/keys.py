"""`harmonium keys`: API keys."""

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
    print_message,
    print_result,
    read_settings,
    when,
)

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command("create")
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
            print_message("there is a key already")
            return
        new = access.create(session, name, role)
        if output is not None:
            # Written before the commit: a key that could not be handed over must not
            # come into force.
            output.parent.mkdir(parents=True, exist_ok=True)
            output.touch(mode=0o600)
            output.write_text(new.key + "\n")
    if as_json:
        print_json({"id": new.id, "name": new.name, "role": new.role, "key": new.key})
    elif output is None:
        print_result(new.key)
        print_message("Keep it: it is not stored and cannot be printed again.")
    else:
        print_message(f"the key is in {output}")


@app.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """Show keys by their first characters."""
    with open_database(read_settings()) as database, database.reading() as session:
        issued = access.page(session, limit=10_000).items
    if as_json:
        print_json(
            [
                {"id": key.id, "name": key.name, "role": key.role, "revoked_at": key.revoked_at}
                for key in issued
            ]
        )
        return
    table = Table("id", "name", "role", "begins with", "created", "revoked")
    for key in issued:
        table.add_row(str(key.id), key.name, key.role, key.prefix, when(key.created_at), when(key.revoked_at))
    out.print(table)


@app.command("revoke")
def keys_revoke(key_id: Annotated[int, typer.Argument(metavar="ID")]) -> None:
    """Put a key out of force for good."""
    with open_database(read_settings()) as database, database.writing() as session:
        key = access.revoke(session, key_id)
    print_result(f"key {key.id} ({key.name}) is revoked")

"""`harmonium jobs`: the queue."""

from typing import Annotated, Any

import typer
from rich.table import Table

from app.cli.terminal import (
    AsJson,
    LimitOption,
    StateOption,
    check_state,
    open_database,
    out,
    print_json,
    print_result,
    read_settings,
    when,
)
from app.jobs import queue
from app.storage.tables import Job

app = typer.Typer(help="The queue.", no_args_is_help=True)

JobId = Annotated[int, typer.Argument(min=1, metavar="ID", show_default=False)]


@app.command("list")
def jobs_list(
    state: StateOption = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: import or training.")] = None,
    limit: LimitOption = 20,
    as_json: AsJson = False,
) -> None:
    """Show jobs, newest first."""
    check_state(state)
    with open_database(read_settings()) as database, database.reading() as session:
        rows = queue.page(session, state=state, kind=kind, limit=limit).items
    if as_json:
        print_json([_job_fields(row) for row in rows])
        return
    table = Table("job", "kind", "state", "done", "attempt", "worker", "created", "error")
    for row in rows:
        table.add_row(
            str(row.job_id),
            row.kind,
            row.state,
            f"{row.progress:.0%}",
            f"{row.attempt}",
            row.worker or "",
            when(row.created_at),
            row.error or "",
        )
    out.print(table)


@app.command("show")
def jobs_show(job: JobId, as_json: AsJson = False) -> None:
    """Show a job and its log."""
    with open_database(read_settings()) as database, database.reading() as session:
        row = queue.get(session, job)
        lines = queue.log_lines(session, job)
    if as_json:
        log = [
            {
                "attempt": line.attempt,
                "level": line.level,
                "message": line.message,
                "logged_at": line.logged_at,
            }
            for line in lines
        ]
        print_json(_job_fields(row) | {"log": log})
        return
    table = Table(show_header=False, title=f"job {job}")
    for name, value in _job_fields(row).items():
        table.add_row(name, "" if value is None else str(value))
    out.print(table)
    for line in lines:
        print_result(f"{when(line.logged_at)}  attempt {line.attempt}  {line.level}: {line.message}")


@app.command("cancel")
def jobs_cancel(job: JobId) -> None:
    """Cancel a job: at once if it is queued, at its next step if it is running."""
    with open_database(read_settings()) as database, database.writing() as session:
        state = queue.request_cancel(session, job).state
    print_result(
        f"job {job} {'is cancelled' if state == 'cancelled' else 'will be cancelled at its next step'}"
    )


def _job_fields(row: Job) -> dict[str, Any]:
    names = (
        "job_id kind state progress attempt failures max_attempts worker error result cancel_requested "
        "run_after created_at started_at finished_at"
    )
    return {name: getattr(row, name) for name in names.split()}

"""`harmonium training-runs`: past, present and scheduled training runs."""

import time
from collections.abc import Iterator
from dataclasses import asdict
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
    print_message,
    print_result,
    read_settings,
    when,
)
from app.storage.database import Database
from app.training import events, requests, schedule
from app.training.events import START, RunEvent
from app.training.requests import Run

LOOK_EVERY = 0.5  # seconds between two looks at a run that is watched

app = typer.Typer(help="Training runs.", no_args_is_help=True)

RunId = Annotated[int, typer.Argument(min=1, metavar="ID", show_default=False)]


@app.command("list")
def runs_list(state: StateOption = None, limit: LimitOption = 20, as_json: AsJson = False) -> None:
    """Show training runs, newest first."""
    check_state(state)
    settings = read_settings()
    with open_database(settings) as database, database.reading() as session:
        views = requests.page(session, state=state, limit=limit).items
        plan = schedule.plan(session, settings)
    if as_json:
        print_json([run_fields(view) for view in views])
        return
    table = Table("run", "state", "done", "by", "created", "version", "outcome")
    for view in views:
        table.add_row(
            str(view.id),
            view.state,
            f"{view.progress:.0%}",
            f"{view.trigger}{', warm' if view.warm_start else ''}",
            when(view.created_at),
            str(view.model_version or ""),
            (view.error or str((view.evaluation or {}).get("outcome", "")))[:200],
        )
    out.print(table)
    print_result(f"next by schedule: {plan.why}")


@app.command("show")
def runs_show(run: RunId, as_json: AsJson = False) -> None:
    """Show a run: settings, snapshot, estimate, every epoch's report, evaluation."""
    with open_database(read_settings()) as database, database.reading() as session:
        view = requests.with_reports(session, run)
    reports = [row.report for row in view.epoch_reports]
    fields = run_fields(view)
    fields.pop("epoch_reports")
    if as_json:
        print_json(fields | {"epoch_reports": reports})
        return
    table = Table(show_header=False, title=f"training run {run}")
    for name, value in fields.items():
        if isinstance(value, dict):
            value = "\n".join(f"{key} = {part}" for key, part in value.items() if part is not None)
        table.add_row(name, "" if value is None else str(value))
    out.print(table)
    if reports:
        out.print(_curve(reports))


@app.command("watch")
def runs_watch(run: RunId, as_json: AsJson = False) -> None:
    """Print a run's events until its end; exit with 1 unless it succeeds."""
    with open_database(read_settings()) as database:
        for event in follow(database, run):
            if as_json:
                out.print_json(data=event.data | {"event": event.name}, indent=None, default=str)
            else:
                line = _line(event)
                if line:
                    print_result(line)
    if event.data["state"] != "succeeded":
        raise typer.Exit(1)


@app.command("cancel")
def runs_cancel(run: RunId) -> None:
    """Cancel a run: at once if it is queued, within seconds if it is under way."""
    with open_database(read_settings()) as database, database.writing() as session:
        view = requests.cancel(session, run)
        words = "is cancelled" if view.state == "cancelled" else "will be cancelled within seconds"
    print_result(f"training run {run} {words}")


@app.command("rerun")
def runs_rerun(
    run: RunId,
    note: Annotated[str | None, typer.Option(help="To find it by.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the rerun to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do a finished run again: are its parameters equal bit for bit?"""
    settings = read_settings()
    with open_database(settings) as database:
        with database.writing() as session:
            view = requests.request_rerun(session, run, settings, note=note)
            run_id = view.id
        if not as_json:
            print_result(f"training run {run_id} is queued")
        print_run(database, run_id, wait=wait, as_json=as_json)


def follow(database: Database, run_id: int) -> Iterator[RunEvent]:
    """The run's events until its end, as they happen."""
    position = START
    while not position.is_end:
        with database.reading() as session:
            new = events.since(session, run_id, position)
        for event in new:
            position = event.position
            yield event
        if not new:
            time.sleep(LOOK_EVERY)


def print_run(database: Database, run_id: int, *, wait: bool, as_json: bool) -> None:
    """Print a run, with `wait` its events first; exit with 1 unless it succeeds."""
    if wait:
        for event in follow(database, run_id):
            line = _line(event)
            if line and not as_json:
                print_message(line)
    with database.reading() as session:
        view = requests.get(session, run_id)
    if as_json:
        print_json(run_fields(view))
    elif wait and view.state == "succeeded":
        made = f"model version {view.model_version}: " if view.model_version else ""
        print_result(f"{made}{(view.evaluation or {})['words']}")
    if wait and view.state != "succeeded":
        raise typer.Exit(1)


def run_fields(run: Run) -> dict[str, Any]:
    """A training run as the HTTP API shows it."""
    fields = asdict(run)
    return {"training_run": fields.pop("id"), "job": fields.pop("job_id")} | fields


def _line(event: RunEvent) -> str:
    data = event.data
    if event.name == "epoch":
        report = data["report"]
        return (
            f"epoch {report['epoch']} of {report['epochs']}: reconstruction error "
            f"{report['reconstruction_error']:.4f}, pseudo-log-likelihood "
            f"{report['pseudo_log_likelihood']:.4f}, {report['seconds']:.2f} s"
        )
    if event.name == "log":
        return str(data["message"])
    if event.name == "end":
        return f"{data['state']}{': ' + data['error'] if data['error'] else ''}"
    return f"{data['state']}, attempt {data['attempt']}" if data["progress"] == 0 else ""


def _curve(reports: list[dict[str, Any]]) -> Table:
    # Headings that fit side by side into 80 columns.
    names = {
        "epoch": "epoch",
        "reconstruction_error": "error",
        "pseudo_log_likelihood": "pseudo-ll",
        "mean_hidden_activity": "activity",
        "weight_norm": "norm",
        "learning_rate": "rate",
        "seconds": "seconds",
    }
    table = Table(*names.values(), title="epochs: reconstruction error, pseudo-log-likelihood, …")
    for report in reports:
        table.add_row(
            *(f"{report[name]:.4g}" if isinstance(report.get(name), int | float) else "" for name in names)
        )
    return table

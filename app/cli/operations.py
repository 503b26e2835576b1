"""`harmonium training-runs | jobs`: what the queue has done, does and will do."""

import time
from typing import Annotated, Any

import typer
from rich.table import Table

from app import jobs, run_events, schedule, training_runs
from app.cli.terminal import AsJson, open_database, out, print_json, read_settings, say, tell, when
from app.database import Database
from app.errors import InvalidInput
from app.run_events import START, RunEvent
from app.tables import JOB_STATES, Job
from app.training_runs import RunView

LOOK_EVERY = 0.5  # seconds between two looks at a run that is watched

runs = typer.Typer(help="Training runs.", no_args_is_help=True)
queue = typer.Typer(help="The queue.", no_args_is_help=True)

StateOption = Annotated[str | None, typer.Option("--state", help=f"Only {', '.join(JOB_STATES)}.")]
LimitOption = Annotated[int, typer.Option(min=1, max=1_000, help="How many, newest first.")]
RunId = Annotated[int, typer.Argument(min=1, metavar="ID", show_default=False)]


@runs.command("list")
def runs_list(state: StateOption = None, limit: LimitOption = 20, as_json: AsJson = False) -> None:
    """Show training runs, newest first."""
    _check(state)
    with open_database(read_settings()) as database, database.reading() as session:
        views, _ = training_runs.page(session, state=state, limit=limit)
        plan = schedule.plan(session, read_settings())
    if as_json:
        print_json([run_fields(view) for view in views])
        return
    table = Table("run", "state", "done", "by", "created", "version", "outcome")
    for view in views:
        table.add_row(
            str(view.run.run_id),
            view.job.state,
            f"{view.job.progress:.0%}",
            f"{view.run.trigger}{', warm' if view.run.is_warm_start else ''}",
            when(view.run.created_at),
            str(view.model_version or ""),
            (view.job.error or str((view.job.result or {}).get("outcome", "")))[:200],
        )
    out.print(table)
    tell(f"next by schedule: {plan.why}")


@runs.command("show")
def runs_show(run: RunId, as_json: AsJson = False) -> None:
    """Show a run: settings, snapshot, estimate, every epoch's report, evaluation."""
    with open_database(read_settings()) as database, database.reading() as session:
        view = training_runs.get(session, run)
        reports = training_runs.epoch_reports(session, run, view.job.attempt)
    if as_json:
        print_json(run_fields(view) | {"epoch_reports": [row.report for row in reports]})
        return
    table = Table(show_header=False, title=f"training run {run}")
    for name, value in run_fields(view).items():
        if isinstance(value, dict):
            value = "\n".join(f"{key} = {one}" for key, one in value.items() if one is not None)
        table.add_row(name, "" if value is None else str(value))
    out.print(table)
    if reports:
        out.print(_curve([row.report for row in reports]))


@runs.command("watch")
def runs_watch(run: RunId, as_json: AsJson = False) -> None:
    """Print what happens in a run until its end, a line an event; the exit code is that of the run."""
    with open_database(read_settings()) as database:
        for event in follow(database, run):
            if as_json:
                out.print_json(data=event.data | {"event": event.name}, indent=None, default=str)
            else:
                line = _line(event)
                if line:
                    tell(line)
    if event.data["state"] != "succeeded":
        raise typer.Exit(1)


@runs.command("cancel")
def runs_cancel(run: RunId) -> None:
    """Cancel a run: at once while it is queued, within seconds while it is under way."""
    with open_database(read_settings()) as database, database.writing() as session:
        view = training_runs.cancel(session, run)
        words = "is cancelled" if view.job.state == "cancelled" else "will be cancelled within seconds"
    tell(f"training run {run} {words}")


@runs.command("rerun")
def runs_rerun(
    run: RunId,
    note: Annotated[str | None, typer.Option(help="To find it by.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the rerun to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Do a finished run again: does it give bitwise the same parameters, and if not, what differs?"""
    settings = read_settings()
    with open_database(settings) as database:
        with database.writing() as session:
            view = training_runs.request_rerun(session, run, settings, note=note)
            run_id = view.run.run_id
        if not as_json:
            tell(f"training run {run_id} is queued")
        report(database, run_id, wait=wait, as_json=as_json)


@queue.command("list")
def jobs_list(
    state: StateOption = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind: import or training.")] = None,
    limit: LimitOption = 20,
    as_json: AsJson = False,
) -> None:
    """Show jobs, newest first."""
    _check(state)
    with open_database(read_settings()) as database, database.reading() as session:
        rows, _ = jobs.page(session, state=state, kind=kind, limit=limit)
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


@queue.command("show")
def jobs_show(job: RunId, as_json: AsJson = False) -> None:
    """Show a job and its log."""
    with open_database(read_settings()) as database, database.reading() as session:
        row = jobs.get(session, job)
        lines = jobs.log_lines(session, job)
    if as_json:
        log = [
            {"attempt": one.attempt, "level": one.level, "message": one.message, "logged_at": one.logged_at}
            for one in lines
        ]
        print_json(_job_fields(row) | {"log": log})
        return
    table = Table(show_header=False, title=f"job {job}")
    for name, value in _job_fields(row).items():
        table.add_row(name, "" if value is None else str(value))
    out.print(table)
    for one in lines:
        tell(f"{when(one.logged_at)}  attempt {one.attempt}  {one.level}: {one.message}")


@queue.command("cancel")
def jobs_cancel(job: RunId) -> None:
    """Cancel a job: at once while it is queued, at its next step while it is running."""
    with open_database(read_settings()) as database, database.writing() as session:
        state = jobs.request_cancel(session, job).state
    tell(f"job {job} {'is cancelled' if state == 'cancelled' else 'will be cancelled at its next step'}")


def follow(database: Database, run_id: int) -> Any:
    """The run's events until its end, as they happen: a generator of RunEvent."""
    position = START
    while not position.is_end:
        with database.reading() as session:
            events = run_events.since(session, run_id, position)
        for event in events:
            position = event.position
            yield event
        if not events:
            time.sleep(LOOK_EVERY)


def report(database: Database, run_id: int, *, wait: bool, as_json: bool) -> None:
    """Watch a run to its end if asked to, then print it; exit with 1 unless it has succeeded."""
    if wait:
        for event in follow(database, run_id):
            line = _line(event)
            if line and not as_json:
                say(line)
    with database.reading() as session:
        view = training_runs.get(session, run_id)
    if as_json:
        print_json(run_fields(view))
    elif wait and view.job.state == "succeeded":
        made = f"model version {view.model_version}: " if view.model_version else ""
        tell(f"{made}{(view.run.evaluation or {})['words']}")
    if wait and view.job.state != "succeeded":
        raise typer.Exit(1)


def run_fields(view: RunView) -> dict[str, Any]:
    """A training run as the HTTP API shows it."""
    run, job = view.run, view.job
    return {
        "training_run": run.run_id,
        "job": job.job_id,
        "state": job.state,
        "progress": job.progress,
        "attempt": job.attempt,
        "error": job.error,
        "trigger": run.trigger,
        "note": run.note,
        "overrides": run.overrides,
        "configuration": run.configuration,
        "estimate": run.estimate,
        "snapshot": run.snapshot,
        "environment": run.environment,
        "evaluation": run.evaluation,
        "model_version": view.model_version,
        "parent_version": run.parent_version,
        "warm_start": run.is_warm_start,
        "rerun_of": run.rerun_of,
        "sha256": run.sha256,
        "created_at": run.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _job_fields(row: Job) -> dict[str, Any]:
    names = (
        "job_id kind state progress attempt failures max_attempts worker error result cancel_requested "
        "run_after created_at started_at finished_at"
    )
    return {name: getattr(row, name) for name in names.split()}


def _line(event: RunEvent) -> str:
    data = event.data
    if event.name == "epoch":
        found = data["report"]
        return (
            f"epoch {found['epoch']} of {found['epochs']}: reconstruction error "
            f"{found['reconstruction_error']:.4f}, pseudo-log-likelihood "
            f"{found['pseudo_log_likelihood']:.4f}, {found['seconds']:.2f} s"
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
    for found in reports:
        table.add_row(
            *(f"{found[name]:.4g}" if isinstance(found.get(name), int | float) else "" for name in names)
        )
    return table


def _check(state: str | None) -> None:
    if state is not None and state not in JOB_STATES:
        raise InvalidInput(f"--state takes {', '.join(JOB_STATES)}, not {state}.")

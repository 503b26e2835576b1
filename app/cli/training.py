"""`harmonium train | retrain`."""

import time
from typing import Annotated, Any, Literal

import typer

from app import jobs, training_runs
from app.cli.terminal import (
    AsJson,
    given,
    open_database,
    print_json,
    progress,
    read_settings,
    say,
    tell,
)
from app.database import Database
from app.errors import Unavailable
from app.settings import Settings
from app.tables import Job
from app.worker import JOB_HANDLERS, Worker

app = typer.Typer()


@app.command()
def train(
    epochs: Annotated[int | None, typer.Option()] = None,
    hidden_units: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    design: Annotated[
        Literal["rated", "joint", "positive", "masked", "conditional"] | None, typer.Option()
    ] = None,
    k: Annotated[int | None, typer.Option(help="Gibbs steps of contrastive divergence.")] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    note: Annotated[str | None, typer.Option()] = None,
    as_json: AsJson = False,
) -> None:
    """Train here and now, in the foreground; the new version becomes active if it wins at the gate."""
    settings = read_settings()
    overrides = given(
        epochs=epochs,
        hidden_units=hidden_units,
        learning_rate=learning_rate,
        design=design,
        k=k,
        seed=seed,
    )
    with open_database(settings) as database:
        run = train_now(database, settings, overrides, note)
    if as_json:
        print_json(run)
    else:
        tell(f"model version {run['model_version']}: {run['evaluation']['words']}")


@app.command()
def retrain(
    wait: Annotated[bool, typer.Option("--wait", help="Watch the run to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a training run for the worker."""
    settings = read_settings()
    with open_database(settings) as database:
        with database.writing() as session:
            view, created = training_runs.request(session, {}, settings)
            run_id, job_id = view.run.run_id, view.job.job_id
        if not as_json:
            tell(f"training run {run_id} {'is queued' if created else 'was queued already'}")
        if wait:
            job = watch(database, job_id, f"training run {run_id}")
            fail_unless_succeeded(job)
        with database.reading() as session:
            view = training_runs.get(session, run_id)
    if as_json:
        print_json({"training_run": run_id, "state": view.job.state, "model_version": view.model_version})
    elif wait:
        tell(f"model version {view.model_version}: {(view.run.evaluation or {})['words']}")


def train_now(
    database: Database, settings: Settings, overrides: dict[str, Any], note: str | None
) -> dict[str, Any]:
    """Request a run, claim it before any worker can, and carry it out."""
    runner = Worker(database, settings, JOB_HANDLERS)
    with database.writing() as session:
        view, _ = training_runs.request(session, overrides, settings, note=note)
        job = jobs.claim(session, [training_runs.JOB_KIND], runner.name, job_id=view.job.job_id)
    if job is None:
        raise Unavailable(
            f"Training run {view.run.run_id} is queued and cannot begin yet. Try again shortly."
        )
    with progress("training") as on_progress:
        job = runner.run_claimed(job, on_progress)
    fail_unless_succeeded(job)
    with database.reading() as session:
        view = training_runs.get(session, view.run.run_id)
        return {
            "training_run": view.run.run_id,
            "model_version": view.model_version,
            "configuration": view.run.configuration,
            "snapshot": view.run.snapshot,
            "evaluation": view.run.evaluation,
        }


def watch(database: Database, job_id: int, description: str) -> Job:
    with progress(description) as on_progress:
        while True:
            with database.reading() as session:
                job = jobs.get(session, job_id)
            on_progress(job.progress)
            if job.state not in ("queued", "running"):
                return job
            time.sleep(0.5)


def fail_unless_succeeded(job: Job) -> None:
    if job.state != "succeeded":
        say(f"the job is {job.state}: {job.error or 'see its log'}")
        raise typer.Exit(1)

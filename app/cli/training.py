"""`harmonium train | retrain`."""

from typing import Annotated, Any, Literal

import typer

from app import jobs, training_runs
from app.cli import operations
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


Epochs = Annotated[int | None, typer.Option(help="Passes over the users.")]
HiddenUnits = Annotated[int | None, typer.Option()]
BatchSize = Annotated[int | None, typer.Option(help="Users in a minibatch.")]
LearningRate = Annotated[float | None, typer.Option()]
WeightDecay = Annotated[float | None, typer.Option()]
Design = Annotated[Literal["rated", "joint", "positive", "masked", "conditional"] | None, typer.Option()]
Algorithm = Annotated[Literal["cd", "pcd"] | None, typer.Option()]
K = Annotated[int | None, typer.Option(help="Gibbs steps of contrastive divergence.")]
LikedAtLeast = Annotated[float | None, typer.Option(help="Stars that like_probability means.")]
Seed = Annotated[int | None, typer.Option()]
WarmStart = Annotated[bool, typer.Option("--warm-start", help="Go on from the active version.")]
Note = Annotated[str | None, typer.Option(help="To find it by.")]


@app.command()
def train(
    epochs: Epochs = None,
    hidden_units: HiddenUnits = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    weight_decay: WeightDecay = None,
    design: Design = None,
    algorithm: Algorithm = None,
    k: K = None,
    liked_at_least: LikedAtLeast = None,
    seed: Seed = None,
    warm_start: WarmStart = False,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Train here and now, in the foreground; the new version becomes active if it wins at the gate."""
    settings = read_settings()
    overrides = given(
        epochs=epochs,
        hidden_units=hidden_units,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        design=design,
        algorithm=algorithm,
        k=k,
        liked_at_least=liked_at_least,
        seed=seed,
        warm_start=warm_start or None,
    )
    with open_database(settings) as database:
        run = train_now(database, settings, overrides, note)
    if as_json:
        print_json(run)
    else:
        tell(f"model version {run['model_version']}: {run['evaluation']['words']}")


@app.command()
def retrain(
    epochs: Epochs = None,
    hidden_units: HiddenUnits = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    weight_decay: WeightDecay = None,
    design: Design = None,
    algorithm: Algorithm = None,
    k: K = None,
    liked_at_least: LikedAtLeast = None,
    seed: Seed = None,
    warm_start: WarmStart = False,
    note: Note = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the run to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a training run for the worker."""
    settings = read_settings()
    overrides = given(
        epochs=epochs,
        hidden_units=hidden_units,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        design=design,
        algorithm=algorithm,
        k=k,
        liked_at_least=liked_at_least,
        seed=seed,
        warm_start=warm_start or None,
    )
    with open_database(settings) as database:
        with database.writing() as session:
            view, created = training_runs.request(session, overrides, settings, note=note)
            run_id, costs = view.run.run_id, view.run.estimate
        if not as_json:
            tell(f"training run {run_id} {'is queued' if created else 'was queued already'}")
            if costs:
                tell(
                    f"it will take about {costs['seconds']:.0f} s and at most "
                    f"{costs['memory_bytes'] / 1e6:.0f} MB (by {costs['seconds_from']})"
                )
        operations.report(database, run_id, wait=wait, as_json=as_json)


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


def fail_unless_succeeded(job: Job) -> None:
    if job.state != "succeeded":
        say(f"the job is {job.state}: {job.error or 'see its log'}")
        raise typer.Exit(1)

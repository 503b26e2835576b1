"""`harmonium train | retrain`, and the settings of a fit on the command line."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from app.cli import runs
from app.cli.terminal import (
    AsJson,
    open_database,
    print_json,
    print_message,
    print_result,
    progress,
    read_settings,
)
from app.errors import FieldError, InvalidInput, Unavailable
from app.jobs import queue
from app.jobs.loop import Worker
from app.learning.configuration import Setting, TrainingConfiguration
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Job
from app.training import requests
from app.worker.process import JOB_HANDLERS

app = typer.Typer()

SETTINGS = {setting.name: setting for setting in TrainingConfiguration.settings()}
# Typer hands unknown options over as arguments; `overrides_of` reads --hidden-units 200
# there.
TAKES_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}

SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the fit, listed below. May be repeated."),
]
WarmStart = Annotated[bool, typer.Option("--warm-start", help="Go on from the active version.")]
Note = Annotated[str | None, typer.Option(help="To find it by.")]


def _list_settings() -> str:
    """All settings with defaults and descriptions, a paragraph each, for `--help`."""

    def line(setting: Setting) -> str:
        default = "by the data's shape" if setting.default is None else f"{setting.default}"
        return f"{setting.name} ({default}): {setting.description}"

    return "\n\n".join(["Settings of a fit (default):", *map(line, SETTINGS.values())])


SETTINGS_HELP = _list_settings()
OPTIONS_HELP = f"Each setting is an option, too, as in --hidden-units 200.\n\n{SETTINGS_HELP}"


def overrides_of(assignments: Sequence[str] | None, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of a fit by name.

    Args:
        assignments: each NAME=VALUE.
        arguments: options in the form --name VALUE or --name=VALUE.

    Raises:
        InvalidInput: there is no such setting, or no value. The domain checks the
            values.
    """
    pairs = [assignment.partition("=")[::2] for assignment in assignments or ()]
    overrides: dict[str, Any] = {}
    for name, text in [*_pairs_of(arguments), *pairs]:
        setting = SETTINGS.get(name.strip())
        if setting is None or not text:
            message = f"{name!r} needs a value" if setting else f"there is no setting {name!r}"
            known = f"Settings are set by --set NAME=VALUE; there are {', '.join(SETTINGS)}."
            raise InvalidInput(f"{message}. {known}", errors=[FieldError(name, message)])
        try:
            overrides[setting.name] = {"whole": int, "real": float, "choice": str}[setting.kind](text)
        except ValueError:
            overrides[setting.name] = text  # refused with the values that are allowed
    return overrides


def _pairs_of(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            raise InvalidInput(f"Unexpected argument {argument!r}.")
        name, has_value, text = argument.removeprefix("--").partition("=")
        yield name.replace("-", "_"), text if has_value else next(rest, "")


@app.command(context_settings=TAKES_SETTINGS, epilog=OPTIONS_HELP)
def train(
    context: typer.Context,
    assignments: SettingsOption = None,
    warm_start: WarmStart = False,
    note: Note = None,
    as_json: AsJson = False,
) -> None:
    """Train in the foreground; a version that wins at the gate becomes active."""
    overrides = overrides_of(assignments, context.args) | ({"warm_start": True} if warm_start else {})
    settings = read_settings()
    with open_database(settings) as database:
        run = train_now(database, settings, overrides, note)
    if as_json:
        print_json(run)
    else:
        print_result(f"model version {run['model_version']}: {run['evaluation']['words']}")


@app.command(context_settings=TAKES_SETTINGS, epilog=OPTIONS_HELP)
def retrain(
    context: typer.Context,
    assignments: SettingsOption = None,
    warm_start: WarmStart = False,
    note: Note = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the run to its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a training run for the worker."""
    overrides = overrides_of(assignments, context.args) | ({"warm_start": True} if warm_start else {})
    settings = read_settings()
    with open_database(settings) as database:
        with database.writing() as session:
            view, created = requests.request(session, overrides, settings, note=note)
            run_id, costs = view.id, view.estimate
        if not as_json:
            print_result(f"training run {run_id} {'is queued' if created else 'was queued already'}")
            if costs:
                print_result(
                    f"it will take about {costs.seconds:.0f} s and at most "
                    f"{costs.memory_bytes / 1e6:.0f} MB (by {costs.seconds_from})"
                )
        runs.print_run(database, run_id, wait=wait, as_json=as_json)


def train_now(
    database: Database, settings: Settings, overrides: dict[str, Any], note: str | None
) -> dict[str, Any]:
    """Request a run, claim it before any worker can, and carry it out."""
    runner = Worker(database, settings, JOB_HANDLERS)
    with database.writing() as session:
        view, _ = requests.request(session, overrides, settings, note=note)
        job = queue.claim(session, [requests.JOB_KIND], runner.name, job_id=view.job_id)
    if job is None:
        raise Unavailable(f"Training run {view.id} is queued and cannot begin yet. Try again shortly.")
    with progress("training") as on_progress:
        job = runner.run_claimed(job, on_progress)
    fail_unless_succeeded(job)
    with database.reading() as session:
        view = requests.get(session, view.id)
        return {
            "training_run": view.id,
            "model_version": view.model_version,
            "configuration": view.configuration,
            "snapshot": view.snapshot,
            "evaluation": view.evaluation,
        }


def fail_unless_succeeded(job: Job) -> None:
    if job.state != "succeeded":
        print_message(f"the job is {job.state}: {job.error or 'see its log'}")
        raise typer.Exit(1)

"""Training runs as operators ask for them: queue, repeat, cancel, list."""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, cast

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, FieldError, InvalidInput, NotFound, TooLittleTrainingData
from app.jobs import queue
from app.jobs.queue import State
from app.learning.configuration import InvalidConfiguration, TrainingConfiguration
from app.learning.training import LEAST_MOVIES, LEAST_RATINGS, LEAST_USERS
from app.model_versions import activation, store
from app.ratings import changes
from app.settings import Settings
from app.storage import cursors
from app.storage.answers import Answer
from app.storage.cursors import Page
from app.storage.tables import EpochReportRow, Job, ModelVersion, Movie, TrainingRun, User
from app.training import costs
from app.training.costs import Estimate, Shape

JOB_KIND = "training"

# A warm start needs a fifth of a full fit's epochs to come as far, at the full learning
# rate (measured on MovieLens 100K, docs/benchmarks.md).
WARM_START_EPOCHS = 0.2

# Settings that a warm start does not take over from the version that it starts from:
# how long and how fast to learn is chosen anew, by the shape of the data or the caller.
CHOSEN_ANEW = frozenset(
    {
        *("epochs", "batch_size", "learning_rate", "weight_decay", "seed", "liked_at_least"),
        *("linear_units", "weighted_units"),
    }
)

RUNS_TO_GO_BY = 3  # finished runs whose speed an estimate is taken from

Trigger = Literal["request", "schedule", "rerun"]


@dataclass(frozen=True)
class Run(Answer):
    """A training run; state, progress, attempt, error and times are its job's."""

    id: Annotated[int, Field(examples=[4])]
    job_id: Annotated[int, Field(examples=[13])]
    state: State
    progress: Annotated[float, Field(examples=[1.0])]
    attempt: Annotated[int, Field(examples=[1])]
    error: str | None
    overrides: Annotated[dict[str, Any], Field(examples=[{"epochs": 60, "hidden_units": 200}])]
    """Settings of the fit that the request named."""
    configuration: Annotated[
        dict[str, Any] | None, Field(examples=[{"design": "rated", "hidden_units": 200, "epochs": 60}])
    ]
    """What the overrides became for this data."""
    snapshot: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"n_users": 605, "n_movies": 728, "n_ratings": 32_143, "n_reserved_users": 43}]),
    ]
    """The ratings trained on: counts, the newest rating, and a digest that is equal for
    equal ratings."""
    environment: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"harmonium": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "machine": "x86_64"}]),
    ]
    """The versions of Harmonium, NumPy and SciPy that fitted."""
    evaluation: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"state": "evaluated", "n_users": 43, "machine": {"any": 0.24, "relevant": 0.174}}]),
    ]
    """The gate's figures, or a rerun's result."""
    model_version: Annotated[int | None, Field(examples=[7])]
    note: Annotated[str | None, Field(examples=["after the import"])]
    trigger: Trigger
    """What requested it."""
    estimate: Estimate | None
    parent_version: Annotated[int | None, Field(examples=[6])]
    """The version that was active when the fit began."""
    warm_start: bool
    """Whether it goes on from the parent version's parameters."""
    rerun_of: int | None
    """The training run that it does again."""
    sha256: Annotated[str | None, Field(examples=["daec2c16357b5c88…"])]
    """Of the finished model file: equal digests are equal parameters, bit for bit."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: TrainingRun, job: Job, model_version: int | None) -> "Run":
        """The run as the database holds it."""
        return cls(
            id=row.run_id,
            job_id=job.job_id,
            state=cast(State, job.state),
            progress=job.progress,
            attempt=job.attempt,
            error=job.error,
            overrides=row.overrides,
            configuration=row.configuration,
            snapshot=row.snapshot,
            environment=row.environment,
            evaluation=row.evaluation,
            model_version=model_version,
            note=row.note,
            trigger=cast(Trigger, row.trigger),
            estimate=Estimate.from_dict(row.estimate) if row.estimate else None,
            parent_version=row.parent_version,
            warm_start=row.is_warm_start,
            rerun_of=row.rerun_of,
            sha256=row.sha256,
            created_at=row.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


@dataclass(frozen=True)
class ReportedEpoch(Answer):
    """An epoch of a fit, and its `learning.epoch_reports.EpochReport`."""

    epoch: Annotated[int, Field(examples=[1])]
    reported_at: datetime
    report: Annotated[
        dict[str, Any],
        Field(examples=[{"epoch": 1, "epochs": 60, "seconds": 0.017, "reconstruction_error": 0.0675}]),
    ]


@dataclass(frozen=True)
class RunWithReports(Run):
    """A training run with the reports of its last attempt so far."""

    epoch_reports: list[ReportedEpoch]


class Requested(NamedTuple):
    """A queued run, and whether it is new or was joined."""

    run: Run
    is_new: bool


def configuration_of(
    overrides: Mapping[str, Any], settings: Settings, parent: Mapping[str, Any] | None = None
) -> TrainingConfiguration:
    """The settings' configuration with overrides; `InvalidInput` names a wrong field.

    Args:
        overrides: settings of the fit; `warm_start` among them is none, and is passed
            over.
        parent: the configuration of the version that a warm start goes on from. What
            says what its units mean is taken from there.
    """
    inherited = {name: value for name, value in (parent or {}).items() if name not in CHOSEN_ANEW}
    changed = {name: value for name, value in overrides.items() if name != "warm_start"}
    for name in ("design", "hidden_units"):
        if name in inherited and changed.get(name, inherited[name]) != inherited[name]:
            message = f"a warm start goes on with {inherited[name]!r}; leave it out, or ask for a full fit"
            raise InvalidInput(f"{name}: {message}.", errors=[FieldError(name, message)])
    try:
        return TrainingConfiguration.from_dict(
            inherited | {"liked_at_least": settings.liked_at_least} | changed
        ).validated()
    except InvalidConfiguration as error:
        raise InvalidInput(
            "A training setting is not valid.", errors=[FieldError(error.field, str(error))]
        ) from error


def warm_configuration(
    configuration: TrainingConfiguration, n_users: int, n_movies: int, n_ratings: int
) -> TrainingConfiguration:
    """The configuration with a warm start's epochs, unless it names their number."""
    if configuration.epochs is not None:
        return configuration
    epochs = configuration.resolved(n_users, n_movies, n_ratings).epochs or 1
    return dataclasses.replace(configuration, epochs=max(1, round(WARM_START_EPOCHS * epochs)))


def request(
    session: Session,
    overrides: Mapping[str, Any],
    settings: Settings,
    *,
    note: str | None = None,
    trigger: Trigger = "request",
) -> Requested:
    """Queue a training run, or join the queued one with equal settings.

    While a run is under way, one follow-up queues. A run that the schedule has queued
    makes way for one with other settings.

    Args:
        overrides: settings of the fit, and `warm_start`: whether to go on from the
            active version.

    Raises:
        InvalidInput: an override is not valid.
        TooLittleTrainingData: there are fewer ratings than any fit needs.
        NotEnoughMemory: by its estimate the fit would not fit.
        Conflict: a run with other settings is queued already, or there is no version to
            start from.
    """
    overrides = dict(overrides)
    if not overrides.get("warm_start"):
        overrides.pop("warm_start", None)
    configuration = configuration_of(overrides, settings)
    parent: int | None = None
    if "warm_start" in overrides:
        pointer = activation.active(session)
        if pointer is None:
            raise Conflict("There is no active model version to start from. Leave warm_start out.")
        parent = pointer.version
        configuration = configuration_of(overrides, settings, store.get(session, parent).configuration)
    row = TrainingRun(
        overrides=overrides,
        note=note,
        trigger=trigger,
        parent_version=parent,
        is_warm_start=parent is not None,
    )
    return _queue(session, row, configuration, settings)


def request_rerun(session: Session, run_id: int, settings: Settings, *, note: str | None = None) -> Run:
    """Queue a run that repeats a finished one: its configuration, its seed, its parent.

    From equal ratings, with equal code and libraries, its parameters are equal bit for
    bit; its evaluation says whether they are. It leaves no model version.

    Raises:
        NotFound: there is no such run.
        Conflict: it has left no parameters to compare with, its parent is gone, or
            another run is queued.
    """
    before = get(session, run_id)
    if before.configuration is None or before.sha256 is None:
        raise Conflict(
            f"Training run {run_id} has left no parameters to compare with. "
            "Rerun one that has succeeded, or request a new run with its overrides."
        )
    if before.warm_start:
        if before.parent_version is None or session.get(ModelVersion, before.parent_version) is None:
            raise Conflict(
                f"Training run {run_id} started from model version {before.parent_version}, which is gone."
            )
    elif "warm_start" in before.overrides:
        raise Conflict(f"Training run {run_id} found no version to start from; request a full fit instead.")
    row = TrainingRun(
        overrides=before.configuration,
        note=note,
        trigger="rerun",
        parent_version=before.parent_version,
        is_warm_start=before.warm_start,
        rerun_of=run_id,
    )
    return _queue(session, row, configuration_of(before.configuration, settings), settings).run


def estimate_of(
    session: Session,
    configuration: TrainingConfiguration,
    *,
    available: int | None,
    is_warm_start: bool = False,
) -> Estimate:
    """The cost of a fit of the stored ratings, by the speed of the last runs.

    Args:
        available: bytes that the fit may take; None where nothing says.
    """
    finished = session.execute(
        select(TrainingRun, Job)
        .join(Job, Job.job_id == TrainingRun.job_id)
        .where(Job.state == "succeeded", TrainingRun.configuration.is_not(None))
        .order_by(TrainingRun.run_id.desc())
        .limit(RUNS_TO_GO_BY)
    ).all()
    shape = _shape(session, finished[0][0] if finished else None)
    slowness = [
        costs.slowness_of(run.snapshot, run.configuration, seconds)
        for run, job in finished
        if run.snapshot
        and run.configuration
        and job.started_at
        and job.finished_at
        and (seconds := (job.finished_at - job.started_at).total_seconds()) > 0
    ]
    if is_warm_start:
        configuration = warm_configuration(configuration, shape.n_users, shape.n_movies, shape.n_ratings)
    if not slowness:
        return costs.estimate(shape, configuration, available=available)
    return costs.estimate(
        shape,
        configuration,
        available=available,
        slowness=statistics.median(slowness),
        seconds_from=f"the speed of the last {len(slowness)} finished training runs",
    )


def get(session: Session, run_id: int) -> Run:
    """One run; `NotFound` when there is none."""
    row = session.get(TrainingRun, run_id)
    if row is None:
        raise NotFound(f"There is no training run {run_id}.")
    return _runs(session, [row])[0]


def of_job(session: Session, job_id: int) -> TrainingRun:
    """The row of the run that this job carries out."""
    return session.scalars(select(TrainingRun).where(TrainingRun.job_id == job_id)).one()


def page(session: Session, *, state: str | None = None, limit: int, cursor: str | None = None) -> Page[Run]:
    """Runs, newest first."""
    statement = select(TrainingRun).order_by(TrainingRun.run_id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.join(Job, Job.job_id == TrainingRun.job_id).where(Job.state == state)
    if cursor is not None:
        (run_id,) = cursors.read(cursor, 1)
        statement = statement.where(TrainingRun.run_id < run_id)
    return Page.of(_runs(session, session.scalars(statement)), limit, lambda run: (run.id,))


def with_reports(session: Session, run_id: int) -> RunWithReports:
    """One run and its reports; `NotFound` when there is none."""
    run = get(session, run_id)
    statement = (
        select(EpochReportRow)
        .where(EpochReportRow.run_id == run_id, EpochReportRow.attempt == run.attempt)
        .order_by(EpochReportRow.epoch)
    )
    rows = session.scalars(statement)
    reports = [ReportedEpoch(row.epoch, row.reported_at, row.report) for row in rows]
    return RunWithReports(**vars(run), epoch_reports=reports)


def cancel(session: Session, run_id: int) -> Run:
    """Cancel a run: at once when it is queued, within seconds when it is under way."""
    queue.request_cancel(session, get(session, run_id).job_id)
    return get(session, run_id)


def _queue(
    session: Session, row: TrainingRun, configuration: TrainingConfiguration, settings: Settings
) -> Requested:
    """Refuse what cannot succeed; queue the run, or join an equal queued one."""
    totals = changes.changes(session)
    if totals.n_ratings < LEAST_RATINGS:
        raise TooLittleTrainingData(
            f"There are {totals.n_ratings} ratings. The least that can be trained on is {LEAST_RATINGS} "
            f"ratings by {LEAST_USERS} users of {LEAST_MOVIES} movies; import more and ask again."
        )
    available = costs.available_memory(settings)
    estimate = estimate_of(session, configuration, available=available, is_warm_start=row.is_warm_start)
    costs.refuse_unless_it_fits(estimate, configuration)
    while True:
        job, is_new = queue.enqueue(
            session,
            JOB_KIND,
            {"overrides": row.overrides},
            dedupe_key=JOB_KIND,
            max_attempts=settings.job_max_attempts,
        )
        if is_new:
            row.job_id = job.job_id
            row.created_at = job.created_at
            row.rating_changes = totals.total
            row.estimate = dataclasses.asdict(estimate) | {"seconds": round(estimate.seconds, 3)}
            session.add(row)
            session.flush()
            return Requested(Run.of(row, job, None), is_new=True)
        queued = of_job(session, job.job_id)
        if (queued.overrides, queued.rerun_of) == (row.overrides, row.rerun_of):
            return Requested(Run.of(queued, job, None), is_new=False)
        if queued.trigger != "schedule" or row.trigger == "schedule":
            raise Conflict(
                f"Training run {queued.run_id} is queued with other settings. "
                "Wait until it has begun, or cancel it."
            )
        queue.request_cancel(session, job.job_id)


def _shape(session: Session, latest: TrainingRun | None) -> Shape:
    """How large the data are: exact where that is cheap, else an upper bound."""
    totals = changes.changes(session)
    n_users = session.scalar(select(func.count()).select_from(User)) or 0
    n_movies = session.scalar(select(func.count()).select_from(Movie)) or 0
    if latest is not None and latest.snapshot is not None:
        # So many movies had ratings then; each change since then may have been the
        # first of another.
        n_movies = min(n_movies, latest.snapshot["n_movies"] + totals.total - latest.rating_changes)
    return Shape(n_users, n_movies, totals.n_ratings)


def _runs(session: Session, rows: Iterable[TrainingRun]) -> list[Run]:
    rows = list(rows)
    versions = store.of_runs(session, [row.run_id for row in rows])
    jobs = session.scalars(select(Job).where(Job.job_id.in_([row.job_id for row in rows])))
    by_id = {job.job_id: job for job in jobs}
    return [Run.of(row, by_id[row.job_id], versions.get(row.run_id)) for row in rows]

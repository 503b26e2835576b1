"""Training runs: a snapshot of the ratings, a fit, an evaluation on reserved users, a model version.

No transaction is open while the machine is fitted. The version is stored, activated and the job finished in
one transaction that only the job's holder may commit, so a run has one result however often it is tried.
"""

import dataclasses
import hashlib
import platform
import statistics
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy
import structlog
from numpy.typing import NDArray
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session
from threadpoolctl import threadpool_info

from app import cursors, gate, jobs, model_registry, ratings, training_costs
from app.database import Database
from app.errors import (
    Conflict,
    CorruptModelVersion,
    FieldError,
    InvalidInput,
    NotFound,
    TooLittleTrainingData,
    TrainingDiverged,
)
from app.jobs import HeldJob
from app.learning import model_file
from app.learning.configuration import InvalidConfiguration, TrainingConfiguration
from app.learning.machines import Machines
from app.learning.training import (
    LEAST_MOVIES,
    LEAST_RATINGS,
    LEAST_USERS,
    Diverged,
    EpochReport,
    Report,
    TooLittleData,
    completed,
    train,
)
from app.ratings import Snapshot
from app.settings import Settings
from app.tables import EpochReportRow, Job, ModelVersion, Movie, TrainingRun, User, from_microseconds
from app.training_costs import Estimate, Shape

log = structlog.get_logger()

JOB_KIND = "training"

# Shares of the job's progress: reading, fitting, then evaluating and storing.
SNAPSHOT_SHARE, FIT_SHARE = 0.02, 0.94


# A warm start needs a fifth of a full fit's epochs to come as far, at the full learning rate (measured on
# MovieLens 100K, docs/benchmarks.md).
WARM_START_EPOCHS = 0.2

# What a warm start does not take over from the version that it starts from: how long and how fast to learn is
# chosen anew, by the shape of the data or the caller.
CHOSEN_ANEW = frozenset(
    {
        *("epochs", "batch_size", "learning_rate", "weight_decay", "seed", "liked_at_least"),
        *("linear_units", "weighted_units"),
    }
)

RUNS_TO_GO_BY = 3  # finished runs whose speed an estimate is taken from

Trigger = Literal["request", "schedule", "rerun"]


@dataclass(frozen=True)
class RunView:
    """A training run with the state of its job and the version that came of it."""

    run: TrainingRun
    job: Job
    model_version: int | None


def configuration_of(
    overrides: Mapping[str, Any], settings: Settings, parent: Mapping[str, Any] | None = None
) -> TrainingConfiguration:
    """The settings' configuration with overrides; `InvalidInput` names the field that is wrong.

    Args:
        overrides: settings of the fit; `warm_start` among them is none, and is passed over.
        parent: the configuration of the version that a warm start goes on from. What says what its units mean
            is taken from there.
    """
    inherited = {name: value for name, value in (parent or {}).items() if name not in CHOSEN_ANEW}
    given = {name: value for name, value in overrides.items() if name != "warm_start"}
    for name in ("design", "hidden_units"):
        if name in inherited and given.get(name, inherited[name]) != inherited[name]:
            message = f"a warm start goes on with {inherited[name]!r}; leave it out, or ask for a full fit"
            raise InvalidInput(f"{name}: {message}.", errors=[FieldError(name, message)])
    try:
        return TrainingConfiguration.from_dict(
            inherited | {"liked_at_least": settings.liked_at_least} | given
        ).validated()
    except InvalidConfiguration as error:
        raise InvalidInput(
            "A training setting is not valid.", errors=[FieldError(error.field, str(error))]
        ) from error


def request(
    session: Session,
    overrides: Mapping[str, Any],
    settings: Settings,
    *,
    note: str | None = None,
    trigger: Trigger = "request",
) -> tuple[RunView, bool]:
    """Queue a training run; return it and whether it is new.

    A request with equal settings joins the queued run. While a run is under way, one follow-up queues. A run
    that the schedule has queued makes way for one with other settings.

    Args:
        overrides: settings of the fit, and `warm_start`: whether to go on from the active version.

    Raises:
        InvalidInput: an override is not valid.
        TooLittleTrainingData: there are fewer ratings than any fit needs.
        NotEnoughMemory: by its estimate the fit would not fit.
        Conflict: a run with other settings is queued already, or there is no version to start from.
    """
    overrides = dict(overrides)
    if not overrides.get("warm_start"):
        overrides.pop("warm_start", None)
    configuration = configuration_of(overrides, settings)
    parent: int | None = None
    if "warm_start" in overrides:
        pointer = model_registry.active(session)
        if pointer is None:
            raise Conflict("There is no active model version to start from. Leave warm_start out.")
        parent = pointer.version
        inherited = model_registry.get(session, parent).configuration
        configuration = configuration_of(overrides, settings, inherited)
    return _queue(
        session,
        TrainingRun(
            overrides=overrides,
            note=note,
            trigger=trigger,
            parent_version=parent,
            is_warm_start=parent is not None,
        ),
        configuration,
        settings,
    )


def request_rerun(session: Session, run_id: int, settings: Settings, *, note: str | None = None) -> RunView:
    """Queue a run that does again what a finished one did: its configuration, its seed, its parent.

    With the same ratings, code and libraries it gives bitwise the same parameters, and its evaluation says so
    or names what differs. It never becomes active by itself.

    Raises:
        NotFound: there is no such run.
        Conflict: it did not come to an end that could be compared with, its parent is gone, or another run
            is queued.
    """
    before = get(session, run_id).run
    if before.configuration is None or before.sha256 is None:
        raise Conflict(
            f"Training run {run_id} has left no parameters to compare with. "
            "Rerun one that has succeeded, or request a new run with its overrides."
        )
    if before.is_warm_start:
        if before.parent_version is None or session.get(ModelVersion, before.parent_version) is None:
            raise Conflict(
                f"Training run {run_id} started from model version {before.parent_version}, which is gone."
            )
    elif "warm_start" in before.overrides:
        raise Conflict(f"Training run {run_id} found no version to start from; request a full fit instead.")
    run = TrainingRun(
        overrides=before.configuration,
        note=note,
        trigger="rerun",
        parent_version=before.parent_version,
        is_warm_start=before.is_warm_start,
        rerun_of=run_id,
    )
    return _queue(session, run, configuration_of(before.configuration, settings), settings)[0]


def estimate_of(
    session: Session, configuration: TrainingConfiguration, *, is_warm_start: bool = False
) -> Estimate:
    """What a fit of the ratings as they are now will cost, by the speed of the last runs that succeeded."""
    latest = session.scalars(
        select(TrainingRun)
        .join(Job, Job.job_id == TrainingRun.job_id)
        .where(Job.state == "succeeded", TrainingRun.configuration.is_not(None))
        .order_by(TrainingRun.run_id.desc())
        .limit(RUNS_TO_GO_BY)
    ).all()
    shape = _shape(session, latest[0] if latest else None)
    slowness = []
    for view in _views(session, latest):
        began, ended = view.job.started_at, view.job.finished_at
        if view.run.snapshot and view.run.configuration and began and ended and ended > began:
            seconds = (ended - began).total_seconds()
            slowness.append(training_costs.slowness_of(view.run.snapshot, view.run.configuration, seconds))
    if is_warm_start:
        configuration = warm_configuration(configuration, shape.n_users, shape.n_movies, shape.n_ratings)
    if not slowness:
        return training_costs.estimate(shape, configuration)
    return training_costs.estimate(
        shape,
        configuration,
        slowness=statistics.median(slowness),
        seconds_from=f"the speed of the last {len(slowness)} finished training runs",
    )


def warm_configuration(
    configuration: TrainingConfiguration, n_users: int, n_movies: int, n_ratings: int
) -> TrainingConfiguration:
    """The configuration with the few epochs that a warm start needs, unless it names their number."""
    if configuration.epochs is not None:
        return configuration
    epochs = configuration.resolved(n_users, n_movies, n_ratings).epochs or 1
    return dataclasses.replace(configuration, epochs=max(1, round(WARM_START_EPOCHS * epochs)))


def get(session: Session, run_id: int) -> RunView:
    """One run; `NotFound` when there is none."""
    run = session.get(TrainingRun, run_id)
    if run is None:
        raise NotFound(f"There is no training run {run_id}.")
    return _views(session, [run])[0]


def page(
    session: Session, *, state: str | None = None, limit: int, cursor: str | None = None
) -> tuple[list[RunView], str | None]:
    """Runs, newest first."""
    statement = select(TrainingRun).order_by(TrainingRun.run_id.desc()).limit(limit + 1)
    if state is not None:
        statement = statement.join(Job, Job.job_id == TrainingRun.job_id).where(Job.state == state)
    if cursor is not None:
        (run_id,) = cursors.read(cursor, 1)
        statement = statement.where(TrainingRun.run_id < run_id)
    found = list(session.scalars(statement))
    views = _views(session, found[:limit])
    return views, cursors.make(found[limit - 1].run_id) if len(found) > limit else None


def epoch_reports(session: Session, run_id: int, attempt: int) -> list[EpochReportRow]:
    """What the epochs of one attempt reported, in order."""
    statement = (
        select(EpochReportRow)
        .where(EpochReportRow.run_id == run_id, EpochReportRow.attempt == attempt)
        .order_by(EpochReportRow.epoch)
    )
    return list(session.scalars(statement))


def cancel(session: Session, run_id: int) -> RunView:
    """Cancel a run: at once when it is queued, within seconds when it is under way."""
    view = get(session, run_id)
    job = jobs.request_cancel(session, view.job.job_id)
    return RunView(view.run, job, view.model_version)


def run(held: HeldJob, database: Database, settings: Settings) -> dict[str, Any] | None:
    """Carry out a training run: the handler of its job. Returns None: the job is finished with its effect."""
    with database.writing() as session:
        held.fence(session)
        training_run = _of_job(session, held.job_id)
        run_id, note, rerun_of = training_run.run_id, training_run.note, training_run.rerun_of
        # Another attempt's reports would mix with this one's.
        session.execute(delete(EpochReportRow).where(EpochReportRow.run_id == run_id))
    held.check(0.0)
    with database.reading() as session:
        parent = _parent(session, training_run)
        configuration = configuration_of(
            training_run.overrides, settings, parent.machines.configuration.as_dict() if parent else None
        )
        costs = estimate_of(session, configuration, is_warm_start=parent is not None)
    if training_run.is_warm_start and parent is None:
        held.log("there is no usable version to start from any more: this is a full fit", "warning")
    # The memory of this machine, which need not be the one that was asked.
    training_costs.refuse_unless_it_fits(costs, configuration, training_costs.available_memory(settings))
    with database.reading() as session:
        snapshot = ratings.snapshot(session, on_rows=held.check)
        changes = ratings.changes(session).total
    held.check(SNAPSHOT_SHARE)

    reserved = reserved_users(
        snapshot.user_ids, share=settings.reserved_users_share, most=settings.reserved_users_max
    )
    trained = np.setdiff1d(np.arange(snapshot.rows.n_users), reserved)
    described = describe(snapshot, n_reserved=len(reserved))
    training_rows = snapshot.rows.rows(trained)
    if parent is not None:
        configuration = warm_configuration(
            configuration, training_rows.n_users, training_rows.n_movies, training_rows.n_ratings
        )
    start = f"on from version {parent.version}" if parent else "from nothing"
    held.log(
        f"training {start} on {snapshot.rows.n_ratings} ratings by {len(trained)} users of "
        f"{snapshot.rows.n_movies} movies; {len(reserved)} users are reserved for evaluation"
    )
    with database.writing() as session:
        held.fence(session)
        training_run = _of_job(session, held.job_id)
        training_run.snapshot = described
        training_run.environment = environment()
        training_run.rating_changes = changes
        if rerun_of is None:
            pointer = model_registry.active(session)
            training_run.is_warm_start = parent is not None
            training_run.parent_version = parent.version if parent else pointer.version if pointer else None

    training = train(
        training_rows,
        snapshot.vocabulary,
        configuration,
        start_from=parent.machines if parent else None,
    )
    try:
        machines = _fit(held, database, run_id, training)
    except TooLittleData as error:
        raise TooLittleTrainingData(str(error)) from error
    except Diverged as error:
        raise TrainingDiverged(str(error)) from error
    del parent  # its weights are not needed while the gate reads the active version's

    content = model_file.dump(machines)
    sha256 = hashlib.sha256(content).hexdigest()
    repeated: dict[str, Any] | None = None
    if rerun_of is not None:
        with database.reading() as session:
            before, now = get(session, rerun_of).run, _of_job(session, held.job_id)
            repeated = compare(before, now, machines.configuration.as_dict(), sha256)
        if repeated["same_parameters"]:
            _finish_reproduced(held, database, machines, sha256, repeated)
            return None
    with database.reading() as session:
        active = _active(session)
    verdict = gate.verdict_on(
        machines,
        training_rows,
        snapshot.rows.rows(reserved),
        snapshot.user_keys[reserved],
        active=active,
        relevant_at_least=settings.relevant_at_least,
        seed=configuration.seed,
    )
    del active
    figures = verdict.figures
    if repeated is not None:
        measured = verdict.words.rpartition("; ")[0]
        words = f"{repeated['words']}; {measured}; a rerun stays a candidate"
        verdict = dataclasses.replace(verdict, outcome="candidate", words=words)
        figures = figures | {"rerun": repeated}
    held.check(0.99)
    with database.writing() as session:
        held.fence(session)
        training_run = _of_job(session, held.job_id)
        training_run.configuration = machines.configuration.as_dict()
        training_run.evaluation = figures | {"words": verdict.words}
        training_run.sha256 = sha256
        version = model_registry.store(
            session,
            machines,
            content,
            run_id=run_id,
            trained_user_keys=snapshot.user_keys[trained],
            metrics=verdict.figures | {"reliability": machines.reliability.as_dict()},
            verdict={"outcome": verdict.outcome, "words": verdict.words},
            note=note,
        ).version
        if verdict.activates:
            model_registry.activate(session, version, cause="gate")
        model_registry.prune(
            session,
            keep=settings.versions_kept,
            keep_active=timedelta(days=settings.versions_kept_active_days),
        )
        held.finish(session, "succeeded", result={"model_version": version, "outcome": verdict.outcome})
    held.log(f"model version {version}: {verdict.words}")
    return None


def compare(
    before: TrainingRun, now: TrainingRun, configuration: dict[str, Any], sha256: str
) -> dict[str, Any]:
    """What a rerun finds: whether its parameters are bitwise those of the run before, and what differs.

    Args:
        configuration, sha256: what the rerun's became, and of its model file; not stored yet.

    Returns:
        JSON-safe: `of`, `same_parameters`, `sha256_before`, `sha256_now`, `differences` (each with `what`,
        `before` and `now`) and all of it in `words`.
    """
    differences = [
        {"what": f"{part}.{name}", "before": old.get(name), "now": new.get(name)}
        for part, old, new in (
            ("configuration", before.configuration or {}, configuration),
            ("snapshot", before.snapshot or {}, now.snapshot or {}),
            ("environment", before.environment or {}, now.environment or {}),
            ("run", {"start_from": _started_from(before)}, {"start_from": _started_from(now)}),
        )
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    same = before.sha256 == sha256
    names = ", ".join(str(one["what"]) for one in differences)
    if same:
        words = f"bitwise the same parameters as training run {before.run_id}"
        words += f", although these differ: {names}" if differences else ""
    elif differences:
        words = f"other parameters than training run {before.run_id}; what differs: {names}"
    else:
        words = (
            f"other parameters than training run {before.run_id}, and nothing that is recorded differs; "
            "another processor, or a change to the code that its digest does not cover, may be why"
        )
    return {
        "of": before.run_id,
        "same_parameters": same,
        "sha256_before": before.sha256,
        "sha256_now": sha256,
        "differences": differences,
        "words": words,
    }


def reserved_users(user_ids: Sequence[str], *, share: float, most: int) -> NDArray[np.int64]:
    """The places of the users whom no version trains on, ascending: int64 of shape (n_reserved,).

    A hash of the id decides, so that a user stays on the same side from one training run to the next,
    whoever joins or leaves.
    """
    hashes = np.array(
        [int.from_bytes(hashlib.blake2b(one.encode(), digest_size=8).digest(), "big") for one in user_ids],
        dtype=np.uint64,
    )
    chosen = np.flatnonzero(hashes < np.uint64(share * 2**64))
    if len(chosen) > most:
        chosen = chosen[np.argsort(hashes[chosen], kind="stable")[:most]]
    return np.sort(chosen).astype(np.int64)


def describe(snapshot: Snapshot, *, n_reserved: int) -> dict[str, Any]:
    """What was trained on: counts, the newest rating, and a digest that is equal for equal ratings."""
    digest = hashlib.sha256()
    for names in (snapshot.user_ids, snapshot.vocabulary.movie_ids):
        digest.update("\n".join(names).encode())
    for array in (snapshot.rows.indptr, snapshot.rows.indices, snapshot.rows.stars):
        digest.update(array.tobytes())
    return {
        "n_users": snapshot.rows.n_users,
        "n_movies": snapshot.rows.n_movies,
        "n_ratings": snapshot.rows.n_ratings,
        "n_reserved_users": n_reserved,
        "newest_rated_at": None
        if snapshot.newest is None
        else from_microseconds(snapshot.newest).isoformat(),
        "sha256": digest.hexdigest(),
    }


def environment() -> dict[str, Any]:
    """The versions and threads that a fit's last digits depend on."""
    return {
        "harmonium": version_of("harmonium"),
        "learning_code": _learning_code(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "blas": sorted(
            (
                {
                    name: pool[name]
                    for name in ("internal_api", "version", "num_threads", "architecture")
                    if name in pool
                }
                for pool in threadpool_info()
            ),
            key=str,  # the libraries are found in any order
        ),
    }


@cache
def _learning_code() -> str:
    """SHA-256 of the source of `app.learning`: a version number says little about a checkout."""
    digest = hashlib.sha256()
    for path in sorted(Path(model_file.__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _queue(
    session: Session, run: TrainingRun, configuration: TrainingConfiguration, settings: Settings
) -> tuple[RunView, bool]:
    """Refuse what cannot succeed; then queue the run, or join the queued one that is the same."""
    changes = ratings.changes(session)
    if changes.n_ratings < LEAST_RATINGS:
        raise TooLittleTrainingData(
            f"There are {changes.n_ratings} ratings. The least that can be trained on is {LEAST_RATINGS} "
            f"ratings by {LEAST_USERS} users of {LEAST_MOVIES} movies; import more and ask again."
        )
    costs = estimate_of(session, configuration, is_warm_start=run.is_warm_start)
    available = training_costs.available_memory(settings)
    training_costs.refuse_unless_it_fits(costs, configuration, available)
    while True:
        job, created = jobs.enqueue(
            session,
            JOB_KIND,
            {"overrides": run.overrides},
            dedupe_key=JOB_KIND,
            max_attempts=settings.job_max_attempts,
        )
        if created:
            run.job_id = job.job_id
            run.created_at = job.created_at
            run.rating_changes = changes.total
            run.estimate = costs.as_dict(available)
            session.add(run)
            session.flush()
            return RunView(run, job, None), True
        queued = _of_job(session, job.job_id)
        if (queued.overrides, queued.rerun_of) == (run.overrides, run.rerun_of):
            return RunView(queued, job, None), False
        if queued.trigger != "schedule" or run.trigger == "schedule":
            raise Conflict(
                f"Training run {queued.run_id} is queued with other settings. "
                "Wait until it has begun, or cancel it."
            )
        jobs.request_cancel(session, job.job_id)


def _shape(session: Session, latest: TrainingRun | None) -> Shape:
    """How large the data are: exact where that is cheap, else what they are at most."""
    changes = ratings.changes(session)
    n_users = session.scalar(select(func.count()).select_from(User)) or 0
    n_movies = session.scalar(select(func.count()).select_from(Movie)) or 0
    if latest is not None and latest.snapshot is not None:
        # So many movies had ratings then; each change since then may have been the first of another.
        n_movies = min(n_movies, latest.snapshot["n_movies"] + changes.total - latest.rating_changes)
    return Shape(n_users, n_movies, changes.n_ratings)


def _parent(session: Session, training_run: TrainingRun) -> gate.Active | None:
    """What a warm start goes on from: the active version of now, in a rerun that of the run before."""
    if training_run.rerun_of is None:
        return _active(session) if "warm_start" in training_run.overrides else None
    if not training_run.is_warm_start or training_run.parent_version is None:
        return None
    machines = model_registry.load(session, training_run.parent_version)
    return gate.Active(training_run.parent_version, machines, np.empty(0, np.int64))


def _started_from(run: TrainingRun) -> int | None:
    return run.parent_version if run.is_warm_start else None


def _finish_reproduced(
    held: HeldJob, database: Database, machines: Machines, sha256: str, repeated: dict[str, Any]
) -> None:
    """End a rerun that has found the same again: it needs no version of its own."""
    with database.writing() as session:
        held.fence(session)
        training_run = _of_job(session, held.job_id)
        training_run.configuration = machines.configuration.as_dict()
        training_run.evaluation = {"state": "reproduced", "words": repeated["words"], "rerun": repeated}
        training_run.sha256 = sha256
        held.finish(session, "succeeded", result={"model_version": None, "outcome": "reproduced"})
    held.log(repeated["words"])


def _fit(
    held: HeldJob,
    database: Database,
    run_id: int,
    training: Generator[Report, None, Machines],
) -> Machines:
    """Drive the training generator: progress, cancellation and epoch reports live here."""

    def note(report: Report) -> None:
        held.check(SNAPSHOT_SHARE + FIT_SHARE * report.progress)
        if isinstance(report, EpochReport):
            with database.writing() as session:
                held.fence(session)
                session.add(
                    EpochReportRow(
                        run_id=run_id,
                        attempt=held.attempt,
                        epoch=report.epoch,
                        report=report.as_dict(),
                        reported_at=datetime.now(UTC),
                    )
                )

    return completed(training, note)


def _active(session: Session) -> gate.Active | None:
    """The active version as the gate compares with it; None as well when its bytes cannot be used."""
    pointer = model_registry.active(session)
    if pointer is None:
        return None
    try:
        machines = model_registry.load(session, pointer.version)
    except CorruptModelVersion as error:
        log.warning("active_version_not_compared", version=pointer.version, reason=error.detail)
        return None
    packed = model_registry.get(session, pointer.version).trained_user_keys
    return gate.Active(pointer.version, machines, ratings.unpack_keys(packed))


def _of_job(session: Session, job_id: int) -> TrainingRun:
    return session.scalars(select(TrainingRun).where(TrainingRun.job_id == job_id)).one()


def _views(session: Session, runs: Iterable[TrainingRun]) -> list[RunView]:
    runs = list(runs)
    versions = model_registry.of_runs(session, [run.run_id for run in runs])
    found = session.scalars(select(Job).where(Job.job_id.in_([run.job_id for run in runs])))
    by_id = {job.job_id: job for job in found}
    return [RunView(run, by_id[run.job_id], versions.get(run.run_id)) for run in runs]

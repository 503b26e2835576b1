"""Training runs: a snapshot of the ratings, a fit, an evaluation on reserved users, a model version.

No transaction is open while the machine is fitted. The version is stored, activated and the job finished in
one transaction that only the job's holder may commit, so a run has one result however often it is tried.
"""

import hashlib
import platform
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import scipy
import structlog
from numpy.typing import NDArray
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from threadpoolctl import threadpool_info

from app import cursors, gate, jobs, model_registry, ratings
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
    MinibatchReport,
    TooLittleData,
    completed,
    train,
)
from app.ratings import Snapshot
from app.settings import Settings
from app.tables import EpochReportRow, Job, TrainingRun, from_microseconds

log = structlog.get_logger()

JOB_KIND = "training"

# Shares of the job's progress: reading, fitting, then evaluating and storing.
SNAPSHOT_SHARE, FIT_SHARE = 0.02, 0.94


@dataclass(frozen=True)
class RunView:
    """A training run with the state of its job and the version that came of it."""

    run: TrainingRun
    job: Job
    model_version: int | None


def configuration_of(overrides: Mapping[str, Any], settings: Settings) -> TrainingConfiguration:
    """The settings' configuration with overrides; `InvalidInput` names the field that is wrong."""
    try:
        return TrainingConfiguration.from_dict(
            {"liked_at_least": settings.liked_at_least, **overrides}
        ).validated()
    except InvalidConfiguration as error:
        raise InvalidInput(
            "A training setting is not valid.", errors=[FieldError(error.field, str(error))]
        ) from error


def request(
    session: Session, overrides: Mapping[str, Any], settings: Settings, *, note: str | None = None
) -> tuple[RunView, bool]:
    """Queue a training run; return it and whether it is new.

    A request with equal settings joins the queued run. While a run is under way, one follow-up queues.

    Raises:
        InvalidInput: an override is not valid.
        TooLittleTrainingData: there are fewer ratings than any fit needs.
        Conflict: a run with other settings is queued already.
    """
    overrides = dict(overrides)
    configuration_of(overrides, settings)
    n_ratings = ratings.count(session)
    if n_ratings < LEAST_RATINGS:
        raise TooLittleTrainingData(
            f"There are {n_ratings} ratings. The least that can be trained on is {LEAST_RATINGS} ratings by "
            f"{LEAST_USERS} users of {LEAST_MOVIES} movies; import more and ask again."
        )
    job, created = jobs.enqueue(
        session,
        JOB_KIND,
        {"overrides": overrides},
        dedupe_key=JOB_KIND,
        max_attempts=settings.job_max_attempts,
    )
    if created:
        run = TrainingRun(job_id=job.job_id, overrides=overrides, note=note, created_at=job.created_at)
        session.add(run)
        session.flush()
        return RunView(run, job, None), True
    run = _of_job(session, job.job_id)
    if run.overrides != overrides:
        raise Conflict(
            f"Training run {run.run_id} is queued with other settings. Wait until it has begun, or cancel it."
        )
    return RunView(run, job, None), False


def get(session: Session, run_id: int) -> RunView:
    """One run; `NotFound` when there is none."""
    run = session.get(TrainingRun, run_id)
    if run is None:
        raise NotFound(f"There is no training run {run_id}.")
    return _views(session, [run])[0]


def page(session: Session, *, limit: int, cursor: str | None = None) -> tuple[list[RunView], str | None]:
    """Runs, newest first."""
    statement = select(TrainingRun).order_by(TrainingRun.run_id.desc()).limit(limit + 1)
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
        run_id, note = training_run.run_id, training_run.note
        # Another attempt's reports would mix with this one's.
        session.execute(delete(EpochReportRow).where(EpochReportRow.run_id == run_id))
    configuration = configuration_of(held.payload["overrides"], settings)
    held.check(0.0)
    with database.reading() as session:
        snapshot = ratings.snapshot(session)
    held.check(SNAPSHOT_SHARE)

    reserved = reserved_users(
        snapshot.user_ids, share=settings.reserved_users_share, most=settings.reserved_users_max
    )
    trained = np.setdiff1d(np.arange(snapshot.rows.n_users), reserved)
    described = describe(snapshot, n_reserved=len(reserved))
    held.log(
        f"training on {snapshot.rows.n_ratings} ratings by {len(trained)} users of "
        f"{snapshot.rows.n_movies} movies; {len(reserved)} users are reserved for evaluation"
    )
    with database.writing() as session:
        held.fence(session)
        training_run = _of_job(session, held.job_id)
        training_run.snapshot = described
        training_run.environment = environment()

    training_rows = snapshot.rows.rows(trained)
    try:
        machines = _fit(held, database, run_id, train(training_rows, snapshot.vocabulary, configuration))
    except TooLittleData as error:
        raise TooLittleTrainingData(str(error)) from error
    except Diverged as error:
        raise TrainingDiverged(str(error)) from error

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
    content = model_file.dump(machines)
    held.check(0.99)
    with database.writing() as session:
        held.fence(session)
        training_run = _of_job(session, held.job_id)
        training_run.configuration = machines.configuration.as_dict()
        training_run.evaluation = verdict.figures | {"words": verdict.words}
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
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "machine": platform.machine(),
        "blas": [
            {
                name: pool[name]
                for name in ("internal_api", "version", "num_threads", "architecture")
                if name in pool
            }
            for pool in threadpool_info()
        ],
    }


def _fit(
    held: HeldJob,
    database: Database,
    run_id: int,
    training: Generator[MinibatchReport | EpochReport, None, Machines],
) -> Machines:
    """Drive the training generator: progress, cancellation and epoch reports live here."""

    def note(report: MinibatchReport | EpochReport) -> None:
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

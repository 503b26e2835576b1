"""A training run carried out: snapshot of the ratings, fit, gate, model version.

No transaction is open while the model is fitted. The version is stored, activated and
the job finished in one transaction that only the job's holder may commit, so a run has
one result however often it is tried.
"""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.metadata import version as version_of
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import delete
from sqlalchemy.orm import Session
from threadpoolctl import threadpool_limits

from app.errors import CorruptModelVersion, TooLittleTrainingData, TrainingDiverged
from app.jobs.held import HeldJob
from app.learning import model_file
from app.learning.boltzmann.divergence import Diverged
from app.learning.configuration import TrainingConfiguration
from app.learning.epoch_reports import EpochReport
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.training import Report, TooLittleData, completed, train
from app.model_versions import activation, retention, store
from app.ratings.changes import changes
from app.ratings.keys import unpack_keys
from app.ratings.snapshot import Snapshot, take_snapshot
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import EpochReportRow, TrainingRun, from_microseconds
from app.training import costs, gate, requests
from app.training.reserved_users import reserved_users

log = structlog.get_logger()

# Shares of the job's progress: reading, fitting, then evaluating and storing.
SNAPSHOT_SHARE, FIT_SHARE = 0.02, 0.94


@dataclass(frozen=True)
class _Data:
    """The ratings that a run has read, and who is trained on."""

    snapshot: Snapshot
    rating_changes: int
    trained: NDArray[np.int64]
    """Rows of the users trained on, ascending."""
    reserved: NDArray[np.int64]
    """Rows of the users reserved for the gate, ascending."""

    @cached_property
    def training_rows(self) -> RatingRows:
        return self.snapshot.rows.rows(self.trained)


def run(held: HeldJob, database: Database, settings: Settings) -> None:
    """Carry out a training run: the handler of its job."""
    threads = settings.training_threads or costs.usable_cores()
    with threadpool_limits(threads, user_api="blas"):
        _run(held, database, settings)


def _run(held: HeldJob, database: Database, settings: Settings) -> None:
    with database.writing() as session:
        held.fence(session)
        row = requests.of_job(session, held.job_id)
        # Another attempt's reports would mix with this one's.
        session.execute(delete(EpochReportRow).where(EpochReportRow.run_id == row.run_id))
    held.check(0.0)
    with database.reading() as session:
        parent = _parent(session, row)
    if row.is_warm_start and parent is None:
        held.log("there is no usable version to start from any more: this is a full fit", "warning")
    configuration = requests.configuration_of(
        row.overrides, settings, parent.model.configuration.as_dict() if parent else None
    )
    _refuse_unless_it_fits(database, settings, configuration, is_warm_start=parent is not None)
    data = _read(held, database, settings)
    rows = data.training_rows
    if parent is not None:
        configuration = requests.warm_configuration(
            configuration, rows.n_users, rows.n_movies, rows.n_ratings
        )
    _record_start(held, database, data, parent.version if parent else None)
    training = train(
        rows, data.snapshot.vocabulary, configuration, start_from=parent.model if parent else None
    )
    del parent  # its weights are not needed while the gate reads the active version's
    model = _fit(held, database, row.run_id, training)
    if row.rerun_of is None:
        _finish(held, database, settings, data, model)
    else:
        _finish_rerun(held, database, row.rerun_of, model)


def describe(snapshot: Snapshot, *, n_reserved: int) -> dict[str, Any]:
    """The snapshot's counts, newest rating, and digest, equal for equal ratings."""
    digest = hashlib.sha256()
    for names in (snapshot.user_ids, snapshot.vocabulary.movie_ids):
        digest.update("\n".join(names).encode())
    for array in (snapshot.rows.indptr, snapshot.rows.indices, snapshot.rows.stars):
        digest.update(array.tobytes())
    newest = None if snapshot.newest is None else from_microseconds(snapshot.newest).isoformat()
    return {
        "n_users": snapshot.rows.n_users,
        "n_movies": snapshot.rows.n_movies,
        "n_ratings": snapshot.rows.n_ratings,
        "n_reserved_users": n_reserved,
        "newest_rated_at": newest,
        "sha256": digest.hexdigest(),
    }


def _parent(session: Session, row: TrainingRun) -> gate.Active | None:
    """The version that a warm start goes on from; in a rerun that of the run before."""
    if row.rerun_of is None:
        return _active(session) if "warm_start" in row.overrides else None
    if not row.is_warm_start or row.parent_version is None:
        return None
    return gate.Active(row.parent_version, store.load(session, row.parent_version), np.empty(0, np.int64))


def _active(session: Session) -> gate.Active | None:
    """The active version for the gate; None as well when its bytes cannot be used."""
    pointer = activation.active(session)
    if pointer is None:
        return None
    try:
        model = store.load(session, pointer.version)
    except CorruptModelVersion as error:
        log.warning("active_version_not_compared", version=pointer.version, reason=error.detail)
        return None
    packed = store.get(session, pointer.version).trained_user_keys
    return gate.Active(pointer.version, model, unpack_keys(packed))


def _refuse_unless_it_fits(
    database: Database, settings: Settings, configuration: TrainingConfiguration, *, is_warm_start: bool
) -> None:
    # By the memory of this machine, which need not be the one that queued the run.
    available = costs.available_memory(settings)
    with database.reading() as session:
        estimate = requests.estimate_of(
            session, configuration, available=available, is_warm_start=is_warm_start
        )
    costs.refuse_unless_it_fits(estimate, configuration)


def _read(held: HeldJob, database: Database, settings: Settings) -> _Data:
    with database.reading() as session:
        snapshot = take_snapshot(session, on_rows=held.check)
        rating_changes = changes(session).total
    held.check(SNAPSHOT_SHARE)
    reserved = reserved_users(
        snapshot.user_ids, share=settings.reserved_users_share, most=settings.reserved_users_max
    )
    trained = np.setdiff1d(np.arange(snapshot.rows.n_users), reserved)
    return _Data(snapshot, rating_changes, trained, reserved)


def _record_start(held: HeldJob, database: Database, data: _Data, parent_version: int | None) -> None:
    start = f"on from version {parent_version}" if parent_version else "from nothing"
    rows = data.snapshot.rows
    held.log(
        f"training {start} on {rows.n_ratings} ratings by {len(data.trained)} users of "
        f"{rows.n_movies} movies; {len(data.reserved)} users are reserved for evaluation"
    )
    with database.writing() as session:
        held.fence(session)
        row = requests.of_job(session, held.job_id)
        row.snapshot = describe(data.snapshot, n_reserved=len(data.reserved))
        row.environment = {name: version_of(name) for name in ("harmonium", "numpy", "scipy")}
        row.rating_changes = data.rating_changes
        if row.rerun_of is None:
            pointer = activation.active(session)
            row.is_warm_start = parent_version is not None
            row.parent_version = parent_version or (pointer.version if pointer else None)


def _fit(
    held: HeldJob, database: Database, run_id: int, training: Generator[Report, None, TrainedModel]
) -> TrainedModel:
    """Drive the training generator: progress, cancellation and epoch reports."""

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

    try:
        return completed(training, note)
    except TooLittleData as error:
        raise TooLittleTrainingData(str(error)) from error
    except Diverged as error:
        raise TrainingDiverged(str(error)) from error


def _finish(held: HeldJob, database: Database, settings: Settings, data: _Data, model: TrainedModel) -> None:
    """Compare the model at the gate, and store it as a version."""
    content = model_file.dump(model)
    with database.reading() as session:
        active = _active(session)
    verdict = gate.verdict_on(
        model,
        data.training_rows,
        data.snapshot.rows.rows(data.reserved),
        data.snapshot.user_keys[data.reserved],
        active=active,
        relevant_at_least=settings.relevant_at_least,
        seed=model.configuration.seed,
    )
    del active  # its weights are not needed while the version is stored
    held.check(0.99)
    with database.writing() as session:
        held.fence(session)
        row = requests.of_job(session, held.job_id)
        version = store.add(
            session,
            model,
            content,
            run_id=row.run_id,
            trained_user_keys=data.snapshot.user_keys[data.trained],
            metrics=verdict.figures | {"reliability": model.reliability.as_dict()},
            verdict={"outcome": verdict.outcome, "words": verdict.words},
            note=row.note,
        )
        row.configuration = model.configuration.as_dict()
        row.evaluation = verdict.figures | {"outcome": verdict.outcome, "words": verdict.words}
        row.sha256 = version.sha256
        if verdict.activates:
            activation.activate(session, version.version, cause="gate")
        retention.prune(
            session,
            keep=settings.versions_kept,
            keep_active=timedelta(days=settings.versions_kept_active_days),
        )
        held.finish(session, result={"model_version": version.version, "outcome": verdict.outcome})
    held.log(f"model version {version.version}: {verdict.words}")


def _finish_rerun(held: HeldJob, database: Database, rerun_of: int, model: TrainedModel) -> None:
    """Say whether the parameters are those of the run before."""
    sha256 = hashlib.sha256(model_file.dump(model)).hexdigest()
    with database.writing() as session:
        held.fence(session)
        row, before = requests.of_job(session, held.job_id), requests.get(session, rerun_of)
        same_parameters = sha256 == before.sha256
        same_ratings = (row.snapshot or {})["sha256"] == (before.snapshot or {}).get("sha256")
        if same_parameters:
            words = f"bitwise the parameters of training run {rerun_of}"
        elif same_ratings:
            words = (
                f"other parameters than training run {rerun_of}, from equal ratings: another version of the "
                "code or of a library, another processor or number of threads may be why"
            )
        else:
            words = f"other parameters than training run {rerun_of}: the ratings have changed"
        outcome = "reproduced" if same_parameters else "not_reproduced"
        row.configuration = model.configuration.as_dict()
        row.sha256 = sha256
        row.evaluation = {
            "state": outcome,
            "outcome": outcome,
            "words": words,
            "rerun": {
                "of": rerun_of,
                "same_parameters": same_parameters,
                "same_ratings": same_ratings,
                "sha256_before": before.sha256,
                "sha256_now": sha256,
            },
        }
        held.finish(session, result={"model_version": None, "outcome": outcome})
    held.log(words)

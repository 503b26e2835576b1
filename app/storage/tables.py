"""The SQLAlchemy tables. `migrations/` creates them, and a test compares the two.

The table `movie_search`, which differs between SQLite and PostgreSQL, is in the
migration only.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# SQLite numbers rows by itself only in a column of type INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970 in UTC, exactly (a float timestamp would round)."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_microseconds(microseconds: int) -> datetime:
    """The aware UTC datetime of `to_microseconds`."""
    return EPOCH + timedelta(microseconds=microseconds)


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime, kept as microseconds since 1970 on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_microseconds(value)


class Genres(TypeDecorator[Sequence[str]]):
    """Genre names as `|Action|Sci-Fi|`, so that one LIKE finds a whole name."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:
        return "|" + "".join(f"{name}|" for name in value) if value else ""

    def process_result_value(self, value: str | None, dialect: Dialect) -> list[str]:
        return [name for name in (value or "").split("|") if name]


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: Instant,
        float: Double,
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class User(Table):
    """A person who rates; the row appears with the first rating.

    Keys are never reused.
    """

    __tablename__ = "users"
    __table_args__ = ({"sqlite_autoincrement": True},)

    user_key: Mapped[int] = mapped_column(Key, primary_key=True)
    user_id: Mapped[str] = mapped_column(String(128), unique=True)
    created_at: Mapped[datetime]


class Movie(Table):
    """A movie of the catalogue.

    `title` is empty while only ratings have named the movie.
    """

    __tablename__ = "movies"
    __table_args__ = (
        Index("ix_movies_popularity", "n_ratings", "movie_key"),
        {"sqlite_autoincrement": True},
    )

    movie_key: Mapped[int] = mapped_column(Key, primary_key=True)
    movie_id: Mapped[str] = mapped_column(String(128), unique=True)
    title: Mapped[str] = mapped_column(Text, default="")
    # The title without case and accents, by which ratings may name the movie.
    folded_title: Mapped[str] = mapped_column(Text, default="", index=True)
    # The folded words of the title, a blank before each. Triggers index them in
    # `movie_search`.
    title_words: Mapped[str] = mapped_column(Text, default="")
    year: Mapped[int | None] = mapped_column(Integer, index=True)
    genres: Mapped[list[str]] = mapped_column(Genres, default=list)
    imdb_id: Mapped[str | None] = mapped_column(String(32))
    tmdb_id: Mapped[str | None] = mapped_column(String(32))
    # Kept by every writer of ratings; an import adds its own at its end.
    n_ratings: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class CatalogueState(Table):
    """One row, numbered 1.

    `generation` rises in every transaction that changes a movie.

    It tells a process whether the titles that it keeps in memory are current.
    """

    __tablename__ = "catalogue_state"
    __table_args__ = (CheckConstraint("state = 1", name="single_row"),)

    state: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    generation: Mapped[int] = mapped_column(BigInteger)


class Rating(Table):
    """The newest rating of each pair of user and movie."""

    __tablename__ = "ratings"
    __table_args__ = (
        # The primary key is the table's order; a second index would double the cost of
        # an import.
        {"sqlite_with_rowid": False},
    )

    # No foreign keys: checking one costs more than the rating itself; `app.ratings`
    # keeps the rule.
    user_key: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=False)
    movie_key: Mapped[int] = mapped_column(Key, primary_key=True, autoincrement=False)
    stars: Mapped[float]
    # Microseconds since 1970, plain: ratings are read and written by the million.
    rated_at: Mapped[int] = mapped_column(BigInteger)


class RatingChange(Table):
    """The number of ratings that a transaction has changed; the sums are totals.

    A row for each writing transaction, because a single counter would make writers wait
    for one another. A worker sums up old rows.
    """

    __tablename__ = "rating_changes"
    __table_args__ = ({"sqlite_autoincrement": True},)

    change_id: Mapped[int] = mapped_column(Key, primary_key=True)
    inserted: Mapped[int] = mapped_column(BigInteger)
    updated: Mapped[int] = mapped_column(BigInteger)
    removed: Mapped[int] = mapped_column(BigInteger)


JOB_STATES = ("queued", "running", "succeeded", "failed", "cancelled")


class Job(Table):
    """A job in the queue.

    Claimed jobs are never deleted; `attempt` fences their holder.

    `attempt` only grows. `failures` counts attempts that failed or whose worker died,
    bounded by `max_attempts`; an attempt that a stopping worker released is none.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        # A queued job with the same dedupe key is joined, not doubled.
        Index(
            "uq_jobs_queued_dedupe_key",
            "dedupe_key",
            unique=True,
            sqlite_where=text("state = 'queued' AND dedupe_key IS NOT NULL"),
            postgresql_where=text("state = 'queued' AND dedupe_key IS NOT NULL"),
        ),
        Index("ix_jobs_state_run_after", "state", "run_after"),
        {"sqlite_autoincrement": True},
    )

    job_id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16), default="queued")
    dedupe_key: Mapped[str | None] = mapped_column(String(128))
    payload: Mapped[dict[str, Any]]
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    failures: Mapped[int] = mapped_column(Integer, default=0)
    max_attempts: Mapped[int] = mapped_column(Integer, default=3)
    heartbeat: Mapped[int] = mapped_column(BigInteger, default=0)
    progress: Mapped[float] = mapped_column(default=0.0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    worker: Mapped[str | None] = mapped_column(String(128))
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None]
    # None means at once: a wall clock that jumps back must not delay a waiting job.
    run_after: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobLogLine(Table):
    """A line that a job's handler logged."""

    __tablename__ = "job_log_lines"
    __table_args__ = ({"sqlite_autoincrement": True},)

    line_id: Mapped[int] = mapped_column(Key, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.job_id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int] = mapped_column(Integer)
    level: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    logged_at: Mapped[datetime]


class Import(Table):
    """A file to become ratings or movies; state and progress are its job's."""

    __tablename__ = "imports"
    __table_args__ = ({"sqlite_autoincrement": True},)

    import_id: Mapped[int] = mapped_column(Key, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.job_id"), unique=True)
    file_name: Mapped[str | None] = mapped_column(Text)
    spool_path: Mapped[str] = mapped_column(Text)
    file_bytes: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    format: Mapped[str] = mapped_column(String(32))
    rows: Mapped[int] = mapped_column(BigInteger, default=0)
    inserted: Mapped[int] = mapped_column(BigInteger, default=0)
    updated: Mapped[int] = mapped_column(BigInteger, default=0)
    unchanged: Mapped[int] = mapped_column(BigInteger, default=0)
    superseded: Mapped[int] = mapped_column(BigInteger, default=0)
    rejected: Mapped[int] = mapped_column(BigInteger, default=0)
    # Time of all attempts for `rows`; work of a killed one after its last slice is in
    # neither.
    seconds: Mapped[float] = mapped_column(default=0.0)
    errors: Mapped[list[Any]] = mapped_column(default=list)
    created_at: Mapped[datetime]


class TrainingRun(Table):
    """One fit: its configuration, its snapshot of the ratings, its evaluation."""

    __tablename__ = "training_runs"
    __table_args__ = ({"sqlite_autoincrement": True},)

    run_id: Mapped[int] = mapped_column(Key, primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.job_id"), unique=True)
    # Settings by the caller; `configuration` has all, chosen for the shape of the data.
    overrides: Mapped[dict[str, Any]]
    configuration: Mapped[dict[str, Any] | None]
    snapshot: Mapped[dict[str, Any] | None]
    environment: Mapped[dict[str, Any] | None]
    evaluation: Mapped[dict[str, Any] | None]
    note: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    # "request", "schedule" or "rerun".
    trigger: Mapped[str] = mapped_column(String(16), default="request")
    # Changed ratings of all time at the request and, once the run has begun, at its
    # snapshot; the schedule counts from here.
    rating_changes: Mapped[int] = mapped_column(BigInteger, default=0)
    estimate: Mapped[dict[str, Any] | None]
    # The version that was active when the fit began; the model starts from it if
    # `is_warm_start`.
    parent_version: Mapped[int | None] = mapped_column(BigInteger)
    is_warm_start: Mapped[bool] = mapped_column(default=False)
    rerun_of: Mapped[int | None] = mapped_column(BigInteger)
    # Of the model file: equal digests are equal parameters, bit for bit.
    sha256: Mapped[str | None] = mapped_column(String(64))


class RetrainSchedule(Table):
    """State that workers share: one row, numbered 1, locked while a worker decides."""

    __tablename__ = "retrain_schedule"
    __table_args__ = (CheckConstraint("schedule = 1", name="single_row"),)

    schedule: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    # Why the last request for a run was refused; None after a success.
    refusal: Mapped[str | None] = mapped_column(Text)
    refused_at: Mapped[datetime | None]


class IdempotencyKey(Table):
    """The answer to a request that carried an `Idempotency-Key`."""

    __tablename__ = "idempotency_keys"

    operation: Mapped[str] = mapped_column(String(32), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(255), primary_key=True)
    # SHA-256 of the request, to tell a repetition from another request under the same
    # key.
    fingerprint: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(index=True)


class EpochReportRow(Table):
    """The report of an epoch of an attempt."""

    __tablename__ = "epoch_reports"

    run_id: Mapped[int] = mapped_column(
        ForeignKey("training_runs.run_id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    report: Mapped[dict[str, Any]]
    reported_at: Mapped[datetime]


class ModelVersion(Table):
    """The immutable result of a training run; bytes are in `model_version_chunks`."""

    __tablename__ = "model_versions"
    __table_args__ = ({"sqlite_autoincrement": True},)

    version: Mapped[int] = mapped_column(Key, primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("training_runs.run_id"), unique=True)
    parent_version: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    n_bytes: Mapped[int] = mapped_column(BigInteger)
    n_movies: Mapped[int] = mapped_column(Integer)
    configuration: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    verdict: Mapped[dict[str, Any]]
    note: Mapped[str | None] = mapped_column(Text)
    # Sorted user keys as deflated little-endian int64: erasing a person must name these
    # versions.
    trained_user_keys: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime]


class ModelVersionChunk(Table):
    """A part of a model version's file, so that no row grows without bound."""

    __tablename__ = "model_version_chunks"

    version: Mapped[int] = mapped_column(
        ForeignKey("model_versions.version", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class ActiveVersion(Table):
    """The version that serves: one row, numbered 1. `generation` counts activations."""

    __tablename__ = "active_version"
    __table_args__ = (CheckConstraint("pointer = 1", name="single_row"),)

    pointer: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(ForeignKey("model_versions.version"))
    generation: Mapped[int] = mapped_column(BigInteger)
    activated_at: Mapped[datetime]


class Activation(Table):
    """A version that became active. The version itself may have been deleted since."""

    __tablename__ = "activations"
    __table_args__ = (CheckConstraint("cause IN ('gate', 'request', 'rollback')", name="cause"),)

    generation: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)
    cause: Mapped[str] = mapped_column(String(16))
    activated_at: Mapped[datetime]


class ApiKey(Table):
    """An API key's SHA-256; the key itself is returned once and never stored."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("role IN ('read', 'write', 'admin')", name="role"),
        {"sqlite_autoincrement": True},
    )

    key_id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(String(128))
    role: Mapped[str] = mapped_column(String(16))
    # The first characters, to tell keys apart in a list.
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]

"""All settings, read from the environment or `.env` with the prefix HARMONIUM_.

`.env.example` has each with its default; a test compares the two.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """The settings of an operator, read from the environment when an object is made."""

    model_config = SettingsConfigDict(
        env_prefix="HARMONIUM_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    database_url: str = "sqlite:///data/harmonium.db"
    """`sqlite:///PATH` or `postgresql://…`."""
    database_pool_size: int = Field(8, ge=1, le=200)
    """Connections a process keeps open."""
    database_timeout: float = Field(10.0, gt=0, le=300)
    """Seconds to wait for a connection or for SQLite's write lock."""

    host: str = "127.0.0.1"
    """Address to listen on; other than loopback needs an API key."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level logged."""
    log_format: Literal["auto", "text", "json"] = "auto"
    """`auto` is text on a terminal, JSON lines elsewhere."""

    quick_threads: int = Field(2, ge=1, le=40)
    """Threads of a process that make lists, predictions, tastes and questions."""

    liked_at_least: float = 3.0
    """Stars from which a rating counts as liked."""
    relevant_at_least: float = 4.0
    """Stars from which evaluation counts a movie as a good recommendation."""
    stars_min: float = Field(0.5, allow_inf_nan=False)
    """Least stars accepted."""
    stars_max: float = Field(5.0, allow_inf_nan=False)
    """Most stars accepted."""

    spool_dir: Path = Path("data/spool")
    """Where uploads wait for the worker; API and worker share it."""
    upload_limit: int = Field(2 * 1024**3, ge=1)
    """Bytes of an uploaded import file at most."""
    unpacked_limit: int = Field(16 * 1024**3, ge=1)
    """Bytes that a compressed import file may unpack to at most."""
    disk_reserve: int = Field(256 * 1024**2, ge=0)
    """Bytes of the disk that an upload leaves free for the database."""
    body_limit: int = Field(4 * 1024**2, ge=1024)
    """Bytes of any other request body at most."""

    failed_keys_limit: int = Field(20, ge=0, le=1_000_000)
    """Wrong keys from an address in a window before 429; 0 is any number."""
    failed_keys_window: float = Field(60.0, gt=0, le=86_400)
    """Seconds of that window."""

    reserved_users_share: float = Field(0.05, ge=0, le=0.5)
    """Share of users kept out of training to compare versions on."""
    reserved_users_max: int = Field(2000, ge=0)
    """Reserved users at most."""

    worker_poll_seconds: float = Field(0.5, gt=0, le=60)
    """Seconds between two looks of an idle worker for a job."""
    heartbeat_seconds: float = Field(3.0, gt=0, le=60)
    """Seconds between two heartbeats of a worker."""
    rescue_after_seconds: float = Field(20.0, gt=0, le=3600)
    """Seconds after which a job without a heartbeat is taken over."""
    job_max_attempts: int = Field(3, ge=1, le=100)
    """Attempts before a job fails for good."""
    shutdown_grace_seconds: float = Field(10.0, gt=0, le=600)
    """Seconds to finish requests, or to release a job, after SIGTERM."""
    # Measured in docs/benchmarks.md: a second thread gains little alone and costs much
    # beside other work.
    training_threads: int = Field(1, ge=0, le=256)
    """BLAS threads of a fit; 0 takes every core that the process may use."""
    training_memory_limit: int = Field(0, ge=0)
    """Bytes that a fit may take; 0 is what the machine or container has free."""
    retrain_after_ratings: int = Field(10_000, ge=0)
    """Changed ratings after which a run is scheduled; 0 schedules none."""
    retrain_every_hours: float = Field(24.0, ge=0, le=24 * 366)
    """Hours after which a run is scheduled if ratings have changed; 0 for none."""
    retrain_jitter: float = Field(0.1, ge=0, le=1)
    """Share of the hours, drawn for every run, that is added to them."""
    full_fit_every: int = Field(5, ge=1, le=1000)
    """Number of scheduled runs of which one starts from nothing; 1 is every run."""
    version_poll_seconds: float = Field(1.0, gt=0, le=60)
    """Seconds between two looks for another active version."""
    versions_kept: int = Field(10, ge=1, le=1000)
    """Newest model versions kept; the active one is always kept."""
    versions_kept_active_days: float = Field(30.0, ge=0, le=36500)
    """Days for which a version is kept after it was last active."""

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if not url.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must start with sqlite:/// or postgresql://")
        return url

    @model_validator(mode="after")
    def _thresholds_lie_within_the_stars(self) -> Self:
        if not self.stars_min < self.stars_max:
            raise ValueError("HARMONIUM_STARS_MIN must be below HARMONIUM_STARS_MAX")
        for name in ("liked_at_least", "relevant_at_least"):
            if not self.stars_min < getattr(self, name) <= self.stars_max:
                raise ValueError(
                    f"HARMONIUM_{name.upper()} must lie above HARMONIUM_STARS_MIN and not above "
                    "HARMONIUM_STARS_MAX, so that both liked and not-liked ratings can exist"
                )
        if self.rescue_after_seconds < 3 * self.heartbeat_seconds:
            raise ValueError(
                "HARMONIUM_RESCUE_AFTER_SECONDS must be at least three times HARMONIUM_HEARTBEAT_SECONDS, "
                "or a busy worker would lose its job"
            )
        return self

    @property
    def listens_on_loopback(self) -> bool:
        return self.host in LOOPBACK_HOSTS

"""Every setting, read from the environment or `.env` with the prefix HARMONIUM_.

`.env.example` documents each field; a test keeps the two alike.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """What an operator may set. Constructing one reads the environment; nothing else in `app` does."""

    model_config = SettingsConfigDict(
        env_prefix="HARMONIUM_", env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    database_url: str = Field("sqlite:///data/harmonium.db", description="sqlite:///PATH or postgresql://…")
    database_pool_size: int = Field(8, ge=1, le=200, description="connections a process keeps open")
    database_timeout: float = Field(
        10.0, gt=0, le=300, description="seconds to wait for a connection or for SQLite's write lock"
    )

    host: str = Field("127.0.0.1", description="address to listen on; other than loopback needs an API key")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="auto is text on a terminal, JSON lines elsewhere"
    )

    quick_threads: int = Field(
        2, ge=1, le=40, description="threads of a process that make lists, predictions, tastes and questions"
    )

    liked_at_least: float = Field(3.0, description="stars from which a rating counts as liked")
    relevant_at_least: float = Field(
        4.0, description="stars from which evaluation counts a movie as a good recommendation"
    )
    stars_min: float = Field(0.5, allow_inf_nan=False, description="least stars accepted")
    stars_max: float = Field(5.0, allow_inf_nan=False, description="most stars accepted")

    spool_dir: Path = Field(
        Path("data/spool"), description="where uploads wait for the worker; API and worker share it"
    )
    upload_limit: int = Field(2 * 1024**3, ge=1, description="bytes of an uploaded import file at most")
    unpacked_limit: int = Field(
        16 * 1024**3, ge=1, description="bytes that a compressed import file may unpack to at most"
    )
    disk_reserve: int = Field(
        256 * 1024**2, ge=0, description="bytes of the disk that an upload leaves free for the database"
    )
    body_limit: int = Field(4 * 1024**2, ge=1024, description="bytes of any other request body at most")

    failed_keys_limit: int = Field(
        20,
        ge=0,
        le=1_000_000,
        description="keys that are not in force taken from one address in a window, before 429; 0: any",
    )
    failed_keys_window: float = Field(60.0, gt=0, le=86_400, description="seconds of that window")

    reserved_users_share: float = Field(
        0.05, ge=0, le=0.5, description="share of users kept out of training to compare versions on"
    )
    reserved_users_max: int = Field(2000, ge=0, description="reserved users at most")

    worker_poll_seconds: float = Field(
        0.5, gt=0, le=60, description="how often an idle worker looks for a job"
    )
    heartbeat_seconds: float = Field(3.0, gt=0, le=60, description="how often a worker shows that it lives")
    rescue_after_seconds: float = Field(
        20.0, gt=0, le=3600, description="a job whose heartbeat stands still for so long is taken over"
    )
    job_max_attempts: int = Field(3, ge=1, le=100, description="attempts before a job fails for good")
    shutdown_grace_seconds: float = Field(
        10.0, gt=0, le=600, description="time to finish requests, or to release a job, after SIGTERM"
    )
    training_threads: int = Field(
        1,
        ge=0,
        le=256,
        # Measured in docs/benchmarks.md: a second thread gains little alone and costs much beside other work.
        description="BLAS threads of a fit; 0 takes every core that the process may use",
    )
    training_memory_limit: int = Field(
        0, ge=0, description="bytes that a fit may take; 0 is what the machine or container has free"
    )
    retrain_after_ratings: int = Field(
        10_000, ge=0, description="retrain by itself after so many changed ratings; 0 never does"
    )
    retrain_every_hours: float = Field(
        24.0,
        ge=0,
        le=24 * 366,
        description="retrain by itself after so many hours if any rating has changed; 0 never does",
    )
    retrain_jitter: float = Field(
        0.1, ge=0, le=1, description="share of the hours, drawn anew for every run, that is added to them"
    )
    full_fit_every: int = Field(
        5, ge=1, le=1000, description="every so manieth scheduled run starts from nothing; 1 is all of them"
    )
    version_poll_seconds: float = Field(
        1.0, gt=0, le=60, description="how often a process looks whether another version became active"
    )
    versions_kept: int = Field(
        10, ge=1, le=1000, description="newest model versions kept; the active one is always kept"
    )
    versions_kept_active_days: float = Field(
        30.0, ge=0, le=36500, description="days for which a version is kept after it was last active"
    )

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

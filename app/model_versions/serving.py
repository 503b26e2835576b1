"""The version that a process serves: loaded once, swapped on activation."""

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from app.errors import CorruptModelVersion, HarmoniumError, NotFound
from app.learning.inference.popularity_prior import PopularityPrior
from app.learning.trained_model import TrainedModel
from app.model_versions import activation, store
from app.storage.database import Database
from app.storage.tables import ActiveVersion

log = structlog.get_logger()


@dataclass(frozen=True)
class LoadedVersion:
    """A version in memory; one request uses one of these from beginning to end."""

    version: int
    generation: int
    model: TrainedModel

    @cached_property
    def popularity_prior(self) -> PopularityPrior:
        """The users that the version was trained with, as a whole."""
        return PopularityPrior.of(self.model)


class VersionWatcher:
    """The active version in memory, renewed by a thread that polls the pointer.

    Requests take `current` once and use it to their end, so a swap drops and mixes
    nothing. Instead of an active version whose bytes cannot be used, the last good one
    that was active serves: the one that `roll_back` would activate, in every process
    alike; `trouble` says so.
    """

    def __init__(self, database: Database, *, poll_seconds: float, kept_in: Path | None = None) -> None:
        self._database = database
        self._kept_in = kept_in
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: tuple[int, int] | None = None
        self.current: LoadedVersion | None = None
        self.trouble: str | None = None

    def start(self) -> None:
        """Load the active version, then keep watching, even if the database is away."""
        self.refresh()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._watch, name="version-watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> None:
        """Look at the pointer once and swap if it has moved."""
        try:
            with self._database.reading() as session:
                pointer = activation.active(session)
                if pointer is None or (pointer.generation, pointer.version) == self._seen:
                    return
                loaded, trouble = self._choose(session, pointer)
        except HarmoniumError as error:
            log.warning("model_version_poll_failed", reason=error.detail)
            return
        if loaded is not None:
            _ = loaded.popularity_prior, loaded.model.vectors  # now, not in the first request
        self.current = loaded
        self.trouble = trouble
        self._seen = (pointer.generation, pointer.version)
        if loaded is not None:
            log.info("model_version_serving", version=loaded.version, generation=pointer.generation)

    def _choose(self, session: Session, pointer: ActiveVersion) -> tuple[LoadedVersion | None, str | None]:
        """The version to serve, and the active one's error if it is another."""
        try:
            model = self._load(session, pointer.version)
            return LoadedVersion(pointer.version, pointer.generation, model), None
        except (CorruptModelVersion, NotFound) as error:
            reason = error.detail
        activations = activation.in_order(session)
        latest = [past.version for past in reversed(activations)]
        fallbacks = dict.fromkeys([*activation.undo_order(activations), *latest])
        for version in store.existing(session, list(fallbacks)):
            try:
                model = self._load(session, version)
            except (CorruptModelVersion, NotFound):
                continue
            trouble = f"{reason} Until then version {version}, which was active before, serves."
            return LoadedVersion(version, pointer.generation, model), trouble
        if self.current is not None:
            return self.current, f"{reason} Until then version {self.current.version} serves from memory."
        return None, f"{reason} Until then lists are those of the popular movies: no other version can serve."

    def _load(self, session: Session, version: int) -> TrainedModel:
        """A version's model, from memory if it is there; errors as `store.load`."""
        if self.current is not None and self.current.version == version:
            return self.current.model
        try:
            return store.load(session, version, kept_in=self._kept_in)
        except (CorruptModelVersion, NotFound) as error:
            log.error("model_version_refused", version=version, reason=error.detail)
            raise

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:
                # The thread must outlive whatever a driver may raise: without it no
                # version is ever swapped.
                log.exception("model_version_poll_failed")

"""The worker's chores; the process itself is tested in acceptance/."""

import os
import time
from pathlib import Path

from app.settings import Settings
from app.storage.database import Database
from app.training import requests
from app.worker.process import CHORES, retrain_by_schedule, sweep_spool
from tests.tastes import store_tastes


def test_the_spool_is_swept_of_what_no_job_will_ask_for(database: Database, settings: Settings) -> None:
    settings.spool_dir.mkdir(parents=True)
    abandoned, fresh = (settings.spool_dir / f"import-{digit * 32}" for digit in "01")
    for path in (abandoned, fresh):
        path.write_bytes(b"half an upload")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(abandoned, (two_days_ago, two_days_ago))
    sweep_spool(database, settings)
    assert (abandoned.exists(), fresh.exists()) == (False, True)


def test_a_run_that_is_due_is_requested(database: Database, settings: Settings, tmp_path: Path) -> None:
    due = settings.model_copy(update={"retrain_after_ratings": 20})
    retrain_by_schedule(database, due)  # there is nothing to train on yet
    store_tastes(database)
    retrain_by_schedule(database, due)
    with database.reading() as session:
        (run,) = requests.page(session, limit=9).items
    assert (run.trigger, run.state) == ("schedule", "queued")
    assert [chore.run for chore in CHORES] == [sweep_spool, retrain_by_schedule]

"""A process that races others for jobs, storing an effect with each end.

Run as `python racer.py DATABASE_URL NAME START_FILE`: it begins when that file appears,
so that all begin at once. It imports the queue alone, so that twenty of these start
quickly.
"""

import sys
import time
from pathlib import Path

from app.errors import Unavailable
from app.jobs import queue as jobs
from app.storage.database import Database
from app.storage.tables import User


def main() -> None:
    url, name, start = sys.argv[1:]
    database = Database(url, pool_size=2, timeout=60)
    Path(f"{start}.{name}").touch()
    while not Path(start).exists():
        time.sleep(0.01)
    while True:
        try:
            with database.writing() as session:
                job = jobs.claim(session, ["quick"], name)
            if job is None:
                break
            with database.writing() as session:
                session.add(User(user_id=f"effect-{job.job_id}-{job.attempt}-{name}", created_at=jobs.now()))
                session.flush()
                jobs.finish(session, job.job_id, job.attempt, "succeeded")
        except Unavailable:
            time.sleep(0.05)
    database.close()


if __name__ == "__main__":
    main()

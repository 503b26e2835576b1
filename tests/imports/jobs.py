"""Imports as jobs: submitted, claimed, run and looked at."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.imports import requests
from app.imports import run as imports
from app.imports.requests import ImportState
from app.imports.spool import Spool, SpooledFile
from app.jobs import queue as jobs
from app.jobs.held import HeldJob
from app.jobs.rescuer import rescue_from
from app.ratings import read
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Movie

WORKER = "a worker"


def ratings_csv(n_rows: int, *, bad: tuple[int, ...] = ()) -> bytes:
    """Distinct pairs; the rows numbered in `bad`, from 0, have too many stars."""
    return b"userId,movieId,rating,timestamp\n" + b"".join(
        b"%d,%d,%s,%d\n" % (n % 7, n, b"9" if n in bad else b"3.5", 1_000_000 + n) for n in range(n_rows)
    )


def upload_of(settings: Settings, blocks: Iterable[bytes]) -> SpooledFile:
    with Spool(settings) as upload:
        for block in blocks:
            upload.write(block)
        return upload.close()


def submit(database: Database, settings: Settings, content: bytes, **options: Any) -> int:
    spooled = upload_of(settings, [content])
    with database.writing() as session:
        return requests.submit(session, spooled, **options).import_id


def claim(database: Database) -> HeldJob:
    with database.writing() as session:
        job = jobs.claim(session, [requests.JOB_KIND], WORKER)
        assert job is not None
        return HeldJob(database, job)


def rescue(database: Database) -> None:
    """What happens to the job of a worker that has died."""
    with database.writing() as session:
        rescue_from(session, WORKER)


def run(database: Database, settings: Settings) -> HeldJob:
    held = claim(database)
    imports.run(held, database, settings)
    return held


def view(database: Database, import_id: int) -> ImportState:
    with database.reading() as session:
        return requests.get(session, import_id)


def n_ratings(database: Database) -> int:
    with database.reading() as session:
        return read.count(session)


def everything(database: Database) -> tuple[list[Any], list[Any]]:
    with database.reading() as session:
        movies = session.execute(
            select(Movie.movie_id, Movie.title, Movie.year, Movie.genres).order_by(Movie.movie_id)
        )
        return sorted(read.export(session)), [tuple(row) for row in movies]


def spooled_files(settings: Settings) -> list[Path]:
    return list(settings.spool_dir.iterdir()) if settings.spool_dir.exists() else []


class Killed(BaseException):
    """The process is gone: nothing after this line runs."""

"""Imports that are killed, taken over, released or cancelled; on both databases."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select, update

from app.catalogue import movies as catalogue
from app.errors import LostJob, Unavailable
from app.imports import compression as packed_files
from app.imports import run as imports
from app.jobs import queue as jobs
from app.jobs.held import JobCancelled, JobReleased
from app.ratings import read
from app.ratings import store as ratings
from app.ratings.batch import Counts, RatingBatch
from app.ratings.store import Upserted
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Import, Movie, Rating, User
from tests.imports.jobs import Killed, claim, n_ratings, ratings_csv, rescue, run, spooled_files, submit, view


def test_a_killed_import_counts_popularity_all_the_same(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    content = "user,movie,rating\n" + "".join(f"{n},{n % 3},3\n" for n in range(30))
    submit(database, settings, content.encode())
    with monkeypatch.context() as patch:
        failing_at(3, "before", patch, Killed)
        patch.setattr(ratings, "add_popularity", lambda *_: None)
        with pytest.raises(Killed):
            run(database, settings)
    rescue(database)
    run(database, settings)
    with database.reading() as session:
        assert session.scalars(select(Movie.n_ratings)).all() == [10, 10, 10]


@pytest.mark.parametrize("end", ["cancelled while it waits", "cancelled while it runs", "changed"])
def test_a_killed_import_that_is_given_up_counts_popularity_too(
    end: str, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    content = "user,movie,rating\n" + "".join(f"{n},{n % 3},3\n" for n in range(30))
    import_id = submit(database, settings, content.encode())
    with monkeypatch.context() as patch:
        failing_at(4, "before", patch, Killed)
        patch.setattr(ratings, "add_popularity", lambda *_: None)
        with pytest.raises(Killed):
            run(database, settings)
    rescue(database)
    job_id = view(database, import_id).job_id
    if end == "cancelled while it waits":
        with database.writing() as session:
            jobs.request_cancel(session, job_id)
        another = submit(database, settings, ratings_csv(3))
        held = claim(database)
        assert imports.clean_spool(settings, database) == 0, "the other one still adds its own"
        imports.run(held, database, settings)
        assert view(database, another).state == "succeeded"
        assert imports.clean_spool(settings, database) == 1
    elif end == "cancelled while it runs":
        held = claim(database)
        with database.writing() as session:
            jobs.request_cancel(session, job_id)
        held.beat()
        with pytest.raises(JobCancelled):
            imports.run(held, database, settings)
    else:
        [path] = spooled_files(settings)
        path.write_bytes(content.encode().replace(b"25,1,3", b"25,1,9"))
        run(database, settings)
        assert view(database, import_id).state == "failed"
    assert spooled_files(settings) == []
    with database.reading() as session:
        assert catalogue.uncounted_ratings(session) == {}
        assert session.scalar(select(func.sum(Movie.n_ratings))) == n_ratings(database) > 20


FILE_ROWS = 60

FILE_BAD = (0, 13, 14, 59)


def failing_at(
    number: int, when: str, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], BaseException]
) -> None:
    """Let the n-th slice fail: before its rows are written, after, or after commit."""
    really_store = imports._Slice.store
    really_writing = Database.writing
    passes = 0

    def store(piece: imports._Slice, *arguments: Any) -> Upserted:
        nonlocal passes
        passes += 1
        if passes == number and when == "before":
            raise failure()
        upserted = really_store(piece, *arguments)
        if passes == number and when == "written":
            raise failure()
        return upserted

    @contextmanager
    def writing(self: Database) -> Any:
        nonlocal passes
        with really_writing(self) as session:
            yield session
        if passes == number and when == "committed":
            passes += 1
            raise failure()

    monkeypatch.setattr(imports._Slice, "store", store)
    monkeypatch.setattr(Database, "writing", writing)


@pytest.mark.parametrize("when", ["before", "written", "committed"])
def test_killed_at_any_slice_and_run_again_the_counts_are_exact(
    when: str, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    monkeypatch.setattr(packed_files, "BLOCK_BYTES", 300)
    content = ratings_csv(FILE_ROWS, bad=FILE_BAD)
    number = 0
    while True:
        number += 1
        with database.writing() as session:
            for table in (Rating, User, Movie):
                session.execute(delete(table))
        import_id = submit(database, settings, content, on_error="skip")
        with monkeypatch.context() as patch:
            failing_at(number, when, patch, Killed)
            try:
                run(database, settings)
                was_killed = False
            except Killed:
                was_killed = True
        if was_killed:
            assert len(spooled_files(settings)) == 1, "the file is kept for the next attempt"
            assert view(database, import_id).rows < FILE_ROWS or when == "committed"
            rescue(database)
            run(database, settings)
        state = view(database, import_id)
        assert state.state == "succeeded"
        assert state.counts == Counts(inserted=FILE_ROWS - len(FILE_BAD), rejected=len(FILE_BAD))
        assert state.rows == FILE_ROWS
        assert len(state.errors) == len(FILE_BAD)
        assert n_ratings(database) == FILE_ROWS - len(FILE_BAD)
        assert spooled_files(settings) == []
        if not was_killed:
            break
    assert number > 8


def test_rows_a_second_are_those_of_all_attempts_together(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    import_id = submit(database, settings, ratings_csv(FILE_ROWS))
    with monkeypatch.context() as patch:
        failing_at(4, "before", patch, Killed)
        with pytest.raises(Killed):
            run(database, settings)
    killed = view(database, import_id)
    assert killed.rows == 21
    assert killed.rows_per_second
    rescue(database)
    assert view(database, import_id).rows_per_second == killed.rows_per_second, "waiting is no work"
    with database.writing() as session:  # as if the first attempt had been slow
        session.execute(update(Import).values(seconds=100.0))
    assert view(database, import_id).rows_per_second == 0.2
    run(database, settings)
    done = view(database, import_id)
    assert (done.state, done.rows) == ("succeeded", FILE_ROWS)
    assert done.rows_per_second is not None
    assert 0.1 < done.rows_per_second <= FILE_ROWS / 100


@pytest.mark.parametrize("when", ["before", "written", "committed"])
def test_a_database_that_is_away_for_a_while_is_waited_for(
    when: str, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a lost commit, too, when it is unknown whether it happened."""
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    monkeypatch.setattr(imports, "PATIENCE", (0.0, 0.0))
    import_id = submit(database, settings, ratings_csv(30))
    with monkeypatch.context() as patch:
        failing_at(3, when, patch, lambda: Unavailable("away"))
        run(database, settings)
    assert view(database, import_id).counts == Counts(inserted=30)


def test_a_database_that_stays_away_fails_the_attempt_and_keeps_the_file(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "PATIENCE", (0.0, 0.0))
    submit(database, settings, ratings_csv(30))

    def away(*_: object) -> Upserted:
        raise Unavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(imports._Slice, "store", away)
        with pytest.raises(Unavailable):
            run(database, settings)
    assert len(spooled_files(settings)) == 1


def test_an_attempt_that_was_taken_over_stores_nothing_more(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    import_id = submit(database, settings, ratings_csv(30))
    paused = claim(database)
    really_check = paused.check
    checks = 0

    def check(progress: float | None = None) -> None:
        nonlocal checks
        checks += 1
        if checks == 5:  # in the middle of storing: the worker is believed dead, another one takes over
            rescue(database)
            run(database, settings)
            shutil.copy(copy, settings.spool_dir / copied.name)
        really_check(progress)

    [copied] = spooled_files(settings)
    copy = settings.spool_dir.parent / "copy"
    shutil.copy(copied, copy)
    monkeypatch.setattr(paused, "check", check)
    with pytest.raises(LostJob):
        imports.run(paused, database, settings)
    assert checks >= 5
    assert view(database, import_id).counts == Counts(inserted=30)
    assert view(database, import_id).state == "succeeded"


def test_an_attempt_that_was_given_up_for_dead_stores_not_one_slice_more(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    import_id = submit(database, settings, ratings_csv(30))
    paused = claim(database)
    really_store = imports._Slice.store

    def store(piece: imports._Slice, session: Any, *arguments: Any) -> Upserted:
        if piece.start == 14:
            session.rollback()  # SQLite's one write lock is not to be waited for
            rescue(database)
        return really_store(piece, session, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(imports._Slice, "store", store)
        with pytest.raises(LostJob):
            imports.run(paused, database, settings)
    assert n_ratings(database) == view(database, import_id).rows == 14
    run(database, settings)
    assert view(database, import_id).counts == Counts(inserted=30)


@pytest.mark.parametrize("state", ["cancelled", "released"])
def test_a_stopped_import_states_the_rows_applied(
    state: str, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    import_id = submit(database, settings, ratings_csv(30))
    held = claim(database)
    really_store = imports._Slice.store

    def store(piece: imports._Slice, *arguments: Any) -> Upserted:
        if piece.start == 7:
            held.cancel() if state == "cancelled" else held.give_back()
        return really_store(piece, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(imports._Slice, "store", store)
        with pytest.raises(JobCancelled if state == "cancelled" else JobReleased):
            imports.run(held, database, settings)
    assert view(database, import_id).counts == Counts(inserted=14)
    assert n_ratings(database) == 14
    if state == "cancelled":
        assert spooled_files(settings) == []
        return
    with database.writing() as session:
        jobs.release(session, held.job_id, held.attempt)
    run(database, settings)
    assert view(database, import_id).counts == Counts(inserted=30)


def test_two_imports_and_live_writes_at_once_lose_nothing(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 50)
    forward = [f"{n % 13},{n % 31},{1 + n % 4},{n}\n" for n in range(800)]
    header = "user,movie,rating,time\n"
    both = [
        submit(database, settings, (header + "".join(lines)).encode())
        for lines in (forward, [line.replace("\n", "0\n") for line in forward[::-1]])
    ]
    failures: list[BaseException] = []

    def work(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    def live() -> None:
        for n in range(40):
            with database.writing() as session:
                batch = RatingBatch.of_columns(
                    ["live", str(n % 13)], [str(n), str(n % 31)],
                    np.array([3.0, 5.0]), np.array([1, 10**12 + n]),
                )  # fmt: skip
                ratings.upsert(session, batch, received_at=datetime.now(UTC))
            time.sleep(0.005)

    threads = [
        threading.Thread(target=work, args=(task,))
        for task in (lambda: run(database, settings), lambda: run(database, settings), live)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for import_id in both:
        state = view(database, import_id)
        assert (state.state, state.rows, state.counts.total) == ("succeeded", 800, 800)
    with database.reading() as session:
        assert len(read.of_user(session, "live")) == 40
        pairs = {(n % 13, n % 31) for n in range(800)} | {(n % 13, n % 31) for n in range(40)}
        assert read.count(session) == 40 + len(pairs)

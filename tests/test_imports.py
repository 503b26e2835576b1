"""Imports, from the spooled file to the rows: killed, repeated, cancelled, refused; on both databases."""

import csv
import errno
import gzip
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app import catalogue, imports, jobs, packed_files, ratings
from app.catalogue import MovieEntry
from app.database import Database
from app.errors import InvalidInput, LostJob, NotFound, StorageFull, TooLarge, Unavailable
from app.imports import ImportView, Spool, SpooledFile
from app.jobs import HeldJob, JobCancelled, JobReleased
from app.ratings import Counts, RatingBatch
from app.settings import Settings
from app.tables import Import, Movie, Rating, User, to_microseconds

WORKER = "a worker"


def ratings_csv(n_rows: int, *, bad: tuple[int, ...] = ()) -> bytes:
    """Distinct pairs; the rows numbered in `bad`, from 0, have too many stars."""
    return b"userId,movieId,rating,timestamp\n" + b"".join(
        b"%d,%d,%s,%d\n" % (n % 7, n, b"9" if n in bad else b"3.5", 1_000_000 + n) for n in range(n_rows)
    )


def submit(database: Database, settings: Settings, content: bytes, **options: Any) -> int:
    spooled = imports.spool(settings, [content])
    with database.writing() as session:
        return imports.submit(session, spooled, **options).import_id


def claim(database: Database) -> HeldJob:
    with database.writing() as session:
        job = jobs.claim(session, [imports.JOB_KIND], WORKER)
        assert job is not None
        return HeldJob(database, job)


def rescue(database: Database) -> None:
    """What happens to the job of a worker that has died."""
    with database.writing() as session:
        jobs.rescue_from(session, WORKER)


def run(database: Database, settings: Settings) -> HeldJob:
    held = claim(database)
    imports.run(held, database, settings)
    return held


def view(database: Database, import_id: int) -> ImportView:
    with database.reading() as session:
        return imports.get(session, import_id)


def n_ratings(database: Database) -> int:
    with database.reading() as session:
        return ratings.count(session)


def everything(database: Database) -> tuple[list[Any], list[Any]]:
    with database.reading() as session:
        movies = session.execute(
            select(Movie.movie_id, Movie.title, Movie.year, Movie.genres).order_by(Movie.movie_id)
        )
        return sorted(ratings.export(session)), [tuple(row) for row in movies]


def spooled_files(settings: Settings) -> list[Path]:
    return list(settings.spool_dir.iterdir()) if settings.spool_dir.exists() else []


class Killed(BaseException):
    """The process is gone: nothing after this line runs."""


# The spool.


@pytest.fixture
def spool_settings(tmp_path: Path) -> Settings:
    return Settings(spool_dir=tmp_path / "deep" / "spool", upload_limit=1000)


def test_a_spooled_file_is_private_and_unguessable(spool_settings: Settings) -> None:
    spooled = imports.spool(spool_settings, [b"a" * 400, b"", b"b" * 600])
    assert spooled.path.read_bytes() == b"a" * 400 + b"b" * 600
    assert spooled.n_bytes == 1000
    assert spooled.path.stat().st_mode & 0o777 == 0o600
    assert imports.SPOOL_NAME.fullmatch(spooled.path.name)
    assert imports.spool(spool_settings, []).path != spooled.path
    spooled.discard()
    spooled.discard()
    assert len(spooled_files(spool_settings)) == 1


def test_an_upload_over_the_limit_leaves_nothing(spool_settings: Settings) -> None:
    with pytest.raises(TooLarge, match="1,000 bytes"):
        imports.spool(spool_settings, [b"a" * 600, b"b" * 401, b"never read"])
    assert spooled_files(spool_settings) == []


def test_an_upload_that_breaks_off_leaves_nothing(spool_settings: Settings) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"a"
        assert len(spooled_files(spool_settings)) == 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        imports.spool(spool_settings, blocks())
    assert spooled_files(spool_settings) == []
    upload = Spool(spool_settings)
    upload.discard()
    upload.discard()
    assert spooled_files(spool_settings) == []


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, StorageFull), (errno.EIO, Unavailable)])
def test_a_disk_that_refuses_leaves_nothing(
    code: int, expected: type[Exception], spool_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(expected):
        imports.spool(spool_settings, [b"a"])
    assert spooled_files(spool_settings) == []


def test_a_truly_full_disk_is_reported(spool_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    really_open = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0: really_open("/dev/full", os.O_WRONLY))
    with pytest.raises(StorageFull, match="no space left"):
        imports.spool(spool_settings, [b"a" * 900])


def test_an_upload_leaves_the_database_its_space(
    spool_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = spool_settings.model_copy(update={"disk_reserve": 10_000})
    free = [10_900, 10_900, 9_999]
    monkeypatch.setattr(imports, "CHECK_SPACE_EVERY", 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    with pytest.raises(StorageFull, match="HARMONIUM_DISK_RESERVE"):
        Spool(settings, announced=901)
    assert spooled_files(settings) == []
    with Spool(settings, announced=900) as upload:
        upload.write(b"a" * 99)
        with pytest.raises(StorageFull):  # somebody else filled the disk meanwhile
            upload.write(b"a")
    assert spooled_files(settings) == []
    assert free == []


def test_a_spool_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="HARMONIUM_SPOOL_DIR"):
        Spool(Settings(spool_dir=tmp_path / "file" / "spool"))


def test_rubbish_is_swept_from_the_spool_and_nothing_else(database: Database, settings: Settings) -> None:
    waiting = submit(database, settings, ratings_csv(3))
    [waiting_file] = spooled_files(settings)
    ended = submit(database, settings, ratings_csv(3))
    [ended_file] = set(spooled_files(settings)) - {waiting_file}
    with database.writing() as session:
        jobs.request_cancel(session, imports.get(session, ended).job_id)
    young = imports.spool(settings, [b"still being sent"]).path
    old = imports.spool(settings, [b"abandoned"]).path
    foreign = settings.spool_dir / "notes.txt"
    foreign.touch()
    for path in (waiting_file, old, foreign):
        os.utime(path, (0, 0))
    assert imports.clean_spool(settings, database) == 2
    assert set(spooled_files(settings)) == {waiting_file, young, foreign}
    assert not ended_file.exists()
    assert view(database, waiting).state == "queued"


def test_sweeping_a_spool_that_is_not_there_does_nothing(database: Database, settings: Settings) -> None:
    assert imports.clean_spool(settings, database) == 0


# The job.


def test_an_import_from_upload_to_rows(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, ratings_csv(120), file_name="C:\\data\\../my\x00 ratings.csv")
    before = view(database, import_id)
    assert (before.state, before.progress, before.kind, before.format) == ("queued", 0.0, "auto", "auto")
    assert before.file_name == "my ratings.csv"
    assert before.file_bytes == len(ratings_csv(120))
    held = run(database, settings)
    assert held.is_finished
    after = view(database, import_id)
    assert (after.state, after.progress, after.kind, after.format) == ("succeeded", 1.0, "ratings", "csv")
    assert after.counts == Counts(inserted=120)
    assert after.rows == after.counts.total == 120
    assert before.rows_per_second is None
    assert after.rows_per_second
    assert after.errors == ()
    assert n_ratings(database) == 120
    assert spooled_files(settings) == []
    with database.reading() as session:
        result = jobs.get(session, after.job_id).result
    assert result == {"kind": "ratings", "format": "csv", "rows": 120, **Counts(inserted=120).as_dict()}


def test_the_same_file_again_changes_nothing(database: Database, settings: Settings) -> None:
    submit(database, settings, ratings_csv(50))
    run(database, settings)
    first = everything(database)
    import_id = submit(database, settings, gzip.compress(ratings_csv(50)))
    run(database, settings)
    assert view(database, import_id).counts == Counts(unchanged=50)
    assert everything(database) == first


def test_the_newest_of_a_pair_wins_inside_and_across_files(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = b"user,movie,rating,time\n"
    for slice_rows in (2, 50_000):
        monkeypatch.setattr(imports, "SLICE_ROWS", slice_rows)
        import_id = submit(database, settings, header + b"u,m,1,100\nu,m,5,300\nu,m,2,200\nu,n,4,100\n")
        run(database, settings)
        assert view(database, import_id).counts.total == 4
        with database.reading() as session:
            assert [one.stars for one in ratings.of_user(session, "u")] == [5.0, 4.0]
    older = submit(database, settings, header + b"u,m,3,299\n")
    run(database, settings)
    assert view(database, older).counts == Counts(superseded=1)


def test_rows_without_a_time_take_that_of_the_upload(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, b"user,movie,rating\nu,m,4\n")
    created_at = view(database, import_id).created_at
    run(database, settings)
    with database.reading() as session:
        assert [one.rated_at for one in ratings.of_user(session, "u")] == [created_at]


def test_movies_are_found_in_the_order_of_their_ratings(database: Database, settings: Settings) -> None:
    submit(database, settings, b"movieId,title\n1,Heat One\n2,Heat Two\n3,Heat Three\n")
    run(database, settings)
    rows = [(f"u{user}", movie) for movie, n_users in ((1, 2), (2, 5), (3, 1)) for user in range(n_users)]
    content = "user,movie,rating\n" + "".join(f"{user},{movie},3\n" for user, movie in rows)
    submit(database, settings, content.encode())
    run(database, settings)

    def found() -> list[tuple[str, int]]:
        with database.reading() as session:
            movies, _ = catalogue.page(session, query="heat", limit=10)
            return [(movie.movie_id, movie.n_ratings) for movie in movies]

    assert found() == [("2", 5), ("1", 2), ("3", 1)]
    with database.writing() as session:
        ratings.erase_user(session, "u0")
    assert found() == [("2", 4), ("1", 1), ("3", 0)]
    for user in ("u7", "u8"):
        with database.writing() as session:
            batch = RatingBatch.of([(user, "3", 3.0, None), ("u1", "2", 5.0, None)])
            ratings.store(session, batch, received_at=datetime.now(UTC))
    with database.writing() as session:
        ratings.remove(session, "u1", "1")
    submit(database, settings, content.encode())
    run(database, settings)
    assert found() == [("2", 5), ("3", 3), ("1", 2)]


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


def test_ratings_that_are_stored_while_all_are_counted_count_once(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(database, settings, b"user,movie,rating\nu,m,4\n")
    run(database, settings)
    with database.writing() as session:
        session.execute(update(Movie).values(n_ratings=0))
    really_count = catalogue.uncounted_ratings

    def count(session: Session) -> dict[int, int]:
        found = really_count(session)
        with database.writing() as other:
            batch = RatingBatch.of([("late", "m", 3.0, None)])
            ratings.store(other, batch, received_at=datetime.now(UTC))
        return found

    monkeypatch.setattr(catalogue, "uncounted_ratings", count)
    imports._count_popularity(database)
    with database.reading() as session:
        assert catalogue.get(session, "m").n_ratings == 2


def test_movies_complete_what_ratings_have_named(database: Database, settings: Settings) -> None:
    submit(database, settings, b"user,movie,rating\nu,1,4\n")
    run(database, settings)
    import_id = submit(
        database, settings, "1::Léon (1994)::Drama\n2::Other, The (1990)::War\n".encode("latin-1")
    )
    run(database, settings)
    assert view(database, import_id).counts == Counts(inserted=1, updated=1)
    with database.reading() as session:
        assert (catalogue.get(session, "1").title, catalogue.get(session, "1").year) == ("Léon", 1994)
        assert catalogue.get(session, "2").title == "The Other"


@pytest.mark.parametrize("place", [0, 25, 49])
def test_a_file_with_one_bad_row_stores_nothing(place: int, database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, ratings_csv(50, bad=(place,)))
    assert run(database, settings).is_finished
    found = view(database, import_id)
    assert found.state == "failed"
    assert (found.rows, found.counts) == (50, Counts(rejected=1))
    assert [error.location for error in found.errors] == [f"line {place + 2}"]
    assert "1 of 50 rows" in (found.error or "")
    assert everything(database) == ([], [])
    assert spooled_files(settings) == []


def test_bad_rows_may_be_skipped(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    bad = tuple(range(0, 300, 2))
    import_id = submit(database, settings, ratings_csv(400, bad=bad), on_error="skip")
    run(database, settings)
    found = view(database, import_id)
    assert found.state == "succeeded"
    assert found.counts == Counts(inserted=250, rejected=150)
    assert found.rows == 400
    assert len(found.errors) == 100
    assert found.errors[0].location == "line 2"
    assert n_ratings(database) == 250


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\x01\x02", "no known format"),
        (gzip.compress(ratings_csv(5000))[:-50], "cut off"),
        (gzip.compress(ratings_csv(5000)), "HARMONIUM_UNPACKED_LIMIT"),
    ],
)
def test_a_file_that_cannot_be_read_fails_for_good(
    content: bytes, message: str, database: Database, settings: Settings
) -> None:
    if message == "HARMONIUM_UNPACKED_LIMIT":
        settings = settings.model_copy(update={"unpacked_limit": 50_000})
    import_id = submit(database, settings, content)
    run(database, settings)
    found = view(database, import_id)
    assert found.state == "failed"
    assert message in (found.error or "")
    assert found.counts == Counts()
    assert n_ratings(database) == 0
    assert spooled_files(settings) == []


def test_a_spooled_file_that_is_gone_fails_with_a_reason(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, ratings_csv(5))
    shutil.rmtree(settings.spool_dir)
    run(database, settings)
    assert "HARMONIUM_SPOOL_DIR" in (view(database, import_id).error or "")


def test_options_that_do_not_exist_are_refused(database: Database, tmp_path: Path) -> None:
    spooled = SpooledFile(tmp_path / "file", 0)
    options: list[dict[str, Any]] = [{"kind": "songs"}, {"format": "xlsx"}, {"on_error": "guess"}]
    for wrong in options:
        with database.writing() as session, pytest.raises(InvalidInput) as caught:
            imports.submit(session, spooled, **wrong)
        assert caught.value.errors[0].location == next(iter(wrong))


def test_an_unknown_import_is_not_found(database: Database) -> None:
    for import_id in (1, 0, -1, 2**63, 10**40):
        with database.reading() as session, pytest.raises(NotFound):
            imports.get(session, import_id)


def test_imports_are_paged_newest_first(database: Database, settings: Settings) -> None:
    made = [submit(database, settings, ratings_csv(1)) for _ in range(5)]
    seen: list[int] = []
    cursor = None
    with database.reading() as session:
        while True:
            items, cursor = imports.page(session, limit=2, cursor=cursor)
            seen += [item.import_id for item in items]
            if cursor is None:
                break
    assert seen == made[::-1]


def test_progress_only_grows(database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 10)
    monkeypatch.setattr(packed_files, "BLOCK_BYTES", 400)
    submit(database, settings, ratings_csv(100))
    held = claim(database)
    seen: list[float] = []
    really_check = held.check

    def check(progress: float | None = None) -> None:
        if progress is not None:
            seen.append(progress)
        really_check(progress)

    monkeypatch.setattr(held, "check", check)
    imports.run(held, database, settings)
    assert seen == sorted(seen)
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    assert len(set(seen)) > 10


# Killed, taken over, released, cancelled.

FILE_ROWS = 60
FILE_BAD = (0, 13, 14, 59)


def failing_at(
    number: int, when: str, monkeypatch: pytest.MonkeyPatch, failure: Callable[[], BaseException]
) -> None:
    """Let the n-th slice fail: before its rows are written, after that, or after the commit."""
    really_store = imports._Slice.store
    really_writing = Database.writing
    passes = 0

    def store(piece: imports._Slice, *arguments: Any) -> Counts:
        nonlocal passes
        passes += 1
        if passes == number and when == "before":
            raise failure()
        counts = really_store(piece, *arguments)
        if passes == number and when == "written":
            raise failure()
        return counts

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
        found = view(database, import_id)
        assert found.state == "succeeded"
        assert found.counts == Counts(inserted=FILE_ROWS - len(FILE_BAD), rejected=len(FILE_BAD))
        assert found.rows == FILE_ROWS
        assert len(found.errors) == len(FILE_BAD)
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
    """After a lost commit, too, when nobody knows whether it happened."""
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

    def away(*_: object) -> Counts:
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

    def store(piece: imports._Slice, session: Any, *arguments: Any) -> Counts:
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

    def store(piece: imports._Slice, *arguments: Any) -> Counts:
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
                one = RatingBatch.of_columns(
                    ["live", str(n % 13)], [str(n), str(n % 31)],
                    np.array([3.0, 5.0]), np.array([1, 10**12 + n]),
                )  # fmt: skip
                ratings.store(session, one, received_at=datetime.now(UTC))
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
        found = view(database, import_id)
        assert (found.state, found.rows, found.counts.total) == ("succeeded", 800, 800)
    with database.reading() as session:
        assert len(ratings.of_user(session, "live")) == 40
        pairs = {(n % 13, n % 31) for n in range(800)} | {(n % 13, n % 31) for n in range(40)}
        assert ratings.count(session) == 40 + len(pairs)


# In the foreground.


def test_import_file_reads_in_place_and_reports(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(ratings_csv(100))
    seen: list[float] = []
    result = imports.import_file(database, settings, path, on_progress=seen.append)
    assert result == {
        "kind": "ratings", "format": "csv", "rows": 100, **Counts(inserted=100).as_dict(), "errors": [],
    }  # fmt: skip
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert path.exists()
    assert spooled_files(settings) == []
    again = imports.import_file(database, settings, path)
    assert again["unchanged"] == 100


def test_import_file_refuses_or_skips_bad_rows(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(ratings_csv(10, bad=(4,)))
    with pytest.raises(InvalidInput, match="1 of 10 rows") as caught:
        imports.import_file(database, settings, path)
    assert [error.location for error in caught.value.errors] == ["line 6"]
    assert n_ratings(database) == 0
    result = imports.import_file(database, settings, path, on_error="skip")
    assert (result["inserted"], result["rejected"]) == (9, 1)
    assert result["errors"][0]["location"] == "line 6"


def test_a_file_is_read_one_chunk_ahead_in_a_thread() -> None:
    made: list[int] = []
    threads: set[str] = set()

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            threads.add(threading.current_thread().name)
            yield number
        raise ValueError("the end is torn off")

    taken: list[int] = []

    def take_all() -> None:
        for number in imports._ahead(items()):
            taken.append(number)
            assert len(made) <= number + 2

    with pytest.raises(ValueError, match="torn off"):
        take_all()
    assert taken == [0, 1, 2, 3]
    assert threading.current_thread().name not in threads
    assert len(threads) == 1

    made.clear()
    some = imports._ahead(items())
    assert next(some) == 0
    some.close()  # type: ignore[attr-defined]
    assert made in ([0], [0, 1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("import-reader")]


def test_a_file_that_changes_under_our_hands_is_noticed(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(ratings_csv(10))

    def change(share: float) -> None:
        if share == imports.CHECKING_SHARE:
            path.write_bytes(ratings_csv(10, bad=(4,)))

    with pytest.raises(InvalidInput, match="has changed"):
        imports.import_file(database, settings, path, on_progress=change)


def test_what_is_exported_comes_back_equal(database: Database, settings: Settings, tmp_path: Path) -> None:
    start = datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    batch = RatingBatch.of_columns(
        ["a,b", 'say "x"', "é", "007"], ["1", "2", "3", "1.0"],
        np.array([0.5, 1 / 3 + 1, 4.35, 5.0]),
        np.array([to_microseconds(start + timedelta(days=n)) for n in range(4)]),
    )  # fmt: skip
    with database.writing() as session:
        ratings.store(session, batch, received_at=start)
    first = everything(database)
    path = tmp_path / "export.csv"
    with path.open("w", newline="") as file, database.reading() as session:
        writer = csv.writer(file)
        writer.writerow(["user_id", "movie_id", "stars", "rated_at"])
        for user, movie, stars, rated_at in ratings.export(session):
            writer.writerow([user, movie, repr(stars), rated_at.isoformat()])
    with database.writing() as session:
        session.execute(delete(Rating))
        session.execute(delete(User))
    assert imports.import_file(database, settings, path)["inserted"] == 4
    assert everything(database) == first


def test_an_exported_catalogue_comes_back_equal(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    films = [
        MovieEntry("1", "Heat, The (2013)", None, ("Children's", "Sci-Fi, Space")),
        MovieEntry("2", 'Say "x", ｆｕｌｌ', 1999, ("War",), "tt0000001", "17"),
        MovieEntry("a,b", "", None, ()),
    ]
    with database.writing() as session:
        catalogue.store(session, films, now=datetime.now(UTC))
    first = everything(database)
    path = tmp_path / "movies.csv"
    with path.open("w", newline="") as file, database.reading() as session:
        file.writelines(catalogue.csv_lines(session))
    assert imports.import_file(database, settings, path)["unchanged"] == 3
    with database.writing() as session:
        session.execute(delete(Movie))
    result = imports.import_file(database, settings, path)
    assert (result["kind"], result["inserted"]) == ("movies", 3)
    assert everything(database) == first
    with database.reading() as session:
        assert catalogue.get(session, "2").imdb_id == "tt0000001"


# Real data, where it is.


def movielens_100k() -> Path | None:
    places = [Path(__file__).parent.parent.parent / "shared" / "data" / "ml-100k"]
    if given := os.environ.get("HARMONIUM_TEST_DATA"):
        places = [Path(given), Path(given) / "ml-100k"]
    return next((place for place in places if (place / "u.data").exists()), None)


def test_movielens_100k(database: Database, settings: Settings) -> None:
    folder = movielens_100k()
    if folder is None:
        pytest.skip("no MovieLens 100K: unpack it and set HARMONIUM_TEST_DATA to its folder")
    item = imports.import_file(database, settings, folder / "u.item")
    assert (item["format"], item["rows"], item["inserted"]) == ("u.item", 1682, 1682)
    data = imports.import_file(database, settings, folder / "u.data")
    assert (data["format"], data["rows"], data["inserted"]) == ("u.data", 100_000, 100_000)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Movie)) == 1682
        assert session.scalar(select(func.count()).select_from(Movie).where(Movie.year.is_(None))) == 1
        assert ratings.count(session) == 100_000
        titles = set(session.scalars(select(Movie.title)))
    assert {"The Usual Suspects", "Il Postino", "Queen Margot (La Reine Margot)", "L'Enfer"} <= titles
    assert not any(title.endswith((")", ", The")) and title[-5:-1].isdigit() for title in titles)
    assert imports.import_file(database, settings, folder / "u.item")["unchanged"] == 1682
    assert imports.import_file(database, settings, folder / "u.data")["unchanged"] == 100_000


def test_the_table_of_imports_is_what_submit_fills(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, ratings_csv(1))
    with database.reading() as session:
        record = session.get_one(Import, import_id)
        assert "/" not in record.spool_path, "API and worker may see the spool under different paths"
        assert record.created_at == imports.get(session, import_id).created_at

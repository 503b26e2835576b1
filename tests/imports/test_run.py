"""Imports, from the spool or in the foreground to the rows, on both databases."""

import csv
import gzip
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.catalogue import movies as catalogue
from app.catalogue import search
from app.catalogue.movies import MovieEntry
from app.errors import InvalidInput
from app.imports import compression as packed_files
from app.imports import requests
from app.imports import run as imports
from app.jobs import queue as jobs
from app.ratings import read
from app.ratings import store as ratings
from app.ratings.batch import Counts, RatingBatch
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Movie, Rating, User, to_microseconds
from tests.imports.jobs import (
    claim,
    everything,
    n_ratings,
    ratings_csv,
    run,
    spooled_files,
    submit,
    upload_of,
    view,
)


def test_rubbish_is_swept_from_the_spool_and_nothing_else(database: Database, settings: Settings) -> None:
    waiting = submit(database, settings, ratings_csv(3))
    [waiting_file] = spooled_files(settings)
    ended = submit(database, settings, ratings_csv(3))
    [ended_file] = set(spooled_files(settings)) - {waiting_file}
    with database.writing() as session:
        jobs.request_cancel(session, requests.get(session, ended).job_id)
    young = upload_of(settings, [b"still being sent"]).path
    old = upload_of(settings, [b"abandoned"]).path
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
    assert result == {"kind": "ratings", "format": "csv", "rows": 120, **asdict(Counts(inserted=120))}


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
            assert [rating.stars for rating in read.of_user(session, "u")] == [5.0, 4.0]
    older = submit(database, settings, header + b"u,m,3,299\n")
    run(database, settings)
    assert view(database, older).counts == Counts(superseded=1)


def test_rows_without_a_time_take_that_of_the_upload(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, b"user,movie,rating\nu,m,4\n")
    created_at = view(database, import_id).created_at
    run(database, settings)
    with database.reading() as session:
        assert [rating.rated_at for rating in read.of_user(session, "u")] == [created_at]


def test_movies_are_found_in_the_order_of_their_ratings(database: Database, settings: Settings) -> None:
    submit(database, settings, b"movieId,title\n1,Heat One\n2,Heat Two\n3,Heat Three\n")
    run(database, settings)
    rows = [(f"u{user}", movie) for movie, n_users in ((1, 2), (2, 5), (3, 1)) for user in range(n_users)]
    content = "user,movie,rating\n" + "".join(f"{user},{movie},3\n" for user, movie in rows)
    submit(database, settings, content.encode())
    run(database, settings)

    def by_popularity() -> list[tuple[str, int]]:
        with database.reading() as session:
            movies = search.page(session, query="heat", limit=10).items
            return [(movie.movie_id, movie.n_ratings) for movie in movies]

    assert by_popularity() == [("2", 5), ("1", 2), ("3", 1)]
    with database.writing() as session:
        ratings.erase_user(session, "u0")
    assert by_popularity() == [("2", 4), ("1", 1), ("3", 0)]
    for user in ("u7", "u8"):
        with database.writing() as session:
            batch = RatingBatch.of([(user, "3", 3.0, None), ("u1", "2", 5.0, None)])
            ratings.upsert(session, batch, received_at=datetime.now(UTC))
    with database.writing() as session:
        ratings.delete(session, "u1", "1")
    submit(database, settings, content.encode())
    run(database, settings)
    assert by_popularity() == [("2", 5), ("3", 3), ("1", 2)]


def test_ratings_that_are_stored_while_all_are_counted_count_once(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(database, settings, b"user,movie,rating\nu,m,4\n")
    run(database, settings)
    with database.writing() as session:
        session.execute(update(Movie).values(n_ratings=0))
    really_count = catalogue.uncounted_ratings

    def count(session: Session) -> dict[int, int]:
        missing = really_count(session)
        with database.writing() as other:
            batch = RatingBatch.of([("late", "m", 3.0, None)])
            ratings.upsert(other, batch, received_at=datetime.now(UTC))
        return missing

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
    state = view(database, import_id)
    assert state.state == "failed"
    assert (state.rows, state.counts) == (50, Counts(rejected=1))
    assert [error.location for error in state.errors] == [f"line {place + 2}"]
    assert "1 of 50 rows" in (state.error or "")
    assert everything(database) == ([], [])
    assert spooled_files(settings) == []


def test_bad_rows_may_be_skipped(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "SLICE_ROWS", 7)
    bad = tuple(range(0, 300, 2))
    import_id = submit(database, settings, ratings_csv(400, bad=bad), on_error="skip")
    run(database, settings)
    state = view(database, import_id)
    assert state.state == "succeeded"
    assert state.counts == Counts(inserted=250, rejected=150)
    assert state.rows == 400
    assert len(state.errors) == 100
    assert state.errors[0].location == "line 2"
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
    state = view(database, import_id)
    assert state.state == "failed"
    assert message in (state.error or "")
    assert state.counts == Counts()
    assert n_ratings(database) == 0
    assert spooled_files(settings) == []


def test_a_spooled_file_that_is_gone_fails_with_a_reason(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, ratings_csv(5))
    shutil.rmtree(settings.spool_dir)
    run(database, settings)
    assert "HARMONIUM_SPOOL_DIR" in (view(database, import_id).error or "")


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


def test_import_file_reads_in_place_and_reports(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(ratings_csv(100))
    seen: list[float] = []
    result = imports.import_file(database, settings, path, on_progress=seen.append)
    assert result == {
        "kind": "ratings", "format": "csv", "rows": 100, **asdict(Counts(inserted=100)), "errors": [],
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
        ratings.upsert(session, batch, received_at=start)
    first = everything(database)
    path = tmp_path / "export.csv"
    with path.open("w", newline="") as file, database.reading() as session:
        writer = csv.writer(file)
        writer.writerow(["user_id", "movie_id", "stars", "rated_at"])
        for user, movie, stars, rated_at in read.export(session):
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


def movielens_100k() -> Path | None:
    places = [Path(__file__).parents[3] / "shared" / "data" / "ml-100k"]
    if folder := os.environ.get("HARMONIUM_TEST_DATA"):
        places = [Path(folder), Path(folder) / "ml-100k"]
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
        assert read.count(session) == 100_000
        titles = set(session.scalars(select(Movie.title)))
    assert {"The Usual Suspects", "Il Postino", "Queen Margot (La Reine Margot)", "L'Enfer"} <= titles
    assert not any(title.endswith((")", ", The")) and title[-5:-1].isdigit() for title in titles)
    assert imports.import_file(database, settings, folder / "u.item")["unchanged"] == 1682
    assert imports.import_file(database, settings, folder / "u.data")["unchanged"] == 100_000

"""Upserts where the newest wins, with counts that add up; deletions."""

import threading
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select, text

from app.errors import NotFound, StorageFull, Unavailable
from app.ratings import read
from app.ratings import store as ratings
from app.ratings.batch import Counts
from app.storage.database import Database
from app.storage.tables import Rating, User
from tests.ratings.batches import EARLIER, LATER, NOW, Row, batch, store, stored


def test_new_ratings_are_inserted_and_read_back(database: Database) -> None:
    counts = store(
        database, ("ann", "heat", 4.5, EARLIER), ("ann", "alien", 2.0, None), ("bob", "heat", 3.3, None)
    )
    assert counts == Counts(inserted=3)
    assert stored(database) == [("alien", 2.0, NOW), ("heat", 4.5, EARLIER)]
    assert stored(database, "nobody") == []


@pytest.mark.parametrize(
    ("row", "counts", "left"),
    [
        (("ann", "heat", 2.0, LATER), Counts(updated=1), (2.0, LATER)),
        (("ann", "heat", 4.0, LATER), Counts(updated=1), (4.0, LATER)),
        (("ann", "heat", 4.0, NOW), Counts(unchanged=1), (4.0, NOW)),
        (("ann", "heat", 2.0, NOW), Counts(updated=1), (2.0, NOW)),
        (("ann", "heat", 2.0, EARLIER), Counts(superseded=1), (4.0, NOW)),
        (("ann", "heat", 4.0, EARLIER), Counts(superseded=1), (4.0, NOW)),
        (("ann", "heat", 4.0, None), Counts(unchanged=1), (4.0, NOW)),
        (("ann", "heat", 2.0, None), Counts(updated=1), (2.0, LATER)),
    ],
)
def test_the_newest_rating_of_a_pair_wins(
    database: Database, row: Row, counts: Counts, left: tuple[float, datetime]
) -> None:
    store(database, ("ann", "heat", 4.0, NOW))
    assert store(database, row, at=LATER) == counts
    assert stored(database) == [("heat", *left)]


def test_inside_one_batch_the_newest_wins_and_the_last_of_equals(database: Database) -> None:
    counts = store(
        database,
        ("ann", "heat", 1.0, LATER),
        ("ann", "heat", 2.0, EARLIER),
        ("ann", "alien", 3.0, NOW),
        ("ann", "alien", 5.0, NOW),
    )
    assert counts == Counts(inserted=2, superseded=2)
    assert stored(database) == [("alien", 5.0, NOW), ("heat", 1.0, LATER)]


def test_a_mixed_batch_is_counted_row_by_row(database: Database) -> None:
    store(
        database,
        ("ann", "a", 1.0, NOW),
        ("ann", "b", 2.0, NOW),
        ("ann", "c", 3.0, NOW),
        ("ann", "d", 4.0, NOW),
    )
    counts = store(
        database,
        ("ann", "a", 5.0, LATER),
        ("ann", "b", 5.0, EARLIER),
        ("ann", "c", 3.0, None),
        ("ann", "d", 4.0, NOW),
        ("ann", "e", 1.0, None),
        ("ann", "e", 2.0, EARLIER),
        at=LATER,
    )
    assert counts == Counts(inserted=1, updated=1, unchanged=2, superseded=2)
    assert counts.total == 6


@pytest.mark.parametrize("loaded_at_once", [1, 20, 1_000])
def test_many_batches_do_what_one_rating_at_a_time_would(
    loaded_at_once: int, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings, "LOADED_AT_ONCE", loaded_at_once)
    rng = np.random.default_rng(1)
    expected_rows: dict[tuple[str, str], tuple[float, datetime]] = {}
    for turn in range(6):
        received = NOW + timedelta(hours=turn)
        rows: list[Row] = []
        expected = dict.fromkeys(asdict(Counts()), 0)
        for number in rng.permutation(300)[:150].tolist():
            user, movie = f"u{number // 25}", f"m{number % 25}"
            stars = float(rng.integers(1, 4))
            time = None if rng.random() < 0.3 else NOW + timedelta(hours=int(rng.integers(-2, 8)))
            rows.append((user, movie, stars, time))
            at, known = time or received, expected_rows.get((user, movie))
            if known is None:
                became = "inserted"
            elif known == (stars, at) or (time is None and known[0] == stars):
                became = "unchanged"
            else:
                became = "superseded" if known[1] > at else "updated"
            expected[became] += 1
            if became in ("inserted", "updated"):
                expected_rows[user, movie] = (stars, at)
        with database.writing() as session:
            counts = ratings.upsert(session, batch(*rows), received_at=received)
        assert asdict(counts) == expected
    with database.reading() as session:
        stored_rows = {(user, movie): (stars, at) for user, movie, stars, at in read.export(session)}
        popular = dict(read.most_rated(session))
    assert stored_rows == expected_rows
    assert popular == Counter(movie for _, movie in expected_rows)


def test_a_database_that_is_full_or_goes_away_while_ratings_are_stored_says_so(database: Database) -> None:
    movies = [f"m{n}" for n in range(10_000)]
    store(database, *(("ann", movie, 4.0, NOW) for movie in movies))
    of_bob: list[Row] = [("bob", movie, 3.0, NOW) for movie in movies]

    def fill_the_disk() -> None:
        with database.writing() as session:
            pages = session.scalar(text("PRAGMA page_count")) or 0
            session.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
            ratings.upsert(session, batch(*of_bob), received_at=NOW)

    def go_away() -> None:
        with database.writing() as session:
            process = session.scalar(text("SELECT pg_backend_pid()"))
            with database.writing() as other:
                other.execute(text(f"SELECT pg_terminate_backend({process})"))
            ratings.upsert(session, batch(*of_bob), received_at=NOW)

    with pytest.raises(StorageFull if database.is_sqlite else Unavailable):
        (fill_the_disk if database.is_sqlite else go_away)()
    database.close()  # SQLite's limit is that of the connection
    assert stored(database, "bob") == []
    assert store(database, *of_bob) == Counts(inserted=len(of_bob))


def test_the_same_batch_again_changes_nothing(database: Database) -> None:
    rows: list[Row] = [(f"user{n % 7}", f"movie{n % 11}", 1.0 + n % 5, None) for n in range(77)]
    assert store(database, *rows) == Counts(inserted=77)
    assert store(database, *rows, at=LATER) == Counts(unchanged=77)


def test_stars_and_times_that_differ_in_the_last_digit_are_distinguished(database: Database) -> None:
    stars = [0.5, float(np.nextafter(0.5, 1)), 1 / 1.7, 3.3, 5.0, 70 / 3, 999.9, 1e3, 0.1 + 0.5, 4.0]
    others = [float(np.nextafter(number, 2)) for number in stars]
    long_ago = datetime(1890, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    moment = timedelta(microseconds=1)

    def rows(stars: list[float], later: timedelta = timedelta()) -> list[Row]:
        times = [long_ago, *[EARLIER] * 9]
        return [("ann", f"m{i}", number, times[i] + later) for i, number in enumerate(stars)]

    assert store(database, *rows(stars)) == Counts(inserted=10)
    assert store(database, *rows(stars)) == Counts(unchanged=10)
    assert store(database, *rows(others)) == Counts(updated=10)
    assert sorted(stars for _, stars, _ in stored(database)) == sorted(others)
    assert store(database, *rows(stars, -moment)) == Counts(superseded=10)
    assert store(database, *rows(others, moment)) == Counts(updated=10)
    assert store(database, *rows(others, moment)) == Counts(unchanged=10)


def test_opposed_batches_at_once_neither_deadlock_nor_lose_rows(database: Database) -> None:
    pairs = [(f"user{n % 20:02}", f"movie{n // 20:02}") for n in range(400)]
    failures: list[BaseException] = []
    totals: list[Counts] = []

    def write(number: int) -> None:
        order = pairs if number % 2 else pairs[::-1]
        try:
            for round_ in range(3):
                at = NOW + timedelta(seconds=10 * round_ + number)
                totals.append(store(database, *((user, movie, 3.0, at) for user, movie in order), at=at))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(counts.inserted for counts in totals) == 400
    assert all(counts.total == 400 and min(asdict(counts).values()) >= 0 for counts in totals)
    with database.reading() as session:
        assert read.count(session) == 400
        newest = {rating.rated_at for rating in read.of_user(session, "user00")}
        assert newest == {NOW + timedelta(seconds=23)}


def test_people_erased_while_their_ratings_arrive_leave_no_rating_behind(database: Database) -> None:
    failures: list[BaseException] = []
    stop = threading.Event()
    n_erased = 0

    def write(number: int) -> None:
        try:
            for round_ in range(15):
                at = NOW + timedelta(seconds=10 * round_ + number)
                rows: list[Row] = [(f"user{n % 5}", f"movie{n}", 3.0, at) for n in range(100)]
                store(database, *rows, at=at)
        except BaseException as error:
            failures.append(error)

    def erase() -> None:
        nonlocal n_erased
        while not stop.is_set():
            for number in range(5):
                try:
                    with database.writing() as session:
                        ratings.erase_user(session, f"user{number}")
                    n_erased += 1
                except NotFound:
                    pass
                except BaseException as error:
                    failures.append(error)

    eraser = threading.Thread(target=erase)
    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in (eraser, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    eraser.join()
    assert failures == []
    assert n_erased > 0
    with database.reading() as session:
        n_known = session.scalar(
            select(func.count()).select_from(Rating).join(User, User.user_key == Rating.user_key)
        )
        assert n_known == read.count(session)


def test_rows_of_new_and_of_known_people_are_counted_together(database: Database) -> None:
    known: list[Row] = [(f"old{n}", f"m{n % 50}", 3.0, NOW) for n in range(450)]
    new: list[Row] = [(f"new{n}", f"m{n % 50}", 3.0, NOW) for n in range(450)]
    assert store(database, *known) == Counts(inserted=450)
    changed: list[Row] = [(user, movie, 4.0, LATER) for user, movie, _, _ in known[:200]]
    repeated: list[Row] = [(user, movie, 2.0, EARLIER) for user, movie, _, _ in new[:7]]
    more: list[Row] = [("old0", "more", 1.0, NOW)]
    counts = store(database, *known, *changed, *repeated, *new, *more)
    assert counts == Counts(inserted=451, updated=200, unchanged=250, superseded=207)
    assert stored(database, "old0") == [("m0", 4.0, LATER), ("more", 1.0, NOW)]
    assert stored(database, "new0") == [("m0", 3.0, NOW)]


def test_one_rating_can_be_removed(database: Database) -> None:
    store(database, ("ann", "heat", 4.0, NOW), ("ann", "alien", 4.0, NOW))
    with database.writing() as session:
        ratings.delete(session, "ann", "heat")
    assert [movie for movie, *_ in stored(database)] == ["alien"]
    with pytest.raises(NotFound), database.writing() as session:
        ratings.delete(session, "ann", "heat")


def test_erasing_a_person_leaves_nothing_of_them(database: Database) -> None:
    store(database, ("ann", "heat", 4.0, NOW), ("bob", "heat", 4.0, NOW))
    with database.writing() as session:
        assert ratings.erase_user(session, "ann") == []
    assert stored(database) == []
    assert len(stored(database, "bob")) == 1
    with pytest.raises(NotFound), database.writing() as session:
        ratings.erase_user(session, "ann")

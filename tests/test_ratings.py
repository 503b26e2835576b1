"""Upserts where the newest wins, counts that add up, arrays that say what the rows say."""

import threading
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import func, select, text

from app import ratings
from app.database import Database
from app.errors import InvalidInput, NotFound, StorageFull, Unavailable
from app.ratings import Counts, RatingBatch
from app.tables import Movie, Rating, User, to_microseconds

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(days=1)
LATER = NOW + timedelta(days=1)

Row = tuple[str, str, float, datetime | None]


def batch(*rows: Row) -> RatingBatch:
    return RatingBatch.of(rows)


def store(database: Database, *rows: Row, at: datetime = NOW) -> Counts:
    with database.writing() as session:
        return ratings.store(session, batch(*rows), received_at=at)


def stored(database: Database, user_id: str = "ann") -> list[tuple[str, float, datetime]]:
    with database.reading() as session:
        return [(one.movie_id, one.stars, one.rated_at) for one in ratings.of_user(session, user_id)]


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


@pytest.mark.parametrize(
    ("dense", "times", "statement"),
    [(0, 10**6, (1,)), (0, 0, (500, 20, 1)), (10**6, 4, (7, 3, 1))],
    ids=["users", "users, too many", "pairs"],
)
def test_many_batches_do_what_one_rating_at_a_time_would(
    dense: int, times: int, statement: tuple[int, ...], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings, "DENSE_RATINGS", dense)
    monkeypatch.setattr(ratings, "WALKED_RATINGS", 1)
    monkeypatch.setattr(ratings, "WALKED_USERS", 5)
    monkeypatch.setattr(ratings, "DENSE_TIMES", times)
    monkeypatch.setattr(ratings, "DENSE_TIMES_SQLITE", times)
    monkeypatch.setattr(ratings, "STATEMENT_ROWS", statement)
    rng = np.random.default_rng(1)
    expected_rows: dict[tuple[str, str], tuple[float, datetime]] = {}
    for turn in range(6):
        received = NOW + timedelta(hours=turn)
        rows: list[Row] = []
        expected = dict.fromkeys(Counts().as_dict(), 0)
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
            counts = ratings.store(session, batch(*rows), received_at=received)
        assert counts.as_dict() == expected
    with database.reading() as session:
        found = {(user, movie): (stars, at) for user, movie, stars, at in ratings.export(session)}
        popular = dict(ratings.most_rated(session))
    assert found == expected_rows
    assert popular == Counter(movie for _, movie in expected_rows)


def test_a_database_that_is_full_or_goes_away_while_ratings_are_stored_says_so(database: Database) -> None:
    movies = [f"m{n}" for n in range(10_000)]
    store(database, *(("ann", movie, 4.0, NOW) for movie in movies))
    of_bob: list[Row] = [("bob", movie, 3.0, NOW) for movie in movies]

    def fill_the_disk() -> None:
        with database.writing() as session:
            pages = session.scalar(text("PRAGMA page_count")) or 0
            session.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
            ratings.store(session, batch(*of_bob), received_at=NOW)

    def go_away() -> None:
        with database.writing() as session:
            process = session.scalar(text("SELECT pg_backend_pid()"))
            with database.writing() as other:
                other.execute(text(f"SELECT pg_terminate_backend({process})"))
            ratings.store(session, batch(*of_bob), received_at=NOW)

    with pytest.raises(StorageFull if database.is_sqlite else Unavailable):
        (fill_the_disk if database.is_sqlite else go_away)()
    database.close()  # SQLite's limit is that of the connection
    assert stored(database, "bob") == []
    assert store(database, *of_bob) == Counts(inserted=len(of_bob))


def test_the_same_batch_again_changes_nothing(database: Database) -> None:
    rows: list[Row] = [(f"user{n % 7}", f"movie{n % 11}", 1.0 + n % 5, None) for n in range(77)]
    assert store(database, *rows) == Counts(inserted=77)
    assert store(database, *rows, at=LATER) == Counts(unchanged=77)


@pytest.mark.parametrize("way", ["walked", "looked_up"])
def test_stars_and_times_that_differ_in_the_last_digit_are_told_apart(
    way: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings, "WALKED_RATINGS", 1 if way == "walked" else 10**6)
    if way == "walked":
        monkeypatch.setattr(ratings, "DENSE_TIMES_SQLITE", 100)
        monkeypatch.delattr(ratings, "_looked_up_sqlite")
    given = [0.5, float(np.nextafter(0.5, 1)), 1 / 1.7, 3.3, 5.0, 70 / 3, 999.9, 1e3, 0.1 + 0.5, 4.0]
    others = [float(np.nextafter(one, 2)) for one in given]
    long_ago = datetime(1890, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    moment = timedelta(microseconds=1)

    def rows(stars: list[float], later: timedelta = timedelta()) -> list[Row]:
        times = [long_ago, *[EARLIER] * 9]
        return [("ann", f"m{i}", one, times[i] + later) for i, one in enumerate(stars)]

    assert store(database, *rows(given)) == Counts(inserted=10)
    assert store(database, *rows(given)) == Counts(unchanged=10)
    assert store(database, *rows(others)) == Counts(updated=10)
    assert sorted(stars for _, stars, _ in stored(database)) == sorted(others)
    assert store(database, *rows(given, -moment)) == Counts(superseded=10)
    assert store(database, *rows(others, moment)) == Counts(updated=10)
    assert store(database, *rows(others, moment)) == Counts(unchanged=10)


def read_all_that_users_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare on SQLite as with a large file, however few ratings there are."""
    monkeypatch.setattr(ratings, "DENSE_RATINGS", 0)
    monkeypatch.setattr(ratings, "WALKED_RATINGS", 1)
    monkeypatch.setattr(ratings, "DENSE_TIMES_SQLITE", 100)


def test_stars_that_are_nearly_none_are_told_apart_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all_that_users_have(monkeypatch)
    few = [0.0, 2.0**-60, 2.0**-54, 0.25]
    assert store(database, *(("ann", f"m{i}", one, NOW) for i, one in enumerate(few))) == Counts(inserted=4)
    assert store(database, *(("ann", f"m{i}", one, NOW) for i, one in enumerate(few))) == Counts(unchanged=4)
    assert store(database, ("ann", "m0", 2.0**-60, NOW), ("ann", "m1", 0.0, NOW)) == Counts(updated=2)
    # These are compared with all that ann has, where less than .5 stands.
    monkeypatch.delattr(ratings, "_looked_up_sqlite")
    assert store(database, ("ann", "m2", 0.5, NOW), ("ann", "new", 0.5, NOW)) == Counts(inserted=1, updated=1)


def test_reading_all_that_users_have_takes_no_pair_for_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all_that_users_have(monkeypatch)
    store(database, ("ann", "near", 3.0, NOW), ("bob", "other", 3.0, NOW))
    with database.writing() as session:
        ann, bob = (
            session.scalars(select(User.user_key).where(User.user_id == one)).one() for one in ("ann", "bob")
        )
        near = session.scalars(select(Movie.movie_key).where(Movie.movie_id == "near")).one()
        assert bob == ann + 1
        far = Movie(movie_key=2**31 + near, movie_id="far", created_at=NOW, updated_at=NOW)
        session.add(far)
        session.flush()
        session.add(Rating(user_key=ann, movie_key=far.movie_key, stars=4.0, rated_at=to_microseconds(NOW)))
    rows: list[Row] = [("ann", "near", 3.0, NOW), ("bob", "near", 4.0, NOW), ("bob", "other", 3.0, NOW)]
    with monkeypatch.context() as patch:
        patch.delattr(ratings, "_looked_up_sqlite")
        assert store(database, *rows) == Counts(inserted=1, unchanged=2)
    assert store(database, *rows, ("ann", "far", 4.0, NOW)) == Counts(unchanged=4)


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
    assert all(counts.total == 400 and min(counts.as_dict().values()) >= 0 for counts in totals)
    with database.reading() as session:
        assert ratings.count(session) == 400
        newest = {one.rated_at for one in ratings.of_user(session, "user00")}
        assert newest == {NOW + timedelta(seconds=23)}


def test_people_erased_while_their_ratings_arrive_leave_no_rating_of_nobody(database: Database) -> None:
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
        assert n_known == ratings.count(session)


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


def test_a_snapshot_says_what_the_rows_say(database: Database) -> None:
    store(
        database,
        ("ann", "heat", 4.0, NOW),
        ("bob", "heat", 2.5, LATER),
        ("bob", "alien", 5.0, EARLIER),
        at=LATER,
    )
    with database.reading() as session:
        taken = ratings.snapshot(session)
    assert sorted(taken.user_ids) == ["ann", "bob"]
    assert taken.newest == to_microseconds(LATER)
    said = {
        (taken.user_ids[user], taken.vocabulary.movie_ids[movie], stars)
        for user, movie, stars in zip(taken.rows.users, taken.rows.indices, taken.rows.stars, strict=True)
    }
    assert said == {("ann", "heat", 4.0), ("bob", "heat", 2.5), ("bob", "alien", 5.0)}
    assert list(taken.user_keys) == sorted(taken.user_keys)


def test_a_snapshot_is_the_same_in_blocks_of_any_size(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pairs = sorted(
        {(int(rng.integers(40)), int(rng.integers(60))) for _ in range(900)}, key=lambda one: one[1]
    )
    given = {(f"u{user}", f"m{movie}"): float(np.float32(rng.uniform(0.5, 5))) for user, movie in pairs}
    store(database, *((user, movie, stars, NOW) for (user, movie), stars in given.items()))
    for fetch_rows in (1, 7, 100_000):
        monkeypatch.setattr(ratings, "FETCH_ROWS", fetch_rows)
        with database.reading() as session:
            taken = ratings.snapshot(session)
        said = {
            (taken.user_ids[user], taken.vocabulary.movie_ids[movie]): float(stars)
            for user, movie, stars in zip(taken.rows.users, taken.rows.indices, taken.rows.stars, strict=True)
        }
        assert said == given
        assert taken.rows.n_ratings == len(given)
        for user in range(taken.rows.n_users):
            columns = taken.rows.indices[taken.rows.indptr[user] : taken.rows.indptr[user + 1]]
            assert (np.diff(columns) > 0).all()


def test_a_snapshot_of_nothing_is_empty(database: Database) -> None:
    with database.reading() as session:
        taken = ratings.snapshot(session)
    assert (taken.rows.n_users, len(taken.vocabulary), taken.newest) == (0, 0, None)


def test_one_rating_can_be_removed(database: Database) -> None:
    store(database, ("ann", "heat", 4.0, NOW), ("ann", "alien", 4.0, NOW))
    with database.writing() as session:
        ratings.remove(session, "ann", "heat")
    assert [movie for movie, *_ in stored(database)] == ["alien"]
    with pytest.raises(NotFound), database.writing() as session:
        ratings.remove(session, "ann", "heat")


def test_erasing_a_person_leaves_nothing_of_them(database: Database) -> None:
    store(database, ("ann", "heat", 4.0, NOW), ("bob", "heat", 4.0, NOW))
    with database.writing() as session:
        assert ratings.erase_user(session, "ann") == []
    assert stored(database) == []
    assert len(stored(database, "bob")) == 1
    with pytest.raises(NotFound), database.writing() as session:
        ratings.erase_user(session, "ann")


def test_a_profile_is_what_is_stored_to_the_last_digit_in_the_same_order(database: Database) -> None:
    given = {"a,b": 1 / 3, 'say "heat"': 4.1, "Amélie\\": 5.0, "0": 0.1 + 0.2, "z": 2.5}
    store(database, *(("ann", movie_id, stars, NOW) for movie_id, stars in given.items()))
    store(database, ("bob", "z", 1.0, NOW))
    with database.reading() as session:
        found = ratings.profile(session, "ann")
        assert list(found.items()) == [(one.movie_id, one.stars) for one in ratings.of_user(session, "ann")]
        assert found.keys() == given.keys()
        assert ratings.profile(session, "bob") == {"z": 1.0}
        assert ratings.profile(session, "nobody") == {}


def test_pages_hold_every_rating_once_newest_first(database: Database) -> None:
    rows: list[Row] = [("ann", f"m{n:02}", 3.0, NOW + timedelta(seconds=n // 2)) for n in range(25)]
    store(database, *rows)
    seen: list[tuple[datetime, str]] = []
    cursor = None
    with database.reading() as session:
        while True:
            items, cursor = ratings.page_of_user(session, "ann", limit=10, cursor=cursor)
            seen += [(one.rated_at, one.movie_id) for one in items]
            if cursor is None:
                break
        assert len(set(seen)) == len(seen) == 25
        assert [at for at, _ in seen] == sorted((at for at, _ in seen), reverse=True)
        with pytest.raises(InvalidInput, match="cursor"):
            ratings.page_of_user(session, "ann", limit=10, cursor="nonsense!")


def test_the_most_rated_movies_come_first(database: Database) -> None:
    store(database, *((f"u{n}", "heat", 3.0, None) for n in range(3)), ("u0", "alien", 5.0, None))
    with database.reading() as session:
        assert ratings.most_rated(session, limit=5) == [("heat", 3), ("alien", 1)]


def test_packed_keys_are_found_again() -> None:
    keys = np.array([1, 5, 6, 1000, 2**40], dtype=np.int64)
    packed = ratings.pack_keys(keys)
    assert all(ratings.holds_key(packed, int(key)) for key in keys)
    assert not any(ratings.holds_key(packed, key) for key in (0, 2, 7, 2**40 + 1))

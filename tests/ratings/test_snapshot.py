"""Snapshots: arrays that say what the rows say."""

import numpy as np
import pytest

from app.ratings import snapshot as snapshots
from app.ratings.snapshot import take_snapshot
from app.storage.database import Database
from app.storage.tables import to_microseconds
from tests.ratings.batches import EARLIER, LATER, NOW, store


def test_a_snapshot_says_what_the_rows_say(database: Database) -> None:
    store(
        database,
        ("ann", "heat", 4.0, NOW),
        ("bob", "heat", 2.5, LATER),
        ("bob", "alien", 5.0, EARLIER),
        at=LATER,
    )
    with database.reading() as session:
        taken = take_snapshot(session)
    assert sorted(taken.user_ids) == ["ann", "bob"]
    assert taken.newest == to_microseconds(LATER)
    read = {
        (taken.user_ids[user], taken.vocabulary.movie_ids[movie], stars)
        for user, movie, stars in zip(taken.rows.users, taken.rows.indices, taken.rows.stars, strict=True)
    }
    assert read == {("ann", "heat", 4.0), ("bob", "heat", 2.5), ("bob", "alien", 5.0)}
    assert list(taken.user_keys) == sorted(taken.user_keys)


def test_a_snapshot_is_the_same_in_blocks_of_any_size(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pairs = sorted(
        {(int(rng.integers(40)), int(rng.integers(60))) for _ in range(900)}, key=lambda pair: pair[1]
    )
    expected = {(f"u{user}", f"m{movie}"): float(np.float32(rng.uniform(0.5, 5))) for user, movie in pairs}
    store(database, *((user, movie, stars, NOW) for (user, movie), stars in expected.items()))
    for fetch_rows in (1, 7, 100_000):
        monkeypatch.setattr(snapshots, "FETCH_ROWS", fetch_rows)
        with database.reading() as session:
            taken = take_snapshot(session)
        read = {
            (taken.user_ids[user], taken.vocabulary.movie_ids[movie]): float(stars)
            for user, movie, stars in zip(taken.rows.users, taken.rows.indices, taken.rows.stars, strict=True)
        }
        assert read == expected
        assert taken.rows.n_ratings == len(expected)
        for user in range(taken.rows.n_users):
            columns = taken.rows.indices[taken.rows.indptr[user] : taken.rows.indptr[user + 1]]
            assert (np.diff(columns) > 0).all()


def test_a_snapshot_of_nothing_is_empty(database: Database) -> None:
    with database.reading() as session:
        taken = take_snapshot(session)
    assert (taken.rows.n_users, len(taken.vocabulary), taken.newest) == (0, 0, None)

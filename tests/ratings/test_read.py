"""Ratings of a user, in pages and as a profile; the most rated movies."""

from datetime import datetime, timedelta

import pytest

from app.errors import InvalidInput
from app.ratings import read
from app.storage.database import Database
from tests.ratings.batches import NOW, Row, store


def test_a_profile_is_what_is_stored_to_the_last_digit_in_the_same_order(database: Database) -> None:
    expected = {"a,b": 1 / 3, 'say "heat"': 4.1, "Amélie\\": 5.0, "0": 0.1 + 0.2, "z": 2.5}
    store(database, *(("ann", movie_id, stars, NOW) for movie_id, stars in expected.items()))
    store(database, ("bob", "z", 1.0, NOW))
    with database.reading() as session:
        profile = read.profile(session, "ann")
        assert list(profile.items()) == [
            (rating.movie_id, rating.stars) for rating in read.of_user(session, "ann")
        ]
        assert profile.keys() == expected.keys()
        assert read.profile(session, "bob") == {"z": 1.0}
        assert read.profile(session, "nobody") == {}


def test_pages_hold_every_rating_once_newest_first(database: Database) -> None:
    rows: list[Row] = [("ann", f"m{n:02}", 3.0, NOW + timedelta(seconds=n // 2)) for n in range(25)]
    store(database, *rows)
    seen: list[tuple[datetime, str]] = []
    cursor = None
    with database.reading() as session:
        while True:
            page = read.page_of_user(session, "ann", limit=10, cursor=cursor)
            seen += [(rating.rated_at, rating.movie_id) for rating in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len(set(seen)) == len(seen) == 25
        assert [at for at, _ in seen] == sorted((at for at, _ in seen), reverse=True)
        with pytest.raises(InvalidInput, match="cursor"):
            read.page_of_user(session, "ann", limit=10, cursor="nonsense!")


def test_the_most_rated_movies_come_first(database: Database) -> None:
    store(database, *((f"u{n}", "heat", 3.0, None) for n in range(3)), ("u0", "alien", 5.0, None))
    with database.reading() as session:
        assert read.most_rated(session, limit=5) == [("heat", 3), ("alien", 1)]

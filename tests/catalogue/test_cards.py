"""Cards kept in memory are those of the session's moment."""

import pytest
from sqlalchemy.orm import Session

from app.catalogue import cards, movies
from app.catalogue.movies import MovieEntry
from app.storage.database import Database
from tests.catalogue.catalogues import NOW, store


def title_of(session: Session) -> str:
    return cards.cards_of(session, ["a", "missing"])["a"].title


def test_cards_are_those_of_the_sessions_moment(database: Database) -> None:
    store(database, MovieEntry("a", "First"))
    with database.reading() as early:
        assert title_of(early) == "First"
        with database.writing() as session:
            movies.store(session, [MovieEntry("a", "Second")], now=NOW)
            assert title_of(session) == "Second"
        with database.reading() as late:
            assert cards.generation(late) > cards.generation(early)
            assert title_of(late) == "Second"
        assert title_of(early) == "First"
        with database.reading() as late:
            assert title_of(late) == "Second"


def test_memory_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "CARDS_KEPT", 2)
    store(database, *(MovieEntry(movie_id, movie_id.upper()) for movie_id in "abc"))
    with database.reading() as session:
        assert set(cards.cards_of(session, ["a", "b"])) == {"a", "b"}
        assert set(cards.cards_of(session, ["a", "c"])) == {"a", "c"}
        assert len(cards._kept[database.engine][1]) == 2


def test_only_a_change_raises_the_generation(database: Database) -> None:
    def generation() -> int:
        with database.reading() as session:
            return cards.generation(session)

    seen = [generation()]
    for title in ("One", "One", "Two"):
        store(database, MovieEntry("a", title))
        seen.append(generation())
    assert seen[0] < seen[1] == seen[2] < seen[3]

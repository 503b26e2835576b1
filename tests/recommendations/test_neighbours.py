"""Movies like a movie: the known answer, the filters, and what no version knows."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.orm import Session

from app import catalogue, recommendations
from app.catalogue import MovieEntry
from app.database import Database
from app.errors import NotFound
from app.model_registry import Serving
from app.recommendations import Wanted


def test_neighbours_are_of_the_same_taste(session: Session, serving: Serving) -> None:
    found = recommendations.similar(session, serving, "even3", Wanted(limit=8))
    assert (found.movie_id, found.title, found.model_version) == ("even3", "Even Film 3", serving.version)
    assert [item.movie_id[:4] for item in found.items] == ["even"] * 8
    assert "even3" not in {item.movie_id for item in found.items}
    assert [item.rank for item in found.items] == list(range(1, 9))
    assert all(0 < item.similarity <= 1 for item in found.items)
    scores = [item.score for item in found.items]
    assert scores == sorted(scores, reverse=True)


def test_filters_come_before_ranking(session: Session, serving: Serving) -> None:
    wanted = Wanted(limit=4, genre="Odd", year_to=1990, exclude=("odd2",))
    found = recommendations.similar(session, serving, "even3", wanted)
    assert len(found.items) == 4
    assert all(item.genres == ["Odd"] and (item.year or 0) <= 1990 for item in found.items)
    assert "odd2" not in {item.movie_id for item in found.items}


def test_a_movie_that_no_version_knows_has_no_neighbours(
    database: Database, session: Session, serving: Serving
) -> None:
    with database.writing() as writing:
        catalogue.store(writing, [MovieEntry("new", "New Film", 2026)], now=datetime.now(UTC))
    with database.reading() as reading:
        found = recommendations.similar(reading, serving, "new", Wanted())
        assert (found.title, found.model_version, found.items) == ("New Film", serving.version, [])
        before = recommendations.similar(reading, None, "even3", Wanted())
        assert (before.model_version, before.items) == (None, [])
        with pytest.raises(NotFound, match="no movie 'nowhere'"):
            recommendations.similar(reading, serving, "nowhere", Wanted())

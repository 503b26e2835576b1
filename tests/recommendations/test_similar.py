"""Movies like a movie: the known answer, the filters, and what no version knows."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.orm import Session

from app.catalogue import movies as catalogue
from app.catalogue.movies import MovieEntry
from app.errors import NotFound
from app.model_versions.serving import LoadedVersion
from app.recommendations.lists import ListQuery
from app.recommendations.similar import similar
from app.storage.database import Database


def test_neighbours_are_of_the_same_taste(session: Session, loaded: LoadedVersion) -> None:
    page = similar(session, loaded, "even3", ListQuery(limit=8))
    assert (page.movie_id, page.title, page.model_version) == ("even3", "Even Film 3", loaded.version)
    assert [item.movie_id[:4] for item in page.items] == ["even"] * 8
    assert "even3" not in {item.movie_id for item in page.items}
    assert [item.rank for item in page.items] == list(range(1, 9))
    assert all(0 < item.similarity <= 1 for item in page.items)
    scores = [item.score for item in page.items]
    assert scores == sorted(scores, reverse=True)


def test_filters_come_before_ranking(session: Session, loaded: LoadedVersion) -> None:
    query = ListQuery(limit=4, genre="Odd", year_to=1990, exclude=("odd2",))
    page = similar(session, loaded, "even3", query)
    assert len(page.items) == 4
    assert all(item.genres == ["Odd"] and (item.year or 0) <= 1990 for item in page.items)
    assert "odd2" not in {item.movie_id for item in page.items}


def test_a_movie_that_no_version_knows_has_no_neighbours(
    database: Database, session: Session, loaded: LoadedVersion
) -> None:
    with database.writing() as writing:
        catalogue.store(writing, [MovieEntry("new", "New Film", 2026)], now=datetime.now(UTC))
    with database.reading() as reading:
        page = similar(reading, loaded, "new", ListQuery())
        assert (page.title, page.model_version, page.items) == ("New Film", loaded.version, [])
        before = similar(reading, None, "even3", ListQuery())
        assert (before.model_version, before.items) == (None, [])
        with pytest.raises(NotFound, match="no movie 'nowhere'"):
            similar(reading, loaded, "nowhere", ListQuery())

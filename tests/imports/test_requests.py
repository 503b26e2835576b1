"""Requests for imports: refused, listed, looked up."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidInput, NotFound
from app.imports import requests
from app.imports.spool import SpooledFile
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import Import
from tests.imports.jobs import ratings_csv, submit


def test_options_that_do_not_exist_are_refused(database: Database, tmp_path: Path) -> None:
    spooled = SpooledFile(tmp_path / "file", 0)
    options: list[dict[str, Any]] = [{"kind": "songs"}, {"format": "xlsx"}, {"on_error": "guess"}]
    for wrong in options:
        with database.writing() as session, pytest.raises(InvalidInput) as caught:
            requests.submit(session, spooled, **wrong)
        assert caught.value.errors[0].location == next(iter(wrong))


def test_an_unknown_import_is_not_found(database: Database) -> None:
    for import_id in (1, 0, -1, 2**63, 10**40):
        with database.reading() as session, pytest.raises(NotFound):
            requests.get(session, import_id)


def test_imports_are_paged_newest_first(database: Database, settings: Settings) -> None:
    made = [submit(database, settings, ratings_csv(1)) for _ in range(5)]
    seen: list[int] = []
    cursor = None
    with database.reading() as session:
        while True:
            page = requests.page(session, limit=2, cursor=cursor)
            seen += [state.id for state in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert seen == made[::-1]


def test_the_table_of_imports_is_what_submit_fills(database: Database, settings: Settings) -> None:
    import_id = submit(database, settings, ratings_csv(1))
    with database.reading() as session:
        record = session.get_one(Import, import_id)
        assert "/" not in record.spool_path, "API and worker may see the spool under different paths"
        assert record.created_at == requests.get(session, import_id).created_at

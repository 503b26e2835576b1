"""The events of a training run, from any place on, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime

import pytest

from app import jobs, run_events, training_runs
from app.database import Database
from app.errors import InvalidInput, NotFound
from app.run_events import START, Position, RunEvent
from app.settings import Settings
from app.tables import EpochReportRow
from app.worker import JOB_HANDLERS, Worker
from tests.tastes import store_tastes


def hear(database: Database, run_id: int, position: Position = START) -> list[RunEvent]:
    """Everything that there is to hear now."""
    heard: list[RunEvent] = []
    while True:
        with database.reading() as session:
            events = run_events.since(session, run_id, position)
        if not events:
            return heard
        heard += events
        position = events[-1].position


@pytest.fixture
def finished(database: Database, settings: Settings) -> int:
    store_tastes(database)
    with database.writing() as session:
        view, _ = training_runs.request(session, {"epochs": 12}, settings)
    Worker(database, settings, JOB_HANDLERS).run(until_idle=True)
    return view.run.run_id


def test_a_finished_run_is_told_from_its_beginning_to_its_end(database: Database, finished: int) -> None:
    heard = hear(database, finished)
    assert [event.data["epoch"] for event in heard if event.name == "epoch"] == list(range(1, 13))
    assert any("720 ratings" in event.data["message"] for event in heard if event.name == "log")
    assert [event.name for event in heard].count("end") == 1
    assert heard[-1].name == "end"
    assert (heard[-1].data["state"], heard[-1].data["model_version"]) == ("succeeded", 1)
    assert heard[-1].position.is_end


def test_every_event_is_a_place_to_go_on_from(database: Database, finished: int) -> None:
    heard = hear(database, finished)
    for number, event in enumerate(heard):
        assert Position.parse(str(event.position)) == event.position
        rest = hear(database, finished, event.position)
        assert [one.data for one in rest] == [one.data for one in heard[number + 1 :]]


def test_long_runs_are_told_in_parts(
    database: Database, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hear(database, finished)
    monkeypatch.setattr(run_events, "EVENTS_AT_ONCE", 2)
    parts = hear(database, finished)
    assert sorted(str(one.data) for one in parts) == sorted(str(one.data) for one in whole)
    assert [one.data["epoch"] for one in parts if one.name == "epoch"] == list(range(1, 13))
    assert parts[-1].name == "end"


def test_state_progress_and_a_new_attempt_are_told(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        view, _ = training_runs.request(session, {}, settings)
    run_id, job_id = view.run.run_id, view.job.job_id
    (first,) = hear(database, run_id)
    assert (first.name, first.data["state"]) == ("state", "queued")
    assert hear(database, run_id, first.position) == []

    def report(attempt: int, epoch: int) -> None:
        with database.writing() as session:
            session.add(
                EpochReportRow(
                    run_id=run_id, attempt=attempt, epoch=epoch, report={}, reported_at=datetime.now(UTC)
                )
            )

    def note() -> tuple[object, ...]:
        with database.reading() as session:
            return run_events.mark(session, run_id)

    marks = [note()]
    with database.writing() as session:
        jobs.claim(session, ["training"], "one")
        jobs.heartbeat(session, job_id, 1, 0.25)
    marks.append(note())
    report(1, 1)
    marks.append(note())
    state, epoch = hear(database, run_id, first.position)
    assert (state.data["state"], state.data["progress"], state.data["attempt"]) == ("running", 0.25, 1)
    assert epoch.data["epoch"] == 1
    with database.writing() as session:
        jobs.rescue_from(session, "one")
        jobs.claim(session, ["training"], "two")
    report(2, 1)
    marks.append(note())
    log, again = [one for one in hear(database, run_id, epoch.position) if one.name != "state"]
    assert log.name == "log"
    assert (again.data["attempt"], again.data["epoch"]) == (2, 1)
    assert len(set(marks)) == len(marks)
    assert note() == marks[-1]


@pytest.mark.parametrize("text", ["", "1", "1.2.3.4", "1.2.3.4.lost", "a.2.3.4.running", "1.2.3.4.running\n"])
def test_a_place_that_no_event_has_named_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="Last-Event-ID"):
        Position.parse(text)


def test_an_unknown_run_is_not_found(database: Database) -> None:
    with database.reading() as session, pytest.raises(NotFound):
        run_events.since(session, 9, START)
    with database.reading() as session, pytest.raises(NotFound):
        run_events.mark(session, 9)

"""The events of a training run, from any place on, on SQLite and on PostgreSQL."""

from datetime import UTC, datetime, timedelta

import pytest

from app.errors import InvalidInput, NotFound
from app.jobs import queue
from app.jobs.rescuer import rescue_from
from app.settings import Settings
from app.storage.database import Database
from app.storage.tables import EpochReportRow
from app.training import events as run_events
from app.training import requests
from app.training.events import START, Position, RunEvent
from tests.tastes import store_tastes

N_EPOCHS = 5
EPOCHS = list(range(1, N_EPOCHS + 1))


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
    """A run that has reported five epochs, with a log line between two of them."""
    store_tastes(database)
    with database.writing() as session:
        run = requests.request(session, {}, settings).run
        job = queue.claim(session, [requests.JOB_KIND], "worker")
        assert job is not None
        for epoch in range(1, N_EPOCHS + 1):
            at = queue.now() + timedelta(seconds=epoch)
            report = {"epoch": epoch}
            session.add(EpochReportRow(run_id=run.id, attempt=1, epoch=epoch, report=report, reported_at=at))
            queue.log_line(session, job.job_id, 1, f"after epoch {epoch}", logged_at=at)
        queue.finish(session, job.job_id, 1, "succeeded")
    return run.id


def test_a_finished_run_is_heard_from_its_beginning_to_its_end(database: Database, finished: int) -> None:
    heard = hear(database, finished)
    assert [event.name for event in heard] == ["epoch", "log"] * N_EPOCHS + ["end"]
    assert [event.data["epoch"] for event in heard if event.name == "epoch"] == EPOCHS
    assert heard[-1].data == {
        "state": "succeeded",
        "progress": 1.0,
        "attempt": 1,
        "error": None,
        "model_version": None,
        "evaluation": None,
    }
    assert heard[-1].position.is_end


def test_every_event_is_a_place_to_go_on_from(database: Database, finished: int) -> None:
    heard = hear(database, finished)
    for number, event in enumerate(heard):
        assert Position.parse(str(event.position)) == event.position
        rest = hear(database, finished, event.position)
        assert [later.data for later in rest] == [later.data for later in heard[number + 1 :]]


def test_long_runs_are_heard_in_parts(
    database: Database, finished: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = hear(database, finished)
    monkeypatch.setattr(run_events, "EVENTS_AT_ONCE", 2)
    parts = hear(database, finished)
    assert sorted(str(event.data) for event in parts) == sorted(str(event.data) for event in whole)
    assert [event.data["epoch"] for event in parts if event.name == "epoch"] == EPOCHS
    assert parts[-1].name == "end"


def test_state_progress_and_a_new_attempt_are_heard(database: Database, settings: Settings) -> None:
    store_tastes(database)
    with database.writing() as session:
        run = requests.request(session, {}, settings).run
    run_id, job_id = run.id, run.job_id
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
        queue.claim(session, ["training"], "one")
        queue.heartbeat(session, job_id, 1, 0.25)
    marks.append(note())
    report(1, 1)
    marks.append(note())
    state, epoch = hear(database, run_id, first.position)
    assert (state.data["state"], state.data["progress"], state.data["attempt"]) == ("running", 0.25, 1)
    assert epoch.data["epoch"] == 1
    with database.writing() as session:
        rescue_from(session, "one")
        queue.claim(session, ["training"], "two")
    report(2, 1)
    marks.append(note())
    log, again = [event for event in hear(database, run_id, epoch.position) if event.name != "state"]
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

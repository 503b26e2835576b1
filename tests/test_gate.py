"""The gate on answers known in advance, and its translation between vocabularies."""

import json

import numpy as np
import pytest

from app import gate
from app.learning import metrics, splitting
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import probabilities
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.training import completed, train
from app.learning.vocabulary import Vocabulary
from tests.tastes import two_tastes


def rows_of(n_users: int, movie_ids: list[str] | None = None) -> tuple[RatingRows, Vocabulary]:
    batch = two_tastes(n_users=n_users)
    vocabulary = Vocabulary(movie_ids or sorted(set(batch.movie_ids)))
    columns = vocabulary.columns(batch.movie_ids)[batch.movie_codes]
    inside = columns >= 0
    rows = RatingRows.from_coordinates(
        batch.user_codes[inside],
        columns[inside],
        batch.stars[inside].astype(np.float32),
        n_users=len(batch.user_ids),
        n_movies=len(vocabulary),
    )
    return rows, vocabulary


def fitted(rows: RatingRows, vocabulary: Vocabulary, epochs: int = 40) -> Machines:
    configuration = TrainingConfiguration(epochs=epochs, hidden_units=20)
    return completed(train(rows, vocabulary, configuration))


def test_translated_scores_are_the_same_movies_scores() -> None:
    rows, vocabulary = rows_of(60)
    machines = fitted(rows, vocabulary)
    # The new vocabulary has another order, one movie more, and lacks one.
    others = Vocabulary(["new", *reversed(vocabulary.movie_ids[1:])])
    theirs, _ = rows_of(60, list(others.movie_ids))
    scores = gate.translated(machines, others)(theirs)
    assert np.all(scores[:, 0] == -np.inf)
    without_first = rows.where(rows.indices != 0)
    expected = machines.blended_scores(without_first)
    assert np.allclose(scores[:, 1:], expected[:, :0:-1], atol=1e-5)


def test_the_same_machines_do_not_lose_against_themselves() -> None:
    rows, vocabulary = rows_of(160)
    training, reserved = rows.rows(range(80)), rows.rows(range(80, 160))
    machines = fitted(training, vocabulary)
    keys = np.arange(80, 160)
    active = gate.Active(7, machines, np.arange(80))
    verdict = gate.verdict_on(
        machines, training, reserved, keys, active=active, relevant_at_least=4.0, seed=0
    )
    assert verdict.outcome == "activated"
    assert verdict.figures["active"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert "active version 7" in verdict.words
    honesty = verdict.figures["like_probability"]
    given, test = splitting.given(reserved, np.random.default_rng(0), None)
    said, liked = probabilities(machines, given, test), test.stars >= 3
    assert honesty["auc"] == pytest.approx(metrics.auc(liked, said))
    assert honesty["brier"] == pytest.approx(metrics.brier(liked, said))
    bins = honesty["reliability"]
    assert sum(one["n"] for one in bins) == honesty["n_ratings"] == 80 * 6
    assert [one["predicted"] for one in bins] == sorted(one["predicted"] for one in bins)
    gaps = [one["n"] * abs(one["predicted"] - one["observed"]) for one in bins]
    assert honesty["calibration_error"] == pytest.approx(sum(gaps) / honesty["n_ratings"])
    assert json.loads(json.dumps(verdict.figures, allow_nan=False)) == verdict.figures


def test_an_active_version_that_knows_the_reserved_users_is_not_compared() -> None:
    rows, vocabulary = rows_of(160)
    training, reserved = rows.rows(range(80)), rows.rows(range(80, 160))
    machines = fitted(training, vocabulary)
    active = gate.Active(7, machines, np.arange(100, 160))
    verdict = gate.verdict_on(
        machines, training, reserved, np.arange(80, 160), active=active, relevant_at_least=4.0, seed=0
    )
    assert "active" not in verdict.figures
    assert "not compared with version 7" in verdict.words


def test_with_few_reserved_users_the_version_is_activated_unseen() -> None:
    rows, vocabulary = rows_of(60)
    machines = fitted(rows, vocabulary, epochs=2)
    verdict = gate.verdict_on(
        machines, rows, rows.rows(range(29)), np.arange(29), active=None, relevant_at_least=4.0, seed=0
    )
    assert (verdict.outcome, verdict.activates) == ("not_evaluated", True)
    assert "29 reserved users" in verdict.words

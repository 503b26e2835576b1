"""The gate on answers known in advance, and its translation between vocabularies."""

import json

import numpy as np
import pytest

from app.learning.evaluation import metrics, splitting
from app.learning.evaluation.quality import probabilities
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.learning.vocabulary import Vocabulary
from app.training import gate
from app.training.gate import Verdict
from tests.model_versions.stored import fitted, rows_of


@pytest.fixture(scope="module")
def rows() -> RatingRows:
    """160 users, of whom the second half is reserved."""
    return rows_of(160)[0]


@pytest.fixture(scope="module")
def half_model(rows: RatingRows) -> TrainedModel:
    return fitted(rows.rows(range(80)), rows_of(160)[1])


def verdict_on(model: TrainedModel, rows: RatingRows, n_reserved: int, active: gate.Active | None) -> Verdict:
    """The gate's verdict by the users behind the first 80."""
    reserved = range(80, 80 + n_reserved)
    return gate.verdict_on(
        model,
        rows.rows(range(80)),
        rows.rows(reserved),
        np.array(reserved),
        active=active,
        relevant_at_least=4.0,
        seed=0,
    )


def test_translated_scores_are_those_of_the_movies(model: TrainedModel) -> None:
    rows, vocabulary = rows_of(60)
    # The new vocabulary has another order, one movie more, and lacks one.
    others = Vocabulary(["new", *reversed(vocabulary.movie_ids[1:])])
    theirs, _ = rows_of(60, list(others.movie_ids))
    scores = gate.translated(model, others)(theirs)
    assert np.all(scores[:, 0] == -np.inf)
    without_first = rows.where(rows.indices != 0)
    expected = model.scores(without_first)
    assert np.allclose(scores[:, 1:], expected[:, :0:-1], atol=1e-5)


def test_a_model_does_not_lose_against_itself(rows: RatingRows, half_model: TrainedModel) -> None:
    verdict = verdict_on(half_model, rows, 80, gate.Active(7, half_model, np.arange(80)))
    assert verdict.outcome == "activated"
    assert verdict.figures["active"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert "active version 7" in verdict.words
    calibration = verdict.figures["like_probability"]
    profile, test = splitting.profiles(rows.rows(range(80, 160)), np.random.default_rng(0), None)
    predicted, liked = probabilities(half_model, profile, test), test.stars >= 3
    assert calibration["auc"] == pytest.approx(metrics.auc(liked, predicted))
    assert calibration["brier"] == pytest.approx(metrics.brier(liked, predicted))
    bins = calibration["reliability"]
    assert sum(point["n"] for point in bins) == calibration["n_ratings"] == 80 * 6
    assert [point["predicted"] for point in bins] == sorted(point["predicted"] for point in bins)
    gaps = [point["n"] * abs(point["predicted"] - point["observed"]) for point in bins]
    assert calibration["calibration_error"] == pytest.approx(sum(gaps) / calibration["n_ratings"])
    assert json.loads(json.dumps(verdict.figures, allow_nan=False)) == verdict.figures


def test_an_active_version_that_knows_the_reserved_users_is_not_compared(
    rows: RatingRows, half_model: TrainedModel
) -> None:
    verdict = verdict_on(half_model, rows, 80, gate.Active(7, half_model, np.arange(100, 160)))
    assert "active" not in verdict.figures
    assert "not compared with version 7" in verdict.words


def test_with_few_reserved_users_the_version_is_activated_unseen(
    rows: RatingRows, half_model: TrainedModel
) -> None:
    verdict = verdict_on(half_model, rows, 29, None)
    assert (verdict.outcome, verdict.activates) == ("not_evaluated", True)
    assert "29 reserved users" in verdict.words

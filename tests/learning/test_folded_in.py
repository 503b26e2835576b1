"""One user folded in once gives what the machines give for the same rows, whatever their design."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.sparse as sp

from app.learning import pairs
from app.learning.configuration import TrainingConfiguration
from app.learning.folded_in import FoldedIn
from app.learning.linear_units import LinearUnits
from app.learning.machines import Machines
from app.learning.pairs import Pairs
from app.learning.preferences import RatingRows
from tests.learning.tastes import N_MOVIES, finish, two_camps

ASKED = np.array([10, 0, 30, 45])  # one of them is rated
RATED, STARS = [0, 3, 7, 21, 25, 50], [5, 5, 4, 1, 2, 3]


@pytest.fixture(
    scope="module",
    params=[
        {"design": "rated"},
        {"design": "rated", "linear_units": 0},
        {"design": "rated", "weighted_units": 0, "like_strength": 0},
        {"design": "joint", "linear_units": 8},
        {"design": "positive"},
        {"design": "masked"},
        {"design": "conditional"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def machines(request: pytest.FixtureRequest) -> Machines:
    return finish(two_camps(), TrainingConfiguration(epochs=5, **request.param))[0]


@pytest.fixture(params=["all pairs kept", "none kept"])
def pairs_kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "none kept":
        monkeypatch.setattr(pairs, "KEPT_TO", 0)


def fresh(machines: Machines) -> Machines:
    """The same machines, which have not worked out their pairs yet."""
    return dataclasses.replace(machines)


def rated(columns: Sequence[int], stars: Sequence[float]) -> RatingRows:
    return RatingRows.single(columns, stars, N_MOVIES)


@pytest.mark.usefixtures("pairs_kept")
@pytest.mark.parametrize("n", [0, 1, 6])
def test_the_whole_row_scores_as_in_a_batch(machines: Machines, n: int) -> None:
    row = rated(RATED[:n], STARS[:n])
    found = FoldedIn.of(fresh(machines), row).blended_scores()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, machines.blended_scores(row)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("pairs_kept")
def test_parts_score_as_rows_of_their_own(machines: Machines) -> None:
    own = FoldedIn.of(fresh(machines), rated(RATED[:4], STARS[:4]))
    others = FoldedIn.of_ratings(own.machines, np.array(RATED[4:], np.int32), np.array(STARS[4:], np.float32))
    parts = np.random.default_rng(0).random((7, len(RATED))) < 0.5
    parts[0], parts[1] = True, False
    found = own.of_parts(parts[:, :4], ASKED, others, parts[:, 4:])
    for scores, part in zip(found, parts, strict=True):
        row = rated(np.array(RATED)[part].tolist(), np.array(STARS)[part].tolist())
        np.testing.assert_allclose(scores, machines.blended_scores(row, ASKED)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("pairs_kept")
@pytest.mark.parametrize("n", [1, 6])
def test_without_a_rating_it_scores_as_if_that_had_never_been_given(machines: Machines, n: int) -> None:
    left_out = np.arange(n)[::-1]
    found = FoldedIn.of(fresh(machines), rated(RATED[:n], STARS[:n])).without_each(left_out, ASKED)
    for scores, place in zip(found, left_out.tolist(), strict=True):
        row = rated(RATED[:place] + RATED[place + 1 : n], STARS[:place] + STARS[place + 1 : n])
        np.testing.assert_allclose(scores, machines.blended_scores(row, ASKED)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [0, 1, 6])
def test_it_judges_as_the_machines_do(machines: Machines, n: int) -> None:
    row = rated(RATED[:n], STARS[:n])
    found = FoldedIn.of(machines, row).like_probability(ASKED)
    np.testing.assert_allclose(found, machines.like_probability(row, ASKED)[0], rtol=1e-5)


def test_a_part_that_stands_for_more_ratings_weighs_as_much_as_they_would() -> None:
    """Four ratings that stand for eight, beside eight of which each is one of the four."""
    machines = finish(two_camps(), TrainingConfiguration(epochs=5, linear_units=0, like_strength=0))[0]
    half = FoldedIn.of_ratings(machines, np.array(RATED[:4], np.int32), np.array(STARS[:4], np.float32))
    whole = FoldedIn.of_ratings(
        machines, np.array(RATED[:4] * 2, np.int32), np.array(STARS[:4] * 2, np.float32)
    )
    np.testing.assert_allclose(
        half.of_parts(np.ones((1, 4), np.bool_), ASKED, as_long_as=8),
        whole.of_parts(np.ones((1, 8), np.bool_), ASKED),
        rtol=1e-4,
    )


def test_it_takes_one_user(machines: Machines) -> None:
    with pytest.raises(ValueError, match="one user"):
        FoldedIn.of(machines, RatingRows.from_coordinates([0, 1], [0, 0], [5, 5], 2, N_MOVIES))


def test_pairs_are_the_derivative_of_what_the_units_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    linear = LinearUnits(
        rng.standard_normal((40, 35)).astype(np.float32),
        rng.random(40).astype(np.float32),
        rng.random(40).astype(np.float32),
    )
    alone = sp.csr_array(np.eye(40, dtype=np.float32))
    expected = linear.expected(alone, mean_length=1.0)
    everything = np.arange(40)
    for most in (40, 0):
        monkeypatch.setattr(pairs, "KEPT_TO", most)
        found = Pairs(linear)
        np.testing.assert_allclose(found.between(everything, everything), expected, rtol=1e-3, atol=1e-4)
        grades = rng.random(5).astype(np.float32)
        chosen = np.array([3, 8, 9, 20, 39])
        np.testing.assert_allclose(
            found.towards_all(chosen, grades), grades @ expected[chosen], rtol=1e-3, atol=1e-3
        )
    assert Pairs(linear).kept is None

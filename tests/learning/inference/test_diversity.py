"""Maximal marginal relevance against its definition, and its known ends."""

import numpy as np
import pytest

from app.learning.inference.diversity import POOL, diversified, mean_likeness, ordered_diversely
from app.learning.inference.ranking import ordered
from app.learning.inference.similarity import normalised


def by_definition(scores: np.ndarray, vectors: np.ndarray, diversity: float) -> list[int]:
    """The slow way: look at every pair again for every place."""
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    chosen = [int(np.argmax(relevance))]
    while len(chosen) < len(scores):
        left = [movie for movie in range(len(scores)) if movie not in chosen]
        value = {
            movie: (1 - diversity) * relevance[movie]
            - diversity * max(float(vectors[movie] @ vectors[other]) for other in chosen)
            for movie in left
        }
        chosen.append(max(left, key=lambda one: value[one]))
    return chosen


@pytest.mark.parametrize("diversity", [0.1, 0.5, 0.9, 1.0])
def test_the_order_is_the_definitions(diversity: float) -> None:
    rng = np.random.default_rng(3)
    scores = np.sort(rng.normal(size=25))[::-1]
    vectors = normalised(rng.normal(size=(25, 6)))
    expected = by_definition(scores, vectors, diversity)
    assert diversified(scores, vectors, diversity).tolist() == expected
    assert diversified(scores, vectors, diversity, 7).tolist() == expected[:7]
    assert diversified(scores, vectors, diversity, 99).tolist() == expected


def test_without_diversity_the_order_stays() -> None:
    scores, vectors = np.array([3.0, 2.0, 1.0]), normalised(np.eye(3))
    assert diversified(scores, vectors, 0.0).tolist() == [0, 1, 2]
    assert diversified(np.empty(0), np.empty((0, 3), np.float32), 0.5).tolist() == []


def test_twins_part_with_diversity() -> None:
    # The best two are the same kind of movie; the third is another kind and nearly as
    # good.
    scores = np.array([1.0, 0.99, 0.9, 0.0])
    vectors = normalised(np.array([[1, 0], [1, 0.01], [0, 1], [1, 1]]))
    assert diversified(scores, vectors, 0.3).tolist()[:2] == [0, 2]
    assert diversified(scores, vectors, 0.01).tolist()[:2] == [0, 1]


def test_equal_scores_are_no_division_by_zero() -> None:
    order = diversified(np.ones(4), normalised(np.eye(4)), 0.5)
    assert sorted(order.tolist()) == [0, 1, 2, 3]


def test_a_longer_list_begins_with_the_shorter_one_and_holds_the_same_movies() -> None:
    rng = np.random.default_rng(5)
    n = 3 * POOL
    scores, vectors = rng.normal(size=n), normalised(rng.normal(size=(n, 8)))
    allowed, preferred = rng.random(n) < 0.9, rng.random(n) < 0.8
    whole = ordered_diversely(scores, n, allowed, preferred, vectors, 0.5)
    assert sorted(whole) == np.flatnonzero(allowed).tolist()
    for length in (1, 10, POOL - 1, POOL, POOL + 7):
        some = ordered_diversely(scores, length, allowed, preferred, vectors, 0.5)
        np.testing.assert_array_equal(some, whole[:length])
    # Behind the pool, and for those that are not preferred, the order is that of the
    # scores.
    plain = ordered(scores, n, allowed, preferred)
    np.testing.assert_array_equal(whole[POOL:], plain[POOL:])
    assert set(whole[:POOL]) == set(plain[:POOL])
    assert whole[:POOL].tolist() != plain[:POOL].tolist()


def test_likeness_is_the_mean_over_pairs() -> None:
    vectors = normalised(np.random.default_rng(1).normal(size=(5, 3)))
    pairs = [float(vectors[a] @ vectors[b]) for a in range(5) for b in range(a)]
    assert mean_likeness(vectors) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert mean_likeness(np.ones((2, 1), np.float32)) == pytest.approx(1.0)
    assert np.isnan(mean_likeness(vectors[:1]))

"""Figures of all methods, collected split after split, and their intervals.

A `Scoreboard` gathers one task over all splits, with a `MethodFigures` for each method.
Figures of lists are means over the users with a test rating. Slices divide them:

- users by the length of their profile, in thirds: few, middle, many. Where all have one
  length there are none.
- movies by their training ratings: the head makes the first third of all ratings, then
  middle, then tail (`metrics.popularity_classes`).
- movies by genre, where genres are known; a movie with several genres counts in each.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from app.evaluation.methods import Scores
from app.evaluation.protocols import Task
from app.evaluation.tables import ReliabilityBin, Row, Section, Slice, SliceKind
from app.learning.evaluation import metrics
from app.learning.evaluation.metrics import Interval, Reliability
from app.learning.evaluation.quality import (
    RANKING_METRICS,
    LikeModel,
    LikePredictions,
    list_quality,
    ranked_lists,
    relevant_rows,
)
from app.learning.rating_matrix import RatingRows

DEPTHS = (10, 20)  # ranks that count; the name of a figure of the second has a suffix
RESAMPLES = 200  # of users, for the interval of one split's AUC, Brier, ECE, |v - v'| and coverage
LEVEL = 0.95  # of every interval

_Key = tuple[str, str]
_WHOLE: _Key = ("", "")


@dataclass(frozen=True, eq=False)
class Subset:
    """A slice in one split: `chosen` of the task's users, or of all movies."""

    kind: SliceKind
    name: str
    chosen: NDArray[np.bool_]
    fewest: float
    most: float
    test_share: float

    @property
    def key(self) -> _Key:
        return self.kind, self.name


def subsets_of(
    task: Task, training_rows: RatingRows, genres: Mapping[str, NDArray[np.bool_]]
) -> list[Subset]:
    """Users by profile length, movies by popularity and by genre; no empty subsets.

    Args:
        task: with at least one test rating.
        training_rows: which popularity is counted in.
        genres: the movies of each genre, shape (n_movies,).
    """
    lengths, counts = task.profiles.lengths, training_rows.ratings_per_movie()
    classes = metrics.popularity_classes(counts)
    chosen: list[tuple[SliceKind, str, NDArray[np.bool_]]] = []
    low, high = np.quantile(lengths, [1 / 3, 2 / 3])
    thirds = (lengths <= low, (lengths > low) & (lengths <= high), lengths > high)
    if all(third.any() for third in thirds):
        chosen += [
            ("users", name, third) for name, third in zip(("few", "middle", "many"), thirds, strict=True)
        ]
    for number, name in ((metrics.HEAD, "head"), (metrics.MIDDLE, "middle"), (metrics.TAIL, "tail")):
        chosen.append(("movies", name, classes == number))
    chosen += [("genre", name, genres[name]) for name in sorted(genres)]
    result = []
    for kind, name, members in chosen:
        ratings, owner = (lengths, task.test.users) if kind == "users" else (counts, task.test.indices)
        if members.any():
            of_members = ratings[members]
            test_share = float(members[owner].mean())
            bounds = float(of_members.min()), float(of_members.max())
            result.append(Subset(kind, name, members, *bounds, test_share))
    return result


class MethodFigures:
    """The figures of one method for one task, split after split."""

    def __init__(self, over_users: bool) -> None:
        self.skipped: str | None = None
        self._over_users = over_users
        # One value a user, by the figure's name: of the whole only, and only where
        # intervals are over users, kept for pairs. All else is over the users of a
        # split, by the slice's key and the figure's name.
        self._of_users: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        self._of_splits: dict[tuple[_Key, str], list[Interval]] = defaultdict(list)
        self._curves: list[tuple[Reliability, NDArray[np.float64]]] = []  # and half the intervals
        self._histograms: list[NDArray[np.int64]] = []

    def add_lists(
        self,
        scores: Scores,
        task: Task,
        subsets: Sequence[Subset],
        training_rows: RatingRows,
        relevant_at_least: float,
    ) -> None:
        """Measure the lists of a split."""
        ranked = ranked_lists(scores, task.profiles, max(DEPTHS))
        of_movies = [subset for subset in subsets if subset.kind != "users"]
        for kind, least in (("any", None), ("relevant", relevant_at_least)):
            self._add_quality(ranked, task, kind, least, subsets)
            self._add_recall(ranked, relevant_rows(task.test, least), kind, of_movies)
        self._add_contents(ranked, training_rows, of_movies)

    def _add_quality(
        self,
        ranked: NDArray[np.int64],
        task: Task,
        kind: str,
        relevant_at_least: float | None,
        subsets: Sequence[Subset],
    ) -> None:
        """The ranking metrics of all users and of each slice of users."""
        for k in DEPTHS:
            quality = list_quality(ranked, task.test, relevant_at_least=relevant_at_least, k=k)
            for metric in RANKING_METRICS:
                values, name = getattr(quality, metric), _named(f"{kind}_{metric}", k)
                self._note_users(_WHOLE, name, values)
                for subset in subsets:
                    if subset.kind == "users":
                        self._note_users(subset.key, name, np.where(subset.chosen, values, np.nan))

    def _add_recall(
        self, ranked: NDArray[np.int64], relevant: RatingRows, kind: str, of_movies: Sequence[Subset]
    ) -> None:
        """Recall of the test movies of each slice of movies."""
        hits = metrics.hits_of(ranked, relevant)
        for subset in of_movies:
            in_subset = subset.chosen[relevant.indices]
            n_relevant = np.bincount(relevant.users, in_subset, relevant.n_users).astype(np.int64)
            subset_hits = hits & subset.chosen[ranked]  # a hit is never at -1
            for k in DEPTHS:
                values = metrics.recall_at(subset_hits, n_relevant, k)
                self._note_users(subset.key, _named(f"{kind}_recall", k), values)

    def _add_contents(
        self, ranked: NDArray[np.int64], training_rows: RatingRows, of_movies: Sequence[Subset]
    ) -> None:
        """Novelty, popularity and coverage of the lists, and each slice's share."""
        counts, n_users = training_rows.ratings_per_movie(), len(ranked)
        information = metrics.self_information(counts, training_rows.n_users)
        groups = np.array([np.ones(counts.size, np.bool_), *(subset.chosen for subset in of_movies)])
        keys = [_WHOLE, *(subset.key for subset in of_movies)]
        for k in DEPTHS:
            lists = ranked[:, :k]
            for name, value in (("novelty", information), ("popularity", counts / training_rows.n_users)):
                self._note_users(_WHOLE, _named(name, k), metrics.mean_over_list(lists, value))
            for subset in of_movies:
                share = metrics.mean_over_list(lists, subset.chosen)
                self._note_users(subset.key, _named("shown", k), share)
            # Only the spread of the draws is used: fewer different users have fewer
            # different movies.
            resampled = [metrics.coverage(lists[users], groups) for users in self._draws(n_users)]
            halves = self._halves(np.array(resampled), len(keys))
            for key, value, half in zip(keys, metrics.coverage(lists, groups), halves, strict=True):
                self._note(key, _named("coverage", k), float(value), half, n_users)

    def add_likes(
        self,
        like_model: LikeModel,
        task: Task,
        subsets: Sequence[Subset],
        liked_at_least: float,
        relevant_at_least: float,
    ) -> None:
        """Measure the probabilities of the test ratings of a split."""
        whole = LikePredictions.of(
            like_model,
            task.profiles,
            task.test,
            liked_at_least=liked_at_least,
            relevant_at_least=relevant_at_least,
        )
        pieces = {_WHOLE: whole} | {
            subset.key: whole.where(subset.chosen[whole.users if subset.kind == "users" else whole.movies])
            for subset in subsets
            if subset.kind != "genre"
        }
        # Ratings of one user are not independent, so users are drawn. Only the spread
        # of the draws is used: their mean ECE is too high.
        times = [
            np.bincount(users, minlength=whole.n_users).astype(np.int16)
            for users in self._draws(whole.n_users)
        ]
        for key, piece in pieces.items():
            resampled = np.array([list(piece.figures(drawn).values()) for drawn in times])
            figures = piece.figures()
            halves = self._halves(resampled, len(figures))
            for (name, value), half in zip(figures.items(), halves, strict=True):
                self._note(key, name, value, half, whole.n_users)
        curve = whole.reliability()
        shares = np.array([whole.resampled_shares(drawn[None])[0] for drawn in times])
        self._curves.append((curve, np.array(self._halves(shares, len(curve.n)))))
        self._histograms.append(whole.histogram())

    def _draws(self, n_users: int) -> Iterator[NDArray[np.int64]]:
        """Users drawn with replacement; none where the interval is over seeds."""
        rng = np.random.default_rng(0)
        for _ in range(RESAMPLES if self._over_users else 0):
            yield rng.integers(0, n_users, n_users)

    def _halves(self, resampled: NDArray[np.float64], n_figures: int) -> list[float]:
        """Half of each figure's interval, by the spread over the draws."""
        if not self._over_users:
            return [math.nan] * n_figures
        defined = ~np.isnan(resampled)
        n = defined.sum(axis=0)
        mean = np.where(defined, resampled, 0).sum(axis=0) / np.maximum(n, 1)
        squares = np.square(np.where(defined, resampled - mean, 0)).sum(axis=0)
        halves = np.where(n > 1, 1.96 * np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
        return [float(half) for half in halves]

    def _note_users(self, key: _Key, name: str, values: NDArray[np.float64]) -> None:
        """One value a user, NaN for users who do not count."""
        if self._over_users and key == _WHOLE:
            self._of_users[name].append(values)
        else:
            self._of_splits[key, name].append(metrics.normal_interval(values))

    def _note(self, key: _Key, name: str, value: float, half: float, n: int) -> None:
        self._of_splits[key, name].append(Interval(value, value - half, value + half, n))

    def by_seed(self, key: _Key = _WHOLE) -> dict[str, list[float]]:
        """Every figure, split after split."""
        result = {
            name: [interval.mean for interval in intervals]
            for (its_key, name), intervals in self._of_splits.items()
            if its_key == key
        }
        if key == _WHOLE:
            for name, values in self._of_users.items():
                result[name] = [metrics.normal_interval(of_split).mean for of_split in values]
        return result

    def figures(self, key: _Key = _WHOLE) -> dict[str, Interval]:
        """Every figure with its interval."""
        if not self._over_users:
            return {name: over_seeds(values) for name, values in self.by_seed(key).items()}
        result = {}
        if key == _WHOLE:
            result = {name: metrics.normal_interval(values) for name, values in self._user_by_user().items()}
        for (its_key, name), intervals in self._of_splits.items():
            if its_key == key:
                mean, low, high = (
                    float(np.mean([getattr(interval, end) for interval in intervals]))
                    for end in ("mean", "low", "high")
                )
                result[name] = Interval(mean, low, high, intervals[0].n)
        return result

    def behind(self, first: "MethodFigures") -> dict[str, Interval]:
        """The figures of `first` less these, in pairs of users or of seeds."""
        if self._over_users:
            own, others = self._user_by_user(), first._user_by_user()  # noqa: SLF001
            return {name: metrics.normal_interval(others[name] - own[name]) for name in own if name in others}
        theirs = first.by_seed()
        return {
            name: over_seeds(np.subtract(theirs[name], values).tolist())
            for name, values in self.by_seed().items()
            if name in theirs
        }

    def _user_by_user(self) -> dict[str, NDArray[np.float64]]:
        """Each user's mean over the splits, which must be of the same users."""
        return {name: _mean_of_splits(np.array(values)) for name, values in self._of_users.items()}

    def reliability(self) -> list[ReliabilityBin]:
        """The curve, bin by bin, without splits of too few ratings for all bins."""
        n_bins = max((len(curve.n) for curve, _ in self._curves), default=0)
        curves = [(curve, halves) for curve, halves in self._curves if len(curve.n) == n_bins]
        result = []
        for place in range(n_bins):
            observed = [curve.came_true[place] for curve, _ in curves]
            mean, half = float(np.mean(observed)), float(np.mean([halves[place] for _, halves in curves]))
            over_users = Interval(mean, mean - half, mean + half, len(curves))
            result.append(
                ReliabilityBin(
                    predicted=float(np.mean([curve.predicted[place] for curve, _ in curves])),
                    observed=over_users if self._over_users else over_seeds(observed),
                    n=float(np.mean([curve.n[place] for curve, _ in curves])),
                )
            )
        return result

    def histogram(self) -> list[float]:
        """Test ratings by like_probability, on average over the splits."""
        return [float(n) for n in np.mean(self._histograms, axis=0)] if self._histograms else []


class Scoreboard:
    """The table of one task while it is being filled."""

    def __init__(self, over_users: bool) -> None:
        self._over_users = over_users
        self._methods: dict[str, MethodFigures] = {}
        self._n_users: list[int] = []
        self._n_test_ratings: list[int] = []
        self._sizes: dict[_Key, list[tuple[float, float, float, float]]] = defaultdict(list)

    def of(self, method: str) -> MethodFigures:
        """The figures of a method."""
        return self._methods.setdefault(method, MethodFigures(self._over_users))

    def count(self, task: Task, subsets: Sequence[Subset]) -> None:
        """Note the sizes of a split."""
        self._n_users.append(int(np.count_nonzero(task.test.lengths)))
        self._n_test_ratings.append(task.test.n_ratings)
        for subset in subsets:
            size = float(subset.chosen.sum())
            self._sizes[subset.key].append((size, subset.fewest, subset.most, subset.test_share))

    def section(self, title: str) -> Section:
        """The finished table."""
        first = next(iter(self._methods.values()))
        rows = [
            Row(
                name,
                method.figures(),
                method.by_seed(),
                {} if method is first else method.behind(first),
                method.reliability(),
                method.histogram(),
                method.skipped,
            )
            for name, method in self._methods.items()
        ]
        slices = []
        for key, sizes in self._sizes.items():
            n, fewest, most, test_share = (float(value) for value in np.mean(sizes, axis=0))
            of_slice = [Row(name, method.figures(key)) for name, method in self._methods.items()]
            of_slice = [row for row in of_slice if row.figures]
            slices.append(Slice(cast(SliceKind, key[0]), key[1], n, fewest, most, test_share, of_slice))
        n_users, n_test_ratings = float(np.mean(self._n_users)), float(np.mean(self._n_test_ratings))
        return Section(title, n_users, n_test_ratings, rows, slices)


def _named(name: str, k: int) -> str:
    """The name of a figure at k ranks."""
    return name if k == DEPTHS[0] else f"{name}_at_{k}"


def over_seeds(values: list[float]) -> Interval:
    """The mean over seeds with its interval by Student's t."""
    n = sum(not math.isnan(value) for value in values)
    quantile = float(stdtrit(n - 1, (1 + LEVEL) / 2)) if n > 1 else math.inf
    return metrics.normal_interval(np.array(values), z=quantile)


def _mean_of_splits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each user's mean, NaN where all are; shape (n_splits, n_users) -> (n_users,)."""
    defined = ~np.isnan(values)
    result = np.full(values.shape[1], np.nan)
    np.divide(np.nansum(values, axis=0), defined.sum(axis=0), out=result, where=defined.any(axis=0))
    return result

"""The tables of an evaluation: every figure of every contestant, as a whole and by slices, with intervals.

A split asks `Question`s. Each contestant's lists and probabilities are measured on each of them, and a
`Scoreboard` for each question gathers over all splits what came out.

Figures of lists count over the users who have a test rating. Slices divide the same figures:

- users by the number of ratings that they are folded in with, in thirds: few, middle, many. Where all have
  the same number there are none.
- movies by their training ratings: the head makes the first third of all ratings, then middle, then tail
  (`metrics.popularity_classes`).
- movies by genre, where genres are known; one with several genres counts in each.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from app.learning import metrics
from app.learning.baselines import Scorer
from app.learning.evaluation import (
    RANKING_METRICS,
    Judge,
    Judged,
    Reliability,
    list_quality,
    ranked_lists,
    relevant_rows,
)
from app.learning.metrics import Interval
from app.learning.preferences import RatingRows

DEPTHS = (10, 20)  # ranks that count; a figure's name says those of the second only
RESAMPLES = 200  # of users, for the interval of one split's AUC, Brier, ECE, |v - v'| and coverage
LEVEL = 0.95  # of every interval

Divided = Literal["users", "movies", "genre"]


@dataclass(frozen=True)
class ReliabilityBin:
    """Test ratings whose like_probability is about the same.

    Attributes:
        predicted: their mean like_probability.
        observed: share of them that were liked.
        n: how many, on average over the seeds.
    """

    predicted: float
    observed: Interval
    n: float


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: what ranked or judged.
        figures: by name. Of what ranks: ndcg, precision, recall, average_precision and reciprocal_rank at
            10, each as any_… (every test rating is relevant) and relevant_… (those of at least
            `relevant_at_least` stars); coverage of the catalogue, novelty (bits) and popularity (share of
            the training users who rated a shown movie) of the first 10; the same of 20 as …_at_20. Of what
            judges: auc, brier, calibration_error and absolute_difference of like_probability, and
            auc_relevant, of the same numbers at `relevant_at_least`. In slices of movies: any_recall,
            relevant_recall, coverage, and shown, the share of the ranks that go to these movies.
        by_seed: the same figures seed by seed, to compare two rows in pairs.
        behind: the machine's figure less this one's, in pairs (of seeds or users), by name.
        reliability: of what judges: the bins of its reliability curve.
        histogram: of what judges: test ratings by like_probability, from 0 to 1 in steps of equal width, on
            average over the seeds.
        skipped: why there are no figures.
    """

    name: str
    figures: dict[str, Interval] = field(default_factory=dict)
    by_seed: dict[str, list[float]] = field(default_factory=dict)
    behind: dict[str, Interval] = field(default_factory=dict)
    reliability: list[ReliabilityBin] = field(default_factory=list)
    histogram: list[float] = field(default_factory=list)
    skipped: str | None = None


@dataclass(frozen=True)
class Slice:
    """The figures of some of the users, or of some of the movies.

    Attributes:
        kind: what is divided.
        name: few, middle or many; head, middle or tail; or the genre.
        n: users or movies, on average over the seeds.
        fewest, most: ratings that one of these users is folded in with, or training ratings of one of these
            movies, on average over the seeds.
        test_share: share of all test ratings that are by these users, or of these movies.
        rows: in the order of the section; only those with figures.
    """

    kind: Divided
    name: str
    n: float
    fewest: float
    most: float
    test_share: float
    rows: list[Row]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Section:
    """A table of a protocol.

    Attributes:
        title: whose lists these are; empty where the protocol has one table only.
        n_users: who have a test rating, on average over the seeds.
        n_test_ratings: the same of test ratings.
        rows: the machine's first.
        slices: users first, then movies, then genres.
    """

    title: str
    n_users: float
    n_test_ratings: float
    rows: list[Row]
    slices: list[Slice]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)

    def slices_of(self, kind: str) -> list[Slice]:
        """Those of one kind."""
        return [one for one in self.slices if one.kind == kind]


@dataclass(frozen=True)
class Question:
    """What one seed's machine is asked: the ratings given and the test ratings of the same users."""

    title: str
    given: RatingRows
    test: RatingRows


@dataclass(frozen=True, eq=False)
class Part:
    """Whom or what a slice holds in one split; `chosen` is over the users asked, or over all movies."""

    kind: Divided
    name: str
    chosen: NDArray[np.bool_]
    fewest: float
    most: float
    test_share: float

    @property
    def key(self) -> "_Key":
        return self.kind, self.name


_Key = tuple[str, str]
_WHOLE: _Key = ("", "")


def parts_of(
    asked: Question, training_rows: RatingRows, genres: Mapping[str, NDArray[np.bool_]]
) -> list[Part]:
    """Users by what is known of them, movies by popularity and by genre.

    Args:
        asked: the question, with at least one test rating.
        training_rows: what popularity is counted in.
        genres: the movies of each genre, shape (n_movies,).
    """
    lengths, counts = asked.given.lengths, training_rows.ratings_per_movie()
    classes = metrics.popularity_classes(counts)
    found: list[tuple[Divided, str, NDArray[np.bool_]]] = []
    low, high = np.quantile(lengths, [1 / 3, 2 / 3])
    thirds = (lengths <= low, (lengths > low) & (lengths <= high), lengths > high)
    if all(third.any() for third in thirds):
        found += [
            ("users", name, third) for name, third in zip(("few", "middle", "many"), thirds, strict=True)
        ]
    for number, name in ((metrics.HEAD, "head"), (metrics.MIDDLE, "middle"), (metrics.TAIL, "tail")):
        found.append(("movies", name, classes == number))
    found += [("genre", name, genres[name]) for name in sorted(genres)]
    result = []
    for kind, name, chosen in found:
        ratings, owner = (lengths, asked.test.users) if kind == "users" else (counts, asked.test.indices)
        if chosen.any():
            its = ratings[chosen]
            test_share = float(chosen[owner].mean())
            result.append(Part(kind, name, chosen, float(its.min()), float(its.max()), test_share))
    return result


class _Measured:
    """What one contestant did, split after split."""

    def __init__(self, over_users: bool) -> None:
        self.skipped: str | None = None
        self._over_users = over_users
        # One value a user, by the figure's name: of the whole only, and only where intervals are over users,
        # kept for pairs. All else is over the users of a split, by the slice's key and the figure's name.
        self._of_users: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        self._of_splits: dict[tuple[_Key, str], list[Interval]] = defaultdict(list)
        self._reliability: list[tuple[Reliability, NDArray[np.float64]]] = []  # and half the intervals

    def rank(
        self,
        scorer: Scorer,
        asked: Question,
        parts: Sequence[Part],
        training_rows: RatingRows,
        relevant_at_least: float,
    ) -> None:
        """Look at the lists."""
        ranked = ranked_lists(scorer.scores, asked.given, max(DEPTHS))
        counts = training_rows.ratings_per_movie()
        information = metrics.self_information(counts, training_rows.n_users)
        of_users = [part for part in parts if part.kind == "users"]
        of_movies = [part for part in parts if part.kind != "users"]
        for kind, least in (("any", None), ("relevant", relevant_at_least)):
            wanted = relevant_rows(asked.test, least)
            hits = metrics.hits_of(ranked, wanted)
            for k in DEPTHS:
                quality = list_quality(ranked, asked.test, relevant_at_least=least, k=k)
                for metric in RANKING_METRICS:
                    values, name = getattr(quality, metric), _named(f"{kind}_{metric}", k)
                    self._note_users(_WHOLE, name, values)
                    for part in of_users:
                        self._note_users(part.key, name, np.where(part.chosen, values, np.nan))
            for part in of_movies:
                n_wanted = np.bincount(wanted.users, part.chosen[wanted.indices], wanted.n_users)
                its_hits = hits & part.chosen[ranked]  # a hit is never at -1
                for k in DEPTHS:
                    name = _named(f"{kind}_recall", k)
                    self._note_users(
                        part.key, name, metrics.recall_at(its_hits, n_wanted.astype(np.int64), k)
                    )
        groups = np.array([np.ones(counts.size, np.bool_), *(part.chosen for part in of_movies)])
        keys = [_WHOLE, *(part.key for part in of_movies)]
        for k in DEPTHS:
            shown = ranked[:, :k]
            for name, value in (("novelty", information), ("popularity", counts / training_rows.n_users)):
                self._note_users(_WHOLE, _named(name, k), metrics.mean_over_shown(shown, value))
            for part in of_movies:
                share = metrics.mean_over_shown(shown, part.chosen)
                self._note_users(part.key, _named("shown", k), share)
            # Only the spread of the draws is used: fewer different users are shown fewer movies.
            again = [metrics.coverage(shown[users], groups) for users in self._draws(asked.test.n_users)]
            halves = self._halves(np.array(again), len(keys))
            for key, value, half in zip(keys, metrics.coverage(shown, groups), halves, strict=True):
                self._note(key, _named("coverage", k), float(value), half, asked.test.n_users)

    def judge(
        self,
        judge: Judge,
        asked: Question,
        parts: Sequence[Part],
        liked_at_least: float,
        relevant_at_least: float,
    ) -> None:
        """Look at the probabilities of the test ratings."""
        whole = Judged.of(
            judge,
            asked.given,
            asked.test,
            liked_at_least=liked_at_least,
            relevant_at_least=relevant_at_least,
        )
        pieces = {_WHOLE: whole} | {
            part.key: whole.where(part.chosen[whole.users if part.kind == "users" else whole.movies])
            for part in parts
            if part.kind != "genre"
        }
        # Ratings of one user are not independent, so users are drawn. Only the spread of the draws is used:
        # their mean ECE is too high.
        times = [
            np.bincount(users, minlength=whole.n_users).astype(np.int16)
            for users in self._draws(whole.n_users)
        ]
        for key, piece in pieces.items():
            again = np.array([list(piece.figures(one).values()) for one in times])
            figures = piece.figures()
            for (name, value), half in zip(figures.items(), self._halves(again, len(figures)), strict=True):
                self._note(key, name, value, half, whole.n_users)
        curve = whole.reliability()
        observed = np.array([whole.observed_again(one[None])[0] for one in times])
        self._reliability.append((curve, np.array(self._halves(observed, curve.n.size))))

    def _draws(self, n_users: int) -> Iterator[NDArray[np.int64]]:
        """Users drawn with replacement; none where the interval is over seeds."""
        rng = np.random.default_rng(0)
        for _ in range(RESAMPLES if self._over_users else 0):
            yield rng.integers(0, n_users, n_users)

    def _halves(self, again: NDArray[np.float64], n_figures: int) -> list[float]:
        """Half of each figure's interval, by the spread over the draws."""
        if not self._over_users:
            return [math.nan] * n_figures
        defined = ~np.isnan(again)
        n = defined.sum(axis=0)
        mean = np.where(defined, again, 0).sum(axis=0) / np.maximum(n, 1)
        squares = np.square(np.where(defined, again - mean, 0)).sum(axis=0)
        return [
            float(half) for half in np.where(n > 1, 1.96 * np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
        ]

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
            name: [one.mean for one in values]
            for (its, name), values in self._of_splits.items()
            if its == key
        }
        if key == _WHOLE:
            for name, values in self._of_users.items():
                result[name] = [metrics.normal_interval(one).mean for one in values]
        return result

    def figures(self, key: _Key = _WHOLE) -> dict[str, Interval]:
        """Every figure with its interval."""
        if not self._over_users:
            return {name: over_seeds(values) for name, values in self.by_seed(key).items()}
        result = {}
        if key == _WHOLE:
            result = {name: metrics.normal_interval(one) for name, one in self._user_by_user().items()}
        for (its, name), intervals in self._of_splits.items():
            if its == key:
                mean, low, high = (
                    float(np.mean([getattr(one, end) for one in intervals]))
                    for end in ("mean", "low", "high")
                )
                result[name] = Interval(mean, low, high, intervals[0].n)
        return result

    def behind(self, first: "_Measured") -> dict[str, Interval]:
        """The other's figures less these, in pairs of users or of seeds."""
        if self._over_users:
            own, others = self._user_by_user(), first._user_by_user()  # noqa: SLF001
            return {name: metrics.normal_interval(others[name] - own[name]) for name in own if name in others}
        theirs = first.by_seed()
        return {
            name: over_seeds([one - other for one, other in zip(theirs[name], values, strict=True)])
            for name, values in self.by_seed().items()
            if name in theirs
        }

    def _user_by_user(self) -> dict[str, NDArray[np.float64]]:
        """Each user's mean over the splits, which must be of the same users."""
        return {name: _mean_of_splits(np.array(values)) for name, values in self._of_users.items()}

    def reliability(self) -> list[ReliabilityBin]:
        """The curve, bin by bin. With few ratings a split may have fewer bins; then it is left out."""
        n_bins = max((curve.n.size for curve, _ in self._reliability), default=0)
        curves = [one for one in self._reliability if one[0].n.size == n_bins]
        result = []
        for place in range(n_bins):
            observed = [float(curve.observed[place]) for curve, _ in curves]
            mean, half = float(np.mean(observed)), float(np.mean([halves[place] for _, halves in curves]))
            result.append(
                ReliabilityBin(
                    predicted=float(np.mean([curve.predicted[place] for curve, _ in curves])),
                    observed=Interval(mean, mean - half, mean + half, len(curves))
                    if self._over_users
                    else over_seeds(observed),
                    n=float(np.mean([curve.n[place] for curve, _ in curves])),
                )
            )
        return result

    def histogram(self) -> list[float]:
        """Test ratings by like_probability."""
        if not self._reliability:
            return []
        counts: list[float] = np.mean([curve.histogram for curve, _ in self._reliability], axis=0).tolist()
        return counts


class Scoreboard:
    """A table while it is being filled."""

    def __init__(self, over_users: bool) -> None:
        self._over_users = over_users
        self._measured: dict[str, _Measured] = {}
        self._n_users: list[int] = []
        self._n_test_ratings: list[int] = []
        self._parts: dict[_Key, list[tuple[float, float, float, float]]] = defaultdict(list)

    def of(self, name: str) -> _Measured:
        """What the contestant did."""
        return self._measured.setdefault(name, _Measured(self._over_users))

    def count(self, asked: Question, parts: Sequence[Part]) -> None:
        """Note how much was asked."""
        self._n_users.append(int(np.count_nonzero(asked.test.lengths)))
        self._n_test_ratings.append(asked.test.n_ratings)
        for part in parts:
            size = float(part.chosen.sum())
            self._parts[part.key].append((size, part.fewest, part.most, part.test_share))

    def section(self, title: str) -> Section:
        """The finished table."""
        first = next(iter(self._measured.values()))
        rows = [
            Row(
                name,
                measured.figures(),
                measured.by_seed(),
                {} if measured is first else measured.behind(first),
                measured.reliability(),
                measured.histogram(),
                measured.skipped,
            )
            for name, measured in self._measured.items()
        ]
        slices = []
        for key, sizes in self._parts.items():
            n, fewest, most, test_share = (float(value) for value in np.mean(sizes, axis=0))
            its = [Row(name, measured.figures(key)) for name, measured in self._measured.items()]
            kind = cast(Divided, key[0])
            its = [row for row in its if row.figures]
            slices.append(Slice(kind, key[1], n, fewest, most, test_share, its))
        return Section(
            title, float(np.mean(self._n_users)), float(np.mean(self._n_test_ratings)), rows, slices
        )


def _named(name: str, k: int) -> str:
    """The name of a figure at k ranks."""
    return name if k == DEPTHS[0] else f"{name}_at_{k}"


def over_seeds(values: list[float]) -> Interval:
    """The mean over seeds and its interval by Student's t, which is wide where there are few."""
    n = sum(not math.isnan(value) for value in values)
    quantile = float(stdtrit(n - 1, (1 + LEVEL) / 2)) if n > 1 else math.inf
    return metrics.normal_interval(np.array(values), z=quantile)


def _mean_of_splits(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each user's mean, NaN where it is in every split; the splits must be of the same users."""
    defined = ~np.isnan(values)
    result = np.full(values.shape[1], np.nan)
    np.divide(np.nansum(values, axis=0), defined.sum(axis=0), out=result, where=defined.any(axis=0))
    return result

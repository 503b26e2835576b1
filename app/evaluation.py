"""Measure the machine beside its baselines on a file of ratings; needs no database and no server.

Three protocols, all of which rank the full catalogue without what the user was given:

- stratified: of each user's ratings 75 % train and 25 % test, by a seeded split.
- temporal: the newest 25 % of all ratings test. Users without training ratings are reported apart.
- new-users: an eighth of the users, with 25 ratings at least, never train; 1, 3, 5, 10, 20 and half of their
  ratings are folded in, the rest test. The first of the longer ones are the shorter ones.

What a ranking or a probability is made from is the training ratings (or those folded in) and nothing else.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from app import rating_files
from app.errors import InvalidInput, TooLittleTrainingData, TrainingDiverged
from app.learning import metrics, splitting
from app.learning.baselines import (
    EASE,
    BiasedFactorisation,
    ItemNeighbours,
    LikeBiases,
    Popularity,
    Scorer,
    Sum,
    TooManyMovies,
)
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import ranking_quality
from app.learning.machines import Machines
from app.learning.metrics import Interval
from app.learning.preferences import RatingRows
from app.learning.training import Diverged, TooLittleData, completed, train
from app.learning.vocabulary import Vocabulary
from app.rating_files import RatingChunk
from app.ratings import UNTIMED
from app.settings import Settings

ProtocolName = Literal["stratified", "temporal", "new-users"]
PROTOCOLS: tuple[ProtocolName, ...] = ("stratified", "temporal", "new-users")

RANKS = 10  # that count
NEW_USER_RATINGS = (1, 3, 5, 10, 20, None)  # folded in; None: half of them
NEW_USER_LEAST = 25  # ratings of a held-out user who takes part
CELLS_AT_ONCE = 4_000_000  # users x movies of one block of probabilities
RESAMPLES = 200  # of users, for the interval of one split's AUC, Brier and ECE
LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class RatingData:
    """What is read of a file.

    Attributes:
        rows: the ratings.
        vocabulary: the movies of the columns.
        rated_at: int64 of shape (n_ratings,), microseconds since 1970, in the order of `rows`; `UNTIMED`
            where the file says nothing.
    """

    rows: RatingRows
    vocabulary: Vocabulary
    rated_at: NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: what ranked or judged.
        figures: by name. Of what ranks: ndcg, precision, recall, average_precision and reciprocal_rank at
            10, each as any_… (every test rating is relevant) and relevant_… (those of at least
            `relevant_at_least` stars). Of what judges: auc, brier and calibration_error of like_probability,
            and auc_relevant, of the same numbers at `relevant_at_least`.
        by_seed: the same figures seed by seed, to compare two rows in pairs.
        skipped: why there are no figures.
    """

    name: str
    figures: dict[str, Interval] = field(default_factory=dict)
    by_seed: dict[str, list[float]] = field(default_factory=dict)
    skipped: str | None = None


@dataclass(frozen=True)
class Section:
    """A table of a protocol.

    Attributes:
        title: whose lists these are; empty where the protocol has one table only.
        n_users: who have a test rating, on average over the seeds.
        n_test_ratings: the same of test ratings.
        rows: the machine's first.
    """

    title: str
    n_users: float
    n_test_ratings: float
    rows: list[Row]

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Evaluation:
    """All tables of a protocol.

    Attributes:
        protocol: which.
        seeds: of the splits and the machines.
        liked_at_least: stars that like_probability is about.
        relevant_at_least: stars of a good recommendation.
        interval: what the 95 % intervals are taken over, in words.
        sections: the tables.
    """

    protocol: ProtocolName
    seeds: list[int]
    liked_at_least: float
    relevant_at_least: float
    interval: str
    sections: list[Section]


class Judge(Protocol):
    """What gives probabilities."""

    def like_probability(
        self, rows: RatingRows, columns: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """Shape (n_users, m or n_movies)."""


@dataclass(frozen=True)
class _Asked:
    """What one seed's machine is asked: the ratings given and the test ratings of the same users."""

    title: str
    given: RatingRows
    test: RatingRows


def read_rows(path: Path, settings: Settings) -> RatingData:
    """The ratings of a file, the newest of each user and movie; `InvalidInput` for a file with bad rows."""
    user_numbers: dict[str, int] = {}
    movie_numbers: dict[str, int] = {}
    columns: list[tuple[NDArray[Any], ...]] = []
    found = rating_files.recognise(
        path,
        kind="ratings",
        stars_min=settings.stars_min,
        stars_max=settings.stars_max,
        unpacked_limit=settings.unpacked_limit,
    )
    for chunk in found.chunks():
        if not isinstance(chunk, RatingChunk):
            continue
        if chunk.errors:
            raise InvalidInput(
                f"{path}: {chunk.errors[0].location}: {chunk.errors[0].message}", errors=chunk.errors
            )
        users = np.array([user_numbers.setdefault(one, len(user_numbers)) for one in chunk.users], np.int64)
        movies = np.array(
            [movie_numbers.setdefault(one, len(movie_numbers)) for one in chunk.movies], np.int64
        )
        columns.append((users[chunk.user_codes], movies[chunk.movie_codes], chunk.stars, chunk.rated_at))
    if not columns:
        raise InvalidInput(f"{path} holds no ratings.")
    users, movies, stars, rated_at = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    # Equal scores go by column, and in order of appearance that would tell something of the test ratings.
    movie_ids = sorted(movie_numbers)
    place = np.empty(len(movie_ids), np.int64)
    place[[movie_numbers[movie_id] for movie_id in movie_ids]] = np.arange(len(movie_ids))
    movies = place[movies]
    # The newest of each pair, at equal times the last in the file. By user, then by movie: the order of rows.
    order = np.lexsort((rated_at, movies, users))
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (np.diff(users[order]) != 0) | (np.diff(movies[order]) != 0)
    kept = order[is_last]
    rows = RatingRows.from_coordinates(
        users[kept],
        movies[kept],
        stars[kept].astype(np.float32),
        n_users=len(user_numbers),
        n_movies=len(movie_ids),
    )
    return RatingData(rows, Vocabulary(movie_ids), rated_at[kept])


def evaluate(
    data: RatingData,
    protocol: ProtocolName,
    configuration: TrainingConfiguration,
    *,
    seeds: list[int],
    relevant_at_least: float,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Evaluation:
    """Split, train and rank once a seed: the machine's row first, then those of the baselines.

    Raises:
        InvalidInput: the ratings do not allow the protocol.
        TooLittleTrainingData, TrainingDiverged: of the machine.
    """
    gathered: dict[str, _Gathered] = {}
    liked_at_least = configuration.liked_at_least
    for number, seed in enumerate(seeds):
        training_rows, questions = _split(data, protocol, seed)

        def report(share: float, number: int = number) -> None:
            on_progress((number + share) / len(seeds))

        configured = replace(configuration, seed=seed)
        machines = _trained(training_rows, data.vocabulary, configured, lambda share: report(0.9 * share))
        contestants = _contestants(machines, training_rows, liked_at_least, relevant_at_least, seed)
        for name, ranks, judges, skipped in contestants:
            for asked in questions:
                table = gathered.setdefault(asked.title, _Gathered())
                measured = table.of(name)
                measured.skipped = skipped
                if ranks is not None:
                    measured.rank(ranks, asked, relevant_at_least)
                if judges is not None:
                    measured.judge(judges, asked, liked_at_least, relevant_at_least)
        for asked in questions:
            gathered[asked.title].count(asked)
        report(1.0)
    # The temporal split knows no seed: only the machine's chance differs, and that is not what is uncertain.
    over_users = len(seeds) == 1 or protocol == "temporal"
    return Evaluation(
        protocol,
        seeds,
        liked_at_least,
        relevant_at_least,
        "users" if over_users else "seeds",
        [table.section(title, over_users) for title, table in gathered.items()],
    )


def as_json(found: Evaluation) -> dict[str, Any]:
    """Every figure, as values that JSON knows: a number that is not finite becomes None."""
    return cast(dict[str, Any], _finite(asdict(found)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _split(data: RatingData, protocol: ProtocolName, seed: int) -> tuple[RatingRows, list[_Asked]]:
    """The rows that train, and what is asked then."""
    rows = data.rows
    if protocol == "stratified":
        training_rows, test = splitting.stratified(rows, np.random.default_rng(seed))
        return training_rows, [_Asked("", training_rows, test)]
    if protocol == "temporal":
        if (data.rated_at == UNTIMED).any():
            raise InvalidInput("The temporal protocol needs the time of every rating, and some have none.")
        training_rows, test = splitting.temporal(rows, data.rated_at)
        return training_rows, [
            _Asked(title, training_rows.rows(users), test.rows(users))
            for title, users in (
                ("with training ratings", np.flatnonzero((test.lengths > 0) & (training_rows.lengths > 0))),
                (
                    "without training ratings",
                    np.flatnonzero((test.lengths > 0) & (training_rows.lengths == 0)),
                ),
            )
            if users.size
        ]
    rng = np.random.default_rng(seed)
    training_rows, held_out = splitting.new_users(rows, rng)
    held_out = held_out.rows(np.flatnonzero(held_out.lengths >= NEW_USER_LEAST))
    if not held_out.n_users:
        raise InvalidInput(
            f"No held-out user has {NEW_USER_LEAST} ratings, which the new-users protocol needs."
        )
    questions = []
    for n_given in NEW_USER_RATINGS:
        # The same stream for every n, and so the same order of a user's ratings: more of them are told.
        given, test = splitting.given(held_out, np.random.default_rng([seed, 1]), n_given)
        title = "half of their ratings" if n_given is None else f"{n_given} rating{'s'[: n_given > 1]}"
        questions.append(_Asked(title, given, test))
    return training_rows, questions


def _trained(
    rows: RatingRows,
    vocabulary: Vocabulary,
    configuration: TrainingConfiguration,
    on_progress: Callable[[float], None],
) -> Machines:
    try:
        return completed(train(rows, vocabulary, configuration), lambda report: on_progress(report.progress))
    except TooLittleData as error:
        raise TooLittleTrainingData(str(error)) from error
    except Diverged as error:
        raise TrainingDiverged(str(error)) from error


@dataclass(frozen=True)
class _Blended:
    """A machine's lists as they are served."""

    machines: Machines

    def scores(self, rows: RatingRows) -> NDArray[np.float32]:
        return self.machines.blended_scores(rows)


def _contestants(
    machines: Machines, rows: RatingRows, liked_at_least: float, relevant_at_least: float, seed: int
) -> Iterator[tuple[str, Scorer | None, Judge | None, str | None]]:
    """Name, what ranks, what judges, and why it was left out; one is fitted when its turn comes."""
    yield "machine", _Blended(machines), machines, None
    yield "popularity", Popularity(rows), None, None
    yield "item neighbours", ItemNeighbours(rows), None, None
    try:
        rated, liked = EASE(rows), EASE(rows, liked_at_least=relevant_at_least)
    except TooManyMovies as error:
        for name in ("EASE rated", "EASE liked", "EASE summed"):
            yield name, None, None, str(error)
    else:
        yield "EASE rated", rated, None, None
        yield "EASE liked", liked, None, None
        yield "EASE summed", Sum([rated, liked]), None, None
    rng = np.random.default_rng([seed, 2])
    yield "biases", None, LikeBiases(rows, liked_at_least=liked_at_least, rng=rng), None
    yield (
        "factorisation",
        None,
        BiasedFactorisation(rows, liked_at_least=liked_at_least, rng=rng),
        None,
    )


class _Measured:
    """What one contestant did, split after split."""

    def __init__(self) -> None:
        self.skipped: str | None = None
        self._of_users: dict[str, list[NDArray[np.float64]]] = defaultdict(list)  # one value a user
        self._of_splits: dict[str, list[Interval]] = defaultdict(list)  # over users

    def rank(self, scorer: Scorer, asked: _Asked, relevant_at_least: float) -> None:
        """Look at the lists."""
        for kind, least in (("any", None), ("relevant", relevant_at_least)):
            quality = ranking_quality(
                scorer.scores, asked.given, asked.test, relevant_at_least=least, k=RANKS
            )
            for metric in ("ndcg", "precision", "recall", "average_precision", "reciprocal_rank"):
                self._of_users[f"{kind}_{metric}"].append(getattr(quality, metric))

    def judge(self, judge: Judge, asked: _Asked, liked_at_least: float, relevant_at_least: float) -> None:
        """Look at the probabilities of the test ratings."""
        probability = probabilities(judge, asked.given, asked.test)
        liked, relevant = (
            asked.test.stars >= np.float32(least) for least in (liked_at_least, relevant_at_least)
        )

        def measure(chosen: NDArray[np.int64] | slice) -> list[float]:
            return [
                metrics.auc(liked[chosen], probability[chosen]),
                metrics.auc(relevant[chosen], probability[chosen]),
                metrics.brier(liked[chosen], probability[chosen]),
                metrics.expected_calibration_error(liked[chosen], probability[chosen]),
            ]

        # Ratings of one user are not independent, so users are drawn. Only the spread of the draws is used:
        # their mean ECE is too high.
        test, rng = asked.test, np.random.default_rng(0)
        draws = np.array(
            [measure(_entries(test, rng.integers(0, test.n_users, test.n_users))) for _ in range(RESAMPLES)]
        )
        error = 1.96 * draws.std(axis=0, ddof=1)
        names = ("auc", "auc_relevant", "brier", "calibration_error")
        for name, value, half in zip(names, measure(slice(None)), error.tolist(), strict=True):
            self._of_splits[name].append(Interval(value, value - half, value + half, test.n_users))

    def by_seed(self) -> dict[str, list[float]]:
        """Every figure, split after split."""
        of_users = {
            name: [metrics.normal_interval(one).mean for one in values]
            for name, values in self._of_users.items()
        }
        return of_users | {name: [one.mean for one in values] for name, values in self._of_splits.items()}

    def figures(self, over_users: bool) -> dict[str, Interval]:
        """Every figure with its interval."""
        if not over_users:
            return {name: over_seeds(values) for name, values in self.by_seed().items()}
        result = {
            name: metrics.normal_interval(_mean_of_splits(np.array(values)))
            for name, values in self._of_users.items()
        }
        for name, intervals in self._of_splits.items():
            mean, low, high = (
                float(np.mean([getattr(one, end) for one in intervals])) for end in ("mean", "low", "high")
            )
            result[name] = Interval(mean, low, high, intervals[0].n)
        return result


class _Gathered:
    """A table while it is being filled."""

    def __init__(self) -> None:
        self._measured: dict[str, _Measured] = {}
        self._n_users: list[int] = []
        self._n_test_ratings: list[int] = []

    def of(self, name: str) -> _Measured:
        """What the contestant did."""
        return self._measured.setdefault(name, _Measured())

    def count(self, asked: _Asked) -> None:
        """Note how much was asked."""
        self._n_users.append(int(np.count_nonzero(asked.test.lengths)))
        self._n_test_ratings.append(asked.test.n_ratings)

    def section(self, title: str, over_users: bool) -> Section:
        """The finished table."""
        rows = [
            Row(name, measured.figures(over_users), measured.by_seed(), measured.skipped)
            for name, measured in self._measured.items()
        ]
        return Section(title, float(np.mean(self._n_users)), float(np.mean(self._n_test_ratings)), rows)


def probabilities(judge: Judge, given: RatingRows, test: RatingRows) -> NDArray[np.float32]:
    """like_probability of every test rating from the same users' given ratings, shape (n_ratings,)."""
    result = np.empty(test.n_ratings, np.float32)
    block = max(1, CELLS_AT_ONCE // max(test.n_movies, 1))
    for start in range(0, test.n_users, block):
        users = np.arange(start, min(start + block, test.n_users))
        asked = test.rows(users)
        its = slice(test.indptr[users[0]], test.indptr[users[-1] + 1])
        result[its] = judge.like_probability(given.rows(users))[asked.users, asked.indices]
    return result


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


def _entries(rows: RatingRows, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the ratings of the drawn users lie, those of one drawn twice two times."""
    starts, lengths = rows.indptr[users], rows.lengths[users]
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())

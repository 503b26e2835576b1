"""Measure the machine beside its baselines on a file of ratings; needs no database and no server.

Three protocols, all of which rank the full catalogue without what the user was given:

- stratified: of each user's ratings 75 % train and 25 % test, by a seeded split.
- temporal: the newest 25 % of all ratings test. Users without training ratings are reported apart.
- new-users: an eighth of the users, with 25 ratings at least, never train; 1, 3, 5, 10, 20 and half of their
  ratings are folded in, the rest test. The first of the longer ones are the shorter ones.

What a ranking or a probability is made from is the training ratings (or those folded in) and nothing else.
"""

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from app import implicit_als, rating_files, training_costs
from app.catalogue import MovieEntry
from app.errors import InvalidInput, TooLittleTrainingData, TrainingDiverged
from app.learning import splitting
from app.learning.baselines import (
    EASE,
    EASE_MEMORY_LIMIT,
    BiasedFactorisation,
    ItemNeighbours,
    LikeBiases,
    Popularity,
    Scorer,
    Sum,
    TooManyMovies,
)
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import Judge, ranked_lists, relevant_rows
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.training import Diverged, TooLittleData, completed, train
from app.learning.vocabulary import Vocabulary
from app.rating_files import MovieChunk, RatingChunk
from app.ratings import UNTIMED
from app.scoreboard import DEPTHS, Question, Scoreboard, Section, parts_of
from app.settings import Settings

ProtocolName = Literal["stratified", "temporal", "new-users"]
PROTOCOLS: tuple[ProtocolName, ...] = ("stratified", "temporal", "new-users")

NEW_USER_RATINGS = (1, 3, 5, 10, 20, None)  # folded in; None: half of them
NEW_USER_LEAST = 25  # ratings of a held-out user who takes part
EXAMPLE_SECTIONS = ("", "with training ratings", "5 ratings")  # whose lists are shown
EXAMPLE_GIVEN = 5  # ratings shown of what an example's list is made from
STARS_LISTED = 20  # different numbers of stars; more are counted in ten steps


@dataclass(frozen=True)
class RatingData:
    """What is read of a file.

    Attributes:
        rows: the ratings.
        vocabulary: the movies of the columns.
        rated_at: int64 of shape (n_ratings,), microseconds since 1970, in the order of `rows`; `UNTIMED`
            where the file says nothing.
        movies: what a file of movies says of them, by id; some or all may be missing.
    """

    rows: RatingRows
    vocabulary: Vocabulary
    rated_at: NDArray[np.int64]
    movies: dict[str, MovieEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """What the data looks like.

    Attributes:
        n_users, n_movies, n_ratings: of the file, the newest rating of each pair.
        of_user, of_movie: fewest, median and most ratings of a user, of a movie.
        stars: each number of stars, or range of it, with its ratings.
    """

    n_users: int
    n_movies: int
    n_ratings: int
    of_user: tuple[float, float, float]
    of_movie: tuple[float, float, float]
    stars: list[tuple[str, int]]


@dataclass(frozen=True)
class Film:
    """A movie in an example.

    Attributes:
        movie_id: its id.
        title, year, genres: empty or None where no file of movies says them.
        stars: what the user gave; None if the movie is in no test rating.
        like_probability: None for what was given.
    """

    movie_id: str
    title: str
    year: int | None
    genres: tuple[str, ...]
    stars: float | None
    like_probability: float | None = None


@dataclass(frozen=True)
class Example:
    """The machine's list for one user of the first seed's test.

    Attributes:
        n_given: ratings that the list is made from.
        given: those with the most stars.
        n_test: test ratings.
        n_relevant: those that reach `relevant_at_least`.
        shown: the list, best first.
    """

    n_given: int
    given: list[Film]
    n_test: int
    n_relevant: int
    shown: list[Film]


@dataclass(frozen=True)
class Evaluation:
    """All tables of a protocol.

    Attributes:
        protocol: which.
        seeds: of the splits and the machines.
        liked_at_least: stars that like_probability is about.
        relevant_at_least: stars of a good recommendation.
        interval: what the 95 % intervals are taken over, in words.
        shape: of the data.
        configuration: the machine's settings, as resolved for the first seed.
        sections: the tables.
        example_section: title of the section that the examples are of.
        examples: lists of a user with few, with middling and with many ratings. Who is shown depends on the
            number of ratings alone, never on how good the list is.
    """

    protocol: ProtocolName
    seeds: list[int]
    liked_at_least: float
    relevant_at_least: float
    interval: str
    shape: Shape
    configuration: dict[str, Any]
    sections: list[Section]
    example_section: str
    examples: list[Example]


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


def read_movies(path: Path, settings: Settings) -> dict[str, MovieEntry]:
    """The movies of a file by id, later entries adding to earlier ones; `InvalidInput` for bad rows."""
    said: dict[str, dict[str, Any]] = {}
    found = rating_files.recognise(
        path,
        kind="movies",
        stars_min=settings.stars_min,
        stars_max=settings.stars_max,
        unpacked_limit=settings.unpacked_limit,
    )
    for chunk in found.chunks():
        if not isinstance(chunk, MovieChunk):
            continue
        if chunk.errors:
            raise InvalidInput(
                f"{path}: {chunk.errors[0].location}: {chunk.errors[0].message}", errors=chunk.errors
            )
        for entry in chunk.entries:
            known = {name: value for name, value in vars(entry).items() if value is not None}
            said[entry.movie_id] = said.get(entry.movie_id, {}) | known
    return {movie_id: MovieEntry(**values) for movie_id, values in said.items()}


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
    gathered: dict[str, Scoreboard] = {}
    liked_at_least = configuration.liked_at_least
    # The temporal split knows no seed: only the machine's chance differs, and that is not what is uncertain.
    over_users = len(seeds) == 1 or protocol == "temporal"
    genres = _genres(data)
    resolved: dict[str, Any] = {}
    example_section, examples = "", list[Example]()
    for number, seed in enumerate(seeds):
        training_rows, questions = _split(data, protocol, seed)

        def report(share: float, number: int = number) -> None:
            on_progress((number + share) / len(seeds))

        configured = replace(configuration, seed=seed)
        machines = _trained(training_rows, data.vocabulary, configured, lambda share: report(0.9 * share))
        if not all(asked.test.n_ratings for asked in questions):
            raise InvalidInput("No user has the three ratings that a test rating needs.")
        parts = [parts_of(asked, training_rows, genres) for asked in questions]
        if number == 0:
            resolved = machines.configuration.as_dict()
            example = min(
                (asked for asked in questions if asked.title in EXAMPLE_SECTIONS),
                key=lambda asked: EXAMPLE_SECTIONS.index(asked.title),
                default=questions[0],
            )
            example_section, examples = example.title, _examples(machines, example, data, relevant_at_least)
        contestants = _contestants(machines, training_rows, liked_at_least, relevant_at_least, seed)
        for name, ranks, judges, skipped in contestants:
            for asked, its_parts in zip(questions, parts, strict=True):
                table = gathered.setdefault(asked.title, Scoreboard(over_users))
                measured = table.of(name)
                measured.skipped = skipped
                if ranks is not None:
                    measured.rank(ranks, asked, its_parts, training_rows, relevant_at_least)
                if judges is not None:
                    measured.judge(judges, asked, its_parts, liked_at_least, relevant_at_least)
        for asked, its_parts in zip(questions, parts, strict=True):
            gathered[asked.title].count(asked, its_parts)
        report(1.0)
    return Evaluation(
        protocol,
        seeds,
        liked_at_least,
        relevant_at_least,
        "users" if over_users else "seeds",
        _shape(data.rows),
        resolved,
        [table.section(title) for title, table in gathered.items()],
        example_section,
        examples,
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


def _split(data: RatingData, protocol: ProtocolName, seed: int) -> tuple[RatingRows, list[Question]]:
    """The rows that train, and what is asked then."""
    rows = data.rows
    if protocol == "stratified":
        training_rows, test = splitting.stratified(rows, np.random.default_rng(seed))
        tested = np.flatnonzero(test.lengths > 0)
        return training_rows, [Question("", training_rows.rows(tested), test.rows(tested))]
    if protocol == "temporal":
        if (data.rated_at == UNTIMED).any():
            raise InvalidInput("The temporal protocol needs the time of every rating, and some have none.")
        training_rows, test = splitting.temporal(rows, data.rated_at)
        return training_rows, [
            Question(title, training_rows.rows(users), test.rows(users))
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
        questions.append(Question(title, given, test))
    return training_rows, questions


def _genres(data: RatingData) -> dict[str, NDArray[np.bool_]]:
    """The movies of each genre, shape (n_movies,)."""
    result: dict[str, NDArray[np.bool_]] = defaultdict(lambda: np.zeros(len(data.vocabulary), np.bool_))
    for column, movie_id in enumerate(data.vocabulary.movie_ids):
        entry = data.movies.get(movie_id)
        for genre in (entry.genres if entry else None) or ():
            result[genre][column] = True
    return dict(result)


def _shape(rows: RatingRows) -> Shape:
    def spread(lengths: NDArray[np.int64]) -> tuple[float, float, float]:
        return float(lengths.min()), float(np.median(lengths)), float(lengths.max())

    values, n = np.unique(rows.stars, return_counts=True)
    names = [f"{value:g}" for value in values.tolist()]
    if values.size > STARS_LISTED:
        n, edges = np.histogram(rows.stars, 10)
        names = [f"{one:.3g} to {other:.3g}" for one, other in pairwise(edges.tolist())]
    return Shape(
        rows.n_users,
        rows.n_movies,
        rows.n_ratings,
        spread(rows.lengths),
        spread(rows.ratings_per_movie()),
        list(zip(names, n.tolist(), strict=True)),
    )


def _examples(
    machines: Machines, asked: Question, data: RatingData, relevant_at_least: float
) -> list[Example]:
    """The lists of the users in the middle of each third by number of given ratings."""
    by_length = np.argsort(asked.given.lengths, kind="stable")
    places = dict.fromkeys(len(by_length) * third // 6 for third in (1, 3, 5))

    def film(column: int, stars: float | None, probability: float | None = None) -> Film:
        movie_id = data.vocabulary.movie_ids[column]
        entry = data.movies.get(movie_id, MovieEntry(movie_id))
        return Film(movie_id, entry.title or "", entry.year, entry.genres or (), stars, probability)

    result = []
    for user in by_length[list(places)].tolist():
        given, test = asked.given.rows([user]), asked.test.rows([user])
        ranked = ranked_lists(machines.blended_scores, given, DEPTHS[0])[0]
        ranked = ranked[ranked >= 0]
        probability = machines.like_probability(given, ranked)[0]
        tested = dict(zip(test.indices.tolist(), test.stars.tolist(), strict=True))
        best = np.argsort(-given.stars, kind="stable")[:EXAMPLE_GIVEN]
        result.append(
            Example(
                given.n_ratings,
                [film(int(given.indices[place]), float(given.stars[place])) for place in best],
                test.n_ratings,
                relevant_rows(test, relevant_at_least).n_ratings,
                [
                    film(column, tested.get(column), likely)
                    for column, likely in zip(ranked.tolist(), probability.tolist(), strict=True)
                ],
            )
        )
    return result


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


def spare_memory() -> int:
    """Bytes that this process may take without harm: three quarters of what is free, as far as is known."""
    free = training_costs.free_memory()
    return sys.maxsize if free is None else free // 4 * 3


@dataclass(frozen=True)
class _Plain:
    """The binary machine alone, as a textbook has it."""

    machines: Machines

    def scores(self, rows: RatingRows) -> NDArray[np.float32]:
        return self.machines.plain_scores(rows)


def _contestants(
    machines: Machines, rows: RatingRows, liked_at_least: float, relevant_at_least: float, seed: int
) -> Iterator[tuple[str, Scorer | None, Judge | None, str | None]]:
    """Name, what ranks, what judges, and why it was left out; one is fitted when its turn comes."""
    yield "machine", _Blended(machines), machines, None
    yield "plain RBM", _Plain(machines), None, None
    yield "popularity", Popularity(rows), None, None
    yield "item neighbours", ItemNeighbours(rows), None, None
    memory = min(EASE_MEMORY_LIMIT, spare_memory())
    try:
        rated = EASE(rows, memory_limit=memory)
        liked = EASE(rows, liked_at_least=relevant_at_least, memory_limit=memory)
    except (TooManyMovies, MemoryError) as error:
        for name in ("EASE rated", "EASE liked", "EASE summed"):
            yield name, None, None, str(error) or "EASE does not fit into memory"
    else:
        yield "EASE rated", rated, None, None
        yield "EASE liked", liked, None, None
        yield "EASE summed", Sum([rated, liked]), None, None
        del rated, liked  # two squares over the catalogue
    if implicit_als.missing is None:
        yield "implicit ALS", implicit_als.ImplicitALS(rows, seed=seed), None, None
    else:
        yield "implicit ALS", None, None, implicit_als.missing
    rng = np.random.default_rng([seed, 2])
    yield "biases", None, LikeBiases(rows, liked_at_least=liked_at_least, rng=rng), None
    yield (
        "factorisation",
        None,
        BiasedFactorisation(rows, liked_at_least=liked_at_least, rng=rng),
        None,
    )

"""What the choices behind a list cost and gain, on a file of ratings.

    python -m benchmarks.lists u.data --movies u.item [--seeds 3] [--only diversity] [--only similar] …

Parts: `diversity` (what each setting of it costs in nDCG@10, and what variety it gains), `obscure` (what it
costs to put movies last that hardly anybody liked), `similar` (neighbours by the machine's geometry beside
neighbours by co-rating) and `speed` (reasons, batches and neighbours, over SQLite). Splits are stratified,
machines are the defaults, lists are ranked as they are served. Without a file of movies there are no genres.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from app import evaluation, rating_files, ratings, recommendations
from app.database import Database
from app.learning import geometry, metrics
from app.learning.configuration import TrainingConfiguration
from app.learning.diversity import mean_likeness, ordered_diversely
from app.learning.explanation import effects
from app.learning.folded_in import FoldedIn
from app.learning.geometry import normalised, unit_vectors
from app.learning.machines import Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import ordered
from app.learning.splitting import stratified
from app.learning.vocabulary import Vocabulary
from app.model_registry import Serving
from app.rating_files import MovieChunk
from app.ratings import UNTIMED, RatingBatch
from app.recommendations import Wanted
from app.recommendations.lists import LEAST_LIKES
from app.settings import Settings
from benchmarks.negative_sample import trained

PARTS = ("diversity", "obscure", "similar", "speed")
RELEVANT = 4.0  # stars
RANKS = 10
DIVERSITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
LIKES = (0, 1, 3, 5, 10, 20, 50)
KNOWN = 5  # likes of a movie in training whose neighbours are compared by genre
AS_POPULAR = 25  # movies next in popularity on either side that a test movie is told apart from
PROFILE = 200  # ratings of the user whose list is timed
ROUNDS = 15
FEW_ROUNDS = 3  # of what takes seconds

Genres = NDArray[np.float64]
Scores = NDArray[np.float32]
Allowed = NDArray[np.bool_]
Columns = NDArray[np.int64]
Table = dict[str, dict[str, float]]
"""Row -> column -> figure."""


@dataclass(frozen=True)
class Split:
    """One split, and the machines trained on its larger part.

    Attributes:
        genres: of shape (n_movies, n_genres), zeros and ones; None when nobody told.
    """

    machines: Machines
    training: RatingRows
    test: RatingRows
    genres: Genres | None


def read(path: Path, movies: Path | None) -> tuple[RatingRows, Vocabulary, Genres | None]:
    """The ratings, their movies' ids, and the genres of those."""
    settings = Settings(_env_file=None)
    data = evaluation.read_rows(path, settings)
    if movies is None:
        return data.rows, data.vocabulary, None
    found = rating_files.recognise(
        movies,
        kind="movies",
        stars_min=settings.stars_min,
        stars_max=settings.stars_max,
        unpacked_limit=settings.unpacked_limit,
    )
    of_movie = {
        entry.movie_id: entry.genres or ()
        for chunk in found.chunks()
        if isinstance(chunk, MovieChunk)
        for entry in chunk.entries
    }
    names = sorted({name for some in of_movie.values() for name in some})
    genres = np.zeros((len(data.vocabulary), len(names)))
    for column, movie_id in enumerate(data.vocabulary.movie_ids):
        for name in of_movie.get(movie_id, ()):
            genres[column, names.index(name)] = 1
    return data.rows, data.vocabulary, genres


def splits(rows: RatingRows, vocabulary: Vocabulary, genres: Genres | None, n_seeds: int) -> Iterator[Split]:
    """Seeds 0, 1, … of the split and the machine."""
    for seed in range(n_seeds):
        training, test = stratified(rows, np.random.default_rng(seed))
        yield Split(trained(training, TrainingConfiguration(seed=seed)), training, test, genres)


def diversity(split: Split) -> Table:
    """Lists of every setting: what they find, how many movies are on anybody's, and how varied each is."""
    vectors, judged = unit_vectors(split.machines), split.machines.likes >= LEAST_LIKES
    table: Table = {}
    for setting in DIVERSITIES:

        def order(scores: Scores, allowed: Allowed, setting: float = setting) -> Columns:
            return ordered_diversely(scores, RANKS, allowed, judged, vectors, setting)

        ranked = lists_of(split, order)
        shares = np.bincount(ranked.ravel(), minlength=split.machines.n_movies) / ranked.size
        row = ndcg(split, ranked)
        row["movies on lists"] = float(np.count_nonzero(shares))
        row["as many equal"] = float(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))
        row["likeness"] = float(np.mean([mean_likeness(vectors[one]) for one in ranked]))
        if split.genres is not None:
            row["genres a list"] = float(split.genres[ranked].max(axis=1).sum(axis=1).mean())
        table[f"{setting:g}"] = row
    return table


def obscure(split: Split) -> Table:
    """Lists that put movies with fewer likes than this last."""
    table: Table = {}
    for least in LIKES:
        judged = split.machines.likes >= least

        def order(scores: Scores, allowed: Allowed, judged: Allowed = judged) -> Columns:
            return ordered(scores, RANKS, allowed, judged)

        ranked = lists_of(split, order)
        table[str(least)] = ndcg(split, ranked) | {"movies put last": float((~judged).sum())}
    return table


def lists_of(split: Split, order: Callable[[Scores, Allowed], Columns]) -> Columns:
    """The list of every user, shape (n_users, RANKS): `order` takes scores and which movies are allowed."""
    scores = split.machines.blended_scores(split.training)
    ranked = np.empty((split.training.n_users, RANKS), np.int64)
    for user in range(split.training.n_users):
        allowed = np.ones(split.machines.n_movies, np.bool_)
        allowed[split.training.rows([user]).indices] = False
        ranked[user] = order(scores[user], allowed)
    return ranked


def ndcg(split: Split, ranked: NDArray[np.int64]) -> dict[str, float]:
    """nDCG@10, every test rating relevant and those of at least four stars."""
    found = {}
    for name, test in (("any", split.test), ("relevant", liked(split.test))):
        values = metrics.ndcg_at(metrics.hits_of(ranked, test), test.lengths, RANKS)
        found[name] = float(np.nanmean(values))
    return found


def similar(split: Split) -> Table:
    """Neighbours by each notion of likeness, and how good they are."""
    machines, n = split.machines, split.machines.n_movies
    rated, loved = (
        sp.csr_array((np.ones(rows.n_ratings), rows.indices, rows.indptr), shape=(rows.n_users, n))
        for rows in (split.training, liked(split.training))
    )
    together, loved_together = (rated.T @ rated).toarray(), (loved.T @ loved).toarray()
    popularity = machines.popularity_scores()
    hidden = np.array([geometry.neighbours(machines, column).similarity for column in range(n)])
    centred = normalised(machines.movie_vectors() - machines.movie_vectors().mean(axis=0))
    notions = {
        "**Harmonium**": hidden + geometry.POPULARITY_SHARE * popularity,
        "- with twice the popularity": hidden + 2 * geometry.POPULARITY_SHARE * popularity,
        "- without popularity": hidden,
        "- binary units only": _binary_pictures(machines) + 0.25 * popularity,
        "- cosine of weights": centred @ centred.T,
        "co-ratings, counted": together,
        "co-likes, counted": loved_together,
        "co-ratings, cosine": cosines_of_counts(together),
        "co-likes, cosine": cosines_of_counts(loved_together),
        "popularity": np.tile(popularity, (n, 1)),
    }
    return {name: neighbourhood_quality(split, matrix) for name, matrix in notions.items()}


def _binary_pictures(machines: Machines) -> NDArray[np.float32]:
    """Cosines of the binary part of the movies' pictures alone, shape (n_movies, n_movies)."""
    n = machines.n_movies
    stars = np.full(n, geometry.LOVED, np.float32)
    hidden = machines.fold_in(RatingRows(np.arange(n + 1), np.arange(n, dtype=np.int32), stars, n))
    unit = normalised(hidden - machines.popularity @ hidden / machines.popularity.sum())
    cosines: NDArray[np.float32] = unit @ unit.T
    return cosines


def cosines_of_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """From how many did both, shape (n, n), to the cosine of the two columns of zeros and ones."""
    own = np.sqrt(np.maximum(counts.diagonal(), 1))
    cosines: NDArray[np.float64] = counts / np.outer(own, own)
    return cosines


def neighbourhood_quality(split: Split, nearness: NDArray[Any]) -> dict[str, float]:
    """How good neighbours are: `nearness` is of shape (n_movies, n_movies), a row for each movie asked about.

    Returns:
        genres: Jaccard index of a movie's genres and those of its ten neighbours, mean over movies that at
            least five liked in training.
        told apart: how often somebody's liked test movie is nearer to a movie that they liked in training
            than movies as popular are which they never rated (an AUC), mean over users.
        recall: share of somebody's liked test movies among the ten nearest unrated neighbours of one movie
            that they liked in training, mean over those and then over users.
        popularity: median number of ratings of the ten neighbours.
    """
    machines, n = split.machines, split.machines.n_movies
    nearness = nearness.astype(np.float64)
    np.fill_diagonal(nearness, -np.inf)
    nearest = np.argsort(-nearness, axis=1, kind="stable")
    known = np.flatnonzero(machines.likes >= KNOWN)
    found: dict[str, float] = {}
    if split.genres is not None:
        own, theirs = split.genres[known][:, None], split.genres[nearest[known, :RANKS]]
        both, either = np.minimum(own, theirs).sum(axis=2), np.maximum(own, theirs).sum(axis=2)
        found["genres"] = float((both / np.maximum(either, 1)).mean())
    by_popularity = np.argsort(machines.popularity, kind="stable")
    place = np.empty(n, np.int64)
    place[by_popularity] = np.arange(n)
    train_liked, test_liked = liked(split.training), liked(split.test)
    recalls, aucs = [], []
    for user in range(split.training.n_users):
        asked, wanted = train_liked.rows([user]).indices, test_liked.rows([user]).indices
        if not asked.size or not wanted.size:
            continue
        is_new = np.ones(n, np.bool_)
        is_new[split.training.rows([user]).indices] = False
        hit = np.zeros(n, np.bool_)
        hit[wanted] = True
        may_be_listed = is_new[nearest[asked]]
        listed = may_be_listed & (may_be_listed.cumsum(axis=1) <= RANKS)
        recalls.append((listed & hit[nearest[asked]]).sum(axis=1).mean() / min(RANKS, wanted.size))
        is_new[split.test.rows([user]).indices] = False
        peers = [
            by_popularity[max(0, place[one] - AS_POPULAR) : place[one] + AS_POPULAR + 1] for one in wanted
        ]
        peers = [some[is_new[some]] for some in peers]
        sizes = np.array([some.size for some in peers])
        of_asked = nearness[asked]
        difference = of_asked[:, np.repeat(wanted, sizes)] - of_asked[:, np.concatenate(peers)]
        won = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=0)
        of_wanted = np.bincount(np.repeat(np.arange(wanted.size), sizes), won, wanted.size)
        aucs.append(np.mean(of_wanted[sizes > 0] / sizes[sizes > 0]))
    found["told apart"], found["recall"] = float(np.nanmean(aucs)), float(np.mean(recalls))
    found["popularity"] = float(np.median(machines.popularity[nearest[known, :RANKS]]))
    return found


def liked(rows: RatingRows) -> RatingRows:
    """Only the ratings of at least four stars."""
    return rows.where(rows.stars >= RELEVANT)


def speed(split: Split) -> Table:
    """Milliseconds, medians of rounds; the service's own functions over a SQLite file with the ratings."""
    machines, rows = split.machines, split.training
    long = int(np.flatnonzero(rows.lengths >= PROFILE)[0])
    profile = rows.rows([long])
    profile = profile.where(np.arange(profile.n_ratings) < PROFILE)
    movie_ids = machines.vocabulary.movie_ids
    stars = dict(zip((movie_ids[one] for one in profile.indices), profile.stars.tolist(), strict=True))
    users = [f"user{number}" for number in range(rows.n_users)]
    thousand = (users * 2)[:1_000]
    serving = Serving(1, 1, machines)
    column = int(np.argmax(machines.popularity))
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/lists.db")
        database.upgrade()
        with database.writing() as session:
            batch = RatingBatch.of_columns(
                [users[user] for user in rows.users],
                [movie_ids[movie] for movie in rows.indices],
                rows.stars.astype(np.float64),
                np.full(rows.n_ratings, UNTIMED),
            )
            ratings.store(session, batch, received_at=datetime.now(UTC))
        with database.reading() as session:

            def of_given(**how: Any) -> Callable[[], object]:
                return lambda: recommendations.for_ratings(session, serving, stars, Wanted(**how))

            work: dict[str, Callable[[], object]] = {
                f"reasons alone, {PROFILE} ratings x 10 movies": lambda: effects(
                    FoldedIn.of(machines, profile), np.arange(10)
                ),
                f"a list from {PROFILE} ratings": of_given(),
                "the same, explained": of_given(explain=True),
                "the same, diversity 0.5": of_given(diversity=0.5),
                "a stored user's list": lambda: recommendations.for_user(
                    session, serving, users[long], Wanted()
                ),
                "1,000 users' lists at once": lambda: recommendations.for_users(
                    session, serving, thousand, Wanted()
                ),
                "1,000 users' lists one by one": lambda: [
                    recommendations.for_user(session, serving, user, Wanted()) for user in thousand
                ],
                "10 neighbours of a movie": lambda: recommendations.similar(
                    session, serving, movie_ids[column], Wanted()
                ),
            }
            work["10 neighbours of a movie"]()  # the first time movies' pictures are computed
            work["the same, diversity 0.5"]()
            taken = {}
            for name, one in work.items():
                n_rounds = FEW_ROUNDS if name.startswith("1,000") else ROUNDS
                taken[name] = np.median([_milliseconds(one) for _ in range(n_rounds)], axis=0)
        database.close()
    return {
        name: {"processor ms": float(busy), "ms beside others": float(passed)}
        for name, (busy, passed) in taken.items()
    }


def _milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    """What this process computed, and what passed on the clock, others' work included."""
    busy, passed = time.process_time(), time.perf_counter()
    work()
    return 1_000 * (time.process_time() - busy), 1_000 * (time.perf_counter() - passed)


def printed(title: str, tables: Sequence[Table]) -> str:
    """A Markdown table of the means over the seeds."""
    columns = list(next(iter(tables[0].values())))
    lines = [f"## {title}", "", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in tables[0]:
        figures = [float(np.mean([table[name][column] for table in tables])) for column in columns]
        lines.append(f"| {name} | " + " | ".join(_figure(one) for one in figures) + " |")
    return "\n".join([*lines, ""])


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 1.5 else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--movies", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, action="append")
    given = parser.parse_args(arguments)
    parts = {"diversity": diversity, "obscure": obscure, "similar": similar, "speed": speed}
    tables: dict[str, list[Table]] = {name: [] for name in given.only or PARTS}
    with threadpool_limits(1, user_api="blas"):
        for number, split in enumerate(splits(*read(given.file, given.movies), given.seeds)):
            for name, found in tables.items():
                if name != "speed" or number == 0:  # which does not depend on the split
                    found.append(parts[name](split))
    for name, found in tables.items():
        print(printed(f"{name}, {len(found)} seed{'s'[: len(found) > 1]}", found))


if __name__ == "__main__":
    main()

"""Costs and gains of the choices behind a list, on a file of ratings.

    python -m benchmarks.lists u.data --movies u.item [--seeds 3] [--only NAME]

- diversity: nDCG@10 and variety of each setting.
- obscure: nDCG@10 where movies with few likes come last.
- similar: neighbours of the model beside neighbours by co-rating.
- speed: lists, reasons and batches over SQLite.

Splits are stratified, models have the defaults, lists are ranked as they are served.
Without a file of movies there are no genres.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from app.evaluation.rating_file import RatingData, read_movies, read_ratings
from app.learning.configuration import TrainingConfiguration
from app.learning.evaluation import metrics
from app.learning.evaluation.splitting import stratified
from app.learning.inference.diversity import mean_likeness, ordered_diversely
from app.learning.inference.ranking import ordered
from app.learning.inference.similarity import neighbours, unit_vectors
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import TrainedModel
from app.model_versions.serving import LoadedVersion
from app.ratings import store as ratings
from app.ratings.batch import UNTIMED, RatingBatch
from app.recommendations import lists
from app.recommendations.lists import LEAST_LIKES, ListQuery
from app.recommendations.similar import similar as similar_movies
from app.settings import Settings
from app.storage.database import Database
from benchmarks.ratings import RELEVANT_AT_LEAST, trained
from benchmarks.report import figure_table, parser, say, seeds_of, write_json

RANKS = 10
DIVERSITIES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
LIKES = (0, 1, 3, 5, 10, 20, 50)
KNOWN = 5  # likes of a movie in training whose neighbours are compared by genre
AS_POPULAR = 25  # movies next in popularity on either side that a test movie is compared with
PROFILE = 200  # ratings of the user whose list is timed
ROUNDS = 15
FEW_ROUNDS = 3  # of work that takes seconds
MANY = 1_000  # users of a batch

Columns = NDArray[np.int64]
Scores = NDArray[np.float32]
Allowed = NDArray[np.bool_]
Order = Callable[[Scores, Allowed], Columns]
"""(scores, allowed movies) -> the list of one user."""
Table = dict[str, dict[str, float]]
"""Row -> column -> figure."""


@dataclass(frozen=True)
class Split:
    """One split, and the model trained with its larger part.

    Attributes:
        genres: of shape (n_movies, n_genres), zeros and ones; without columns where
            genres are not known.
    """

    model: TrainedModel
    training: RatingRows
    test: RatingRows
    genres: NDArray[np.float64]

    @classmethod
    def of(cls, data: RatingData, seed: int) -> Split:
        """Split and train with this seed."""
        training, test = stratified(data.rows, np.random.default_rng(seed))
        genres = np.array([chosen for _, chosen in sorted(data.genres().items())], np.float64)
        model = trained(training, TrainingConfiguration(seed=seed))
        return cls(model, training, test, genres.reshape(-1, data.rows.n_movies).T)

    def lists(self, order: Order) -> Columns:
        """The list of every user, shape (n_users, RANKS)."""
        scores = self.model.scores(self.training)
        ranked = np.empty((self.training.n_users, RANKS), np.int64)
        for user in range(self.training.n_users):
            allowed = np.ones(self.model.n_movies, np.bool_)
            allowed[self.training.rows([user]).indices] = False
            ranked[user] = order(scores[user], allowed)
        return ranked

    def ndcg(self, ranked: Columns) -> dict[str, float]:
        """nDCG@10 of lists, any and relevant."""
        tests = {"any": self.test, "relevant": _liked(self.test)}
        return {
            name: float(np.nanmean(metrics.ndcg_at(metrics.hits_of(ranked, test), test.lengths, RANKS)))
            for name, test in tests.items()
        }


def diversity(split: Split) -> Table:
    """Lists of every setting: nDCG, distinct movies, and variety within a list."""
    vectors, known = unit_vectors(split.model), split.model.likes >= LEAST_LIKES
    table: Table = {}
    for setting in DIVERSITIES:

        def order(scores: Scores, allowed: Allowed, setting: float = setting) -> Columns:
            return ordered_diversely(scores, RANKS, allowed, known, vectors, setting)

        ranked = split.lists(order)
        shares = np.bincount(ranked.ravel(), minlength=split.model.n_movies) / ranked.size
        row = split.ndcg(ranked)
        row["movies on lists"] = float(np.count_nonzero(shares))
        row["equally frequent"] = float(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))
        row["likeness"] = float(np.mean([mean_likeness(vectors[columns]) for columns in ranked]))
        if split.genres.size:
            row["genres a list"] = float(split.genres[ranked].max(axis=1).sum(axis=1).mean())
        table[f"{setting:g}"] = row
    return table


def obscure(split: Split) -> Table:
    """Lists that put movies with fewer likes than this last."""
    table: Table = {}
    for least in LIKES:
        known = split.model.likes >= least

        def order(scores: Scores, allowed: Allowed, known: Allowed = known) -> Columns:
            return ordered(scores, RANKS, allowed, known)

        ranked = split.lists(order)
        table[str(least)] = split.ndcg(ranked) | {"movies put last": float((~known).sum())}
    return table


def similar(split: Split) -> Table:
    """Quality of the neighbours by each notion of similarity."""
    n = split.model.n_movies
    rated, liked = (
        sp.csr_array((np.ones(rows.n_ratings), rows.indices, rows.indptr), shape=(rows.n_users, n))
        for rows in (split.training, _liked(split.training))
    )
    co_ratings, co_likes = (rated.T @ rated).toarray(), (liked.T @ liked).toarray()
    of_model = [neighbours(split.model, column) for column in range(n)]
    notions = {
        "**Harmonium**": np.array([movie.score for movie in of_model]),
        "- without popularity": np.array([movie.similarity for movie in of_model]),
        "co-ratings, counted": co_ratings,
        "co-likes, counted": co_likes,
        "co-ratings, cosine": _cosines(co_ratings),
        "co-likes, cosine": _cosines(co_likes),
        "popularity": np.tile(split.model.popularity_scores, (n, 1)),
    }
    return {name: neighbourhood_quality(split, matrix) for name, matrix in notions.items()}


def _cosines(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of columns of zeros and ones from their products, shape (n, n)."""
    own = np.sqrt(np.maximum(counts.diagonal(), 1))
    cosines: NDArray[np.float64] = counts / np.outer(own, own)
    return cosines


def neighbourhood_quality(split: Split, nearness: NDArray[Any]) -> dict[str, float]:
    """Figures of neighbours by `nearness`, (n_movies, n_movies), a row for each movie.

    Returns:
        genres: Jaccard index of a movie's genres and those of its ten neighbours, mean
            over movies with at least `KNOWN` likes.
        AUC: probability that a liked test movie is nearer to a movie that the user
            liked in training than equally popular movies which the user never rated,
            mean over users.
        recall: share of the liked test movies among the ten nearest unrated neighbours
            of a movie liked in training, mean over those and then over users.
        ratings: median number of ratings of the ten neighbours.
    """
    nearness = nearness.astype(np.float64)
    np.fill_diagonal(nearness, -np.inf)
    nearest = np.argsort(-nearness, axis=1, kind="stable")
    known = np.flatnonzero(split.model.likes >= KNOWN)
    figures: dict[str, float] = {}
    if split.genres.size:
        own, others = split.genres[known][:, None], split.genres[nearest[known, :RANKS]]
        both, either = np.minimum(own, others).sum(axis=2), np.maximum(own, others).sum(axis=2)
        figures["genres"] = float((both / np.maximum(either, 1)).mean())
    by_popularity = np.argsort(split.model.popularity, kind="stable")
    recalls, aucs = [], []
    for user in range(split.training.n_users):
        row, test = split.training.rows([user]), split.test.rows([user])
        liked, test_liked = _liked(row).indices, _liked(test).indices
        if liked.size and test_liked.size:
            is_new = np.ones(split.model.n_movies, np.bool_)
            is_new[row.indices] = False
            recalls.append(_recall(nearest[liked], is_new, test_liked))
            is_new[test.indices] = False
            aucs.append(_auc(nearness[liked], is_new, test_liked, by_popularity))
    figures["AUC"], figures["recall"] = float(np.nanmean(aucs)), float(np.mean(recalls))
    figures["ratings"] = float(np.median(split.model.popularity[nearest[known, :RANKS]]))
    return figures


def _recall(nearest: Columns, is_new: NDArray[np.bool_], test_liked: NDArray[np.integer[Any]]) -> float:
    """Share of liked test movies in the first ten new ones of each row of `nearest`."""
    may_be_listed = is_new[nearest]
    listed = may_be_listed & (may_be_listed.cumsum(axis=1) <= RANKS)
    hits = (listed & np.isin(nearest, test_liked)).sum(axis=1)
    return float(hits.mean() / min(RANKS, test_liked.size))


def _auc(
    nearness: NDArray[np.float64],
    is_new: NDArray[np.bool_],
    test_liked: NDArray[np.integer[Any]],
    by_popularity: Columns,
) -> float:
    """Mean share of equally popular new movies less near than a liked test movie."""
    rank = np.argsort(by_popularity)
    shares = []
    for column in test_liked:
        peers = by_popularity[max(0, rank[column] - AS_POPULAR) : rank[column] + AS_POPULAR + 1]
        difference = nearness[:, [column]] - nearness[:, peers[is_new[peers]]]
        if difference.size:
            shares.append(((difference > 0) + 0.5 * (difference == 0)).mean())
    return float(np.mean(shares)) if shares else float("nan")


def _liked(rows: RatingRows) -> RatingRows:
    return rows.where(rows.stars >= RELEVANT_AT_LEAST)


def speed(split: Split) -> Table:
    """Milliseconds of the service's functions over SQLite, medians of rounds."""
    model, rows = split.model, split.training
    long_user = int(np.flatnonzero(rows.lengths >= PROFILE)[0])
    profile = rows.rows([long_user])
    profile = profile.where(np.arange(profile.n_ratings) < PROFILE)
    stars = dict(zip(profile.indices.astype(str).tolist(), profile.stars.tolist(), strict=True))
    users = (np.arange(MANY) % rows.n_users).astype(str).tolist()
    loaded = LoadedVersion(1, 1, model)
    popular = str(np.argmax(model.popularity))
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/lists.db")
        database.upgrade()
        with database.writing() as session:
            batch = RatingBatch.of_columns(
                rows.users.astype(str).tolist(),
                rows.indices.astype(str).tolist(),
                rows.stars.astype(np.float64),
                np.full(rows.n_ratings, UNTIMED),
            )
            ratings.upsert(session, batch, received_at=datetime.now(UTC))
        with database.reading() as session:

            def of_stars(**how: Any) -> Callable[[], object]:
                return lambda: lists.for_ratings(session, loaded, stars, ListQuery(**how))

            def of_user(user: str) -> object:
                return lists.for_user(session, loaded, user, ListQuery())

            work: dict[str, Callable[[], object]] = {
                f"a list from {PROFILE} ratings": of_stars(),
                "the list with reasons": of_stars(explain=True),
                "the list with diversity 0.5": of_stars(diversity=0.5),
                "a stored user's list": lambda: of_user(str(long_user)),
                "10 neighbours of a movie": lambda: similar_movies(session, loaded, popular, ListQuery()),
                f"{MANY:,} users' lists at once": lambda: lists.for_users(
                    session, loaded, users, ListQuery()
                ),
                f"{MANY:,} users' lists one by one": lambda: [of_user(user) for user in users],
            }
            table = {name: _times(task, name.startswith(f"{MANY:,}")) for name, task in work.items()}
        database.close()
    return table


def _times(task: Callable[[], object], is_slow: bool) -> dict[str, float]:
    """Median milliseconds of this process's processor time, and by the clock."""
    task()  # caches
    times = []
    for _ in range(FEW_ROUNDS if is_slow else ROUNDS):
        processor, clock = time.process_time(), time.perf_counter()
        task()
        times.append((time.process_time() - processor, time.perf_counter() - clock))
    processor_ms, clock_ms = (1_000 * np.median(times, axis=0)).tolist()
    return {"processor, ms": processor_ms, "clock, ms": clock_ms}


PARTS: dict[str, Callable[[Split], Table]] = {
    "diversity": diversity,
    "obscure": obscure,
    "similar": similar,
    "speed": speed,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__, ratings=True, seeds=3)
    options_of.add_argument("--movies", type=Path, help="a file of movies, for genres")
    options_of.add_argument("--only", choices=PARTS, action="append")
    options = options_of.parse_args(arguments)
    settings = Settings(_env_file=None)
    data = read_ratings(options.ratings, settings)
    if options.movies:
        data = RatingData(data.rows, data.vocabulary, data.rated_at, read_movies(options.movies, settings))
    tables: dict[str, list[Table]] = {name: [] for name in options.only or PARTS}
    with threadpool_limits(1, user_api="blas"):
        for seed in seeds_of(options):
            split = Split.of(data, seed)
            for name, of_seeds in tables.items():
                if name != "speed" or not of_seeds:  # which does not depend on the split
                    say(f"seed {seed}: {name}")
                    of_seeds.append(PARTS[name](split))
    means = {name: _mean(of_seeds) for name, of_seeds in tables.items()}
    for name, table in means.items():
        print(figure_table(f"{name}, {len(tables[name])} seeds", table))
    write_json(means, options.json)


def _mean(tables: Sequence[Table]) -> Table:
    return {
        row: {column: float(np.mean([table[row][column] for table in tables])) for column in figures}
        for row, figures in tables[0].items()
    }


if __name__ == "__main__":
    main()

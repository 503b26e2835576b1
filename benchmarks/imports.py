"""Speed of imports beside the drivers' own upserts, of searches and of snapshots.

    python -m benchmarks.imports [--postgresql URL] [--rows 1000000] [--json FILE]

Made-up ratings are written to a CSV file in MovieLens' format and imported the way
`harmonium import` does it, each time into a fresh database and in a process of its own,
so that its memory is its own. In turns with that, the driver itself upserts the same
ratings, all of them, as integer keys, in the same order and the same number of rows a
transaction, into a table of the same shape in another fresh database: the ceiling. Its
clock stands still while Python rows are made. While a file is imported for the first
time, another process stores one rating every tenth of a second through the code that
answers a `PUT`.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import text

from app.catalogue import movies as catalogue
from app.catalogue.movies import MovieEntry
from app.catalogue.search import page
from app.evaluation.machine import describe_machine
from app.imports import run as imports
from app.imports.run import SLICE_ROWS
from app.learning.evaluation.synthetic import synthetic_ratings
from app.ratings import store as ratings
from app.ratings.batch import RatingBatch
from app.ratings.snapshot import take_snapshot
from app.settings import Settings
from app.storage.database import Database
from benchmarks.databases import fresh_postgresql, fresh_sqlite, name_of, opened, size_of
from benchmarks.machine import most_resident, seconds_of
from benchmarks.report import parser, say, show

PUT_EVERY = 0.1  # seconds
SEARCHES = 400
N_WORDS = 30_000  # that titles are made of
LINES_AT_ONCE = 500_000
FIRST_TIME, LAST_TIME = 1_000_000_000, 1_600_000_000  # seconds since 1970, as in MovieLens' sets

CEILING_TABLE = (
    "CREATE TABLE ceiling (user_key BIGINT NOT NULL, movie_key BIGINT NOT NULL, "
    "stars DOUBLE PRECISION NOT NULL, rated_at BIGINT NOT NULL, PRIMARY KEY (user_key, movie_key))"
)
CEILING_UPSERT = (
    "ON CONFLICT (user_key, movie_key) DO UPDATE SET stars = excluded.stars, rated_at = excluded.rated_at "
    "WHERE ceiling.rated_at < excluded.rated_at"
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        shape: users, movies and ratings of the file.
        rounds: turns of ceiling and import.
        titles: movies of the catalogue that is searched.
    """

    shape: tuple[int, int, int] = (6_040, 3_706, 1_000_000)
    rounds: int = 3
    titles: int = 90_000


@dataclass(frozen=True)
class Run:
    """An import in its own process: seconds, counts, and bytes of memory added."""

    seconds: float
    counts: dict[str, int]
    memory: int


@dataclass(frozen=True)
class DatabaseFigures:
    """One database; medians over the rounds, in ratings a second unless stated.

    Attributes:
        database: what it is, with its version.
        ceiling: the driver's own upsert.
        first, again: a file into an empty database, and the same file once more.
        share: of the ceiling that `first` reaches, the median of the rounds' ratios.
        again_share: the same of `again` and `first`.
        seconds: of the first import.
        memory: bytes, the most of any import.
        size: bytes that the database grew by in the first import.
        put_p50, put_p99, put_most: seconds to store one rating while a file is
        imported.
        puts: how many were.
        snapshot: seconds to read all ratings for training; `snapshot_memory`: bytes for
            that.
        search_p50, search_p95: seconds of a search in the catalogue.
    """

    database: str
    ceiling: float
    first: float
    again: float
    share: float
    again_share: float
    seconds: float
    memory: int
    size: int
    put_p50: float
    put_p99: float
    put_most: float
    puts: int
    snapshot: float
    snapshot_memory: int
    search_p50: float
    search_p95: float


@dataclass(frozen=True)
class ImportReport:
    """Figures of all databases."""

    machine: dict[str, Any]
    shape: tuple[int, int, int]
    rounds: int
    file_bytes: int
    databases: list[DatabaseFigures]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON-safe values."""
        return dataclasses.asdict(self)

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """The figures for people: title, columns and lines of each table."""
        figures: list[tuple[str, Callable[[DatabaseFigures], str]]] = [
            ("the driver's upsert, ratings/s", lambda row: f"{row.ceiling:,.0f}"),
            ("first import, ratings/s", lambda row: f"{row.first:,.0f}"),
            ("  share of the driver's upsert", lambda row: f"{row.share:.2f}"),
            ("  seconds", lambda row: f"{row.seconds:.1f}"),
            ("the same file again, ratings/s", lambda row: f"{row.again:,.0f}"),
            ("  times as fast as the first", lambda row: f"{row.again_share:.2f}"),
            ("memory over the idle process, MB", lambda row: f"{row.memory / 1e6:.0f}"),
            ("size of the database, MB", lambda row: f"{row.size / 1e6:.0f}"),
            ("PUT meanwhile, p50, ms", lambda row: f"{row.put_p50 * 1e3:.1f}"),
            ("  p99, ms", lambda row: f"{row.put_p99 * 1e3:.0f}"),
            ("  longest of how many, ms", lambda row: f"{row.put_most * 1e3:.0f} of {row.puts}"),
            ("snapshot for training, s", lambda row: f"{row.snapshot:.1f}"),
            ("  memory over the idle process, MB", lambda row: f"{row.snapshot_memory / 1e6:.0f}"),
            ("search, p50, ms", lambda row: f"{row.search_p50 * 1e3:.1f}"),
            ("  p95, ms", lambda row: f"{row.search_p95 * 1e3:.1f}"),
        ]
        lines = [[name, *(format_(row) for row in self.databases)] for name, format_ in figures]
        n_users, n_movies, n_ratings = self.shape
        title = f"{n_ratings:,} ratings by {n_users:,} users of {n_movies:,} movies"
        title += f", a file of {self.file_bytes / 1e6:.0f} MB"
        yield title, ["", *(row.database for row in self.databases)], lines


def measure_imports(
    scale: Scale,
    *,
    postgresql: str | None,
    sqlite: bool = True,
    on_progress: Progress = lambda words: None,
) -> ImportReport:
    """Measure SQLite in a temporary folder, and PostgreSQL in databases of our own.

    Args:
        sqlite: False leaves SQLite out.
        postgresql: the URL of a database on the server; the role that it names must be
            allowed to create others.
        on_progress: called with what is being measured, in words.

    Raises:
        Misconfigured: databases cannot be created there.
    """
    figures = []
    with tempfile.TemporaryDirectory(prefix="harmonium-bench-") as name:
        folder = Path(name)
        on_progress(f"making up {scale.shape[2]:,} ratings")
        file = folder / "ratings.csv"
        _in_process(write_file, file, scale.shape)
        places = [lambda: fresh_sqlite(folder)] if sqlite else []
        if postgresql is not None:
            places.append(lambda: fresh_postgresql(postgresql))
        for place in places:
            figures.append(_measure(place, file, scale, on_progress))
        n_bytes = file.stat().st_size
    return ImportReport(describe_machine(), scale.shape, scale.rounds, n_bytes, figures)


def write_file(file: Path, shape: tuple[int, int, int]) -> None:
    """Synthetic ratings like MovieLens' `ratings.csv`: by user, times in any order."""
    rows = synthetic_ratings(*shape)
    rng = np.random.default_rng(0)
    users = rows.users
    with file.open("w", encoding="ascii") as target:
        target.write("userId,movieId,rating,timestamp\n")
        for start in range(0, rows.n_ratings, LINES_AT_ONCE):
            part = slice(start, start + LINES_AT_ONCE)
            times = rng.integers(FIRST_TIME, LAST_TIME, len(users[part]))
            lines = zip(
                (users[part] + 1).tolist(),
                (rows.indices[part] + 1).tolist(),
                rows.stars[part].tolist(),
                times.tolist(),
                strict=True,
            )
            target.writelines(f"{user},{movie},{stars},{time_}\n" for user, movie, stars, time_ in lines)


def _measure(place: Callable[[], Any], file: Path, scale: Scale, on_progress: Progress) -> DatabaseFigures:
    ceilings, firsts, seconds, agains, puts = [], [], [], [], []
    memory = 0
    for round_ in range(scale.rounds):
        # In a database of its own: the import would fill what a dropped table leaves
        # behind.
        with place() as url, opened(url) as database:
            name = name_of(database)
            on_progress(f"{name}: the driver's upsert, round {round_ + 1} of {scale.rounds}")
            ceilings.append(_in_process(_ceiling, url, file))
        with place() as url, opened(url) as database:
            before = size_of(database)
            on_progress(f"{name}: first import")
            with _puts(url) as taken:
                first = _in_process(_import, url, file)
            puts += taken()
            size = size_of(database) - before
            on_progress(f"{name}: took {first.seconds:.1f} s; the same file again")
            again = _in_process(_import, url, file)
            if again.counts["unchanged"] != scale.shape[2]:
                raise AssertionError(f"a second import must change nothing: {again.counts}")
            firsts.append(scale.shape[2] / first.seconds)
            seconds.append(first.seconds)
            agains.append(scale.shape[2] / again.seconds)
            memory = max(memory, first.memory, again.memory)
            if round_ == scale.rounds - 1:
                on_progress(f"{name}: took {again.seconds:.1f} s; snapshot for training")
                snapshot = _in_process(_snapshot, url)
                on_progress(f"{name}: took {snapshot.seconds:.1f} s; search")
                _in_process(_fill_catalogue, url, scale.titles)
                searches = _in_process(_search, url, scale.titles)
    return DatabaseFigures(
        database=name,
        ceiling=statistics.median(ceilings),
        first=statistics.median(firsts),
        again=statistics.median(agains),
        share=statistics.median(ours / theirs for ours, theirs in zip(firsts, ceilings, strict=True)),
        again_share=statistics.median(later / ours for later, ours in zip(agains, firsts, strict=True)),
        seconds=statistics.median(seconds),
        memory=memory,
        size=size,
        put_p50=float(np.quantile(puts, 0.5)),
        put_p99=float(np.quantile(puts, 0.99)),
        put_most=max(puts),
        puts=len(puts),
        snapshot=snapshot.seconds,
        snapshot_memory=snapshot.memory,
        search_p50=float(np.quantile(searches, 0.5)),
        search_p95=float(np.quantile(searches, 0.95)),
    )


def _in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


# Each of these runs in a process of its own.


def _import(url: str, file: Path) -> Run:
    settings = Settings(database_url=url)
    counts: dict[str, Any] = {}
    with opened(url) as database:
        idle = most_resident()
        seconds = seconds_of(lambda: counts.update(imports.import_file(database, settings, file)))
    return Run(seconds, {name: counts[name] for name in ("inserted", "unchanged")}, most_resident() - idle)


def _snapshot(url: str) -> Run:
    with opened(url) as database, database.reading() as session:
        idle = most_resident()
        seconds = seconds_of(lambda: take_snapshot(session))
    return Run(seconds, {}, most_resident() - idle)


def _fill_catalogue(url: str, n_titles: int) -> None:
    """Movies with made-up titles, a few of them very popular."""
    with opened(url) as database:
        entries = [
            MovieEntry(str(number + 1), title, 1920 + number % 100)
            for number, title in enumerate(_titles(n_titles))
        ]
        for start in range(0, n_titles, SLICE_ROWS):
            with database.writing() as session:
                catalogue.store(session, entries[start : start + SLICE_ROWS], now=datetime.now(UTC))
        with database.reading() as session:
            movies = catalogue.of_ids(session, [entry.movie_id for entry in entries])
        popularity = np.minimum(np.random.default_rng(0).zipf(1.3, len(movies)), 10**6)
        with database.writing() as session:
            keys = np.array([movie.movie_key for movie in movies.values()])
            ratings.add_popularity(session, keys, popularity)
        if not database.is_sqlite:
            with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("ANALYZE movies, movie_search"))  # autovacuum does it within a minute


def _search(url: str, n_titles: int) -> list[float]:
    """Seconds of searches for beginnings of one to three words, rare and common."""
    rng = np.random.default_rng(1)
    titles = _titles(n_titles)
    seconds = []
    with opened(url) as database:
        for number in range(SEARCHES + 10):
            words = titles[int(rng.integers(n_titles))].split()[: int(rng.integers(1, 4))]
            query = " ".join(word[: int(rng.integers(1, len(word) + 1))] for word in words)

            def search(query: str = query) -> None:
                with database.reading() as session:
                    page(session, query=query, limit=20)

            taken = seconds_of(search)
            if number >= 10:  # the first ones open connections
                seconds.append(taken)
    return seconds


def _titles(n_titles: int) -> list[str]:
    """Titles of words by Zipf's law: the first is in every third title, as `the` is."""
    share = np.cumsum(1 / np.arange(1, N_WORDS + 1))
    ranks = np.searchsorted(share / share[-1], np.random.default_rng(0).random((n_titles, 4))) + 1
    return [" ".join(_word(int(rank)) for rank in row) for row in ranks]


def _word(rank: int) -> str:
    """A made-up word; words of any rank begin with any letter."""
    number = rank * 7_919 % 456_976
    letters = "".join(chr(97 + number // 26**place % 26) for place in range(4))
    return letters + "aeiou"[rank % 5] * (rank % 3)


def _ceiling(url: str, file: Path) -> float:
    """Ratings a second that the driver upserts, `SLICE_ROWS` in a transaction."""
    table = pd.read_csv(file, dtype={"userId": "int64", "movieId": "int64", "rating": "float64"})
    columns = (table.userId, table.movieId, table.rating, table.timestamp * 1_000_000)
    with opened(url) as database, closing(database.engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        upsert = _upsert_sqlite if database.is_sqlite else _upsert_postgresql
        seconds = upsert(driver, tuple(column.to_numpy() for column in columns))
    return len(table) / seconds


def _upsert_sqlite(driver: sqlite3.Connection, columns: tuple[NDArray[Any], ...]) -> float:
    driver.execute(CEILING_TABLE + " WITHOUT ROWID")
    seconds = 0.0
    for rows in _slices(columns):
        started = time.perf_counter()
        driver.execute("BEGIN IMMEDIATE")
        driver.executemany(f"INSERT INTO ceiling VALUES (?, ?, ?, ?) {CEILING_UPSERT}", rows)
        driver.execute("COMMIT")
        seconds += time.perf_counter() - started
    return seconds


def _upsert_postgresql(driver: Any, columns: tuple[NDArray[Any], ...]) -> float:
    driver.execute(CEILING_TABLE)
    driver.execute("CREATE TEMPORARY TABLE staged (LIKE ceiling) ON COMMIT DELETE ROWS")
    driver.commit()
    seconds = 0.0
    for rows in _slices(columns):
        started = time.perf_counter()
        with driver.cursor().copy("COPY staged FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        driver.execute(
            f"INSERT INTO ceiling SELECT * FROM staged ORDER BY user_key, movie_key {CEILING_UPSERT}"
        )
        driver.commit()
        seconds += time.perf_counter() - started
    return seconds


def _slices(columns: tuple[NDArray[Any], ...]) -> Iterator[list[tuple[Any, ...]]]:
    for start in range(0, len(columns[0]), SLICE_ROWS):
        yield list(zip(*(column[start : start + SLICE_ROWS].tolist() for column in columns), strict=True))


def _put_until(url: str, stop: Any, seconds: Any) -> None:
    """Store some users' ratings every `PUT_EVERY` seconds; note how long each took."""
    with opened(url) as database:
        _put_ratings(database, stop, seconds)
    seconds.put(None)


def _put_ratings(database: Database, stop: Any, seconds: Any) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        now = datetime.now(UTC)
        # Movies that no file names: the counts of the import stay what they are.
        batch = RatingBatch.of([(f"live-{number % 50}", f"live-{number % 7}", 3.0 + number % 2, now)])

        def put(batch: RatingBatch = batch, now: datetime = now) -> None:
            with database.writing() as session:
                ratings.upsert(session, batch, received_at=now)

        seconds.put(seconds_of(put))
        stop.wait(PUT_EVERY)


@contextmanager
def _puts(url: str) -> Iterator[Callable[[], list[float]]]:
    """Store single ratings in another process; later returns their seconds."""
    context = multiprocessing.get_context("spawn")
    stop, seconds = context.Event(), context.Queue()
    process = context.Process(target=_put_until, args=(url, stop, seconds), daemon=True)
    process.start()
    taken = [seconds.get(timeout=60)]  # it is under way
    try:
        yield lambda: taken[1:] or taken
    finally:
        stop.set()
        while (length := seconds.get(timeout=60)) is not None:
            taken.append(length)
        process.join()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options_of = parser(__doc__)
    options_of.add_argument("--rows", type=int, default=1_000_000, help="ratings in the file")
    options_of.add_argument("--rounds", type=int, default=3, help="turns of driver and import")
    options_of.add_argument("--postgresql", metavar="URL", help="of a role that may create databases")
    options_of.add_argument("--no-sqlite", action="store_true", help="leave SQLite out")
    options = options_of.parse_args(arguments)
    rows = options.rows
    # As many ratings a user and a movie as the MovieLens set of that size.
    shape = (max(50, rows // 154), max(300, round(59_000 * (rows / 25_000_000) ** 0.5)), rows)
    report = measure_imports(
        Scale(shape=shape, rounds=options.rounds),
        postgresql=options.postgresql,
        sqlite=not options.no_sqlite,
        on_progress=say,
    )
    show(report, options.json)


if __name__ == "__main__":
    main()

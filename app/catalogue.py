"""The movies: upsert, search, filters.

A movie that only ratings have named is a bare entry: an id with an empty title. Storing the movie later
completes it, and every recommendation shows the title from then on.
"""

import csv
import io
import math
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    SelectBase,
    Text,
    and_,
    any_,
    delete,
    func,
    insert,
    intersect,
    select,
    tuple_,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app import cursors
from app.database import CATALOGUE_GENERATION, LOOKUP_IDS, ONE_MOMENT, in_parts
from app.errors import NotFound
from app.ratings import Counts
from app.tables import CatalogueState, Movie, MovieWord, Rating

INSERT_ROWS = 1_000
CARDS_KEPT = 200_000  # movies in memory, about 0.5 kB each
EXPORT_ROWS = 5_000

LONGEST_WORD = 64  # characters that words are told apart by

# Movies that have a word are counted up to this number; what has more is common.
COMMON_MOVIES = 16_000
# What a search costs, measured on both databases, in looks at a movie: looking it up by its key, coming by it
# on the way from the most popular one down, and reading an entry of `movie_words`.
COST_OF_LOOKUP = 1.0
COST_OF_STEP = 1.0
COST_OF_WORD = 0.3
# How common a word is is remembered for a while if more movies than this have it: counting them takes long.
REMEMBERED_FROM = 500
REMEMBERED_SECONDS = 300.0
REMEMBERED_WORDS = 20_000
# How many movies pass a filter by genre or year, for want of knowing better.
FILTERED_SHARE = 0.1

YEARS = range(1870, 2101)  # the first moving pictures, and announcements

# Catalogues put an article behind the title or in front of it; folded, as titles are compared.
ARTICLES = frozenset(
    (
        "the",
        "a",
        "an",
        "le",
        "la",
        "les",
        "l'",
        "un",
        "une",
        "el",
        "los",
        "las",
        "il",
        "lo",
        "gli",
        "der",
        "die",
    )
)
COMPARED_TITLES = 500  # at most, to find those that look like a title which nobody has


@dataclass(frozen=True)
class MovieEntry:
    """What a caller says about a movie; None leaves what is stored as it is."""

    movie_id: str
    title: str | None = None
    year: int | None = None
    genres: tuple[str, ...] | None = None
    imdb_id: str | None = None
    tmdb_id: str | None = None


@dataclass(frozen=True, slots=True)
class MovieCard:
    """What lists show of a movie; `title` is empty while only ratings have named it."""

    movie_key: int
    movie_id: str
    title: str
    year: int | None
    genres: list[str]


# Cards by engine, with the generation that they are of. Replaced whole, so requests need no lock.
_kept: WeakKeyDictionary[Any, tuple[int, dict[str, MovieCard]]] = WeakKeyDictionary()
# By engine, how many movies have a word, and when they were counted; "" is the word that all have.
_numbers: WeakKeyDictionary[Any, dict[str, tuple[int, float]]] = WeakKeyDictionary()
_GENERATION = select(CatalogueState.generation)


def fold(words: str) -> str:
    """Without case and accents: what people type finds what the catalogue spells."""
    decomposed = unicodedata.normalize("NFKD", words.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def words(title: str) -> list[str]:
    """What finds a title: its words, folded, and the parts of words like `(500)` and `Spider-Man`."""
    found: dict[str, None] = {}
    for word in fold(title).split():
        for part in (word, *re.findall(r"[^\W_]+", word)):
            found[part[:LONGEST_WORD]] = None
    return list(found)


def store(session: Session, entries: Sequence[MovieEntry], *, now: datetime) -> Counts:
    """Insert movies or complete and change those that are there.

    Of several entries for one movie the later adds to the earlier; the earlier ones count as `superseded`.
    """
    merged: dict[str, dict[str, object]] = {}
    for entry in entries:
        said = {name: value for name, value in vars(entry).items() if value is not None}
        merged[entry.movie_id] = merged.get(entry.movie_id, {}) | said
    # Taken first, and by every writer of the catalogue, so that two of them cannot wait for each other.
    state = session.scalars(select(CatalogueState).with_for_update()).one()
    upsert = (postgresql if session.get_bind().dialect.name == "postgresql" else sqlite).insert
    inserted = updated = 0
    # In the order of the ids, so that two batches at once cannot wait for each other.
    for part in in_parts(sorted(merged), INSERT_ROWS):
        known = {movie.movie_id: movie for movie in session.scalars(_locked(part))}
        missing = [_values(merged[movie_id]) for movie_id in part if movie_id not in known]
        retitled: dict[int, str] = {}
        if missing:
            created = [
                {
                    "title": "",
                    "folded_title": "",
                    "title_words": "",
                    "year": None,
                    "genres": [],
                    "imdb_id": None,
                    "tmdb_id": None,
                }
                | values
                | {"created_at": now, "updated_at": now}
                for values in missing
            ]
            columns = Movie.__table__.c
            statement = (
                upsert(Movie.__table__)
                .on_conflict_do_nothing()
                .returning(columns.movie_key, columns.movie_id, columns.title)
            )
            made = set()
            for movie_key, movie_id, title in session.connection().execute(statement, created):
                made.add(movie_id)
                retitled[movie_key] = title
            inserted += len(made)
            lost = [movie_id for movie_id in part if movie_id not in known and movie_id not in made]
            # Another writer was quicker: its row is there now, and is changed like any other.
            for movie in session.scalars(_locked(lost)):
                known[movie.movie_id] = movie
        for movie_id, movie in sorted(known.items()):
            changes = {
                name: value
                for name, value in _values(merged[movie_id]).items()
                if getattr(movie, name) != value
            }
            if "title" in changes:
                retitled[movie.movie_key] = str(changes["title"])
            for name, value in changes.items():
                setattr(movie, name, value)
            if changes:
                movie.updated_at = now
                updated += 1
        session.flush()
        _store_words(session, retitled)
    if inserted or updated:
        state.generation = CatalogueState.generation + 1
        session.flush()
    return Counts(
        inserted=inserted,
        updated=updated,
        unchanged=len(merged) - inserted - updated,
        superseded=len(entries) - len(merged),
    )


def get(session: Session, movie_id: str) -> Movie:
    """One movie; `NotFound` when neither a catalogue nor a rating has named it."""
    movie = session.scalar(select(Movie).where(Movie.movie_id == movie_id))
    if movie is None:
        raise NotFound(f"There is no movie {movie_id!r}.")
    return movie


def of_ids(session: Session, movie_ids: Sequence[str]) -> dict[str, Movie]:
    """The movies that have these ids, by id."""
    found: dict[str, Movie] = {}
    for part in in_parts(sorted(set(movie_ids))):
        for movie in session.scalars(select(Movie).where(Movie.movie_id.in_(part))):
            found[movie.movie_id] = movie
    return found


def generation(session: Session) -> int:
    """A number that is another one after every change of the catalogue."""
    known: int | None = session.info.get(CATALOGUE_GENERATION)
    if known is None:
        known = session.scalars(_GENERATION).one()
        if session.info.get(ONE_MOMENT):
            session.info[CATALOGUE_GENERATION] = known
    return known


def cards(session: Session, movie_ids: Sequence[str]) -> dict[str, MovieCard]:
    """What lists show of these movies, by id.

    Kept in memory for as long as the catalogue does not change: a reading session sees its generation and its
    movies at one moment, so what is kept under a generation is what the database says.
    """
    if not session.info.get(ONE_MOMENT):
        return _read_cards(session, movie_ids)
    kept = _kept_cards(session, generation(session))
    missing = [movie_id for movie_id in movie_ids if movie_id not in kept]
    if missing:
        if len(kept) + len(missing) > CARDS_KEPT:
            kept.clear()
            missing = list(movie_ids)
        kept.update(_read_cards(session, missing))
    return {movie_id: kept[movie_id] for movie_id in movie_ids if movie_id in kept}


def _read_cards(session: Session, movie_ids: Sequence[str]) -> dict[str, MovieCard]:
    found: dict[str, MovieCard] = {}
    for part in in_parts(sorted(set(movie_ids))):
        statement = select(Movie.movie_key, Movie.movie_id, Movie.title, Movie.year, Movie.genres)
        for row in session.execute(statement.where(Movie.movie_id.in_(part))):
            found[row.movie_id] = MovieCard(row.movie_key, row.movie_id, row.title, row.year, row.genres)
    return found


def _kept_cards(session: Session, now: int) -> dict[str, MovieCard]:
    """The cards of this generation; those of an older one are forgotten."""
    engine = session.get_bind()
    kept = _kept.get(engine)
    if kept is not None and kept[0] == now:
        return kept[1]
    fresh: dict[str, MovieCard] = {}
    # A session that began before the last change must not replace what is newer.
    if kept is None or kept[0] < now:
        _kept[engine] = (now, fresh)
    return fresh


def page(
    session: Session,
    *,
    query: str = "",
    genre: str | None = None,
    year_from: int | None = None,
    year_to: int | None = None,
    limit: int,
    cursor: str | None = None,
) -> tuple[list[Movie], str | None]:
    """Movies in which every word of the query begins a word of the title, the most popular first.

    Of equally popular ones the newest entry comes first. Popular is what has the most ratings; when some come
    between two pages, a movie may be on both of them or on none.
    """
    statement = select(Movie).limit(limit + 1)
    popularity: ColumnElement[int] = Movie.n_ratings.expression
    asked = _asked(query)
    conditions = list(_conditions(genre, year_from, year_to))
    if (keys := _keys_to_look_up(session, asked, wanted=limit + 1, filtered=bool(conditions))) is not None:
        # Not by the index of popularity: it would look at every movie, to see whether it is one of these.
        popularity = popularity + 0
        statement = statement.where(_is_among(session, keys))
    conditions += [_has(session, word) for word in asked]
    for condition in conditions:
        statement = statement.where(condition)
    if cursor is not None:
        n_ratings, movie_key = cursors.read(cursor, 2)
        statement = statement.where(tuple_(Movie.n_ratings, Movie.movie_key) < tuple_(n_ratings, movie_key))
    found = list(session.scalars(statement.order_by(popularity.desc(), Movie.movie_key.desc())))
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    return found[:limit], cursors.make(last.n_ratings, last.movie_key)


def uncounted_ratings(session: Session) -> dict[int, int]:
    """How many ratings more than its `n_ratings` says a movie has, by key; only where it is wrong.

    Whoever adds them afterwards is right even if ratings were stored meanwhile.
    """
    counted = select(Rating.movie_key, func.count().label("n")).group_by(Rating.movie_key).subquery("counted")
    n = func.coalesce(counted.c.n, 0)
    statement = (
        select(Movie.movie_key, n - Movie.n_ratings)
        .outerjoin(counted, counted.c.movie_key == Movie.movie_key)
        .where(Movie.n_ratings != n)
        .order_by(Movie.movie_key)
    )
    return dict(session.execute(statement).all())


def csv_lines(session: Session) -> Iterator[str]:
    """Every movie as CSV, in pieces of a few thousand lines; importing it gives the same catalogue."""
    columns = (Movie.movie_id, Movie.title, Movie.year, Movie.genres, Movie.imdb_id, Movie.tmdb_id)
    statement = select(*columns).order_by(Movie.movie_key).execution_options(yield_per=EXPORT_ROWS)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["movie_id", "plain_title", "year", "genres", "imdb_id", "tmdb_id"])
    for part in session.execute(statement).partitions():
        for movie_id, title, year, genres, imdb_id, tmdb_id in part:
            between_bars = f"|{'|'.join(genres)}|" if genres else ""
            writer.writerow([movie_id, title, year, between_bars, imdb_id, tmdb_id])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


def matching_ids(
    session: Session, *, genre: str | None, year_from: int | None, year_to: int | None
) -> list[str]:
    """The ids of every movie that passes the filters."""
    return list(session.scalars(select(Movie.movie_id).where(*_conditions(genre, year_from, year_to))))


def ids_of_keys(session: Session, movie_keys: Sequence[int]) -> list[str]:
    """The ids of the movies that have these keys, in no certain order."""
    found: list[str] = []
    keys = list(movie_keys)
    for start in range(0, len(keys), LOOKUP_IDS):
        part = keys[start : start + LOOKUP_IDS]
        found += session.scalars(select(Movie.movie_id).where(Movie.movie_key.in_(part)))
    return found


def of_titles(session: Session, asked: Sequence[tuple[str, int | None]]) -> list[list[Movie]]:
    """The movies that each title and year may mean, in one query: none, one or several, by year.

    Case, accents and spaces do not matter, and `Matrix, The` is `The Matrix`. A title may carry its year, as
    in `Heat (1995)`. With a year, movies of another year are left out; those whose year nobody has told count
    where no movie has that very year.
    """
    wanted = [_title_and_year(title, year) for title, year in asked]
    # A movie that only ratings have named has an empty title, which nobody asks for.
    spellings = [_spellings(title) if title else [] for title, _ in wanted]
    by_title: dict[str, list[Movie]] = defaultdict(list)
    for part in in_parts(sorted({one for some in spellings for one in some})):
        statement = select(Movie).where(Movie.folded_title.in_(part)).order_by(Movie.movie_key)
        for movie in session.scalars(statement):
            by_title[movie.folded_title].append(movie)
    found = []
    for (_, year), some in zip(wanted, spellings, strict=True):
        movies = [movie for one in some for movie in by_title[one]]
        movies.sort(key=lambda movie: (movie.year or 0, movie.movie_key))
        if year is not None:
            exactly = [movie for movie in movies if movie.year == year]
            movies = exactly or [movie for movie in movies if movie.year is None]
        found.append(movies)
    return found


def like_title(session: Session, title: str, limit: int = 5) -> list[Movie]:
    """Movies whose titles look like this one, the likest first: they share its longest word's beginning."""
    folded, _ = _title_and_year(title, None)
    words = sorted(re.findall(r"\w+", folded), key=len, reverse=True)
    if not words:
        return []
    pattern = "% " + _escaped(words[0][:4]) + "%"
    statement = (
        select(Movie)
        .where(Movie.title_words.like(pattern, escape="\\"))
        .order_by(Movie.movie_key)
        .limit(COMPARED_TITLES)
    )

    def likeness(movie: Movie) -> float:
        return max(SequenceMatcher(None, one, movie.folded_title).ratio() for one in _spellings(folded))

    return sorted(session.scalars(statement), key=likeness, reverse=True)[:limit]


def _title_and_year(title: str, year: int | None) -> tuple[str, int | None]:
    """A folded title without the year that it may carry in brackets, and the year."""
    folded = " ".join(fold(title).split())
    carried = re.fullmatch(r"(.+?) \((\d{4})\)", folded)
    if carried is None:
        return folded, year
    return carried[1], int(carried[2]) if year is None else year


def _spellings(folded: str) -> list[str]:
    """A folded title with its article in front and behind."""
    spellings = [folded]
    before, comma, behind = folded.rpartition(", ")
    if comma and behind in ARTICLES:
        spellings.append(behind + ("" if behind.endswith("'") else " ") + before)
    if in_front := re.match(r"(\w+'|\w+(?= )) ?(?=\S)", folded):
        article, rest = in_front[1], folded[in_front.end() :]
        if article in ARTICLES:
            spellings.append(f"{rest}, {article}")
    return spellings


def _locked(movie_ids: Sequence[str]) -> Select[Movie]:
    """The movies that have these ids, locked in the order of their keys, as whoever counts ratings does."""
    return select(Movie).where(Movie.movie_id.in_(movie_ids)).order_by(Movie.movie_key).with_for_update()


def _values(said: dict[str, object]) -> dict[str, object]:
    """What an entry says, as columns."""
    values = dict(said)
    if isinstance(genres := values.get("genres"), tuple):
        values["genres"] = list(dict.fromkeys(genres))
    if isinstance(title := values.get("title"), str):
        values["folded_title"] = fold(title)
        values["title_words"] = "".join(f" {word}" for word in words(title))
    return values


def _store_words(session: Session, titles: dict[int, str]) -> None:
    """Have movies found by the words of these titles, given by movie key, and by no others."""
    if not titles:
        return
    session.execute(delete(MovieWord).where(MovieWord.movie_key.in_(titles)))
    rows = [
        {"word": word, "movie_key": movie_key} for movie_key, title in titles.items() for word in words(title)
    ]
    if rows:
        session.connection().execute(insert(MovieWord), rows)


def _asked(query: str) -> list[str]:
    """The folded words that are asked for, each once, but none that begins another one: that says it all."""
    words_ = {word[:LONGEST_WORD] for word in fold(query).split()}
    return [
        word for word in sorted(words_) if not any(one != word and one.startswith(word) for one in words_)
    ]


def _keys_to_look_up(
    session: Session, asked: Sequence[str], *, wanted: int, filtered: bool
) -> SelectBase | None:
    """The keys of movies that have the rarest or the two rarest of the words, to look at no others.

    None when it is quicker to look at one movie after another, the most popular first, until `wanted` are
    found. What is quicker is reckoned as if words did not depend on each other.
    """
    if not asked:
        return None
    n_movies, *found = _numbers_of(session, ["", *asked])
    n_movies = max(n_movies, *found, 1)
    by_number = sorted(zip(found, asked, strict=True))
    share = (FILTERED_SHARE if filtered else 1.0) * math.prod(n / n_movies for n in found)
    walk = COST_OF_STEP * min(n_movies, wanted / share if share else math.inf)

    keys = [select(MovieWord.movie_key).where(_begins(word)) for _, word in by_number[:2]]
    choices: list[tuple[float, SelectBase]] = []
    numbers = [n for n, _ in by_number[:2]]
    if numbers[0] <= COMMON_MOVIES:
        choices.append((COST_OF_LOOKUP * numbers[0], keys[0]))
    if len(numbers) == 2 and numbers[1] <= COMMON_MOVIES:
        n_both = numbers[0] * numbers[1] / n_movies
        choices.append((COST_OF_WORD * sum(numbers) + COST_OF_LOOKUP * n_both, intersect(*keys)))
    cost, cheapest = min(choices, key=lambda choice: choice[0], default=(math.inf, None))
    return cheapest if cost < walk else None


def _numbers_of(session: Session, asked: Sequence[str]) -> list[int]:
    """How many movies have each word, up to about `COMMON_MOVIES`; "" is had by all, of which there are more.

    Those of common words are at most `REMEMBERED_SECONDS` old. They decide how movies are searched, not which
    ones are found.
    """
    now = time.monotonic()
    remembered = _numbers.setdefault(session.get_bind(), {})
    known: dict[str, int] = {}
    for word in asked:
        number, counted_at = remembered.get(word, (0, -math.inf))
        if now - counted_at < REMEMBERED_SECONDS:
            known[word] = number
    if unknown := [word for word in asked if word not in known]:
        columns = [_count(word).scalar_subquery() for word in unknown]
        for word, number in zip(unknown, session.execute(select(*columns)).one(), strict=True):
            known[word] = number or 0
            if known[word] > REMEMBERED_FROM:
                if len(remembered) >= REMEMBERED_WORDS:
                    remembered.clear()
                remembered[word] = (known[word], now)
    return [known[word] for word in asked]


def _count(word: str) -> Select[Any]:
    if not word:
        return select(func.max(Movie.movie_key))
    some = select(MovieWord.movie_key).where(_begins(word)).limit(COMMON_MOVIES + 1)
    return select(func.count()).select_from(some.subquery())


def _has(session: Session, word: str) -> ColumnElement[bool]:
    """Whether a title has a word that begins so."""
    if session.get_bind().dialect.name == "postgresql":
        # Its planner takes LIKE for so rare that it reads and sorts all movies rather than walk them by
        # popularity until there are enough.
        return func.strpos(Movie.title_words, f" {word}") > 0
    return Movie.title_words.like(f"% {_escaped(word)}%", escape="\\")


def _is_among(session: Session, keys: SelectBase) -> ColumnElement[bool]:
    if session.get_bind().dialect.name == "postgresql":
        # As an array, which is ready before the movies are looked at: in a join it reads all of them.
        return Movie.movie_key == any_(func.array(keys.scalar_subquery(), type_=postgresql.ARRAY(BigInteger)))
    return Movie.movie_key.in_(keys)


def _begins(word: str) -> ColumnElement[bool]:
    return and_(MovieWord.word >= word, MovieWord.word < word + "\U0010ffff")


def _conditions(
    genre: str | None, year_from: int | None, year_to: int | None
) -> Iterator[ColumnElement[bool]]:
    if genre is not None:
        yield type_coerce(Movie.genres, Text).like(f"%|{_escaped(genre)}|%", escape="\\")
    if year_from is not None:
        yield Movie.year >= year_from
    if year_to is not None:
        yield Movie.year <= year_to


def _escaped(words: str) -> str:
    """Literally, in a LIKE pattern."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

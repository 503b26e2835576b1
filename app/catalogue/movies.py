"""The movies: store, get, count their ratings, export.

A movie that only ratings have named is a bare entry: an id with an empty title. Storing
the movie later completes it, and every list has the title from then on.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.catalogue.titles import fold, words
from app.errors import NotFound
from app.ratings.batch import Counts
from app.storage.database import in_parts, insert_of
from app.storage.tables import CatalogueState, Movie, Rating

INSERT_ROWS = 1_000
EXPORT_ROWS = 5_000

YEARS = range(1870, 2101)  # the first moving pictures, and announcements


@dataclass(frozen=True)
class MovieEntry:
    """A movie as a caller describes it; None leaves the stored value as it is."""

    movie_id: str
    """The id that callers use."""
    title: str | None = None
    """Without the year; the article may stand in front or at the end."""
    year: int | None = None
    """The year of release, in `YEARS`."""
    genres: tuple[str, ...] | None = None
    """Genre names; repeated ones are dropped."""
    imdb_id: str | None = None
    """As the caller writes it."""
    tmdb_id: str | None = None
    """As the caller writes it."""


def store(session: Session, entries: Sequence[MovieEntry], *, now: datetime) -> Counts:
    """Insert movies, complete and change stored ones; return how many of each.

    Of several entries for one movie the later adds to the earlier; the earlier ones
    count as `superseded`.
    """
    merged: dict[str, dict[str, Any]] = {}
    for entry in entries:
        fields = {name: value for name, value in vars(entry).items() if value is not None}
        merged[entry.movie_id] = merged.get(entry.movie_id, {}) | fields
    columns = {movie_id: _columns(fields) for movie_id, fields in merged.items()}
    # Locked first by every writer of the catalogue, so that two of them cannot wait for
    # each other.
    state = session.scalars(select(CatalogueState).with_for_update()).one()
    inserted = updated = 0
    # In the order of the ids, so that writers of ratings, which may add movies, cannot
    # wait for this one.
    for part in in_parts(sorted(columns), INSERT_ROWS):
        movies = _locked(session, part)
        missing = {movie_id: columns[movie_id] for movie_id in part if movie_id not in movies}
        created = _insert(session, missing, now)
        # Another writer may have inserted some in between: those rows are changed like
        # any other.
        movies |= _locked(session, [movie_id for movie_id in missing if movie_id not in created])
        inserted += len(created)
        updated += sum(_change(movie, columns[movie_id], now) for movie_id, movie in movies.items())
        session.flush()
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
    """One movie; `NotFound` if neither a catalogue nor a rating has named it."""
    movie = session.scalar(select(Movie).where(Movie.movie_id == movie_id))
    if movie is None:
        raise NotFound(f"There is no movie {movie_id!r}.")
    return movie


def of_ids(session: Session, movie_ids: Sequence[str]) -> dict[str, Movie]:
    """Movies by id; ids without a movie are left out."""
    movies: dict[str, Movie] = {}
    for part in in_parts(sorted(set(movie_ids))):
        for movie in session.scalars(select(Movie).where(Movie.movie_id.in_(part))):
            movies[movie.movie_id] = movie
    return movies


def ids_of_keys(session: Session, movie_keys: Sequence[int]) -> list[str]:
    """The ids of the movies with these keys, in no certain order."""
    return [
        movie_id
        for part in in_parts(movie_keys)
        for movie_id in session.scalars(select(Movie.movie_id).where(Movie.movie_key.in_(part)))
    ]


def uncounted_ratings(session: Session) -> dict[int, int]:
    """Ratings that a movie has beyond its `n_ratings`, by movie key, without zeros.

    Adding the differences is right even if ratings were stored meanwhile.
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
    """All movies as CSV that can be imported, in pieces of some thousand lines."""
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


def _columns(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of `movies` that the fields of an entry set."""
    columns = dict(fields)
    if "genres" in columns:
        columns["genres"] = list(dict.fromkeys(columns["genres"]))
    if "title" in columns:
        columns["folded_title"] = fold(columns["title"])
        columns["title_words"] = "".join(f" {word}" for word in words(columns["title"]))
    return columns


def _locked(session: Session, movie_ids: Sequence[str]) -> dict[str, Movie]:
    """Stored movies by id, locked in the order of their keys, as all writers do."""
    if not movie_ids:
        return {}
    statement = select(Movie).where(Movie.movie_id.in_(movie_ids)).order_by(Movie.movie_key)
    return {movie.movie_id: movie for movie in session.scalars(statement.with_for_update())}


def _insert(session: Session, columns: Mapping[str, Mapping[str, Any]], now: datetime) -> set[str]:
    """Insert movies, by id, that are not stored yet; return the ids of the new ones."""
    if not columns:
        return set()
    absent = dict.fromkeys(["year", "imdb_id", "tmdb_id"]) | {
        "title": "",
        "folded_title": "",
        "title_words": "",
        "genres": [],
        "created_at": now,
        "updated_at": now,
    }
    statement = insert_of(session, Movie).on_conflict_do_nothing().returning(Movie.__table__.c.movie_id)
    rows = [{**absent, **row} for row in columns.values()]
    return set(session.connection().execute(statement, rows).scalars())


def _change(movie: Movie, columns: Mapping[str, Any], now: datetime) -> bool:
    """Set the columns that differ; return whether any did."""
    changes = {name: value for name, value in columns.items() if getattr(movie, name) != value}
    for name, value in changes.items():
        setattr(movie, name, value)
    if changes:
        movie.updated_at = now
    return bool(changes)

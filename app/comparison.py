"""Two model versions side by side: settings, metrics, and how far the lists agree that people would get."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app import model_registry, ratings
from app.errors import InvalidInput
from app.learning.machines import BLOCK_ENTRIES, Machines
from app.learning.preferences import RatingRows
from app.learning.ranking import top_rows
from app.tables import ModelVersion, Rating, User

LIST_LENGTH = 10
SAMPLED_USERS = 200
MOST_SAMPLED_USERS = 2_000

# Multiplying by this odd number scatters consecutive keys over 32 bits (Knuth's multiplicative hashing).
_SCATTER, _RANGE = 2_654_435_761, 2**32


@dataclass(frozen=True)
class Metric:
    """A number that both versions' evaluations hold, or one of them."""

    first: float | None
    second: float | None
    difference: float | None


@dataclass(frozen=True)
class ListOverlap:
    """How far the lists agree that a sample of users would get from either version now.

    Attributes:
        n_users: users in the sample, all with ratings.
        length: movies in a list at most.
        mean: mean share of a list's movies that the other list has too; None without users.
        least: the smallest share of any user.
        identical: users whose two lists are equal, order included.
        disjoint: users whose two lists share nothing.
    """

    n_users: int
    length: int
    mean: float | None
    least: float | None
    identical: int
    disjoint: int


@dataclass(frozen=True)
class Comparison:
    """What two versions have in common and what not.

    Attributes:
        first, second: the versions.
        settings: those that differ, name -> (first's value, second's value).
        metrics: every number of the stored evaluations, by its path with dots.
        shared_movies, only_first, only_second: sizes of the vocabularies' intersection and differences.
        lists: on the ratings as they are now.
    """

    first: ModelVersion
    second: ModelVersion
    settings: dict[str, tuple[Any, Any]]
    metrics: dict[str, Metric]
    shared_movies: int
    only_first: int
    only_second: int
    lists: ListOverlap


def compare(session: Session, first: int, second: int, *, n_users: int = SAMPLED_USERS) -> Comparison:
    """Compare two versions.

    The metrics are those of each version's own gate: of the users reserved and the ratings known at the time.
    The lists are made now, for the same sample of at most `n_users` users from either version.

    Raises:
        NotFound, CorruptModelVersion: as `model_registry.load`.
        InvalidInput: `n_users` is out of range.
    """
    if not 1 <= n_users <= MOST_SAMPLED_USERS:
        raise InvalidInput(f"Compare lists of 1 to {MOST_SAMPLED_USERS:,} users, not of {n_users}.")
    rows = model_registry.get(session, first), model_registry.get(session, second)
    machines = model_registry.load(session, first), model_registry.load(session, second)
    vocabularies = [set(one.vocabulary.movie_ids) for one in machines]
    shared = len(vocabularies[0] & vocabularies[1])
    settings = rows[0].configuration, rows[1].configuration
    return Comparison(
        first=rows[0],
        second=rows[1],
        settings={
            name: (settings[0].get(name), settings[1].get(name))
            for name in dict.fromkeys([*settings[0], *settings[1]])
            if settings[0].get(name) != settings[1].get(name)
        },
        metrics=_metrics(rows[0].metrics, rows[1].metrics),
        shared_movies=shared,
        only_first=len(vocabularies[0]) - shared,
        only_second=len(vocabularies[1]) - shared,
        lists=_overlap(machines, ratings.of_users(session, sampled_users(session, n_users))),
    )


def sampled_users(session: Session, n: int) -> list[str]:
    """Ids of at most n users with ratings, spread over all of them, the same whenever it is asked."""
    statement = (
        select(User.user_id)
        .where(exists().where(Rating.user_key == User.user_key))
        .order_by(User.user_key * _SCATTER % _RANGE)
        .limit(n)
    )
    return list(session.scalars(statement))


def _overlap(
    machines: tuple[Machines, Machines], stars: Mapping[str, list[tuple[str, float]]]
) -> ListOverlap:
    shares: list[float] = []
    identical = 0
    lists = [_lists(one, list(stars.values())) for one in machines]
    for first, second in zip(*lists, strict=True):
        longer = max(len(first), len(second))
        if longer:  # who has rated everything that both know gets two empty lists
            shares.append(len(set(first) & set(second)) / longer)
            identical += first == second
    return ListOverlap(
        n_users=len(shares),
        length=LIST_LENGTH,
        mean=float(np.mean(shares)) if shares else None,
        least=min(shares) if shares else None,
        identical=identical,
        disjoint=shares.count(0.0),
    )


def _lists(machines: Machines, users: list[list[tuple[str, float]]]) -> list[list[str]]:
    """The first movies that each user would be recommended, as ids."""
    movie_ids = machines.vocabulary.movie_ids
    block = max(1, BLOCK_ENTRIES // max(1, machines.n_movies))
    lists: list[list[str]] = []
    for start in range(0, len(users), block):
        rows = _rows(machines, users[start : start + block])
        best: NDArray[np.int64] = top_rows(machines.blended_scores(rows), LIST_LENGTH, rows)
        lists += [[movie_ids[column] for column in row if column >= 0] for row in best.tolist()]
    return lists


def _rows(machines: Machines, users: list[list[tuple[str, float]]]) -> RatingRows:
    """The ratings over the version's columns, without movies that it does not know."""
    lengths = [len(one) for one in users]
    columns = machines.vocabulary.columns([movie_id for one in users for movie_id, _ in one])
    values = np.array([value for one in users for _, value in one], np.float32)
    known = columns >= 0
    return RatingRows.from_coordinates(
        np.repeat(np.arange(len(users)), lengths)[known],
        columns[known],
        values[known],
        n_users=len(users),
        n_movies=machines.n_movies,
    )


def _metrics(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Metric]:
    figures = numbers(first), numbers(second)
    result = {}
    for path in dict.fromkeys([*figures[0], *figures[1]]):
        one, other = figures[0].get(path), figures[1].get(path)
        difference = other - one if one is not None and other is not None else None
        result[path] = Metric(one, other, difference)
    return result


def numbers(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number in nested figures by its path with dots; version numbers are names, not figures."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "version":
            found[prefix + name] = float(value)
    return found

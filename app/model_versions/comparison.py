"""Two model versions side by side: settings, metrics, agreement of lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from app.errors import InvalidInput
from app.learning.inference.ranking import top_rows
from app.learning.rating_matrix import RatingRows
from app.learning.trained_model import BLOCK_ENTRIES, TrainedModel
from app.model_versions import store
from app.ratings import read
from app.storage.answers import Answer
from app.storage.tables import Rating, User

LIST_LENGTH = 10
SAMPLED_USERS = 200
MOST_SAMPLED_USERS = 2_000

# Multiplying by this odd number scatters consecutive keys over 32 bits (Knuth's
# multiplicative hashing).
_SCATTER, _RANGE = 2_654_435_761, 2**32


@dataclass(frozen=True)
class DifferingSetting(Answer):
    """A setting of the fit that differs; None where a version does not have it."""

    first: Annotated[Any, Field(examples=[200])]
    second: Annotated[Any, Field(examples=[310])]


@dataclass(frozen=True)
class ComparedMetric(Answer):
    """A number of both versions' evaluations, or of one of them."""

    first: Annotated[float | None, Field(examples=[0.24])]
    second: Annotated[float | None, Field(examples=[0.239])]
    difference: Annotated[float | None, Field(examples=[-0.001])]
    """Second minus first."""


@dataclass(frozen=True)
class ListOverlap(Answer):
    """How far the lists agree that a sample of users would get from both versions."""

    n_users: Annotated[int, Field(examples=[200])]
    """Users in the sample, all with ratings."""
    length: Annotated[int, Field(examples=[10])]
    """Movies in a list at most."""
    mean: Annotated[float | None, Field(examples=[0.97])]
    """Mean share of a list's movies that the other list has too; None without users."""
    least: Annotated[float | None, Field(examples=[0.8])]
    """The smallest share of any user."""
    identical: Annotated[int, Field(examples=[52])]
    """Users whose two lists are equal, order included."""
    disjoint: Annotated[int, Field(examples=[0])]
    """Users whose two lists share nothing."""


@dataclass(frozen=True)
class Comparison(Answer):
    """What two versions have in common and what not."""

    first: Annotated[int, Field(examples=[7])]
    second: Annotated[int, Field(examples=[6])]
    settings: Annotated[
        dict[str, DifferingSetting], Field(examples=[{"epochs": {"first": 60, "second": 127}}])
    ]
    """The settings that differ."""
    metrics: Annotated[
        dict[str, ComparedMetric],
        Field(examples=[{"machine.any": {"first": 0.24, "second": 0.239, "difference": -0.001}}]),
    ]
    """Every number of each version's own evaluation, by its path with dots."""
    shared_movies: Annotated[int, Field(examples=[728])]
    only_first: Annotated[int, Field(examples=[0])]
    """Movies that only the first version knows."""
    only_second: Annotated[int, Field(examples=[0])]
    """Movies that only the second version knows."""
    lists: ListOverlap
    """What a sample of users would be recommended now."""


def compare(session: Session, first: int, second: int, *, n_users: int = SAMPLED_USERS) -> Comparison:
    """Compare two versions.

    The metrics are those of each version's own gate: of the users reserved and the
    ratings known at the time. The lists are made now, for one sample of at most
    `n_users` users from either version.

    Raises:
        NotFound, CorruptModelVersion: as `store.load`.
        InvalidInput: `n_users` is out of range.
    """
    if not 1 <= n_users <= MOST_SAMPLED_USERS:
        raise InvalidInput(f"Compare lists of 1 to {MOST_SAMPLED_USERS:,} users, not of {n_users}.")
    rows = [store.get(session, version) for version in (first, second)]
    models = [store.load(session, version) for version in (first, second)]
    vocabularies = [set(model.vocabulary.movie_ids) for model in models]
    shared = len(vocabularies[0] & vocabularies[1])
    settings = rows[0].configuration, rows[1].configuration
    return Comparison(
        first=first,
        second=second,
        settings={
            name: DifferingSetting(settings[0].get(name), settings[1].get(name))
            for name in dict.fromkeys([*settings[0], *settings[1]])
            if settings[0].get(name) != settings[1].get(name)
        },
        metrics=_metrics(rows[0].metrics, rows[1].metrics),
        shared_movies=shared,
        only_first=len(vocabularies[0]) - shared,
        only_second=len(vocabularies[1]) - shared,
        lists=_overlap(models, read.of_users(session, sampled_users(session, n_users))),
    )


def sampled_users(session: Session, n: int) -> list[str]:
    """Ids of at most n users with ratings, spread over all; equal at every call."""
    statement = (
        select(User.user_id)
        .where(exists().where(Rating.user_key == User.user_key))
        .order_by(User.user_key * _SCATTER % _RANGE)
        .limit(n)
    )
    return list(session.scalars(statement))


def numbers(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every number in nested figures by its path with dots, but for version numbers."""
    result: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            result |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and name != "version":
            result[prefix + name] = float(value)
    return result


def _metrics(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, ComparedMetric]:
    figures = numbers(first), numbers(second)
    result = {}
    for path in dict.fromkeys([*figures[0], *figures[1]]):
        before, after = figures[0].get(path), figures[1].get(path)
        difference = after - before if before is not None and after is not None else None
        result[path] = ComparedMetric(before, after, difference)
    return result


def _overlap(models: Sequence[TrainedModel], stars: Mapping[str, list[tuple[str, float]]]) -> ListOverlap:
    shares: list[float] = []
    identical = 0
    lists = [_lists(model, list(stars.values())) for model in models]
    for first, second in zip(*lists, strict=True):
        longer = max(len(first), len(second))
        if longer:  # a user who has rated everything that both know gets two empty lists
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


def _lists(model: TrainedModel, users: list[list[tuple[str, float]]]) -> list[list[str]]:
    """The first movies that each user would be recommended, as ids."""
    movie_ids = model.vocabulary.movie_ids
    block = max(1, BLOCK_ENTRIES // max(1, model.n_movies))
    lists: list[list[str]] = []
    for start in range(0, len(users), block):
        rows = _rows(model, users[start : start + block])
        best: NDArray[np.int64] = top_rows(model.scores(rows), LIST_LENGTH, rows)
        lists += [[movie_ids[column] for column in row if column >= 0] for row in best.tolist()]
    return lists


def _rows(model: TrainedModel, users: list[list[tuple[str, float]]]) -> RatingRows:
    """The ratings over the version's columns, without movies that it does not know."""
    columns = model.vocabulary.columns([movie_id for user in users for movie_id, _ in user])
    stars = np.array([value for user in users for _, value in user], np.float32)
    known = columns >= 0
    return RatingRows.from_coordinates(
        np.repeat(np.arange(len(users)), [len(user) for user in users])[known],
        columns[known],
        stars[known],
        n_users=len(users),
        n_movies=model.n_movies,
    )

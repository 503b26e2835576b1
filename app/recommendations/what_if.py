"""What a user's list would be with other ratings, and what differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from sqlalchemy.orm import Session

from app.errors import FieldError, InvalidInput
from app.model_versions.serving import LoadedVersion
from app.recommendations import rating_input
from app.recommendations.lists import ListQuery, RecommendationList, for_ratings
from app.storage.answers import Answer


@dataclass(frozen=True)
class RankChange(Answer):
    """A movie whose place differs."""

    movie_id: Annotated[str, Field(examples=["181"])]
    title: Annotated[str, Field(examples=["Return of the Jedi"])]
    rank: Annotated[int | None, Field(examples=[2])]
    """In the new list; None where the movie left."""
    rank_before: Annotated[int | None, Field(examples=[5])]
    """In the present list; None where the movie entered."""


@dataclass(frozen=True)
class ListChanges(Answer):
    """How the list differs from the present one of equal length, by rank."""

    entered: list[RankChange]
    """Movies that the present list lacks."""
    left: list[RankChange]
    """Movies that the new list lacks."""
    moved: list[RankChange]
    """Movies with another rank."""


@dataclass(frozen=True)
class ComparedList(RecommendationList):
    """Ranked movies, and how they differ from the user's present list."""

    changes: ListChanges | None = None
    """None without a user, and on later pages, where they mean nothing."""


def what_if(
    session: Session,
    loaded: LoadedVersion | None,
    user_id: str,
    added: Mapping[str, float],
    removed: Sequence[str],
    query: ListQuery,
) -> ComparedList:
    """The list of a user as if ratings were added and others removed.

    Nothing is stored.

    Args:
        added: movie id -> stars; counts instead of the user's stored rating of the
            movie.
        removed: ids of rated movies whose ratings are taken away; `InvalidInput` for
            one that is not rated.
    """
    stored = rating_input.stored_of(session, user_id)
    mistakes = [
        FieldError(f"remove[{place}]", f"user {user_id!r} has no rating of movie {movie_id!r} to remove")
        for place, movie_id in enumerate(removed)
        if movie_id not in stored
    ]
    if mistakes:
        raise InvalidInput(f"{mistakes[0].location}: {mistakes[0].message}.", errors=mistakes)
    kept = {movie_id: stars for movie_id, stars in stored.items() if movie_id not in set(removed)}
    after = for_ratings(session, loaded, {**kept, **added}, query, user_id=user_id)
    changes = None
    if query.cursor is None:
        changes = compared(for_ratings(session, loaded, stored, query, user_id=user_id), after)
    return ComparedList(**vars(after), changes=changes)


def compared(before: RecommendationList, after: RecommendationList) -> ListChanges:
    """The movies that entered, left and moved."""
    ranks_before = {movie.movie_id: movie.rank for movie in before.items}
    ranks = {movie.movie_id: movie.rank for movie in after.items}
    changes = [
        RankChange(movie.movie_id, movie.title, movie.rank, ranks_before.get(movie.movie_id))
        for movie in after.items
    ]
    return ListChanges(
        entered=[change for change in changes if change.rank_before is None],
        left=[
            RankChange(movie.movie_id, movie.title, None, movie.rank)
            for movie in before.items
            if movie.movie_id not in ranks
        ],
        moved=[change for change in changes if change.rank_before not in (None, change.rank)],
    )

"""What a user's list would be with other ratings, and how it differs from the one of today."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.errors import FieldError, InvalidInput
from app.model_registry import Serving
from app.recommendations import profiles
from app.recommendations.lists import RecommendationList, Wanted, for_ratings


@dataclass(frozen=True)
class Change:
    """A movie whose place differs. `rank` is None where it left the list, `rank_before` where it entered."""

    movie_id: str
    title: str
    rank: int | None
    rank_before: int | None


@dataclass(frozen=True)
class Changes:
    """How the list differs from the user's present one of the same length, in the order of ranks."""

    entered: list[Change]
    left: list[Change]
    moved: list[Change]


def what_if(
    session: Session,
    serving: Serving | None,
    user_id: str,
    given: Mapping[str, float],
    removed: Sequence[str],
    wanted: Wanted,
) -> tuple[RecommendationList, Changes | None]:
    """The list of a user as if these ratings were stored, too, and those were not. Nothing is stored.

    Args:
        given: movie id -> stars; counts instead of what the user has said of the same movie.
        removed: ids of rated movies whose ratings are taken away; `InvalidInput` for one that is not rated.

    Returns:
        The list, and its changes; None on a later page (a wanted cursor), where they would mean nothing.
    """
    stored = profiles.of_user(session, user_id)
    strangers = [
        FieldError(f"remove[{place}]", f"user {user_id!r} has no rating of movie {movie_id!r} to remove")
        for place, movie_id in enumerate(removed)
        if movie_id not in stored
    ]
    if strangers:
        raise InvalidInput(f"{strangers[0].location}: {strangers[0].message}.", errors=strangers)
    kept = {movie_id: stars for movie_id, stars in stored.items() if movie_id not in set(removed)}
    after = for_ratings(session, serving, {**kept, **given}, wanted, user_id=user_id)
    if wanted.cursor is not None:
        return after, None
    return after, compared(for_ratings(session, serving, stored, wanted, user_id=user_id), after)


def compared(before: RecommendationList, after: RecommendationList) -> Changes:
    """What entered, left and moved."""
    ranks_before = {one.movie_id: one.rank for one in before.items}
    ranks = {one.movie_id: one.rank for one in after.items}
    now = [Change(one.movie_id, one.title, one.rank, ranks_before.get(one.movie_id)) for one in after.items]
    return Changes(
        entered=[one for one in now if one.rank_before is None],
        left=[
            Change(one.movie_id, one.title, None, one.rank)
            for one in before.items
            if one.movie_id not in ranks
        ],
        moved=[one for one in now if one.rank_before not in (None, one.rank)],
    )

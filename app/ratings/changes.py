"""Numbers of ratings inserted, updated and removed, ever, and their sums."""

from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from app.storage.tables import RatingChange

_SUMMED_ROWS = 5_000  # rows of `rating_changes` that one transaction sums up


@dataclass(frozen=True)
class Changes:
    """Sums over all transactions."""

    inserted: int
    """Ratings inserted."""
    updated: int
    """Ratings replaced by a newer one."""
    removed: int
    """Ratings deleted."""

    @property
    def total(self) -> int:
        """All changes. A removal counts too: a model should forget the rating."""
        return self.inserted + self.updated + self.removed

    @property
    def n_ratings(self) -> int:
        """How many ratings are stored, without counting them."""
        return self.inserted - self.removed


def changes(session: Session) -> Changes:
    """The sums of all changes: of few rows, however many ratings there are."""
    columns = (RatingChange.inserted, RatingChange.updated, RatingChange.removed)
    sums = session.execute(select(*(func.coalesce(func.sum(column), 0) for column in columns))).one()
    return Changes(*map(int, sums))


def note_change(session: Session, *, inserted: int = 0, updated: int = 0, removed: int = 0) -> None:
    """Write down what this transaction has changed, unless it is nothing."""
    if inserted or updated or removed:
        session.execute(insert(RatingChange).values(inserted=inserted, updated=updated, removed=removed))


def change_rows(session: Session) -> int:
    """How many rows `changes` has to sum."""
    return session.scalar(select(func.count()).select_from(RatingChange)) or 0


def sum_up_changes(session: Session) -> int:
    """Replace old rows of `rating_changes` by their sum; return how many there were.

    What is summed is what the deletion returns: another transaction may commit an older
    row meanwhile.
    """
    oldest = select(RatingChange.change_id).order_by(RatingChange.change_id).limit(_SUMMED_ROWS)
    keys = list(session.scalars(oldest))
    gone = session.execute(
        delete(RatingChange)
        .where(RatingChange.change_id.in_(keys))
        .returning(RatingChange.inserted, RatingChange.updated, RatingChange.removed)
    ).all()
    if not gone:
        return 0  # another worker was quicker
    inserted, updated, removed = (sum(column) for column in zip(*gone, strict=True))
    note_change(session, inserted=inserted, updated=updated, removed=removed)
    return len(gone)

"""The three protocols: which ratings train, which are folded in, which test.

- stratified: of each user's ratings 75 % train and 25 % test, by a seeded split.
- temporal: the newest 25 % of all ratings test. Users without training ratings are a
  table of their own.
- new-users: an eighth of the users, with 25 ratings at least, never train; 1, 3, 5, 10,
  20 and half of their ratings are folded in, the rest test. Shorter profiles are the
  beginnings of the longer ones.

Every list ranks the full catalogue without the profile. Models see training ratings and
profiles only.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidInput
from app.evaluation.rating_file import RatingData
from app.learning.evaluation import splitting
from app.learning.rating_matrix import RatingRows
from app.ratings.batch import UNTIMED

ProtocolName = Literal["stratified", "temporal", "new-users"]

NEW_USER_RATINGS = (1, 3, 5, 10, 20, None)  # folded in; None: half of them
NEW_USER_LEAST = 25  # ratings of a held-out user who takes part


@dataclass(frozen=True)
class Task:
    """Profiles to make lists from, and the test ratings of the same users."""

    title: str
    profiles: RatingRows
    test: RatingRows


@dataclass(frozen=True)
class Trial:
    """One split of the ratings.

    Attributes:
        training: the rows that train.
        tasks: a table each.
    """

    training: RatingRows
    tasks: list[Task]


def trial(data: RatingData, protocol: ProtocolName, seed: int) -> Trial:
    """The split of a protocol with this seed.

    Raises:
        InvalidInput: the ratings do not allow the protocol.
    """
    return {"stratified": _stratified, "temporal": _temporal, "new-users": _new_users}[protocol](data, seed)


def _stratified(data: RatingData, seed: int) -> Trial:
    training, test = splitting.stratified(data.rows, np.random.default_rng(seed))
    return Trial(training, [_of_users("", training, test, np.flatnonzero(test.lengths > 0))])


def _temporal(data: RatingData, seed: int) -> Trial:
    if (data.rated_at == UNTIMED).any():
        raise InvalidInput("The temporal protocol needs the time of every rating, and some have none.")
    training, test = splitting.temporal(data.rows, data.rated_at)
    is_tested, is_known = test.lengths > 0, training.lengths > 0
    tasks = [
        _of_users("with training ratings", training, test, np.flatnonzero(is_tested & is_known)),
        _of_users("without training ratings", training, test, np.flatnonzero(is_tested & ~is_known)),
    ]
    return Trial(training, [task for task in tasks if task.test.n_users])


def _new_users(data: RatingData, seed: int) -> Trial:
    training, held_out = splitting.new_users(data.rows, np.random.default_rng(seed))
    held_out = held_out.rows(np.flatnonzero(held_out.lengths >= NEW_USER_LEAST))
    if not held_out.n_users:
        raise InvalidInput(
            f"No held-out user has {NEW_USER_LEAST} ratings, which the new-users protocol needs."
        )
    tasks = []
    for n in NEW_USER_RATINGS:
        # One stream for every n, so that the order of a user's ratings stays and longer
        # profiles go on.
        split = splitting.profiles(held_out, np.random.default_rng([seed, 1]), n)
        title = "half of their ratings" if n is None else f"{n} rating{'s'[: n > 1]}"
        tasks.append(Task(title, split.known, split.test))
    return Trial(training, tasks)


def _of_users(title: str, training: RatingRows, test: RatingRows, users: NDArray[np.int64]) -> Task:
    return Task(title, training.rows(users), test.rows(users))

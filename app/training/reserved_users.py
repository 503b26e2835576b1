"""The users that no version is trained with: the gate compares versions on them."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def reserved_users(user_ids: Sequence[str], *, share: float, most: int) -> NDArray[np.int64]:
    """The places of the reserved users, ascending: int64 of shape (n_reserved,).

    A hash of the id decides, so that a user stays on one side from one training run to
    the next, whichever users join or leave.
    """
    hashes = np.array(
        [int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest()) for user_id in user_ids],
        dtype=np.uint64,
    )
    chosen = np.flatnonzero(hashes < np.uint64(share * 2**64))
    if len(chosen) > most:
        chosen = chosen[np.argsort(hashes[chosen], kind="stable")[:most]]
    return np.sort(chosen).astype(np.int64)

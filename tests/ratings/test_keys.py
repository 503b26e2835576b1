"""Packed keys."""

import numpy as np

from app.ratings.keys import holds_key, pack_keys


def test_packed_keys_are_found_again() -> None:
    keys = np.array([1, 5, 6, 1000, 2**40], dtype=np.int64)
    packed = pack_keys(keys)
    assert all(holds_key(packed, int(key)) for key in keys)
    assert not any(holds_key(packed, key) for key in (0, 2, 7, 2**40 + 1))

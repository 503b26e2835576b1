"""Counts of failed API keys by client address, against guessing.

Counts live in this process's memory, so each API process counts for itself. A key that
is in force is taken from any address: callers behind one proxy cannot lock each other
out.
"""

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

ADDRESSES_KEPT = 10_000  # a few hundred bytes each; beyond, the window that began first is forgotten
NETWORK_BITS = 64  # of an IPv6 address: one customer has all that follows


class FailedKeys:
    """Failed keys by client address, in windows that begin with the first failure.

    Args:
        limit: failures within a window that are answered as such; 0 counts nothing.
        window: seconds.
        clock: seconds that never run backwards.
    """

    def __init__(self, limit: int, window: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()  # when a window began, how many

    def count(self, address: str | None) -> int | None:
        """Count a failure; return the seconds to wait once there are too many.

        Args:
            address: of the client; None for a socket of this machine.

        Returns:
            None within the limit; beyond it the whole seconds until the window ends.
        """
        if not self._limit:
            return None
        name, now = _network(address), self._clock()
        with self._lock:
            began, failures = self._failures.get(name, (now, 0))
            if now - began >= self._window:
                began, failures = now, 0
            if not failures:
                self._failures.pop(name, None)  # so that the order is that of the windows' beginnings
            self._failures[name] = (began, failures + 1)
            while len(self._failures) > ADDRESSES_KEPT or self._is_over(now):
                self._failures.popitem(last=False)
        if failures < self._limit:
            return None
        return max(1, math.ceil(began + self._window - now))

    def _is_over(self, now: float) -> bool:
        """Whether the oldest window has ended; there is one."""
        began, _ = next(iter(self._failures.values()))
        return now - began >= self._window

    def __len__(self) -> int:
        """Number of addresses that are kept."""
        return len(self._failures)


def _network(address: str | None) -> str:
    """The client's IPv4 address, the network of its IPv6 address, or its name."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return (address or "")[:64]
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), NETWORK_BITS), strict=False))

"""How many wrong tokens may be tried, from one address and from all together. Pure: time is an argument.

An address that guesses is refused for a while, the right token too, else guessing would go on. Other addresses are not:
only when very many guess at once, those that have failed lately have to wait as well.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from typing import Final

WINDOW_S: Final = 60.0
MOST_OF_ONE: Final = 10  # failures within the window
MOST_OF_ALL: Final = 100
MOST_ADDRESSES: Final = 1000  # that are remembered


class FailedLogins:
    """Failures of the last minute. An IPv6 address counts with its /64, which one caller has as a whole."""

    def __init__(self) -> None:
        self._by_address: dict[str, deque[float]] = {}  # the one that failed last is the last one
        self._all: deque[float] = deque(maxlen=MOST_OF_ALL)

    def wait_s(self, address: str, now: float) -> float:
        """Seconds until this address may try again; 0: now."""
        own = self._by_address.get(place := _place(address))
        if own is None:
            return 0.0
        _forget(own, now)
        _forget(self._all, now)
        if not own:
            del self._by_address[place]
            return 0.0
        if len(own) >= MOST_OF_ONE or len(self._all) >= MOST_OF_ALL:
            oldest = own[0] if len(own) >= MOST_OF_ONE else self._all[0]
            return max(0.001, oldest + WINDOW_S - now)
        return 0.0

    def note(self, address: str, now: float) -> None:
        """It tried and failed; or it begins to try, and `forgive` follows if it does not fail."""
        place = _place(address)
        own = self._by_address.pop(place, None)
        if own is None:
            own = deque(maxlen=MOST_OF_ONE)
            if len(self._by_address) >= MOST_ADDRESSES:
                del self._by_address[next(iter(self._by_address))]
        own.append(now)
        self._by_address[place] = own
        self._all.append(now)

    def forgive(self, address: str) -> None:
        """What was noted last did not fail."""
        own = self._by_address.get(_place(address))
        if own:
            own.pop()
        if self._all:
            self._all.pop()


def _place(address: str) -> str:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)


def _forget(times: deque[float], now: float) -> None:
    while times and times[0] <= now - WINDOW_S:
        times.popleft()

"""Who holds how many of a worker's places: a client may have three times what is still free, so that there is always
one for the next client, however many the others would take.

A client alone gets three quarters of `max_concurrent`; n clients that take all they can get the same each, and leave
one place in 3 n + 1.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

D = TypeVar("D")

_TIMES_THE_REST: Final = 3
_NO_LIMIT: Final = 2**62
_NETWORK_BITS: Final = 64  # of an IPv6 address: whoever has one address has its network


class Places(Generic[D]):
    """The requests under way. `who` names the client of one; it is asked, and clients are counted, only while places
    are scarce: before that nobody can hold too many."""

    def __init__(self, who: Callable[[D], str]) -> None:
        self._who = who
        self._taken: dict[D, str] = {}  # and whose they are, as far as that was counted
        self._held: Counter[str] | None = None
        self.limit(_NO_LIMIT)

    def limit(self, most: int) -> None:
        self.most = most
        self._scarce_from = most * _TIMES_THE_REST // (_TIMES_THE_REST + 1)

    def __len__(self) -> int:
        return len(self._taken)

    def __iter__(self) -> Iterator[D]:
        return iter(self._taken)

    def take(self, down: D) -> bool:
        """Whether there is a place for this one, which then has it until `give_back`."""
        taken = len(self._taken)
        if self._held is None and taken < self._scarce_from:
            self._taken[down] = ""
            return True
        return self._take_scarce(down, self.most - taken)

    def _take_scarce(self, down: D, free: int) -> bool:
        if self._held is None:
            self._taken = {other: self._who(other) for other in self._taken}
            self._held = Counter(self._taken.values())
        name = self._who(down)
        if self._held[name] >= _TIMES_THE_REST * free:
            return False
        self._taken[down] = name
        self._held[name] += 1
        return True

    def give_back(self, down: D) -> None:
        """Nothing happens if it had no place."""
        name = self._taken.pop(down, None)
        if name is not None and self._held is not None:
            self._held[name] -= 1
            if len(self._taken) < self._scarce_from // 2:
                self._held = None


def address_of(peer: Any) -> str:
    """The address in a socket's `peername`; "": a Unix socket's."""
    return str(peer[0]).partition("%")[0] if isinstance(peer, tuple) else ""


def network_of(written: str) -> str:
    """What is counted as one client, from an address."""
    if not written:
        return ""
    address = ipaddress.ip_address(written)
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _NETWORK_BITS), strict=False))

"""The last requests of a pool in the store: added in chunks by the workers, read by operators.

Layout, and how the oldest leave: `lua/requests.lua`. The hash tag is not that of the budgets, so that in a cluster a
long reading never delays a reserve.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from quotapool.observe.kept_request import KeptRequest
from quotapool.store.store import Script, Store, text_of

KEPT_S: Final = 7 * 86_400
MOST_IN_CHUNK: Final = 500
_AT_ONCE: Final = 8  # chunks in one answer of the store, a megabyte if they are full
_MOST_AT_ONCE: Final = 256  # if they are small
_SMALL: Final = 128 * 1024  # bytes in all
LATE_S: Final = 2.0  # chunks of several workers overlap by no more
_BEGINNING: Final = "0-0"

Match = Callable[[KeptRequest], bool]
_decode: Final = msgspec.msgpack.Decoder(list[KeptRequest]).decode


class RequestStore:
    """The requests of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self.prefix = f"qp:{{{pool}:requests}}"
        self._store = store
        self._script = Script.of(__package__, "requests")

    async def add(self, chunk: bytes, requests: int, *, sender: str, number: int, most: int) -> bool:
        """Add a chunk: an array of packed requests. False: it was added before. A sender's numbers rise, and it sends
        one at a time. Afterwards the last `most` are kept, and less than one chunk besides."""
        keys = [f"{self.prefix}:ring", f"{self.prefix}:count", f"{self.prefix}:batch:{sender}"]
        return bool(await self._store.evalsha(self._script, keys, (number, requests, chunk, most, KEPT_S)) == 1)

    async def latest(self, limit: int, match: Match = lambda _: True) -> list[KeptRequest]:
        """The last ones that match, those first that ended last."""
        found: list[KeptRequest] = []
        async for requests in self.newest_first():
            found += filter(match, requests)
            if len(found) >= limit:
                found.sort(key=_ended, reverse=True)
                del found[limit:]
                if not found or max(map(_ended, requests)) + LATE_S < found[-1].ended:
                    break
        found.sort(key=_ended, reverse=True)
        return found[:limit]

    async def find(self, request_id: str) -> KeptRequest | None:
        """The one with this id, if it is still kept."""
        wanted = request_id.encode()
        async for raw in self._raw_newest_first():
            if wanted in raw:
                for request in _decode(raw):
                    if request.id == request_id:
                        return request
        return None

    async def since(self, place: str) -> tuple[list[KeptRequest], str]:
        """Those that were added after this place, ordered by their ends, and the place after them. "": from now.

        A store that has counted less far than this place was emptied: then it is all that it has, and the place
        `is_before` the old one."""
        client, ring = self._store.client, f"{self.prefix}:ring"
        if not place:
            last: Any = await self._store.guard(client.xrevrange(ring, count=1))
            return [], text_of(last[0][0]) if last else _BEGINNING
        found: list[KeptRequest] = []
        added: Any = await self._store.guard(client.xrange(ring, f"({place}", "+", count=_AT_ONCE))
        for name, fields in added or ():
            place = text_of(name)
            found += _decode(fields[b"r"])
        if not added and place != _BEGINNING and _number(place) > await self.count():
            return await self.since(_BEGINNING)
        found.sort(key=_ended)
        return found, place

    async def count(self) -> int:
        """How many requests were ever added; the place `<count>-0` of `since` is that behind the last of them."""
        return int(await self._store.guard(self._store.client.get(f"{self.prefix}:count")) or 0)

    async def newest_first(self) -> AsyncIterator[list[KeptRequest]]:
        """All of them, a chunk at a time, the one that was added last first; within a chunk the oldest comes first."""
        async for raw in self._raw_newest_first():
            yield _decode(raw)

    async def _raw_newest_first(self) -> AsyncIterator[bytes]:
        before, count = "+", _AT_ONCE
        while True:
            page: Any = await self._store.guard(
                self._store.client.xrevrange(f"{self.prefix}:ring", before, "-", count=count)
            )
            for _, fields in page or ():
                yield fields[b"r"]
            if not page or len(page) < count:
                return
            before = f"({text_of(page[-1][0])}"
            is_small = sum(len(fields[b"r"]) for _, fields in page) < _SMALL
            count = min(2 * count, _MOST_AT_ONCE) if is_small else _AT_ONCE


def is_before(place: str, other: str) -> bool:
    """Of two places of `since`."""
    return _number(place) < _number(other)


def _number(place: str) -> int:
    return int(place.partition("-")[0])


def _ended(request: KeptRequest) -> float:
    return request.ended

"""The cache in the store: look-ups, new entries, and leases by which one process asks upstream for all.

Nothing here raises and nothing waits for long: with the store away, full or slow, a look-up is Missing and an entry is
not kept, and both are counted. An entry is served only before its end, by the store's clock, and never again after that
clock was set back (`lua/cache.lua`). A step of less than half a second is not noticed, so entries end that much sooner.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final

from quotapool.cache.answers import LEAD, LED, MISSING, Found, Lead, Led, Missing
from quotapool.cache.calls import Calls, Release, Renew, key_of
from quotapool.cache.contents import CacheContents, CacheStats
from quotapool.cache.entry import Entry
from quotapool.cache.look_ups import LOOK_UP_S, LookUps
from quotapool.cache.puts import MOST_ENTRY, Puts
from quotapool.cache.secrets import CacheSecrets
from quotapool.store.store import Store

LEASE_S: Final = 3.0  # of `lua/cache.lua`
RENEW_EVERY_S: Final = 1.0
_RENEWED_AT_ONCE: Final = 256
_FIRST_WAIT_S: Final = 0.025
_LONGEST_WAIT_S: Final = 0.25
_WAITS_GROW: Final = 1.5


def _nobody(_: str) -> None: ...


class CacheStore:
    """One process's. `store`: one of its own, not the ledger's: a long answer must not stand before a reserve, and a
    late one must not end the ledger's connection. `max_size`: bytes that all entries of the pool may take of the store.
    `patience_s`: the longest that a request waits to hear whether there is an entry.

    `on_failed(reason)`: a call failed, by the word of `StoreLost.reason`, or "script". `on_unkept(why)`: an entry was
    not kept, by the words of `Puts`. `on_damaged()`: an entry was damaged, or not of this master key; it was a miss.
    """

    def __init__(
        self,
        store: Store,
        pool: str,
        secrets: CacheSecrets,
        max_size: int,
        *,
        on_failed: Callable[[str], None] = _nobody,
        on_unkept: Callable[[str], None] = _nobody,
        on_damaged: Callable[[], None] = lambda: None,
        patience_s: float = LOOK_UP_S,
        rng: random.Random | None = None,
    ) -> None:
        self.secrets = secrets
        self._rng = rng or random.Random()
        self._leases: dict[str, str] = {}  # token by key
        self._calls = Calls(store, pool, max_size=max_size, on_failed=on_failed)
        self._look_ups = LookUps(store, self._calls, secrets, self._leases, on_damaged, patience_s)
        self._puts = Puts(store, self._calls, secrets, self._leases, on_unkept)
        self._contents = CacheContents(store, pool)
        self._polls: dict[tuple[bytes, float | None], asyncio.Future[Found | Lead | Missing | None]] = {}

    def resize(self, max_size: int) -> None:
        """Another bound of all entries, in bytes; what is too much goes with the next entries."""
        self._calls.max_size = max_size

    async def look_up(self, name: bytes, *, max_age_s: float | None, lead: bool) -> Found | Lead | Led | Missing:
        """The entry of this name, if it is not older than `max_age_s`. `lead`: otherwise take the lease, if nobody has
        it. Within `patience_s`; for an answer of megabytes, twice that."""
        return await self._look_ups.one(name, max_age_s, lead=lead)

    async def wait(self, name: bytes, *, max_age_s: float | None) -> Found | Lead | Missing:
        """After Led: until there is an entry, or the lease is free and now this process'. Callers in one process share
        one poll, and at most one of them gets the lease; the others wait on."""
        at = name, max_age_s
        while (poll := self._polls.get(at)) is not None:
            outcome = await asyncio.shield(poll)
            if isinstance(outcome, Found | Missing):
                return outcome
        poll = self._polls[at] = self._calls.loop.create_future()
        outcome = None
        try:
            outcome = await self._poll(name, max_age_s)
            return outcome
        finally:
            del self._polls[at]
            if not poll.done():
                poll.set_result(outcome)

    async def _poll(self, name: bytes, max_age_s: float | None) -> Found | Lead | Missing:
        pause_s = _FIRST_WAIT_S
        while True:
            await asyncio.sleep(pause_s * self._rng.uniform(0.8, 1.0))
            outcome = await self._look_ups.one(name, max_age_s, lead=True)
            if not isinstance(outcome, Led):
                return outcome
            pause_s = min(pause_s * _WAITS_GROW, _LONGEST_WAIT_S)

    def put(self, name: bytes, entry: Entry, *, ttl_s: float, client: str) -> None:
        """Store an entry, and give the lease back in the same step. Returns at once. `client`: whose request made
        it."""
        self._puts.put(name, entry, ttl_s, client)

    def release(self, name: bytes) -> None:
        """Give the lease back without an entry. Does nothing if this process does not have it."""
        key = key_of(name)
        token = self._leases.pop(key, "")
        if token:
            self._calls.put(Release(key, token), urgent=True)

    async def look_up_items(self, names: Sequence[bytes], *, max_age_s: float | None) -> list[Found | None]:
        """Many entries at once, in the order of their names, without leases. None: not there, not in time, or longer
        than 64 kB. Within `patience_s`."""
        return await self._look_ups.many(names, max_age_s)

    def put_items(self, entries: Iterable[tuple[bytes, Entry]], *, ttl_s: float, client: str) -> None:
        """Store many entries, by name. Returns at once."""
        for name, entry in entries:
            self._puts.put(name, entry, ttl_s, client)

    async def stats(self) -> CacheStats:
        """What there is. Raises StoreLost."""
        return await self._contents.stats()

    async def clear(self, *, client: str | None = None, model: str | None = None) -> int:
        """Remove all entries, or those of a client's requests, of a model, or both; how many. Raises StoreLost."""
        return await self._contents.clear(client=client, model=model)

    async def run(self) -> None:
        """Every second: `renew`."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            self.renew()

    def renew(self) -> None:
        """Prolong this process' leases to LEASE_S, follow the store's clock, have removed what has ended. Returns at
        once."""
        leases = iter(list(self._leases.items()))
        self._calls.put(Renew(dict(islice(leases, _RENEWED_AT_ONCE))), urgent=True)
        while some := dict(islice(leases, _RENEWED_AT_ONCE)):
            self._calls.put(Renew(some), urgent=True)

    async def flush(self, seconds: float = 1.0) -> None:
        """Wait until what was put has been answered, for `seconds` or so."""
        await self._puts.finish(seconds)
        await self._calls.flush(seconds)

    async def close(self, seconds: float = 1.0) -> None:
        """Send what waits and give all leases back, within `seconds` or so. The store's connection stays open. To those
        who still ask, the store is away."""
        await self.flush(seconds)
        for key, token in self._leases.items():
            self._calls.put(Release(key, token), urgent=True)
        self._leases.clear()
        await self._calls.flush(seconds)
        self._calls.end()


__all__ = [
    "LEAD",
    "LEASE_S",
    "LED",
    "LOOK_UP_S",
    "MISSING",
    "MOST_ENTRY",
    "CacheStats",
    "CacheStore",
    "Found",
    "Lead",
    "Led",
    "Missing",
]

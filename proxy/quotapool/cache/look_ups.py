"""Looking entries up: what the script answers becomes an opened entry, a lease, or neither."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from quotapool.cache.answers import LEAD, LED, MISSING, Found, Lead, Led, Missing
from quotapool.cache.calls import ASKED, Calls, Drop, Item, Release, key_of
from quotapool.cache.sealed import Dated, from_bytes
from quotapool.cache.secrets import CacheSecrets
from quotapool.store.store import Store, StoreError

LOOK_UP_S: Final = 0.25
"""The longest that a request waits to hear whether there is an entry; for an answer of megabytes, twice that."""
SLACK_S: Final = 0.5  # a step of the clock that is smaller is not noticed
_HELD_UP_S: Final = 0.05  # a timer that is so late says that the loop was busy, not that the store is slow
_MOMENT_S: Final = 0.01  # in which a store answers
_IN_A_THREAD: Final = 32_768  # bytes from which on opening would hold up the loop
_TRIES: Final = 3  # an entry that is damaged is dropped, and asked for again
_OPENED_AT_ONCE: Final = 128

_YOURS: Final = -2
_ANOTHERS: Final = -3
_AGAIN: Final = -4
_LONG: Final = -5


_Answer = tuple[int, bytes | None, float]  # the script's result, the text of the entry, the second of the store's clock


class _Look(Item):
    """`future`: the answer; None: there is none in time. `token`: of the lease that is asked for, or ""."""

    __slots__ = ("calls", "future", "late_at", "leases", "max_age_s", "token")
    reads = True

    def __init__(self, calls: Calls, leases: dict[str, str], name: bytes, max_age_s: float | None, token: str) -> None:
        self.key = key_of(name)
        self.calls = calls
        self.leases = leases
        self.max_age_s = -1.0 if max_age_s is None else max_age_s
        self.token = token
        self.future: asyncio.Future[_Answer | None] = calls.loop.create_future()
        self.late_at = 0.0

    def words(self) -> list[Any] | None:
        if self.future.done():
            return None
        return [1, self.key, self.max_age_s, self.token]

    def keys(self) -> Sequence[str]:
        return (f"e:{self.key}", f"l:{self.key}") if self.token else (f"e:{self.key}",)

    def done(self, result: int, text: bytes, now: float, /) -> None:
        if self.future.done():
            if result == _YOURS:  # too late: nobody else would give it back
                self.calls.put(Release(self.key, self.token), urgent=True)
            return
        if result == _AGAIN:
            self.calls.again(self)
            return
        if result == _YOURS:
            if self.key in self.leases:  # another request of this process leads
                result = _ANOTHERS
            self.leases[self.key] = self.token
        self.future.set_result((result, text, now))

    def failed(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class LookUps:
    """`leases`: those that this process has, token by key; the look-ups add to it. `on_damaged()`: an entry could not
    be opened."""

    def __init__(
        self,
        store: Store,
        calls: Calls,
        secrets: CacheSecrets,
        leases: dict[str, str],
        on_damaged: Callable[[], None],
        patience_s: float = LOOK_UP_S,
    ) -> None:
        self._store = store
        self._calls = calls
        self._secrets = secrets
        self._leases = leases
        self._on_damaged = on_damaged
        self._patience_s = patience_s
        self._serial = 0
        self._pending: deque[_Look] = deque()  # with some that were answered; the first one was not
        self._timer: asyncio.TimerHandle | None = None  # one for all: each of its own would cost as much as the rest
        self._spared: _Look | None = None

    async def one(self, name: bytes, max_age_s: float | None, *, lead: bool) -> Found | Lead | Led | Missing:
        """If the caller is cancelled, a lease that it was perhaps given is given back."""
        calls = self._calls
        for _ in range(_TRIES):
            if calls.away:
                return MISSING
            self._serial += 1
            token = f"{calls.process}{self._serial}" if lead else ""
            item = _Look(calls, self._leases, name, max_age_s, token)
            calls.put(item, urgent=True)
            self._watch(item)
            try:
                answer = await item.future
            except asyncio.CancelledError:
                self._give_back(item)
                raise
            if answer is None:
                return MISSING
            result, text, now = answer
            if result == _YOURS:
                return LEAD
            if result == _ANOTHERS:
                return LED
            if result == _LONG:
                text = await self._long(item.key)
            elif result < 0:
                return MISSING
            if text is None:
                return MISSING
            if len(text) > _IN_A_THREAD:
                dated = await asyncio.to_thread(self._opened, name, text)
            else:
                dated = self._opened(name, text)
            if dated is not None and dated.made <= now + SLACK_S and now < dated.ends:
                age_s = max(0.0, now - dated.made)
                # A long text is replaced before the script knows of it.
                return Found(dated.entry, age_s) if max_age_s is None or age_s <= max_age_s else MISSING
            self._drop(item.key)
        return MISSING

    async def many(self, names: Sequence[bytes], max_age_s: float | None) -> list[Found | None]:
        """In their order; None: not there, or not in time. None of them is long."""
        calls = self._calls
        if calls.away:
            return [None] * len(names)
        items = [_Look(calls, self._leases, name, max_age_s, "") for name in names]
        for item in items:
            calls.put(item)
            self._watch(item)
        found: list[Found | None] = []
        try:
            for number, (name, item) in enumerate(zip(names, items, strict=True), 1):
                answer = await item.future
                found.append(self._found(name, item.key, *answer) if answer is not None else None)
                if number % _OPENED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        finally:
            for item in items:
                item.future.cancel()
        return found

    def _watch(self, item: _Look) -> None:
        """It is answered in time, or not at all."""
        pending = self._pending
        while pending and pending[0].future.done():
            pending.popleft()
        pending.append(item)
        item.late_at = self._calls.loop.time() + self._patience_s
        if self._timer is None:
            self._timer = self._calls.loop.call_at(item.late_at, self._end_late)

    def _end_late(self) -> None:
        pending, now, timer = self._pending, self._calls.loop.time(), self._timer
        while pending and pending[0].future.done():
            pending.popleft()
        is_held_up = timer is not None and now - timer.when() > _HELD_UP_S
        if pending and is_held_up and pending[0] is not self._spared:
            self._spared = pending[0]  # once: to send what was not sent, and to read what has come
            self._timer = self._calls.loop.call_at(now + _MOMENT_S, self._end_late)
            return
        while pending and (pending[0].future.done() or pending[0].late_at <= now):
            pending.popleft().failed()
        self._spared = None
        self._timer = self._calls.loop.call_at(pending[0].late_at, self._end_late) if pending else None

    def _found(self, name: bytes, key: str, result: int, text: bytes | None, now: float) -> Found | None:
        if result < 0 or text is None:
            return None
        dated = self._opened(name, text)
        if dated is not None and dated.made <= now + SLACK_S and now < dated.ends:
            return Found(dated.entry, max(0.0, now - dated.made))
        self._drop(key)
        return None

    def _opened(self, name: bytes, text: bytes) -> Dated | None:
        raw = self._secrets.open(name, text)
        return from_bytes(raw) if raw is not None else None

    def _drop(self, key: str) -> None:
        self._on_damaged()
        self._calls.put(Drop(key, ASKED), urgent=True)

    def _give_back(self, item: _Look) -> None:
        """It was answered in the same turn of the loop in which its caller was cancelled."""
        answer = item.future.result() if item.future.done() and not item.future.cancelled() else None
        if answer is not None and answer[0] == _YOURS and self._leases.get(item.key) == item.token:
            del self._leases[item.key]
            self._calls.put(Release(item.key, item.token), urgent=True)

    async def _long(self, key: str) -> bytes | None:
        """A text that a script would take too long for; None: it is gone, or not here in time."""
        try:
            async with asyncio.timeout(self._patience_s):
                text = await self._store.guard(self._store.client.get(f"{self._calls.prefix}:e:{key}"))
        except TimeoutError:
            return None
        except StoreError as error:
            self._calls.note_failure(error)
            return None
        return cast("bytes | None", text)

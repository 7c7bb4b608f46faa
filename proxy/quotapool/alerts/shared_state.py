"""What all replicas share about alerts: who watches, how far the events are read, what was told already.

Stored, all with a tag of their own since they are no part of the request path's transactions:
  qp:{<pool>:alerts}:watch          who watches, with expiry: one replica at a time reads events and looks at the pool
  qp:{<pool>:alerts}:cursor         id of the last event read
  qp:{<pool>:alerts}:told:<mark>    exists while this alert is not to be told again
Read: qp:{<pool>}:events (`ledger/lua/state.lua`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final

from quotapool.alerts.rules import WELL
from quotapool.domain.alert import Alert, AlertKind
from quotapool.store.store import Store, text_of

_WATCH_MS: Final = 15_000
_AT_ONCE: Final = 500  # events of one reading
_DAY_S: Final = 86_400.0
_ONCE_A_DAY: Final = frozenset({AlertKind.EXPIRY, AlertKind.DAILY_LIMIT})
_STATES: Final = (AlertKind.KEY_REMOVED, AlertKind.KEY_QUARANTINED, AlertKind.KEY_BACK)


class SharedAlertState:
    """The shared memory of alerts of one pool. Every method raises StoreLost where the store is away."""

    def __init__(self, store: Store, pool: str, owner: str) -> None:
        self._store = store
        self._prefix = f"qp:{{{pool}:alerts}}"
        self._events = f"qp:{{{pool}}}:events"
        self._owner = owner

    async def watch(self) -> bool:
        """Be the one who watches, or go on being it; False: another replica does."""
        client, key = self._store.client, f"{self._prefix}:watch"
        if await self._store.guard(client.set(key, self._owner, nx=True, px=_WATCH_MS)):
            return True
        if await self._text(key) != self._owner:
            return False
        return bool(await self._store.guard(client.set(key, self._owner, xx=True, px=_WATCH_MS)))

    async def leave(self) -> None:
        """Let another replica watch at once."""
        key = f"{self._prefix}:watch"
        if await self._text(key) == self._owner:
            await self._store.guard(self._store.client.delete(key))

    async def begin(self) -> None:
        """A pool that never told anything begins with what happens from now on."""
        last = await self._ask(self._store.client.xrevrange(self._events, count=1)) or []
        newest = text_of(last[0][0]) if last else "0-0"
        await self._store.guard(self._store.client.set(f"{self._prefix}:cursor", newest, nx=True))

    async def forget(self) -> None:
        """Nobody wants to be told: what happens until somebody does is no news then."""
        await self._store.guard(self._store.client.delete(f"{self._prefix}:cursor"))

    async def news(self) -> list[dict[str, str]]:
        """The events that nobody has read yet, oldest first, at most some hundred at once."""
        client, cursor = self._store.client, f"{self._prefix}:cursor"
        after = await self._text(cursor)
        if not after:
            await self.begin()
            return []
        found = await self._ask(client.xrange(self._events, f"({after}", "+", count=_AT_ONCE))
        if not found:
            return []
        await self._store.guard(client.set(cursor, text_of(found[-1][0])))
        return [{text_of(name): text_of(value) for name, value in fields.items()} for _, fields in found]

    async def _text(self, key: str) -> str:
        return text_of(await self._ask(self._store.client.get(key)) or b"")

    async def _ask(self, call: Awaitable[Any]) -> Any:
        return await self._store.guard(call)

    async def claim(self, alert: Alert, repeat_after_s: float) -> bool:
        """Whether this alert is to be told now, and by us: True once in `repeat_after_s`, over all replicas."""
        client = self._store.client
        for over in _undone(alert):
            await self._store.guard(client.delete(f"{self._prefix}:told:{over.mark}"))
        rest_s = max(repeat_after_s, _DAY_S) if alert.kind in _ONCE_A_DAY else repeat_after_s
        key = f"{self._prefix}:told:{alert.mark}"
        return bool(await self._store.guard(client.set(key, "1", nx=True, px=max(1, int(rest_s * 1000)))))


def _undone(alert: Alert) -> list[Alert]:
    """What is over now that this is so: it may be told again when it comes again."""
    if alert.kind in _STATES:
        return [replace(alert, kind=kind) for kind in _STATES if kind is not alert.kind]
    if alert.kind is AlertKind.EGRESS:
        return [replace(alert, again="" if alert.again else WELL)]
    return []

"""What all replicas share about alerts: which of them watches, the last event that was read, recent alerts.

Stored, with a hash tag of its own since it is no part of the request path's transactions:
  qp:{<pool>:alerts}:watch          the replica that watches, with expiry: one at a time reads events, checks the pool
  qp:{<pool>:alerts}:cursor         id of the last event that was read
  qp:{<pool>:alerts}:told:<mark>    exists while this alert is not to be repeated
Read: qp:{<pool>}:events (`ledger/lua/state.lua`).
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, Final

from quotapool.alerts.rules import OVER, WELL
from quotapool.domain.alert import Alert, AlertKind
from quotapool.store.store import Store, text_of

_WATCH_MS: Final = 15_000
_AT_ONCE: Final = 500  # events of one reading
_DAY_S: Final = 86_400.0
_LEAST_REST_S: Final = {
    AlertKind.EXPIRY: _DAY_S,
    AlertKind.DAILY_LIMIT: _DAY_S,
    AlertKind.CLIENT_BUDGET: 32 * _DAY_S,  # once in each period: the occasion names its end
}
_STATES: Final = (AlertKind.KEY_REMOVED, AlertKind.KEY_QUARANTINED, AlertKind.KEY_BACK)


class SharedAlertState:
    """The shared state of one pool's alerts. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str, owner: str) -> None:
        self._store = store
        self._prefix = f"qp:{{{pool}:alerts}}"
        self._events = f"qp:{{{pool}}}:events"
        self._owner = owner

    async def acquire_watch(self) -> bool:
        """Become the replica that watches, or stay it; False: another one watches."""
        client, key = self._store.client, f"{self._prefix}:watch"
        if await self._store.guard(client.set(key, self._owner, nx=True, px=_WATCH_MS)):
            return True
        if await self._text(key) != self._owner:
            return False
        return bool(await self._store.guard(client.set(key, self._owner, xx=True, px=_WATCH_MS)))

    async def release_watch(self) -> None:
        """Let another replica watch at once."""
        key = f"{self._prefix}:watch"
        if await self._text(key) == self._owner:
            await self._store.guard(self._store.client.delete(key))

    async def set_cursor(self) -> None:
        """Alert only about events from now on, unless there is a cursor already."""
        last = await self._call(self._store.client.xrevrange(self._events, count=1)) or []
        newest = text_of(last[0][0]) if last else "0-0"
        await self._store.guard(self._store.client.set(f"{self._prefix}:cursor", newest, nx=True))

    async def clear_cursor(self) -> None:
        """There is no target: what happens until there is one raises no alert."""
        await self._store.guard(self._store.client.delete(f"{self._prefix}:cursor"))

    async def new_events(self) -> list[dict[str, str]]:
        """The events that no replica has read yet, oldest first, at most 500 at once."""
        client, cursor = self._store.client, f"{self._prefix}:cursor"
        after = await self._text(cursor)
        if not after:
            await self.set_cursor()
            return []
        found = await self._call(client.xrange(self._events, f"({after}", "+", count=_AT_ONCE))
        if not found:
            return []
        await self._store.guard(client.set(cursor, text_of(found[-1][0])))
        return [{text_of(name): text_of(value) for name, value in fields.items()} for _, fields in found]

    async def _text(self, key: str) -> str:
        return text_of(await self._call(self._store.client.get(key)) or b"")

    async def _call(self, command: Awaitable[Any]) -> Any:
        return await self._store.guard(command)

    async def claim(self, alert: Alert, repeat_after_s: float) -> bool:
        """Whether to deliver this alert now, and by this replica: True once in `repeat_after_s`, over all replicas."""
        client = self._store.client
        for over in _ended_by(alert):
            await self._store.guard(client.delete(f"{self._prefix}:told:{over.identity}"))
        rest_s = max(repeat_after_s, _LEAST_REST_S.get(alert.kind, 0.0))
        key = f"{self._prefix}:told:{alert.identity}"
        return bool(await self._store.guard(client.set(key, "1", nx=True, px=max(1, int(rest_s * 1000)))))


def _ended_by(alert: Alert) -> list[Alert]:
    """The alerts whose condition ends with this one: they may be repeated when it comes again."""
    if alert.kind in _STATES:
        return [replace(alert, kind=kind) for kind in _STATES if kind is not alert.kind]
    if alert.kind is AlertKind.EGRESS:
        return [replace(alert, occasion="" if alert.occasion else WELL)]
    if alert.kind is AlertKind.OUTSIDE_USE:
        ended = alert.occasion.removesuffix(OVER)
        return [replace(alert, occasion=f"{ended}{OVER}" if ended == alert.occasion else ended)]
    return []

"""The pool's stream of events, read for operators: changes of state, alarms, and what operators did.

Stored: `qp:{pool}:events`, the newest 10,000 or so; written by `ledger/lua/state.lua`, `ledger/registry.py` and
`login/audit.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from quotapool.store.store import Store, text_of

_AT_ONCE: Final = 500
_MOST_READ: Final = 20_000  # twice what the stream holds

Match = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`at`: Unix seconds, as text; `data`: the other fields."""

    id: str
    at: str
    data: dict[str, str]


class Events:
    """Those of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._stream = f"qp:{{{pool}}}:events"

    async def latest(self, limit: int, match: Match, *, before: str | None = None) -> list[StoredEvent]:
        """The newest `limit` that match, the newest first; `before`: older than this id."""
        found: list[StoredEvent] = []
        last, read = f"({before}" if before else "+", 0
        while len(found) < limit and read < _MOST_READ:
            raw = await self._store.guard(self._store.client.xrevrange(self._stream, max=last, min="-", count=_AT_ONCE))
            events = _decoded(raw)
            if not events:
                break
            found += (event for event in events if match(event.data))
            last, read = f"({events[-1].id}", read + len(events)
        return found[:limit]

    async def since(self, start: str, match: Match) -> AsyncIterator[list[StoredEvent]]:
        """All that match, oldest first, some hundred at a time. `start`: an id, which may be only its milliseconds;
        after one that was read: `(id`."""
        read = 0
        while read < _MOST_READ:
            raw = await self._store.guard(self._store.client.xrange(self._stream, start, "+", count=_AT_ONCE))
            events = _decoded(raw)
            if not events:
                return
            yield [event for event in events if match(event.data)]
            start, read = f"({events[-1].id}", read + len(events)

    async def last_id(self) -> str:
        """Of the newest event; "0-0" if there is none."""
        events = _decoded(await self._store.guard(self._store.client.xrevrange(self._stream, count=1)))
        return events[0].id if events else "0-0"


def _decoded(raw: Any) -> list[StoredEvent]:
    found = []
    for name, fields in raw or ():
        data = {text_of(key): text_of(value) for key, value in (fields or {}).items()}
        found.append(StoredEvent(text_of(name or b""), data.pop("at", ""), data))
    return found

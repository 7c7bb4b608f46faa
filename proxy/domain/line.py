"""The fair line: who is next when budgets are short.

Start-time fair queueing. Each waiter gets a finish tag: the line's virtual time, or the client's last tag if that is
later, plus its cost by the client's weight. The lowest tag of the highest priority is next. So a client that asks for
a hundred times its share waits behind itself, not before others; within a client the order is that of arrival; and a
large request pays with a later tag, but once it is first nobody passes it.

Pure: no clock. Costs are in any one unit.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, order=True)
class _Ticket(Generic[T]):
    sort: tuple[int, float, int]
    client: str = field(compare=False)
    item: T = field(compare=False)
    left: bool = field(default=False, compare=False)


class FairLine(Generic[T]):
    """Waiters of one model group. `T` is whatever waits; each is in the line once."""

    def __init__(self) -> None:
        self._behind: dict[str, deque[tuple[int, float, float, T]]] = {}  # each client's waiters behind its first
        self._first: list[_Ticket[T]] = []
        self._ticket: dict[int, _Ticket[T]] = {}
        self._gone: set[int] = set()
        self._last_tag: dict[str, float] = {}
        self._virtual = 0.0
        self._order = itertools.count()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<FairLine waiting={self._size} clients={len(self._behind)}>"

    def join(self, client: str, item: T, *, cost: float = 1.0, weight: float = 1.0, priority: int = 0) -> None:
        """Stand in line. A higher `priority` is always before a lower one; equals share by `weight`."""
        self._size += 1
        lane = f"{priority}/{client}"
        if lane in self._behind:
            self._behind[lane].append((priority, cost, weight, item))
        else:
            self._behind[lane] = deque()
            self._come_first(lane, priority, cost, weight, item)

    def _come_first(self, lane: str, priority: int, cost: float, weight: float, item: T) -> None:
        start = max(self._virtual, self._last_tag.get(lane, 0.0))
        tag = start + cost / weight
        self._last_tag[lane] = tag
        ticket = _Ticket((-priority, tag, next(self._order)), lane, item)
        self._ticket[id(item)] = ticket
        heapq.heappush(self._first, ticket)

    def head(self) -> T | None:
        """Who is next; stays in the line."""
        while self._first and self._first[0].left:
            heapq.heappop(self._first)
        return self._first[0].item if self._first else None

    def served(self, item: T) -> None:
        """`item` got what it waited for: the line's time goes on to its tag."""
        ticket = self._ticket.get(id(item))
        if ticket is not None:
            self._virtual = max(self._virtual, ticket.sort[1])
        self.leave(item)

    def leave(self, item: T) -> None:
        """Out of the line, served or not. Cheap for a client's first; others are skipped when their turn comes."""
        ticket = self._ticket.pop(id(item), None)
        if ticket is None:
            self._gone.add(id(item))
            self._size -= 1
            return
        ticket.left = True
        self._size -= 1
        self._next_of(ticket.client)

    def _next_of(self, lane: str) -> None:
        waiting = self._behind[lane]
        while waiting:
            priority, cost, weight, item = waiting.popleft()
            if id(item) in self._gone:
                self._gone.discard(id(item))
                continue
            self._come_first(lane, priority, cost, weight, item)
            return
        del self._behind[lane]
        if not self._behind:  # an empty line forgets: nobody pays for what was long ago
            self._first.clear()
            self._last_tag.clear()
            self._virtual = 0.0

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
        self._present: set[int] = set()
        self._gone: set[int] = set()  # left while behind their client's first
        self._last_tag: dict[str, float] = {}
        self._virtual = 0.0
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._present)

    def __repr__(self) -> str:
        return f"<FairLine waiting={len(self._present)} clients={len(self._behind)}>"

    def join(self, client: str, item: T, *, cost: float = 1.0, weight: float = 1.0, priority: int = 0) -> None:
        """Stand in line. A higher `priority` is always before a lower one; equals share by `weight`."""
        self._present.add(id(item))
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

    def first(self, most: int) -> list[T]:
        """Who is next, and who after that, as it stands now; all stay in the line."""
        if len(self._first) == 1:
            head = self.head()
            if head is None:
                return []
            (behind,) = self._behind.values()
            rest = (item for *_, item in behind if id(item) not in self._gone)
            return [head, *itertools.islice(rest, most - 1)]
        self.head()  # drops those who left
        return [ticket.item for ticket in heapq.nsmallest(most, (t for t in self._first if not t.left))]

    def ahead(self, client: str, priority: int = 0) -> int:
        """About how many will be served before a newcomer of this client: its own, and as many of each other's."""
        own = self._behind.get(f"{priority}/{client}")
        return min(len(self._present), (len(own) + 1 if own is not None else 1) * max(1, len(self._behind)))

    def standing(self, client: str, priority: int = 0) -> int:
        """How many of this client wait (some may have left meanwhile)."""
        own = self._behind.get(f"{priority}/{client}")
        return len(own) + 1 if own is not None else 0

    def served(self, item: T) -> None:
        """`item` got what it waited for: the line's time goes on to its tag."""
        ticket = self._ticket.get(id(item))
        if ticket is not None:
            self._virtual = max(self._virtual, ticket.sort[1])
        self.leave(item)

    def leave(self, item: T) -> None:
        """Out of the line, served or not; nothing for one who is not in it."""
        if id(item) not in self._present:
            return
        self._present.discard(id(item))
        ticket = self._ticket.pop(id(item), None)
        if ticket is None:
            self._gone.add(id(item))  # skipped when its turn comes
            return
        ticket.left = True
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

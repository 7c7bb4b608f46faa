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
import sys
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, order=True)
class _Ticket(Generic[T]):
    sort: tuple[int, float, int]
    client: str = field(compare=False)
    item: T = field(compare=False)
    left: bool = field(default=False, compare=False)


class FairQueue(Generic[T]):
    """Waiters of one model group. `T` is whatever waits; each is in the line once."""

    def __init__(self) -> None:
        self._behind: dict[str, deque[tuple[int, float, float, T]]] = {}  # each client's waiters behind its first
        self._first: list[_Ticket[T]] = []
        self._ticket: dict[int, _Ticket[T]] = {}
        self._standing: Counter[str] = Counter()  # by lane
        self._present: dict[int, tuple[str, float]] = {}  # whose lane, and how far a grant moves its tag
        self._gone: set[int] = set()  # left while behind their client's first
        self._last_tag: dict[str, float] = {}
        self._virtual = 0.0
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._present)

    def __repr__(self) -> str:
        return f"<FairQueue waiting={len(self._present)} clients={len(self._behind)}>"

    def add(self, client: str, item: T, *, cost: float = 1.0, weight: float = 1.0, priority: int = 0) -> None:
        """Stand in line. A higher `priority` is always before a lower one; equals share by `weight`."""
        lane = f"{priority}/{client}"
        self._present[id(item)] = lane, cost / weight
        self._standing[lane] += 1
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

    def peek(self) -> T | None:
        """Who is next; stays in the line."""
        while self._first and self._first[0].left:
            heapq.heappop(self._first)
        return self._first[0].item if self._first else None

    def first(self, most: int) -> list[T]:
        """Who is next, and who after that if all are served in turn; all stay in the line."""
        head = self.peek()
        if most <= 1 or head is None:
            return [] if head is None else [head]
        coming = [(ticket.sort, ticket) for ticket in heapq.nsmallest(most, (t for t in self._first if not t.left))]
        behind = {ticket.client: iter(self._behind[ticket.client]) for _, ticket in coming}
        last_tag = {lane: self._last_tag[lane] for lane in behind}
        found: list[T] = []
        virtual = self._virtual
        while coming and len(found) < most:
            (rank, tag, _), ticket = heapq.heappop(coming)
            found.append(ticket.item)
            virtual = max(virtual, tag)
            after = next((w for w in behind[ticket.client] if id(w[-1]) not in self._gone), None)
            if after is not None:
                _, cost, weight, item = after
                # Behind those that have their tags already, as it will be.
                last_tag[ticket.client] = tag = max(virtual, last_tag[ticket.client]) + cost / weight
                sort = rank, tag, sys.maxsize + len(found)
                heapq.heappush(coming, (sort, _Ticket(sort, ticket.client, item)))
        return found

    def ahead(self, client: str, priority: int = 0) -> int:
        """About how many will be served before a newcomer of this client: its own, and as many of each other's."""
        own = self._standing[f"{priority}/{client}"] or 1
        return min(len(self._present), own * max(1, len(self._behind)))

    def waiting_of(self, client: str, priority: int = 0) -> int:
        """How many of this client wait."""
        return self._standing[f"{priority}/{client}"]

    def served(self, item: T) -> None:
        """`item` got what it waited for: the line's time goes on to its tag. Whoever is served before its client's
        first pays for it all the same: the client's next tag is later by as much."""
        ticket = self._ticket.get(id(item))
        if ticket is not None:
            self._virtual = max(self._virtual, ticket.sort[1])
        elif id(item) in self._present:
            lane, share = self._present[id(item)]
            self._last_tag[lane] += share
        self._out(item)

    def remove(self, item: T) -> None:
        """Out of the line without having been served, which costs nothing; nothing for one who is not in it."""
        if id(item) in self._ticket:
            lane, share = self._present[id(item)]
            self._last_tag[lane] -= share
        self._out(item)

    def _out(self, item: T) -> None:
        known = self._present.pop(id(item), None)
        if known is None:
            return
        self._standing[known[0]] -= 1
        ticket = self._ticket.pop(id(item), None)
        if ticket is None:
            self._gone.add(id(item))  # skipped when its turn comes
            if len(self._gone) > 16 + 2 * len(self._present):
                self._forget_gone()
            return
        ticket.left = True
        self._next_of(ticket.client)

    def _forget_gone(self) -> None:
        """Else those who come and go behind a first that waits for long would fill the memory."""
        for lane, waiting in self._behind.items():
            self._behind[lane] = deque(w for w in waiting if id(w[-1]) not in self._gone)
        self._gone.clear()

    def _next_of(self, lane: str) -> None:
        waiting = self._behind[lane]
        while waiting:
            priority, cost, weight, item = waiting.popleft()
            if id(item) in self._gone:
                self._gone.discard(id(item))
                continue
            self._come_first(lane, priority, cost, weight, item)
            return
        del self._behind[lane], self._standing[lane]
        if not self._behind:  # an empty line forgets: nobody pays for what was long ago
            self._first.clear()
            self._last_tag.clear()
            self._virtual = 0.0

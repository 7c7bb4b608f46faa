"""The fair queue: which request is next when budgets are short.

Start-time fair queueing. Each waiter gets a finish tag: the queue's virtual time, or the client's last tag if that is
later, plus its cost divided by the client's weight. The lowest tag of the highest priority is next. So a client that
asks for a hundred times its share waits behind its own requests, not ahead of others'; within a client the order is
that of arrival; and a large request pays with a later tag, but once it is first nothing overtakes it.

Pure: no clock. Costs may be in any unit, the same for all.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, order=True)
class _Ticket(Generic[T]):
    sort: tuple[int, float, int]
    lane: str = field(compare=False)
    item: T = field(compare=False)
    removed: bool = field(default=False, compare=False)


class FairQueue(Generic[T]):
    """Waiters of one model group. `T` is the type of what waits; each item is in the queue once."""

    def __init__(self) -> None:
        self._behind: dict[str, deque[tuple[int, float, float, T]]] = {}  # each client's waiters behind its first
        self._first: list[_Ticket[T]] = []
        self._ticket: dict[int, _Ticket[T]] = {}
        self._waiting: Counter[str] = Counter()  # by lane: one client at one priority
        self._present: dict[int, tuple[str, float]] = {}  # its lane, and how far a grant moves the lane's tag
        self._removed: set[int] = set()  # removed while behind their lane's first
        self._last_tag: dict[str, float] = {}
        self._virtual = 0.0
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._present)

    def add(self, client: str, item: T, *, cost: float = 1.0, weight: float = 1.0, priority: int = 0) -> None:
        """Queue `item`. A higher `priority` always goes before a lower one; equal ones share by `weight`."""
        lane = f"{priority}/{client}"
        self._present[id(item)] = lane, cost / weight
        self._waiting[lane] += 1
        if lane in self._behind:
            self._behind[lane].append((priority, cost, weight, item))
        else:
            self._behind[lane] = deque()
            self._make_first(lane, priority, cost, weight, item)

    def _make_first(self, lane: str, priority: int, cost: float, weight: float, item: T) -> None:
        start = max(self._virtual, self._last_tag.get(lane, 0.0))
        tag = start + cost / weight
        self._last_tag[lane] = tag
        ticket = _Ticket((-priority, tag, next(self._order)), lane, item)
        self._ticket[id(item)] = ticket
        heapq.heappush(self._first, ticket)

    def peek(self) -> T | None:
        """The next item, which stays in the queue."""
        while self._first and self._first[0].removed:
            heapq.heappop(self._first)
        return self._first[0].item if self._first else None

    def first(self, most: int) -> list[T]:
        """The next `most` items if each is served in turn; all stay in the queue."""
        head = self.peek()
        if most <= 1 or head is None:
            return [] if head is None else [head]
        coming = [(ticket.sort, ticket) for ticket in heapq.nsmallest(most, (t for t in self._first if not t.removed))]
        behind = {ticket.lane: iter(self._behind[ticket.lane]) for _, ticket in coming}
        last_tag = {lane: self._last_tag[lane] for lane in behind}
        found: list[T] = []
        virtual = self._virtual
        while coming and len(found) < most:
            (rank, tag, _), ticket = heapq.heappop(coming)
            found.append(ticket.item)
            virtual = max(virtual, tag)
            after = next((w for w in behind[ticket.lane] if id(w[-1]) not in self._removed), None)
            if after is not None:
                _, cost, weight, item = after
                # After those that already have a tag, as it will be in fact.
                last_tag[ticket.lane] = tag = max(virtual, last_tag[ticket.lane]) + cost / weight
                sort = rank, tag, sys.maxsize + len(found)
                heapq.heappush(coming, (sort, _Ticket(sort, ticket.lane, item)))
        return found

    def ahead(self, client: str, priority: int = 0) -> int:
        """About how many will be served before a new item of this client: its own, and as many of each other client."""
        own = self._waiting[f"{priority}/{client}"] or 1
        return min(len(self._present), own * max(1, len(self._behind)))

    def waiting_of(self, client: str, priority: int = 0) -> int:
        """How many items of this client wait."""
        return self._waiting[f"{priority}/{client}"]

    def lanes(self) -> Iterator[tuple[str, int, T]]:
        """Each client that waits, once for each of its priorities: how many items, and the first of them."""
        for ticket in self._ticket.values():
            yield ticket.lane.partition("/")[2], self._waiting[ticket.lane], ticket.item

    def served(self, item: T) -> None:
        """`item` got what it waited for: the queue's virtual time advances to its tag. An item served before its
        client's first is paid for too: the client's next tag is later by its share."""
        ticket = self._ticket.get(id(item))
        if ticket is not None:
            self._virtual = max(self._virtual, ticket.sort[1])
        elif id(item) in self._present:
            lane, share = self._present[id(item)]
            self._last_tag[lane] += share
        self._drop(item)

    def remove(self, item: T) -> None:
        """Take `item` out of the queue unserved, at no cost to its client; does nothing if it is not in the queue."""
        if id(item) in self._ticket:
            lane, share = self._present[id(item)]
            self._last_tag[lane] -= share
        self._drop(item)

    def _drop(self, item: T) -> None:
        known = self._present.pop(id(item), None)
        if known is None:
            return
        self._waiting[known[0]] -= 1
        ticket = self._ticket.pop(id(item), None)
        if ticket is None:
            self._removed.add(id(item))  # skipped when its turn comes
            if len(self._removed) > 16 + 2 * len(self._present):
                self._forget_removed()
            return
        ticket.removed = True
        self._advance(ticket.lane)

    def _forget_removed(self) -> None:
        """Otherwise items that come and go behind a first one that waits long would fill the memory."""
        for lane, waiting in self._behind.items():
            self._behind[lane] = deque(w for w in waiting if id(w[-1]) not in self._removed)
        self._removed.clear()

    def _advance(self, lane: str) -> None:
        waiting = self._behind[lane]
        while waiting:
            priority, cost, weight, item = waiting.popleft()
            if id(item) in self._removed:
                self._removed.discard(id(item))
                continue
            self._make_first(lane, priority, cost, weight, item)
            return
        del self._behind[lane], self._waiting[lane]
        if not self._behind:  # an empty queue forgets: nobody pays for what happened long ago
            self._first.clear()
            self._last_tag.clear()
            self._virtual = 0.0

"""One process's queues in a replay: who waits, who is refused at once, who goes first. As `pool/admission.py` does it.

Events instead of tasks: whoever runs the replay calls `admit`, `wake` and `time_out` when their time has come.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from quotapool.domain.fair_queue import FairQueue
from quotapool.domain.quantities import Dimension
from quotapool.domain.queueing import (
    HEADS,
    LONG_S,
    LONGEST_NAP_S,
    MOST_AT_ONCE,
    SETTLES_AGAIN_S,
    SHORTEST_NAP_S,
    expected_wait_s,
    has_place,
    next_pace_s,
)
from quotapool.ledger.grants import Refused
from quotapool.openai import replies
from quotapool.openai.replies import ProxyError
from quotapool.plan.budgets import Budgets, Grant, Want
from quotapool.plan.looks import Looks
from quotapool.plan.rules import Held
from quotapool.pool.want import Never, NoRoom
from quotapool.request.refusals import refusal_of

_NOT_ANSWERED_S: Final = 0.001  # about the time in which the real store would answer
_ASKS_AGAIN_S: Final = 0.0003  # from a refusal to the first question out of the queue, which claims the next room


class Judge(Protocol):
    """Hears how each request fared, and is told what to come back for."""

    def granted(self, by: Queues, grant: Grant, now: float) -> None: ...
    def refused(self, want: Want, code: str) -> None: ...
    def call_at(self, when: float, what: Callable[[float], None]) -> None:
        """Call `what(now)` at `when` (Unix seconds)."""


@dataclass(slots=True, eq=False)
class _Waiter:
    name: str
    want: Want
    joined: float
    deadline: float
    queue: _Queue
    blocked: Held | None = None
    done: bool = False


@dataclass(slots=True, eq=False)
class _Queue:
    name: str
    waiting: FairQueue[_Waiter] = field(default_factory=FairQueue)
    pace_s: float = 0.0
    last_grant: float = 0.0
    short: Refused | None = None
    wakes_at: float = 0.0  # 0: it does not sleep
    at_once: int = 1


class Queues:
    """Of one process, `name`. `max_waiting`: requests in all of them."""

    def __init__(self, name: str, looks: Looks, budgets: Budgets, judge: Judge, max_waiting: int) -> None:
        self._budgets = budgets
        self._judge = judge
        self._max_waiting = max_waiting
        self._queues: dict[str, _Queue] = {}
        self._waiting = 0
        self._serial = itertools.count(1)
        self.name = name
        self.looks = looks

    def admit(self, want: Want, now: float) -> None:
        """A request arrives, or comes back from an account that upstream holds to be full."""
        patience_s = max(0.0, want.patience_s - want.queued_s)
        refused, blocked = Refused(0.0, None), None
        name = self._queue_of(want)
        queue = self._queues.get(name)
        if queue is None:
            answer = self.looks.ask(want, now, arrived=now)
            if isinstance(answer, Grant):
                self._judge.granted(self, answer, now)
                return
            if isinstance(answer, Never):
                self._judge.refused(want, code_of(answer))
                return
            want.short = answer
            if isinstance(answer, Held):
                if answer.wait_s is None or answer.wait_s > patience_s:
                    self._judge.refused(want, answer.code)
                    return
                name, blocked = want.client_queue, answer
            else:
                refused = answer
            queue = self._queues.get(name) or _Queue(name)
        elif name == want.client_queue and (head := queue.waiting.peek()) is not None:
            want.short = blocked = head.blocked
        else:
            want.short = queue.short
        least_s = (refused.wait_s if blocked is None else blocked.wait_s) or 0.0
        one = want.one
        expected_s = expected_wait_s(least_s, queue.pace_s, queue.waiting.ahead(one.client, want.priority))
        if expected_s > patience_s:
            self._refuse(want, "rate_limit", blocked)
            return
        free = self._max_waiting - self._waiting
        if not has_place(free, queue.waiting.waiting_of(one.client, want.priority), one.client):
            self._refuse(want, "queue_full", blocked)
            return
        owner = f"{self.name}/{next(self._serial)}"
        waiter = _Waiter(owner, want, now, now + patience_s, queue, blocked)
        self._waiting += 1
        self._join(queue, waiter, now)
        self._judge.call_at(waiter.deadline, lambda when: self._time_out(waiter, when))

    def _queue_of(self, want: Want) -> str:
        """Its client's own, while others of the client wait there."""
        return want.client_queue if want.charge is not None and want.client_queue in self._queues else want.queue

    def _refuse(self, want: Want, reason: str, blocked: Held | None) -> None:
        """By its client's own rules, if these were what it waited for."""
        self._judge.refused(want, blocked.code if blocked is not None else code_of(_NO_ROOM[reason]))

    # ---- in the queue

    def _join(self, queue: _Queue, waiter: _Waiter, now: float) -> None:
        self._queues[queue.name] = waiter.queue = queue
        want = waiter.want
        is_new = not len(queue.waiting)
        queue.waiting.add(want.one.client, waiter, cost=want.share, weight=want.weight, priority=want.priority)
        if is_new or len(queue.waiting) <= HEADS or queue.waiting.peek() is waiter:
            self._wake(queue, now + _ASKS_AGAIN_S)

    def _wake(self, queue: _Queue, when: float) -> None:
        """Look at it again then, or earlier if that was meant before."""
        if queue.wakes_at and queue.wakes_at <= when:
            return
        queue.wakes_at = when

        def woken(now: float) -> None:
            if queue.wakes_at == when:
                queue.wakes_at = 0.0
                self._serve(queue, now)

        self._judge.call_at(when, woken)

    def _time_out(self, waiter: _Waiter, now: float) -> None:
        if waiter.done:
            return
        queue = waiter.queue
        was_head = queue.waiting.peek() is waiter
        self._end(waiter, waiter.want.group)
        self._refuse(waiter.want, "queue_timeout", waiter.blocked)
        if was_head and len(queue.waiting):
            self._wake(queue, now)

    def _end(self, waiter: _Waiter, group: str) -> None:
        """Out of its queue, without a grant."""
        waiter.done = True
        self._waiting -= 1
        waiter.queue.waiting.remove(waiter)
        self._budgets.release(group, waiter.name)
        self._forget(waiter.queue)

    def _forget(self, queue: _Queue) -> None:
        if not len(queue.waiting) and self._queues.get(queue.name) is queue:
            del self._queues[queue.name]

    def _serve(self, queue: _Queue, now: float) -> None:
        """Asks for the first, and for the few behind it while the first has long to wait."""
        while len(queue.waiting):
            heads = queue.waiting.first(queue.at_once)
            waits = [self._ask_for(queue, waiter, now) for waiter in heads]
            refused = [wait_s for wait_s in waits if wait_s is not None]
            queue.at_once = min(2 * (len(waits) - len(refused)), MOST_AT_ONCE) or 1
            if not refused:
                continue
            nap_s, moved = min(LONGEST_NAP_S, *refused), False
            for waiter in queue.waiting.first(HEADS) if refused[0] >= LONG_S else ():
                if waiter in heads:
                    continue
                wait_s = self._ask_for(queue, waiter, now)
                if wait_s is None:
                    moved = True
                    break
                nap_s = min(nap_s, wait_s)
            if not len(queue.waiting):
                break
            if moved:
                continue
            self._wake(queue, now + (max(nap_s, SHORTEST_NAP_S) if nap_s > 0 else _NOT_ANSWERED_S))
            return

    def _ask_for(self, queue: _Queue, waiter: _Waiter, now: float) -> float | None:
        """Seconds until there is room; None: served, refused or in another queue."""
        want = waiter.want
        waiter.blocked = None
        answer = self.looks.ask(want, now, owner=waiter.name, arrived=waiter.joined)
        if isinstance(answer, Grant):
            waiter.done = True
            self._waiting -= 1
            queue.waiting.served(waiter)
            self._forget(queue)
            if queue.last_grant:
                queue.pace_s = next_pace_s(queue.pace_s, now - queue.last_grant)
            queue.last_grant = now
            want.queued_s += now - waiter.joined
            self._judge.granted(self, answer, now)
            return None
        if isinstance(answer, Refused):
            want.short = queue.short = answer
            wait_s = answer.wait_s or 0.0
            if now + wait_s <= waiter.deadline:
                return wait_s
            code = code_of(_NO_ROOM["rate_limit"])
        elif isinstance(answer, Held):
            want.short = waiter.blocked = answer
            code = answer.code
            if answer.wait_s is not None:
                wait_s = max(answer.wait_s, SETTLES_AGAIN_S)
                if now + wait_s <= waiter.deadline:
                    return self._hold(queue, waiter, wait_s, now)
        else:
            code = code_of(answer)
        self._end(waiter, want.group)
        self._judge.refused(want, code)
        return None

    def _hold(self, queue: _Queue, waiter: _Waiter, wait_s: float, now: float) -> float | None:
        """Its client's own rules do not let it through: it must not hold up other clients."""
        own = waiter.want.client_queue
        if queue.name == own:
            return wait_s
        queue.waiting.remove(waiter)
        self._budgets.release(waiter.want.group, waiter.name)
        self._forget(queue)
        self._join(self._queues.get(own) or _Queue(own), waiter, now)
        return None


_NO_ROOM: Final = {reason: NoRoom(0.0, reason, None) for reason in ("rate_limit", "queue_full", "queue_timeout")}
_codes: dict[tuple[type[NoRoom | Never], str], str] = {}


def code_of(answer: NoRoom | Never) -> str:
    """The code of the error that a client gets."""
    known = _codes.get((type(answer), answer.reason))
    if known is None:
        known = _codes[type(answer), answer.reason] = refusal_of(answer).error.code
    return known


NO_ROOM_CODES: Final = frozenset(code_of(answer) for answer in _NO_ROOM.values())
"""Of requests that were refused since the pool had no room in time."""
DAILY_LIMIT: Final[ProxyError] = replies.POOL_DAILY_LIMIT_REACHED


def binding(want: Want) -> tuple[Dimension | None, str]:
    """What it waited for: a dimension of the model group's limits, or a rule of its client's."""
    if isinstance(want.short, Held):
        return None, want.short.rule
    return (want.short.dimension if want.short is not None else None), ""

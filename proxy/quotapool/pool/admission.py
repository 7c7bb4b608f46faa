"""Admission: pick a key and take its budget, or wait in a queue for it, or say when there will be room.

One fair queue per model group (`domain/fair_queue.py`), and one for each client whose own rules hold it up. While a
request waits, newcomers queue behind it. Only the head
of the queue asks the store, so a thousand waiting requests cost what one costs; it claims the next room of the account
that has it soonest, so that no other replica overtakes it and no small request starves a large one. While the head
waits for long (a large request, say), the few behind it may use the other accounts.

Each refused request gets a time of its own (`domain/return_times.py`), so that those refused together come back apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import msgspec

from quotapool.domain.fair_queue import FairQueue
from quotapool.domain.observer import Observer
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
from quotapool.domain.return_times import ReturnTimes
from quotapool.domain.waiting import Waiting, added_up
from quotapool.ledger.budgets import Blocked, Granted, Ledger, Refused, StoreUnavailable
from quotapool.pool.configuration import Configuration
from quotapool.pool.reserve import Reserver
from quotapool.pool.sync import RosterSync
from quotapool.pool.want import Never, NoRoom, Want

_MOST_GROUPS = 1_000  # model groups of which something is remembered


AdmissionAnswer = Granted | NoRoom | Never | Blocked
DRAINING = NoRoom(1.0, "draining", None)  # another replica, or this one once it has started again


@dataclass(slots=True, eq=False)
class _Waiter:
    name: str
    want: Want
    joined: float
    deadline: float
    future: asyncio.Future[AdmissionAnswer]
    queue: _Queue
    asked: bool = False  # the store knows it, and may keep room for it
    blocked: Blocked | None = None  # by its client's own rules, when it was asked for last


@dataclass(slots=True, eq=False)
class _Queue:
    waiting: FairQueue[_Waiter] = field(default_factory=FairQueue)
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # another head, or one that may be asked beside it
    serving: asyncio.Task[None] | None = None
    pace_s: float = 0.0  # seconds between grants lately, from which a newcomer's wait is estimated
    last_grant: float = 0.0
    accounts: int = 0  # that can serve it; 0: all
    short: Refused | None = None  # of what, when it was asked for one of them last


class Admission:
    """Grants for one process's requests."""

    def __init__(self, configuration: Configuration, sync: RosterSync, ledger: Ledger, observer: Observer) -> None:
        self._configuration = configuration
        self._pool = sync.roster.pool
        self._ledger = ledger
        self._reserver = Reserver(sync, ledger, observer)
        self._observer = observer
        self._queues: dict[str, _Queue] = {}
        self._return_times: dict[str, ReturnTimes] = {}
        self._waiting = 0
        self._serial = 0
        self.draining = False  # nobody may begin to wait

    def __repr__(self) -> str:
        return f"<Admission queues={len(self._queues)} waiting={self._waiting}>"

    def waiting(self) -> list[Waiting]:
        """Who waits in this process, and for what, for operators. Looks at the first waiter of each client only, since
        the others wait behind it; costs nothing while nobody waits."""
        now = time.monotonic()
        rows: list[Waiting] = []
        for queue in self._queues.values():
            for client, waiters, first in queue.waiting.lanes():
                dimension = rule = ""
                short = first.want.waited_for or queue.short
                if isinstance(short, Blocked):
                    rule = short.rules[0].standing.rule.id if short.rules else ""
                elif short is not None and short.dimension is not None:
                    dimension = short.dimension.value
                rows.append(Waiting(first.want.group, dimension, client, rule, waiters, now - first.joined))
        return added_up(rows)

    async def admit(self, want: Want) -> AdmissionAnswer:
        """A reservation for `want`, at once or after waiting, or why there is none. Raises StoreUnavailable."""
        patience_s = max(0.0, want.max_wait_s - want.queued_s)
        refused = Refused(0.0, None)
        name, blocked = self._queue_of(want), None
        queue = self._queues.get(name)
        if queue is None or not queue.waiting:
            result = await self._reserver.ask(want)
            if isinstance(result, Blocked):
                want.waited_for = result
                if result.wait_s is None or result.wait_s > patience_s:
                    return self._blocked(want, result)
                name, blocked = want.client_queue, result
            elif isinstance(result, Refused):
                want.waited_for = refused = result
            else:
                return result
            if self.draining:
                return DRAINING
            # While we asked, others may have formed one.
            queue = self._queues.get(name) or _Queue(accounts=len(want.only or ()))
        elif name == want.client_queue and (head := queue.waiting.peek()) is not None:
            want.waited_for = blocked = head.blocked  # by what, it is told should it not wait
        else:
            want.waited_for = queue.short
        least_s = (refused.wait_s if blocked is None else blocked.wait_s) or 0.0
        expected_s = expected_wait_s(least_s, queue.pace_s, queue.waiting.ahead(want.client, want.priority))
        if expected_s > patience_s:
            return self._refuse(want, "rate_limit", expected_s, blocked, refused, queue)
        if not self._has_place(queue, want):
            return self._refuse(want, "queue_full", expected_s, blocked, refused, queue)
        return await self._wait_in(name, queue, want, patience_s, expected_s, blocked)

    def _queue_of(self, want: Want) -> str:
        """The queue that it must stand in: its client's own, while others of the client wait there."""
        if want.charge is not None and (own := self._queues.get(want.client_queue)) is not None and own.waiting:
            return want.client_queue
        return want.queue

    def drain(self) -> None:
        """This process stops: who waits is refused, and so is from now on who would have to."""
        self.draining = True
        for queue in self._queues.values():
            while (waiter := queue.waiting.peek()) is not None:
                queue.waiting.remove(waiter)
                if not waiter.future.done():
                    waiter.future.set_result(DRAINING)
                    if waiter.asked:
                        self._ledger.release(waiter.want.group, waiter.name)
            queue.changed.set()

    def _refuse(
        self, want: Want, reason: str, wait_s: float, blocked: Blocked | None, refused: Refused, queue: _Queue
    ) -> AdmissionAnswer:
        """By its client's own rules, if these were what it waited for; else for want of room in the pool."""
        if blocked is not None:
            return self._blocked(want, blocked)
        return self._no_room(want.queue, reason, wait_s, refused, queue)

    def _blocked(self, want: Want, blocked: Blocked) -> Blocked:
        """With a time that nobody else of this client got."""
        if blocked.wait_s is None:
            return blocked
        pace_s = blocked.refill_s * max(1, self._ledger.replicas)
        again_s = self._times_of(want.client_queue).slot(blocked.wait_s, pace_s, time.monotonic())
        return msgspec.structs.replace(blocked, again_s=again_s)

    def _times_of(self, name: str) -> ReturnTimes:
        if len(self._return_times) > _MOST_GROUPS:
            self._return_times.clear()
        return self._return_times.setdefault(name, ReturnTimes())

    def _no_room(self, name: str, reason: str, wait_s: float, refused: Refused, queue: _Queue) -> NoRoom:
        """A refusal with a time that nobody else got."""
        # All accounts gain room at once, and each of the other processes hands out times of its own.
        accounts = queue.accounts or self._pool.size
        pace_s = refused.refill_s / max(1, accounts) * max(1, self._ledger.replicas)
        wait_s = self._times_of(name).slot(wait_s, pace_s or queue.pace_s, time.monotonic())
        return NoRoom(wait_s, reason, refused.dimension)

    def _has_place(self, queue: _Queue, want: Want) -> bool:
        free = self._configuration.now.settings.queue.max_waiting - self._waiting
        return has_place(free, queue.waiting.waiting_of(want.client, want.priority), want.client)

    async def _wait_in(
        self,
        name: str,
        queue: _Queue,
        want: Want,
        patience_s: float,
        expected_s: float,
        blocked: Blocked | None,
    ) -> AdmissionAnswer:
        loop = asyncio.get_running_loop()
        joined = time.monotonic()
        self._serial += 1
        waiter = _Waiter(
            str(self._serial), want, joined, joined + patience_s, loop.create_future(), queue, blocked=blocked
        )
        self._join(name, queue, waiter)
        self._waiting += 1
        self._observer.queue_changed(1)
        answered = False
        try:
            async with asyncio.timeout(patience_s):
                answer = await waiter.future
                answered = True
        except TimeoutError:
            wait_s = max(expected_s, queue.pace_s)
            return self._refuse(want, "queue_timeout", wait_s, waiter.blocked, Refused(wait_s, None), queue)
        finally:
            want.queued_s += time.monotonic() - joined
            self._waiting -= 1
            self._observer.queue_changed(-1)
            if not answered:
                self._leave(waiter.queue, waiter)
        return answer

    def _join(self, name: str, queue: _Queue, waiter: _Waiter) -> None:
        self._queues[name] = waiter.queue = queue
        want = waiter.want
        queue.waiting.add(want.client, waiter, cost=want.share, weight=want.weight, priority=want.priority)
        if queue.serving is None:
            queue.serving = asyncio.get_running_loop().create_task(self._serve(name, queue))
        elif len(queue.waiting) <= HEADS or queue.waiting.peek() is waiter:
            queue.changed.set()  # the one whose room is awaited need not be the one to ask for now

    def _leave(self, queue: _Queue, waiter: _Waiter) -> None:
        """Out of the queue without a grant, or with one that came in the very turn in which the caller gave up."""
        future = waiter.future
        if future.done() and not future.cancelled():
            if future.exception() is None and isinstance(answer := future.result(), Granted):
                self._ledger.give_back(answer)
            return
        future.cancel()
        if waiter.asked:
            self._ledger.release(waiter.want.group, waiter.name)
        was_head = queue.waiting.peek() is waiter
        queue.waiting.remove(waiter)
        if was_head:
            queue.changed.set()  # the next one may need less

    async def _serve(self, name: str, queue: _Queue) -> None:
        """Serves one queue: asks for the head, and for the few behind it while the head has long to wait.

        When there was room for some, it asks for twice as many at once: otherwise a queue would move no faster than
        one request in the time that the store takes to answer.
        """
        at_once = 1
        try:
            while len(queue.waiting):
                queue.changed.clear()
                heads = queue.waiting.first(at_once)
                waits = await asyncio.gather(*(self._ask_for(name, queue, waiter) for waiter in heads))
                refused = [wait_s for wait_s in waits if wait_s is not None]
                at_once = min(2 * (len(waits) - len(refused)), MOST_AT_ONCE) or 1
                if not refused:
                    continue
                nap_s = min(LONGEST_NAP_S, *refused)
                behind = queue.waiting.first(HEADS) if refused[0] >= LONG_S else ()
                for waiter in behind:
                    if waiter in heads:
                        continue
                    wait_s = await self._ask_for(name, queue, waiter)
                    if wait_s is None:  # the queue has moved
                        nap_s = 0.0
                        break
                    nap_s = min(nap_s, wait_s)
                if nap_s > 0 and len(queue.waiting):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(nap_s, SHORTEST_NAP_S)):
                            await queue.changed.wait()
        finally:
            queue.serving = None
            if not len(queue.waiting) and self._queues.get(name) is queue:
                del self._queues[name]

    async def _ask_for(self, name: str, queue: _Queue, waiter: _Waiter) -> float | None:
        """Ask the store for one that waits. Seconds until there is room; None: served, refused or gone."""
        if waiter.future.done():
            queue.waiting.remove(waiter)
            return None
        answer: AdmissionAnswer | Refused | Exception
        waiter.blocked = None
        try:
            waiter.asked = True
            answer = await self._reserver.ask(waiter.want, owner=waiter.name, arrived=waiter.joined)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's answer
            answer = error
        wait_s = 0.0
        if isinstance(answer, Refused):
            waiter.want.waited_for = queue.short = answer
            wait_s = answer.wait_s or 0.0
            if time.monotonic() + wait_s > waiter.deadline:
                answer = self._no_room(waiter.want.queue, "rate_limit", wait_s, answer, queue)
        if waiter.future.done():  # left while the store was asked
            queue.waiting.remove(waiter)
            if isinstance(answer, Granted):
                self._ledger.give_back(answer)
            self._ledger.release(waiter.want.group, waiter.name)  # the question may have arrived after its release
            return None
        if isinstance(answer, Refused):
            return wait_s
        if isinstance(answer, Blocked) and answer.wait_s is not None:
            wait_s = max(answer.wait_s, SETTLES_AGAIN_S)
            if time.monotonic() + wait_s <= waiter.deadline:
                return self._block(name, queue, waiter, answer, wait_s)
        if isinstance(answer, Granted):
            queue.waiting.served(waiter)
            self._note_pace(queue)
            waiter.future.set_result(answer)
        else:
            queue.waiting.remove(waiter)
            self._ledger.release(waiter.want.group, waiter.name)
            if isinstance(answer, Exception):
                waiter.future.set_exception(answer)
            else:
                waiter.future.set_result(answer)
        if isinstance(answer, StoreUnavailable):  # those behind need not wait for the same answer
            while (behind := queue.waiting.peek()) is not None:
                queue.waiting.remove(behind)
                if not behind.future.done():
                    behind.future.set_exception(StoreUnavailable(str(answer)))
        return None

    def _block(self, name: str, queue: _Queue, waiter: _Waiter, blocked: Blocked, wait_s: float) -> float | None:
        """Its client's own rules do not let it through: it must not hold up other clients. As `_ask_for`."""
        waiter.want.waited_for = waiter.blocked = blocked
        own = waiter.want.client_queue
        if name == own:
            return wait_s
        queue.waiting.remove(waiter)
        self._ledger.release(waiter.want.group, waiter.name)
        self._join(own, self._queues.get(own) or _Queue(), waiter)
        return None

    @staticmethod
    def _note_pace(queue: _Queue) -> None:
        now = time.monotonic()
        if queue.last_grant:
            queue.pace_s = next_pace_s(queue.pace_s, now - queue.last_grant)
        queue.last_grant = now

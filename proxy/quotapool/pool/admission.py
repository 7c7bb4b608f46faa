"""Admission: pick a key and take its budget, or wait in line for it, or say for how long there will be none.

One fair line per model group (`domain/line.py`). While somebody waits, newcomers queue behind. Only the head of the
line asks the store, so a thousand waiting requests cost what one costs; it claims the next room of the account that has
it soonest, so that no other replica overtakes it and no small request starves a large one. While the head waits for
long (a large request, say), the few behind it may use the other accounts.

Whoever is refused is told a time of its own (`domain/promises.py`), so that those refused together come back apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from quotapool.domain.fair_queue import FairQueue
from quotapool.domain.observer import Observer
from quotapool.domain.pool import PAIR
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.return_times import ReturnTimes
from quotapool.ledger.budgets import Granted, Ledger, Refused, StoreUnavailable
from quotapool.pool.roster import Roster

_LONGEST_NAP_S = 1.0  # a state change or another replica's settle may bring room earlier than was foretold
_SHORTEST_NAP_S = 0.002
_HEADS = 4  # how many of the line may ask while the first has long to wait
_LONG_S = 0.25
_PRECEDENCE_S = 86_400.0  # across replicas, a higher priority counts as having come a day earlier
_MOST_AT_ONCE = 32
_MOST_GROUPS = 1_000  # model groups of which something is remembered
_TIGHT_S = 5.0  # after a refusal, more accounts are named at once


class Want(msgspec.Struct, eq=False):
    """What a request needs. `model`: what an account may lack, the model's name or a stored prompt's id. `exclude`:
    accounts that already said no to this very request.

    `max_wait_s`: how long it may stand in line, all attempts together.
    """

    group: str
    model: str
    cost: Cost
    replayable: bool
    max_wait_s: float
    exclude: set[str] = msgspec.field(default_factory=set)
    stood_s: float = 0.0  # seconds spent in line, all attempts together
    client: str = ""
    weight: float = 1.0
    priority: int = 0
    leave: float = 0.0  # share of each budget that must stay for others
    sticky: int | None = None  # requests with the same number like the same account
    only: frozenset[str] | None = None  # accounts that hold what the request names; None: any account will do

    @property
    def lane(self) -> str:
        """Which line it stands in: who needs one certain account must not hold up those whom any can serve."""
        return self.group if self.only is None else f"{self.group}\n{sorted(self.only)}"

    @property
    def share(self) -> float:
        """Its part of a budget, for fairness: a request and a thousand tokens weigh the same."""
        return self.cost.requests + self.cost.tokens / 1000


class NoRoom(Exception):
    """Budgets are used up. `wait_s` is when there will be room; `reason`: rate_limit, queue_full or queue_timeout."""

    def __init__(self, wait_s: float, reason: str, dimension: Dimension | None) -> None:
        super().__init__(reason)
        self.wait_s, self.reason, self.dimension = wait_s, reason, dimension


class TooLarge(Exception):
    """The request exceeds the whole budget of every account that could serve it."""

    def __init__(self, dimension: Dimension) -> None:
        super().__init__(dimension.value)
        self.dimension = dimension


class NobodyLeft(Exception):
    """No account can serve this. `reason`: money, spend_limit, dead, suspect; excluded: all said no to this one; or
    pinned: the one account that could is out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True, eq=False)
class _Waiter:
    name: str
    want: Want
    joined: float
    deadline: float
    future: asyncio.Future[Granted]
    asked: bool = False  # the store knows it, and may keep room for it


@dataclass(slots=True, eq=False)
class _Line:
    waiting: FairQueue[_Waiter] = field(default_factory=FairQueue)
    news: asyncio.Event = field(default_factory=asyncio.Event)  # another head, or one that may be asked beside it
    pump: asyncio.Task[None] | None = None
    pace_s: float = 0.0  # seconds between grants lately, to foretell a newcomer's wait
    last_grant: float = 0.0
    accounts: int = 0  # that can serve it; 0: all


class Admission:
    """Grants for one process's requests."""

    def __init__(self, roster: Roster, ledger: Ledger, *, max_waiting: int, observer: Observer) -> None:
        self._roster = roster
        self._ledger = ledger
        self.max_waiting = max_waiting
        self._observer = observer
        self._lines: dict[str, _Line] = {}
        self._promises: dict[str, ReturnTimes] = {}
        self._tight: dict[str, float] = {}  # model group -> until when one account is too few to ask
        self._largest: dict[str, tuple[float, str]] = {}  # model group -> the largest token limit heard, and whose
        self._waiting = 0
        self._serial = 0
        self._rng = random.Random()

    def __repr__(self) -> str:
        return f"<Admission lines={len(self._lines)} waiting={self._waiting}>"

    async def admit(self, want: Want) -> Granted:
        """A reservation for `want`. Raises NoRoom, TooLarge, NobodyLeft, StoreUnavailable."""
        patience_s = max(0.0, want.max_wait_s - want.stood_s)
        refused = Refused(0.0, None)
        line = self._lines.get(want.lane)
        if line is None or not line.waiting:
            result = await self._ask(want)
            if isinstance(result, Granted):
                return result
            refused = result
            # While we asked, others may have formed one.
            line = self._lines.get(want.lane) or _Line(accounts=len(want.only or ()))
        foretold = max(refused.wait_s or 0.0, line.pace_s * (line.waiting.ahead(want.client, want.priority) + 1))
        if foretold > patience_s:
            raise self._no_room(want.lane, "rate_limit", foretold, refused, line)
        if not self._has_place(line, want):
            raise self._no_room(want.lane, "queue_full", foretold, refused, line)
        return await self._stand_in(line, want, patience_s, foretold)

    def _no_room(self, lane: str, reason: str, wait_s: float, refused: Refused, line: _Line) -> NoRoom:
        """A refusal with a time that nobody else was told."""
        if len(self._promises) > _MOST_GROUPS:
            self._promises.clear()
        promises = self._promises.setdefault(lane, ReturnTimes())
        # All accounts gain room at once, and each of the other processes makes promises of its own.
        accounts = line.accounts or self._roster.pool.size
        pace_s = refused.refill_s / max(1, accounts) * max(1, self._ledger.replicas)
        told_s = promises.slot(wait_s, pace_s or line.pace_s, time.monotonic())
        return NoRoom(told_s, reason, refused.dimension)

    def _has_place(self, line: _Line, want: Want) -> bool:
        """A client may fill the queue up to four times what it leaves free, so that a flood cannot shut others out."""
        free = self.max_waiting - self._waiting
        if not want.client:
            return free > 0
        return free > 0 and line.waiting.waiting_of(want.client, want.priority) < max(1, 4 * free)

    async def _stand_in(self, line: _Line, want: Want, patience_s: float, foretold: float) -> Granted:
        loop = asyncio.get_running_loop()
        joined = time.monotonic()
        self._serial += 1
        waiter = _Waiter(str(self._serial), want, joined, joined + patience_s, loop.create_future())
        self._lines[want.lane] = line
        line.waiting.add(want.client, waiter, cost=want.share, weight=want.weight, priority=want.priority)
        self._waiting += 1
        self._observer.queue_changed(1)
        if line.pump is None:
            line.pump = loop.create_task(self._serve(want.lane, line))
        elif len(line.waiting) <= _HEADS or line.waiting.peek() is waiter:
            line.news.set()  # whom the pump waits for need not be whom it would ask now
        granted: Granted | None = None
        try:
            async with asyncio.timeout(patience_s):
                granted = await waiter.future
        except TimeoutError:
            wait_s = max(foretold, line.pace_s)
            raise self._no_room(want.lane, "queue_timeout", wait_s, Refused(wait_s, None), line) from None
        finally:
            want.stood_s += time.monotonic() - joined
            self._waiting -= 1
            self._observer.queue_changed(-1)
            if granted is None:
                self._leave(line, waiter)
        return granted

    def _leave(self, line: _Line, waiter: _Waiter) -> None:
        """Out of the line without a grant, or with one that came in the very turn in which the caller gave up."""
        future = waiter.future
        if future.done() and not future.cancelled():
            if future.exception() is None:
                self._ledger.give_back(future.result())
            return
        future.cancel()
        if waiter.asked:
            self._ledger.release(waiter.want.group, waiter.name)
        was_head = line.waiting.peek() is waiter
        line.waiting.remove(waiter)
        if was_head:
            line.news.set()  # the next one may need less

    async def _serve(self, lane: str, line: _Line) -> None:
        """The line's pump: asks for the head, and for the few behind it while the head has long to wait.

        Where there was room for some, it asks for twice as many at once: else a line would move no faster than one
        request in the time that the store takes to answer.
        """
        at_once = 1
        try:
            while len(line.waiting):
                line.news.clear()
                heads = line.waiting.first(at_once)
                waits = await asyncio.gather(*(self._ask_for(line, waiter) for waiter in heads))
                refused = [wait_s for wait_s in waits if wait_s is not None]
                at_once = min(2 * (len(waits) - len(refused)), _MOST_AT_ONCE) or 1
                if not refused:
                    continue
                nap_s = min(_LONGEST_NAP_S, *refused)
                behind = line.waiting.first(_HEADS) if refused[0] >= _LONG_S else ()
                for waiter in behind:
                    if waiter in heads:
                        continue
                    wait_s = await self._ask_for(line, waiter)
                    if wait_s is None:  # the line has moved
                        nap_s = 0.0
                        break
                    nap_s = min(nap_s, wait_s)
                if nap_s > 0 and len(line.waiting):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(max(nap_s, _SHORTEST_NAP_S)):
                            await line.news.wait()
        finally:
            line.pump = None
            if not len(line.waiting) and self._lines.get(lane) is line:
                del self._lines[lane]

    async def _ask_for(self, line: _Line, waiter: _Waiter) -> float | None:
        """Ask the store for one who stands in line. Seconds until there is room; None: served, refused or gone."""
        if waiter.future.done():
            line.waiting.remove(waiter)
            return None
        answer: Granted | Refused | Exception
        try:
            waiter.asked = True
            answer = await self._ask(waiter.want, waiter)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's answer
            answer = error
        wait_s = 0.0
        if isinstance(answer, Refused):
            wait_s = answer.wait_s or 0.0
            if time.monotonic() + wait_s > waiter.deadline:
                answer = self._no_room(waiter.want.lane, "rate_limit", wait_s, answer, line)
        if waiter.future.done():  # left while the store was asked
            line.waiting.remove(waiter)
            if isinstance(answer, Granted):
                self._ledger.give_back(answer)
            self._ledger.release(waiter.want.group, waiter.name)  # the question may have come after the farewell
            return None
        if isinstance(answer, Refused):
            return wait_s
        if isinstance(answer, Granted):
            line.waiting.served(waiter)
            self._note_pace(line)
            waiter.future.set_result(answer)
        else:
            line.waiting.remove(waiter)
            self._ledger.release(waiter.want.group, waiter.name)
            waiter.future.set_exception(answer)
        if isinstance(answer, StoreUnavailable):  # nobody behind need wait to hear the same
            while (behind := line.waiting.peek()) is not None:
                line.waiting.remove(behind)
                if not behind.future.done():
                    behind.future.set_exception(StoreUnavailable(str(answer)))
        return None

    @staticmethod
    def _note_pace(line: _Line) -> None:
        now = time.monotonic()
        if line.last_grant:
            line.pace_s += 0.2 * (now - line.last_grant - line.pace_s)
        line.last_grant = now

    async def _ask(self, want: Want, waiter: _Waiter | None = None) -> Granted | Refused:
        """One look at the pool: a grant, or how long until there is room. Raises TooLarge, NobodyLeft."""
        hints: tuple[str, ...] = ()
        result: Refused | None = None
        for _ in range(4):
            few = not want.exclude and (not self._tight or self._tight.get(want.group, 0.0) < time.monotonic())
            seats = self._pick(want, hints, few=few)
            if not seats:
                if result is not None and result.dimension is not None and result.wait_s is None:
                    raise TooLarge(result.dimension)
                raise NobodyLeft(self._why_nobody(want))
            candidates = self._roster.candidates(want.group, seats)
            asked = {candidate.account for candidate in candidates} if hints else ()
            answer = await self._ledger.reserve(
                want.group,
                want.cost,
                candidates,
                may_try_resting=want.replayable,
                forget=[name for name in hints if name not in asked] if hints else (),
                leave=want.leave,
                owner=waiter.name if waiter else "",
                arrived=(waiter.joined if waiter else time.monotonic()) - want.priority * _PRECEDENCE_S,
                alone=want.only is not None,
            )
            if isinstance(answer, Granted):
                self._observer.reserved("granted_local" if answer.local else "granted")
                self._roster.pool.note_headroom(answer.candidate.place, want.group, answer.headroom, time.time())
                self._note_largest(answer)
                return answer
            result = answer
            self._note_tight(want.group)
            if answer.dead:
                await self._roster.refresh()
            elif answer.wait_s is None and answer.dimension is not None:
                if want.only is not None or self._roster.pool.size <= len(seats):
                    raise TooLarge(answer.dimension)
                want.exclude.update(c.account for c in candidates)  # look for a larger account among the others
                hints = self._largest_of(want.group)
            elif answer.hints and answer.hints != hints:
                hints = answer.hints
            elif not few or want.only is not None or self._roster.pool.size <= len(seats):
                break
        self._observer.reserved("refused_local" if self._ledger.away else "refused")
        if result is not None and result.wait_s is None and result.dimension is not None:
            raise TooLarge(result.dimension)  # neither for a handful of accounts nor for the largest one known
        if result is None or result.wait_s is None:
            return Refused(_LONGEST_NAP_S, None)
        return result

    def _why_nobody(self, want: Want) -> str:
        if want.only is not None and not want.only <= want.exclude:
            return "pinned"
        return "excluded" if self._roster.pool.size else self._roster.pool.why_empty()

    def _note_largest(self, granted: Granted) -> None:
        written, learned = granted.candidate.written[1], granted.learned.get(Dimension.TPM, -1.0)
        limit = learned if written < 0 else written if learned < 0 else min(written, learned)
        known, account = self._largest.get(granted.group, (0.0, ""))
        if limit == known:
            return
        if limit > known or account == granted.candidate.account:
            if len(self._largest) > _MOST_GROUPS:
                self._largest.clear()
            self._largest[granted.group] = limit, granted.candidate.account

    def _largest_of(self, group: str) -> tuple[str, ...]:
        """The account with the largest token limit, as far as it was heard or written."""
        limit, account = max(self._largest.get(group, (0.0, "")), self._roster.largest_written(group))
        return (account,) if limit > 0 else ()

    def _note_tight(self, group: str) -> None:
        if len(self._tight) > _MOST_GROUPS:
            self._tight.clear()
        self._tight[group] = time.monotonic() + _TIGHT_S

    def _pick(self, want: Want, hints: tuple[str, ...], *, few: bool) -> list[int]:
        pool = self._roster.pool
        seats = self._pick_of(want, hints, few=few)
        if not seats and pool.size > PAIR and want.only is None:
            # A random handful held nobody who may serve this: before saying that nobody can, look at everyone.
            everyone = list(pool.accounts)
            self._rng.shuffle(everyone)
            seats = self._pick_of(want, everyone, few=False)
        return seats

    def _pick_of(self, want: Want, prefer: Sequence[str], *, few: bool) -> list[int]:
        return self._roster.pool.pick(
            want.group,
            want.model,
            now=time.time(),
            rng=self._rng,
            exclude=want.exclude,
            may_try_resting=want.replayable and not self._ledger.away,  # only the store can make it one trial
            prefer=prefer,
            sticky=want.sticky,
            few=few,
            only=want.only,
        )

"""A replay: demand against a scenario, in virtual time. Pure: the same input and seed give the same outcome.

The arithmetic is that of the product: buckets, fair queue, pick of accounts, clients' rules (all of `domain`). Queues
and reservations follow `pool/admission.py`, `pool/reserve.py` and the store's script, without the network between them.

What is assumed: upstream charges as it was learned of it and has no other users; a call lasts as long as it did; nobody
comes back who was refused; accounts' limits per day begin full.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from quotapool.domain.periods import Per, ends
from quotapool.domain.quantities import Cost, Dimension
from quotapool.plan.budgets import Budgets, Grant, Want
from quotapool.plan.demand import Demand
from quotapool.plan.fill import Fill
from quotapool.plan.looks import Looks
from quotapool.plan.outcome import Outcome, Tallies
from quotapool.plan.queues import DAILY_LIMIT, Queues, binding
from quotapool.plan.rules import Rules
from quotapool.plan.scenario import NO_MODEL, Scenario
from quotapool.plan.traffic import filled, scaled

_EVERY: Final = 1_000  # requests between two words about progress
_WAY_S: Final = 0.005, 0.03  # to upstream: calls of one moment arrive there in any order
_ASKS_S: Final = 0.0001, 0.001  # until the store is asked: of a burst no two are first, so the later ones wait behind


def replay(
    demand: Iterable[Demand],
    scenario: Scenario,
    *,
    progress: Callable[[int], None] = lambda _: None,
    counted_from: float = 0.0,
) -> Outcome:
    """What the demand, in order of time, gets from this pool. `progress` hears how many requests have arrived. Before
    `counted_from` (Unix seconds) they only fill the pool."""
    recorded = list(demand)
    imputed = sum(not one.is_seen for one in recorded)
    arriving = scaled(filled(recorded, scenario.seed), scenario.traffic, scenario.seed)
    since = arriving[0].at if arriving else 0.0
    return _World(scenario, since, counted_from).run(arriving, progress, imputed)


class _World:
    """All events of one replay, in order of time. It is the `Judge` of the processes' queues."""

    def __init__(self, scenario: Scenario, since: float, counted_from: float = 0.0) -> None:
        self._scenario = scenario
        self._rng = random.Random(f"{scenario.seed} replay")
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._tallies = Tallies(counted_from)
        self._short: dict[str, Dimension] = {}  # model group -> of what it was short of last
        self._rules = Rules(scenario, since)
        self._budgets = Budgets(scenario, since)
        self._since = since
        self._spent = scenario.spent_pico
        self._day_ends = ends(Per.DAY, scenario.zone, since)[0]
        self._processes = [
            Queues(
                f"w{n}",
                Looks(scenario, self._budgets, random.Random(f"{scenario.seed} process {n}")),
                self._budgets,
                self,
                scenario.max_waiting,
            )
            for n in range(max(1, scenario.processes))
        ]
        for outage in scenario.outages:
            for when, is_out in ((max(since, outage.since), True), (outage.until, False)):
                if outage.until > since:
                    self.call_at(when, partial(self._change, outage.account, is_out=is_out))

    def run(self, arriving: list[Demand], progress: Callable[[int], None], imputed: int) -> Outcome:
        done = 0
        for one in arriving:
            self._go_on(one.at)
            self.call_at(one.at + self._rng.uniform(*_ASKS_S), partial(self._arrive, one))
            done += 1
            if not done % _EVERY:
                progress(done)
        until = arriving[-1].at if arriving else self._since
        self._go_on(until + _ASKS_S[1])
        fills = self._fills(until)
        self._go_on(sys.float_info.max)
        progress(done)
        return self._tallies.outcome(self._since, until, fills, imputed)

    def _go_on(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until:
            now, _, what = heapq.heappop(events)
            what(now)

    # ---- as a judge

    def call_at(self, when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))

    def granted(self, by: Queues, grant: Grant, now: float) -> None:
        self.call_at(now + self._rng.uniform(*_WAY_S), partial(self._send, grant, by))

    def refused(self, want: Want, code: str) -> None:
        self._tallies.refused(want.one, code)
        self._bound(want, refused=True)

    def _bound(self, want: Want, *, refused: bool) -> None:
        dimension, rule = binding(want)
        if dimension is not None:
            self._short[want.group] = dimension
        elif not rule and want.short is not None:  # it came behind others, which wait for the same
            dimension = self._short.get(want.group)
        self._tallies.bound(want.one, want.group, dimension, rule, refused=refused)

    # ---- what happens

    def _send(self, grant: Grant, by: Queues, now: float) -> None:
        """A request reaches upstream, which nearly always admits it."""
        if not self._budgets.send(grant, now):
            by.admit(grant.want, now)
            return
        want = grant.want
        self._tallies.served(want.one, grant.account, want.queued_s)
        if want.queued_s > 0:
            self._bound(want, refused=False)
        self.call_at(now + want.one.took_s, partial(self._settle, grant, by.looks))

    def _arrive(self, one: Demand, now: float) -> None:
        process = self._processes[self._rng.randrange(len(self._processes)) if len(self._processes) > 1 else 0]
        if self._is_day_spent(now):
            self._tallies.refused(one, DAILY_LIMIT.code)
            return
        process.admit(self._want(one, process), now)

    def _want(self, one: Demand, process: Queues) -> Want:
        scenario = self._scenario
        client = scenario.client(one.client)
        group = one.group or one.model or NO_MODEL
        patience_s = one.patience_s
        if patience_s is None or scenario.max_wait_for_all:
            own = None if scenario.max_wait_for_all else client.max_wait_s
            patience_s = scenario.max_wait_s if own is None else own
        elif client.max_wait_s is not None:
            patience_s = min(patience_s, client.max_wait_s)
        priority = scenario.priorities.get(one.client, one.priority)
        return Want(
            one,
            group,
            Cost(0) if group == NO_MODEL else Cost(1, one.reserved, one.images),
            patience_s,
            client.weight,
            scenario.batch_leaves if priority < 0 else 0.0,
            priority,
            only=(one.only,) if one.only else None,
            charge=self._rules.charge(one, process.name),
            exclude=process.looks.closed_to(one.model),
        )

    def _settle(self, grant: Grant, by: Looks, now: float) -> None:
        by.note_headroom(grant, self._budgets.settle(grant, now), now)
        if self._scenario.daily_limit_pico is not None:
            self._is_day_spent(now)
            self._spent += grant.want.one.pico or 0

    def _is_day_spent(self, now: float) -> bool:
        limit = self._scenario.daily_limit_pico
        if limit is None:
            return False
        if now >= self._day_ends:
            self._day_ends, _ = ends(Per.DAY, self._scenario.zone, now)
            self._spent = 0
        return self._spent >= limit

    def _change(self, account: str, now: float, *, is_out: bool) -> None:
        """An outage begins or ends."""
        if is_out:
            self._budgets.out.add(account)
        else:
            self._budgets.out.discard(account)
        for process in self._processes:
            process.looks.out(self._budgets.out, now)

    # ---- in the end

    def _fills(self, until: float) -> list[Fill]:
        found: list[Fill] = []
        accounts = {account.id: account for account in self._scenario.accounts}
        for (name, group), room in self._budgets.rooms.items():
            corrects = accounts[name].is_corrected(group)
            found += room.filling.fills(name, group, until, corrects=corrects)
        return found

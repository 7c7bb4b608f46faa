"""The script that all replicas share keeps clients' rules as `domain/rules.py` specifies: any trace, through both.

Several workers take part, of which some fall silent. The script's clock is the server's; that time passes is brought
about by making what is stored, and what was said, older.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from datetime import UTC

import pytest
from hypothesis import Phase, event, example, given, settings
from hypothesis import strategies as st
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Cost
from quotapool.domain.rules import Counters, Kind, Measure, Mode, Rule
from quotapool.ledger.grants import Blocked, Granted, Hold
from quotapool.ledger.rules import Charge, RuleSet, Standing, asked_of, settled_of

from tests.fakes.store import ClockedStore, candidate, ledger_on, pack, unpack
from tests.fakes.valkey import forget_all

GROUP = "gpt-4o"
RULES = [
    Rule("rpm", Kind.RATE, Measure.REQUESTS, 5, period_s=60.0),
    Rule("tpm", Kind.RATE, Measure.TOKENS, 1000, Mode.SOFT, period_s=60.0),
    Rule("concurrent", Kind.SLOTS, Measure.CONCURRENT, 3),
    Rule("usd/day", Kind.BUDGET, Measure.USD, 10_000, per=Per.DAY),
    Rule("tokens/total", Kind.BUDGET, Measure.TOKENS, 5000, per=Per.TOTAL),
    Rule("usd/week", Kind.BUDGET, Measure.USD, 20_000, Mode.SHADOW, per=Per.WEEK),
]
MOST_WORKERS = 3
_serial = itertools.count()


@pytest.fixture(scope="module")
def server(shared_valkey):
    forget_all(shared_valkey)
    return shared_valkey


class Both:
    """The script, called by several workers, and the specification's counters of one client and its team."""

    def __init__(self, store: ClockedStore) -> None:
        self.store = store
        pool = f"r{next(_serial)}"
        self.ledgers = [ledger_on(store, pool) for _ in range(MOST_WORKERS)]
        self.spec = {"c/app": Counters(), "t/all": Counters()}
        self.living = set(range(MOST_WORKERS))
        self.ends: tuple[float, float] = (0.0, 0.0)
        self.open: list[tuple[int, Granted | Hold, float]] = []
        self.limits = {rule.id: rule.limit for rule in RULES}

    def key(self, name: str) -> str:
        return f"{self.ledgers[0].prefix}:{name}"

    async def begin(self) -> None:
        await self.ledgers[0].registry.begin_epoch(reseeded=False)
        await self.beat()
        # A period that ends in a thousand seconds, whatever the day: time is moved, and calendars are another test's.
        self.store.now = float((await self.store.client.time())[0])
        self.ends = self.store.now + 1000.0, self.store.now + 2000.0

    async def beat(self) -> None:
        for n in self.living:
            await self.ledgers[n].heartbeat()

    async def heard(self) -> set[str]:
        """Workers whose last sign of life is no older than ten seconds."""
        members = await self.store.client.zrange(self.key("replicas"), 0, -1, withscores=True)
        return {member.decode() for member, second in members if second >= self.store.now - 10}

    def charge(self, places: list[tuple[int, int]], amounts: list[int]) -> Charge:
        """`places`: (subject, rule); amounts in the same order."""
        names = list(self.spec)
        standings = []
        for subject, n in places:
            rule = RULES[n]
            rule = Rule(*(rule.id, rule.kind, rule.measure, self.limits[rule.id], rule.mode, rule.period_s, rule.per))
            standing = Standing(names[subject], rule, UTC)
            standing.ends = self.ends if rule.per is not Per.TOTAL else standing.ends
            standings.append(standing)
        return Charge(RuleSet(standings), [float(amount) for amount in amounts])

    async def reserve(
        self, worker: int, places: list[tuple[int, int]], amounts: list[int], *, with_account: bool = True
    ) -> str:
        if worker not in self.living or not places:
            return "silent"
        await self.beat()
        charge = self.charge(places, amounts)
        ledger = self.ledgers[worker]
        answer: object
        if with_account:
            answer = await ledger.reserve(GROUP, Cost(0), [candidate("a")], charge=charge)
        else:
            answer = await ledger.holds.take(charge)
        now = self.store.now
        asked = dict(asked_of(charge, charge.amounts, now))
        living = await self.heard()
        expected, place = [], 0
        before, missed = copy.deepcopy(self.spec), set()
        for name, of_subject in asked.items():
            counters = self.spec[name]
            counters.miss(now, self.name(worker), living)
            if counters.held != before[name].held:
                missed.add(name)
            found = counters.blocked(now, of_subject)
            expected += [(place + b.place, b.used, b.held, -1 if b.wait_s is None else b.wait_s) for b in found]
            place += len(of_subject)
        if expected:
            assert isinstance(answer, Blocked)
            got = [
                (list(charge.standings).index(r.standing), r.used, r.held, -1 if r.wait_s is None else r.wait_s)
                for r in answer.rules
            ]
            for ours, theirs in zip(expected, got, strict=True):
                assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-3)
            # A refusal is stored only where somebody was missed; what it moved would move again.
            for name in asked:
                if name not in missed:
                    self.spec[name] = before[name]
            await self.compare(asked)
            return "blocked"
        assert isinstance(answer, Granted if with_account else Hold)
        seen = [
            s for name, of_subject in asked.items() for s in self.spec[name].take(now, self.name(worker), of_subject)
        ]
        for standing, ours in zip(charge.standings, seen, strict=True):
            if standing.rule.kind is not Kind.BUDGET or now < standing.ends[0]:
                assert standing.used == pytest.approx(ours.used, rel=1e-6, abs=1e-3)
                assert standing.held == pytest.approx(ours.held, rel=1e-6, abs=1e-3)
        self.open.append((worker, answer, answer.at))
        await self.compare(asked)
        return "granted" if with_account else "held"

    def name(self, worker: int) -> str:
        return self.ledgers[worker]._name

    async def settle(self, nth: int, share: float) -> str:
        if not self.open:
            return "none"
        worker, granted, at = self.open.pop(nth % len(self.open))
        charge = granted.charge
        assert charge is not None
        used = [float(int(amount * share)) for amount in charge.amounts]
        for n, standing in enumerate(charge.standings):
            if standing.rule.kind is Kind.SLOTS:
                used[n] = 0.0
        await self.beat()
        ledger = self.ledgers[worker]
        if isinstance(granted, Hold):
            ledger.holds.settle(granted, used)
        else:
            ledger.settle(granted, used=used)
        await ledger.flush()
        living = await self.heard()
        settled = settled_of(charge, charge.amounts, used)
        for name, of_subject in settled:
            self.spec[name].miss(self.store.now, self.name(worker), living)
            self.spec[name].settle(self.name(worker), of_subject, at)
        await self.compare(dict(settled))
        return "of the dead" if worker not in self.living else "settled"

    async def wait(self, seconds: float) -> None:
        """All that is stored becomes older, and all that was said."""
        client = self.store.client
        for name, counters in self.spec.items():
            raw = await client.get(self.key(f"rules:{name}"))
            if raw is not None:
                stored, held = unpack(raw)
                for rule in RULES:
                    c = stored.get(rule.id) if stored else None
                    for place in ((1,) if rule.kind is Kind.RATE else (1, 2)) if c else ():
                        c[place] -= seconds if c[place] < 1e17 else 0
                for h in held.values() if held else ():
                    h[0] -= seconds
                    h[1] -= seconds if h[1] else 0
                await client.set(self.key(f"rules:{name}"), pack([stored, held]))
            for c in counters.counters.values():
                c.at -= seconds
                c.ends -= seconds if 0 < c.ends < 1e17 else 0
                c.began -= seconds
            for h in counters.held.values():
                h.born -= seconds
                h.missed -= seconds if h.missed else 0
        self.ends = self.ends[0] - seconds, self.ends[1] - seconds
        while self.ends[0] < self.store.now + 5:  # the workers know the next one by now
            self.ends = self.ends[1], self.ends[1] + 1000
        for n, (worker, granted, at) in enumerate(self.open):
            granted.at -= seconds
            self.open[n] = worker, granted, at - seconds
        replicas = await client.zrange(self.key("replicas"), 0, -1, withscores=True)
        for member, score in replicas:
            await client.zadd(self.key("replicas"), {member: score - seconds})

    async def compare(self, names) -> None:
        for name in names:
            raw = await self.store.client.get(self.key(f"rules:{name}"))
            stored, held = unpack(raw) if raw is not None else ({}, {})
            counters = self.spec[name]
            assert set(stored or {}) == set(counters.counters)
            for rule_id, c in counters.counters.items():
                theirs = stored[rule_id]
                ours = [c.value, c.ends, c.began] if c.ends else [c.value, c.at]
                assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-2), (name, rule_id)
            assert set(held or {}) == set(counters.held), name
            for worker, h in counters.held.items():
                assert dict(held[worker][2] or {}) == pytest.approx(h.amounts), (name, worker)


workers = st.integers(0, MOST_WORKERS - 1)
places = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, len(RULES) - 1)), min_size=1, max_size=5, unique=True
).map(sorted)
reserves = st.builds(
    lambda name, worker, at, amounts: (name, worker, at, amounts[: len(at)]),
    st.sampled_from(["reserve", "reserve", "hold"]),
    workers,
    places,
    st.lists(st.sampled_from([1, 1, 1, 2, 700, 1_001, 4_000]), min_size=5, max_size=5),
)
settles = st.tuples(st.just("settle"), st.integers(0, 5), st.sampled_from([0.0, 0.3, 1.0, 1.0, 2.5]))
pauses = st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 6.0, 20.0, 400.0, 1_500.0]))
deaths = st.tuples(st.sampled_from(["die", "live"]), workers)
limits = st.tuples(st.just("limit"), st.sampled_from(RULES), st.sampled_from([0.2, 1.0, 3.0]))
steps = st.lists(
    st.one_of(reserves, reserves, reserves, settles, settles, pauses, deaths, limits), min_size=8, max_size=25
)

CLIENTS = [(0, 3)]
OVER_A_PERIOD = [
    ("reserve", 0, CLIENTS, [4_000]),
    ("reserve", 1, CLIENTS, [4_000]),
    ("settle", 0, 1.0),
    ("wait", 1_500.0),
    ("reserve", 0, CLIENTS, [4_000]),
    ("settle", 0, 1.0),  # of the first period
    ("settle", 0, 1.0),
]
A_DEATH = [
    ("reserve", 1, CLIENTS, [4_000]),
    ("reserve", 0, CLIENTS, [4_000]),
    ("die", 1),
    ("wait", 20.0),
    ("reserve", 0, CLIENTS, [4_000]),  # it is missed, and what it held is held on
    ("wait", 6.0),
    ("reserve", 0, CLIENTS, [4_000]),
    ("live", 1),
    ("reserve", 1, CLIENTS, [1]),
    ("settle", 0, 1.0),  # it was not dead after all: what it held before is no longer held
    ("settle", 2, 1.0),
]


@settings(max_examples=200, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@example(OVER_A_PERIOD)
@example(A_DEATH)
@given(steps)
def test_every_trace_leaves_the_script_and_the_specification_with_the_same_counters(server, trace):
    async def drive() -> None:
        store = ClockedStore.at(server)
        both = Both(store)
        try:
            await both.begin()
            for name, *arguments in trace:
                if name == "reserve":
                    event(f"reserve: {await both.reserve(*arguments)}")
                elif name == "hold":
                    event(f"hold: {await both.reserve(*arguments, with_account=False)}")
                elif name == "settle":
                    event(f"settle: {await both.settle(*arguments)}")
                elif name == "wait":
                    await both.wait(*arguments)
                elif name == "limit":
                    rule, times = arguments
                    both.limits[rule.id] = rule.limit * times
                elif name == "live":
                    both.living.add(arguments[0])
                elif len(both.living) > 1:
                    both.living.discard(arguments[0])
        finally:
            await store.close()

    asyncio.run(drive())

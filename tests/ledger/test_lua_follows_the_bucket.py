"""The script that all replicas share behaves as `domain/bucket.py` specifies: any trace, driven through both.

The script's clock is the server's. It cannot be set, but each answer tells it: the specification is given the same
times. That time passes is brought about by making what is stored older.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import math
from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from quotapool.domain.bucket import DIMENSIONS, NEVER, Bucket, Evidence, Moment
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.grants import Event, Granted, Observed

from tests.fakes.store import ClockedStore, candidate, ledger_on, move_time
from tests.fakes.valkey import forget_all

GROUP = "gpt-4o"
Seen = list[tuple[int, float | None, float]]
_serial = itertools.count()


@pytest.fixture(scope="module")
def server(shared_valkey):
    forget_all(shared_valkey)
    return shared_valkey


class Both:
    """The script on a real store, and the specification, taking the same steps."""

    def __init__(self, store: ClockedStore, start: str) -> None:
        self.store = store
        self.ledger = ledger_on(store, f"p{next(_serial)}")
        self.start = start
        self.limits, self.burst_s = Limits(), 60.0
        self.spec: Bucket | None = None
        self.open: list[tuple[Granted, float, dict[Dimension, Moment | None]]] = []

    async def begin(self) -> None:
        if self.start == "reseeded":
            await self.ledger.registry.begin_epoch(reseeded=True)
        elif self.start == "fresh":
            await self.ledger.registry.begin_epoch(reseeded=False)

    def refilled(self, limits: Limits, burst_s: float) -> Bucket:
        """The specification's bucket at the store's time. A refusal changes nothing, so it is a copy."""
        bucket = copy.deepcopy(self.spec) if self.spec else Bucket(self.store.now)
        bucket.refill(self.store.now, limits, start_empty=self.start != "fresh", burst_s=burst_s)
        return bucket

    async def reserve(self, cost: Cost, leave: float = 0.0) -> str:
        """The end of it: granted, refused or never. `leave`: the share that must stay for others."""
        limits, burst_s = self.limits, self.burst_s
        answer = await self.ledger.reserve(GROUP, cost, [candidate("a", limits, burst_s=burst_s)], leave=leave)
        bucket = self.refilled(limits, burst_s)
        wait, which = bucket.wait(cost, limits, burst_s, leave)
        if isinstance(answer, Granted):
            assert wait == pytest.approx(0, abs=1e-6)
            bucket.take(cost)
            self.spec = bucket
            self.open.append((answer, answer.at, {d: bucket.moment(i) for i, d in enumerate(DIMENSIONS)}))
            await self.compare()
            return "granted"
        if self.spec is None and self.start != "fresh":
            self.spec = bucket  # it starts empty, and is remembered from then on
            await self.compare()
        if answer.wait_s is None:
            assert (wait, which) == (NEVER, answer.dimension)
            return "never"
        assert answer.wait_s == pytest.approx(wait, rel=1e-6, abs=1e-6)
        assert answer.dimension is which or wait < 1e-6
        return "refused"

    async def settle(
        self,
        nth: int,
        unused: float,
        whole_back: bool,
        cool_s: float,
        seen: Seen,
        refused: bool,
        what: Event,
        early: bool,
    ) -> None:
        """Settle the `nth` open reservation. `seen`: (dimension's index, limit or None: the one in force, upstream's
        `remaining` less what was expected)."""
        if not self.open:
            return
        granted, at, moments = self.open.pop(nth % len(self.open))
        # The limits are the reservation's: the configuration may have changed since.
        limits, burst_s = self.written_in(granted), granted.candidate.burst_s
        observed = [self.observed(granted, *what_of_one) for what_of_one in seen]
        # A limit of 0 is no evidence: upstreams that imitate OpenAI report it if they have none.
        evidence = [Evidence(o.dimension, o.limit, o.remaining, moments[o.dimension]) for o in observed if o.limit > 0]
        if early and observed:  # of headers that say nothing nobody is told
            self.ledger.observe(granted, observed)
            await self.ledger.flush()
            self.spec = self.refilled(limits, burst_s)
            self.spec.follow(at, evidence, limits, burst_s)
            observed, evidence = [], []
        elif refused:  # upstream's `remaining` is from before this request
            evidence = [replace(e, remaining=e.remaining - granted.cost.of(e.dimension)) for e in evidence]
        back = granted.cost if whole_back else Cost(0)
        unused_tokens = math.floor(granted.cost.tokens * unused)
        self.ledger.settle(
            granted,
            back=back,
            unused_tokens=unused_tokens,
            cool_s=cool_s,
            observed=observed,
            refused=refused,
            event=what,
        )
        await self.ledger.flush()
        bucket = self.spec = self.refilled(limits, burst_s)
        bucket.follow(at, evidence, limits, burst_s)
        bucket.settle(back, unused_tokens)
        if what is Event.HEADERLESS:
            bucket.trust_usage(limits, burst_s)
        elif what is Event.SLOW_DOWN:
            bucket.slow_down()
        elif what is Event.SHORTER_SPAN:
            bucket.shorten_burst()
        if cool_s > 0:
            bucket.cool_until = max(bucket.cool_until, bucket.at + cool_s)
        await self.compare()

    def observed(self, granted: Granted, i: int, limit: float | None, surprise: float) -> Observed:
        then = granted.moments.get(DIMENSIONS[i])
        in_force = self.spec.limit(i, self.written_in(granted))
        limit = (500.0 if math.isinf(in_force) else in_force) if limit is None else limit
        return Observed(DIMENSIONS[i], limit, math.floor((then.kept if then else limit) + surprise * limit))

    async def exchange(self, cost: Cost, lag_s: float, *settling) -> None:
        """The usual course: a call, and its answer after `lag_s`."""
        if await self.reserve(cost) == "granted":
            await self.wait(lag_s)
            await self.settle(len(self.open) - 1, *settling)

    @staticmethod
    def written_in(granted: Granted) -> Limits:
        return Limits(*(None if limit < 0 else limit for limit in granted.candidate.written))

    async def wait(self, seconds: float) -> None:
        await move_time(self.ledger, seconds)
        if self.spec is not None:
            self.spec.at -= seconds
            self.spec.cool_until -= seconds if self.spec.cool_until else 0
            self.spec.seen -= seconds if self.spec.seen else 0
        for n, (granted, at, moments) in enumerate(self.open):
            granted.at -= seconds
            self.open[n] = granted, at - seconds, moments

    async def compare(self) -> None:
        """Every field of the stored bucket is the specification's, within a millionth, and within what a large limit
        refills in the microsecond that is lost when Unix seconds are added and taken away as doubles."""
        _, buckets = await self.ledger.stored.all()
        stored = buckets["a", GROUP]
        for field in fields(Bucket):
            ours, theirs = getattr(self.spec, field.name), getattr(stored, field.name)
            if isinstance(ours, list):
                for dimension, one, other in zip(DIMENSIONS, ours, theirs, strict=True):
                    assert (one is None) == (other is None), (field.name, dimension, ours, theirs)
                    assert one is None or other == pytest.approx(one, rel=1e-6, abs=5e-3), (field.name, dimension)
            else:
                assert theirs == pytest.approx(ours, rel=1e-6, abs=1e-6), field.name


amounts = st.sampled_from([1, 10, 500, 29_000, 30_000, 30_001, 150_000])
reserves = st.tuples(
    st.just("reserve"),
    st.builds(
        Cost, requests=st.sampled_from([0, 1, 1, 1, 3, 60]), tokens=amounts, images=st.sampled_from([0, 0, 1, 5])
    ),
    st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.6]),
)
observation = st.tuples(
    st.sampled_from([*[None] * 12, 0.0, 3.0, 60.0, 500.0, 30_000.0, 1e6]),
    st.sampled_from([0.0, -0.001, -0.01, -0.05, -0.4, 0.01, 0.05, 0.2, 0.6]),
)
observations = st.dictionaries(st.sampled_from([0, 1, 1, 2, 3, 4, 5]), observation, max_size=3).map(
    lambda by_dimension: [(i, *rest) for i, rest in by_dimension.items()]
)
settling = (
    st.sampled_from([0.0, 0.5, 0.9, -0.3, -3.0]),
    st.sampled_from([False, False, True]),
    st.sampled_from([0.0, 0.0, 0.0, 2.5, 0.5]),
    observations,
    st.sampled_from([False, False, True]),
    st.sampled_from([*Event, *[Event.NOTHING] * 6]),
    st.booleans(),
)
settles = st.tuples(st.just("settle"), st.integers(0, 5), *settling)
costs = st.builds(
    Cost, requests=st.just(1), tokens=st.sampled_from([10, 500, 2_000]), images=st.sampled_from([0, 0, 1])
)
exchanges = st.tuples(st.just("exchange"), costs, st.sampled_from([0.05, 0.4, 2.0]), *settling)
pauses = st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, 3.0, 20.0, 90.0, 4_000.0]))
maybe = lambda *values: st.sampled_from([None, None, *values])  # noqa: E731 - reads better in a table
configurations = st.tuples(
    st.just("configure"),
    st.builds(
        Limits,
        rpm=maybe(3, 60, 500),
        tpm=maybe(30_000, 30_000, 2_000_000, 0),
        rpd=maybe(200),
        tpd=maybe(40_000),
        ipm=maybe(5),
    ),
    st.sampled_from([60.0, 60.0, 10.0, 1.0]),
)
steps = st.lists(
    st.one_of(exchanges, exchanges, exchanges, reserves, reserves, settles, settles, pauses, configurations),
    min_size=10,
    max_size=30,
)


def settled(nth: int, seen: Seen, *, cool_s: float = 0.0) -> tuple[object, ...]:
    return ("settle", nth, 0.0, False, cool_s, seen, False, Event.NOTHING, False)


WRITTEN = ("configure", Limits(rpm=500, tpm=30_000), 60.0)
CALL = ("reserve", Cost(1, 500))
# What random traces seldom reach, though it is common under load.
IN_FLIGHT_TOGETHER = [WRITTEN, CALL, CALL, CALL, *[settled(0, [(1, None, -0.4)])] * 3]
IN_FLIGHT_TOGETHER_AND_RAISED = [WRITTEN, *[CALL] * 20, ("wait", 0.5), CALL, CALL, *[settled(20, [(1, None, 0.3)])] * 2]
LATER_CALLS_EXPLAIN_A_PART = [WRITTEN, CALL, ("wait", 0.4), CALL, CALL, ("wait", 0.5), settled(0, [(1, None, -0.4)])]
A_PART_LEFT_TO_OTHERS = [WRITTEN, CALL, ("reserve", Cost(1, 26_500), 0.1), ("reserve", Cost(1, 26_300), 0.1)]
TWO_COOL_DOWNS = [WRITTEN, CALL, CALL, settled(0, [], cool_s=2.5), settled(0, [], cool_s=0.5), CALL]

EARLY_WITHOUT_A_WORD = [
    ("configure", Limits(ipm=5), 60.0),
    ("reserve", Cost(1, 10)),
    ("configure", Limits(), 60.0),
    ("exchange", Cost(1, 10), 0.05, 0.0, False, 0.0, [], False, Event.NOTHING, False),
    ("settle", 0, 0.0, False, 0.0, [], False, Event.NOTHING, True),
    ("configure", Limits(ipm=5), 60.0),
    ("reserve", Cost(1, 10, 1)),
]


@settings(max_examples=200, deadline=None)
@example("reseeded", EARLY_WITHOUT_A_WORD)
@example("fresh", IN_FLIGHT_TOGETHER)
@example("fresh", IN_FLIGHT_TOGETHER_AND_RAISED)
@example("fresh", LATER_CALLS_EXPLAIN_A_PART)
@example("fresh", TWO_COOL_DOWNS)
@example("fresh", A_PART_LEFT_TO_OTHERS)
@given(st.sampled_from(["fresh", "fresh", "reseeded", "unmarked"]), steps)
def test_every_trace_leaves_the_script_and_the_specification_with_the_same_bucket(server, start, steps):
    async def drive() -> None:
        store = ClockedStore.at(server)
        both = Both(store, start)
        try:
            await both.begin()
            for name, *arguments in steps:
                if name == "reserve":
                    event(f"reserve: {await both.reserve(*arguments)}")
                elif name == "exchange":
                    await both.exchange(*arguments)
                elif name == "settle":
                    await both.settle(*arguments)
                elif name == "wait":
                    # A reseeded store starts low for two minutes only; the specification is told when.
                    await both.wait(arguments[0] if start == "fresh" else min(arguments[0], 3.0))
                else:
                    both.limits, both.burst_s = arguments
        finally:
            await store.close()

    asyncio.run(drive())


async def test_a_reservation_reports_the_very_moments_the_specification_has(server):
    store = ClockedStore.at(server)
    both = Both(store, "fresh")
    await both.begin()
    both.limits = Limits(rpm=60, tpm=30_000, rpd=200)
    for _ in range(3):
        await both.reserve(Cost(1, 500))
    granted, _, moments = both.open[-1]
    await store.close()

    assert set(granted.moments) == {Dimension.RPM, Dimension.TPM, Dimension.RPD}
    for dimension, moment in granted.moments.items():
        for field in msgspec.structs.fields(Moment):
            expected = getattr(moments[dimension], field.name)
            assert getattr(moment, field.name) == pytest.approx(expected, rel=1e-6, abs=1e-6), field.name
    assert granted.headroom == pytest.approx((58.8 - 3) / 60, abs=0.01)  # RPM is the emptiest, but for refill

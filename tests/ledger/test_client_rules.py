"""What clients may use, in the store that all replicas share: periods, crashes, lost answers, a store that goes.

Money is in picodollars; amounts here are small whole numbers, so that every sum can be checked by hand.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Cost
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.ledger.grants import Blocked, Granted
from quotapool.ledger.rules import Charge, RuleSet, Standing

from tests.fakes.connect import connect
from tests.fakes.store import candidate, ledger_on, wire

pytestmark = pytest.mark.usefixtures("virtual_time")
GROUP = "gpt-4o"
A = candidate("a")
BERLIN = ZoneInfo("Europe/Berlin")


def budget(limit: float, per: Per = Per.DAY, zone: tzinfo = UTC, subject: str = "c/app", mode: Mode = Mode.HARD):
    return Standing(subject, Rule(f"usd/{per}", Kind.BUDGET, Measure.USD, limit, mode, per=per), zone)


def slots(limit: float) -> Standing:
    return Standing("c/app", Rule("concurrent", Kind.SLOTS, Measure.CONCURRENT, limit), UTC)


def rate(limit: float) -> Standing:
    return Standing("c/app", Rule("rpm", Kind.RATE, Measure.REQUESTS, limit, period_s=60.0), UTC)


@pytest.fixture
async def store(valkey_url):
    connected = connect(valkey_url)
    yield connected
    await connected.close()


@pytest.fixture
async def ledger(store):
    made = ledger_on(store)
    await made.registry.begin_epoch(reseeded=False)
    await made.heartbeat()
    yield made
    await made.flush()


async def ask(ledger, *standings: Standing, amount: float = 10.0) -> Granted | Blocked:
    answer = await ledger.reserve(GROUP, Cost(0), [A], charge=Charge(RuleSet(standings), [amount] * len(standings)))
    assert isinstance(answer, Granted | Blocked)
    return answer


async def spend(ledger, standing: Standing, amount: float) -> None:
    answer = await ask(ledger, standing, amount=amount)
    assert isinstance(answer, Granted)
    ledger.settle(answer, used=[amount])
    await ledger.flush()


def blocked(answer) -> list[tuple[str, float, float, float | None]]:
    assert isinstance(answer, Blocked)
    return [(rule.standing.rule.id, rule.used, rule.held, rule.wait_s) for rule in answer.rules]


# ---- what is held, and what was used


async def test_requests_under_way_hold_the_most_they_may_use(ledger):
    of_100 = budget(100)
    first = await ask(ledger, of_100, amount=60)
    assert blocked(await ask(ledger, of_100, amount=41)) == [("usd/day", 0, 60, 0)]
    assert isinstance(await ask(ledger, of_100, amount=40), Granted)
    # If the first used less than it held, I expect the rest to be there for others
    ledger.settle(first, used=[10])
    await ledger.flush()
    assert isinstance(await ask(ledger, of_100, amount=50), Granted)
    ((_, used, held, wait_s),) = blocked(await ask(ledger, of_100, amount=1))
    assert (used, held, wait_s) == (10, 90, 0)


async def test_what_was_used_beyond_what_was_held_is_used(ledger):
    of_100 = budget(100)
    answer = await ask(ledger, of_100, amount=60)
    ledger.settle(answer, used=[130])
    await ledger.flush()
    ((_, used, held, wait_s),) = blocked(await ask(ledger, of_100, amount=1))
    assert (used, held) == (130, 0)
    assert 0 < wait_s <= 86_400


async def test_a_reservation_that_was_not_used_leaves_nothing(ledger):
    for standing in (budget(100), slots(2), rate(100)):
        ledger.give_back(await ask(ledger, standing, amount=1))
        await ledger.flush()
        again = await ask(ledger, standing, amount=1)
        assert standing.used + standing.held == pytest.approx(1, abs=1e-3)
        ledger.give_back(again)


async def test_five_of_30_cents_at_once_on_45_leave_room_for_one(ledger):
    """LiteLLM #34732: all five were served."""
    cents = budget(45)
    answers = await asyncio.gather(*(ask(ledger, cents, amount=30) for _ in range(5)))
    assert [isinstance(answer, Granted) for answer in answers].count(True) == 1


async def test_all_rules_are_taken_or_none_is(ledger):
    own, team = budget(100), budget(15, subject="t/all")
    await ask(ledger, own, team)
    assert blocked(await ask(ledger, own, team)) == [("usd/day", 0, 10, 0)]
    ((_, used, held, _),) = blocked(await ask(ledger, own, amount=95))
    assert (used, held) == (0, 10)


async def test_every_rule_that_blocks_is_named(ledger):
    of_15, two, minute = budget(15), slots(1), rate(1)
    assert isinstance(await ask(ledger, of_15, two, minute, amount=1), Granted)
    named = blocked(await ask(ledger, of_15, two, minute, amount=15))
    assert [name for name, *_ in named] == ["usd/day", "concurrent", "rpm"]
    assert named[1][3] is None  # 15 at once, of one


async def test_rules_without_force_count_and_let_through(ledger):
    soft = budget(15, mode=Mode.SOFT)
    charges = [Charge(RuleSet([soft]), [10.0]) for _ in range(2)]
    for charge in charges:
        assert isinstance(await ledger.reserve(GROUP, Cost(0), [A], charge=charge), Granted)
    assert [standing.rule.id for standing in charges[-1].exceeded] == ["usd/day"]


async def test_a_rate_refills_by_the_second(ledger, virtual_time):
    of_6 = rate(6)
    for _ in range(6):
        assert isinstance(await ask(ledger, of_6, amount=1), Granted)
    assert blocked(await ask(ledger, of_6, amount=1))[0][3] == pytest.approx(10, abs=0.1)
    virtual_time.advance(10.1)
    assert isinstance(await ask(ledger, of_6, amount=1), Granted)
    assert blocked(await ask(ledger, of_6, amount=7))[0][3] is None


# ---- periods


def until(virtual_time, text: str) -> None:
    virtual_time.advance(datetime.fromisoformat(text).timestamp() - virtual_time.time())


async def used_now(ledger, standing: Standing) -> float:
    """As the next request sees it."""
    ledger.give_back(await ask(ledger, standing, amount=0))
    await ledger.flush()
    return standing.used


@pytest.mark.parametrize(
    ("per", "begins", "last", "first"),
    [
        # The day on which Berlin's clocks go forward has 23 hours, that on which they go back has 25.
        (Per.DAY, "2027-03-28T00:00:01+01:00", "2027-03-28T23:59:59+02:00", "2027-03-29T00:00:00+02:00"),
        (Per.DAY, "2027-10-31T00:00:01+02:00", "2027-10-31T23:59:59+01:00", "2027-11-01T00:00:00+01:00"),
        (Per.WEEK, "2027-03-22T00:00:01+01:00", "2027-03-28T23:59:59+02:00", "2027-03-29T00:00:00+02:00"),
        (Per.MONTH, "2027-03-01T00:00:01+01:00", "2027-03-31T23:59:59+02:00", "2027-04-01T00:00:00+02:00"),
        (Per.MONTH, "2028-02-01T00:00:01+01:00", "2028-02-29T23:59:59+01:00", "2028-03-01T00:00:00+01:00"),
        (Per.HOUR, "2027-10-31T02:00:01+02:00", "2027-10-31T02:59:59+02:00", "2027-10-31T02:00:00+01:00"),
    ],
)
async def test_a_budget_lasts_from_one_turn_of_its_clock_to_the_next(ledger, virtual_time, per, begins, last, first):
    here = budget(100, per, BERLIN)
    until(virtual_time, begins)
    await spend(ledger, here, 70)
    until(virtual_time, last)
    assert await used_now(ledger, here) == 70
    until(virtual_time, first)
    assert await used_now(ledger, here) == 0
    # and another replica, which has never seen it, sees the same.
    assert await used_now(ledger_on(ledger.store), budget(100, per, BERLIN)) == 0


async def test_what_was_begun_in_one_period_is_no_use_of_the_next(ledger, virtual_time):
    until(virtual_time, "2027-05-31T23:59:59+00:00")
    month = budget(100, Per.MONTH)
    answer = await ask(ledger, month, amount=80)
    virtual_time.advance(2)
    assert isinstance(await ask(ledger, month, amount=100), Granted)  # nothing is held of June
    ledger.settle(answer, used=[80])
    await ledger.flush()
    ((_, used, held, _),) = blocked(await ask(ledger, month, amount=1))
    assert (used, held) == (0, 100)


async def test_what_was_held_nowhere_counts_in_the_period_in_which_it_is_charged(ledger, virtual_time):
    until(virtual_time, "2027-05-31T12:00:00+00:00")
    month = budget(100, Per.MONTH)
    charge = Charge(RuleSet([month]), [0.0])
    ledger.charge(charge, [30.0])  # the first that is ever heard of this budget
    await ledger.flush()
    assert await used_now(ledger, budget(100, Per.MONTH)) == 30
    until(virtual_time, "2027-06-01T00:00:01+00:00")
    ledger.charge(charge, [20.0])
    await ledger.flush()
    assert month.used == 20
    assert await used_now(ledger, budget(100, Per.MONTH)) == 20


async def test_another_limit_counts_what_was_used(ledger):
    await spend(ledger, budget(100), 70)
    ((_, used, _, _),) = blocked(await ask(ledger, budget(75), amount=10))
    assert used == 70
    assert isinstance(await ask(ledger, budget(200), amount=130), Granted)


async def test_another_time_zone_does_not_forget_what_was_used(ledger, virtual_time):
    until(virtual_time, "2027-06-15T12:00:00+00:00")
    await spend(ledger, budget(100, zone=UTC), 70)
    for zone in ("Pacific/Auckland", "America/New_York", "Europe/Berlin"):
        assert await used_now(ledger, budget(100, zone=ZoneInfo(zone))) == 70


async def test_a_clock_that_was_set_back_gives_nothing_back(ledger, virtual_time):
    of_100 = budget(100)
    await spend(ledger, of_100, 70)
    virtual_time.set_store_clock(-3 * 86_400)
    assert await used_now(ledger, budget(100)) == 70
    under_way = await ask(ledger, budget(100), amount=30)
    ledger.settle(under_way, used=[20])
    await ledger.flush()
    assert await used_now(ledger, budget(100)) == 90


# ---- what goes wrong


async def test_an_answer_that_is_lost_takes_nothing_twice(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=2.0)
        of_100 = budget(100)
        network.lose(1, "close")
        answer = await ask(ledger, of_100, amount=40)
        assert (of_100.used, of_100.held) == (0, 40)
        network.lose(1, "close")
        ledger.settle(answer, used=[30])
        await ledger.flush()
        await ask(ledger, of_100, amount=5)
        assert (of_100.used, of_100.held) == (30, 5)
        await store.close()


async def test_what_a_dead_worker_held_comes_back_by_itself(ledger, store, virtual_time):
    dead = ledger_on(store)
    await dead.heartbeat()
    standings = budget(100), slots(1)
    assert isinstance(await ask(dead, *standings, amount=1), Granted)
    assert isinstance(await ask(ledger, *standings, amount=1), Blocked)
    took_s, answer = 0, None
    while not isinstance(answer, Granted):
        virtual_time.advance(1.0)
        took_s += 1
        await ledger.heartbeat()
        answer = await ask(ledger, *standings, amount=1)
    assert 10 <= took_s <= 17
    assert [standing.held for standing in standings] == [1, 1]


async def test_a_worker_that_lives_may_hold_for_as_long_as_it_takes(ledger, store, virtual_time):
    other = ledger_on(store)
    one = slots(1)
    long_one = await ask(other, one, amount=1)
    for _ in range(30):
        virtual_time.advance(10.0)
        await asyncio.gather(ledger.heartbeat(), other.heartbeat())
        assert isinstance(await ask(ledger, one, amount=1), Blocked)
    other.settle(long_one)
    await other.flush()
    assert isinstance(await ask(ledger, one, amount=1), Granted)


async def test_a_store_that_was_away_for_long_frees_nothing_of_those_who_come_back(ledger, store, virtual_time):
    other = ledger_on(store)
    await asyncio.gather(ledger.heartbeat(), other.heartbeat())
    one = slots(1)
    await ask(other, one, amount=1)
    virtual_time.advance(60)  # in which nobody could say anything
    await ledger.heartbeat()
    assert isinstance(await ask(ledger, one, amount=1), Blocked)
    virtual_time.advance(0.5)
    await asyncio.gather(ledger.heartbeat(), other.heartbeat())
    for _ in range(10):
        virtual_time.advance(1.0)
        await asyncio.gather(ledger.heartbeat(), other.heartbeat())
        assert isinstance(await ask(ledger, one, amount=1), Blocked)


async def test_a_store_that_lost_its_data_is_told_what_was_used(ledger, store):
    of_100 = budget(100)
    await spend(ledger, of_100, 70)
    await store.client.delete(f"{ledger.prefix}:rules:c/app")
    ((_, used, _, _),) = blocked(await ask(ledger, of_100, amount=40))
    assert used == 70


# ---- the store is away


@pytest.fixture
async def away(valkey_url, tmp_path):
    """(ledger, network, the plain store): one of two replicas; it has used 40 of 100, and the store is gone."""
    async with wire(valkey_url, tmp_path) as network:
        store, plain = connect(network.url), connect(valkey_url)
        ledger = ledger_on(store, patience_s=0.1, serve_alone=True)
        await ledger.registry.begin_epoch(reseeded=False)
        await ledger_on(plain).heartbeat()
        await ledger.heartbeat()
        assert ledger.replicas == 2
        of_100 = budget(100)
        await spend(ledger, of_100, 40)
        network.lose(0, "down")
        network.cut()
        yield ledger, network, plain, of_100
        network.heal()
        await ledger.flush()
        await store.close()
        await plain.close()


async def test_each_replica_serves_its_share_and_pays_when_the_store_is_back(away):
    ledger, network, plain, of_100 = away
    answer = await ask(ledger, of_100, amount=25)
    assert isinstance(answer, Granted)
    assert answer.local
    assert isinstance(await ask(ledger, of_100, amount=10), Blocked)  # of the other 60, the other one has a half
    ledger.settle(answer, used=[20])
    assert isinstance(await ask(ledger, of_100, amount=10), Granted)
    network.heal()
    async with asyncio.timeout(5):
        while ledger._batches.away:
            await asyncio.sleep(0.005)
    await ledger.flush()
    assert await used_now(ledger_on(plain), budget(100)) == 60


async def test_a_rule_that_was_never_seen_serves_nothing(away):
    ledger, _, _, _ = away
    assert isinstance(await ask(ledger, budget(100, Per.MONTH), amount=1), Blocked)
    assert isinstance(await ask(ledger, slots(2), amount=1), Granted)  # nobody holds a slot for long

"""A replica's share while the store is away: an Nth of the level, an Nth of the rate, every debt paid once.

An account of 6,000 tokens a minute gains 100 a second, and a full bucket holds 5,880 (a breath of 1.2 s is kept back).
"""

from __future__ import annotations

import asyncio

import pytest
from quotapool.domain.bucket import UNKNOWN, Moment
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.budgets import StoreUnavailable
from quotapool.ledger.grants import Granted, Observed, Refused
from quotapool.ledger.local import LocalBudgets

from tests.fakes.connect import connect
from tests.fakes.store import StoreLog, candidate, granted, ledger_on, wire

pytestmark = pytest.mark.usefixtures("virtual_time")

GROUP = "gpt-4o"
TPM = Dimension.TPM
A = candidate("a", Limits(tpm=6_000))
NOW = 1_000.0
HUNDRED = Cost(1, 100)
NOTHING = Cost(0)


def alone(level: float, replicas: int, who=A, seen_s_ago: float = 0.0) -> LocalBudgets:
    """One of `replicas`, that just lost the store, the account last seen with `level` tokens."""
    local = LocalBudgets()
    moments = {TPM: Moment(level, level, 0.0, 0.0)}
    local.remember(Granted("1", GROUP, HUNDRED, who, NOW - seen_s_ago, 0.5, False, moments, {TPM: UNKNOWN}))
    local.begin(replicas, heard=NOW)
    return local


def take(local: LocalBudgets, now: float = NOW, cost: Cost = HUNDRED) -> Granted:
    answer = local.reserve(GROUP, cost, [A], now)
    assert isinstance(answer, Granted), answer
    return answer


def refused(local: LocalBudgets, now: float = NOW, cost: Cost = HUNDRED) -> Refused:
    answer = local.reserve(GROUP, cost, [A], now)
    assert isinstance(answer, Refused), answer
    return answer


def settle(local: LocalBudgets, answer: Granted, now: float = NOW, **how) -> None:
    back, unused, seen = how.get("back", NOTHING), how.get("unused", 0.0), how.get("observed", ())
    local.settle(answer, back, unused, seen, how.get("not_admitted", NOTHING), now)


def owed(local: LocalBudgets, now: float = NOW) -> list[tuple[float, float]]:
    """(kept, corrected) tokens owed, for each bucket that owes any."""
    return [(debt.kept[1], debt.corrected[1]) for debt in local.pay(now)]


# ---- the share


def test_each_of_four_replicas_has_a_quarter_of_the_level_and_of_the_rate():
    # Given 1,000 tokens left, of which 250 are ours
    local = alone(1_000, replicas=4)
    assert [take(local).local for _ in range(2)] == [True, True]
    # If 100 are wanted when 50 are left, I expect the wait for 50 more at 25 a second
    assert refused(local) == Refused(pytest.approx(2.0), TPM)
    refused(local, NOW + 1.9)
    take(local, NOW + 2.0)


def test_what_refilled_since_it_was_seen_is_shared_too():
    local = alone(0, replicas=2)
    assert refused(local).wait_s == pytest.approx(2.0)
    take(local, NOW + 2)
    refused(local, NOW + 2)


def test_what_others_may_have_taken_since_it_was_seen_is_not_shared():
    """6,000 tokens a minute: 30 s bring 3,000, of which the store may have granted all to the other replica."""
    local = alone(100, replicas=2, seen_s_ago=30.0)
    refused(local)
    take(local, NOW + 1.0)  # 100 that were seen, and 100 that came in since: half of them are ours
    refused(local, NOW + 1.0)


def test_no_request_is_too_large_that_was_not_too_large_before():
    # Given a full bucket and a request that is more than our quarter of it
    local = alone(5_880, replicas=4)
    take(local, cost=Cost(1, 5_000))
    # I expect it served, and paid for in time: 20,000 of 5,880 were taken, and the next takes 400
    assert refused(local).wait_s == pytest.approx((400 + 20_000 - 5_880) / 100)
    assert refused(local, cost=Cost(1, 6_001)) == Refused(None, TPM)


def test_a_budget_smaller_than_the_number_of_replicas_still_serves():
    slow = candidate("a", Limits(rpm=3))
    local = LocalBudgets()
    moments = {Dimension.RPM: Moment(2.94, 2.94, 0.0, 0.0)}
    local.remember(Granted("1", GROUP, Cost(1), slow, NOW, 0.5, False, moments, {Dimension.RPM: UNKNOWN}))
    local.begin(4, heard=NOW)
    assert isinstance(local.reserve(GROUP, Cost(1), [slow], NOW), Granted)
    again = local.reserve(GROUP, Cost(1), [slow], NOW)
    assert isinstance(again, Refused)
    assert again.wait_s == pytest.approx(80)  # a quarter of three a minute


def test_a_bucket_never_seen_starts_empty():
    local = LocalBudgets()
    local.begin(2, heard=NOW)
    assert refused(local).wait_s == pytest.approx(2.0)
    take(local, NOW + 2)


# ---- upstream's figures


def test_upstreams_remaining_counts_without_a_store_too():
    local = alone(2_000, replicas=2)
    answer = take(local)  # 1,800 are left, by what we know
    settle(local, answer, observed=[Observed(TPM, 6_000, 300)])
    # I expect those 300, and a margin of a fifth of the limit since somebody else is there: 400 + 1,200 - 300 to go
    assert refused(local, cost=Cost(1, 200)).wait_s == pytest.approx(13)
    assert owed(local)[0][0] == pytest.approx((2_000 - 300) / 2)


def test_a_refusal_leaves_upstreams_remaining_and_nothing_more():
    local = alone(2_000, replicas=2)
    settle(local, take(local), back=Cost(0, 100), observed=[Observed(TPM, 6_000, 50)], not_admitted=HUNDRED)
    assert owed(local)[0][0] == pytest.approx((2_000 - 50) / 2)


def test_an_unknown_limit_is_learned():
    unwritten = candidate("a")
    local = LocalBudgets()
    local.begin(1, heard=NOW)
    answer = local.reserve(GROUP, HUNDRED, [unwritten], NOW)
    assert isinstance(answer, Refused)
    first = local.reserve(GROUP, HUNDRED, [unwritten], NOW + 1)
    assert isinstance(first, Granted)
    settle(local, first, NOW + 1, observed=[Observed(TPM, 6_000, 40), Observed(Dimension.RPM, 60, 59)])
    again = local.reserve(GROUP, HUNDRED, [unwritten], NOW + 1)
    assert isinstance(again, Refused)
    assert again.wait_s == pytest.approx(0.6)


def test_a_cool_down_holds_with_and_without_the_store():
    local = alone(5_880, replicas=1)
    known = Granted("1", GROUP, HUNDRED, A, NOW, 0.5, False, {}, {})
    local.cool(known, NOW + 5, NOW)  # before the bucket is used
    assert refused(local).wait_s == pytest.approx(5)
    local.cool(known, NOW + 9, NOW)  # and while it is in use
    assert refused(local, NOW + 5).wait_s == pytest.approx(4)
    assert [debt.cool_s for debt in local.pay(NOW + 6)] == [pytest.approx(3)]
    take(local, NOW + 9)


# ---- debts


def test_a_debt_is_what_was_taken_and_is_owed_once():
    local = alone(1_000, replicas=4)
    take(local)
    take(local)
    assert owed(local) == [(pytest.approx(200), pytest.approx(200))]
    assert owed(local) == []
    take(local, NOW + 2)
    assert owed(local, NOW + 2) == [(pytest.approx(100), pytest.approx(100))]


def test_time_pays_what_a_full_bucket_would_have_lost():
    # Given a full bucket, of which ten hundred are taken; a full one gains nothing meanwhile
    local = alone(5_880, replicas=1)
    for _ in range(10):
        take(local)
    # I expect half owed after 5 seconds and nothing after 10: an hour's absence is not an hour's debt
    assert alone(5_880, replicas=1).pay(NOW) == []
    assert owed(local, NOW + 5) == [(pytest.approx(500), pytest.approx(500))]
    assert owed(local, NOW + 10) == []


def test_what_is_settled_before_the_store_is_back_is_not_owed():
    local = alone(1_000, replicas=2)
    settle(local, take(local), back=HUNDRED)
    assert owed(local) == []
    settle(local, take(local), unused=60)  # upstream may or may not have corrected it
    assert owed(local) == [(pytest.approx(100), pytest.approx(40))]
    settle(local, take(local), unused=-50)
    assert owed(local) == [(pytest.approx(100), pytest.approx(150))]


def test_what_is_settled_in_the_next_absence_comes_off_that_ones_debt():
    local = alone(1_000, replicas=2)
    answer = take(local)
    assert owed(local) == [(pytest.approx(100), pytest.approx(100))]
    local.end()
    local.begin(2, heard=NOW)
    settle(local, answer, back=HUNDRED)
    assert owed(local) == [(pytest.approx(-100), pytest.approx(-100))]


# ---- with a store that goes and comes back


@pytest.fixture
async def lost(valkey_url, tmp_path):
    """(ledger, network, the plain store): one replica that has made a request; the store is gone."""
    async with wire(valkey_url, tmp_path) as network:
        store, plain = connect(network.url), connect(valkey_url)
        ledger = ledger_on(store, patience_s=0.1, serve_alone=True)
        await ledger.registry.begin_epoch(reseeded=False)
        await granted(ledger, GROUP, Cost(1), [DAILY])
        network.lose(0, "down")
        network.cut()
        yield ledger, network, plain
        network.heal()
        await ledger.flush()
        await store.close()
        await plain.close()


DAILY = candidate("a", Limits(rpm=100_000, tpm=100_000_000, rpd=1_000))


async def taken(ledger) -> float:
    _, buckets = await ledger.stored.all()
    return buckets["a", GROUP].charged[2]


async def back(ledger) -> None:
    """Until the store has answered again."""
    async with asyncio.timeout(5):
        while ledger._batches.away:
            await asyncio.sleep(0.005)


async def test_the_share_goes_on_until_the_other_replicas_have_paid_too(lost):
    ledger, network, plain = lost
    assert (await ledger.reserve(GROUP, Cost(1), [DAILY])).local
    network.heal()
    await back(ledger)
    await ledger._batches.flush(2)
    # I expect the debt paid at once, and the next request granted here
    assert await taken(ledger_on(plain)) == pytest.approx(2)
    assert (await ledger.reserve(GROUP, Cost(1), [DAILY])).local
    assert ledger.away
    # and after a while that one paid as well, and the store grants again.
    await ledger.flush()
    assert not ledger.away
    assert await taken(ledger_on(plain)) == pytest.approx(3)
    assert not (await ledger.reserve(GROUP, Cost(1), [DAILY])).local
    assert await taken(ledger_on(plain)) == pytest.approx(4)


async def test_a_grant_of_the_absence_is_settled_in_the_store_afterwards(lost):
    ledger, network, plain = lost
    answer = await ledger.reserve(GROUP, Cost(1), [DAILY])
    network.heal()
    await back(ledger)
    await ledger.flush()
    ledger.give_back(answer)
    ledger.give_back(answer)
    await ledger.flush()
    assert await taken(ledger_on(plain)) == pytest.approx(1)


async def test_a_store_that_comes_back_empty_is_owed_nothing_for_it_starts_low(lost):
    ledger, network, plain = lost
    for _ in range(5):
        await ledger.reserve(GROUP, Cost(1), [DAILY])
    await plain.client.flushall()
    network.heal()
    await back(ledger)
    await ledger.flush()
    _, buckets = await ledger_on(plain).stored.all()
    assert all(bucket.charged[2] <= 1 for bucket in buckets.values())  # the one whose answer was lost is given back


async def test_a_replica_started_while_the_store_is_away_refuses(lost, tmp_path):
    _, network, _ = lost
    store = connect(network.url)
    newcomer = ledger_on(store, patience_s=0.1, serve_alone=True)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await newcomer.reserve(GROUP, Cost(1), [DAILY])
    network.heal()
    await newcomer.flush()
    assert not (await granted(newcomer, GROUP, Cost(1), [DAILY])).local
    await newcomer.flush()
    await store.close()


async def test_configured_to_refuse_no_process_serves_from_its_share(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=0.1)
        await ledger.registry.begin_epoch(reseeded=False)
        await granted(ledger, GROUP, Cost(1), [DAILY])
        network.lose(0, "down")
        network.cut()
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await ledger.reserve(GROUP, Cost(1), [DAILY])
        network.heal()
        await ledger.flush()
        assert not (await granted(ledger, GROUP, Cost(1), [DAILY])).local
        await store.close()


# ---- errors of the store that are no absence


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("ERR max number of clients reached", "server"),
        ("ERR user_script:1: no such thing script: f00, on @user_script:1.", "script"),
    ],
)
async def test_one_error_reply_is_logged_in_the_stores_words_and_over_with_the_next_look(
    valkey_url, tmp_path, words, kind
):
    log = StoreLog()
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=0.0, serve_alone=True, observer=log)
        await ledger.registry.begin_epoch(reseeded=False)
        ledger.give_back(await granted(ledger, GROUP, Cost(1), [A]))
        await ledger.flush()
        # If the store answers a script once with an error
        network.answer_instead = f"-{words}\r\n".encode()
        assert (await granted(ledger, GROUP, Cost(1), [A])).local
        # I expect it counted once, logged, and the store to decide again soon, though no request asks for it
        assert log.failures == [kind]
        assert words in log.why
        async with asyncio.timeout(2):
            while ledger.away:
                await asyncio.sleep(0.02)
        assert log.absences == [True, False]
        assert not (await granted(ledger, GROUP, Cost(1), [A])).local
        await store.close()

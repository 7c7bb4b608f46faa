"""Budgets on a real store: all or nothing, never oversold, charged once whatever the network loses, given back."""

from __future__ import annotations

import asyncio
import itertools
import math

import msgspec
import pytest
from quotapool.domain.bucket import Bucket
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.budgets import Ledger, StoreUnavailable
from quotapool.ledger.grants import Event, Granted, Observed, Refused
from quotapool.ledger.messages import bucket_key

from tests.fakes.connect import connect
from tests.fakes.store import StoreLog, candidate, granted, ledger_on, move_time, wire

pytestmark = pytest.mark.usefixtures("virtual_time")

GROUP = "gpt-4o"


def daily(requests: float, tokens: float = 1_000_000) -> Limits:
    """Refilled so slowly that what was taken can be counted."""
    return Limits(rpm=100_000, tpm=100_000_000, rpd=requests, tpd=tokens)


DAILY = daily(1_000)
A = candidate("a", DAILY)


@pytest.fixture
async def ledger(valkey_url):
    """A ledger on a marked, empty store."""
    store = connect(valkey_url)
    made = ledger_on(store)
    await made.registry.begin_epoch(reseeded=False)
    yield made
    await made.flush()
    await store.close()


async def bucket_of(ledger: Ledger, account: str = "a") -> Bucket:
    _, buckets = await ledger.stored.all()
    return buckets.get((account, GROUP)) or Bucket(0.0)


async def charged(ledger: Ledger, account: str = "a") -> tuple[float, float]:
    """(requests, tokens) that the account's bucket was charged in all."""
    bucket = await bucket_of(ledger, account)
    return bucket.charged[2], bucket.charged[3]


# ---- one atomic step


async def test_the_first_candidate_with_room_gives_all_dimensions_at_once(ledger):
    answer = await granted(ledger, GROUP, Cost(1, 500), [candidate("a", DAILY), candidate("b", DAILY)])
    assert answer.candidate.account == "a"
    assert await charged(ledger) == (1, 500)
    assert await charged(ledger, "b") == (0, 0)


async def test_a_candidate_that_lacks_one_dimension_gives_none(ledger):
    # Given an account with room for requests but not for tokens
    small = candidate("small", daily(1_000, 1_000))
    await granted(ledger, GROUP, Cost(1, 900), [small])
    # If a second such request comes, which another account can serve
    answer = await granted(ledger, GROUP, Cost(1, 900), [small, A])
    assert answer.candidate.account == "a"
    # I expect nothing taken from the first one, not even the request
    assert await charged(ledger, "small") == (1, 900)


async def test_a_refusal_names_the_soonest_wait_and_its_dimension(ledger):
    slow = candidate("slow", Limits(tpm=6_000))  # 100 a second
    slower = candidate("slower", Limits(tpm=600))
    await granted(ledger, GROUP, Cost(1, 6_000), [slow])  # 5,880 were there: 120 of debt
    await granted(ledger, GROUP, Cost(1, 600), [slower])
    answer = await ledger.reserve(GROUP, Cost(1, 500), [slower, slow])
    assert isinstance(answer, Refused)
    assert answer.dimension is Dimension.TPM
    assert answer.wait_s == pytest.approx(6.2, abs=0.1)  # 500 and the debt, at 100 a second


@pytest.mark.parametrize(("cost", "dimension"), [(Cost(1, 601), Dimension.TPM), (Cost(11, 1), Dimension.RPM)])
async def test_a_cost_above_every_limit_is_refused_without_a_wait(ledger, cost, dimension):
    both = [candidate(name, Limits(rpm=10, tpm=600)) for name in "ab"]
    assert await ledger.reserve(GROUP, cost, both) == Refused(None, dimension)


async def test_a_refused_caller_who_comes_back_after_the_wait_is_granted(ledger):
    slow = candidate("slow", Limits(rpm=6))
    await granted(ledger, GROUP, Cost(5), [slow])  # 5.88 less 5
    refused = await ledger.reserve(GROUP, Cost(1), [slow])
    assert isinstance(refused, Refused)
    assert refused.wait_s == pytest.approx(1.2, abs=0.1)
    await move_time(ledger, refused.wait_s - 0.5)
    assert isinstance(await ledger.reserve(GROUP, Cost(1), [slow]), Refused)
    await move_time(ledger, 0.5)
    await granted(ledger, GROUP, Cost(1), [slow])


# ---- many at once


async def test_eight_replicas_racing_for_one_account_never_oversell_it(valkey_url):
    # Given 600 requests a minute, hence 588 at once and 10 a second, wanted 1,600 times by 8 replicas
    stores = [connect(valkey_url) for _ in range(8)]
    ledgers = [ledger_on(store, patience_s=20.0) for store in stores]
    await ledgers[0].registry.begin_epoch(reseeded=False)
    shared = candidate("a", Limits(rpm=600))
    answers = await asyncio.gather(
        *(one.reserve(GROUP, Cost(1), [shared]) for one in ledgers for _ in range(200))
    )  # fmt: skip
    grants = [answer for answer in answers if isinstance(answer, Granted)]
    elapsed = max(g.at for g in grants) - min(g.at for g in grants)
    # I expect what a full bucket holds and what it refilled meanwhile, no more and no less
    assert 588 <= len(grants) <= 588 + 10 * elapsed
    assert (await bucket_of(ledgers[0])).charged[0] == len(grants)
    await asyncio.gather(*(store.close() for store in stores))


async def test_reserves_made_together_go_out_in_batches_of_64_in_order(valkey_url):
    log = StoreLog()
    store = connect(valkey_url)
    ledger = ledger_on(store, observer=log)
    await ledger.registry.begin_epoch(reseeded=False)
    answers = await asyncio.gather(*(ledger.reserve(GROUP, Cost(1), [candidate("a", daily(101))]) for _ in range(200)))
    await store.close()
    assert log.batches == [64, 64, 64, 8]
    # First come, first served: 101 less a little of a day's refill is 100 and a fraction.
    assert [isinstance(answer, Granted) for answer in answers] == [True] * 100 + [False] * 100


async def test_reserves_of_replicas_for_different_accounts_never_mix(ledger):
    accounts = [candidate(name, DAILY) for name in "abcdefgh"]
    answers = await asyncio.gather(*(granted(ledger, GROUP, Cost(n, n), [c]) for n, c in enumerate(accounts * 3, 1)))
    assert [answer.candidate for answer in answers] == accounts * 3
    for n, account in enumerate(accounts, 1):
        assert await charged(ledger, account.account) == (3 * n + 24, 3 * n + 24)  # n, n + 8 and n + 16


# ---- settled once


async def test_settling_twice_does_nothing_more(ledger):
    answer = await granted(ledger, GROUP, Cost(1, 500), [A])
    ledger.give_back(answer)
    ledger.give_back(answer)
    ledger.settle(answer, unused_tokens=-100_000)
    await ledger.flush()
    assert await charged(ledger) == (0, 0)


@pytest.mark.parametrize("how", ["close", "hang"])
async def test_a_reserve_whose_answer_is_lost_is_charged_once(valkey_url, tmp_path, how):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url, timeout_s=0.1)
        ledger = ledger_on(store)
        await ledger.registry.begin_epoch(reseeded=False)
        await granted(ledger, GROUP, Cost(1, 100), [candidate("b", DAILY)])  # the server knows the script
        # If the store reserves and its answer does not arrive, twice
        network.lose(2, how, only=lambda command: b"EVALSHA" in command)
        await granted(ledger, GROUP, Cost(1, 500), [A])
        assert len(network.lost) == 2
        assert await charged(ledger) == (1, 500)
        await store.close()


@pytest.mark.parametrize("how", ["close", "hang"])
async def test_a_settle_whose_answer_is_lost_is_done_once(valkey_url, tmp_path, how):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url, timeout_s=0.1)
        ledger = ledger_on(store)
        await ledger.registry.begin_epoch(reseeded=False)
        one, other = [await granted(ledger, GROUP, Cost(1, 500), [A]) for _ in range(2)]
        network.lose(2, how, only=lambda command: b"EVALSHA" in command)
        ledger.settle(one, back=Cost(1, 500))
        ledger.settle(other, unused_tokens=400)
        await ledger.flush()
        assert len(network.lost) == 2
        bucket = await bucket_of(ledger)
        assert await charged(ledger) == (1, 500)
        assert bucket.corrected[3] - bucket.kept[3] == pytest.approx(400)
        await store.close()


# ---- callers that leave


async def test_a_caller_that_leaves_before_the_batch_is_sent_has_no_effect(valkey_url):
    log, store = StoreLog(), connect(valkey_url)
    ledger = ledger_on(store, observer=log)
    leaving = asyncio.ensure_future(ledger.reserve(GROUP, Cost(1, 500), [A]))
    await asyncio.sleep(0)  # it has queued its reserve; the task has not started
    leaving.cancel()
    await ledger.flush()
    assert log.batches == []
    await store.close()


async def test_the_reserve_of_a_caller_that_leaves_while_it_is_under_way_is_given_back(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url, timeout_s=0.1)
        ledger = ledger_on(store)
        await ledger.registry.begin_epoch(reseeded=False)
        await granted(ledger, GROUP, Cost(1), [candidate("b", DAILY)])
        network.lose(1, "hang", only=lambda command: b"EVALSHA" in command)
        leaving = asyncio.ensure_future(ledger.reserve(GROUP, Cost(1, 500), [A]))
        while not network.lost:
            await asyncio.sleep(0.000_02)
        assert await charged(ledger_on(connect(valkey_url))) == (1, 500)
        leaving.cancel()
        await ledger.flush()
        assert await charged(ledger) == (0, 0)
        await store.close()


async def test_a_caller_that_leaves_in_the_same_turn_as_the_grant_gives_it_back(valkey_url):
    # Given a caller who is cancelled after the grant was set and before it ran again
    store = connect(valkey_url)

    def leave() -> None:  # called as the first answer brings the pool's version, right after the grant was set
        leaving.cancel()

    ledger = ledger_on(store, on_version=leave)
    await ledger.registry.begin_epoch(reseeded=False)
    leaving = asyncio.ensure_future(ledger.reserve(GROUP, Cost(1, 500), [A]))
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await ledger.flush()
    assert (await bucket_of(ledger)).at > 0  # it was granted
    assert await charged(ledger) == (0, 0)
    await store.close()


# ---- a store that is away


async def test_patience_ends_in_store_unavailable_and_what_was_in_doubt_is_given_back(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        log, store = StoreLog(), connect(network.url)
        ledger = ledger_on(store, patience_s=0.2, observer=log)
        await ledger.registry.begin_epoch(reseeded=False)
        await granted(ledger, GROUP, Cost(1), [candidate("b", DAILY)])
        # If every answer is lost, though the store does what it is asked
        network.lose(10_000, only=lambda command: b"EVAL" in command)
        with pytest.raises(StoreUnavailable):
            await ledger.reserve(GROUP, Cost(1, 500), [A])
        assert ledger.away
        watching = ledger_on(connect(valkey_url))
        assert await charged(watching) == (1, 500)
        # I expect it given back as soon as the store is back
        network.heal()
        await ledger.flush()
        assert await charged(watching) == (0, 0)
        assert (ledger.away, log.absences) == (False, [True, False])
        await store.close()


async def test_an_outage_keeps_settles_and_forgets_refused_reserves(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=0.1)
        await ledger.registry.begin_epoch(reseeded=False)
        kept = await granted(ledger, GROUP, Cost(1, 500), [A])
        network.lose(0, "down")
        network.cut()
        for _ in range(3):
            asked = (ledger.reserve(GROUP, Cost(1, 100), [A]) for _ in range(50))
            failures = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(failure) for failure in failures} == {StoreUnavailable}
        ledger.settle(kept, back=Cost(1, 500))
        assert len(ledger._batches._queue) == 1
        network.heal()
        await ledger.flush()
        assert await charged(ledger) == (0, 0)
        await store.close()


async def test_a_replica_without_the_store_takes_its_share_and_pays_when_the_store_is_back(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=0.1, serve_alone=True)
        await ledger.registry.begin_epoch(reseeded=False)
        ten = candidate("a", daily(21))
        await granted(ledger, GROUP, Cost(1), [ten])  # 20 are left, less a little of a day's refill
        ledger.replicas = 2
        network.lose(0, "down")
        network.cut()
        answers = [await ledger.reserve(GROUP, Cost(1), [ten]) for _ in range(15)]
        # I expect half of what was left, granted by this process
        assert [isinstance(a, Granted) and a.local for a in answers] == [True] * 9 + [False] * 6
        ledger.give_back(answers[0])
        # and all of it charged in the store, but for what was given back
        network.heal()
        await ledger.flush()
        await ledger.flush()
        assert await charged(ledger) == pytest.approx((1 + 8, 0))
        await store.close()


async def test_a_server_that_forgot_the_script_gets_it_again(ledger):
    await granted(ledger, GROUP, Cost(1), [A])
    await ledger.store.client.script_flush()
    await granted(ledger, GROUP, Cost(1), [A])
    assert await charged(ledger) == (2, 0)


# ---- invalid numbers


async def test_no_number_damages_a_bucket_or_stops_the_batches(ledger):
    strange = [math.nan, math.inf, -math.inf, 1e308, -1e308, 2**70, -(2**70)]
    for number, limit in itertools.product(strange, [math.nan, math.inf, 30_000.0]):
        answer = await granted(ledger, GROUP, Cost(1, 10), [candidate("odd", daily(1_000))])
        observed = [Observed(Dimension.TPM, limit, number), Observed(Dimension.RPM, number, limit)]
        ledger.settle(answer, unused_tokens=number, cool_s=min(number, 0), observed=observed, event=Event.NOTHING)
        await ledger.flush()
        bucket = await bucket_of(ledger, "odd")
        numbers = [*bucket.kept, *bucket.corrected, *bucket.charged, *bucket.margin, bucket.lean, bucket.cool_until]
        assert all(n is None or math.isfinite(n) for n in numbers), (number, limit, bucket)
        await ledger.store.client.delete(bucket_key(ledger.prefix, "odd", GROUP))
    assert isinstance(await ledger.reserve(GROUP, Cost(1, 10**40), [A]), Refused)
    assert isinstance(await ledger.reserve(GROUP, Cost(1, 2**63), [A]), Refused)
    await granted(ledger, GROUP, Cost(1, 10), [A])


async def test_similar_names_have_buckets_of_their_own(ledger):
    await granted(ledger, "c", Cost(1, 10), [candidate("a:b", daily(1_000))])
    await granted(ledger, "b:c", Cost(1, 20), [candidate("a", daily(1_000))])
    await granted(ledger, "c", Cost(1, 40), [candidate("ä:b", daily(1_000))])
    _, buckets = await ledger.stored.all()
    assert {name: bucket.charged[1] for name, bucket in buckets.items()} == {
        ("a:b", "c"): 10,
        ("a", "b:c"): 20,
        ("ä:b", "c"): 40,
    }


async def test_an_upstream_that_claims_absurd_usage_puts_no_account_into_debt_forever(ledger):
    tpm = 30_000
    answer = await granted(ledger, GROUP, Cost(1, 10), [candidate("a", Limits(tpm=tpm))])
    ledger.settle(answer, unused_tokens=-(2**64))
    await ledger.flush()
    level = (await bucket_of(ledger)).level(1)
    assert level is not None
    assert -level / tpm * 60 < 86_400  # paid within a day


# ---- which accounts may be ready


async def test_a_refusal_names_accounts_that_were_no_candidates(ledger):
    once = candidate("once", daily(1))
    await granted(ledger, GROUP, Cost(1), [once])
    await granted(ledger, GROUP, Cost(1), [A])
    refused = await ledger.reserve(GROUP, Cost(1), [once])
    assert isinstance(refused, Refused)
    assert (refused.hints, refused.wait_s) == (("a",), 0)


async def test_a_refusal_tells_when_an_account_that_was_no_candidate_is_ready(ledger):
    once = candidate("once", daily(1))
    await granted(ledger, GROUP, Cost(1), [once])
    ledger.settle(await granted(ledger, GROUP, Cost(1), [A]), cool_s=5.0)
    refused = await ledger.reserve(GROUP, Cost(1), [once])
    assert isinstance(refused, Refused)
    assert refused.hints == ()
    assert refused.wait_s == pytest.approx(5, abs=0.5)
    cooling = await ledger.reserve(GROUP, Cost(1), [A])
    assert isinstance(cooling, Refused)
    assert cooling.wait_s == pytest.approx(5, abs=0.5)


async def test_an_account_that_has_left_the_pool_is_hinted_at_for_half_a_minute_at_most(ledger):
    once = candidate("once", daily(1))
    await granted(ledger, GROUP, Cost(1), [candidate("gone", DAILY)])
    await granted(ledger, GROUP, Cost(1), [once])
    await move_time(ledger, 31)
    refused = await ledger.reserve(GROUP, Cost(1), [once])
    assert isinstance(refused, Refused)
    assert refused.hints == ()
    assert refused.wait_s == pytest.approx(86_400 - 1.2 - 31, abs=2)


async def test_a_model_that_a_caller_invents_is_forgotten_in_ten_minutes(ledger):
    await granted(ledger, "invented", Cost(1), [candidate("a")])
    client = ledger.store.client
    lives = {key: await client.pttl(key) async for key in client.scan_iter("*invented*")}
    assert set(lives) == {f"{ledger.prefix}:b3:1:a:invented".encode(), f"{ledger.prefix}:next:invented".encode()}
    assert all(0 < ms <= 600_000 for ms in lives.values())


async def test_an_answer_that_has_come_is_kept_for_seconds_and_the_last_one_for_minutes(ledger):
    for _ in range(20):
        await granted(ledger, GROUP, Cost(1, 10), [A])
    await ledger.flush()
    client = ledger.store.client
    kept = sorted([await client.pttl(name) for name in await client.keys(f"{ledger.prefix}:batch:*")])
    assert len(kept) == 20
    assert kept[-2] <= 5_000 < kept[-1] <= 120_000


async def test_a_batch_that_comes_once_more_behind_the_next_one_is_not_done_again(ledger, monkeypatch):
    sent, real = [], ledger.store.evalsha_batch

    async def noted(*arguments: object, **options: object) -> bytes:
        sent.append(arguments)
        return await real(*arguments, **options)

    monkeypatch.setattr(ledger.store, "evalsha_batch", noted)
    for _ in range(2):
        await granted(ledger, GROUP, Cost(1, 10), [A])
    before = await charged(ledger)
    await real(*sent[0])  # its first copy was late on its way
    assert await charged(ledger) == before == (2, 20)


@pytest.mark.parametrize("junk", [b"", b"OK", b"\xc1", msgspec.msgpack.encode([1, "f:1", 1.0, []]), 7, None])
async def test_an_answer_that_is_no_answer_of_the_script_leaves_nobody_waiting(ledger, monkeypatch, junk):
    real = ledger.store.evalsha_batch

    async def something_else(*_: object, **__: object) -> object:
        return junk

    monkeypatch.setattr(ledger.store, "evalsha_batch", something_else)
    with pytest.raises(StoreUnavailable):
        await ledger.reserve(GROUP, Cost(1), [A])
    monkeypatch.setattr(ledger.store, "evalsha_batch", real)
    async with asyncio.timeout(5):
        while ledger.away:
            await asyncio.sleep(0.01)
    await granted(ledger, GROUP, Cost(1), [A])

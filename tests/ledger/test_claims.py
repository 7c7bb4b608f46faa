"""Claims on a real store: who waits in the queue gets an account's next room, in any replica; `leave` for others.

An account of 60,000 tokens a minute holds 58,800 at once (a breath of 1.2 s is kept back) and gains 1,000 a second.
"""

from __future__ import annotations

import time

import pytest
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Granted, Refused

from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on, move_time

GROUP = "gpt-4o"
LIMITS = Limits(rpm=100_000, tpm=60_000)
A, B = candidate("a", LIMITS), candidate("b", LIMITS)
FULL = 58_800


@pytest.fixture
async def ledgers(valkey_url):
    """Two replicas' ledgers on one marked store."""
    stores = [connect(valkey_url) for _ in range(2)]
    made = [ledger_on(store) for store in stores]
    await made[0].registry.begin_epoch(reseeded=False)
    for one in made:  # each knows the store's clock
        one.give_back(await granted(one, "another", Cost(1), [candidate("z", LIMITS)]))
        await one.flush()
    yield made
    for one, store in zip(made, stores, strict=True):
        await one.flush()
        await store.close()


async def emptied(ledger: Ledger, *candidates) -> None:
    for each in candidates:
        await granted(ledger, GROUP, Cost(1, FULL), [each])


async def stands(ledger: Ledger, owner: str, tokens: int, candidates, *, ago: float = 0.0) -> Refused:
    """`owner`, who came so many seconds `ago`, is refused."""
    answer = await ledger.reserve(GROUP, Cost(1, tokens), candidates, owner=owner, arrived=time.monotonic() - ago)
    assert isinstance(answer, Refused)
    return answer


async def claimed(ledger: Ledger, group: str = GROUP) -> set[str]:
    """The accounts somebody has a claim on."""
    return {name.decode() for name in await ledger.store.client.hkeys(f"{ledger.prefix}:claims:{group}")}


async def test_a_small_request_does_not_take_the_room_a_large_one_waits_for(ledgers):
    one, other = ledgers
    await emptied(one, A)
    assert (await stands(one, "large", 2_000, [A])).wait_s == pytest.approx(2, abs=0.1)
    await move_time(one, 0.5)  # 500 tokens are there, and the small one needs 100
    refused = await other.reserve(GROUP, Cost(1, 100), [A])
    assert isinstance(refused, Refused)
    assert refused.wait_s == pytest.approx(1 + 0.15 - 0.5, abs=0.1)  # by then the claim was renewed, or is over


async def test_the_one_that_came_earlier_takes_the_room_anyway(ledgers):
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "later", 2_000, [A], ago=1)
    await move_time(one, 0.5)
    earlier = time.monotonic() - 2
    assert isinstance(await other.reserve(GROUP, Cost(1, 100), [A], owner="e", arrived=earlier), Granted)


async def test_others_use_the_accounts_nobody_claims(ledgers):
    one, other = ledgers
    await emptied(one, A, B)
    await stands(one, "large", 50_000, [A])
    await move_time(one, 0.5)
    assert (await granted(other, GROUP, Cost(1, 100), [A, B])).candidate.account == "b"


async def test_two_who_wait_claim_two_accounts(ledgers):
    one, other = ledgers
    await emptied(one, A, B)
    await stands(one, "first", 2_000, [A, B], ago=2)
    await stands(other, "second", 2_000, [A, B], ago=1)
    assert await claimed(one) == {"a", "b"}
    await move_time(one, 0.5)
    assert isinstance(await one.reserve(GROUP, Cost(1, 100), [A, B]), Refused)


async def test_a_waiting_request_holds_one_claim_where_room_is_soonest(ledgers):
    one, _ = ledgers
    await emptied(one, A)
    await granted(one, GROUP, Cost(1, FULL - 1_800), [B])  # 0.2 s from 2,000
    await stands(one, "w", 2_000, [A])
    assert await claimed(one) == {"a"}
    await stands(one, "w", 2_000, [A, B])
    assert await claimed(one) == {"b"}


async def test_a_grant_ends_every_claim_of_the_one_who_got_it(ledgers):
    """Given one who claimed account a, and is then served by b, I expect a to be free at once."""
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "w", 2_000, [A])
    await granted(one, GROUP, Cost(1, 2_000), [A, B], owner="w")
    assert await claimed(one) == set()
    await move_time(one, 0.5)
    assert isinstance(await other.reserve(GROUP, Cost(1, 100), [A]), Granted)


async def test_leaving_the_queue_frees_the_claim_at_once(ledgers):
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "large", 2_000, [A])
    await move_time(one, 0.5)
    one.release(GROUP, "large")
    await one.flush()
    assert isinstance(await other.reserve(GROUP, Cost(1, 100), [A]), Granted)


async def test_only_ones_own_claims_are_released(ledgers):
    """The waiters of two replicas may have the same number."""
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "7", 2_000, [A])
    other.release(GROUP, "7")
    one.release("another", "7")
    one.release(GROUP, "8")
    await other.flush()
    await one.flush()
    assert await claimed(one) == {"a"}


async def test_the_claim_of_a_replica_that_was_killed_is_over_in_little_more_than_a_second(ledgers):
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "large", 30_000, [A])  # and never again
    await move_time(one, 1.0)
    assert isinstance(await other.reserve(GROUP, Cost(1, 100), [A]), Refused)
    await move_time(one, 0.2)
    assert isinstance(await other.reserve(GROUP, Cost(1, 100), [A]), Granted)
    assert await claimed(one) == set()


async def test_a_claim_is_no_longer_than_the_wait_it_is_for(ledgers):
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "w", 200, [A])  # 0.2 s, and 0.15 to come back
    await move_time(one, 0.36)
    assert isinstance(await other.reserve(GROUP, Cost(1, 100), [A]), Granted)


async def test_no_claim_is_kept_for_requests_that_do_not_wait(ledgers):
    one, other = ledgers
    await emptied(one, A)
    assert isinstance(await one.reserve(GROUP, Cost(1, 2_000), [A]), Refused)
    assert await claimed(one) == set()
    await stands(other, "never", 60_001, [A])  # more than the limit: no waiting helps
    assert await claimed(one) == set()


async def test_groups_have_claims_of_their_own(ledgers):
    one, other = ledgers
    await emptied(one, A)
    await stands(one, "w", 2_000, [A])
    assert isinstance(await other.reserve("gpt-4o-mini", Cost(1, 100), [A]), Granted)


async def test_claims_leave_the_store_by_themselves(ledgers):
    one, _ = ledgers
    await emptied(one, A)
    await stands(one, "w", 2_000, [A])
    assert 0 < await one.store.client.pttl(f"{one.prefix}:claims:{GROUP}") <= 5_000


# ---- what batch traffic leaves to others


async def test_a_share_stays_for_others(ledgers):
    """Given 57,800 tokens and a tenth of 58,800 to leave, I expect 51,920 to fit and one in 52,000 to wait 80 ms."""
    one, _ = ledgers
    await granted(one, GROUP, Cost(1, 1_000), [A])
    refused = await one.reserve(GROUP, Cost(1, 52_000), [A], leave=0.1)
    assert isinstance(refused, Refused)
    assert refused.dimension is Dimension.TPM
    assert refused.wait_s == pytest.approx(0.080, abs=0.03)
    assert isinstance(await one.reserve(GROUP, Cost(1, 51_900), [A], leave=0.1), Granted)
    assert isinstance(await one.reserve(GROUP, Cost(1, 5_900), [A]), Granted)  # the rest is for the others


async def test_a_batch_request_that_fits_only_a_full_bucket_is_slow_but_not_starved(ledgers):
    one, _ = ledgers
    await granted(one, GROUP, Cost(1, 1_000), [A])
    refused = await one.reserve(GROUP, Cost(1, 58_000), [A], leave=0.5)
    assert isinstance(refused, Refused)
    assert refused.wait_s == pytest.approx(1.0, abs=0.05)
    await move_time(one, 1.0)
    assert isinstance(await one.reserve(GROUP, Cost(1, 58_000), [A], leave=0.5), Granted)

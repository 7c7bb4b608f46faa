"""What is left of the pool's budgets, and what was really used between two readings: a real store in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.ledger.grants import Observed
from quotapool.observe.samples import Reading, Room
from quotapool.operators.overview import Overview
from quotapool.reports.room import RoomReader
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on

pytestmark = pytest.mark.usefixtures("virtual_time")
LIMITS = ((Dimension.RPM, 1_000.0), (Dimension.TPM, 60_000.0))  # 1,000 tokens a second


@pytest.fixture
async def ledger(valkey_url):
    store = connect(valkey_url)
    made = ledger_on(store)
    await made.registry.begin_epoch(reseeded=False)
    yield made
    await made.flush()
    await store.close()


@pytest.fixture
def overview(ledger) -> Overview:
    keys = [{"id": f"key-{n}", "account": f"a-{n}", "secret": f"sk-proj-secret-{n}"} for n in range(3)]
    return Overview(Settings.model_validate({"keys": keys}), ledger)


async def use(ledger, account: str, tokens: int, used: int, *, back: bool = False) -> None:
    """One request that reserves `tokens` and uses some of them."""
    grant = await granted(ledger, "gpt", Cost(1, tokens), [candidate(account)])
    # Upstream corrects its estimates; of an account that it answers for the first time, nothing was used before.
    known = all(grant.learned.get(d, -1) >= 0 for d, _ in LIMITS)
    left = [Observed(d, most, grant.moments[d].corrected if known else most) for d, most in LIMITS]
    if back:
        ledger.give_back(grant)
    else:
        ledger.settle(grant, unused_tokens=tokens - used, observed=left)
    await ledger.flush()


def of(reading: Reading, dimension: str) -> Room:
    return next(room for room in reading.room if room.dimension == dimension)


async def test_the_sum_over_usable_accounts(ledger, overview):
    for n in range(3):
        await use(ledger, f"a-{n}", 10, 10)
    await ledger.registry.change_state(
        Subject.of_key("key-2"), Record(State.DISABLED, "operator", 0.0, by=OPERATOR), fingerprint=""
    )
    await overview.sync.refresh()
    reading = await RoomReader(overview).read()
    tpm = of(reading, "tpm")
    assert (tpm.model, tpm.limit, tpm.accounts, tpm.cooling, tpm.used) == ("gpt", 120_000, 2, 0, None)
    assert tpm.refill_per_minute == 120_000
    # A full bucket is 1.2 s of refill below the limit: 2 x 58,800.
    assert tpm.remaining == pytest.approx(117_600, rel=0.02)
    assert of(reading, "rpm").limit == 2_000
    assert reading.spans_s == 0.0


async def test_what_was_used_while_no_bucket_was_full_is_exact(ledger, overview):
    # Given buckets that are far from full, of an upstream that is known to correct its estimates
    for n in range(3):
        for tokens, used in ((10, 10), (20_000, 0), (10, 10), (30_000, 30_000)):
            await use(ledger, f"a-{n}", tokens, used)
            await asyncio.sleep(1)
    reader = RoomReader(overview)
    await reader.read()
    # When 3 requests use 5,000 of the 8,000 tokens that they reserved, and one was never sent
    for n in range(3):
        await use(ledger, f"a-{n}", 8_000, 5_000)
    await use(ledger, "a-0", 9_000, 0, back=True)
    await asyncio.sleep(5)
    reading = await reader.read()
    # then that is what was used, and not the refill of 3 x 5 s either
    assert reading.spans_s == pytest.approx(5, abs=0.1)
    assert of(reading, "rpm").used == pytest.approx(3)
    assert of(reading, "tpm").used == pytest.approx(15_000, rel=0.03)


async def test_refill_that_a_full_bucket_lost_does_not_count_as_used(ledger, overview):
    for n in range(3):
        await use(ledger, f"a-{n}", 10, 10)
    await asyncio.sleep(120)
    reader = RoomReader(overview)
    await reader.read()
    await use(ledger, "a-1", 2_000, 2_000)
    await asyncio.sleep(60)  # full again: 3 x 60 s of refill had no place
    reading = await reader.read()
    assert of(reading, "tpm").used == pytest.approx(2_000, rel=0.01)
    assert of(reading, "rpm").used == 1
    await asyncio.sleep(60)
    reading = await reader.read()
    assert of(reading, "tpm").used == pytest.approx(0, abs=1)


async def test_a_model_that_upstream_has_not_answered_for_is_no_room(ledger, overview):
    await granted(ledger, "invented", Cost(1, 10), [candidate("a-0")])
    assert (await RoomReader(overview).read()).room == []


async def test_an_account_that_waits_is_counted(ledger, overview):
    await use(ledger, "a-0", 10, 10)
    await use(ledger, "a-1", 10, 10)
    ledger.settle(await granted(ledger, "gpt", Cost(1, 10), [candidate("a-1")]), cool_s=30)
    await ledger.flush()
    reading = await RoomReader(overview).read()
    assert (of(reading, "tpm").accounts, of(reading, "tpm").cooling) == (2, 1)

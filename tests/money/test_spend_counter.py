"""The meter: what an attempt costs, how well that is known, and that nothing of it is lost on the way to the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime

import pytest
from quotapool.domain.quantities import NOTHING, Certainty, Details, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.money.rate_cards import PICO, CardSet, RateCard, Rule
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore, Spent
from quotapool.store.store import connect

from tests.fakes.store import wire
from tests.fakes.valkey import start_valkey, stop_valkey

DAY = date(2026, 11, 22)
NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
EXACT, AT_LEAST = Certainty.EXACT, Certainty.AT_LEAST
STANDARD = RateCard(input=5_000_000, cached_input=500_000, output=30_000_000)
PRIORITY = RateCard(input=12_500_000, cached_input=1_250_000, output=75_000_000)
CARDS = CardSet(
    "data 1",
    "2026-11-22",
    {},
    (Rule("equals", "gpt-5.5", "gpt-5.5"), Rule("equals", "tts-1", "tts-1")),
    {"gpt-5.5": {"default": STANDARD, "priority": PRIORITY}, "tts-1": {"default": RateCard(character=15_000_000)}},
)


class Counted:
    """A `Observer` that remembers."""

    def __init__(self) -> None:
        self.usd: Counter[tuple[str, str]] = Counter()
        self.requests: Counter[str] = Counter()

    def spent(self, account: str, kind: str, usd: float) -> None:
        self.usd[account, kind] += usd

    def unpriced(self, model: str, requests: int) -> None:
        self.requests[model] += requests


@pytest.fixture
async def book(valkey_url):
    store = connect(valkey_url, timeout_s=2.0)
    yield SpendStore(store, "test")
    await store.close()


@pytest.fixture
def meter(book):
    made = SpendCounter(book, Counted(), now=lambda: NOW)
    made.take_cards(CARDS)
    return made


def attempt(usage, model="gpt-5.5", *, status=200, tier="", estimate=0, outcome="ok", reason="", endpoint="chat"):
    leg = AttemptRecord("k1", "acme", 0.0, outcome, reason, status, usage=usage, tier=tier, prompt_estimate=estimate)
    return leg, RequestRecord("t", 0.0, "POST", client="backend", endpoint=endpoint, model=model)


async def booked(meter, book, dimension="pool"):
    assert await meter.flush()
    return (await book.totals(dimension, DAY, DAY)).get(DAY, {})


async def test_a_counted_answer_is_exact_by_the_tier_that_answered(meter, book):
    # Asked for `fast` and answered as `default`, a call costs what default costs: the leg carries what was answered.
    meter.note(*attempt(Usage(EXACT, 1000, 200, 0, tier="default"), tier="default"))
    meter.note(*attempt(Usage(EXACT, 1000, 100, 0, tier="priority"), tier="priority"))
    assert (await booked(meter, book))[""] == Spent(31 * PICO // 1000, 0, 0, 0, 2, 2000, 0, 300)
    assert set(await booked(meter, book, "model")) == {"gpt-5.5", "gpt-5.5 (priority)"}
    assert meter._observer.usd == {("acme", "exact"): pytest.approx(0.031)}


async def test_a_cut_stream_is_estimated_by_its_prompt_and_what_was_seen(meter, book):
    meter.note(*attempt(Usage(AT_LEAST, 0, 40), estimate=1000, outcome="cancelled"))
    # 1,000 x 5e-6 + 40 x 3e-5
    assert (await booked(meter, book))[""] == Spent(0, 62 * PICO // 10_000, 0, 0, 1, 1000, 0, 40)


@pytest.mark.parametrize(
    ("outcome", "reason", "costs"),
    [("cancelled", "", True), ("network", "timeout", True), ("network", "reset", False)],
)
async def test_a_request_without_an_answer_may_have_cost_its_prompt(meter, book, outcome, reason, costs):
    # A client that leaves, or our own patience at its end, does not stop upstream's work; a broken connection does.
    meter.note(*attempt(Usage(AT_LEAST), status=0, estimate=1000, outcome=outcome, reason=reason))
    pool = await booked(meter, book)
    assert (pool[""].estimated if pool else 0) == (5 * PICO // 1000 if costs else 0)


async def test_what_upstream_did_no_work_for_costs_nothing(meter, book):
    meter.note(*attempt(NOTHING))
    meter.note(*attempt(None))
    meter.note(*attempt(Usage(AT_LEAST), status=503, estimate=1000, outcome="service"))
    meter.note(*attempt(Usage(AT_LEAST), model="", endpoint="files"))
    meter.note(*attempt(Usage(AT_LEAST), endpoint="fine_tuning"))
    assert await booked(meter, book) == {}


@pytest.mark.parametrize(
    ("model", "tier", "usage", "endpoint"),
    [
        ("gpt-99", "", Usage(EXACT, 100, 10), "chat"),
        ("gpt-5.5", "scale", Usage(EXACT, 100, 10), "chat"),  # not charged as standard
        ("gpt-5.5", "", Usage(EXACT, 100, 10, details=Details(audio_completion=5)), "chat"),
        ("dall-e-3", "", Usage(AT_LEAST), "images"),  # upstream tells no usage, and bills
        ("", "", Usage(AT_LEAST), "audio"),
    ],
)
async def test_what_has_no_known_price_is_counted_and_named_never_free(meter, book, model, tier, usage, endpoint):
    meter.note(*attempt(usage, model, tier=tier, endpoint=endpoint))
    ((name, spent),) = (await booked(meter, book, "model")).items()
    assert (spent.unpriced_requests, spent.total, spent.prompt_tokens) == (1, 0, usage.prompt)
    assert name == {"": "unnamed", "gpt-5.5": f"gpt-5.5 ({tier})" if tier else "gpt-5.5"}.get(model, model)
    assert meter._observer.requests.total() == 1


async def test_speech_is_billed_by_its_characters(meter, book):
    meter.note(*attempt(Usage(EXACT, details=Details(characters=1000)), "tts-1", endpoint="audio"))
    assert (await booked(meter, book))[""].exact == 15 * PICO // 1000


async def test_a_snapshot_that_the_data_does_not_name_is_an_estimate(meter, book):
    meter.note(*attempt(Usage(EXACT, 1000, 200), "gpt-5.5-2027-01-01"))
    assert (await booked(meter, book))[""].estimated == 11 * PICO // 1000


async def test_callers_cannot_invent_names_into_the_book(meter, book):
    # Given names that upstream never answered for, tiers that nobody has, and more names than any pool uses
    for n in range(50):
        meter.note(*attempt(Usage(AT_LEAST), f"invented-{n}", status=0, estimate=4, outcome="cancelled"))
        meter.note(*attempt(Usage(EXACT, 1, tier=f"tier-{n}"), tier=f"tier-{n}"))
    assert set(await booked(meter, book, "model")) == {"other", "gpt-5.5 (other)"}
    for n in range(1200):
        meter.note(*attempt(Usage(EXACT, 1), f"look-alike-{n}"))
    assert len(await booked(meter, book, "model")) <= 1003


async def test_attempts_before_the_cards_came_are_priced_when_they_do(book):
    meter = SpendCounter(book, Counted(), now=lambda: NOW)
    meter.note(*attempt(Usage(EXACT, 1000, 200)))
    assert await booked(meter, book) == {}
    meter.take_cards(CARDS)
    assert (await booked(meter, book))[""].exact == 11 * PICO // 1000
    assert await book.versions(DAY, DAY) == ["data 1"]


async def test_without_cards_at_the_end_requests_count_as_unpriced(book):
    meter = SpendCounter(book, Counted(), now=lambda: NOW)
    meter.note(*attempt(Usage(EXACT, 1000, 200)))
    await meter.close()
    assert (await book.totals("pool", DAY, DAY))[DAY][""].unpriced_requests == 1


async def test_new_cards_price_what_ends_after_them(meter, book):
    meter.note(*attempt(Usage(EXACT, 1000)))
    meter.take_cards(CardSet("data 2", "", {}, CARDS.rules, {"gpt-5.5": {"default": RateCard(input=1_000_000)}}))
    meter.note(*attempt(Usage(EXACT, 1000)))
    assert (await booked(meter, book))[""].exact == 6 * PICO // 1000


async def test_nothing_is_lost_or_counted_twice_while_the_store_is_away(tmp_path):
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    process, url = start_valkey(tmp_path, *keep)
    store = connect(url, timeout_s=0.5)
    book = SpendStore(store, "test")
    meter = SpendCounter(book, Counted(), now=lambda: NOW)
    meter.take_cards(CARDS)
    meter.note(*attempt(Usage(EXACT, 1000, 200)))
    assert await meter.flush()
    stop_valkey(process)
    for _ in range(3):
        meter.note(*attempt(Usage(EXACT, 1000, 200)))
        assert not await meter.flush()
    process, _ = start_valkey(tmp_path, *keep)
    await meter.close()
    assert (await book.totals("pool", DAY, DAY))[DAY][""] == Spent(44 * PICO // 1000, 0, 0, 0, 4, 4000, 0, 800)
    await store.close()
    stop_valkey(process)


async def test_a_batch_whose_answer_was_lost_is_sent_again_under_its_name(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url, timeout_s=2.0)
        book = SpendStore(store, "test")
        meter = SpendCounter(book, Counted(), now=lambda: NOW)
        meter.take_cards(CARDS)
        meter.note(*attempt(Usage(EXACT, 1000, 200)))
        assert await meter.flush()  # the server knows the script
        # Given a store that takes the batch, while its answer does not arrive
        network.lose(1, only=lambda command: b"EVALSHA" in command)
        meter.note(*attempt(Usage(EXACT, 1000, 200)))
        assert not await meter.flush()
        assert len(network.lost) == 1
        meter.note(*attempt(Usage(EXACT, 1000, 200)))
        assert await meter.flush()
        # I expect it counted once
        assert (await book.totals("pool", DAY, DAY))[DAY][""].requests == 3
        await store.close()


def attempts_of(keys: int):
    for n in range(keys):
        leg, trip = attempt(Usage(EXACT, 1000, 200))
        leg.account = leg.key = f"k{n}"
        yield leg, trip


async def test_thousands_of_keys_hold_up_neither_the_store_nor_the_requests(meter, book, monkeypatch):
    """Given 2,500 keys with spend to book, I expect script calls of no more than a millisecond's work each (150 rows of
    some microseconds a field), and that another task of the worker has its turn between slices of the sums."""
    rows, turns, send = [], 0, book.send

    async def counted(sheet, batch):
        rows.append(len(sheet))
        return await send(sheet, batch)

    async def another():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(book, "send", counted)
    for leg, trip in attempts_of(2_500):
        meter.note(leg, trip)
    neighbour = asyncio.create_task(another())
    assert len(await booked(meter, book, "account")) == 2_500
    neighbour.cancel()
    assert max(rows) <= 150
    assert sum(rows) == 2 * 2_500 + 3  # accounts and keys; one model, client and pool
    assert turns >= 25
    assert (await booked(meter, book))[""].exact == 2_500 * 11 * PICO // 1000


async def test_cards_that_come_amid_the_folding_take_no_row_twice(meter, book):
    for leg, trip in attempts_of(1_000):
        meter.note(leg, trip)
    flushing = asyncio.create_task(meter.flush())
    await asyncio.sleep(0)
    meter.take_cards(CARDS)
    assert await flushing
    assert (await booked(meter, book))[""].requests == 1_000


async def test_memory_is_bounded_by_names_not_by_the_length_of_an_outage(tmp_path):
    process, url = start_valkey(tmp_path)
    stop_valkey(process)
    store = connect(url, timeout_s=0.5)
    meter = SpendCounter(SpendStore(store, "test"), Counted(), now=lambda: NOW)
    meter.take_cards(CARDS)
    for _ in range(50):
        for _ in range(20):
            meter.note(*attempt(Usage(EXACT, 1000, 200)))
        await meter.flush()
    assert len(meter._waiting) == 5
    assert meter._waiting.total + meter._flying[1].total == 1000 * 11 * PICO // 1000
    await store.close()

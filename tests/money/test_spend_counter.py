"""Counting spend: what an attempt costs, how exactly that is known, and that none of it is lost before it is stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime

import pytest
from quotapool.domain.quantities import NOTHING, Certainty, Details, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.wallet import PICO
from quotapool.money.prices import compile_cards
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.money.rollups import MINUTE
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore
from quotapool.money.spent import Spent

from tests.fakes.connect import connect
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
async def spend(valkey_url):
    store = connect(valkey_url)
    yield SpendStore(store, "test")
    await store.close()


@pytest.fixture
def counter(spend):
    made = SpendCounter(spend, Counted(), now=lambda: NOW)
    made.take_cards(CARDS)
    return made


def attempt(usage, model="gpt-5.5", *, status=200, tier="", estimate=0, outcome="ok", reason="", endpoint="chat"):
    made = AttemptRecord("k1", "acme", 0.0, outcome, reason, status, usage=usage, tier=tier, prompt_estimate=estimate)
    return made, RequestRecord("t", 0.0, "POST", client="backend", endpoint=endpoint, model=model)


async def stored(counter, spend, dimension="pool"):
    assert await counter.flush()
    return (await spend.totals(dimension, DAY, DAY)).get(DAY, {})


async def test_a_counted_answer_is_exact_by_the_tier_that_answered(counter, spend):
    # Asked for `fast` and answered as `default`, a call costs what default costs: the attempt has the answer's tier.
    counter.count(*attempt(Usage(EXACT, 1000, 200, 0, tier="default"), tier="default"))
    counter.count(*attempt(Usage(EXACT, 1000, 100, 0, tier="priority"), tier="priority"))
    assert (await stored(counter, spend))[""] == Spent(31 * PICO // 1000, 0, 0, 0, 2, 2000, 0, 300)
    assert set(await stored(counter, spend, "model")) == {"gpt-5.5", "gpt-5.5 (priority)"}
    assert counter._observer.usd == {("acme", "exact"): pytest.approx(0.031)}


async def test_a_cut_stream_is_estimated_by_its_prompt_and_what_was_seen(counter, spend):
    counter.count(*attempt(Usage(AT_LEAST, 0, 40), estimate=1000, outcome="cancelled"))
    # 1,000 x 5e-6 + 40 x 3e-5
    assert (await stored(counter, spend))[""] == Spent(0, 62 * PICO // 10_000, 0, 0, 1, 1000, 0, 40)


@pytest.mark.parametrize(
    ("outcome", "reason", "costs"),
    [("cancelled", "", True), ("network", "timeout", True), ("network", "reset", False)],
)
async def test_a_request_without_an_answer_may_have_cost_its_prompt(counter, spend, outcome, reason, costs):
    # A client that leaves, or our own timeout, does not stop upstream's work; a broken connection does.
    counter.count(*attempt(Usage(AT_LEAST), status=0, estimate=1000, outcome=outcome, reason=reason))
    pool = await stored(counter, spend)
    assert (pool[""].estimated if pool else 0) == (5 * PICO // 1000 if costs else 0)


async def test_what_upstream_did_no_work_for_costs_nothing(counter, spend):
    counter.count(*attempt(NOTHING))
    counter.count(*attempt(None))
    counter.count(*attempt(Usage(AT_LEAST), status=503, estimate=1000, outcome="service"))
    counter.count(*attempt(Usage(AT_LEAST), model="", endpoint="files"))
    counter.count(*attempt(Usage(AT_LEAST), endpoint="fine_tuning"))
    assert await stored(counter, spend) == {}


@pytest.mark.parametrize(
    ("model", "tier", "usage", "endpoint"),
    [
        ("gpt-99", "", Usage(EXACT, 100, 10), "chat"),
        ("gpt-5.5", "scale", Usage(EXACT, 100, 10), "chat"),  # not charged as standard
        ("gpt-5.5", "", Usage(EXACT, 100, 10, details=Details(audio_completion=5)), "chat"),
        ("dall-e-3", "", Usage(AT_LEAST), "images"),  # upstream reports no usage, and bills
        ("", "", Usage(AT_LEAST), "audio"),
    ],
)
async def test_what_has_no_known_price_is_counted_and_named_never_free(counter, spend, model, tier, usage, endpoint):
    counter.count(*attempt(usage, model, tier=tier, endpoint=endpoint))
    ((name, spent),) = (await stored(counter, spend, "model")).items()
    assert (spent.unpriced_requests, spent.total, spent.prompt_tokens) == (1, 0, usage.prompt)
    assert name == {"": "unnamed", "gpt-5.5": f"gpt-5.5 ({tier})" if tier else "gpt-5.5"}.get(model, model)
    assert counter._observer.requests.total() == 1


async def test_speech_is_billed_by_its_characters(counter, spend):
    counter.count(*attempt(Usage(EXACT, details=Details(characters=1000)), "tts-1", endpoint="audio"))
    assert (await stored(counter, spend))[""].exact == 15 * PICO // 1000


async def test_a_snapshot_that_the_data_does_not_name_is_an_estimate(counter, spend):
    counter.count(*attempt(Usage(EXACT, 1000, 200), "gpt-5.5-2027-01-01"))
    assert (await stored(counter, spend))[""].estimated == 11 * PICO // 1000


async def test_names_that_callers_invent_are_not_stored(counter, spend):
    # Given names that upstream never answered for, tiers that nobody has, and more names than any pool uses
    for n in range(50):
        counter.count(*attempt(Usage(AT_LEAST), f"invented-{n}", status=0, estimate=4, outcome="cancelled"))
        counter.count(*attempt(Usage(EXACT, 1, tier=f"tier-{n}"), tier=f"tier-{n}"))
    assert set(await stored(counter, spend, "model")) == {"other", "gpt-5.5 (other)"}
    for n in range(1200):
        counter.count(*attempt(Usage(EXACT, 1), f"look-alike-{n}"))
    assert len(await stored(counter, spend, "model")) <= 1003


async def test_attempts_before_the_cards_came_are_priced_when_they_do(spend):
    counter = SpendCounter(spend, Counted(), now=lambda: NOW)
    counter.count(*attempt(Usage(EXACT, 1000, 200)))
    assert await stored(counter, spend) == {}
    counter.take_cards(CARDS)
    assert (await stored(counter, spend))[""].exact == 11 * PICO // 1000
    assert await spend.versions(DAY, DAY) == ["data 1"]


async def test_without_cards_at_the_end_requests_count_as_unpriced(spend):
    counter = SpendCounter(spend, Counted(), now=lambda: NOW)
    counter.count(*attempt(Usage(EXACT, 1000, 200)))
    await counter.close()
    assert (await spend.totals("pool", DAY, DAY))[DAY][""].unpriced_requests == 1


async def test_new_cards_price_what_ends_after_them(counter, spend):
    counter.count(*attempt(Usage(EXACT, 1000)))
    counter.take_cards(CardSet("data 2", "", {}, CARDS.rules, {"gpt-5.5": {"default": RateCard(input=1_000_000)}}))
    counter.count(*attempt(Usage(EXACT, 1000)))
    assert (await stored(counter, spend))[""].exact == 6 * PICO // 1000


async def test_nothing_is_lost_or_counted_twice_while_the_store_is_away(tmp_path):
    keep = ("--appendonly", "yes", "--appendfsync", "always")
    process, url = start_valkey(tmp_path, *keep)
    store = connect(url)
    spend = SpendStore(store, "test")
    counter = SpendCounter(spend, Counted(), now=lambda: NOW)
    counter.take_cards(CARDS)
    counter.count(*attempt(Usage(EXACT, 1000, 200)))
    assert await counter.flush()
    stop_valkey(process)
    for _ in range(3):
        counter.count(*attempt(Usage(EXACT, 1000, 200)))
        assert not await counter.flush()
    process, _ = start_valkey(tmp_path, *keep)
    await counter.close()
    assert (await spend.totals("pool", DAY, DAY))[DAY][""] == Spent(44 * PICO // 1000, 0, 0, 0, 4, 4000, 0, 800)
    await store.close()
    stop_valkey(process)


async def test_a_batch_whose_answer_was_lost_is_sent_again_under_its_name(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        book = SpendStore(store, "test")
        meter = SpendCounter(book, Counted(), now=lambda: NOW)
        meter.take_cards(CARDS)
        meter.count(*attempt(Usage(EXACT, 1000, 200)))
        assert await meter.flush()  # the server knows the script
        # Given a store that takes the batch, while its answer does not arrive
        network.lose(1, only=lambda command: b"EVALSHA" in command)
        meter.count(*attempt(Usage(EXACT, 1000, 200)))
        assert not await meter.flush()
        assert len(network.lost) == 1
        meter.count(*attempt(Usage(EXACT, 1000, 200)))
        assert await meter.flush()
        # I expect it counted once
        assert (await book.totals("pool", DAY, DAY))[DAY][""].requests == 3
        await store.close()


def attempts_of(keys: int):
    for n in range(keys):
        made, record = attempt(Usage(EXACT, 1000, 200))
        made.account = made.key = f"k{n}"
        yield made, record


async def test_thousands_of_keys_hold_up_neither_the_store_nor_the_requests(counter, spend, monkeypatch):
    """Given 2,500 keys with spend, I expect script calls of no more than a millisecond's work each (60 rows of some
    microseconds a field), and that another task of the worker has its turn between slices of the sums."""
    rows, turns, send = [], 0, spend.send

    async def counted(batch, batch_id):
        rows.append(len(batch))
        return await send(batch, batch_id)

    async def another():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(spend, "send", counted)
    for made, record in attempts_of(2_500):
        counter.count(made, record)
    neighbour = asyncio.create_task(another())
    assert len(await stored(counter, spend, "account")) == 2_500
    neighbour.cancel()
    assert max(rows) <= 60
    # In the day: accounts and keys; one model, client and pool. In its minute, hour and day: keys, and one client.
    assert sum(rows) == 2 * 2_500 + 3 + 3 * (2_500 + 1)
    assert turns >= 25
    assert (await stored(counter, spend))[""].exact == 2_500 * 11 * PICO // 1000


async def test_cards_that_come_during_folding_count_no_row_twice(counter, spend):
    for made, record in attempts_of(1_000):
        counter.count(made, record)
    flushing = asyncio.create_task(counter.flush())
    await asyncio.sleep(0)
    counter.take_cards(CARDS)
    assert await flushing
    assert (await stored(counter, spend))[""].requests == 1_000


async def test_memory_is_bounded_by_names_not_by_the_length_of_an_outage(tmp_path):
    process, url = start_valkey(tmp_path)
    stop_valkey(process)
    store = connect(url)
    counter = SpendCounter(SpendStore(store, "test"), Counted(), now=lambda: NOW)
    counter.take_cards(CARDS)
    for _ in range(50):
        for _ in range(20):
            counter.count(*attempt(Usage(EXACT, 1000, 200)))
        await counter.flush()
    assert len(counter._unsent) == 5 + 3 * 2
    assert counter._unsent.total + counter._in_flight[1].total == 1000 * 11 * PICO // 1000
    await store.close()


async def test_refusals_are_counted_by_client_code_and_rules(counter, spend):
    for client, code, rules in (
        ("web", "client_limit", ("rpm",)),
        ("web", "client_limit", ("rpm",)),
        ("web", "client_limit", ("rpm", "usd/month")),
        ("web", "queue_full", ()),
        ("", "invalid_client_key", ()),
    ):
        counter.refused(RequestRecord("t", 0.0, client=client, code=code, rules=rules))
    assert await counter.flush()
    found = [rows async for _, rows in spend.used("refusal", [(MINUTE, NOW)])]
    assert [{name: spent.requests for name, spent in rows.items()} for rows in found] == [
        {
            ("web", "client_limit rpm"): 2,
            ("web", "client_limit rpm+usd/month"): 1,
            ("web", "queue_full"): 1,
            ("", "invalid_client_key"): 1,
        }
    ]
    assert counter._refused == {}


async def test_ten_drawings_by_a_tool_cost_what_two_models_cost(spend):
    """At the price data's prices, USD a million tokens: gpt-image-2 5 in and 30 out, gpt-5.4 2.50 in and 15 out.
    10 x (27 x 5 + 7,024 x 30 + 146 x 2.5 + 51 x 15) / 1,000,000 = 2.10855 + 0.0113 = 2.11985."""
    counter = SpendCounter(spend, Counted(), now=lambda: NOW)
    counter.take_cards(compile_cards(DAY))
    drawn = Usage(EXACT, 27, 7024, details=Details(image_completion=7024))
    for _ in range(10):
        counter.count(*attempt(Usage(EXACT, 146, 51, by_tools=(("gpt-image-2", drawn),)), "gpt-5.4"))
    by_model = await stored(counter, spend, "model")
    assert by_model["gpt-image-2"] == Spent(210_855 * PICO // 100_000, 0, 0, 0, 0, 270, 0, 70_240)
    assert by_model["gpt-5.4"] == Spent(113 * PICO // 10_000, 0, 0, 0, 10, 1460, 0, 510)
    for dimension, name in (("pool", ""), ("client", "backend"), ("account", "acme"), ("key", "k1")):
        whole = (await stored(counter, spend, dimension))[name]
        assert (whole.exact, whole.requests) == (211_985 * PICO // 100_000, 10)  # ten requests, not twenty


async def test_a_tool_whose_model_is_unknown_is_counted_and_named_never_free(counter, spend):
    drawn = Usage(EXACT, 27, 7024)
    counter.count(*attempt(Usage(EXACT, 1000, 200, by_tools=(("", drawn), ("gpt-image-99", drawn)))))
    by_model = await stored(counter, spend, "model")
    assert {name: (s.unpriced_requests, s.requests, s.completion_tokens) for name, s in by_model.items()} == {
        "gpt-5.5": (0, 1, 200), "unnamed": (1, 0, 7024), "gpt-image-99": (1, 0, 7024),
    }  # fmt: skip


async def test_web_searches_cost_their_fee_where_the_price_data_knows_it(counter, spend):
    counter.count(*attempt(Usage(EXACT, 1000, 200, details=Details(web_searches=3))))
    assert (await stored(counter, spend))[""].exact == 11 * PICO // 1000  # these cards know none
    counter.take_cards(compile_cards(DAY))
    counter.count(*attempt(Usage(EXACT, 146, 51, details=Details(web_searches=3)), "gpt-5.4"))
    # 146 x 2.5e-6 + 51 x 15e-6 + 3 x 10 / 1,000
    assert (await stored(counter, spend, "model"))["gpt-5.4"].exact == 3113 * PICO // 100_000


async def test_a_record_knows_what_its_attempts_cost_together(counter):
    first, record = attempt(Usage(EXACT, 1000, 200))
    counter.count(first, record)
    assert record.pico == 11 * PICO // 1000  # 1000 at $5 and 200 at $30 a million
    counter.count(attempt(Usage(EXACT, 1000, 0))[0], record)
    assert record.pico == 16 * PICO // 1000


async def test_a_record_without_a_known_price_says_so_and_one_without_work_costs_nothing(counter):
    unknown, record = attempt(Usage(EXACT, 1000, 200), model="my-own")
    counter.count(unknown, record)
    assert record.pico is None
    refused, record = attempt(NOTHING, status=429)
    counter.count(refused, record)
    assert record.pico == 0

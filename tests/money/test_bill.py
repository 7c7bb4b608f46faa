"""A recorded mix of answers becomes the bill that a person computes by hand, to the last picodollar."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.wallet import PICO
from quotapool.money.prices import compile_cards
from quotapool.money.question import question, since_day
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore
from quotapool.money.spent import Spent
from quotapool.money.usage_report import document, report
from quotapool.openai.sse import StreamRelay
from quotapool.openai.usage import read_usage

from tests.fakes.connect import connect

DAY = date(2026, 11, 22)
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)


class Nobody:
    def spent(self, account: str, kind: str, usd: float) -> None: ...

    def unpriced(self, model: str, requests: int) -> None: ...


def chat(prompt, completion, cached=0, **more) -> bytes:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
    }
    return json.dumps({"object": "chat.completion", "choices": [], "usage": usage, **more}).encode()


def responses(prompt, completion, reasoning, **more) -> bytes:
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }
    return json.dumps({"object": "response", "service_tier": "default", "usage": usage, "user": None, **more}).encode()


def streamed(*events, cut=False) -> Usage:
    relay = StreamRelay("chat")
    for event in events:
        relay.feed(b"data: " + json.dumps({"object": "chat.completion.chunk", **event}).encode() + b"\n\n")
    if not cut:
        relay.feed(b"data: [DONE]\n\n")
        relay.finish()
    return relay.usage


def said(word, **more):
    return {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}], **more}


TOLD = {"prompt_tokens": 300, "completion_tokens": 50, "total_tokens": 350}
# (model, what came back, what was asked, micro-dollars by hand, (input, cached, output, context) for the second source)
# gpt-5.5 costs, in USD a token, 5e-6 in, 5e-7 cached and 3e-5 out; flex half; priority 1.25e-5 and 7.5e-5;
# above 272,000 tokens 1e-5 and 4.5e-5. text-embedding-3-small costs 2e-8.
MIX = [
    ("gpt-5.5", read_usage(chat(1000, 200)), "", 11_000, (1000, 0, 200, {})),
    ("gpt-5.5-2026-04-23", read_usage(chat(2000, 100, 1536)), "", 6_088, (2000, 1536, 100, {})),
    ("gpt-5.5", streamed(said("Hi"), {"choices": [], "usage": TOLD}), "", 3_000, (300, 0, 50, {})),
    ("gpt-5.5", read_usage(responses(400, 150, 120)), "", 6_500, (400, 0, 150, {})),
    ("text-embedding-3-small", read_usage(b'{"usage":{"prompt_tokens":8000,"total_tokens":8000}}'), "", 160,
     (8000, 0, 0, {})),
    ("gpt-5.5", read_usage(chat(1000, 100, service_tier="priority")), "priority", 20_000,
     (1000, 0, 100, {"service_tier": "priority"})),
    ("gpt-5.5", read_usage(chat(1000, 100, service_tier="flex")), "flex", 4_000,
     (1000, 0, 100, {"service_tier": "flex"})),
    # Asked for fast, answered by the standard tier.
    ("gpt-5.5", read_usage(chat(1000, 100, service_tier="default")), "fast", 8_000, (1000, 0, 100, {})),
    ("gpt-5.5", read_usage(chat(300_000, 100)), "", 3_004_500, (300_000, 0, 100, {})),
]  # fmt: skip


def attempts(mix):
    for model, usage, asked, *_ in mix:
        attempt = AttemptRecord(
            "k1", "acme", 0.0, "ok", "", 200, usage=usage, tier=usage.tier or asked, prompt_estimate=1000
        )
        yield attempt, RequestRecord("t", 0.0, "POST", client="backend", endpoint="chat", model=model)


@pytest.fixture
async def spend(valkey_url):
    store = connect(valkey_url)
    yield SpendStore(store, "test")
    await store.close()


@pytest.fixture
def counter(spend):
    made = SpendCounter(spend, Nobody(), now=lambda: NOW)
    made.take_cards(compile_cards(DAY))
    return made


async def bill(spend, by):
    asked = question(by, DAY.isoformat(), DAY.isoformat(), None, zone="UTC", now=NOW)
    return await report(spend, asked, NOW)


async def test_the_bill_of_a_recorded_mix_is_the_one_computed_by_hand(counter, spend):
    for attempt, record in attempts(MIX):
        counter.count(attempt, record)
    assert await counter.flush()
    found = await bill(spend, "account")
    total = found.total.spent
    # 0.011 + 0.006088 + 0.003 + 0.0065 + 0.00016 + 0.02 + 0.004 + 0.008 + 3.0045
    assert total.exact == 3_063_248 * PICO // 10**6
    assert (total.estimated, total.unpriced_requests, total.requests) == (0, 0, 9)
    assert [row.names for row in found.rows] == [("acme",)]
    assert found.month.total == total.total
    assert document(found)["total"]["usd"] == 3.063248
    models = {row.names[0]: row.spent for row in (await bill(spend, "model")).rows}
    assert models["gpt-5.5 (priority)"].exact == 20_000 * PICO // 10**6
    assert models["gpt-5.5"].exact == (11_000 + 3_000 + 6_500 + 8_000 + 3_004_500) * PICO // 10**6


@pytest.mark.parametrize("call", MIX, ids=range(len(MIX)))
async def test_each_call_costs_what_the_price_package_says_itself(counter, spend, call):
    for attempt, record in attempts([call]):
        counter.count(attempt, record)
    await counter.flush()
    model, _, _, micro, (prompt, cached, completion, context) = call
    theirs = TheirUsage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
    price = calc_price(theirs, model, provider_id="openai", genai_request_timestamp=NOW, price_context=context)
    ours = (await bill(spend, "day")).total.spent.exact
    assert Decimal(ours) / PICO == price.total_price == Decimal(micro) / 10**6


async def test_a_cut_stream_is_on_the_bill_as_an_estimate_at_the_tier_its_chunks_named(counter, spend):
    cut = streamed(
        said("", service_tier="priority"), *(said("word", service_tier="priority") for _ in range(10)), cut=True
    )
    assert (cut.certainty, cut.completion, cut.tier) == (Certainty.AT_LEAST, 10, "priority")
    for attempt, record in attempts([("gpt-5.5", cut, "")]):
        counter.count(attempt, record)
    await counter.flush()
    # 1,000 tokens of prompt were reserved: 1,000 x 1.25e-5 + 10 x 7.5e-5
    assert (await bill(spend, "day")).total.spent == Spent(0, 13_250 * PICO // 10**6, 0, 0, 1, 1000, 0, 10)


async def test_models_without_a_price_are_named_in_the_report(counter, spend):
    for attempt, record in attempts([("gpt-99", read_usage(chat(10, 1)), ""), *MIX[:1]]):
        counter.count(attempt, record)
    await counter.flush()
    found = await bill(spend, "model")
    assert found.unpriced == ["gpt-99"]
    assert found.total.spent.prompt_tokens == 1010


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2026-11-01", date(2026, 11, 1)),
        ("7d", date(2026, 11, 16)),
        ("1d", DAY),
        ("month", date(2026, 11, 1)),
        ("yesterday", None),
        ("7", None),
        ("", None),
    ],
)
def test_since_is_a_day_a_number_of_days_or_the_month(text, day):
    assert since_day(text, DAY) == day

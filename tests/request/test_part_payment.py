"""What a client's budgets pay for an answer that upstream was not asked for.

Prices here are whole picodollars a token: 2 for the prompt, 5 for the answer.
"""

from __future__ import annotations

import contextlib
import json
import time

import msgspec
import pytest
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.money.price_list import PriceList
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.openai.endpoints import resolve
from quotapool.openai.refusal import Refusal
from quotapool.request.part_payment import PartPayment
from quotapool.request.read import read_client_request

from tests.fakes.edge import Client, chat_body
from tests.fakes.house import open_house
from tests.fakes.store import wire

KEY = "a-client-key-of-our-own"
CARD = RateCard(input=2, output=5)
PRICES = PriceList(CardSet("test", "", {}, (Rule("equals", "gpt-4o", "gpt-4o"),), {"gpt-4o": {"default": CARD}}))
SAVED = Saved(1, 10, 20, 120)  # a request, 10 and 20 tokens, 10 * 2 + 20 * 5 picodollars


def usd(picodollars: float, **more) -> dict[str, object]:
    return {"usd": picodollars * 1e-12, "per": "total", **more}


def tokens(count: int, **more) -> dict[str, object]:
    return {"tokens": count, "per": "total", **more}


class Payer:
    """The client `app` of a pool, which pays a part of what it is served without a call upstream."""

    def __init__(self, pool, part: float) -> None:
        self.pool = pool
        self.part = part
        self.payment = PartPayment(pool.paths.charging, pool.ledger.holds)
        self.record = RequestRecord("r", time.monotonic(), "POST", client="app")

    async def hold(self, saved: Saved | None, model: str = "gpt-4o", **more):
        """A prompt of 18 tokens as it is taken for, and an answer of at most 30."""
        document = json.loads(chat_body(model, messages=[{"role": "user", "content": "x" * 40}], **more))
        document["max_tokens"] = 30
        down = Client(json.dumps(document).encode(), key=KEY)
        endpoint = resolve("POST", down.target)
        request = await read_client_request(down, endpoint, self.pool.settings, self.pool.roster)
        return await self.payment.hold(request, self.record, self.part, saved)

    def settle(self, hold, saved: Saved | None) -> None:
        self.payment.settle(hold, self.part, saved)

    async def refused(self, saved: Saved | None, **more) -> Refusal:
        with pytest.raises(Refusal) as refusal:
            await self.hold(saved, **more)
        return refusal.value

    async def stored(self, rule: str, subject: str = "c/app") -> tuple[float, float]:
        """(used, held) as the store has them."""
        await self.pool.ledger.flush()
        counters, held = msgspec.msgpack.decode(
            await self.pool.store.client.get(f"{self.pool.ledger.prefix}:rules:{subject}")
        )
        held_now = sum(worker[2].get(rule, 0) for worker in held.values()) if held else 0
        return (counters or {}).get(rule, [0])[0], held_now


def options_of(*budgets, **client) -> dict[str, object]:
    return {"clients": [{"id": "app", "key": KEY, "budgets": list(budgets), **client}]}


@pytest.fixture
async def payer(open_pool):
    async def opened(part: float, *budgets, client=None, **options) -> Payer:
        pool = await open_pool({"a": 1}, **options_of(*budgets, **client or {}), **options)
        pool.prices = PRICES
        return Payer(pool, part)

    return opened


async def test_an_answer_from_the_cache_pays_its_part_of_each_budget(payer):
    app = await payer(0.5, usd(1000), tokens(1000), {"requests": 10, "per": "day"})
    hold = await app.hold(SAVED)
    assert await app.stored("usd/total") == (0, 60)
    app.settle(hold, SAVED)
    assert await app.stored("usd/total") == (60, 0)
    assert await app.stored("tokens/total") == (15, 0)
    assert await app.stored("requests/day") == (0.5, 0)
    assert app.pool.upstream.sent == []
    assert await app.pool.store.client.exists(f"{app.pool.ledger.prefix}:buckets") == 0


async def test_its_team_pays_with_it(payer):
    teams = {"all": {"budgets": [tokens(100)]}}
    app = await payer(1.0, client={"team": "all"}, teams=teams)
    app.settle(await app.hold(SAVED), SAVED)
    assert await app.stored("tokens/total", "t/all") == (30, 0)


async def test_limits_that_share_out_what_upstream_gives_are_not_charged(payer):
    limits = {"rpm": 1, "tpm": 1, "concurrent": 1}
    app = await payer(1.0, tokens(1000), client={"limits": limits})
    for _ in range(3):
        app.settle(await app.hold(SAVED), SAVED)
    assert await app.stored("tokens/total") == (90, 0)
    counters, _ = msgspec.msgpack.decode(await app.pool.store.client.get(f"{app.pool.ledger.prefix}:rules:c/app"))
    assert set(counters) == {"tokens/total"}


async def test_a_budget_without_room_refuses_and_says_how_much_is_used(payer):
    app = await payer(1.0, tokens(70))
    for _ in range(2):
        app.settle(await app.hold(SAVED), SAVED)
    await app.pool.ledger.flush()
    refusal = await app.refused(SAVED)
    assert (refusal.status, refusal.error.code) == (429, "client_budget_exhausted")
    assert refusal.rules == ("tokens/total",)
    body = json.loads(refusal.body())["error"]
    assert "70 tokens in total: 60 used, this request needs up to 30 tokens" in body["message"]
    assert dict(refusal.headers())[b"x-should-retry"] == b"false"
    assert app.record.waited_for.reason == "rules"
    assert [(rule.rule, rule.used, rule.needed) for rule in app.record.waited_for.rules] == [("tokens/total", 60, 30)]


async def test_a_shared_answer_holds_the_most_it_may_be_until_its_end(payer):
    app = await payer(0.5, tokens(60), usd(1000))
    first, second = await app.hold(None), await app.hold(None)
    # 18 tokens for the prompt and 30 for the answer; half of it, twice. Of 18 * 2 + 30 * 5 picodollars, too.
    assert await app.stored("tokens/total") == (0, 48)
    assert await app.stored("usd/total") == (0, 186)
    refusal = await app.refused(None)
    assert (refusal.error.code, dict(refusal.headers())[b"retry-after"]) == ("client_budget_exhausted", b"1")
    app.settle(first, SAVED)
    assert await app.stored("tokens/total") == (15, 24)
    # The other client left, or was never served
    app.settle(second, None)
    app.settle(second, SAVED)
    assert await app.stored("tokens/total") == (15, 0)
    assert await app.stored("usd/total") == (60, 0)


async def test_a_part_of_a_batch_of_items_is_no_request_of_its_own(payer):
    app = await payer(1.0, {"requests": 10, "per": "day"}, tokens(100))
    saved = Saved(0, 7, 0, 14)
    app.settle(await app.hold(saved), saved)
    assert await app.stored("requests/day") == (0, 0)
    assert await app.stored("tokens/total") == (7, 0)


async def test_budgets_about_other_models_pay_nothing(payer):
    app = await payer(1.0, tokens(100, models="gpt-5*"), tokens(100))
    app.settle(await app.hold(SAVED), SAVED)
    await app.pool.ledger.flush()
    counters, _ = msgspec.msgpack.decode(await app.pool.store.client.get(f"{app.pool.ledger.prefix}:rules:c/app"))
    assert {name: counter[0] for name, counter in counters.items()} == {"tokens/total": 30}


async def test_an_answer_without_a_known_price_pays_todays(payer):
    unpriced = Saved(1, 10, 20, None)
    app = await payer(0.5, usd(1000))
    app.settle(await app.hold(unpriced), unpriced)
    assert await app.stored("usd/total") == (60, 0)


async def test_a_model_without_a_price_is_refused_where_a_budget_in_dollars_must_hold(payer):
    app = await payer(0.5, usd(1000))
    refusal = await app.refused(Saved(1, 10, 20, None), model="gpt-made-up")
    assert (refusal.status, refusal.error.code) == (403, "client_model_unpriced")


async def test_a_soft_budget_serves_and_notes_what_went_beyond_it(payer):
    app = await payer(1.0, tokens(50, mode="soft"))
    beyond = []
    for _ in range(2):
        app.settle(await app.hold(SAVED), SAVED)
        await app.pool.ledger.flush()
        beyond.append(app.record.beyond)
    assert beyond == [(), ("tokens/total",)]


@pytest.fixture
async def cut_off(valkey_url, tmp_path):
    """Such a client in a pool whose store is away."""
    async with wire(valkey_url, tmp_path) as network, contextlib.AsyncExitStack() as stack:

        async def opened(part: float, *budgets) -> Payer:
            options = options_of(*budgets)
            house = open_house(network.url, {"a": 1}, store_patience=0.1, **options)
            app = Payer(await stack.enter_async_context(house), part)
            network.lose(0, "down")
            network.cut()
            return app

        yield opened
        network.heal()


@pytest.mark.parametrize(("part", "budgets"), [(0.0, [tokens(1)]), (1.0, [])], ids=["by default", "without budgets"])
async def test_where_nothing_is_paid_the_store_is_not_asked(cut_off, part, budgets):
    app = await cut_off(part, *budgets)
    assert await app.hold(SAVED) is None
    assert await app.hold(None) is None
    app.settle(None, SAVED)
    assert app.pool.recorder.store_losses == {}


async def test_a_store_that_is_away_is_told_as_elsewhere(cut_off):
    app = await cut_off(1.0, tokens(50))
    refusal = await app.refused(SAVED)
    assert (refusal.status, refusal.error.code) == (503, "store_unavailable")

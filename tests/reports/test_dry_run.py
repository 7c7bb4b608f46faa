"""What would happen to a request now: each verdict is compared with what the request path then really does."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.ledger.clients import ClientStore
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.money.spend_store import Entry, SpendStore
from quotapool.operators.overview import Overview
from quotapool.reports.dry_run import DryRuns
from quotapool.shapes.work import DryRun

from tests.fakes.edge import Client, chat_answer, error
from tests.fakes.house import House, open_house

KEY = "a-client-key-of-our-own"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1000}
APP = {"id": "app", "key": KEY}
TIGHT = {"limits": {"default": {"rpm": 1000, "tpm": 60_000}}}


async def nothing(_: House) -> None:
    """As the pool is after a start."""


def drained(*accounts: str) -> Callable[[House], Awaitable[None]]:
    async def drain(house: House) -> None:
        for account in accounts:
            await house.drain(account, 0)

    return drain


def out(state: State, reason: str, *accounts: str, by: str = "observed"):
    async def take_out(house: House) -> None:
        for account in accounts:
            record = Record(state, reason, 0.0, by=by)
            await house.ledger.registry.change_state(Subject.of_account(account), record, rest_s=60, fingerprint="")
        await house.sync.refresh()

    return take_out


async def cooled(house: House) -> None:
    house.upstream.next(error(429, "rate_limit_exceeded", "Rate limit reached", Retry_After="20"))
    await house.ask(Client(json.dumps(CHAT).encode(), more_headers=[PATIENCE]))


async def used_up(house: House) -> None:
    """The client's one request was answered with 1,500 tokens."""
    house.upstream.next(chat_answer(prompt=500, completion=1000))
    assert (await house.ask(Client(json.dumps(CHAT).encode(), key=KEY))).status == 200


async def suspended(house: House) -> None:
    await ClientStore(house.store, house.settings.pool).suspend("app", "a test")
    await house.sync.refresh()


async def rich_day(house: House) -> None:
    entry = Entry("a", "a1", "gpt-4o", "", "exact", pico=3 * 10**12)
    await SpendStore(house.store, house.settings.pool).add([entry])
    house.paths.daily_limit.spent_until = time.time() + 3_600  # as the supervisor tells the workers


PATIENCE = ("X-Quotapool-Max-Wait", "0")


@dataclass(frozen=True)
class Case:
    """`code`: what the path refuses the same request with; "": it is served. `waits`: it is refused only because the
    test's own request will not wait."""

    verdict: str
    code: str
    words: str
    prepare: Callable[[House], Awaitable[None]] = nothing
    body: dict[str, Any] = field(default_factory=lambda: CHAT)
    endpoint: str = "/v1/chat/completions"
    client: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    accounts: tuple[str, ...] = ("a",)


def of_client(**options: Any) -> dict[str, Any]:
    return {"clients": [{**APP, **options}]}


CASES = {
    "served": Case("served_now", "", "Account a has room"),
    "served by the one that has room": Case(
        "served_now", "", "Account b has room", drained("a"), options=TIGHT, accounts=("a", "b")
    ),
    # 1,000 tokens of 60,000 a minute come back in 1 s
    "waits for tokens": Case(
        "waits", "rate_limit_exceeded", "tokens per minute (tpm)", drained("a"), options=TIGHT
    ),
    "all cool down": Case("waits", "rate_limit_exceeded", "its cool-down to end", cooled),
    "waits for longer than it may": Case(
        "refused",
        "rate_limit_exceeded",
        "tokens per min (TPM)",
        drained("a"),
        options={**TIGHT, "queue": {"max_wait": "100ms"}},
    ),
    "no place in the queue": Case(
        "refused", "queue_full", "too many requests are already waiting", drained("a"),
        options={**TIGHT, "queue": {"max_waiting": 0}},
    ),
    "all disabled": Case(
        "refused", "pool_no_usable_keys", "No key in the pool is usable",
        out(State.DISABLED, "operator", "a", by=OPERATOR)
    ),
    "all without money": Case(
        "refused", "pool_credit_exhausted", "out of credit", out(State.QUARANTINED, "insufficient_quota", "a")
    ),
    "a spend limit": Case(
        "refused", "pool_spend_limit_reached", "a spend or usage limit",
        out(State.QUARANTINED, "project_spend_limit_exceeded", "a"),
    ),
    "one is out, the other serves": Case(
        "served_now", "", "Account b", out(State.REMOVED, "invalid_api_key", "a"), accounts=("a", "b")
    ),
    "more than any account may": Case(
        "refused", "request_too_large_for_pool", "more tokens than any account", body={**CHAT, "max_tokens": 70_000},
        options=TIGHT,
    ),
    "no model": Case("refused", "invalid_model", "model parameter", body={"messages": []}),
    "an endpoint that is never forwarded": Case(
        "refused", "path_not_allowed", "", endpoint="/v1/organization/costs", body={}
    ),
    "a path outside the API": Case("refused", "path_not_found", "", endpoint="/chat/completions"),
    "a model that its client may not use": Case(
        "refused", "model_not_allowed", "gpt-4o", client="app", options=of_client(models=["gpt-5*"])
    ),
    "its client's budget is spent": Case(
        "refused", "client_budget_exhausted", "client app may use", used_up, client="app",
        options=of_client(budgets=[{"tokens": 2000, "per": "day"}]),
    ),
    "its client's budget is soft": Case(
        "served_now", "", "Account a", used_up, client="app",
        options=of_client(budgets=[{"tokens": 2000, "per": "day", "mode": "soft"}]),
    ),
    # 1 request a minute: the next is there 60 s later
    "its client's rate is used": Case(
        "refused", "client_rate_limited", "1 requests a minute", used_up, client="app",
        options=of_client(limits={"rpm": 1})
    ),
    # 1,500 of 2,400 tokens a minute are used, and 1,000 are needed: 100 are missing, at 40 a second
    "waits for its client's rate": Case(
        "waits", "client_rate_limited", "tokens a minute", used_up, client="app",
        options=of_client(limits={"tpm": 2400})
    ),
    "its client has expired": Case(
        "refused", "client_expired", "2026-01-01", client="app", options=of_client(expires_on="2026-01-01")
    ),
    "its client is suspended": Case("refused", "client_suspended", "", suspended, client="app", options=of_client()),
    "an unknown client": Case("refused", "invalid_proxy_key", "no client nobody", client="nobody", options=of_client()),
    "a model without a price, and a budget in dollars": Case(
        "refused", "client_model_unpriced", "is not known", body={**CHAT, "model": "a-model-of-nobody"}, client="app",
        options=of_client(budgets=[{"usd": 5, "per": "month"}]),
    ),
    "a job, and a hard budget": Case(
        "refused", "client_cost_unseen", "hard budget", endpoint="/v1/batches", client="app",
        body={"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        options=of_client(budgets=[{"usd": 5, "per": "month"}]),
    ),
    "the pool's day is spent": Case(
        "refused", "pool_daily_limit_reached", "daily_limit_usd", rich_day, options={"spend": {"daily_limit_usd": 2}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_the_path_does_what_was_said(valkey_url, name):
    case = CASES[name]
    async with open_house(valkey_url, dict.fromkeys(case.accounts, 1), **case.options) as house:
        house.prices = PriceList(compile_cards(datetime.now(UTC).date()))
        await case.prepare(house)
        before = await stored(house)
        dry_runs = DryRuns(Overview(house.settings, house.ledger), house.store)
        said = await dry_runs.answer(DryRun(case.body, case.endpoint, case.client))
        assert await stored(house) == before  # nothing was reserved
        assert said.verdict == case.verdict, said
        assert case.words in said.cause

        sent = len(house.upstream.sent)
        key = KEY if case.client == "app" else "another-client-key-than-that" if case.client else ""
        headers = [("Content-Type", "application/json"), *([PATIENCE] if said.verdict == "waits" else [])]
        house.upstream.next(chat_answer())
        real = await house.ask(
            Client(json.dumps(case.body).encode(), target=case.endpoint, key=key, more_headers=headers)
        )
        if not case.code:
            assert real.status == 200
            assert house.accounts_asked[sent:] == [said.candidates[0].account]
            return
        answer = json.loads(real.got)["error"]
        assert answer["code"] == case.code
        assert len(house.upstream.sent) == sent
        if said.verdict == "waits":
            assert said.wait_s == pytest.approx(float(real.header("retry-after-ms")) / 1000, abs=1.0)


async def stored(house: House) -> dict[bytes, object]:
    """All that the store has, but for workers' signs of life."""
    client = house.store.client
    return {key: await client.dump(key) for key in sorted(await client.keys("*")) if b"replicas" not in key}


async def test_what_a_request_would_reserve_and_cost_is_told(valkey_url):
    """4o costs $2.50 a million tokens of prompt and $10 of answer: 5 letters are 1 token, its framing some more."""
    async with open_house(valkey_url, {"a": 2, "b": 1}, limits={"default": {"rpm": 1000, "tpm": 60_000}}) as house:
        await house.drain("a", 30_000)
        said = await DryRuns(Overview(house.settings, house.ledger), house.store).answer(DryRun(CHAT))
        assert (said.model, said.group, said.endpoint) == ("gpt-4o", "gpt-4o", "chat/completions")
        assert said.reserve == {"requests": 1.0, "tokens": 1000.0}
        assert said.usd_at_most == pytest.approx(1000 * 10e-6, rel=0.01)
        assert [(one.account, one.keys, one.why_not) for one in said.candidates] == [("b", 1, ""), ("a", 2, "")]
        assert said.candidates[1].room["tpm"] == pytest.approx(30_000, abs=2_000)


async def test_accounts_that_cannot_have_it_are_named_with_the_reason(valkey_url):
    async with open_house(valkey_url, {"a": 1, "b": 1, "c": 1}) as house:
        await out(State.QUARANTINED, "insufficient_quota", "b")(house)
        await out(State.REMOVED, "invalid_api_key", "c")(house)
        said = await DryRuns(Overview(house.settings, house.ledger), house.store).answer(DryRun(CHAT))
        assert [one.account for one in said.candidates] == ["a"]
        told = {one.account: (one.why_not.partition(";")[0], one.wait_s) for one in said.out}
        assert told["b"] == ("quarantined: insufficient_quota", pytest.approx(60, abs=5))
        assert told["c"] == ("removed: invalid_api_key", None)
        assert said.out_count == 2


async def test_the_rules_of_its_client_and_team_are_listed_with_what_is_used(valkey_url):
    options = {
        "clients": [{**APP, "team": "search", "limits": {"rpm": 60}}],
        "teams": {"search": {"budgets": [{"tokens": 1_000_000, "per": "month"}]}},
    }
    async with open_house(valkey_url, {"a": 1}, **options) as house:
        await used_up(house)
        said = await DryRuns(Overview(house.settings, house.ledger), house.store).answer(DryRun(CHAT, client="app"))
        assert said.rules == [
            "client app: 60 requests a minute; 1 requests used",
            "team search: 1,000,000 tokens a month; 1,500 tokens used",
        ]

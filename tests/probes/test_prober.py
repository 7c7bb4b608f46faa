"""Resting keys come back without traffic: by the cheapest call that proves it, one replica at a time, cheaply."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from quotapool.domain.states import OPERATOR, WALLET, Record, State
from quotapool.domain.verdict import Kind, Scope, Verdict
from quotapool.domain.wallet import PICO
from quotapool.ledger.grants import Candidate
from quotapool.money.spend_store import SpendStore
from quotapool.probes.calls import Calls
from quotapool.probes.prober import NotProbed, Prober
from quotapool.upstream.credentials import Credentials

from tests.fakes.connect import connect
from tests.fakes.edge import Reply, error, fails, says
from tests.fakes.house import House, Recorder, open_house
from tests.fakes.store import move_time

MODELS, EMBEDDINGS, CHAT = "/v1/models", "/v1/embeddings", "/v1/chat/completions"
EMBEDDED = says(200, {"object": "list", "data": [], "usage": {"prompt_tokens": 1, "total_tokens": 1}})
CHATTED = says(200, {"object": "chat.completion", "usage": {"prompt_tokens": 8, "completion_tokens": 1}})
NO_CREDIT = error(429, "credit_balance_exhausted", "You have no credits remaining.", "insufficient_quota")
LIMIT = error(429, "project_spend_limit_exceeded", "Other projects can continue", "insufficient_quota")
UNKNOWN_401 = error(401, None, "Invalid Authentication")
WRONG_KEY = error(401, "invalid_api_key", "Incorrect API key provided: sk-***.")
NOT_ALLOWED = error(403, "model_not_found", "Project `p` does not have access to model `text-embedding-3-small`")
NO_SCOPE = error(403, "missing_scope", "You have insufficient permissions. Missing scopes: model.request. Check")


def listing(*models: str) -> Reply:
    return says(200, {"object": "list", "data": [{"id": model, "object": "model"} for model in models]})


class Probes(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, str, str]] = []

    def probed(self, key: str, purpose: str, result: str) -> None:
        self.results.append((key, purpose, result))


class Bench:
    """A pool without traffic, and a prober beside it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.probes = Probes()
        self.calls = Calls(house.upstream, Credentials(house.secrets), lambda body: body)
        self.spend = SpendStore(house.store, house.settings.pool)
        self.prober = self.another()

    def another(self) -> Prober:
        h = self.house
        return Prober(h.settings, h.sync, h.ledger, self.calls, self.probes, spend=self.spend, rng=random.Random(1))

    async def rests(self, key: str, state: State, reason: str, scope: Scope = Scope.KEY, **fields) -> None:
        """As after upstream's refusal."""
        kind = {State.SUSPECT: Kind.SUSPECT, State.QUARANTINED: Kind.MONEY, State.REMOVED: Kind.DEAD}[state]
        await self.house.health.found(Verdict(kind, reason, scope), self.candidate(key), status=401, request_id="")

    def candidate(self, key: str) -> Candidate:
        return self.house.roster.candidate(self.house.roster.pool.keys[key], "gpt-4o")

    async def passes(self, seconds: float) -> None:
        """Time passes, and the prober probes what is due."""
        await move_time(self.house.ledger, seconds)
        await self.house.sync.refresh()
        await self.probe_due()

    async def probe_due(self) -> None:
        await self.prober.probe_due()
        await self.prober.wait_idle()
        await self.house.quiet()

    async def spent_usd(self) -> float:
        """The money set aside for this UTC day's probes and not returned."""
        return int(await self.house.store.client.get(self.prober._money_key) or 0) / PICO

    @property
    def targets(self) -> list[str]:
        return [sent.target for sent in self.house.upstream.sent]

    def state(self, key: str) -> str:
        return str(self.house.roster.pool.state_of(self.house.roster.pool.keys[key]))


@pytest.fixture
async def bench(valkey_url):
    async with contextlib.AsyncExitStack() as stack:

        async def make(keys=None, /, **options) -> Bench:
            return Bench(await stack.enter_async_context(open_house(valkey_url, keys or {"a": 1}, **options)))

        yield make


# ---- validity


async def test_a_suspect_that_may_list_models_is_active_again_at_no_cost(bench):
    pool = await bench()
    await pool.rests("a1", State.SUSPECT, "http_401")
    pool.house.upstream.otherwise = listing("gpt-4o")
    await pool.passes(20)  # not before its time
    assert pool.targets == []
    await pool.passes(25)
    assert pool.targets == [MODELS]
    assert pool.state("a1") == "active"
    assert pool.probes.results == [("a1", "validity", "well")]
    assert await pool.spent_usd() == 0


async def test_a_second_401_at_a_call_that_any_key_may_make_removes(bench):
    pool = await bench({"a": 2})
    await pool.rests("a1", State.SUSPECT, "http_401")
    pool.house.upstream.otherwise = UNKNOWN_401
    await pool.passes(45)
    assert (pool.state("a1"), pool.state("a2")) == ("removed", "active")
    assert pool.probes.results == [("a1", "validity", "removed")]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Reply(401, pieces=[b"<html>log in</html>"]), id="a login page"),
        pytest.param(Reply(200, pieces=[b"<html>log in</html>"]), id="a login page that says 200"),
        pytest.param(error(403, "unsupported_country_region_territory", "Country, region"), id="our country"),
        pytest.param(error(403, None, "Forbidden."), id="a 403 that nobody explains"),
        pytest.param(error(500, None, "The server had an error", "server_error"), id="a failing upstream"),
        pytest.param(fails("connect", sent=False), id="no connection"),
    ],
)
async def test_an_answer_that_confirms_nothing_removes_no_key_and_is_tried_more_slowly(bench, answer):
    pool = await bench()
    await pool.rests("a1", State.SUSPECT, "http_401")
    pool.house.upstream.otherwise = answer
    await pool.passes(45)
    assert pool.state("a1") == "suspect"
    before = (await pool.house.ledger.registry.records())["k/a1"]
    assert before.tries == 1
    assert 59 <= before.until - datetime.now(UTC).timestamp() <= 76  # twice the first rest, and what chance may add


async def test_a_restricted_key_that_may_not_infer_must_show_that_it_may(bench):
    pool = await bench()
    await pool.rests("a1", State.SUSPECT, "missing_scope_model_request")
    pool.house.upstream.next(NO_SCOPE)
    pool.house.upstream.otherwise = EMBEDDED
    await pool.passes(45)
    assert (pool.targets, pool.state("a1")) == ([EMBEDDINGS], "suspect")
    await pool.passes(90)
    assert (pool.targets, pool.state("a1")) == ([EMBEDDINGS, EMBEDDINGS], "active")


# ---- credit


async def test_a_topped_up_account_comes_back_with_all_its_keys_by_one_embedding_of_one_token(bench):
    pool = await bench({"a": 3})
    await pool.rests("a2", State.QUARANTINED, "credit_balance_exhausted", Scope.ACCOUNT)
    pool.house.upstream.next(NO_CREDIT)
    pool.house.upstream.otherwise = EMBEDDED
    await pool.passes(80)
    assert (pool.state("a1"), pool.targets) == ("quarantined", [EMBEDDINGS])
    assert json.loads(pool.house.upstream.sent[0].body) == {"model": "text-embedding-3-small", "input": "1"}
    await pool.passes(160)
    assert [pool.state(key) for key in ("a1", "a2", "a3")] == ["active"] * 3
    assert pool.targets == [EMBEDDINGS] * 2
    # One answer was paid for: at most 8 tokens at $0.02 a million. A refusal costs nothing.
    assert 0 < await pool.spent_usd() <= 8 * 0.02 / 1e6
    today = datetime.now(UTC).date()
    spent = (await pool.spend.totals("account", today, today + timedelta(days=1)))[today]["a"]
    assert 0 < spent.probes <= 160_000  # picodollars
    assert (spent.exact, spent.estimated) == (0, 0)
    # They have a row of their own: no client paid for it, and nobody is anonymous here.
    assert set((await pool.spend.totals("client", today, today + timedelta(days=1)))[today]) == {"(probes)"}


async def test_without_embeddings_one_chat_token_of_the_cheapest_listed_model_proves_credit(bench):
    pool = await bench()
    await pool.rests("a1", State.QUARANTINED, "insufficient_quota", Scope.ACCOUNT)
    pool.house.upstream.next(NOT_ALLOWED, listing("gpt-4o", "gpt-4o-mini", "whisper-1"), NO_CREDIT, CHATTED)
    await pool.passes(80)
    assert (pool.targets, pool.state("a1")) == ([EMBEDDINGS, MODELS, CHAT], "quarantined")
    payload = json.loads(pool.house.upstream.sent[2].body)
    assert (payload["model"], payload["max_completion_tokens"]) == ("gpt-4o-mini", 1)
    # and the model that works is remembered.
    await pool.passes(160)
    assert (pool.targets[3:], pool.state("a1")) == ([CHAT], "active")


async def test_no_probe_is_made_if_traffic_was_faster(bench):
    pool = await bench()
    await pool.rests("a1", State.QUARANTINED, "insufficient_quota", Scope.ACCOUNT)
    record = (await pool.house.ledger.registry.records())["a/a"]
    await move_time(pool.house.ledger, record.until - record.since + 1)
    await pool.house.sync.refresh()
    await pool.probe_due()  # traffic comes first
    assert pool.targets == []
    await pool.house.ask()
    await pool.probe_due()
    assert pool.targets == [CHAT]
    assert pool.probes.results == []


async def test_of_two_replicas_one_probes(bench):
    pool = await bench()
    other = pool.another()
    await pool.rests("a1", State.QUARANTINED, "insufficient_quota", Scope.ACCOUNT)
    pool.house.upstream.otherwise = NO_CREDIT
    await move_time(pool.house.ledger, 80)
    await pool.house.sync.refresh()
    await asyncio.gather(pool.prober.probe_due(), other.probe_due())
    await asyncio.gather(pool.prober.wait_idle(), other.wait_idle())
    assert pool.targets == [EMBEDDINGS]


async def test_one_account_of_an_organization_is_probed_for_all(bench):
    accounts = {name: {"organization": "acme"} for name in "abc"}
    pool = await bench({"a": 1, "b": 1, "c": 1}, accounts=accounts)
    await pool.rests("a1", State.QUARANTINED, "credit_balance_exhausted", Scope.ORGANIZATION)
    pool.house.upstream.otherwise = EMBEDDED
    await pool.passes(80)
    assert pool.targets == [EMBEDDINGS]
    assert [pool.state(key) for key in ("a1", "b1", "c1")] == ["active"] * 3


async def test_when_the_days_money_is_used_up_no_more_is_spent_but_free_calls_go_on(bench):
    pool = await bench({"a": 1, "b": 1}, probe_budget_usd=0)
    await pool.rests("a1", State.QUARANTINED, "insufficient_quota", Scope.ACCOUNT)
    await pool.rests("b1", State.SUSPECT, "http_401")
    pool.house.upstream.otherwise = listing("gpt-4o")
    await pool.passes(80)
    assert pool.targets == [MODELS]
    assert sorted(pool.probes.results) == [("a1", "credit", "too_dear"), ("b1", "validity", "well")]
    assert pool.state("a1") == "quarantined"
    # It is not reported each second.
    await pool.passes(5)
    assert len(pool.probes.results) == 2


async def test_probes_of_many_accounts_together_stay_below_the_days_money(bench):
    # Given room for three embeddings of 160,000 picodollars each
    pool = await bench(dict.fromkeys("abcdef", 1), probe_budget_usd=0.000_000_5)
    for name in "abcdef":
        await pool.rests(f"{name}1", State.QUARANTINED, "insufficient_quota", Scope.ACCOUNT)
    pool.house.upstream.otherwise = EMBEDDED
    await pool.passes(80)
    assert pool.targets == [EMBEDDINGS] * 3
    assert await pool.spent_usd() <= 0.000_000_5


async def test_a_monthly_limit_is_not_tried_before_the_months_turn(bench):
    pool = await bench()
    await pool.rests("a1", State.QUARANTINED, "project_spend_limit_exceeded", Scope.ACCOUNT)
    record = (await pool.house.ledger.registry.records())["a/a"]
    turn = (datetime.now(UTC).replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
    assert turn.timestamp() - 1 <= record.until <= turn.timestamp() + 602
    now = datetime.now(UTC).timestamp()
    if record.until - now > 120:
        await pool.passes(record.until - now - 60)
        assert pool.targets == []
    pool.house.upstream.otherwise = EMBEDDED
    await pool.passes(70)
    assert (pool.targets, pool.state("a1")) == ([EMBEDDINGS], "active")


@pytest.mark.parametrize("by", [OPERATOR, WALLET])
async def test_a_key_stopped_by_an_operator_or_for_its_wallet_is_not_probed(bench, by):
    pool = await bench()
    state = State.DISABLED if by == OPERATOR else State.QUARANTINED
    await pool.house.ledger.registry.change_state("k/a1", Record(state, "said", 0.0, by=by), by=by, fingerprint="")
    await pool.passes(86_400)
    assert pool.targets == []


# ---- an operator's probe


async def test_an_operators_probe_needs_no_waiting_and_brings_a_paying_key_back(bench):
    pool = await bench()
    await pool.rests("a1", State.QUARANTINED, "credit_balance_exhausted", Scope.ACCOUNT)
    pool.house.upstream.next(listing("gpt-4o"), EMBEDDED)
    verdict = await pool.prober.probe_now("a1")
    assert (verdict.kind, pool.state("a1")) == (Kind.OK, "active")
    assert pool.targets == [MODELS, EMBEDDINGS]


async def test_what_comes_back_by_an_operators_probe_has_the_event_of_whoever_asked_for_it(bench):
    pool = await bench()
    await pool.rests("a1", State.QUARANTINED, "credit_balance_exhausted", Scope.ACCOUNT)
    pool.house.upstream.next(listing("gpt-4o"), EMBEDDED)
    await pool.prober.probe_now("a1", actor="jane@example.com")
    registry = pool.house.ledger.registry
    events = await registry.store.client.xrevrange(f"{registry.prefix}:events", count=1)
    told = {name: events[0][1].get(name) for name in (b"field", b"to", b"by", b"actor")}
    assert told == {b"field": b"a/a", b"to": b"active", b"by": b"operator", b"actor": b"jane@example.com"}


async def test_an_operators_probe_reports_its_result_and_acts_on_it(bench):
    pool = await bench({"a": 2})
    pool.house.upstream.next(listing("gpt-4o"), LIMIT)
    verdict = await pool.prober.probe_now("a1")
    assert (verdict.kind, verdict.reason) == (Kind.MONEY, "project_spend_limit_exceeded")
    assert (pool.state("a1"), pool.state("a2")) == ("quarantined", "quarantined")
    pool.house.upstream.next(WRONG_KEY)
    verdict = await pool.prober.probe_now("a2")
    assert (verdict.kind, pool.state("a2")) == (Kind.DEAD, "removed")


async def test_of_many_probes_the_states_are_written_at_once_and_read_by_the_caller(bench):
    pool = await bench({"a": 1, "b": 1})
    await pool.rests("b1", State.QUARANTINED, "credit_balance_exhausted", Scope.ACCOUNT)
    pool.house.upstream.next(WRONG_KEY, listing("gpt-4o"), EMBEDDED)
    for key in ("a1", "b1"):
        await pool.prober.probe_now(key, refresh=False)
    assert {name: record.state for name, record in (await pool.house.states()).items()} == {"k/a1": State.REMOVED}
    await pool.house.sync.refresh()
    assert [pool.state(key) for key in ("a1", "b1")] == ["removed", "active"]


async def test_a_key_removed_by_mistake_comes_back_when_an_operator_has_it_probed(bench):
    pool = await bench()
    await pool.rests("a1", State.REMOVED, "invalid_api_key")
    assert pool.state("a1") == "removed"
    pool.house.upstream.next(listing("gpt-4o"), EMBEDDED)
    await pool.prober.probe_now("a1")
    assert pool.state("a1") == "active"


async def test_an_operators_state_outlasts_a_probe(bench):
    pool = await bench({"a": 2})
    ledger = pool.house.ledger
    for key, state in (("a1", State.DISABLED), ("a2", State.REMOVED)):
        record = Record(state, "operator", 0.0, by=OPERATOR)
        await ledger.registry.change_state(f"k/{key}", record, by=OPERATOR, fingerprint="")
    pool.house.upstream.otherwise = EMBEDDED
    assert (await pool.prober.probe_now("a1")).kind is Kind.OK
    assert pool.state("a1") == "disabled"
    with pytest.raises(NotProbed, match="quotapool keys enable a2"):
        await pool.prober.probe_now("a2")
    with pytest.raises(NotProbed, match="no key nobody"):
        await pool.prober.probe_now("nobody")


async def test_without_money_for_it_a_probe_that_proves_validity_lifts_no_quarantine(bench):
    pool = await bench(probe_budget_usd=0)
    await pool.rests("a1", State.QUARANTINED, "credit_balance_exhausted", Scope.ACCOUNT)
    pool.house.upstream.otherwise = listing("gpt-4o")
    assert (await pool.prober.probe_now("a1")).kind is Kind.OK
    assert (pool.targets, pool.state("a1")) == ([MODELS], "quarantined")


async def test_a_store_that_is_away_stops_no_prober(bench, virtual_time):
    pool = await bench(store_patience=0.05)
    await pool.rests("a1", State.SUSPECT, "http_401")
    pool.house.upstream.otherwise = listing("gpt-4o")
    await move_time(pool.house.ledger, 45)
    lost, losses = connect("unix:///nonexistent.sock"), pool.house.recorder.store_losses
    registry = pool.house.ledger.registry
    registry.store, real = lost, registry.store
    running = asyncio.create_task(pool.prober.run())
    async with asyncio.timeout(60):
        while not losses:
            await asyncio.sleep(0.1)
        registry.store = real
        while not pool.probes.results:
            await asyncio.sleep(0.1)
    running.cancel()
    assert pool.state("a1") == "active"
    await lost.close()

"""What a client sees of itself: its rules as the store has them, what was refused, and nothing of others."""

from __future__ import annotations

import asyncio
import json

import pytest
from quotapool.domain.observer import Observer
from quotapool.ledger.clients import ClientStore, digest
from quotapool.settings import ClientOptions
from quotapool.settings.rules import RuleOptions
from quotapool.web.handlers import ClientHandler

from tests.fakes.edge import Client, chat_answer, chat_body

KEY, OTHER = "a-client-key-of-the-app", "a-client-key-of-others"
JSON = ("Content-Type", "application/json")


class Asking(Client):
    """With what the listener knows of a request."""

    __hash__ = object.__hash__
    id, keep_alive, fault, started_at, address = "", True, None, None, "127.0.0.1"


def asking(key: str = KEY, body: bytes | None = None) -> Asking:
    return Asking(body or chat_body(), more_headers=(JSON, ("Authorization", f"Bearer {key}")))


def me(key: str = KEY, method: str = "GET", target: str = "/quotapool/me") -> Client:
    return Client(b"", method, target, (("Authorization", f"Bearer {key}"),) if key else ())


@pytest.fixture
async def pool(open_pool):
    made = await open_pool({"a": 1}, queue={"max_wait": 0})
    clients = ClientStore(made.store, made.settings.pool)
    await clients.teams.add("red", RuleOptions.model_validate({"limits": {"rpm": 100}}))
    budgets = [{"tokens": 1000, "per": "day"}, {"requests": 3, "per": "total"}]
    options = {"name": "The app", "team": "red", "models": ["gpt-4o*"], "expires_on": "2999-01-01", "budgets": budgets}
    await clients.add("app", digest(KEY), ClientOptions.model_validate(options))
    await clients.add("other", digest(OTHER))
    await made.paths.sync.refresh()
    return made


async def served(pool, client: Asking) -> Asking:
    """As by the listener, which notes refusals."""
    await ClientHandler(pool.paths.requests, Observer()).serve(client)
    await pool.quiet()
    return client


async def seen(pool, key: str = KEY) -> dict:
    await asyncio.sleep(1.1)  # an answer is kept for a second
    answer = await pool.ask(me(key))
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    return json.loads(answer.got)


async def test_a_client_sees_its_rules_and_those_of_its_team(pool):
    page = await seen(pool)
    assert {name: page[name] for name in ("id", "name", "team", "models", "expires_on", "refusals")} == {
        "id": "app",
        "name": "The app",
        "team": "red",
        "models": ["gpt-4o*"],
        "expires_on": "2999-01-01",
        "refusals": [],
    }
    assert [(rule["id"], rule["subject"], rule["words"]) for rule in page["rules"]] == [
        ("tokens/day", "client app", "1,000 tokens a day"),
        ("requests/total", "client app", "3 requests in total"),
        ("rpm", "team red", "100 requests a minute"),
    ]
    assert set(page["rules"][0]) == {
        *("id", "words", "subject", "unit", "mode", "limit", "used", "held", "left", "resets_at"),
    }


async def test_what_answers_used_is_what_it_says(pool):
    pool.upstream.next(chat_answer(20, 30), chat_answer(5, 7))
    for _ in range(2):
        assert (await pool.ask(asking(body=chat_body(max_tokens=100)))).status == 200
    tokens, requests, rate = (await seen(pool))["rules"]
    assert (tokens["used"], tokens["held"], tokens["left"]) == (62, 0, 938)
    assert (requests["used"], requests["left"]) == (2, 1)
    assert rate["used"] < 2  # it refills by the second


async def test_a_client_without_rules_sees_that(pool):
    page = await seen(pool, OTHER)
    assert (page["id"], page["team"], page["rules"], page["refusals"]) == ("other", None, [], [])


async def test_refusals_are_shown_to_their_client_alone_at_most_one_entry_a_second(pool):
    for _ in range(3):
        assert (await served(pool, asking(body=chat_body(max_tokens=10)))).status == 200
    for _ in range(5):
        refused = await served(pool, asking(body=chat_body(max_tokens=10)))
        assert (refused.status, refused.error["code"]) == (429, "client_budget_exhausted")
    newest, first = (await seen(pool))["refusals"]
    assert (first["count"], newest["count"]) == (1, 4)
    assert (newest["code"], newest["rules"]) == ("client_budget_exhausted", ["requests/total"])
    assert "3 requests in total: 3 used" in newest["message"]
    assert 0 < newest["time"] - first["time"] <= 1.5
    assert (await seen(pool, OTHER))["refusals"] == []


async def test_other_refusals_are_not_its_rules(pool):
    assert (await served(pool, asking(body=chat_body(model="o3")))).error["code"] == "model_not_allowed"
    assert (await seen(pool))["refusals"] == []


async def test_no_more_than_twenty_refusals_are_shown(pool):
    notes = pool.paths.requests.me._notes
    for n in range(30):
        notes.note("app", "client_rate_limited", ["rpm"], f"the {n}th")
        await asyncio.sleep(1.1)
    refusals = (await seen(pool))["refusals"]
    assert [refusal["message"] for refusal in refusals] == [f"the {n}th" for n in range(29, 9, -1)]


async def test_who_asks_often_reads_the_store_once_a_second(pool):
    calls = []
    mget = pool.store.client.mget
    pool.store.client.mget = lambda keys, *more: calls.append(keys) or mget(keys, *more)
    answers = await asyncio.gather(*(pool.ask(me()) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len([keys for keys in calls if "qp:{default}:rules:c/app" in keys]) == 1


@pytest.mark.parametrize(("asked", "status", "code"), [
    ({"key": "qp-nobodys-key-0000"}, 401, "invalid_proxy_key"),
    ({"key": ""}, 401, "missing_proxy_key"),
    ({"method": "POST"}, 405, "method_not_allowed"),
    ({"method": "DELETE"}, 405, "method_not_allowed"),
    ({"target": "/quotapool/you"}, 404, "path_not_found"),
    ({"target": "/quotapool/me/"}, 404, "path_not_found"),
])  # fmt: skip
async def test_what_else_is_asked_is_an_error_in_openais_shape(pool, asked, status, code):
    answer = await pool.ask(me(**asked))
    assert (answer.status, answer.error["code"]) == (status, code)
    assert answer.header("x-quotapool-source") == "proxy"


async def test_a_query_changes_nothing(pool):
    assert (await pool.ask(me(target="/quotapool/me?x=1"))).status == 200


async def test_without_client_keys_there_is_nobody_to_tell(open_pool):
    pool = await open_pool({"a": 1})
    answer = await pool.ask(me(""))
    assert (answer.status, answer.error["code"]) == (404, "path_not_found")
    assert "Client keys are not in use here" in answer.error["message"]


async def test_while_the_store_is_away_it_says_so(pool):
    pool.lose_the_store()
    answer = await pool.ask(me())
    assert (answer.status, answer.error["code"]) == (503, "store_unavailable")


async def test_one_of_the_same_name_does_not_see_what_the_earlier_was_refused(pool):
    pool.paths.requests.me._notes.note("app", "client_rate_limited", ["rpm"], "no")
    await asyncio.sleep(2)
    assert len((await seen(pool))["refusals"]) == 1
    clients = ClientStore(pool.store, pool.settings.pool)
    await clients.revoke("app")
    await clients.add("app", digest(KEY))
    await pool.paths.sync.refresh()
    assert (await seen(pool))["refusals"] == []

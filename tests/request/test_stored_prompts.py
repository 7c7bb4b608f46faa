"""A stored prompt template belongs to one project, is made where no API shows it, and may choose the model itself."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from quotapool.domain.missing_access import MissingAccess
from quotapool.domain.request_record import RequestRecord
from quotapool.pool import roster

from tests.fakes.edge import Client, Reply, error, event, says, stream

PROMPT = "pmpt_68a1"
SNAPSHOT = "gpt-4o-2024-08-06"
USAGE = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}


@pytest.fixture
async def templated(open_pool):
    """`await templated("abc", holder="b")`: accounts of one key each; only b's project has `PROMPT`."""

    async def opened(accounts, holder, **options):
        pool = await open_pool(dict.fromkeys(accounts, 1), objects={"search": False}, **options)
        pool.upstream.always = {f"{account}1": lacking() for account in accounts}
        if holder:
            pool.upstream.always[f"{holder}1"] = good()
        return pool

    return opened


def lacking() -> Reply:
    """As OpenAI said it to a key of another project (October 2025)."""
    return error(404, None, f"Prompt with id '{PROMPT}' not found.")


def document() -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
    made_with = {"id": PROMPT, "variables": {"name": "Ada"}, "version": "2"}
    return {"id": "resp_1", "object": "response", "model": SNAPSHOT, "output": [], "prompt": made_with, "usage": usage}


def good() -> Reply:
    return says(200, document())


def asks(key: str = "", **body: Any) -> Client:
    return Client(json.dumps({"input": "hi", **body}).encode(), target="/v1/responses", key=key)


def by_prompt(**more: Any) -> Client:
    return asks(prompt={"id": PROMPT, "variables": {"name": "Ada"}}, **more)


@pytest.mark.parametrize("more", [{}, {"model": "gpt-4o"}, {"store": False}], ids=["alone", "with a model", "unstored"])
async def test_a_prompt_finds_its_project_and_stays_there(templated, more):
    pool = await templated("abcd", holder="c")
    first = await pool.ask(by_prompt(**more))
    assert (first.status, first.header("x-quotapool-source")) == (200, "upstream")
    assert pool.accounts_asked[-1] == "c"
    assert len(set(pool.accounts_asked)) == len(pool.accounts_asked)  # nobody was asked twice
    pool.upstream.sent.clear()
    for _ in range(8):
        assert (await pool.ask(by_prompt(**more))).status == 200
    assert pool.accounts_asked == ["c"] * 8
    assert pool.is_idle()


async def test_a_streamed_answer_teaches_the_same(templated):
    pool = await templated("abcd", holder="d")
    created = {"type": "response.created", "response": {**document(), "usage": None}}
    completed = {"type": "response.completed", "response": document()}
    delta = {"type": "response.output_text.delta", "delta": "Hello"}
    pool.upstream.always["d1"] = stream(event(created), event(delta), event(completed))
    trip = RequestRecord("test", time.monotonic())
    assert (await pool.ask(by_prompt(stream=True), trip)).status == 200
    assert trip.model == SNAPSHOT
    pool.upstream.sent.clear()
    assert (await pool.ask(by_prompt(stream=True))).status == 200
    assert pool.accounts_asked == ["d"]


async def test_the_answer_tells_which_model_the_prompt_chose(templated):
    """Its spend is that model's, and from then on it shares that model's limits."""
    pool = await templated("a", holder="a")
    trip = RequestRecord("test", time.monotonic())
    await pool.ask(by_prompt(), trip)
    assert trip.model == SNAPSHOT
    assert pool.recorder.groups == [(PROMPT, "gpt-4o")]  # a dated snapshot shares its alias's
    assert (await pool.taken("a", "gpt-4o"))[0] == 1  # this one, too
    await pool.ask(by_prompt())
    assert (await pool.taken("a", "gpt-4o"))[0] == 2


async def test_ids_that_clients_invent_fill_no_memory(templated):
    """An upstream that is not OpenAI may take any prompt's id."""
    pool = await templated("a", holder="a")
    pool.roster.learned_groups.update({f"pmpt_other_{n}": "gpt-4o" for n in range(roster._MOST_LEARNED - 3)})
    for n in range(5):
        assert (await pool.ask(asks(prompt={"id": f"pmpt_{n}"}))).status == 200
    assert len(pool.recorder.groups) == 3


async def test_a_model_that_is_named_keeps_its_name_and_its_limits(templated):
    pool = await templated("a", holder="a")
    trip = RequestRecord("test", time.monotonic())
    await pool.ask(by_prompt(model="gpt-4o"), trip)
    assert trip.model == "gpt-4o"
    assert pool.recorder.groups == []
    assert (await pool.taken("a", "gpt-4o"))[0] == 1


async def test_an_account_without_the_prompt_still_serves_the_model(templated):
    pool = await templated("ab", holder="")
    assert (await pool.ask(by_prompt(model="gpt-4o"))).status == 404
    pool.upstream.always = {}
    pool.upstream.otherwise = good()
    assert {(await pool.ask(asks(model="gpt-4o"))).status for _ in range(6)} == {200}


async def test_while_its_account_is_out_of_money_nobody_else_is_asked_for_it(templated):
    pool = await templated("abcd", holder="b")
    assert (await pool.ask(by_prompt())).status == 200
    pool.upstream.next(error(429, "insufficient_quota", kind="insufficient_quota"))
    await pool.ask(by_prompt())
    pool.upstream.sent.clear()
    client = await pool.ask(by_prompt())
    assert client.status in {429, 503}
    assert client.header("x-quotapool-source") == "proxy"
    assert pool.upstream.sent == []


async def test_a_prompt_that_nobody_has_is_a_404_in_openais_words_and_asks_each_account_once(templated):
    pool = await templated("abc", holder="")
    client = await pool.ask(by_prompt())
    assert (client.status, client.error["message"]) == (404, f"Prompt with id '{PROMPT}' not found.")
    assert sorted(pool.accounts_asked) == ["a", "b", "c"]
    again = await pool.ask(by_prompt())  # one account is asked again: it may have the prompt by now
    assert (again.status, again.error["message"]) == (404, f"Prompt with id '{PROMPT}' not found.")
    assert len(pool.accounts_asked) == 4
    assert await pool.states() == {}


@pytest.mark.parametrize("models", [[], ["gpt-4o", "pmpt_*"]], ids=["any model", "some models"])
async def test_whoever_knows_a_prompts_id_may_use_it(templated, models):
    """As with fine-tuned models: no client's request made it."""
    clients = [{"id": name, "key": f"the-key-of-{name}-01", "models": models} for name in ("alice", "bob")]
    pool = await templated("abcdefghijkl", holder="b", clients=clients)
    while (await pool.ask(by_prompt(key="the-key-of-alice-01"))).status != 200:
        pass  # a request asks some of so many accounts at most
    pool.upstream.sent.clear()
    pool.roster.pool.missing = MissingAccess()
    assert (await pool.ask(by_prompt(key="the-key-of-bob-01"))).status == 200
    assert pool.accounts_asked == ["b"]


async def test_a_client_of_some_models_may_not_leave_the_choice_to_a_prompt(templated):
    clients = [{"id": "app", "key": "the-key-of-app-0001", "models": ["gpt-4o-mini"]}]
    pool = await templated("a", holder="a", clients=clients)
    client = await pool.ask(by_prompt(key="the-key-of-app-0001"))
    assert (client.status, client.error["code"]) == (403, "model_not_allowed")
    assert pool.upstream.sent == []


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": None}, {"prompt": {}}, {"prompt": "pmpt_68a1"}])
async def test_openai_decides_about_a_response_without_a_model_and_its_use_counts_for_the_one_that_answered(
    templated, body
):
    pool = await templated("a", holder="a")
    pool.upstream.next(says(200, {"id": "resp_1", "model": "gpt-5", "output": [], "usage": USAGE}))
    record = RequestRecord("t", time.monotonic(), "POST")
    client = await pool.ask(asks(**body), record)
    assert client.status == 200
    assert record.model == "gpt-5"
    pool.upstream.next(error(400, "missing_required_parameter", "Missing required parameter: 'model'."))
    client = await pool.ask(asks(**body))
    assert (client.status, client.error["code"]) == (400, "missing_required_parameter")


async def test_a_client_of_some_models_has_to_name_one(templated):
    clients = [{"id": "app", "key": "the-key-of-app-0001", "models": ["gpt-4o-mini"]}]
    pool = await templated("a", holder="a", clients=clients)
    client = await pool.ask(asks(key="the-key-of-app-0001"))
    assert (client.status, client.error["code"]) == (403, "model_not_allowed")
    assert pool.upstream.sent == []


async def test_a_model_of_the_wrong_type_is_told_as_such(templated):
    pool = await templated("a", holder="a")
    client = await pool.ask(asks(model=["gpt-4o"]))
    assert (client.status, client.error["code"]) == (400, "invalid_model")
    assert "must be a string" in client.error["message"]

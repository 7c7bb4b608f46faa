"""What each kind of upstream answer means: for the client, for the account's budget, for its keys, for the next key.

Answers are OpenAI's own, as its error guide and captured threads have them.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest
from quotapool.domain.states import State

from tests.fakes.edge import Client, Reply, chat_answer, chat_body, error, fails, says

RESERVED = 1000  # tokens of chat_body()
USED = 30  # tokens of chat_answer()

MOVES_ON, STAYS = True, False
BACK, KEPT = 0, RESERVED


@dataclass
class Row:
    name: str
    reply: Reply
    moves: bool
    tokens: int  # of the first account, once settled
    state: tuple[str, State] | None = None  # "key" or "account", and its state
    rests_s: float = 0.0


TPM_REACHED = (
    "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): "
    "Limit 30000, Used 29554, Requested 3082. Please try again in 9.816s."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details."
DEACTIVATED = "The OpenAI account associated with this API key has been deactivated."
NO_MODEL = "The model `gpt-4o` does not exist or you do not have access to it."
COUNTRY = "Country, region, or territory not supported"

TABLE = [
    Row("a rate limit", error(429, "rate_limit_exceeded", TPM_REACHED, "tokens"), MOVES_ON, BACK, None, 9.816),
    Row("retry-after wins over the text", error(429, "rate_limit_exceeded", TPM_REACHED, "tokens", retry_after="56"),
        MOVES_ON, BACK, None, 56.0),
    Row("a rate limit without a time", error(429, "rate_limit_exceeded", "Too many.", "requests"),
        MOVES_ON, BACK, None, 5.0),
    Row("a 429 that is not OpenAI's", Reply(429, pieces=[b"<html>busy</html>"]), MOVES_ON, BACK),
    Row("traffic grew too fast", error(429, "slow_down", "Slow down.", "rate_limit_error", retry_after="7"),
        MOVES_ON, BACK, None, 7.0),
    Row("no credit", error(429, "credit_balance_exhausted", "You have no credits remaining.", "insufficient_quota"),
        MOVES_ON, BACK, ("account", State.QUARANTINED)),
    Row("quota, old wording", error(429, "insufficient_quota", QUOTA, "insufficient_quota"),
        MOVES_ON, BACK, ("account", State.QUARANTINED)),
    Row("a project's spend limit", error(429, "project_spend_limit_exceeded", "", "insufficient_quota"),
        MOVES_ON, BACK, ("account", State.QUARANTINED)),
    Row("an invalid key", error(401, "invalid_api_key", "Incorrect API key provided: sk-***."),
        MOVES_ON, BACK, ("key", State.REMOVED)),
    Row("a deactivated account", error(401, "account_deactivated", DEACTIVATED),
        MOVES_ON, BACK, ("account", State.REMOVED)),
    Row("terminated, as 429", error(429, None, "Your access was terminated due to violation of our policies", "x"),
        MOVES_ON, BACK, ("account", State.REMOVED)),
    Row("a 401 without a reason", error(401, None, "Invalid Authentication"), MOVES_ON, BACK, ("key", State.SUSPECT)),
    Row("no access to the model", error(404, "model_not_found", NO_MODEL), MOVES_ON, BACK),
    Row("our country", error(403, "unsupported_country_region_territory", COUNTRY, "request_forbidden"),
        MOVES_ON, BACK),
    Row("a wrong project header", error(401, "mismatched_project", "OpenAI-Project header should match project"),
        MOVES_ON, BACK),
    Row("OpenAI's own fault", error(500, None, "The server had an error", "server_error"), MOVES_ON, KEPT),
    Row("overloaded", error(503, "server_is_overloaded", "", "service_unavailable_error"), MOVES_ON, KEPT),
    Row("the caller's mistake", error(400, "invalid_value", "Invalid value: 'temperature'"), STAYS, BACK),
    Row("nothing there", error(404, None, "Invalid URL (POST /v1/chat/completion)"), STAYS, BACK),
    Row("too much text", error(413, None, "Request too large"), STAYS, BACK),
    Row("a policy refusal", error(400, "invalid_prompt", "Invalid prompt: flagged"), STAYS, BACK),
    Row("a content filter", error(400, "content_policy_violation", "Your request was rejected"), STAYS, BACK),
    Row("another account's object", error(400, "previous_response_not_found", "Previous response with id 'r'"),
        STAYS, BACK),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_an_upstream_error_means(open_pool, row):
    """If the first key asked gets this answer, I expect the row's consequences and no others."""
    pool = await open_pool({"a": 2, "b": 2})
    pool.upstream.next(row.reply)
    client = await pool.ask()
    first = pool.accounts_asked[0]
    if row.moves:
        assert client.status == 200
        assert len(pool.accounts_asked) == 2
    else:
        assert client.status == row.reply.status
        assert client.got == row.reply.pieces[0]
        assert pool.accounts_asked == [first]
    if row.moves and pool.accounts_asked[1] == first:  # a 5xx or a dead key says nothing about its siblings
        assert await pool.taken(first) == (2, row.tokens + USED)
    else:
        assert await pool.taken(first) == (1, row.tokens)
    records = await pool.states()
    if row.state is None:
        assert records == {}
    else:
        what, state = row.state
        name = f"a/{first}" if what == "account" else f"k/{pool.upstream.sent[0].key}"
        assert {name: state} == {field: record.state for field, record in records.items()}
    assert await pool.rests_s(first) == pytest.approx(row.rests_s, abs=0.2)
    assert pool.is_idle()


async def test_a_good_answer_is_charged_by_its_usage(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(chat_answer(prompt=300, completion=200))
    client = await pool.ask()
    assert (client.status, client.finished, client.header("x-quotapool-source")) == (200, True, "upstream")
    assert await pool.taken("a") == (1, 500)


async def test_more_used_than_reserved_is_a_debt(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(chat_answer(prompt=1000, completion=4000))
    await pool.ask()
    assert await pool.taken("a") == (1, 5000)


async def test_a_good_answer_that_tells_no_usage_stays_charged_as_reserved(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(says(200, {"object": "chat.completion", "choices": []}))
    await pool.ask()
    assert await pool.taken("a") == (1, RESERVED)


@pytest.mark.parametrize(
    ("reply", "siblings_out"),
    [
        pytest.param(error(401, "account_deactivated", DEACTIVATED), True, id="a dead account"),
        pytest.param(error(429, "insufficient_quota", QUOTA, "insufficient_quota"), True, id="an account's money"),
        pytest.param(error(401, "invalid_api_key"), False, id="a dead key"),
    ],
)
async def test_the_keys_of_one_account_leave_together_where_the_account_is_what_failed(open_pool, reply, siblings_out):
    pool = await open_pool({"a": 3})
    pool.upstream.next(reply)
    client = await pool.ask()
    if siblings_out:
        assert len(pool.upstream.sent) == 1
        assert client.status in {429, 503}
    else:
        assert client.status == 200
        dead = pool.upstream.sent[0].key
        for _ in range(6):
            await pool.ask()
        assert dead not in [sent.key for sent in pool.upstream.sent[1:]]


async def test_an_account_without_the_model_is_not_asked_for_it_again(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(error(404, "model_not_found", NO_MODEL))
    await pool.ask()
    lacking, having = pool.accounts_asked
    for _ in range(10):
        await pool.ask()
    assert pool.accounts_asked[2:] == [having] * 10
    for _ in range(20):  # another model is another matter
        await pool.ask(Client(chat_body("gpt-4o-mini")))
    assert lacking in pool.accounts_asked[12:]


async def test_a_rate_limit_of_one_model_leaves_the_others_alone(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(error(429, "rate_limit_exceeded", TPM_REACHED, "tokens", retry_after="3000"))
    refused_client = await pool.ask()
    other = await pool.ask(Client(chat_body("gpt-4o-mini")))
    assert (refused_client.status, other.status) == (429, 200)


async def test_a_request_too_large_for_one_account_goes_only_to_a_larger_one(open_pool):
    """Given accounts of 30,000, 30,000 and 300,000 tokens a minute, and an upstream that counts more than we do."""
    small, large = {"rpm": 1000, "tpm": 30_000, "tpd": 1_000_000, "rpd": 1000}, {"tpm": 300_000}
    pool = await open_pool({"a": 1, "b": 1, "c": 1}, accounts={"a": small, "b": small, "c": {**small, **large}})
    told = "Request too large for gpt-4o (for limit gpt-4o) in organization org-x on tokens per min (TPM): "
    too_large = error(429, "rate_limit_exceeded", told + "Limit 30000, Requested 37313.", "tokens")
    pool.upstream.always = {"a1": too_large, "b1": too_large}
    for _ in range(12):
        before = len(pool.accounts_asked)
        client = await pool.ask()
        assert client.status == 200
        assert pool.accounts_asked[-1] == "c"
        assert len(pool.accounts_asked) - before <= 2
    assert (await pool.taken("a"))[1] == 0
    assert (await pool.taken("c"))[1] == 12 * USED


async def test_a_request_too_large_for_all_is_refused_at_once_and_clearly(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, limits={"default": {"rpm": 1000, "tpm": 30_000}})
    told = "Request too large for gpt-4o in organization org-x on tokens per min (TPM): "
    pool.upstream.otherwise = error(429, "rate_limit_exceeded", told + "Limit 30000, Requested 37313.", "tokens")
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (429, "request_too_large_for_pool")
    assert client.header("x-should-retry") == "false"
    assert len(pool.upstream.sent) == 1


async def test_what_we_can_count_ourselves_as_too_large_never_leaves_the_house(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, limits={"default": {"rpm": 1000, "tpm": 30_000}})
    client = await pool.ask(Client(chat_body(max_tokens=30_001)))
    assert (client.status, client.error["code"]) == (429, "request_too_large_for_pool")
    assert pool.upstream.sent == []


# ---- nobody left


@pytest.mark.parametrize(
    ("replies", "status", "code"),
    [
        (("insufficient_quota", "credit_balance_exhausted"), 429, "pool_credit_exhausted"),
        (("project_spend_limit_exceeded", "organization_usage_limit_exceeded"), 429, "pool_spend_limit_reached"),
        (("credit_balance_exhausted", "project_spend_limit_exceeded"), 429, "pool_credit_exhausted"),
        (("invalid_api_key", "account_deactivated"), 503, "pool_no_usable_keys"),
        (("account_deactivated", "insufficient_quota"), 429, "pool_credit_exhausted"),
    ],
)
async def test_an_empty_pool_says_why(open_pool, replies, status, code):
    pool = await open_pool({"a": 1, "b": 1})
    of_money = {"insufficient_quota", "credit_balance_exhausted"}
    for said in replies:
        money = said in of_money or "limit" in said
        pool.upstream.next(error(429 if money else 401, said, "", "insufficient_quota" if money else "x"))
    first = await pool.ask()
    second = await pool.ask()  # and it stays so, without asking upstream again
    for client in (first, second):
        assert (client.status, client.error["code"]) == (status, code)
        assert client.header("x-should-retry") == "false"
        assert client.header("x-quotapool-source") == "proxy"
    if status == 429:
        assert first.error["type"] == "insufficient_quota"
    assert len(pool.upstream.sent) == 2


async def test_where_every_account_lacks_the_model_upstreams_own_words_reach_the_client(open_pool):
    pool = await open_pool({"a": 1, "b": 1, "c": 1})
    pool.upstream.otherwise = error(404, "model_not_found", NO_MODEL, x_request_id="req_1")
    client = await pool.ask()
    assert (client.status, client.error["message"]) == (404, NO_MODEL)
    assert (client.header("x-quotapool-source"), client.header("x-request-id")) == ("upstream", "req_1")
    assert sorted(pool.accounts_asked) == ["a", "b", "c"]
    again = await pool.ask()  # one account is asked again: it may have the model by now
    assert (again.status, again.error["message"]) == (404, NO_MODEL)
    assert len(pool.accounts_asked) == 4


async def test_one_keys_trouble_never_becomes_the_clients_answer(open_pool):
    """Given an account that lacks the model and another whose only key is dead, I expect the first one's answer."""
    for order in ("model first", "dead first"):
        pool = await open_pool({"a": 1, "b": 1, "c": 1}, pool=order.replace(" ", "-"))
        lacks, dead = error(404, "model_not_found", NO_MODEL), error(401, "invalid_api_key", "Incorrect API key")
        pool.upstream.next(*([lacks, dead] if order == "model first" else [dead, lacks]))
        pool.upstream.otherwise = lacks
        client = await pool.ask()
        assert (client.status, client.error["message"]) == (404, NO_MODEL)


async def test_keys_that_all_contradict_our_headers_are_no_401_for_the_client(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.otherwise = error(401, "mismatched_organization", "OpenAI-Organization header should match")
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (503, "pool_no_usable_keys")
    assert len(pool.accounts_asked) == 2


async def test_a_country_refused_twice_is_believed(open_pool):
    """Our network is one for all keys, so asking all of them would only repeat the answer."""
    pool = await open_pool({"a": 1, "b": 1, "c": 1, "d": 1})
    pool.upstream.otherwise = error(403, "unsupported_country_region_territory", COUNTRY, "request_forbidden")
    client = await pool.ask()
    assert (client.status, client.error["message"]) == (403, COUNTRY)
    assert len(set(pool.accounts_asked)) == len(pool.accounts_asked) == 2
    assert await pool.states() == {}


# ---- keys on trial


async def rested(pool, field: str) -> None:
    """As if the rest of this key or account were over."""
    record = pool.roster.pool.records[field]
    await pool.ledger.registry.change_state(field, None, by="operator", fingerprint=record.fingerprint)
    await pool.ledger.registry.change_state(field, record, rest_s=0.001, fingerprint=record.fingerprint)
    await asyncio.sleep(0.005)
    await pool.sync.refresh()


@pytest.mark.parametrize(
    ("trial", "comes_back"),
    [
        pytest.param(chat_answer(), True, id="a good answer"),
        pytest.param(error(429, "insufficient_quota", QUOTA, "insufficient_quota"), False, id="still no money"),
        pytest.param(fails("reset"), False, id="no answer at all"),
        pytest.param(fails("connect", sent=False), False, id="no connection"),
    ],
)
async def test_a_resting_account_comes_back_only_by_a_good_answer(open_pool, trial, comes_back):
    pool = await open_pool({"a": 1}, retry={"max_attempts": 1})
    pool.upstream.next(error(429, "insufficient_quota", QUOTA, "insufficient_quota"))
    await pool.ask()
    await rested(pool, "a/a")
    pool.upstream.next(trial)
    await pool.ask()
    assert pool.grants.granted[-1].is_trial
    assert ("a/a" not in await pool.states()) == comes_back


# ---- encoded errors


def encoded(encoding: str, body: bytes) -> bytes:
    import gzip
    import zlib

    if encoding == "gzip":
        return gzip.compress(body)
    if encoding == "deflate":
        return zlib.compress(body)
    raw = zlib.compressobj(wbits=-15)
    return raw.compress(body) + raw.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "deflate, raw"])
async def test_an_encoded_error_is_understood_and_passed_on_as_it_came(open_pool, encoding):
    pool = await open_pool({"a": 1, "b": 1})
    name = encoding.partition(",")[0]
    said = json.dumps({"error": {"message": "m", "type": "insufficient_quota", "code": "insufficient_quota"}}).encode()
    pool.upstream.next(Reply(429, pieces=[encoded(encoding, said)]).named(Content_Encoding=name))
    assert (await pool.ask()).status == 200
    assert len(await pool.states()) == 1
    mistake = encoded(encoding, json.dumps({"error": {"message": "m", "type": "x", "code": "y"}}).encode())
    pool.upstream.next(Reply(400, pieces=[mistake]).named(Content_Encoding=name))
    client = await pool.ask()
    assert (client.status, client.got, client.header("content-encoding")) == (400, mistake, name)


async def test_an_encoded_echo_of_the_key_does_not_slip_through(open_pool):
    pool = await open_pool({"a": 1})
    said = json.dumps({"error": {"message": f"odd: {pool.secrets['a1']}", "type": "x", "code": "y"}}).encode()
    pool.upstream.next(Reply(400, pieces=[encoded("gzip", said)]).named(Content_Encoding="gzip"))
    client = await pool.ask()
    assert client.status == 400
    assert client.header("content-encoding") is None
    assert pool.secrets["a1"].encode() not in client.got
    assert client.error["code"] == "y"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip"])
async def test_what_cannot_be_decoded_is_judged_by_its_status(open_pool, encoding):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(Reply(429, pieces=[b"\x0b\x02\x80unreadable"]).named(Content_Encoding=encoding, Retry_After="9"))
    assert (await pool.ask()).status == 200
    assert await pool.rests_s(pool.accounts_asked[0]) == pytest.approx(9, abs=0.2)
    assert await pool.states() == {}

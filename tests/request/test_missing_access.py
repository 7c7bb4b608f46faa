"""No single answer takes away from everybody what works: models, features, endpoints, keys."""

from __future__ import annotations

import json

import pytest

from tests.fakes.edge import Client, Reply, chat_answer, chat_body, error, says

NO_MODEL = error(404, "model_not_found", "The model `gpt-4o` does not exist or you do not have access to it.")
UNVERIFIED = error(400, None, "Your organization must be verified to stream this model. Please go to: ...")
NO_SCOPE = error(401, "missing_scope", "You have insufficient permissions. Missing scopes: api.responses.write.")


def responses() -> Client:
    return Client(json.dumps({"model": "gpt-4o", "input": "hi", "store": False}).encode(), target="/v1/responses")


def response() -> Reply:
    return says(
        200, {"id": "resp_1", "object": "response", "output": [], "usage": {"input_tokens": 1, "output_tokens": 1}}
    )


# ---- A1: one client's 404


async def test_one_clients_404_does_not_switch_a_model_off_for_the_others(open_pool):
    """Given two accounts that serve a model, both of which once answer that it does not exist."""
    pool = await open_pool({"a": 1, "b": 1})
    for _ in range(10):
        assert (await pool.ask()).status == 200
    pool.upstream.next(NO_MODEL, NO_MODEL)
    unlucky = await pool.ask()
    assert (unlucky.status, unlucky.error["code"]) == (404, "model_not_found")
    assert [(await pool.ask()).status for _ in range(10)] == [200] * 10
    assert set(pool.accounts_asked[-10:]) == {"a", "b"}


async def test_a_model_that_every_account_refused_is_tried_again_by_each_request_at_one_account(open_pool):
    pool = await open_pool({"a": 1, "b": 1, "c": 1})
    pool.upstream.otherwise = NO_MODEL
    assert (await pool.ask()).status == 404
    assert len(pool.upstream.sent) == 3
    refused = await pool.ask()
    assert (refused.status, refused.error["code"], refused.header("x-quotapool-source")) == (
        404,
        "model_not_found",
        "upstream",
    )
    assert len(pool.upstream.sent) == 4
    pool.upstream.otherwise = chat_answer()
    assert (await pool.ask()).status == 200
    served = pool.accounts_asked[-1]
    assert [(await pool.ask()).status for _ in range(5)] == [200] * 5
    assert set(pool.accounts_asked[-5:]) == {served}  # it is known to have the model


# ---- A2: a feature


async def test_a_refused_feature_does_not_take_the_model_away(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(UNVERIFIED, UNVERIFIED)
    streamed = await pool.ask(Client(chat_body(stream=True)))
    assert (streamed.status, streamed.header("x-quotapool-source")) == (400, "upstream")
    assert [(await pool.ask()).status for _ in range(5)] == [200] * 5


@pytest.mark.parametrize(
    ("refusal", "body"),
    [
        (error(400, None, "Your organization must be verified to generate reasoning summaries."),
         {"reasoning": {"summary": "auto"}}),
        (error(400, None, "Invalid service_tier argument: The requested service tier is not allowed."),
         {"service_tier": "priority"}),
    ],
)  # fmt: skip
async def test_other_accounts_are_asked_first_for_a_feature_that_one_has_not(open_pool, refusal, body):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.otherwise = response()
    pool.upstream.next(refusal)
    asked = json.dumps({"model": "gpt-4o", "input": "hi", "store": False, **body}).encode()
    for _ in range(6):
        assert (await pool.ask(Client(asked, target="/v1/responses"))).status == 200
    without, *rest = pool.accounts_asked
    assert set(rest) == {"a", "b"} - {without}
    plain = [await pool.ask(responses()) for _ in range(12)]
    assert {client.status for client in plain} == {200}
    assert set(pool.accounts_asked[-12:]) == {"a", "b"}


# ---- A3: a scope of one key


async def test_a_key_without_a_scope_leaves_the_endpoint_to_its_sibling_and_goes_on_serving_others(open_pool):
    pool = await open_pool({"a": 2})
    pool.upstream.always = {"a1": NO_SCOPE}
    pool.upstream.otherwise = response()
    for _ in range(6):
        assert (await pool.ask(responses())).status == 200
    keys = [sent.key for sent in pool.upstream.sent]
    assert keys.count("a1") <= 1
    pool.upstream.always = {}
    pool.upstream.otherwise = chat_answer()
    for _ in range(6):
        assert (await pool.ask()).status == 200
    assert {sent.key for sent in pool.upstream.sent[-6:]} == {"a1", "a2"}


# ---- A4: a look-alike without the model


@pytest.mark.parametrize(
    "refusal",
    [
        says(404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}}),
        says(404, {"error": {"message": "model 'gpt-4o' not found", "type": "not_found_error"}}),
        says(404, {"error": {"message": 'model "gpt-4o" not found, try pulling it first', "type": "api_error"}}),
    ],
)
async def test_an_account_whose_server_does_not_know_the_model_never_answers_the_client(open_pool, refusal):
    pool = await open_pool({"openai": 1, "other": 1})
    pool.upstream.always = {"other1": refusal}
    assert [(await pool.ask()).status for _ in range(20)] == [200] * 20
    assert pool.accounts_asked.count("other") == 1


# ---- A5: many dead keys


async def test_one_good_key_behind_thirty_dead_ones_is_found_by_one_request(open_pool):
    pool = await open_pool({**{f"dead{n:02}": 1 for n in range(30)}, "good": 1}, max_removals=100)
    pool.upstream.otherwise = error(401, "invalid_api_key", "Incorrect API key provided: sk-***.")
    pool.upstream.always = {"good1": chat_answer()}
    for _ in range(3):
        assert (await pool.ask()).status == 200


async def test_with_the_brake_on_the_good_key_is_found_too(open_pool):
    pool = await open_pool({**{f"dead{n:02}": 1 for n in range(30)}, "good": 1})
    pool.upstream.otherwise = error(401, "invalid_api_key", "Incorrect API key provided: sk-***.")
    pool.upstream.always = {"good1": chat_answer()}
    assert (await pool.ask()).status == 200


# ---- A6: 429s that are not OpenAI's


@pytest.mark.parametrize("body", [b"", b"<html><title>Error 1015</title>You are being rate limited</html>"])
async def test_429s_without_openais_words_ask_one_other_account_and_raise_the_alarm(open_pool, body):
    pool = await open_pool({f"a{n}": 1 for n in range(30)})
    pool.upstream.otherwise = Reply(429, headers=[("Content-Type", "text/html")], pieces=[body])
    refused = await pool.ask()
    assert (refused.status, refused.error["code"]) == (502, "egress_refused")
    assert len(pool.upstream.sent) == 2
    await pool.ask()
    assert pool.recorder.egress[0][:2] == (True, "http_429")


async def test_a_429_with_a_time_is_a_rate_limit_whatever_its_body(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(Reply(429, pieces=[b"Too Many Requests"]).named(retry_after="7"))
    assert (await pool.ask()).status == 200
    assert await pool.rests_s(pool.accounts_asked[0]) == pytest.approx(7, abs=0.5)


async def test_an_unexplained_429_is_not_spread_over_the_whole_pool(open_pool):
    pool = await open_pool({f"a{n}": 1 for n in range(30)})
    pool.upstream.otherwise = says(429, {"error": {"message": "Slow, please."}})
    assert (await pool.ask()).status == 429
    assert len(pool.upstream.sent) == 3

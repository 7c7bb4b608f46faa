"""The control API shows what was received, without secrets, and changes the simulation while it runs."""

from __future__ import annotations

import hashlib
import json

import openai
import pytest
from quotapool.simulator import simulated_secret

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "12345678"}]}
MANY_POLLS = 2000


async def test_the_billed_tokens_are_the_sums_of_the_answers_usage(simulation):
    sdk = simulation.sdk()
    chat = await sdk.chat.completions.create(**CHAT, max_tokens=5)
    response = await sdk.responses.create(model="gpt-4o", input="1234", reasoning={"effort": "low"})
    embedded = await sdk.embeddings.create(model="text-embedding-3-small", input="12345678")
    async for _ in await sdk.chat.completions.create(**CHAT, stream=True, max_tokens=7):
        pass
    account = await simulation.account()
    assert account["prompt_tokens"] == 2 + 1 + 2 + 2
    assert account["completion_tokens"] == 5 + 40 + 0 + 7
    assert account["reasoning_tokens"] == 8
    assert account["total_tokens"] == sum(
        (chat.usage.total_tokens, response.usage.total_tokens, embedded.usage.total_tokens, 2 + 7)
    )
    assert account["completed"] == account["admitted"] == account["attempts"] == 4
    assert {**account["keys"][0], "index": 0}["total_tokens"] == account["total_tokens"]


async def test_a_stream_the_client_leaves_is_counted_with_what_was_produced_by_then(simulate):
    simulation = await simulate(tokens_per_second=100.0, completion_tokens=100_000)
    stream = await simulation.sdk().chat.completions.create(**CHAT, stream=True)
    words = 0
    async for chunk in stream:
        words += 1 if chunk.choices[0].delta.content else 0
        if words == 3:
            break
    assert (await simulation.account())["open_streams"] == 1
    await stream.close()
    for _ in range(MANY_POLLS):
        account = await simulation.account()
        if account["open_streams"] == 0:
            break
    assert (account["open_streams"], account["cut_streams"], account["completed"]) == (0, 1, 0)
    assert 3 <= account["cut_completion_tokens"] < 1000
    assert account["cut_prompt_tokens"] == 2
    assert account["total_tokens"] == 2 + account["cut_completion_tokens"]


async def test_the_log_shows_requests_with_keys_named_by_index(simulation):
    document = {**CHAT, "max_tokens": 3}
    leaking = {"X-Leak": f"is {simulated_secret(0)} here", "X-Other": "sk-proj-somebodyelses"}
    await simulation.post(f"/v1/chat/completions?echo={simulated_secret(1)}", document, index=1, **leaking)
    status, log = await simulation.control("GET", "log?n=1")
    (seen,) = log["requests"]
    headers = dict(seen["headers"])
    sent = json.dumps(document).encode()
    assert status == 200
    assert (seen["method"], seen["path"]) == ("POST", "/v1/chat/completions?echo=<key 1>")
    assert headers["Authorization"] == "Bearer <key 1>"
    assert headers["X-Leak"] == "is <key 0> here"
    assert headers["X-Other"] == "<unknown key>"
    assert (seen["body_bytes"], seen["body_sha256"]) == (len(sent), hashlib.sha256(sent).hexdigest())
    assert "sk-" not in json.dumps(log)


async def test_stats_hold_no_secret(simulation):
    await simulation.sdk().models.list()
    _, stats = await simulation.control("GET", "stats")
    assert "sk-" not in json.dumps(stats)


async def test_accounts_can_be_added_and_their_limits_changed_while_it_runs(simulation):
    status, made = await simulation.control("POST", "accounts", id="late", rpm=1)
    (key,) = made["keys"]
    sdk = simulation.sdk(api_key=key["secret"])
    assert (status, key["index"]) == (200, 2)
    await sdk.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError):
        await sdk.chat.completions.create(**CHAT)
    await simulation.control("POST", "accounts", id="late", rpm=500)
    raw = await sdk.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-ratelimit-limit-requests"] == "500"


async def test_reset_forgets_counts_faults_and_charges_but_no_account(simulate):
    simulation = await simulate([{"rpm": 1}])
    await simulation.sdk().chat.completions.create(**CHAT)
    await simulation.fault("invalid_api_key")
    await simulation.control("POST", "reset")
    assert (await simulation.account())["attempts"] == 0
    assert (await simulation.sdk().chat.completions.create(**CHAT)).choices


async def test_faults_are_set_and_cleared_by_secret_too(simulation):
    await simulation.fault("error_500", key=simulated_secret(0))
    status, cleared = await simulation.control("DELETE", f"keys/{simulated_secret(0)}/fault")
    assert (status, cleared) == (200, {"fault": None})
    assert (await simulation.sdk().models.list()).data


@pytest.mark.parametrize(
    ("method", "path", "document", "status"),
    [
        ("POST", "keys/0/fault", {"fault": "no-such-fault"}, 400),
        ("POST", "keys/0/fault", {"fault": "reset", "cuont": 1}, 400),
        ("POST", "keys/99/fault", {"fault": "reset"}, 404),
        ("POST", "accounts/nobody/fault", {"fault": "reset"}, 404),
        ("POST", "accounts", {"id": "x", "rpm": 0}, 400),
        ("POST", "accounts", {"id": "x", "keys": [simulated_secret(0)]}, 409),
        ("GET", "log?n=none", {}, 400),
    ],
)
async def test_a_wrong_command_is_refused_with_a_reason(simulation, method, path, document, status):
    seen, answer = await simulation.control(method, path, **document)
    assert seen == status
    assert answer["error"]


async def test_calls_are_counted_by_their_path_whatever_became_of_them(simulation):
    sdk = simulation.sdk()
    await sdk.chat.completions.create(**CHAT)
    await simulation.fault("error_500", count=1)
    with pytest.raises(openai.InternalServerError):
        await sdk.chat.completions.create(**CHAT)
    await sdk.models.list()
    await simulation.post(
        f"/v1/embeddings?echo={simulated_secret(0)}", {"model": "text-embedding-3-small", "input": "a"}
    )
    with pytest.raises(openai.AuthenticationError):
        await simulation.sdk(api_key="sk-nobody-knows-this").models.list()
    _, stats = await simulation.control("GET", "stats")
    assert stats["calls"] == {"POST /v1/chat/completions": 2, "GET /v1/models": 2, "POST /v1/embeddings": 1}
    await simulation.control("POST", "reset")
    assert (await simulation.control("GET", "stats"))[1]["calls"] == {}


async def test_callers_that_invent_paths_are_counted_together_from_some_number_on(simulation):
    for number in range(1_010):
        await (await simulation.session.get(f"{simulation.url}/v1/invented/{number}")).release()
    calls = (await simulation.control("GET", "stats"))[1]["calls"]
    assert len(calls) == 1_001
    assert calls["others"] == 10

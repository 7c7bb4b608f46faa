"""What goes wrong on request, as in OpenAI's table of errors, and what is counted then."""

from __future__ import annotations

import asyncio

import aiohttp
import openai
import pytest
from quotapool.simulator.faults import CATALOGUE

HELLO = [{"role": "user", "content": "12345678"}]
CHAT = {"model": "gpt-4o", "messages": HELLO}

# name: (SDK exception, status, code, type, the message's beginning)
TABLE = {
    "invalid_api_key": (openai.AuthenticationError, 401, "invalid_api_key", "invalid_request_error",
                        "Incorrect API key provided: sk-sim-0"),
    "account_deactivated": (openai.AuthenticationError, 401, "account_deactivated", "invalid_request_error",
                            "The OpenAI account associated with this API key has been deactivated."),
    "access_terminated_403": (openai.PermissionDeniedError, 403, "access_terminated", "access_terminated",
                              "Your access was terminated due to violation of our policies"),
    "access_terminated_429": (openai.RateLimitError, 429, None, "access_terminated",
                              "Your access was terminated due to violation of our policies"),
    "insufficient_quota": (openai.RateLimitError, 429, "insufficient_quota", "insufficient_quota",
                           "You exceeded your current quota, please check your plan and billing details."),
    "credit_balance_exhausted": (openai.RateLimitError, 429, "credit_balance_exhausted", "insufficient_quota",
                                 "You have no credits remaining. Add credits"),
    "organization_spend_limit_exceeded": (openai.RateLimitError, 429, "organization_spend_limit_exceeded",
                                          "insufficient_quota", ""),
    "project_spend_limit_exceeded": (openai.RateLimitError, 429, "project_spend_limit_exceeded",
                                     "insufficient_quota", ""),
    "organization_usage_limit_exceeded": (openai.RateLimitError, 429, "organization_usage_limit_exceeded",
                                          "insufficient_quota", ""),
    "billing_not_active": (openai.RateLimitError, 429, "billing_not_active", "billing_not_active",
                           "Your account is not active, please check your billing details on our website."),
    "billing_hard_limit_reached": (openai.BadRequestError, 400, "billing_hard_limit_reached",
                                   "invalid_request_error", "Billing hard limit has been reached"),
    "ip_not_authorized": (openai.AuthenticationError, 401, "ip_not_authorized", "ip_not_authorized",
                          "Your IP is not authorized to make this request."),
    "country": (openai.PermissionDeniedError, 403, "unsupported_country_region_territory", "request_forbidden",
                "Country, region, or territory not supported"),
    "missing_scope": (openai.PermissionDeniedError, 403, "missing_scope", "invalid_request_error",
                      "You have insufficient permissions for this operation. Missing scopes: model.request."),
    "model_not_found": (openai.PermissionDeniedError, 403, "model_not_found", "invalid_request_error",
                        "Project `proj_sim_account-00` does not have access to model `gpt-4o`"),
    "slow_down": (openai.RateLimitError, 429, "slow_down", "rate_limit_error", ""),
    "overloaded_503": (openai.InternalServerError, 503, "server_is_overloaded", "service_unavailable_error", ""),
    "error_500": (openai.InternalServerError, 500, None, "server_error",
                  "The server had an error while processing your request."),
}  # fmt: skip
NOT_IN_THE_TABLE = {
    "html_403", "stream_error", "slow", "hang", "reset", "reset_mid_stream", "hold", "refusal", "content_filter"
}  # fmt: skip
DEAD_OR_MONEY = [name for name, fault in CATALOGUE.items() if fault.kind in {"dead", "money"}]


async def read_into(received: bytearray, content: aiohttp.StreamReader) -> None:
    async for piece in content.iter_any():
        received += piece


def test_every_fault_is_tested_here():
    assert set(CATALOGUE) == set(TABLE) | NOT_IN_THE_TABLE


@pytest.mark.parametrize("name", TABLE)
async def test_a_fault_answers_as_openai_does_and_spares_the_other_keys(simulation, name):
    exception, status, code, kind, message = TABLE[name]
    await simulation.fault(name)
    with pytest.raises(exception) as raised:
        await simulation.sdk().chat.completions.create(**CHAT)
    error = raised.value
    assert (error.status_code, error.code, error.type) == (status, code, kind)
    assert error.body["message"].startswith(message)
    assert ("retry-after" in error.response.headers) == (name in {"slow_down", "overloaded_503"})
    assert (await simulation.account())["faulted"] == {name: 1}
    await simulation.sdk(1).chat.completions.create(**CHAT)


async def test_cloudflares_page_is_html(simulation):
    await simulation.fault("html_403")
    answer, body = await simulation.post("/v1/chat/completions", CHAT)
    assert answer.status == 403
    assert answer.content_type == "text/html"
    assert body.startswith(b"<!DOCTYPE html>")


async def test_an_unknown_key_is_refused_with_a_masked_echo_only(simulation):
    with pytest.raises(openai.AuthenticationError) as raised:
        await simulation.sdk(api_key="sk-proj-abcdefghijklMxYA").models.list()
    assert raised.value.code == "invalid_api_key"
    assert "sk-proj-************MxYA" in raised.value.body["message"]
    assert "abcdefghijkl" not in raised.value.response.text


@pytest.mark.parametrize(
    ("document", "exception", "code"),
    [
        ({"model": "gpt-4o"}, openai.BadRequestError, "missing_required_parameter"),
        ({"model": "no-such-model", "messages": HELLO}, openai.NotFoundError, "model_not_found"),
        ({**CHAT, "max_tokens": "many"}, openai.BadRequestError, "invalid_type"),
    ],
)
async def test_the_callers_own_mistakes_raise_the_right_exception(simulation, document, exception, code):
    with pytest.raises(exception) as raised:
        await simulation.sdk().post("/chat/completions", body=document, cast_to=object)
    assert raised.value.code == code
    assert raised.value.type == "invalid_request_error"


async def test_malformed_json_is_a_400(simulation):
    headers = {"Authorization": f"Bearer {simulation.sdk().api_key}"}
    async with simulation.session.post(f"{simulation.url}/v1/responses", data=b'{"model":', headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("header", ["OpenAI-Organization", "OpenAI-Project"])
async def test_a_clients_organisation_header_that_does_not_fit_the_key_is_a_401(simulation, header):
    answer, body = await simulation.post("/v1/chat/completions", CHAT, **{header: "somebody-elses"})
    assert answer.status == 401
    assert b"mismatched_" in body


@pytest.mark.parametrize("name", DEAD_OR_MONEY)
async def test_attempts_after_death_are_counted_with_their_times_and_money_spares_the_models_list(simulation, name):
    await simulation.fault(name)
    for _ in range(2):
        with pytest.raises(openai.APIStatusError):
            await simulation.sdk().chat.completions.create(**CHAT)
    if CATALOGUE[name].kind == "money":
        assert (await simulation.sdk().models.list()).data
    account = await simulation.account()
    assert account["after_death"] == account["keys"][0]["after_death"] == 2
    assert 0 < account["after_death_first"] <= account["after_death_last"]
    assert account["admitted"] == (1 if CATALOGUE[name].kind == "money" else 0)


async def test_a_fault_may_start_later_hit_a_few_times_and_concern_one_model(simulation):
    await simulation.fault("error_500", after=1, count=2, model="gpt-4o")
    seen = [(await simulation.post("/v1/chat/completions", CHAT))[0].status for _ in range(5)]
    other = (await simulation.post("/v1/chat/completions", {**CHAT, "model": "gpt-4.1"}))[0].status
    assert (seen, other) == ([200, 500, 500, 200, 200], 200)


async def test_an_accounts_fault_hits_all_its_keys_until_it_is_cleared(simulate):
    simulation = await simulate([{"keys": ("sk-one-aaaaaaaa", "sk-two-bbbbbbbb")}])
    await simulation.control("POST", "accounts/account-00/fault", fault="account_deactivated")
    for secret in ("sk-one-aaaaaaaa", "sk-two-bbbbbbbb"):
        with pytest.raises(openai.AuthenticationError):
            await simulation.sdk(api_key=secret).models.list()
    await simulation.control("DELETE", "accounts/account-00/fault")
    assert (await simulation.sdk(api_key="sk-one-aaaaaaaa").models.list()).data


async def test_reset_closes_the_connection_without_an_answer(simulation):
    await simulation.fault("reset", count=1)
    with pytest.raises(openai.APIConnectionError):
        await simulation.sdk().chat.completions.create(**CHAT)
    assert (await simulation.sdk().chat.completions.create(**CHAT)).choices


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_reset_mid_stream_cuts_after_the_events_asked_for(simulation, path):
    await simulation.fault("reset_mid_stream", events=5)
    received = bytearray()
    headers = {"Authorization": f"Bearer {simulation.sdk().api_key}"}
    document = {**CHAT, "input": "hi", "stream": True}
    async with simulation.session.post(simulation.url + path, json=document, headers=headers) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(received, answer.content)
    assert received.count(b"data: ") == 5
    account = await simulation.account()
    assert (account["broken_streams"], account["completed"], account["open_streams"]) == (1, 0, 0)
    # five events: one role chunk and four words; or four opening events and one word
    assert account["completion_tokens"] == (4 if "chat" in path else 1)


async def test_reset_mid_stream_breaks_a_plain_answer_in_its_middle(simulation):
    await simulation.fault("reset_mid_stream")
    with pytest.raises(aiohttp.ClientPayloadError):
        await simulation.post("/v1/chat/completions", CHAT)


async def test_a_stream_error_comes_under_http_200_after_the_role_chunk(simulation):
    await simulation.fault("stream_error", code="rate_limit_exceeded")
    answer, body = await simulation.post("/v1/chat/completions", {**CHAT, "stream": True})
    first, second, rest = body.split(b"\n\n")
    assert answer.status == 200
    assert b'"role":"assistant"' in first
    assert second.startswith(b'data: {"error":{"message":')
    assert rest == b""
    with pytest.raises(openai.APIError) as raised:
        async for _ in await simulation.sdk().chat.completions.create(**CHAT, stream=True):
            pass
    assert raised.value.code == "rate_limit_exceeded"
    assert (await simulation.account())["total_tokens"] == 0


async def test_a_stream_error_ends_a_response_as_failed(simulation):
    await simulation.fault("stream_error")
    sdk = simulation.sdk()
    events = [event async for event in await sdk.responses.create(model="gpt-4o", input="hi", stream=True)]
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1].response.error.code == "server_error"
    assert (await sdk.responses.create(model="gpt-4o", input="hi")).status == "failed"


async def test_a_hanging_request_ends_when_its_client_gives_up_and_bills_nothing(simulation):
    await simulation.fault("hang")
    with pytest.raises(openai.APITimeoutError):
        await simulation.sdk(timeout=0.1).chat.completions.create(**CHAT)
    account = await simulation.account()
    assert (account["admitted"], account["completed"], account["total_tokens"]) == (1, 0, 0)


async def test_slow_adds_its_latency(simulation):
    await simulation.fault("slow", latency_ms=60_000)
    with pytest.raises(openai.APITimeoutError):
        await simulation.sdk(timeout=0.1).chat.completions.create(**CHAT)
    await simulation.fault("slow", latency_ms=1)
    assert (await simulation.sdk().chat.completions.create(**CHAT)).choices


# ---- answers that are held, refused, filtered


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_held_stream_stops_after_its_events_and_goes_on_when_it_is_released(simulation, path):
    await simulation.fault("hold", events=4)
    headers = {"Authorization": f"Bearer {simulation.sdk().api_key}"}
    document = {**CHAT, "input": "hi", "stream": True}
    received = bytearray()
    async with simulation.session.post(simulation.url + path, json=document, headers=headers) as answer:
        while received.count(b"data: ") < 4:
            received += await answer.content.readany()
        assert (await simulation.account())["open_streams"] == 1
        assert answer.content.read_nowait() == b""
        await simulation.control("DELETE", "keys/0/fault")
        await read_into(received, answer.content)
    assert b"[DONE]" in received or b"response.completed" in received
    account = await simulation.account()
    assert (account["completed"], account["completion_tokens"], account["cut_streams"]) == (1, 32, 0)


@pytest.mark.parametrize("release", ["another fault", "reset"])
async def test_a_plain_answer_is_held_as_a_whole_until_the_fault_is_replaced_or_reset(simulation, release):
    await simulation.fault("hold", count=1)
    held = asyncio.create_task(simulation.sdk().embeddings.create(model="text-embedding-3-small", input="1234"))
    async with asyncio.timeout(30):
        while (await simulation.account())["faulted"] != {"hold": 1}:
            await asyncio.sleep(0)
    # It was for one request: others are answered
    assert (await simulation.sdk().chat.completions.create(**CHAT)).choices
    assert not held.done()
    if release == "reset":
        await simulation.control("POST", "reset")
    else:
        await simulation.fault("slow", latency_ms=0)
    assert (await held).data


async def test_a_client_that_leaves_a_held_stream_is_counted_as_one_that_left(simulation):
    await simulation.fault("hold", events=5)
    headers = {"Authorization": f"Bearer {simulation.sdk().api_key}"}
    async with simulation.session.post(
        f"{simulation.url}/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers
    ) as answer:
        await answer.content.readany()
        answer.close()
    async with asyncio.timeout(30):
        while (await simulation.account())["open_streams"]:
            await asyncio.sleep(0)
    assert (await simulation.account())["cut_streams"] == 1


async def test_a_refusal_has_no_content_in_a_chat_plain_and_streamed(simulation):
    await simulation.fault("refusal")
    sdk = simulation.sdk()
    plain = await sdk.chat.completions.create(**CHAT)
    async with sdk.chat.completions.stream(**CHAT) as stream:
        streamed = await stream.get_final_completion()
    for message in (plain.choices[0].message, streamed.choices[0].message):
        assert (message.content or None, message.refusal) == (None, "I'm sorry, but I cannot help with that.")
    assert plain.choices[0].finish_reason == streamed.choices[0].finish_reason == "stop"
    assert plain.usage.completion_tokens == 10


async def test_a_refusal_is_a_part_of_a_completed_response_plain_and_streamed(simulation):
    await simulation.fault("refusal")
    sdk = simulation.sdk()
    plain = await sdk.responses.create(model="gpt-4o", input="hi")
    async with sdk.responses.stream(model="gpt-4o", input="hi") as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_response()
    for response in (plain, streamed):
        assert response.status == "completed"
        assert response.output[0].content[0].model_dump() == {
            "type": "refusal",
            "refusal": "I'm sorry, but I cannot help with that.",
        }
    assert kinds.count("response.refusal.delta") == 10
    assert "response.refusal.done" in kinds


async def test_the_content_filter_ends_an_answer_in_its_middle(simulation):
    await simulation.fault("content_filter")
    sdk = simulation.sdk()
    chat = await sdk.chat.completions.create(**CHAT)
    chunks = [chunk async for chunk in await sdk.chat.completions.create(**CHAT, stream=True)]
    legacy = await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="hi", max_tokens=100)
    assert chat.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "content_filter"
    assert legacy.choices[0].finish_reason == "content_filter"
    assert len(chat.choices[0].message.content.split()) == chat.usage.completion_tokens == 16
    response = await sdk.responses.create(model="gpt-4o", input="hi")
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "content_filter")

"""Sessions and the pool: which key they get, and what their responses cost.

Each account may have 1,000 requests and 1,000,000 tokens a day (`house.py`), so what was taken can be counted.
Event shapes: OpenAI's Realtime and Responses events (Python SDK 3.54, `types/realtime`, `types/responses`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from quotapool.domain.bucket import DIMENSIONS
from quotapool.domain.quantities import Certainty, Dimension, Usage
from quotapool.domain.request_record import AskedFor
from quotapool.domain.states import State
from quotapool.session import open as held

from tests.fakes.sessions import TEXT, Hall, Refused, heard, say

MODEL = "gpt-realtime"
TARGET = f"/v1/realtime?model={MODEL}"


async def tokens_taken(hall: Hall, account: str = "a", group: str = MODEL) -> int:
    """To the nearest ten."""
    return (await hall.house.taken(account, group))[1]


def refusal(status: int, code: str, kind: str = "invalid_request_error") -> bytes:
    body = json.dumps({"error": {"message": f"It says {code}.", "type": kind, "param": None, "code": code}}).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


# ---- which key


async def test_a_key_out_of_money_is_passed_over_before_the_client_notices(open_hall):
    hall = await open_hall({"a": 1, "b": 1})
    hall.upstream.refusals = [refusal(429, "credit_balance_exhausted", "insufficient_quota")]
    _, upstream = await hall.pair(TARGET)
    tried = [dict(fields)["Authorization"] for _, fields in hall.upstream.requests]
    assert len(set(tried)) == 2
    states = await hall.house.states()
    assert [(record.state, record.reason) for record in states.values()] == [
        (State.QUARANTINED, "credit_balance_exhausted")
    ]
    assert upstream.field("Authorization") == tried[1]


async def test_a_dead_key_is_removed_and_the_next_one_asked(open_hall):
    hall = await open_hall({"a": 1, "b": 1})
    hall.upstream.refusals = [refusal(401, "invalid_api_key")]
    await hall.pair(TARGET)
    assert [record.state for record in (await hall.house.states()).values()] == [State.REMOVED]


async def test_the_last_refusal_is_the_clients_answer_in_openais_form(open_hall):
    hall = await open_hall({"a": 1})
    hall.upstream.refusals = [refusal(400, "invalid_value")]
    with pytest.raises(Refused) as refused:
        await hall.connect(TARGET)
    assert (refused.value.status, json.loads(refused.value.body)["error"]["code"]) == (400, "invalid_value")
    assert dict(refused.value.fields)["x-quotapool-source"] == "upstream"


async def test_a_pool_without_money_says_so_with_a_status_and_not_with_a_close(open_hall):
    hall = await open_hall({"a": 1})
    hall.upstream.refusals = [refusal(429, "insufficient_quota", "insufficient_quota")]
    with pytest.raises(Refused) as refused:
        await hall.connect(TARGET)
    assert (refused.value.status, json.loads(refused.value.body)["error"]["code"]) == (429, "pool_credit_exhausted")


async def test_an_upstream_that_fails_is_asked_again(open_hall):
    hall = await open_hall({"a": 1})
    hall.upstream.refusals = [refusal(503, "server_is_overloaded"), b""]  # and one that only hangs up
    await hall.pair(TARGET)
    assert len(hall.upstream.requests) == 3


async def test_no_budget_for_a_session_is_a_429_with_the_wait(open_hall):
    hall = await open_hall({"a": 1}, limits={"default": {"rpm": 1}}, queue={"max_wait": 0})
    await hall.pair(TARGET)
    with pytest.raises(Refused) as refused:
        await hall.connect(TARGET)
    assert refused.value.status == 429
    assert 50 <= int(dict(refused.value.fields)["retry-after"]) <= 60  # one a minute


# ---- what it costs


DONE: dict[str, Any] = {
    "type": "response.done",
    "response": {
        "id": "resp_1",
        "status": "completed",
        "usage": {
            "total_tokens": 700,
            "input_tokens": 500,
            "output_tokens": 200,
            "input_token_details": {"text_tokens": 100, "audio_tokens": 400, "cached_tokens": 64},
            "output_token_details": {"text_tokens": 50, "audio_tokens": 150},
        },
    },
}


async def test_a_realtime_response_is_paid_with_what_it_used(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    await say(upstream, type="response.created", response={"id": "resp_1"})
    await say(upstream, **DONE)
    assert [(await heard(client))["type"], (await heard(client))["type"]] == ["response.created", "response.done"]
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall) == 700
    leg = hall.house.recorder.legs[-1]
    assert (leg.outcome, leg.usage.prompt, leg.usage.completion, leg.usage.cached_prompt) == ("ok", 500, 200, 64)
    # The session's own line says what all of it used.
    assert hall.ends.trips[0].attempts[0].usage.total == 700
    assert hall.ends.trips[0].status == 101
    # And each response is kept as a request of its own.
    (response,) = hall.house.recorder.responses
    assert response.id == f"{hall.ends.trips[0].id}.1"
    assert (response.status, response.code, response.model) == (200, "", hall.ends.trips[0].model)
    assert response.attempts == [leg]
    assert response.asked_for == AskedFor("", 0, max_wait_s=30.0)  # Realtime responses are paid afterwards
    assert leg.status == 200


async def test_usage_is_found_wherever_the_type_stands_in_an_event(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    event = {"response": DONE["response"], "event_id": "event_1", "type": "response.done"}
    await upstream.send(TEXT, json.dumps(event, indent=2).encode())
    assert (await heard(client)) == event
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall) == 700


async def test_words_of_a_model_that_look_like_an_event_cost_nothing(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    await say(upstream, type="response.output_text.delta", delta=json.dumps(DONE))
    await heard(client)
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall) == 0


async def test_a_transcription_is_paid_on_the_model_that_wrote_it(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    transcription = {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
    await say(upstream, type="session.updated", session={"model": MODEL, **transcription})
    usage = {"type": "tokens", "total_tokens": 30, "input_tokens": 21, "output_tokens": 9}
    await say(upstream, type="conversation.item.input_audio_transcription.completed", transcript="hi", usage=usage)
    await heard(client)
    await heard(client)
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall, group="gpt-4o-transcribe") == 30
    assert await tokens_taken(hall) == 0


async def test_rate_limits_that_upstream_shows_become_the_buckets(open_hall):
    hall = await open_hall({"a": 1}, limits={})
    client, upstream = await hall.pair(TARGET)
    limits = [
        {"name": "requests", "limit": 1000, "remaining": 900, "reset_seconds": 6.0},
        {"name": "tokens", "limit": 50_000, "remaining": 20_000, "reset_seconds": 36.0},
    ]
    await say(upstream, type="rate_limits.updated", rate_limits=limits)
    await heard(client)
    await hall.over_with(client, upstream)
    bucket = await hall.house.bucket("a", MODEL)
    level = bucket.level(DIMENSIONS.index(Dimension.TPM))
    assert 19_000 <= level <= 22_000  # it has refilled a little since


async def test_what_upstreams_limits_show_already_is_not_paid_twice(open_hall):
    hall = await open_hall({"a": 1}, limits={"default": {"tpm": 50_000}})
    client, upstream = await hall.pair(TARGET)
    await say(upstream, type="response.created", response={"id": "resp_1"})
    limits = [{"name": "tokens", "limit": 50_000, "remaining": 40_000, "reset_seconds": 12.0}]  # some are reserved
    await say(upstream, type="rate_limits.updated", rate_limits=limits)
    await heard(client)
    await heard(client)
    await hall.settled()
    await say(upstream, **DONE)  # 700 of them were used
    await heard(client)
    await hall.over_with(client, upstream)
    bucket = await hall.house.bucket("a", MODEL)
    assert bucket.level(DIMENSIONS.index(Dimension.TPM)) >= 39_900


async def test_money_that_runs_out_within_a_session_sets_its_account_aside_and_ends_it(open_hall, monkeypatch):
    monkeypatch.setattr(held, "_LOOK_S", 0.02)
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    error = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "You exceeded your current quota"}
    failed = {"id": "resp_1", "status": "failed", "status_details": {"type": "failed", "error": error}}
    await say(upstream, type="response.done", response=failed)
    assert (await heard(client))["response"] == failed  # the client hears it as upstream said it
    code, reason = await client.closed()
    assert (code, reason.partition(";")[0]) == (1012, "the upstream key of this session has left the pool")
    assert (await upstream.closed())[0] == 1001
    assert [record.state for record in (await hall.house.states()).values()] == [State.QUARANTINED]


async def test_a_callers_mistake_within_a_session_is_nobodys_fault(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    error = {"type": "invalid_request_error", "code": "invalid_value", "message": "Invalid value: 'x'."}
    await say(upstream, type="error", event_id="event_1", error=error)
    await heard(client)
    await hall.over_with(client, upstream)
    assert await hall.house.states() == {}
    assert [leg.outcome for leg in hall.house.recorder.legs] == ["ok"]  # the handshake's alone


async def test_a_rate_limit_within_a_session_cools_the_account_for_that_model(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair(TARGET)
    error = {
        "type": "tokens",
        "code": "rate_limit_exceeded",
        "message": "Rate limit reached. Please try again in 6.9s.",
    }
    await say(
        upstream, type="response.done", response={"id": "r", "status": "failed", "status_details": {"error": error}}
    )
    await heard(client)
    await hall.over_with(client, upstream)
    assert 5 <= await hall.house.rests_s("a", MODEL) < 7


# ---- responses over a WebSocket


def create(tokens: int, **more: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": "gpt-4o", "input": "hi", "max_output_tokens": tokens, **more}


def finished(response_id: str, used: int, **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": used - 10, "output_tokens": 10, "total_tokens": used}
    return {"type": "response.completed", "response": {"id": response_id, "usage": usage}, **more}


async def test_each_create_takes_its_estimate_and_is_settled_with_what_it_used(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(5000))
    assert await heard(upstream) == create(5000)
    await hall.settled()
    assert await tokens_taken(hall, group="gpt-4o") == 5000
    await say(upstream, type="response.created", response={"id": "resp_1", "model": "gpt-4o"})
    await say(upstream, **finished("resp_1", 120))
    await heard(client)
    await heard(client)
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall, group="gpt-4o") == 120
    assert hall.house.is_idle()


async def test_what_the_image_tool_used_is_booked_on_the_model_that_drew(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(5000))
    await heard(upstream)
    await say(upstream, type="response.created", response={"id": "resp_1", "model": "gpt-4o"})
    event = finished("resp_1", 120)
    event["response"]["tool_usage"] = {"image_gen": {"input_tokens": 27, "output_tokens": 7024}}
    event["response"]["tools"] = [{"type": "image_generation", "model": "gpt-image-2"}]
    await say(upstream, **event)
    await heard(client)
    await heard(client)
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall, group="gpt-4o") == 120
    by_tools = [leg.usage.by_tools for leg in hall.house.recorder.legs if leg.usage is not None and leg.usage.by_tools]
    assert by_tools == [(("gpt-image-2", Usage(Certainty.EXACT, 27, 7024)),)]


@pytest.mark.parametrize("kind", ["error", "response.output_text.delta", "session.updated", "of.tomorrow"])
async def test_an_event_that_repeats_the_key_is_cleaned(open_hall, kind):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    secret = hall.house.secrets["a1"]
    await say(upstream, type=kind, error={"message": f"odd: {secret}", "code": "x"})
    event = await heard(client)
    assert event["type"] == kind
    assert secret not in str(event)
    await hall.over_with(client, upstream)


async def test_a_stored_prompt_that_chooses_the_model_has_limits_of_its_own_until_upstream_tells_the_model(open_hall):
    hall = await open_hall({"a": 1})
    told: list[tuple[str, int]] = []
    hall.house.recorder.attempted = lambda leg, trip: told.append((trip.model, leg.status))
    client, upstream = await hall.pair("/v1/responses")
    asked = {"type": "response.create", "prompt": {"id": "pmpt_1"}, "input": "hi", "max_output_tokens": 5000}
    await say(client, **asked)
    assert await heard(upstream) == asked
    await hall.settled()
    assert await tokens_taken(hall, group="pmpt_1") == 5000
    await say(upstream, type="response.created", response={"id": "resp_1", "model": "gpt-4o-2024-08-06"})
    await say(upstream, **finished("resp_1", 120))
    await heard(client)
    await heard(client)
    await hall.over_with(client, upstream)
    assert await tokens_taken(hall, group="pmpt_1") == 120
    assert told[-1] == ("gpt-4o-2024-08-06", 200)  # whose price it has, and by whose name it is booked


async def test_responses_of_several_lanes_are_told_apart(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(5000, stream_id="one"))
    await say(client, **create(7000, stream_id="two"))
    for _ in range(2):
        await heard(upstream)
    await say(upstream, type="response.created", response={"id": "resp_2"}, stream_id="two")
    await say(upstream, type="error", status=400, error={"code": "invalid_value", "message": "no"}, stream_id="one")
    await say(upstream, **finished("resp_2", 50, stream_id="two"))
    for _ in range(3):
        await heard(client)
    await hall.over_with(client, upstream)
    # The refused one is given back (a caller's mistake did no work), the other one used 50.
    assert await tokens_taken(hall, group="gpt-4o") == 50


@pytest.mark.parametrize("lanes", [1, 1000])
async def test_responses_that_upstream_never_begins_fill_no_memory(open_hall, lanes):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    for n in range(1000):
        await say(client, type="response.create", stream_id=f"s{n % lanes}", model=7)  # which upstream would refuse
        await heard(upstream)
    ((session,),) = [hall.sessions._open._open]
    assert sum(map(len, session.meter._asked.values())) <= 64
    await hall.over_with(client, upstream)


async def test_a_create_beyond_the_budget_waits_in_the_queue_and_keeps_its_place(open_hall, fast_time):
    hall = await open_hall({"a": 1}, limits={"default": {"tpm": 60_000}}, queue={"max_wait": 10})  # 1,000 a second
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(60_000))
    await heard(upstream)
    await say(client, **create(500))  # there is room for it in half a second
    await say(client, type="response.steer", response_id="resp_1")  # behind it, and must not overtake it
    await client.send(9, b"still there?")
    assert await client.receive() == (10, b"still there?")  # while it waits
    assert (await heard(upstream))["max_output_tokens"] == 500
    assert (await heard(upstream))["type"] == "response.steer"


async def test_a_create_that_would_wait_too_long_is_refused_as_openai_would(open_hall, fast_time):
    hall = await open_hall({"a": 1}, limits={"default": {"tpm": 1000}}, queue={"max_wait": 0.1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(900))
    await heard(upstream)
    await say(client, **create(800, stream_id="lane"))
    event = await heard(client)
    assert (event["type"], event["status"], event["stream_id"]) == ("error", 429, "lane")
    assert event["error"]["code"] == "rate_limit_exceeded"
    assert "Please try again in" in event["error"]["message"]
    await say(client, type="anything else")
    assert (await heard(upstream))["type"] == "anything else"  # the session goes on


async def test_a_create_larger_than_the_whole_budget_is_refused_at_once(open_hall):
    hall = await open_hall({"a": 1}, limits={"default": {"tpm": 1000}})
    client, _ = await hall.pair("/v1/responses")
    await say(client, **create(2000))
    event = await heard(client)
    assert (event["status"], event["error"]["code"]) == (429, "request_too_large_for_pool")


async def test_a_create_that_cannot_be_read_is_upstreams_to_refuse(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, type="response.create", input="no model")
    assert (await heard(upstream))["input"] == "no model"


async def test_a_session_that_ends_under_its_responses_keeps_them_charged(open_hall):
    hall = await open_hall({"a": 1})
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(5000))
    await heard(upstream)
    upstream.vanish()
    await client.closed()
    await hall.over()
    assert await tokens_taken(hall, group="gpt-4o") == 5000  # nobody knows better
    assert hall.house.is_idle()


# ---- secrets


async def test_a_key_that_upstream_repeats_goes_no_further(open_hall):
    hall = await open_hall({"a": 1})
    secret = hall.house.secrets["a1"]
    client, upstream = await hall.pair(TARGET)
    error = {"type": "invalid_request_error", "code": "invalid_value", "message": f"What is {secret}?"}
    await say(upstream, type="error", error=error)
    assert secret not in json.dumps(await heard(client))
    await upstream.close(4000, f"never heard of {secret}")
    code, reason = await client.closed()
    assert code == 4000
    assert reason.startswith("never heard of ")
    assert secret[:12] not in reason


async def test_nothing_goes_up_behind_a_close(open_hall, fast_time):
    hall = await open_hall({"a": 1}, limits={"default": {"tpm": 60_000}}, queue={"max_wait": 10})  # 1,000 a second
    client, upstream = await hall.pair("/v1/responses")
    await say(client, **create(60_000))
    await heard(upstream)
    await say(client, **create(500))  # has to wait for half a second
    await client.close(1000)
    assert await upstream.closed() == (1000, "")
    await asyncio.sleep(0.7)
    await upstream.close(1000)
    assert await client.closed() == (1000, "")
    assert await upstream.ended()
    await hall.over()
    assert hall.house.is_idle()


# ---- what a client may use


async def test_a_client_with_a_list_of_models_gets_sessions_and_responses_with_those_alone(open_hall):
    key = "a-key-of-sixteen-or-more"
    clients = [{"id": "ann", "key": key, "models": ["gpt-4o*"]}]
    hall = await open_hall({"a": 1}, clients=clients)
    header = f"Authorization: Bearer {key}"
    for target in ("/v1/realtime?model=gpt-realtime", "/v1/realtime"):
        with pytest.raises(Refused) as refused:
            await hall.connect(target, header)
        assert (refused.value.status, json.loads(refused.value.body)["error"]["code"]) == (403, "model_not_allowed")
    await hall.pair("/v1/realtime?model=gpt-4o-realtime", header)
    client, upstream = await hall.pair("/v1/responses", header)
    await say(client, **{**create(10), "model": "o3"})
    event = await heard(client)
    assert (event["status"], event["error"]["code"]) == (403, "model_not_allowed")
    await say(client, **create(10))
    assert (await heard(upstream))["model"] == "gpt-4o"


@pytest.mark.parametrize("fields", [(), ("Authorization: Bearer not-a-key",), ("Sec-WebSocket-Protocol: realtime",)])
async def test_without_a_proxy_key_where_one_is_wanted_there_is_no_session(open_hall, fields):
    hall = await open_hall({"a": 1}, clients=[{"id": "ann", "key": "the-key-of-ann-00001"}])
    with pytest.raises(Refused) as refused:
        await hall.connect(TARGET, *fields)
    assert refused.value.status == 401
    protocols = "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.the-key-of-ann-00001"
    client, _ = await hall.pair(TARGET, protocols)
    assert client.field("Sec-WebSocket-Protocol") == "realtime"


async def test_a_web_page_of_another_origin_cannot_open_a_session_on_an_open_proxy(open_hall):
    hall = await open_hall({"a": 1})
    with pytest.raises(Refused) as refused:
        await hall.connect(TARGET, "Origin: https://evil.example")
    assert (refused.value.status, hall.upstream.requests) == (403, [])

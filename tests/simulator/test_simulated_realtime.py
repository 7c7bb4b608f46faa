"""The simulator's sessions: the events of Realtime and of Responses over a WebSocket, and its faults."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from quotapool.simulator import simulated_secret

TARGET = "/v1/realtime?model=gpt-realtime"
ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 40}]}


class Talk:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **fields}))

    async def until(self, *last: str) -> list[dict[str, Any]]:
        events = []
        while True:
            events.append(json.loads(await self.socket.receive_str(timeout=30)))
            if events[-1]["type"] in last:
                return events


async def talk_to(simulation: Any, target: str = TARGET, **options: Any) -> Talk:
    options.setdefault("headers", {"Authorization": f"Bearer {simulated_secret(0)}"})
    return Talk(await simulation.session.ws_connect(simulation.url + target, **options))


async def test_a_response_from_its_creation_to_its_usage(simulation):
    talk = await talk_to(simulation)
    created = (await talk.until("session.created"))[0]
    assert created["session"]["model"] == "gpt-realtime"
    await talk.say("conversation.item.create", item=ITEM)
    await talk.say("response.create")
    events = await talk.until("response.done")
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["conversation.item.added", "conversation.item.done", "response.created"]
    response = events[-1]["response"]
    deltas = kinds.count("response.output_text.delta")
    assert response["usage"]["output_tokens"] == deltas  # a delta is a token
    assert response["usage"]["input_tokens"] == 10  # 40 characters are 10 tokens
    assert (await simulation.account())["completion_tokens"] == deltas


async def test_rate_limits_show_what_the_response_has_reserved(simulate):
    simulation = await simulate([{"rpm": 100, "tpm": 10_000}])
    talk = await talk_to(simulation)
    await talk.say("response.create", response={"max_output_tokens": 4_000})
    limits = (await talk.until("rate_limits.updated"))[-1]["rate_limits"]
    tokens = next(limit for limit in limits if limit["name"] == "tokens")
    assert (tokens["limit"], tokens["remaining"]) == (10_000, 6_000)
    await talk.say("response.create", response={"max_output_tokens": 20_000})
    await talk.until("response.done")
    failed = (await talk.until("response.done"))[-1]["response"]
    assert (failed["status"], failed["status_details"]["error"]["code"]) == ("failed", "rate_limit_exceeded")


async def test_audio_becomes_an_item_and_its_text_has_a_usage_of_its_own(simulation):
    talk = await talk_to(simulation)
    await talk.say("session.update", session={"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}})
    await talk.say("input_audio_buffer.append", audio="AAAA" * 8_000)  # 24,000 bytes: half a second
    await talk.say("input_audio_buffer.commit")
    done = (await talk.until("conversation.item.input_audio_transcription.completed"))[-1]
    assert done["usage"]["input_tokens"] == 5


async def test_keys_by_header_and_by_subprotocol_and_none(simulation):
    protocols = ("realtime", f"openai-insecure-api-key.{simulated_secret(0)}")
    talk = await talk_to(simulation, headers={}, protocols=protocols)
    assert talk.socket.protocol == "realtime"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await talk_to(simulation, headers={})
    assert refused.value.status == 401


async def test_a_fault_before_the_session_refuses_it_and_one_within_fails_a_response(simulation):
    talk = await talk_to(simulation)
    await simulation.fault("insufficient_quota")
    await talk.say("response.create")
    failed = (await talk.until("response.done"))[-1]["response"]
    assert failed["status_details"]["error"]["code"] == "insufficient_quota"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await talk_to(simulation)
    assert refused.value.status == 429


async def test_responses_over_a_websocket_have_the_events_of_a_stream_and_their_lane(simulation):
    talk = await talk_to(simulation, "/v1/responses")
    await talk.say("response.create", model="gpt-4o", input="hello", stream_id="lane")
    events = await talk.until("response.completed", "response.incomplete")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert {event["stream_id"] for event in events} == {"lane"}
    await talk.say("response.create", input="no model")
    refusal = (await talk.until("error"))[-1]
    assert refusal["status"] == 400


async def test_a_session_continues_what_it_made_although_nothing_is_stored_and_no_other_session_can(simulation):
    one, other = await talk_to(simulation, "/v1/responses"), await talk_to(simulation, "/v1/responses")
    await one.say("response.create", model="gpt-4o", input="hello", store=False)
    made = (await one.until("response.completed"))[-1]["response"]
    item = {"type": "item_reference", "id": made["output"][0]["id"]}
    more = {"model": "gpt-4o", "input": [item], "previous_response_id": made["id"], "store": False}
    await one.say("response.create", **more)
    assert (await one.until("response.completed", "error"))[-1]["type"] == "response.completed"
    await other.say("response.create", **more)
    assert (await other.until("response.completed", "error"))[-1]["error"]["code"] == "previous_response_not_found"


async def test_a_response_over_a_websocket_is_stored_unless_it_says_otherwise(simulation):
    one, other = await talk_to(simulation, "/v1/responses"), await talk_to(simulation, "/v1/responses")
    await one.say("response.create", model="gpt-4o", input="hello")
    made = (await one.until("response.completed"))[-1]["response"]["id"]
    await other.say("response.create", model="gpt-4o", input="go on", previous_response_id=made)
    assert (await other.until("response.completed", "error"))[-1]["type"] == "response.completed"


async def test_closes_and_disappearances_on_demand(simulation):
    talk = await talk_to(simulation)
    await talk.until("session.created")
    await talk.say("simulator.close", code=4001, reason="enough")
    message = await talk.socket.receive(timeout=30)
    assert (message.data, message.extra) == (4001, "enough")
    talk = await talk_to(simulation)
    await talk.until("session.created")
    await talk.say("simulator.vanish")
    assert (await talk.socket.receive(timeout=30)).type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR}

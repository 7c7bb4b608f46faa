"""Events on OpenAI's WebSockets: shapes of the Python SDK 3.54 (`types/realtime`, `types/responses`, `types/live`)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.quantities import Certainty
from quotapool.openai.session_events import RELEVANT, read_create, read_event, refusal_event, type_of


def event(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"response.done","event_id":"e"}',
        b'{"event_id":"event_1","type":"response.done"}',
        b' \n{ "type" : "response.done" }',
        b'{"response":{"type":"x"},"type":"response.done"}',
        b'{"event_id":"quoted \\" \\"type\\":\\"error\\"","type":"response.done"}',
    ],
)
def test_the_type_is_that_of_the_outermost_object(payload):
    assert type_of(payload) == type_of(bytearray(payload)) == "response.done"


@pytest.mark.parametrize(
    "payload", [b"", b"no json", b"[]", b"{}", b'{"type":1}', b'{"type":', b"\xff\xfe", b"[" * 5000]
)
def test_what_is_not_an_event_has_no_type(payload):
    assert type_of(payload) == ""
    assert read_event(payload) is None or read_event(payload).usage is None


@given(st.binary(max_size=200))
def test_nothing_that_upstream_sends_raises(payload):
    type_of(payload)
    read_event(payload)
    read_create(payload)


def test_the_usage_of_a_realtime_response_with_its_parts():
    usage = {
        "total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
        "input_token_details": {
            "text_tokens": 119, "audio_tokens": 13, "image_tokens": 0, "cached_tokens": 64,
            "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
    }  # fmt: skip
    facts = read_event(event(type="response.done", response={"id": "resp_1", "status": "completed", "usage": usage}))
    assert (facts.response, facts.failed) == ("resp_1", False)
    assert facts.usage.certainty is Certainty.EXACT
    assert (facts.usage.prompt, facts.usage.completion, facts.usage.cached_prompt) == (132, 121, 64)
    assert (facts.usage.details.audio_prompt, facts.usage.details.audio_completion) == (13, 91)


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_the_end_of_a_response_in_a_lane(kind):
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    response = {"id": "resp_1", "model": "gpt-4o", "service_tier": "flex", "usage": usage}
    facts = read_event(event(type=kind, stream_id="lane", response=response))
    assert (facts.response, facts.lane, facts.model) == ("resp_1", "lane", "gpt-4o")
    assert (facts.usage.total, facts.usage.tier, facts.failed) == (15, "flex", kind == "response.failed")


def test_a_transcription_by_tokens_and_one_by_the_second():
    kind = "conversation.item.input_audio_transcription.completed"
    usage = {"type": "tokens", "input_tokens": 14, "output_tokens": 2, "total_tokens": 16}
    assert read_event(event(type=kind, usage=usage)).usage.total == 16
    assert read_event(event(type=kind, usage={"type": "duration", "seconds": 3.5})).usage.details.seconds == 3.5


def test_rate_limits_by_name_and_only_whole_ones():
    limits = [
        {"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 60},
        {"name": "tokens", "limit": 50000, "remaining": 49950, "reset_seconds": 60},
        {"name": "tokens", "limit": None, "remaining": 1},
        {"name": "tokens", "limit": -5, "remaining": 1},
        "nonsense",
    ]
    facts = read_event(event(type="rate_limits.updated", rate_limits=limits))
    assert facts.limits == (("requests", 1000.0, 999.0), ("tokens", 50000.0, 49950.0))


@pytest.mark.parametrize(
    "session",
    [
        {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}},
        {"input_audio_transcription": {"model": "gpt-4o-transcribe"}},  # before the general release
    ],
)
def test_a_session_names_its_models(session):
    facts = read_event(event(type="session.created", session={"model": "gpt-realtime", **session}))
    assert (facts.model, facts.transcriber) == ("gpt-realtime", "gpt-4o-transcribe")


def test_live_counts_seconds_and_wraps_the_events_of_responses():
    assert read_event(event(type="session.usage.updated", usage={"seconds": 12.5})).seconds == 12.5
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    inner = {"type": "response.completed", "response": {"id": "resp_1", "usage": usage}}
    facts = read_event(event(type="response.event", delegation_id="d", event=inner))
    assert (facts.type, facts.usage.total) == ("response.completed", 15)


def test_deltas_are_not_among_the_events_that_are_read():
    assert not {"response.output_audio.delta", "response.output_text.delta", "response.output_item.added"} & RELEVANT


def test_a_refusal_has_the_form_of_openais_own():
    body = b'{"error":{"message":"Wait.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}'
    assert json.loads(refusal_event(429, body, "lane")) == {
        "type": "error",
        "status": 429,
        "error": {"message": "Wait.", "type": "tokens", "param": None, "code": "rate_limit_exceeded"},
        "stream_id": "lane",
    }
    assert "stream_id" not in json.loads(refusal_event(429, body, ""))

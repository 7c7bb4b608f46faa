"""The official Python SDK reads the same objects from an answer and from what a replay makes of it."""

from __future__ import annotations

import asyncio
import json

import httpx2
import pytest
from hypothesis import given, settings
from openai import AsyncOpenAI, OpenAI
from openai.lib.streaming.chat import ChatCompletionStreamState
from quotapool.openai.replay import EVENT_STREAM, JSON, Form, Replay

from tests.fakes.answers import chat_answers, chat_streams, completion_answers, responses

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # for made-up members
EXAMPLES = settings(max_examples=40)
ASKED = {
    "chat": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "hi"},
    "responses": {"model": "gpt-4.1", "input": "hi"},
}


def answering(body, content_type):
    """An SDK client whose every call is answered with these bytes."""

    def answer(_):
        return httpx2.Response(200, content=body, headers={"Content-Type": content_type})

    return {"api_key": "x", "base_url": "http://upstream.example/v1", "max_retries": 0}, httpx2.MockTransport(answer)


def client_of(body, content_type):
    options, transport = answering(body, content_type)
    return OpenAI(**options, http_client=httpx2.Client(transport=transport))


def endpoint(client, kind):
    return {"chat": client.chat.completions, "completions": client.completions, "responses": client.responses}[kind]


def read_whole(kind, body):
    return plain(endpoint(client_of(body, JSON), kind).create(**ASKED[kind]))


def read_stream(kind, body):
    """What the SDK's own accumulator makes of the stream; for completions it has none."""
    client = client_of(body, EVENT_STREAM)
    if kind == "responses":
        with client.responses.stream(**ASKED[kind]) as stream:
            events = list(stream)
        return plain(events[-1].response)
    if kind == "chat":
        state = ChatCompletionStreamState()
        for chunk in client.chat.completions.create(**ASKED[kind], stream=True):
            state.handle_chunk(chunk)
        return plain(state.current_completion_snapshot)
    return joined(list(client.completions.create(**ASKED[kind], stream=True)))


def joined(chunks):
    """The chunks of a completion as one."""
    told = [chunk.to_dict() for chunk in chunks]
    whole = {**told[0], "choices": {}, "usage": None}
    for chunk in told:
        whole["usage"] = chunk.get("usage") or whole["usage"]
        for choice in chunk["choices"]:
            known = whole["choices"].setdefault(choice["index"], {**choice, "text": "", "logprobs": None})
            known["text"] += choice["text"]
            known["finish_reason"] = choice["finish_reason"] or known["finish_reason"]
            for name, values in (choice["logprobs"] or {}).items():
                known["logprobs"] = known["logprobs"] or {}
                known["logprobs"][name] = ((known["logprobs"].get(name) or []) + values) if values is not None else None
    return bare({**whole, "choices": [whole["choices"][index] for index in sorted(whole["choices"])]})


def plain(answer):
    return bare(answer.to_dict())


def bare(value):
    """Without what the SDK adds by itself, and without members that are null: as attributes these are the same."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {name: bare(one) for name, one in value.items() if one is not None and not name.startswith("parsed")}
    if {"id", "type", "index"} <= kept.keys():
        del kept["index"]  # of a tool call, which the accumulator leaves in
    return kept


def replayed(kind, recorded, form, *, streamed):
    """Piece by piece, one byte each."""
    replay = Replay(kind, form, streamed=streamed, usage=True)
    given_out = [replay.feed(recorded[at : at + 1]) for at in range(len(recorded))]
    return b"".join([*given_out, replay.finish()])


def check(kind, answer):
    text = json.dumps(answer).encode()
    wanted = read_whole(kind, text)
    stream = replayed(kind, text, Form.JSON, streamed=True)
    assert read_stream(kind, stream) == wanted
    assert read_whole(kind, replayed(kind, stream, Form.EVENTS, streamed=False)) == wanted


@EXAMPLES
@given(chat_answers())
def test_chat_from_an_answer(answer):
    check("chat", answer)


@EXAMPLES
@given(completion_answers())
def test_completions_from_an_answer(answer):
    check("completions", answer)


@EXAMPLES
@given(responses())
def test_responses_from_an_answer(answer):
    check("responses", answer)


@EXAMPLES
@given(chat_streams())
def test_chat_from_a_stream(case):
    """`annotations`: [] in a whole answer, absent in a stream."""
    _, stream = case
    wanted = read_stream("chat", stream)
    told = read_whole("chat", replayed("chat", stream, Form.EVENTS, streamed=False))
    for choice in told["choices"]:
        assert choice["message"].pop("annotations") == []
    assert told == wanted


@EXAMPLES
@given(responses())
def test_the_deltas_of_a_response_amount_to_its_items(answer):
    stream = replayed("responses", json.dumps(answer).encode(), Form.JSON, streamed=True)
    written = {}
    items = {}
    with client_of(stream, EVENT_STREAM).responses.stream(**ASKED["responses"]) as told:
        for event in told:
            if event.type.endswith(".delta"):
                key = (event.output_index, event.type.split(".")[1], getattr(event, "content_index", None))
                key += (getattr(event, "summary_index", None),)
                written[key] = written.get(key, "") + event.delta
            elif event.type == "response.output_item.done":
                items[event.output_index] = event.item.to_dict()
    assert [items[index] for index in range(len(items))] == answer["output"]
    expected = {}
    for index, item in enumerate(answer["output"]):
        parts = [(part, number, None) for number, part in enumerate(item.get("content") or [])]
        parts += [(part, None, number) for number, part in enumerate(item.get("summary") or [])]
        for part, content, summary in parts:
            name = {"summary_text": "reasoning_summary_text"}.get(part["type"], part["type"])
            expected[index, name, content, summary] = part.get("text", part.get("refusal"))
        if "id" in item and item["type"] == "function_call":
            expected[index, "function_call_arguments", None, None] = item["arguments"]
        if "id" in item and item["type"] == "custom_tool_call":
            expected[index, "custom_tool_call_input", None, None] = item["input"]
    assert written == {key: text for key, text in expected.items() if text}


def test_the_asynchronous_client_reads_the_same():
    answer = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hi 🙂", "refusal": None, "annotations": []},
             "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }  # fmt: skip
    text = json.dumps(answer).encode()
    stream = replayed("chat", text, Form.JSON, streamed=True)

    async def read():
        options, transport = answering(stream, EVENT_STREAM)
        async with (
            AsyncOpenAI(**options, http_client=httpx2.AsyncClient(transport=transport)) as client,
            client.chat.completions.stream(**ASKED["chat"]) as told,
        ):
            return plain(await told.get_final_completion())

    assert asyncio.run(read()) == read_whole("chat", text)

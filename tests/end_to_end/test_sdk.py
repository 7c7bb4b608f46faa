"""The official openai SDK, unchanged but for its base_url, finds behind the proxy what it finds behind OpenAI."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fakes.processes import RunningProxy, pool_config
from tests.fakes.running import running_proxy, running_simulator

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
RESPONSES_TOOL = {"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}
Call = Callable[[Any], Any]
Ask = Callable[[Call], Any]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with (
        running_simulator(2) as simulator,
        running_proxy(tmp_path_factory.mktemp("sdk"), pool_config(simulator)) as running,
    ):
        yield running


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, proxy: RunningProxy) -> Ask:
    """`ask(call)` gives `call` a client, of either kind, and returns what came of it: streams as lists of events."""
    options: dict[str, Any] = {"base_url": proxy.base_url, "api_key": "anything", "max_retries": 0}

    def with_sync(call: Call) -> Any:
        with OpenAI(**options) as client:
            result = call(client)
            return list(result) if hasattr(result, "__iter__") and hasattr(result, "response") else result

    async def with_async(call: Call) -> Any:
        async with AsyncOpenAI(**options) as client:
            result: Any = call(client)
            if inspect.isawaitable(result):
                result = await result
            streams = hasattr(result, "__aiter__") and not hasattr(result, "data")
            return [event async for event in result] if streams else result

    return with_sync if request.param == "sync" else lambda call: asyncio.run(with_async(call))


def test_a_chat_is_answered_with_its_usage(ask):
    answer = ask(lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=HELLO))
    assert answer.choices[0].message.content.startswith("Simulated answer")
    assert answer.choices[0].finish_reason == "stop"
    # "hello" is 5 characters, 2 tokens of 4; the simulator answers with 32.
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 32, 34)


def test_several_choices_come_back_as_several(ask):
    answer = ask(lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, n=3))
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 96


def test_a_stream_tells_the_same_as_the_plain_answer(ask):
    plain = ask(lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=HELLO))
    chunks = ask(lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"


def test_a_stream_that_was_not_asked_for_usage_has_none_anywhere(ask):
    chunks = ask(lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)
    assert all(len(chunk.choices) == 1 for chunk in chunks)


def test_a_stream_that_was_asked_for_usage_has_it_once_and_last(ask):
    chunks = ask(
        lambda client: client.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [34]
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_a_tool_is_called_and_its_result_is_taken(ask):
    first = ask(
        lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, tools=[CHAT_TOOL])
    ).choices[0]
    assert first.finish_reason == "tool_calls"
    call = first.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "simulated"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    messages = [*HELLO, first.message.model_dump(exclude_none=True), result]
    second = ask(
        lambda client: client.chat.completions.create(model="gpt-4o-mini", messages=messages, tools=[CHAT_TOOL])
    )
    assert second.choices[0].finish_reason == "stop"


def test_a_streamed_tool_call_arrives_whole(ask):
    chunks = ask(
        lambda client: client.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, tools=[CHAT_TOOL], stream=True
        )
    )
    parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert parts[0].function.name == "get_weather"
    assert json.loads("".join(part.function.arguments for part in parts)) == {"city": "simulated"}


def test_a_response_is_answered_with_its_usage(ask):
    answer = ask(lambda client: client.responses.create(model="gpt-4o-mini", input="hello"))
    assert answer.status == "completed"
    assert answer.output_text.startswith("Simulated answer")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 32)


def test_a_streamed_response_keeps_its_events_in_order(ask):
    events = ask(lambda client: client.responses.create(model="gpt-4o-mini", input="hello", stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text
    assert events[-1].response.usage.total_tokens == 34


def test_a_response_calls_a_tool(ask):
    answer = ask(lambda client: client.responses.create(model="gpt-4o-mini", input="hello", tools=[RESPONSES_TOOL]))
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("get_weather", {"city": "simulated"})]


def test_a_raw_response_shows_upstreams_headers_and_the_proxys_own(ask):
    raw = ask(lambda client: client.responses.with_raw_response.create(model="gpt-4o-mini", input="hello"))
    assert raw.status_code == 200
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-quotapool-request-id"].startswith("qp-")
    assert raw.headers["x-quotapool-source"] == "upstream"
    assert raw.headers["openai-version"] == "2020-10-01"
    assert "set-cookie" not in raw.headers
    # The pool's own: two keys of 500 a minute each, less what was used.
    assert raw.headers.get("x-ratelimit-limit-requests") in {None, "500", "1000"}  # None: nobody has said it yet
    assert "openai-organization" not in raw.headers
    assert raw.parse().output_text.startswith("Simulated answer")


def test_a_streaming_response_can_be_read_line_by_line(proxy):
    with (
        OpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0) as client,
        client.responses.with_streaming_response.create(model="gpt-4o-mini", input="hello", stream=True) as response,
    ):
        lines = [line for line in response.iter_lines() if line.startswith("event: ")]
    assert lines[0] == "event: response.created"
    assert lines[-1] == "event: response.completed"


async def test_a_streaming_response_can_be_read_asynchronously(proxy):
    async with (
        AsyncOpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0) as client,
        client.responses.with_streaming_response.create(model="gpt-4o-mini", input="hello") as response,
    ):
        assert json.loads(await response.text())["status"] == "completed"


def test_completions_are_answered_plain_and_streamed(ask):
    plain = ask(lambda client: client.completions.create(model="gpt-3.5-turbo-instruct", prompt="hello"))
    chunks = ask(lambda client: client.completions.create(model="gpt-3.5-turbo-instruct", prompt="hello", stream=True))
    assert plain.usage.total_tokens > 2
    assert "".join(chunk.choices[0].text for chunk in chunks) == plain.choices[0].text


def test_embeddings_are_the_same_as_floats_and_as_base64(ask):
    def embed(encoding: str | None) -> Call:
        extra = {"encoding_format": encoding} if encoding else {}
        return lambda client: client.embeddings.create(model="text-embedding-3-small", input=["a", "b"], **extra)

    floats = ask(embed("float"))
    decoded = ask(embed(None))  # the SDK asks for base64 by itself and decodes it
    assert [len(item.embedding) for item in floats.data] == [1536, 1536]
    for exact, packed in zip(floats.data, decoded.data, strict=True):
        assert math.isclose(sum(value * value for value in exact.embedding), 1.0, rel_tol=1e-6)
        assert exact.embedding == pytest.approx(packed.embedding, abs=1e-6)
    assert isinstance(ask(embed("base64")).data[0].embedding, str)


def test_moderations_and_models_are_answered(ask):
    assert ask(lambda client: client.moderations.create(input="hello")).results[0].flagged is False
    listed: Any = ask(lambda client: client.models.list())
    assert "gpt-4o-mini" in [model.id for model in listed.data]
    assert ask(lambda client: client.models.retrieve("gpt-4o")).id == "gpt-4o"


async def test_many_clients_at_once_each_get_their_own_answer(proxy):
    async with AsyncOpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0) as client:

        async def both_ways(word: str) -> tuple[str | None, str]:
            messages: Any = [{"role": "user", "content": word}]
            create: Callable[..., Awaitable[Any]] = client.chat.completions.create
            plain = await create(model="gpt-4o-mini", messages=messages)
            stream = await create(model="gpt-4o-mini", messages=messages, stream=True)
            return plain.choices[0].message.content, "".join(
                [chunk.choices[0].delta.content or "" async for chunk in stream]
            )

        answers = await asyncio.gather(*(both_ways(f"word {number}") for number in range(40)))
    # The simulator's answer carries a checksum of its prompt.
    assert all(plain == streamed for plain, streamed in answers)
    assert len({plain for plain, _ in answers}) == 40

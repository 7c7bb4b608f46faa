"""The official SDK gets from the simulator what it gets from OpenAI."""

from __future__ import annotations

import base64
import json
from array import array

import pytest
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "12345678"}]  # 8 characters: 2 tokens
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": False}


class Person(BaseModel):
    name: str
    age: int


async def test_a_chat_answer_is_the_same_for_the_same_prompt_and_counts_its_tokens(simulate):
    sdk = (await simulate(completion_tokens=10)).sdk()
    first = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    again = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    other = await sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "another"}])
    text = first.choices[0].message.content
    assert text == again.choices[0].message.content != other.choices[0].message.content
    assert len(text.split()) == 10
    assert first.choices[0].finish_reason == "stop"
    assert (first.usage.prompt_tokens, first.usage.completion_tokens, first.usage.total_tokens) == (2, 10, 12)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert first.usage.completion_tokens_details.reasoning_tokens == 0
    assert first.id != again.id


async def test_a_limit_below_the_answers_length_cuts_it_and_n_answers_are_all_counted(simulation):
    answer = await simulation.sdk().chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=4, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage.completion_tokens == 12


async def test_long_prompts_are_cached_in_steps_and_reasoning_is_part_of_the_completion(simulation):
    prompt = [{"role": "user", "content": "x" * 4 * 1100}]
    answer = await simulation.sdk().chat.completions.create(
        model="gpt-5.5", messages=prompt, reasoning_effort="high", max_completion_tokens=20
    )
    assert answer.usage.prompt_tokens == 1100
    assert answer.usage.prompt_tokens_details.cached_tokens == 1024
    assert answer.usage.completion_tokens == 20
    assert answer.usage.completion_tokens_details.reasoning_tokens == 8
    assert len(answer.choices[0].message.content.split()) == 12


async def test_a_stream_has_the_text_of_the_plain_answer_and_without_include_usage_no_chunk_has_the_key(
    simulation,
):
    sdk = simulation.sdk()
    plain = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
    stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    _, raw = await simulation.post("/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO, "stream": True})
    assert b"usage" not in raw
    assert raw.endswith(b"data: [DONE]\n\n")


async def test_with_include_usage_every_chunk_has_null_and_one_extra_chunk_the_numbers(simulation):
    _, raw = await simulation.post(
        "/v1/chat/completions",
        {
            "model": "gpt-4o", "messages": HELLO, "stream": True, "n": 2, "max_tokens": 5,
            "stream_options": {"include_usage": True},
        },
    )  # fmt: skip
    frames = raw.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    *ordinary, last = chunks
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in ordinary)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 2
    assert last["usage"]["completion_tokens"] == 10
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_given_tools_the_chat_model_calls_one_and_after_its_result_answers_in_words(simulation):
    sdk = simulation.sdk()
    answer = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[CHAT_TOOL])
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "simulated", "days": 1})
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    final = await sdk.chat.completions.create(
        model="gpt-4o", messages=[*HELLO, answer.choices[0].message, result], tools=[CHAT_TOOL]
    )
    assert final.choices[0].message.content.startswith("Simulated answer")


async def test_streamed_tool_arguments_come_in_pieces_the_sdk_puts_together(simulation):
    async with simulation.sdk().chat.completions.stream(
        model="gpt-4o", messages=HELLO, tools=[CHAT_TOOL], stream_options={"include_usage": True}
    ) as stream:
        pieces = [
            event.arguments_delta async for event in stream if event.type == "tool_calls.function.arguments.delta"
        ]
        final = await stream.get_final_completion()
    assert len(pieces) > 2
    assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == {"city": "simulated", "days": 1}
    # {"city":"simulated","days":1} is 29 characters: 8 pieces of four
    assert final.usage.completion_tokens == 8


async def test_structured_output_follows_its_schema(simulation):
    sdk = simulation.sdk()
    chat = await sdk.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=Person)
    response = await sdk.responses.parse(model="gpt-4o", input="who?", text_format=Person)
    assert chat.choices[0].message.parsed == response.output_parsed == Person(name="simulated", age=1)


async def test_legacy_completions_answer_every_prompt_plain_and_streamed(simulation):
    sdk = simulation.sdk()
    plain = await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="12345678", max_tokens=6)
    stream = await sdk.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="12345678", max_tokens=6, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]
    assert plain.object == "text_completion"
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == plain.choices[0].text
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens == 8


async def test_responses_plain(simulation):
    answer = await simulation.sdk().responses.create(model="gpt-4o", input="12345678", instructions="1234")
    assert answer.status == "completed"
    assert answer.output_text.startswith("Simulated answer")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (3, 32, 35)
    assert answer.usage.output_tokens_details.reasoning_tokens == 0


async def test_responses_streamed_follow_openais_order_of_events(simulation):
    stream = await simulation.sdk().responses.create(model="gpt-4o", input="12345678", stream=True)
    events = [event async for event in stream]
    kinds = [event.type for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert len(deltas) == 32
    assert events[-1].response.output_text == "".join(deltas)
    assert events[-1].response.usage.total_tokens == 34


async def test_the_sdks_response_stream_helper_assembles_text_and_tool_calls(simulation):
    sdk = simulation.sdk()
    async with sdk.responses.stream(model="gpt-4o", input="12345678") as stream:
        async for _ in stream:
            pass
        spoken = await stream.get_final_response()
    assert len(spoken.output_text.split()) == 32
    async with sdk.responses.stream(model="gpt-4o", input="12345678", tools=[RESPONSES_TOOL]) as stream:
        async for _ in stream:
            pass
        called = await stream.get_final_response()
    assert (called.output[0].type, called.output[0].name) == ("function_call", "weather")
    assert json.loads(called.output[0].arguments) == {"city": "simulated", "days": 1}


async def test_a_response_cut_by_its_limit_ends_as_incomplete_with_its_usage(simulation):
    stream = await simulation.sdk().responses.create(model="gpt-4o", input="hi", max_output_tokens=16, stream=True)
    *_, last = [event async for event in stream]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.usage.output_tokens == 16


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_embeddings_are_unit_vectors_one_for_each_input(simulation, encoding):
    answer, raw = await simulation.post(
        "/v1/embeddings",
        {"model": "text-embedding-3-small", "input": ["1234", "5678"], "encoding_format": encoding, "dimensions": 64},
    )
    assert answer.status == 200
    assert [type(item["embedding"]) for item in json.loads(raw)["data"]] == [list if encoding == "float" else str] * 2
    parsed = await simulation.sdk().embeddings.create(
        model="text-embedding-3-small", input=["1234", "5678"], dimensions=64,
        **({"encoding_format": "float"} if encoding == "float" else {}),
    )  # fmt: skip
    assert sum(value * value for value in parsed.data[1].embedding) == pytest.approx(1, abs=1e-5)
    assert len(parsed.data[0].embedding) == 64
    assert parsed.usage.prompt_tokens == parsed.usage.total_tokens == 2


async def test_models_moderations_and_every_other_path_answer(simulation):
    sdk = simulation.sdk()
    names = [model.id async for model in sdk.models.list()]
    assert "gpt-4o" in names
    assert (await sdk.models.retrieve("gpt-4o")).id == "gpt-4o"
    assert (await sdk.moderations.create(input=["a", "b"])).results[1].flagged is False
    answer, raw = await simulation.post("/v1/content_provenance_checks", {"model": "gpt-image-1"})
    assert answer.status == 200
    assert json.loads(raw)["object"] == "simulated"


async def test_another_answer_for_each_call_where_that_is_wanted(simulate):
    simulation = await simulate(answers="by_call")
    sdk = simulation.sdk()
    chats = [await sdk.chat.completions.create(model="gpt-4o", messages=HELLO) for _ in range(2)]
    assert len({chat.choices[0].message.content for chat in chats}) == 2
    responses = [await sdk.responses.create(model="gpt-4o", input="hi") for _ in range(2)]
    assert len({response.output_text for response in responses}) == 2
    assert {chat.usage.completion_tokens for chat in chats} == {32}
    vectors = [await sdk.embeddings.create(model="text-embedding-3-small", input="hi") for _ in range(2)]
    assert vectors[0].data[0].embedding == vectors[1].data[0].embedding  # what is embedded does not depend on the call


@pytest.mark.parametrize("top", [None, 2])
async def test_log_probabilities_of_a_chat_are_those_of_its_pieces_plain_and_streamed(simulate, top):
    asked = {"model": "gpt-4o", "messages": HELLO, "logprobs": True, "n": 2}
    asked |= {} if top is None else {"top_logprobs": top}
    sdk = (await simulate(completion_tokens=5)).sdk()
    plain = await sdk.chat.completions.create(**asked)
    tokens = plain.choices[1].logprobs.content
    assert "".join(token.token for token in tokens) == plain.choices[1].message.content
    assert [bytes(token.bytes).decode() for token in tokens] == [token.token for token in tokens]
    assert {len(token.top_logprobs) for token in tokens} == {top or 0}
    assert all(token.logprob <= 0 for token in tokens)
    async with sdk.chat.completions.stream(**asked) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.choices[1].logprobs.content == tokens
    assert plain.choices[1].logprobs.refusal is None


async def test_log_probabilities_of_legacy_completions_know_their_places(simulation):
    asked = {"model": "gpt-3.5-turbo-instruct", "prompt": "12345678", "max_tokens": 6, "logprobs": 3}
    sdk = simulation.sdk()
    plain = (await sdk.completions.create(**asked)).choices[0]
    assert "".join(plain.logprobs.tokens) == plain.text
    for token, offset, best in zip(
        plain.logprobs.tokens, plain.logprobs.text_offset, plain.logprobs.top_logprobs, strict=True
    ):
        assert plain.text[offset:].startswith(token)
        assert len(best) == 3
    chunks = [chunk async for chunk in await sdk.completions.create(**asked, stream=True)]
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [offset for one in told for offset in one.text_offset] == plain.logprobs.text_offset
    assert [value for one in told for value in one.token_logprobs] == plain.logprobs.token_logprobs


async def test_log_probabilities_of_a_response(simulation):
    asked = {"model": "gpt-4o", "input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 1}
    sdk = simulation.sdk()
    part = (await sdk.responses.create(**asked)).output[0].content[0]
    assert "".join(token.token for token in part.logprobs) == part.text
    deltas = [
        event
        async for event in await sdk.responses.create(**asked, stream=True)
        if event.type == "response.output_text.delta"
    ]
    assert [event.logprobs[0].logprob for event in deltas] == [token.logprob for token in part.logprobs]
    assert (await sdk.responses.create(model="gpt-4o", input="hi")).output[0].content[0].logprobs == []


@pytest.mark.parametrize("tools", [[], [RESPONSES_TOOL]], ids=["words", "a call"])
async def test_reasoning_comes_before_what_it_led_to_plain_and_streamed(simulation, tools):
    asked = {
        "model": "gpt-5.5", "input": "12345678", "tools": tools, "store": False,
        "reasoning": {"effort": "high", "summary": "auto"}, "include": ["reasoning.encrypted_content"],
    }  # fmt: skip
    sdk = simulation.sdk()
    plain = await sdk.responses.create(**asked)
    thought, answer = plain.output
    assert (thought.type, answer.type) == ("reasoning", "function_call" if tools else "message")
    assert thought.summary[0].text == "Simulated thoughts."
    assert thought.encrypted_content.startswith("gAAAaccount-00.")
    assert plain.usage.output_tokens_details.reasoning_tokens == 8
    async with sdk.responses.stream(**asked) as stream:
        events = [event async for event in stream]
        streamed = await stream.get_final_response()
    assert [item.type for item in streamed.output] == [item.type for item in plain.output]
    assert streamed.output_text == plain.output_text
    assert [event.sequence_number for event in events if hasattr(event, "sequence_number")] == list(range(len(events)))
    summary = [event.delta for event in events if event.type == "response.reasoning_summary_text.delta"]
    assert "".join(summary) == "Simulated thoughts."
    assert {event.output_index for event in events if event.type == "response.output_text.delta"} <= {1}
    # And it is taken back by the account that made it
    await sdk.responses.create(model="gpt-5.5", input=[thought.model_dump(exclude_none=True)], store=False)


async def test_a_limit_within_the_reasoning_leaves_nothing_but_reasoning(simulation):
    answer = await simulation.sdk().responses.create(
        model="gpt-5.5", input="hi", reasoning={"effort": "low"}, max_output_tokens=8
    )
    assert answer.status == "incomplete"
    assert [item.type for item in answer.output] == ["reasoning"]
    assert (answer.output[0].summary, answer.output[0].encrypted_content) == ([], None)


async def test_an_embedding_depends_on_its_own_input_alone(simulation):
    async def vectors(inputs, **more):
        answer, raw = await simulation.post(
            "/v1/embeddings", {"model": "text-embedding-3-small", "input": inputs, **more}
        )
        assert answer.status == 200
        document = json.loads(raw)
        return [item["embedding"] for item in document["data"]], document["usage"]["prompt_tokens"]

    together, tokens = await vectors(["hello", "a", [1, 2], "hello"])
    alone = [await vectors(one) for one in ("hello", "a", [1, 2])]
    assert together == [alone[0][0][0], alone[1][0][0], alone[2][0][0], alone[0][0][0]]
    # "hello" is 5 characters, 2 tokens; "a" is one; an array counts its tokens.
    assert tokens == 2 + 1 + 2 + 2
    assert [used for _, used in alone] == [2, 1, 2]
    assert alone[0][0] != alone[1][0]
    # Base64 has the same numbers, which 32-bit floats hold exactly
    (packed,), _ = await vectors("hello", encoding_format="base64", dimensions=256)
    (numbers,), _ = await vectors("hello", dimensions=256)
    assert list(array("f", base64.b64decode(packed))) == numbers

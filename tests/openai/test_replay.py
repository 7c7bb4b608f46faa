"""An answer that was recorded in one form and is asked for in the other is the same answer, however it was split."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.openai.replay import EVENT_STREAM, JSON, Form, Replay, events, whole
from quotapool.openai.text_pieces import PIECE, pieces, pieces_with
from quotapool.simulator import replies
from quotapool.simulator import responses as simulated
from quotapool.simulator.answers import compose, usage_of
from quotapool.simulator.parsed_request import CHAT, COMPLETIONS, RESPONSES, ParsedRequest, parse_request

from tests.fakes.answers import (
    FIRST,
    USAGE,
    chat_answers,
    chat_streams,
    completion_answers,
    entry,
    event,
    half_tokens,
    responses,
)

KINDS = {"chat": chat_answers(), "completions": completion_answers(), "responses": responses()}
ANSWERS = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), KINDS[kind]))
DONE = b"data: [DONE]\n\n"


def text_of(answer):
    """As OpenAI writes it: by lines."""
    return json.dumps(answer, indent=2).encode()


def documents(stream):
    """What the events of a stream hold, without `[DONE]`."""
    found = [line[6:] for line in stream.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in found if line != "[DONE]"]


def chunk(delta, finish=None, index=0, **more):
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return event({**FIRST, "object": "chat.completion.chunk", "choices": [choice], **more})


def replayed(kind, recorded, form, *, streamed, cuts, usage=True):
    replay = Replay(kind, form, streamed=streamed, usage=usage)
    edges = [0, *sorted(cut % (len(recorded) + 1) for cut in cuts), len(recorded)]
    given = b"".join([replay.feed(recorded[start:end]) for start, end in pairwise(edges)])
    last = replay.finish()
    return None if last is None else given + last


@given(ANSWERS)
def test_an_answer_made_a_stream_and_an_answer_again_is_the_same(case):
    kind, answer = case
    assert json.loads(whole(kind, events(kind, text_of(answer), usage=True))) == answer


@given(chat_streams())
def test_a_stream_of_upstream_is_the_answer_that_upstream_would_have_given(case):
    answer, stream = case
    assert json.loads(whole("chat", stream)) == answer


@given(ANSWERS, st.lists(st.integers(0, 10**6), max_size=8))
def test_how_the_recorded_bytes_are_split_changes_nothing(case, cuts):
    kind, answer = case
    text = text_of(answer)
    stream = events(kind, text, usage=True)
    assert replayed(kind, text, Form.JSON, streamed=True, cuts=cuts) == stream
    assert replayed(kind, stream, Form.EVENTS, streamed=False, cuts=cuts) == whole(kind, stream)


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_recorded_stream_may_be_split_at_each_byte_and_have_any_line_ends(kind, line):
    answer = RICH[kind]
    stream = b": a comment\n\n" + events(kind, text_of(answer), usage=True)
    stream = stream.replace(b"\n", line)
    for cut in range(len(stream)):
        told = replayed(kind, stream, Form.EVENTS, streamed=False, cuts=[cut])
        assert told is not None, cut
        assert json.loads(told) == answer
    assert json.loads(replayed(kind, stream, Form.EVENTS, streamed=False, cuts=range(len(stream)))) == answer


@given(chat_streams(), st.lists(st.integers(0, 10**6), max_size=8))
def test_in_the_recorded_form_pieces_pass_untouched_and_usage_only_if_asked_for(case, cuts):
    answer, stream = case
    for form, streamed in ((Form.EVENTS, True), (Form.JSON, False)):
        replay = Replay("chat", form, streamed=streamed, usage=True)
        assert replay.feed(stream) is stream
        assert replay.finish() == b""
    bare = replayed("chat", stream, Form.EVENTS, streamed=True, usage=False, cuts=cuts)
    assert all("usage" not in document for document in documents(bare))
    assert bare.endswith(DONE)
    assert json.loads(whole("chat", bare)) == {name: answer[name] for name in answer if name != "usage"}


@given(ANSWERS)
def test_a_stream_without_usage_is_one_with_usage_from_which_it_was_taken(case):
    kind, answer = case
    if kind == "responses":
        return
    with_usage, without = (events(kind, text_of(answer), usage=usage) for usage in (True, False))
    assert replayed(kind, with_usage, Form.EVENTS, streamed=True, usage=False, cuts=[]) == without


def test_a_replay_says_what_comes_out():
    for form in Form:
        assert Replay("chat", form, streamed=True, usage=False).content_type == EVENT_STREAM
        assert Replay("chat", form, streamed=False, usage=False).content_type == JSON


# ---- what did not end as it should


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_cut_at_any_byte_is_no_answer(kind):
    stream = events(kind, text_of(RICH[kind]), usage=True)
    for end in range(len(stream.rstrip())):
        assert whole(kind, stream[:end]) is None, end
    assert json.loads(whole(kind, stream.rstrip())) == RICH[kind]


ERROR = {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "broken",
    [
        event(ERROR),
        event(ERROR["error"], "error"),
        b'data: {"id":\n\n',
        b"data: 7\n\n",
        b'data: {"choices":7,"type":"error"}\n\n',
        b'data: {"choices":[7],"type":"error"}\n\n',
        event({"type": "error", "choices": [{}], "code": "server_error", "message": "no", "sequence_number": 3}),
    ],
)
def test_a_stream_with_an_error_anywhere_is_no_answer(kind, broken):
    split = events(kind, text_of(RICH[kind]), usage=True).split(b"\n\n")[:-1]
    for place in range(len(split)):
        stream = b"".join([part + b"\n\n" for part in split[:place]]) + broken
        assert whole(kind, stream + b"".join([part + b"\n\n" for part in split[place:]])) is None, place


def test_a_response_that_failed_is_no_answer():
    failed = {**RICH["responses"], "status": "failed", "error": {"code": "server_error", "message": "no"}}
    stream = events("responses", text_of(failed), usage=False)
    assert documents(stream)[-1] == {"type": "response.failed", "sequence_number": ANY_NUMBER, "response": failed}
    assert whole("responses", stream) is None


def test_a_choice_that_never_finished_is_no_answer():
    assert whole("chat", chunk({"role": "assistant", "content": "Hel"}) + DONE) is None
    assert whole("chat", chunk({"role": "assistant"}, "stop") + chunk({"content": "a"}, index=1) + DONE) is None
    assert whole("chat", DONE) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"7", b"{}", b'{"choices":[]}', b'{"choices":[{"index":0}]}', b'{"choices":[{"message":{},"text":""}]}',
     b'{"output":[]}', b'{"output":[],"status":"in_progress"}', b'{"output":[7],"status":"completed"}',
     b'{"choices":[{"index":0,"message":{"content":1e999},"text":1e999}]}', b"[" * 5000,
     json.dumps(ERROR).encode()],
)  # fmt: skip
def test_what_is_no_answer_becomes_no_stream(kind, text):
    assert events(kind, text, usage=True) is None
    assert replayed(kind, text, Form.JSON, streamed=True, cuts=[]) is None


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(
        st.sampled_from(
            [
                *(b"data: ", b"\n\n", b"\r", b"event: error", b"[DONE]", b"]", b"}", b"{}", b"[", b",", b":", b'"a"'),
                *(b'{"choices":[', b'{"index":0,"delta":', b'{"tool_calls":[', b'"content"', b"null", b'"index":-1'),
                *(
                    b'{"type":"response.completed",',
                    b'"response":',
                    b'"output":',
                    b'"status":"completed"',
                    b'"\\ud83d"',
                ),
                *(b"\xff", b"\\", b"1e999", b'"message":{', b'"logprobs":{"content":[{"token":7}]}'),
            ]
        ),
        max_size=25,
    ),
    st.lists(st.integers(0, 10**6), max_size=4),
)
def test_no_bytes_make_it_raise(kind, found, cuts):
    data = b"".join(found)
    for form in Form:
        for streamed in (True, False):
            for usage in (True, False):
                replayed(kind, data, form, streamed=streamed, usage=usage, cuts=cuts)


ANYTHING = st.recursive(
    st.sampled_from([None, 0, 1, -0.5, True, "", "a", "completed", "message", "function"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["index", "message", "delta", "content", "tool_calls", "function", "arguments", "logprobs", "refusal",
             "text", "tokens", "bytes", "token", "type", "id", "summary", "annotations", "custom", "input",
             "function_call"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(ANYTHING, ANYTHING, ANYTHING)
def test_no_shape_makes_it_raise(one, two, three):
    choice = {"index": 0, "message": {"content": one, "tool_calls": two}, "text": "a", "logprobs": three}
    item = {"type": "message", "id": "a", "content": one, "summary": two, "logprobs": three}
    for answer in (
        {"choices": [choice], "usage": one},
        {"choices": [{**choice, "message": one}]},
        {"status": "completed", "output": [item, {**item, "type": "reasoning"}, {**item, "type": "function_call"}]},
    ):
        for kind in KINDS:
            stream = events(kind, text_of(answer), usage=True)
            assert stream is None or stream.endswith(b"\n\n")
    stream = b"".join([event({"choices": [{"index": 0, "delta": {"content": x, "a": x}}]}) for x in (one, two, three)])
    whole("chat", stream + chunk({}, "stop") + DONE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_no_more_than_a_bound_of_what_it_is_made_of(kind):
    """Each event names what it belongs to: a long name and many events would multiply."""
    name = "x" * 100_000
    choice = {"text": "", "message": {}, "finish_reason": "stop"}
    item = {"id": name, "type": "message", "content": [{"type": "output_text", "text": "", "annotations": [0] * 100}]}
    answer = {"id": name, "status": "completed", "output": [item] if kind == "responses" else []}
    answer["choices"] = [{"index": index, **choice} for index in range(100 if kind != "responses" else 0)]
    assert events(kind, text_of(answer), usage=False) is None


def test_what_is_nested_deeply_is_not_indented():
    """A value at level 900 would have 1,800 blanks before it."""
    deep = "[" * 900 + "0," * 10_000 + "0" + "]" * 900
    stream = chunk({"role": "assistant"}, "stop").replace(b'"role"', b'"x":' + deep.encode() + b',"role"') + DONE
    assert len(whole("chat", stream)) < 2 * len(stream)
    response = f'{{"type":"response.completed","response":{{"id":"resp_1","output":[],"x":{deep}}}}}'
    assert len(whole("responses", f"data: {response}\n\n".encode())) < 2 * len(response)


# ---- the shapes, by hand


def test_a_chat_answer_becomes_the_chunks_that_openai_sends():
    answer = {
        **FIRST,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi",
                    "refusal": None,
                    "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
        "service_tier": "default",
    }
    start = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1800000000,"model":"gpt-4o-mini-2024-07-18",'
    start += '"service_tier":"default","choices":['
    deltas = [
        '{"role":"assistant","content":"","refusal":null}',
        '{"content":"Hi"}',
        '{"tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":""},"index":0}]}',
        '{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}',
    ]
    choices = [f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}' for delta in deltas]
    choices.append('{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}')
    without = "".join([f"data: {start}{choice}]}}\n\n" for choice in choices]) + DONE.decode()
    assert events("chat", text_of(answer), usage=False).decode() == without
    told = "".join([f'data: {start}{choice}],"usage":null}}\n\n' for choice in choices])
    told += f'data: {start}],"usage":{json.dumps(USAGE, separators=(",", ":"))}}}\n\n' + DONE.decode()
    assert events("chat", text_of(answer), usage=True).decode() == told


def test_a_refusal_is_null_until_it_begins():
    message = {"role": "assistant", "content": None, "refusal": "No", "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    told = documents(events("chat", text_of({**FIRST, "choices": [choice]}), usage=False))
    assert [document["choices"][0]["delta"] for document in told] == [
        {**message, "refusal": None},
        {"refusal": "No"},
        {},
    ]


def test_a_response_becomes_the_events_that_openai_sends_in_their_order():
    stream = events("responses", text_of(RICH["responses"]), usage=False)
    told = documents(stream)
    item = "response.output_item"
    part = "response.content_part"
    summary = "response.reasoning_summary"
    assert [document["type"] for document in told] == [
        "response.created",
        "response.in_progress",
        f"{item}.added",
        f"{summary}_part.added",
        f"{summary}_text.delta",
        f"{summary}_text.done",
        f"{summary}_part.done",
        f"{part}.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        f"{part}.done",
        f"{item}.done",
        f"{item}.added",
        f"{part}.added",
        "response.output_text.delta",
        "response.output_text.annotation.added",
        "response.output_text.done",
        f"{part}.done",
        f"{part}.added",
        "response.refusal.delta",
        "response.refusal.done",
        f"{part}.done",
        f"{item}.done",
        f"{item}.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        f"{item}.done",
        f"{item}.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        f"{item}.done",
        f"{item}.added",
        f"{item}.done",
        "response.completed",
    ]
    assert [document["sequence_number"] for document in told] == list(range(len(told)))
    names = [line.removeprefix("event: ") for line in stream.decode().split("\n") if line.startswith("event: ")]
    assert names == [document["type"] for document in told]
    begun = told[0]["response"]
    assert (begun["status"], begun["output"], begun["usage"]) == ("in_progress", [], None)
    assert told[14] == {
        "type": "response.output_text.delta",
        "sequence_number": 14,
        "item_id": "msg_1",
        "output_index": 1,
        "content_index": 0,
        "delta": "Hi",
        "logprobs": [],
    }
    assert told[-1]["response"] == RICH["responses"]
    assert [document["item"] for document in told if document["type"] == f"{item}.added"] == [
        {"id": "rs_1", "type": "reasoning", "summary": [], "content": [], "encrypted_content": "gAAA"},
        {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []},
        {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": ""},
        {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "g", "input": ""},
        {"id": "ws_1", "type": "web_search_call", "status": "in_progress"},
    ]
    assert [document["part"] for document in told if document["type"] == f"{part}.added"] == [
        {"type": "reasoning_text", "text": ""},
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": ""},
    ]
    assert [document["item"] for document in told if document["type"] == f"{item}.done"] == RICH["responses"]["output"]


@given(st.lists(st.sampled_from(["a", "bc", "🙂", "é", " ", "word " * 40]), max_size=60))
def test_log_probabilities_come_with_the_text_that_they_are_of(tokens):
    text = "".join(tokens)
    assert "".join(pieces(text)) == text
    for entries in ([entry(token) for token in tokens], half_tokens(tokens)):
        found = pieces_with(text, entries)
        assert "".join([piece for piece, _ in found]) == text
        assert [one for _, told in found for one in told] == entries
        for piece, told in found:
            assert b"".join([bytes(one["bytes"]) for one in told]) == piece.encode()
            assert len(piece.encode()) < PIECE + 200  # the longest token has 200 bytes


def test_no_character_is_cut_between_two_pieces():
    """The byte at which the first piece is long enough, 512, is in the middle of a character: 1 + 127 * 4 + 3."""
    text = "a" + "🙂" * 200
    found = pieces_with(text, half_tokens([text]))
    assert [len(piece.encode()) for piece, _ in found] == [1 + 128 * 4, 72 * 4]
    assert "".join([piece for piece, _ in found]) == text


# ---- what other servers do


def test_half_a_surrogate_pair_in_each_of_two_chunks_is_one_character():
    first = chunk({"role": "assistant", "content": ""})
    halves = b"".join([chunk({"content": "x"}).replace(b'"x"', half) for half in (b'"\\ud83d"', b'"\\ude42"')])
    told = whole("chat", first + halves + chunk({}, "stop") + DONE)
    assert json.loads(told)["choices"][0]["message"]["content"] == "🙂"


def test_a_lone_half_is_kept_in_both_directions():
    text = text_of({**RICH["chat"]}).replace(b'"Hi"', b'"\\ud83d"')
    told = whole("chat", events("chat", text, usage=True))
    assert json.loads(told) == json.loads(text)
    response = text_of(RICH["responses"]).replace(b'"Hi"', b'"\\ud83d"')
    told = whole("responses", events("responses", response, usage=True))
    assert json.loads(told) == json.loads(response)


def test_a_response_whose_end_has_no_output_gets_the_items_that_were_done():
    items = [{"id": "rs_1", "type": "reasoning", "summary": []}, {"id": "msg_1", "type": "message", "content": []}]
    done = [
        event({"type": "response.output_item.done", "output_index": index, "item": items[index]}) for index in (1, 0)
    ]
    for output in ("[]", "null"):
        end = f'data: {{"type":"response.completed","response":{{"id":"resp_1","output":{output},"usage":null}}}}\n\n'
        told = whole("responses", b"".join(done) + end.encode())
        assert json.loads(told) == {"id": "resp_1", "output": items, "usage": None}


def test_ids_and_names_that_are_sent_again_are_not_joined():
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    again = {**call, "function": {"name": "f", "arguments": "}"}}
    stream = chunk({"role": "assistant", "tool_calls": [call]}) + chunk({"role": "assistant", "tool_calls": [again]})
    message = json.loads(whole("chat", stream + chunk({}, "tool_calls") + DONE))["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["tool_calls"] == [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


def test_reasoning_that_another_server_streams_is_joined_like_content():
    stream = chunk({"role": "assistant", "reasoning_content": "first "}) + chunk({"reasoning_content": "second"})
    message = json.loads(whole("chat", stream + chunk({}, "stop") + DONE))["choices"][0]["message"]
    assert message["reasoning_content"] == "first second"
    assert message["content"] is None


def test_numbers_keep_their_value_and_a_response_its_spelling():
    text = b'{"id":"resp_1","status":"completed","output":[],"temperature":1.10,"seed":123456789012345678901234567890}'
    assert msgspec.json.format(whole("responses", events("responses", text, usage=False)), indent=-1) == text


# ---- the simulator writes both forms of one answer


REQUESTS = {
    "plain": {},
    "several": {"n": 3},
    "cut": {"max_tokens": 4, "max_output_tokens": 4},
    "reasoning": {"reasoning_effort": "low", "reasoning": {"effort": "low"}},
    "json": {"response_format": {"type": "json_object"}},
    "tools": {"tools": [{"type": "function", "name": "f", "function": {"name": "f"}, "parameters": {}}]},
}


@pytest.mark.parametrize("shape", [CHAT, COMPLETIONS, RESPONSES], ids=lambda shape: shape.name)
@pytest.mark.parametrize("name", REQUESTS)
def test_both_forms_of_a_simulated_answer_are_the_same(shape, name):
    body = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi",
        "input": "hi",
        **REQUESTS[name],
        "stream_options": {"include_usage": True},
    }
    if shape is RESPONSES:
        del body["prompt"]
    parsed = parse_request(shape, json.dumps(body).encode(), 16, {})
    assert isinstance(parsed, ParsedRequest)
    answers = compose(parsed, 40, parsed.prompt.digest)
    turn = replies.Turn("resp_1" if shape is RESPONSES else "chatcmpl-1", 1, parsed, answers, usage_of(parsed, answers))
    if shape is RESPONSES:
        kind, text = "responses", replies.pretty(simulated.finished(turn))
        frames = simulated.response_frames(turn)
    else:
        kind, text = "chat" if shape is CHAT else "completions", replies.completion_body(turn)
        frames = replies.completion_frames(turn)
    assert whole(kind, b"".join([frame.data for frame in frames])) == text
    assert whole(kind, events(kind, text, usage=True)) == text


class _AnyNumber:
    def __eq__(self, other):
        return isinstance(other, int)

    __hash__ = None


ANY_NUMBER = _AnyNumber()
RICH = {
    "chat": {
        **FIRST,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "x": {"y": [1]}},
                "logprobs": {"content": [entry("H"), entry("i")], "refusal": None},
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "annotations": [],
                    "tool_calls": [
                        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":"🙂"}'}},
                        {"id": "call_2", "type": "custom", "custom": {"name": "g", "input": "print()"}},
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            },
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
    },
    "completions": {
        **FIRST,
        "object": "text_completion",
        "choices": [{"text": "Hi 🙂", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    },
    "responses": {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "output": [
            {
                "id": "rs_1",
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "S"}],
                "content": [{"type": "reasoning_text", "text": "R"}],
                "encrypted_content": "gAAA",
            },
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "Hi", "annotations": [{"type": "url_citation"}], "logprobs": []},
                    {"type": "refusal", "refusal": "No"},
                ],
            },
            {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "g", "input": "print()"},
            {"id": "ws_1", "type": "web_search_call", "status": "completed"},
        ],
        "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    },
}

"""Answers of chat, completions and responses as hypothesis makes them up, and their streams as upstream writes them.

A stream is written here by the API's documentation, token by token, and not by the code that is tested.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

TRICKS = (
    "", "a", "Hello", " the", "\n", "data: [DONE]\n\n", '"', "\\", "é", "🙂", "\u2028", '"usage":null', "event: error",
    '{"error":{"message":"no"}}', "\x00", "response.failed", "\r\n\r\n", "中文",
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False, width=32), st.booleans()
)
PLAIN = st.one_of(st.none(), NUMBERS, st.sampled_from(TRICKS))
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
UNKNOWN = st.dictionaries(st.sampled_from(["x_one", "x_two"]), ANYTHING, max_size=2)
"""Members that nobody knows."""

FIRST = {"id": "chatcmpl-1", "created": 1_800_000_000, "model": "gpt-4o-mini-2024-07-18"}
USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": 9,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
}


@st.composite
def texts(draw: st.DrawFn) -> list[str]:
    """A text as its tokens; some texts are longer than a delta of a replay."""
    tokens = draw(st.lists(st.sampled_from(TRICKS), max_size=6))
    return tokens * draw(st.sampled_from([1, 1, 1, 100]))


def entry(token: str, logprob: float = -0.5) -> dict[str, Any]:
    """The log probability of one token."""
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}


def half_tokens(tokens: list[str]) -> list[dict[str, Any]]:
    """The same text as tokens of one byte each, so that characters are split."""
    return [
        {"token": f"\\x{byte:02x}", "logprob": -1.5, "bytes": [byte], "top_logprobs": []}
        for byte in "".join(tokens).encode()
    ]


@st.composite
def tool_calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    calls = []
    for number in range(draw(st.integers(1, 3))):
        arguments = "".join(draw(texts()))
        if draw(st.booleans()):
            call = {"type": "function", "function": {"name": "look_up", "arguments": arguments}}
        else:
            call = {"type": "custom", "custom": {"name": "write", "input": arguments}}
        calls.append({"id": f"call_{number}", **call})
    return calls


@st.composite
def chat_answers(draw: st.DrawFn) -> dict[str, Any]:
    choices = []
    for index in range(draw(st.integers(1, 3))):
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
        logprobs = None
        kind = draw(st.sampled_from(["text", "refusal", "tools", "function", "text and tools"]))
        if kind in {"text", "refusal", "text and tools"}:
            member = "refusal" if kind == "refusal" else "content"
            tokens = draw(texts())
            message[member] = "".join(tokens)
            told = draw(st.sampled_from([None, "tokens", "bytes", "others"]))
            if told is not None:
                entries = {"tokens": list(map(entry, tokens)), "bytes": half_tokens(tokens), "others": [entry("zzz")]}
                logprobs = {"content": None, "refusal": None, member: entries[told]}
        if kind in {"tools", "text and tools"}:
            message["tool_calls"] = draw(tool_calls())
        if kind == "function":
            message["function_call"] = {"name": "look_up", "arguments": "".join(draw(texts()))}
        message |= draw(UNKNOWN)
        finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
        choice = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}
        choices.append({**choice, **draw(UNKNOWN)})
    answer = {**FIRST, "object": "chat.completion", "choices": choices, "usage": USAGE}
    if draw(st.booleans()):
        answer |= {"service_tier": draw(st.sampled_from(["default", "flex", None])), "system_fingerprint": "fp_1"}
    return {**answer, **draw(UNKNOWN)}


@st.composite
def completion_answers(draw: st.DrawFn) -> dict[str, Any]:
    choices = []
    for index in range(draw(st.integers(1, 3))):
        tokens = draw(texts())
        logprobs = None
        if draw(st.booleans()):
            given = tokens if draw(st.booleans()) else ["another"]
            logprobs = {
                "tokens": given,
                "token_logprobs": [-0.5] * len(given),
                "top_logprobs": draw(st.sampled_from([None, [{"index": 0, "text": -1.25}] * len(given)])),
                "text_offset": list(range(len(given))),
            }
        choice = {"text": "".join(tokens), "index": index, "logprobs": logprobs, "finish_reason": "stop"}
        choices.append({**choice, **draw(UNKNOWN)})
    return {**FIRST, "object": "text_completion", "choices": choices, "usage": USAGE, **draw(UNKNOWN)}


@st.composite
def output_items(draw: st.DrawFn, number: int) -> dict[str, Any]:
    kind = draw(st.sampled_from(["message", "reasoning", "function_call", "custom_tool_call", "nobody_knows"]))
    item: dict[str, Any] = {"id": f"{kind}_{number}", "type": kind, "status": "completed"}
    if kind == "message":
        item |= {"role": "assistant", "content": [draw(parts()) for _ in range(draw(st.integers(0, 2)))]}
    elif kind == "reasoning":
        del item["status"]
        item["summary"] = [{"type": "summary_text", "text": "".join(draw(texts()))}] * draw(st.integers(0, 2))
        item["encrypted_content"] = draw(st.sampled_from([None, "gAAAAA=="]))
        if draw(st.booleans()):
            item["content"] = [{"type": "reasoning_text", "text": "".join(draw(texts()))}]
    elif kind != "nobody_knows":
        written = "arguments" if kind == "function_call" else "input"
        item |= {"call_id": f"call_{number}", "name": "look_up", written: "".join(draw(texts()))}
        if draw(st.booleans()):
            del item["id"]
    return {**item, **draw(UNKNOWN)}


@st.composite
def parts(draw: st.DrawFn) -> dict[str, Any]:
    tokens = draw(texts())
    if draw(st.integers(0, 3)) == 0:
        return {"type": "refusal", "refusal": "".join(tokens), **draw(UNKNOWN)}
    cited = {"type": "url_citation", "start_index": 0, "end_index": 1, "title": "t", "url": "https://example.com"}
    return {
        "type": "output_text",
        "text": "".join(tokens),
        "annotations": [cited] * draw(st.integers(0, 2)),
        "logprobs": draw(st.sampled_from([[], list(map(entry, tokens)), half_tokens(tokens)])),
        **draw(UNKNOWN),
    }


@st.composite
def responses(draw: st.DrawFn) -> dict[str, Any]:
    status = draw(st.sampled_from(["completed", "completed", "incomplete"]))
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_800_000_000,
        "status": status,
        "error": None,
        "incomplete_details": None if status == "completed" else {"reason": "max_output_tokens"},
        "instructions": None,
        "model": "gpt-4.1-2025-04-14",
        "output": [draw(output_items(number)) for number in range(draw(st.integers(0, 3)))],
        "parallel_tool_calls": True,
        "service_tier": "default",
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 1},
            "total_tokens": 7,
        },
        **draw(UNKNOWN),
    }


def event(document: Any, name: str = "") -> bytes:
    line = f"event: {name}\n".encode() if name else b""
    return line + b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


@st.composite
def chat_streams(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """(the whole answer, its stream with usage): choices mixed, a token a chunk, padded as OpenAI does."""
    answer = draw(chat_answers())
    head = {name: value for name, value in answer.items() if name not in {"choices", "usage"}}
    head["object"] = "chat.completion.chunk"
    waiting: list[list[dict[str, Any]]] = [_chat_deltas(draw, choice) for choice in answer["choices"]]
    order = [deltas.pop(0) for deltas in waiting]  # the roles first
    while any(waiting):
        order.append(draw(st.sampled_from([deltas for deltas in waiting if deltas])).pop(0))
    chunks = [{**head, "choices": [choice], "usage": None, "obfuscation": "aB3"} for choice in order]
    chunks.append({**head, "choices": [], "usage": answer["usage"], "obfuscation": ""})
    return answer, b"".join(map(event, chunks)) + b"data: [DONE]\n\n"


def _chat_deltas(draw: st.DrawFn, choice: dict[str, Any]) -> list[dict[str, Any]]:
    index, message = choice["index"], choice["message"]
    written = {"content", "refusal", "tool_calls", "function_call", "annotations"}
    first = {name: value for name, value in message.items() if name not in written}
    first |= {"content": None if message["content"] is None else "", "refusal": None}
    others = {name: value for name, value in choice.items() if name.startswith("x_")}
    deltas: list[dict[str, Any]] = [{"delta": first, **others}]
    logprobs = choice["logprobs"] or {}
    for name in ("content", "refusal"):
        found = _cut(draw, message[name] or "")
        entries = logprobs.get(name) or []
        share = -(-len(entries) // max(1, len(found)))
        for number, piece in enumerate(found):
            told = {"content": None, "refusal": None, name: entries[number * share : (number + 1) * share]}
            deltas.append({"delta": {name: piece}, "logprobs": told if logprobs else None})
        if logprobs.get(name) is not None and not message[name]:
            deltas.append({"delta": {}, "logprobs": logprobs})
        if message[name] == "":
            deltas.append({"delta": {name: ""}})
    for position, call in enumerate(message.get("tool_calls") or ()):
        kind, argument = ("function", "arguments") if "function" in call else ("custom", "input")
        begun = {**call, "index": position, kind: {**call[kind], argument: ""}}
        deltas.append({"delta": {"tool_calls": [begun]}})
        found = [{"index": position, kind: {argument: piece}} for piece in _cut(draw, call[kind][argument])]
        deltas += [{"delta": {"tool_calls": [one]}} for one in found]
    if "function_call" in message:
        call = message["function_call"]
        deltas.append({"delta": {"function_call": {**call, "arguments": ""}}})
        deltas += [{"delta": {"function_call": {"arguments": piece}}} for piece in _cut(draw, call["arguments"])]
    deltas.append({"delta": {}, "finish_reason": choice["finish_reason"]})
    return [{"index": index, "logprobs": None, "finish_reason": None, **delta} for delta in deltas]


def _cut(draw: st.DrawFn, text: str) -> list[str]:
    size = draw(st.sampled_from([1, 3, 50]))
    size = max(size, len(text) // 20)
    return [text[at : at + size] for at in range(0, len(text), size)]

"""Which answers may be kept: those that are as good for the next client as for the first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.facts import Canonical
from quotapool.openai.storable import UNSTORABLE, unstorable

USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION_CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"}
RESPONSES_USAGE = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
TEXT = {"type": "output_text", "text": "Hi", "annotations": []}


def verdict(target: str, answer: Any, *, choices: int = 1, tools: bool = False, method: str = "POST") -> str:
    endpoint = resolve(method, target)
    assert isinstance(endpoint, Endpoint)
    whole = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    found = unstorable(endpoint, Canonical(b"", choices=choices), whole, tools=tools)
    assert not found or found in UNSTORABLE
    return found


def choice(reason: Any = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "Hi", "refusal": None, "annotations": [], **message}
    return {"index": 0, "message": said, "logprobs": None, "finish_reason": reason}


def chat(*choices: Any, **members: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": list(choices), "usage": USAGE, **members}


def response(*output: Any, **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "store": False,
        "output": list(output),
        "usage": RESPONSES_USAGE,
        **members,
    }


def message(*parts: Any, **members: Any) -> dict[str, Any]:
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [*parts],
        **members,
    }


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (chat(choice()), ""),
        (chat(choice("length")), ""),
        (chat(choice("length", content="")), "incomplete"),
        (chat(choice("length", content=None)), "incomplete"),
        (chat(choice("stop", content="")), "incomplete"),
        (chat(choice(None)), "incomplete"),
        (chat(choice("error")), "incomplete"),
        (chat(choice("content_filter")), "content_filter"),
        (chat(choice("content_filter", content=None)), "content_filter"),
        (chat(choice(refusal="I can't", content=None)), "refusal"),
        (chat(choice(content=[{"type": "refusal", "refusal": "I can't"}])), "refusal"),
        (chat(choice(), choice("content_filter")), "content_filter"),
        (chat(choice(audio={"id": "audio_1"})), "audio"),
        (chat(choice(annotations=[{"type": "url_citation"}])), "tools_hosted"),
        (chat(choice("tool_calls", content=None, tool_calls=[CALL])), "tool_calls"),
        (chat(choice("stop", content=None, tool_calls=[CALL])), "tool_calls"),  # a call that was asked for by its name
        (chat(choice("function_call", content=None, function_call={"name": "f", "arguments": ""})), "tool_calls"),
        (chat(choice(tool_calls=[])), ""),
        (chat(choice("tool_calls")), "incomplete"),
        (chat(), "incomplete"),
        (chat(choice(), usage=None), "no_usage"),
        (chat(choice(), usage={}), "no_usage"),
        (chat({**choice(), "error": {"message": "x"}}), "error"),
        (chat(choice(), error={"message": "x"}), "error"),
        (chat(choice(), metadata={"a": "b"}), "stored_objects"),
        (chat(choice(), metadata={}, system_fingerprint="fp", service_tier="default"), ""),
        (chat(choice(), moderation={"input": {"type": "error"}, "output": {"type": "moderation_results"}}), "error"),
        (chat(choice(), moderation={"input": {"type": "moderation_results"}}), ""),
        ({"error": {"message": "x"}}, "error"),
        ({"choices": {}}, "malformed"),
        ({"object": "chat.completion"}, "malformed"),
        ([], "malformed"),
        (b"", "malformed"),
        (b'{"choices":[{"index":0,"mess', "malformed"),
        (b'{"choices":' + b"[" * 100_000, "malformed"),
    ],
)
def test_of_chat(answer, found):
    assert verdict("/v1/chat/completions", answer) == found


@pytest.mark.parametrize("reason", ["tool_calls", "function_call", "stop", "length"])
def test_calls_of_the_clients_tools_are_kept_if_the_operator_says_so(reason):
    called = chat(choice(reason, content=None, tool_calls=[CALL]))
    assert verdict("/v1/chat/completions", called, tools=True) == ""
    assert verdict("/v1/chat/completions", called) == "tool_calls"
    assert verdict("/v1/responses", response(FUNCTION_CALL), tools=True) == ""
    assert verdict("/v1/responses", response(FUNCTION_CALL)) == "tool_calls"


def test_fewer_answers_than_were_asked_for_are_not_kept():
    assert verdict("/v1/chat/completions", chat(choice(), choice()), choices=2) == ""
    assert verdict("/v1/chat/completions", chat(choice(), choice()), choices=3) == "incomplete"
    vectors = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 1}}
    assert verdict("/v1/embeddings", vectors) == ""
    assert verdict("/v1/embeddings", vectors, choices=2) == "incomplete"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"choices": [{"text": "Hi", "finish_reason": "stop"}], "usage": USAGE}, ""),
        ({"choices": [{"text": "", "finish_reason": "length"}], "usage": USAGE}, ""),
        ({"choices": [{"text": "Hi", "finish_reason": "content_filter"}], "usage": USAGE}, "content_filter"),
        ({"choices": [{"text": "Hi", "finish_reason": None}], "usage": USAGE}, "incomplete"),
        ({"choices": [{"finish_reason": "stop"}], "usage": USAGE}, "incomplete"),
        ({"choices": [{"text": "Hi", "finish_reason": "stop"}]}, "no_usage"),
    ],
)
def test_of_completions(answer, found):
    assert verdict("/v1/completions", answer) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (response(message(TEXT)), ""),
        (response({"type": "reasoning", "id": "rs_1", "summary": []}, message(TEXT)), ""),
        (response({"type": "reasoning", "id": "rs_1", "summary": []}), "incomplete"),
        (response(), "incomplete"),
        (response(message()), "incomplete"),
        (response(message(TEXT, status="incomplete")), "incomplete"),
        (response(message(TEXT), {"type": "message", "status": "in_progress", "content": []}), "incomplete"),
        (response(message(TEXT, {"type": "refusal", "refusal": "I can't"})), "refusal"),
        *((response(message(TEXT), status=s), "incomplete") for s in ("in_progress", "queued", "cancelled", None)),
        (response(status="failed"), "error"),
        (response(message(TEXT), error={"code": "server_error"}), "error"),
        (
            response(message(TEXT), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
            "incomplete",
        ),
        (
            response(message(TEXT), status="incomplete", incomplete_details={"reason": "content_filter"}),
            "content_filter",
        ),
        (response(message(TEXT), store=True), "stored_objects"),
        (response(message(TEXT), input_transformations=[{"action": "removed"}]), "incomplete"),
        (response(message(TEXT), moderation={"output": {"type": "error"}}), "error"),
        (response({"type": "custom_tool_call", "input": "x"}), "tool_calls"),
        *(
            (response({"type": kind, "status": "completed"}, message(TEXT)), "tools_hosted")
            for kind in ("web_search_call", "file_search_call", "mcp_call", "mcp_list_tools", "computer_call", "new")
        ),
        (response({"status": "completed"}), "malformed"),
        (response(message(TEXT), usage=None), "no_usage"),
        (response(message(TEXT), output=None), "malformed"),
    ],
)
def test_of_responses(answer, found):
    assert verdict("/v1/responses", answer) == found


@pytest.mark.parametrize("kind", ["web_search_call", "image_generation_call", "code_interpreter_call"])
def test_what_a_hosted_tool_had_a_part_in_is_not_kept_even_with_tools(kind):
    answer = response({"type": kind, "status": "completed"}, message(TEXT))
    assert verdict("/v1/responses", answer, tools=True) == "tools_hosted"


@pytest.mark.parametrize(
    ("target", "method", "answer", "found"),
    [
        ("/v1/embeddings", "POST", {"data": [{"embedding": "AAAA"}]}, "no_usage"),
        ("/v1/embeddings", "POST", {"data": {}, "usage": USAGE}, "malformed"),
        ("/v1/embeddings", "POST", {"usage": USAGE}, "malformed"),
        ("/v1/embeddings", "POST", {"error": {"message": "x"}}, "error"),
        ("/v1/moderations", "POST", {"id": "modr-1", "results": [{"flagged": False}]}, ""),
        ("/v1/moderations", "POST", {"id": "modr-1", "results": []}, "incomplete"),
        ("/v1/models", "GET", {"object": "list", "data": []}, ""),
        ("/v1/models", "GET", {"object": "list"}, "malformed"),
        ("/v1/models/gpt-4o", "GET", {"object": "model", "id": "gpt-4o"}, ""),
        ("/v1/models/gpt-4o", "GET", {"error": {"code": "model_not_found"}}, "error"),
        ("/v1/models/gpt-4o", "GET", {}, "malformed"),
    ],
)
def test_of_others(target, method, answer, found):
    assert verdict(target, answer, method=method) == found

"""Bodies and stream events of the Responses API.

Order of events: response.created, response.in_progress; for each output item output_item.added, what belongs to it, and
output_item.done; finally response.completed, response.incomplete or response.failed, which has the usage. There is no
[DONE]. To a message belong content_part.added, output_text.delta ..., output_text.done, content_part.done (of a refusal
refusal.delta and .done); to a function call function_call_arguments.delta ... and .done; to reasoning, which comes
first, reasoning_summary_part.added, reasoning_summary_text.delta and .done, and reasoning_summary_part.done, where a
summary is asked for. Shapes: Python SDK 3.54, `types/responses`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from quotapool.simulator import logprobs
from quotapool.simulator.answers import Answer
from quotapool.simulator.errors import ErrorReply
from quotapool.simulator.replies import Frame, Turn

Event: TypeAlias = tuple[dict[str, Any], int]  # an event and the tokens that must be produced before it


def response_frames(turn: Turn, failure: ErrorReply | None = None) -> Iterator[Frame]:
    """The stream. A `failure` comes where the first output item would have come."""
    answer = turn.answers[0]
    events = success_events(turn, answer) if failure is None else failure_events(turn, failure)
    for number, (document, tokens) in enumerate(events):
        kind = document["type"]
        body = msgspec.json.encode({"type": kind, "sequence_number": number, **document})
        yield Frame(b"event: " + kind.encode() + b"\ndata: " + body + b"\n\n", tokens)


def opening_events(turn: Turn) -> Iterator[Event]:
    started = envelope(turn, "in_progress", [])
    yield {"type": "response.created", "response": started}, 0
    yield {"type": "response.in_progress", "response": started}, 0


def failure_events(turn: Turn, failure: ErrorReply) -> Iterator[Event]:
    yield from opening_events(turn)
    yield {"type": "response.failed", "response": failed(turn, failure)}, 0


def success_events(turn: Turn, answer: Answer) -> Iterator[Event]:
    yield from opening_events(turn)
    for place, item in enumerate(output_items(turn, answer)):
        begun = {**item, "status": "in_progress"}
        thought = 0
        if item["type"] == "reasoning":
            inner = reasoning_events(item, place)
            begun |= {"summary": []}
            thought = answer.reasoning
        elif item["type"] == "function_call":
            inner = call_events(item, answer, place)
            begun |= {"arguments": ""}
        else:
            inner = message_events(turn, item, answer, place)
            begun |= {"content": []}
        yield {"type": "response.output_item.added", "output_index": place, "item": begun}, thought
        yield from inner
        yield {"type": "response.output_item.done", "output_index": place, "item": item}, 0
    yield {"type": f"response.{status_of(answer)}", "response": finished(turn)}, 0


def reasoning_events(item: dict[str, Any], place: int) -> Iterator[Event]:
    for number, part in enumerate(item["summary"]):
        here = {"item_id": item["id"], "output_index": place, "summary_index": number}
        text = part["text"]
        yield {"type": "response.reasoning_summary_part.added", **here, "part": {**part, "text": ""}}, 0
        for piece in text.partition(" ")[0], f" {text.partition(' ')[2]}":
            yield {"type": "response.reasoning_summary_text.delta", **here, "delta": piece}, 0
        yield {"type": "response.reasoning_summary_text.done", **here, "text": text}, 0
        yield {"type": "response.reasoning_summary_part.done", **here, "part": part}, 0


def call_events(item: dict[str, Any], answer: Answer, place: int) -> Iterator[Event]:
    here = {"item_id": item["id"], "output_index": place}
    for piece in answer.pieces:
        yield {"type": "response.function_call_arguments.delta", **here, "delta": piece}, 1
    done = {"name": answer.function, "arguments": answer.text}
    yield {"type": "response.function_call_arguments.done", **here, **done}, 0


def message_events(turn: Turn, item: dict[str, Any], answer: Answer, place: int) -> Iterator[Event]:
    here = {"item_id": item["id"], "output_index": place, "content_index": 0}
    (part,) = item["content"]
    if answer.refuses:
        yield {"type": "response.content_part.added", **here, "part": {**part, "refusal": ""}}, 0
        for piece in answer.pieces:
            yield {"type": "response.refusal.delta", **here, "delta": piece}, 1
        yield {"type": "response.refusal.done", **here, "refusal": answer.text}, 0
    else:
        yield {"type": "response.content_part.added", **here, "part": {**part, "text": "", "logprobs": []}}, 0
        for piece in answer.pieces:
            tokens = token_logprobs(turn, [piece], with_bytes=False)
            yield {"type": "response.output_text.delta", **here, "delta": piece, "logprobs": tokens}, 1
        tokens = token_logprobs(turn, answer.pieces, with_bytes=False)
        yield {"type": "response.output_text.done", **here, "text": answer.text, "logprobs": tokens}, 0
    yield {"type": "response.content_part.done", **here, "part": part}, 0


def token_logprobs(turn: Turn, pieces: Sequence[str], *, with_bytes: bool) -> list[dict[str, Any]]:
    top = logprobs.alternatives(turn.parsed)
    return [] if top is None else [logprobs.of_token(piece, top, with_bytes=with_bytes) for piece in pieces]


def status_of(answer: Answer) -> str:
    return "incomplete" if answer.cut or answer.filtered else "completed"


def output_items(turn: Turn, answer: Answer) -> list[dict[str, Any]]:
    """Reasoning, if there was any, and what it led to, unless the limit ended it before."""
    name, status = turn.id.removeprefix("resp_"), status_of(answer)
    items = [reasoning_item(turn, name)] if answer.reasoning else []
    if items and not answer.pieces:
        return items
    if answer.function is not None:
        call = {"type": "function_call", "call_id": f"call_{name}", "name": answer.function, "arguments": answer.text}
        return [*items, {"id": f"fc_{name}", "status": status, **call}]
    part: dict[str, Any] = {"type": "refusal", "refusal": answer.text}
    if not answer.refuses:
        tokens = token_logprobs(turn, answer.pieces, with_bytes=True)
        part = {"type": "output_text", "annotations": [], "logprobs": tokens, "text": answer.text}
    message = {"type": "message", "role": "assistant", "content": [part]}
    return [*items, {"id": f"msg_{name}", "status": status, **message}]


def reasoning_item(turn: Turn, name: str) -> dict[str, Any]:
    """With a summary and encrypted, as far as that is asked for."""
    body = turn.parsed.body
    reasoning, include = body.get("reasoning"), body.get("include")
    summary = reasoning.get("summary") if isinstance(reasoning, dict) else None
    item: dict[str, Any] = {
        "id": f"rs_{name}",
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": "Simulated thoughts."}] if summary else [],
    }
    if isinstance(include, list) and "reasoning.encrypted_content" in include:
        item["encrypted_content"] = f"gAAA{turn.account}.{name}"
    return item


def finished(turn: Turn) -> dict[str, Any]:
    """The JSON answer, finished."""
    answer, usage = turn.answers[0], turn.usage
    document = envelope(turn, status_of(answer), output_items(turn, answer))
    if answer.cut or answer.filtered:
        document["incomplete_details"] = {"reason": "content_filter" if answer.filtered else "max_output_tokens"}
    document["usage"] = {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total,
    }
    return document


def failed(turn: Turn, failure: ErrorReply) -> dict[str, Any]:
    """A failure with HTTP status 200."""
    document = envelope(turn, "failed", [])
    document["error"] = {"code": failure.code or failure.type, "message": failure.message}
    return document


def envelope(turn: Turn, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    """The response object without its usage; the request's options are echoed."""
    body = turn.parsed.body
    return {
        "id": turn.id,
        "object": "response",
        "created_at": turn.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "max_output_tokens": turn.parsed.max_output,
        "model": turn.parsed.model,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt": body.get("prompt"),
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "service_tier": turn.parsed.service_tier,
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "metadata": body.get("metadata") or {},
    }

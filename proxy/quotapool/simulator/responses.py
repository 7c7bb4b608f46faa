"""Bodies and stream events of the Responses API.

Order of events: response.created, response.in_progress, then for the one output item output_item.added,
content_part.added, output_text.delta ..., output_text.done, content_part.done, output_item.done (a function call has
function_call_arguments.delta/.done instead), and finally response.completed, response.incomplete or response.failed,
which has the usage. There is no [DONE].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

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
    item_id = output_item_id(turn, answer)
    here = {"item_id": item_id, "output_index": 0}
    calls = answer.function is not None
    part = {**here, "content_index": 0}
    yield (
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": output_item(turn, answer, "in_progress"),
        },
        answer.reasoning,
    )
    if not calls:
        yield {"type": "response.content_part.added", **part, "part": text_part("")}, 0
    for piece in answer.pieces:
        if calls:
            yield {"type": "response.function_call_arguments.delta", **here, "delta": piece}, 1
        else:
            yield {"type": "response.output_text.delta", **part, "delta": piece, "logprobs": []}, 1
    if calls:
        yield (
            {
                "type": "response.function_call_arguments.done",
                **here,
                "name": answer.function,
                "arguments": answer.text,
            },
            0,
        )
    else:
        yield {"type": "response.output_text.done", **part, "text": answer.text, "logprobs": []}, 0
        yield {"type": "response.content_part.done", **part, "part": text_part(answer.text)}, 0
    last = "incomplete" if answer.cut else "completed"
    yield {"type": "response.output_item.done", "output_index": 0, "item": output_item(turn, answer, last)}, 0
    yield {"type": f"response.{last}", "response": finished(turn)}, 0


def output_item_id(turn: Turn, answer: Answer) -> str:
    return ("msg_" if answer.function is None else "fc_") + turn.id.removeprefix("resp_")


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def output_item(turn: Turn, answer: Answer, status: str) -> dict[str, Any]:
    begun = status == "in_progress"
    item = {"id": output_item_id(turn, answer), "status": status}
    if answer.function is not None:
        arguments = "" if begun else answer.text
        call_id = "call_" + turn.id.removeprefix("resp_")
        return {**item, "type": "function_call", "call_id": call_id, "name": answer.function, "arguments": arguments}
    return {**item, "type": "message", "role": "assistant", "content": [] if begun else [text_part(answer.text)]}


def finished(turn: Turn) -> dict[str, Any]:
    """The JSON answer, finished."""
    answer, usage = turn.answers[0], turn.usage
    status = "incomplete" if answer.cut else "completed"
    document = envelope(turn, status, [output_item(turn, answer, status)])
    if answer.cut:
        document["incomplete_details"] = {"reason": "max_output_tokens"}
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

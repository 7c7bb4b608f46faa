"""The stream that a JSON answer of the Responses API amounts to.

Order (openai-openapi 2.3.0; openai-python 3.54 and openai-node 7.57 insist on it): created, in_progress; each output
item as output_item.added, what it is made of, output_item.done; at last completed, incomplete or failed with the whole
response. Messages come as parts with deltas of text or refusal and their annotations, reasoning as summaries and text,
calls of functions and custom tools as deltas of their arguments. An item of another type is added and done: what its
tool did in between is not in the answer.
"""

from __future__ import annotations

from typing import Any, Final, cast

from quotapool.openai.event_bytes import EventBytes
from quotapool.openai.exact_json import compact, decoded, encoded
from quotapool.openai.jsontext import BROKEN
from quotapool.openai.text_pieces import pieces, pieces_with

_ENDS: Final = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}
_UNTIL_THEN: Final = ("usage", "error", "incomplete_details", "completed_at")  # null while a response is in progress
_CALLS: Final = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
}


def response_events(text: bytes) -> bytes | None:
    """None: `text` is not a response that has ended."""
    try:
        response = decoded(text)
        if type(response) is not dict or type(response.get("output")) is not list:
            return None
        end = _ENDS.get(str(response.get("status")))
        if end is None or not all(type(item) is dict for item in response["output"]):
            return None
        writer = _Writer(EventBytes(len(text)))
        begun = {**response, "status": "in_progress", "output": []}
        begun |= {name: None for name in _UNTIL_THEN if name in response}
        writer.add("response.created", response=begun)
        writer.add("response.in_progress", response=begun)
        for index, item in enumerate(response["output"]):
            writer.item(index, item)
        writer.end(end, compact(text))
        return writer.out.joined()
    except BROKEN:
        return None


class _Writer:
    __slots__ = ("_number", "out")

    def __init__(self, out: EventBytes) -> None:
        self.out = out
        self._number = 0

    def add(self, kind: str, **members: Any) -> None:
        """`members`: what the event has besides its type and number; at least one."""
        self.out.put(self._head(kind) + encoded(members)[1:] + b"\n\n")

    def end(self, kind: str, response: bytes) -> None:
        """`response`: as it was recorded, in one line."""
        self.out.put(self._head(kind) + b'"response":' + response + b"}\n\n")

    def _head(self, kind: str) -> bytes:
        head = f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":{self._number},'
        self._number += 1
        return head.encode()

    def item(self, index: int, item: dict[str, Any]) -> None:
        kind, item_id = item.get("type"), item.get("id")
        begun = {**item, "status": "in_progress"} if type(item.get("status")) is str else dict(item)
        if type(item_id) is not str or not item_id:  # only an item with an id can have parts
            self.add("response.output_item.added", output_index=index, item=begun)
        elif kind == "message" and _are_objects(item.get("content")):
            self.add("response.output_item.added", output_index=index, item={**begun, "content": []})
            for number, part in enumerate(item["content"]):
                self._part(part, {"item_id": item_id, "output_index": index, "content_index": number})
        elif kind == "reasoning":
            self._reasoning(item, begun, {"item_id": item_id, "output_index": index})
        elif type(kind) is str and kind in _CALLS and type(item.get(_CALLS[kind][0])) is str:
            written, event = _CALLS[kind]
            self.add("response.output_item.added", output_index=index, item={**begun, written: ""})
            here = {"item_id": item_id, "output_index": index}
            for piece in pieces(item[written]):
                self.add(event + ".delta", **here, delta=piece)
            self.add(event + ".done", **here, **{written: item[written]})
        else:
            self.add("response.output_item.added", output_index=index, item=begun)
        self.add("response.output_item.done", output_index=index, item=item)

    def _part(self, part: dict[str, Any], here: dict[str, Any]) -> None:
        """One part of a message's content. `here`: which one."""
        kind = part.get("type")
        if kind == "output_text" and type(part.get("text")) is str:
            self._text_part(part, here)
        elif kind == "refusal" and type(part.get("refusal")) is str:
            self.add("response.content_part.added", **here, part={**part, "refusal": ""})
            for piece in pieces(part["refusal"]):
                self.add("response.refusal.delta", **here, delta=piece)
            self.add("response.refusal.done", **here, refusal=part["refusal"])
        else:
            self.add("response.content_part.added", **here, part=part)
        self.add("response.content_part.done", **here, part=part)

    def _text_part(self, part: dict[str, Any], here: dict[str, Any]) -> None:
        annotations, logprobs = part.get("annotations"), part.get("logprobs")
        begun = {**part, "text": ""}
        begun |= {name: [] for name in ("annotations", "logprobs") if type(part.get(name)) is list}
        self.add("response.content_part.added", **here, part=begun)
        for piece, told in pieces_with(part["text"], logprobs):
            self.add("response.output_text.delta", **here, delta=piece, logprobs=told)
        if type(annotations) is list:
            for number, annotation in enumerate(annotations):
                self.add(
                    "response.output_text.annotation.added", **here, annotation_index=number, annotation=annotation
                )
        told = logprobs if type(logprobs) is list else []
        self.add("response.output_text.done", **here, text=part["text"], logprobs=told)

    def _reasoning(self, item: dict[str, Any], begun: dict[str, Any], here: dict[str, Any]) -> None:
        """`encrypted_content` and the rest of the item come with its beginning, as they are."""
        summaries, contents = _texts_in(item.get("summary")), _texts_in(item.get("content"))
        begun |= {name: [] for name, parts in (("summary", summaries), ("content", contents)) if parts}
        self.add("response.output_item.added", output_index=here["output_index"], item=begun)
        for number, part in enumerate(summaries):
            at = {**here, "summary_index": number}
            self.add("response.reasoning_summary_part.added", **at, part={**part, "text": ""})
            for piece in pieces(part["text"]):
                self.add("response.reasoning_summary_text.delta", **at, delta=piece)
            self.add("response.reasoning_summary_text.done", **at, text=part["text"])
            self.add("response.reasoning_summary_part.done", **at, part=part)
        for number, part in enumerate(contents):
            at = {**here, "content_index": number}
            self.add("response.content_part.added", **at, part={**part, "text": ""})
            for piece in pieces(part["text"]):
                self.add("response.reasoning_text.delta", **at, delta=piece)
            self.add("response.reasoning_text.done", **at, text=part["text"])
            self.add("response.content_part.done", **at, part=part)


def _are_objects(value: object) -> bool:
    return type(value) is list and all(type(one) is dict for one in value)


def _texts_in(parts: object) -> list[dict[str, Any]]:
    """The parts, if each is an object with a text; else none."""
    are_texts = type(parts) is list and all(type(one) is dict and type(one.get("text")) is str for one in parts)
    return cast("list[dict[str, Any]]", parts) if are_texts else []

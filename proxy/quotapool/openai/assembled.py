"""The JSON answer that a recorded stream amounts to.

Chunks of chat and completions are put together as the SDKs do it (openai-python 3.54 `lib/streaming`, openai-node 7.57
`ChatCompletionStream`): texts are joined, lists are continued, entries with an `index` are merged by it, and of
everything else the last value counts. A response is in its last event.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from quotapool.openai.event_blocks import payload_of, split_events, take_complete
from quotapool.openai.exact_json import decoded, encoded, indented
from quotapool.openai.jsontext import BROKEN, set_member
from quotapool.openai.shapes import ResponseEvent

_ERROR_EVENT: Final = re.compile(rb"^event: ?error\r?$", re.MULTILINE)
_SET_ONCE: Final = frozenset({"role", "id", "type", "name", "index"})  # texts that a delta has whole
_PADDING: Final = "obfuscation"  # only in streams, against guessing by length
_FIRST_MEMBERS: Final = ("id", "object", "created", "model")  # then `choices`, `usage` and the others: the API's order
_ENDED: Final = frozenset({"response.completed", "response.incomplete"})
_FAILED: Final = frozenset({"error", "response.failed", "response.cancelled"})

_response_event: Final = msgspec.json.Decoder(ResponseEvent)


class Assembly:
    """One recorded stream: `feed` it in pieces of any size, `finish` gives the answer."""

    __slots__ = ("_broken", "_ended", "_held")

    def __init__(self) -> None:
        self._held = bytearray()
        self._broken = False
        self._ended = False

    def feed(self, piece: bytes) -> None:
        block = b"" if self._broken else take_complete(self._held, piece)
        if block:
            for event in split_events(block):
                self._read(event)

    def finish(self) -> bytes | None:
        """None: the stream did not end as it should, or there was an error in it."""
        if self._held.strip():
            self._read(bytes(self._held))  # an event without its blank line
        self._held.clear()
        if self._broken or not self._ended:
            return None
        try:
            return self._answer()
        except BROKEN:
            return None

    def _read(self, event: bytes) -> None:
        text = payload_of(event).strip()
        if event.find(b"error") >= 0 and _ERROR_EVENT.search(event):
            self._broken = True
        elif text == b"[DONE]":
            self._ended = True
        elif text:
            try:
                self._take(text)
            except BROKEN:
                self._broken = True

    def _take(self, text: bytes) -> None:
        """The JSON of one event. May raise one of BROKEN."""
        raise NotImplementedError

    def _answer(self) -> bytes | None:
        """May raise one of BROKEN."""
        raise NotImplementedError


class Choices(Assembly):
    """Of chat completions, or of completions."""

    __slots__ = ("_chat", "_choices", "_members")

    def __init__(self, *, chat: bool) -> None:
        super().__init__()
        self._chat = chat
        self._members: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def _take(self, text: bytes) -> None:
        chunk = decoded(text)
        if type(chunk) is not dict or chunk.get("error"):
            self._broken = True
            return
        members = self._members
        for name, value in chunk.items():
            if name == "choices":
                self._take_choices(value)
            elif name != _PADDING:
                members[name] = value if value is not None and value != "" else members.get(name, value)

    def _take_choices(self, choices: object) -> None:
        if type(choices) is not list:
            self._broken = True
            return
        for choice in choices:
            index = choice.get("index") if type(choice) is dict else None
            if type(index) is not int:
                self._broken = True
                return
            known = self._choices.get(index)
            if known is None:
                known = self._choices[index] = {}
            for name, value in choice.items():
                if name == "delta" and type(value) is dict:
                    _merge(known.setdefault(name, {}), value, by_index=True)
                else:
                    _add(known, name, value, by_index=False)

    def _answer(self) -> bytes | None:
        members, numbers = self._members, sorted(self._choices)
        choices = [self._choice(self._choices[number]) for number in numbers]
        if not choices or not all(choice.get("finish_reason") for choice in choices):
            return None
        answer: dict[str, Any] = {name: members[name] for name in _FIRST_MEMBERS if name in members}
        if self._chat:
            answer["object"] = "chat.completion"
        answer["choices"] = choices
        if members.get("usage") is None:
            members.pop("usage", None)  # null says only that usage was asked for
        else:
            answer["usage"] = members["usage"]
        return indented(encoded({**answer, **{name: members[name] for name in members if name not in answer}}))

    def _choice(self, merged: dict[str, Any]) -> dict[str, Any]:
        known: dict[str, Any] = _built(merged)
        logprobs, finish = known.pop("logprobs", None), known.pop("finish_reason", None)
        if not self._chat:
            first = {"text": known.pop("text", ""), "index": known.pop("index")}
            return {**first, "logprobs": logprobs, "finish_reason": finish, **known}
        message = known.pop("delta", None) or {}
        calls = message.get("tool_calls")
        for call in calls if type(calls) is list else ():
            if type(call) is dict:
                call.pop("index", None)
        # These a whole message always has. A stream leaves out what is empty.
        message = {"role": "assistant", "content": None, "refusal": None, "annotations": [], **message}
        first = {"index": known.pop("index"), "message": message}
        return {**first, "logprobs": logprobs, "finish_reason": finish, **known}


class Response(Assembly):
    """Of the Responses API."""

    __slots__ = ("_items", "_response")

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[int, bytes] = {}
        self._response = b""

    def _take(self, text: bytes) -> None:
        event = _event_in(text)
        kind = event.type
        if event.error or (type(kind) is str and kind in _FAILED):
            self._broken = True
        elif type(kind) is str and kind in _ENDED:
            self._response = bytes(event.response)
            self._ended = True
        elif kind == "response.output_item.done" and type(event.output_index) is int:
            self._items[event.output_index] = bytes(event.item)

    def _answer(self) -> bytes | None:
        response = self._response
        document = decoded(response)
        if type(document) is not dict:
            return None
        if not document.get("output") and self._items:  # some look-alikes of OpenAI leave it empty at the end
            items = b",".join([self._items[index] for index in sorted(self._items)])
            response = set_member(response, "output", b"[" + items + b"]")
        return indented(response)


def _event_in(text: bytes) -> ResponseEvent:
    """Raises one of BROKEN."""
    try:
        return _response_event.decode(text)
    except ValueError:
        event = decoded(text)
        if type(event) is not dict:
            raise
        item, response = (msgspec.Raw(encoded(event.get(name))) for name in ("item", "response"))
        return ResponseEvent(event.get("type"), event.get("error"), event.get("output_index"), item, response)


class _Texts(list[str]):
    """A text that is still being put together."""


class _ByIndex(dict[int, Any]):
    """A list whose entries are merged by their `index`."""


def _merge(known: dict[str, Any], delta: dict[str, Any], *, by_index: bool) -> None:
    for name, value in delta.items():
        _add(known, name, value, by_index=by_index)


def _add(known: dict[str, Any], name: str, value: Any, *, by_index: bool) -> None:
    """`by_index`: whether a list may be one of entries with an `index`. In log probabilities that is a token's name."""
    before = known.get(name)
    if value is None:
        known.setdefault(name, None)
    elif type(value) is str:
        if name in _SET_ONCE or name == "finish_reason":
            known[name] = value or before
        elif type(before) is _Texts:
            before.append(value)
        else:
            known[name] = _Texts((value,))
    elif type(value) is dict:
        if type(before) is not dict:
            before = known[name] = {}
        _merge(before, value, by_index=by_index)
    elif type(value) is list:
        if by_index and value and all(type(one) is dict and type(one.get("index")) is int for one in value):
            if type(before) is not _ByIndex:
                before = known[name] = _ByIndex()
            for one in value:
                _merge(before.setdefault(one["index"], {}), one, by_index=True)
        elif type(before) is list:
            before += value
        else:
            known[name] = list(value)
    else:
        known[name] = value


def _built(value: Any) -> Any:
    """What was put together, as plain JSON."""
    kind = type(value)
    if kind is _Texts:
        return "".join(value)
    if kind is _ByIndex:
        return [_built(value[index]) for index in sorted(value)]
    if kind is dict:
        return {name: _built(one) for name, one in value.items()}
    return value

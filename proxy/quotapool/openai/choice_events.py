"""The stream that a JSON answer of chat completions or completions amounts to.

Shapes and order (openai-openapi 2.3.0; openai-python 3.54, openai-node 7.57 read them): for each choice a first chunk
with the role, then deltas of its content, refusal and tool calls, then one with its `finish_reason`; then the usage in
a chunk without choices, if it was asked for, in which case each other chunk has `"usage":null`; then `[DONE]`. What no
delta is made of (`annotations`, members that nobody here knows) comes whole in the first chunk of what it belongs to:
the SDKs take over from there what they find.
"""

from __future__ import annotations

from typing import Any, Final

from quotapool.openai.event_bytes import EventBytes
from quotapool.openai.exact_json import decoded, encoded
from quotapool.openai.jsontext import BROKEN
from quotapool.openai.text_pieces import PIECE, pieces, pieces_with

DONE: Final = b"data: [DONE]\n\n"

_IN_EVERY_CHUNK: Final = ("id", "object", "created", "model", "service_tier", "system_fingerprint")
_NOT_COPIED: Final = frozenset({*_IN_EVERY_CHUNK, "choices", "usage"})
_OF_CHOICES: Final = frozenset({"index", "message", "text", "logprobs", "finish_reason"})
_BY_TOKEN: Final = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
_WRITTEN_IN_DELTAS: Final = (("function", "arguments"), ("custom", "input"))  # of a tool call


def choice_events(text: bytes, *, chat: bool, usage: bool) -> bytes | None:
    """None: `text` is not such an answer. `usage`: the client asked for it."""
    try:
        answer = decoded(text)
        if type(answer) is not dict:
            return None
        writer = _Writer(answer, EventBytes(len(text)), chat=chat, usage=usage)
        return writer.written() if writer.open() else None
    except BROKEN:
        return None


class _Writer:
    __slots__ = ("_answer", "_chat", "_choices", "_out", "_prefix", "_rest", "_suffix", "_usage")

    def __init__(self, answer: dict[str, Any], out: EventBytes, *, chat: bool, usage: bool) -> None:
        self._answer = answer
        self._chat = chat
        self._usage = usage
        self._out = out
        self._choices: list[dict[str, Any]] = []
        head = {name: answer[name] for name in _IN_EVERY_CHUNK if name in answer}
        if chat:
            head["object"] = "chat.completion.chunk"
        self._prefix = b"data: " + encoded(head)[:-1] + (b"," if head else b"") + b'"choices":['
        self._rest = encoded({name: value for name, value in answer.items() if name not in _NOT_COPIED})[1:-1]
        self._suffix = b'],"usage":null}\n\n' if usage else b"]}\n\n"

    def open(self) -> bool:
        """The choices by index, which is how the SDKs count them. False: there are none, or they are no choices."""
        choices = self._answer.get("choices")
        if type(choices) is not list or not choices:
            return False
        for choice in choices:
            if type(choice) is not dict or type(choice.get("index")) is not int:
                return False
            if type(choice.get("message" if self._chat else "text")) is not (dict if self._chat else str):
                return False
        self._choices = sorted(choices, key=_index_of)
        return True

    def written(self) -> bytes:
        if self._chat:
            for choice in self._choices:
                self._begin_chat(choice)
            for choice in self._choices:
                self._chat_deltas(choice)
        else:
            for choice in self._choices:
                self._text_deltas(choice)
        usage = self._answer.get("usage")
        if self._usage and usage is not None:
            self._out.put(self._prefix + b'],"usage":' + encoded(usage) + b"}\n\n")
        self._out.put(DONE)
        return self._out.joined()

    def _chunk(self, choice: dict[str, Any]) -> None:
        suffix = self._suffix
        if self._rest:  # in the first chunk only
            suffix = b"]," + self._rest + suffix[1:]
            self._rest = b""
        self._out.put(self._prefix + encoded(choice) + suffix)

    # ---- chat

    def _begin_chat(self, choice: dict[str, Any]) -> None:
        message = choice["message"]
        delta: dict[str, Any] = {"role": message.get("role", "assistant")}
        for name, value in message.items():
            if name == "content" and type(value) is str:
                delta[name] = ""
            elif name == "refusal" and type(value) is str:
                delta[name] = None if value else ""
            elif name == "tool_calls" and _are_objects(value):
                continue
            elif name == "function_call" and type(value) is dict:
                delta[name] = _begun(value, "arguments")
            else:
                delta[name] = value
        logprobs = choice.get("logprobs")
        if type(logprobs) is dict:
            logprobs = {name: [] if type(value) is list else value for name, value in logprobs.items()}
        self._chunk(
            {"index": choice["index"], "delta": delta, "logprobs": logprobs, "finish_reason": None, **_others(choice)}
        )

    def _chat_deltas(self, choice: dict[str, Any]) -> None:
        index, message = choice["index"], choice["message"]
        logprobs = choice.get("logprobs")
        if type(logprobs) is not dict:
            logprobs = {}
        for name in ("content", "refusal"):
            value = message.get(name)
            for piece, told in pieces_with(value if type(value) is str else "", logprobs.get(name)):
                probabilities = {"content": None, "refusal": None, name: told} if told else None
                self._delta(index, {name: piece} if piece else {}, probabilities)
        calls = message.get("tool_calls")
        if _are_objects(calls):
            for position, call in enumerate(calls):
                self._call(index, position, call)
        function = message.get("function_call")
        if type(function) is dict:
            for piece in _pieces_of(function, "arguments"):
                self._delta(index, {"function_call": {"arguments": piece}})
        self._delta(index, {}, None, choice.get("finish_reason"))

    def _call(self, index: int, position: int, call: dict[str, Any]) -> None:
        """`index` in a delta is the call's position; a whole answer has none."""
        first = {**call, "index": position}
        for kind, written in _WRITTEN_IN_DELTAS:
            if type(call.get(kind)) is dict:
                first[kind] = _begun(call[kind], written)
        self._delta(index, {"tool_calls": [first]})
        for kind, written in _WRITTEN_IN_DELTAS:
            for piece in _pieces_of(call.get(kind), written):
                self._delta(index, {"tool_calls": [{"index": position, kind: {written: piece}}]})

    def _delta(self, index: int, delta: dict[str, Any], logprobs: Any = None, finish: Any = None) -> None:
        self._chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    # ---- completions

    def _text_deltas(self, choice: dict[str, Any]) -> None:
        text, index = choice["text"], choice["index"]
        others = _others(choice)
        for piece, logprobs in _text_pieces(text, choice.get("logprobs")):
            self._chunk({"text": piece, "index": index, "logprobs": logprobs, "finish_reason": None, **others})
            others = {}
        finish = choice.get("finish_reason")
        self._chunk({"text": "", "index": index, "logprobs": None, "finish_reason": finish, **others})


def _index_of(choice: dict[str, Any]) -> int:
    index: int = choice["index"]
    return index


def _others(choice: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in choice.items() if name not in _OF_CHOICES}


def _are_objects(value: object) -> bool:
    return type(value) is list and bool(value) and all(type(one) is dict for one in value)


def _begun(call: dict[str, Any], written: str) -> dict[str, Any]:
    return {**call, written: ""} if type(call.get(written)) is str else call


def _pieces_of(call: object, written: str) -> list[str]:
    value = call.get(written) if type(call) is dict else None
    return pieces(value) if type(value) is str else []


def _text_pieces(text: str, logprobs: object) -> list[tuple[str, Any]]:
    """(piece, its part of the log probabilities), which for completions are four lists with a member for each token."""
    if type(logprobs) is not dict:
        return [(piece, None) for piece in pieces(text)]
    tokens = logprobs.get("tokens")
    if (
        type(tokens) is not list
        or not all(type(token) is str for token in tokens)
        or "".join(tokens) != text
        or not tokens
        or any(type(logprobs[name]) is list and len(logprobs[name]) != len(tokens) for name in logprobs)
        or any(name not in _BY_TOKEN for name in logprobs)
    ):
        return [(text, logprobs)]
    found = []
    start = held = 0
    for at, token in enumerate(tokens, 1):
        held += len(token)
        if held >= PIECE or at == len(tokens):
            part = {name: value[start:at] if type(value) is list else value for name, value in logprobs.items()}
            found.append(("".join(tokens[start:at]), part))
            start, held = at, 0
    return found

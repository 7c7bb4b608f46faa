"""Events on OpenAI's WebSockets: which of them report usage, limits or errors, and their facts.

Realtime, Responses over a WebSocket, and Live share the form `{"type": "...", ...}` (Python SDK 3.54,
`types/realtime`, `types/responses`, `types/live`). Nearly all events are deltas, which are not decoded: the type is
read from the first bytes, where OpenAI writes it, and only events of the types in RELEVANT are decoded.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from quotapool.domain.quantities import Usage
from quotapool.openai.jsontext import BROKEN, object_in
from quotapool.openai.usage import reported_tier, usage_of, with_tools
from quotapool.openai.value_count import has_too_many_values

CREATE: Final = "response.create"
BEGUN: Final = "response.created"
ENDED: Final = frozenset(
    {"response.done", "response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
ERROR: Final = "error"
ITEM_DONE: Final = "response.output_item.done"
RATES: Final = "rate_limits.updated"
TRANSCRIBED: Final = "conversation.item.input_audio_transcription.completed"
SESSION: Final = frozenset(
    {"session.created", "session.updated", "transcription_session.created", "transcription_session.updated"}
)
DURATION: Final = frozenset({"session.usage.updated", "session.closed"})  # Live: `usage.seconds`, all so far
_WRAPPED: Final = "response.event"  # Live: `event` is one of Responses
RELEVANT: Final = ENDED | SESSION | DURATION | {BEGUN, ERROR, RATES, TRANSCRIBED, _WRAPPED}

_TYPE: Final = re.compile(rb'\s*\{\s*(?:"event_id"\s*:\s*"[^"\\]{0,256}"\s*,\s*)?"type"\s*:\s*"([A-Za-z0-9_.]{1,100})"')


class _Typed(msgspec.Struct, gc=False):
    type: Any = None


_typed: Final = msgspec.json.Decoder(_Typed)


@dataclass(frozen=True, slots=True)
class EventFacts:
    """What one event of upstream reports. Fields that its type does not have are empty."""

    type: str
    response: str = ""  # a response's id
    lane: str = ""  # `stream_id`: responses of one lane follow one another
    model: str = ""  # of the response, or of the session
    transcriber: str = ""  # the model that turns the session's audio into text
    usage: Usage | None = None
    seconds: float = 0.0  # of audio in this session so far
    failed: bool = False
    limits: tuple[tuple[str, float, float], ...] = ()  # (requests | tokens, limit, remaining)


def type_of(payload: bytes | bytearray) -> str:
    """The event's type, "" if it has none. Never raises."""
    found = _TYPE.match(payload)
    if found is not None:
        return found[1].decode("ascii")
    try:
        name = _typed.decode(payload).type
    except BROKEN:
        return ""
    return name if type(name) is str else ""


def may_create(payload: bytes | bytearray) -> bool:
    """Whether upstream might read a client's message as a `response.create`: a message with several types, or one that
    is unreadable here, counts too, since it is not known how upstream reads it. Never raises."""
    if has_too_many_values(payload):
        return True
    try:
        document = json.loads(payload, object_pairs_hook=tuple)
    except BROKEN:
        return True
    return type(document) is tuple and any(pair == ("type", CREATE) for pair in document)


def read_event(payload: bytes | bytearray) -> EventFacts | None:
    """The facts of an event whose type is in RELEVANT; None if it cannot be read. Never raises."""
    document = object_in(payload)
    if document is None:
        return None
    if document.get("type") == _WRAPPED:
        document = _part(document, "event")
    kind = document.get("type")
    if type(kind) is not str:
        return None
    lane = _text(document.get("stream_id"))
    if kind in ENDED or kind == BEGUN:
        response = _part(document, "response")
        usage = usage_of(response.get("usage"), reported_tier(response.get("service_tier")))
        if usage is not None:
            usage = with_tools(usage, response.get("tool_usage"), response.get("tools"))
        return EventFacts(
            kind,
            _text(response.get("id")),
            lane,
            _text(response.get("model")),
            usage=usage,
            failed=response.get("status") == "failed" or kind == "response.failed",
        )
    if kind == ERROR:
        return EventFacts(kind, lane=lane, failed=True)
    if kind == RATES:
        return EventFacts(kind, limits=_limits(document.get("rate_limits")))
    if kind == TRANSCRIBED:
        return EventFacts(kind, usage=usage_of(document.get("usage")))
    if kind in DURATION:
        return EventFacts(kind, seconds=_number(_part(document, "usage").get("seconds")) or 0.0)
    session = _part(document, "session")
    return EventFacts(kind, model=_text(session.get("model")), transcriber=_transcriber(session))


def read_create(payload: bytes | bytearray) -> tuple[str, str]:
    """(model, lane) of a `response.create`; "" if it does not name them. Never raises."""
    document = object_in(payload) or {}
    return _text(document.get("model")), _text(document.get("stream_id"))


def refusal_event(status: int, body: bytes, lane: str) -> bytearray:
    """The proxy's own refusal of one event, in the form of OpenAI's `error` event: with a status and the error."""
    document = {"type": ERROR, "status": status, "error": msgspec.json.decode(body)["error"]}
    if lane:
        document["stream_id"] = lane
    return bytearray(msgspec.json.encode(document))


def _transcriber(session: dict[str, Any]) -> str:
    """`audio.input.transcription.model`, formerly `input_audio_transcription.model`."""
    at_input = _part(_part(session, "audio"), "input")
    for found in (_part(at_input, "transcription"), _part(session, "input_audio_transcription")):
        if name := _text(found.get("model")):
            return name
    return ""


def _limits(reported: object) -> tuple[tuple[str, float, float], ...]:
    found = []
    for limit in reported if type(reported) is list else ():
        if type(limit) is dict:
            most, left = _number(limit.get("limit")), _number(limit.get("remaining"))
            if most is not None and left is not None:
                found.append((_text(limit.get("name")), most, left))
    return tuple(found)


def _part(document: dict[str, Any], name: str) -> dict[str, Any]:
    part = document.get(name)
    return part if type(part) is dict else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value < math.inf else None


def _text(value: object) -> str:
    return value if type(value) is str else ""

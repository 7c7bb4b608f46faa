"""Watches a stream of server-sent events while its bytes pass: usage, errors, the end, the point of no return.

Most chunks are only scanned: keys and words that could matter are searched as bytes, and only an event that contains
one is parsed, so that words in the model's text decide nothing. A client that did not ask for usage gets the bytes of a
stream without it: the usage chunk and each `"usage":null` are removed, however the bytes are split into chunks.
Of an event that is too long to be held (an image) everything is read but its long strings.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from quotapool.domain.quantities import Certainty, Usage
from quotapool.openai.event_blocks import BOUNDARY, is_one_line, payload_of, split_events, take_complete
from quotapool.openai.jsontext import BROKEN, decode_leniently, is_object, locate, member_span
from quotapool.openai.shapes import Event
from quotapool.openai.skimmed import SkimmedJson
from quotapool.openai.usage import reported_tier, usage_of, with_tools

Dialect = Literal["chat", "responses"]

_MOST_HELD: Final = 2**17  # bytes of an unfinished event; one that is longer passes as it is, not stripped
_MOST_SKIMMED: Final = 2**20  # bytes of a longer event that are kept,
_LONGEST_SKIMMED: Final = 2**15  # without longer strings

PREAMBLE: Final = frozenset({"response.created", "response.queued", "response.in_progress", "keepalive"})
TERMINAL: Final = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        "image_generation.completed",
        "image_edit.completed",
        "transcript.text.done",
        "speech.audio.done",
    }
)

_NULL_USAGE: Final = re.compile(rb'"usage"\s*:\s*null')
_ERROR_EVENT: Final = re.compile(rb"^event: ?error\r?$", re.MULTILINE)
_EMPTY: Final[tuple[object, ...]] = (None, "", [], {})


_event: Final = msgspec.json.Decoder(Event)


class StreamRelay:
    """One streamed answer. `feed` it what upstream sends, give the client what it returns, `finish` at a clean end.

    `dialect` is "chat" for chat and legacy completions, "responses" for events that have a `type`. `strip_usage`
    (chat only): usage was asked for by us, not by the client.

    committed  an event other than the preamble was seen, and no error came before it. OpenAI's limits and money come as
               a stream's first event, or behind `response.created` and `response.in_progress` (captures have them with
               the sequence numbers 0, 2 and 3)
    complete   `[DONE]` or a terminal event was seen: if the stream ends now, it ends cleanly
    error      the JSON of the first error event (`{"error":…}`, type `error`, `response.failed`), else None
    object_id  upstream's id of the object that this stream creates, "" until it is known
    last       the JSON of the terminal event, which may hold all of that object, else b""
    reporting  the JSON of the event that reported the usage, else b""
    """

    __slots__ = (
        "_chat",
        "_deltas",
        "_exact",
        "_held",
        "_long",
        "_running",
        "_strip",
        "_tier",
        "committed",
        "complete",
        "dialect",
        "error",
        "last",
        "object_id",
        "reporting",
    )

    def __init__(self, dialect: Dialect, strip_usage: bool = False) -> None:
        self.committed = False
        self.complete = False
        self.error: bytes | None = None
        self.object_id = ""
        self.last = b""
        self.reporting = b""
        self.dialect = dialect
        self._chat = dialect == "chat"
        self._strip = strip_usage and self._chat
        self._held = bytearray()
        self._long: SkimmedJson | None = None  # an unfinished event that is too long to be held
        self._deltas = 0
        self._exact: Usage | None = None
        self._running: Usage | None = None
        self._tier = ""

    @property
    def usage(self) -> Usage:
        """EXACT once upstream has reported it at the end; before that, AT_LEAST with one token for each delta seen.

        Prompt is 0 in AT_LEAST unless upstream reports usage along the way: the caller knows what it reserved.
        """
        exact, running, tier = self._exact, self._running, self._tier
        if exact is None and running is not None and self.complete:
            exact = running
        if exact is not None:
            return msgspec.structs.replace(exact, tier=tier) if tier else exact
        if running is None:
            return Usage(Certainty.AT_LEAST, completion=self._deltas, tier=tier)
        return msgspec.structs.replace(
            running, certainty=Certainty.AT_LEAST, completion=max(running.completion, self._deltas), tier=tier
        )

    @property
    def seen(self) -> int:
        """Tokens of the answer so far, at least."""
        return self._deltas if self._running is None else max(self._running.completion, self._deltas)

    def feed(self, data: bytes) -> bytes:
        """What the client gets now. Without stripping, `data` itself, at once."""
        if self._long is not None:
            return self._feed_long(self._long, data)
        block = data if not self._held and data.endswith(b"\n\n") else take_complete(self._held, data)
        if block:
            block = self._read(block)
        if len(self._held) > _MOST_HELD:
            block += self._begin_long()
        return block if self._strip else data

    def _begin_long(self) -> bytes:
        """The held event is too long: it passes from here on. Returns what was held of it."""
        passing = bytes(self._held)
        self._long = SkimmedJson(_MOST_SKIMMED, _LONGEST_SKIMMED, _LONGEST_SKIMMED)
        self._long.feed(passing)
        self._commit()
        self._held = bytearray(passing[-2:])  # in which its blank line may begin
        return passing

    def _feed_long(self, event: SkimmedJson, data: bytes) -> bytes:
        """More of a long event, and what comes behind it."""
        before = len(self._held)
        seen = bytes(self._held) + data
        found = BOUNDARY.search(seen)
        if found is None:
            event.feed(data)
            self._held[:] = seen[-2:]
            return data
        end = found.end() - before
        event.feed(data[:end])
        self._held.clear()
        self._long = None
        self._watch(bytes(event.kept))
        rest = data[end:]
        return data[:end] + self.feed(rest) if rest else data

    def finish(self) -> bytes:
        """What is still held when upstream ends: an event without its blank line, treated like the others."""
        event = bytes(self._held) if self._long is None else bytes(self._long.kept)
        self._held.clear()
        if not event or not self._watch(event) or not self._strip or self._long is not None:
            return b""
        return _without_null_usage(event)

    def _read(self, block: bytes) -> bytes:
        """Watch complete events; returns those for the client, if we strip."""
        if not self.committed or not (_is_quiet_chat(block) if self._chat else _is_quiet_typed(block)):
            kept = [event for event in split_events(block) if self._watch(event)]
            return b"".join(map(_without_null_usage, kept)) if self._strip else block
        self._deltas += _chat_deltas(block) if self._chat else _typed_deltas(block)
        if not self._strip:
            return block
        if is_one_line(block):
            return _without_null_usage(block)
        return b"".join([_without_null_usage(event) for event in split_events(block)])

    def _watch(self, event: bytes) -> bool:
        """Learn from one event. False: it is the usage chunk, which the client did not ask for."""
        payload = payload_of(event)
        text = payload.strip()
        if not text:
            return True
        if text == b"[DONE]":
            self.complete = True
            self._commit()
            return True
        try:
            decoded = decode_leniently(_event, payload)
        except BROKEN:
            self._commit()
            return True
        kind = decoded.type if type(decoded.type) is str else ""
        if decoded.error or kind in {"error", "response.failed"} or _ERROR_EVENT.search(event):
            self.error = self.error or text
        if kind in TERMINAL:
            self.complete = True
            self.last = text
        if not self.object_id:
            object_id = decoded.id or (decoded.response.id if decoded.response else None)
            self.object_id = object_id if type(object_id) is str else ""
        tier = reported_tier(decoded.response.service_tier if decoded.response else decoded.service_tier)
        self._tier = tier or self._tier  # any event may name it; the last one is right
        usage = usage_of(decoded.usage)
        if usage is None and decoded.response and (usage := usage_of(decoded.response.usage)) is not None:
            usage = with_tools(usage, decoded.response.tool_usage, decoded.response.tools)
        if usage is not None:
            if decoded.choices:  # a look-alike of OpenAI that reports usage along the way
                self._running = usage
            else:
                self._exact = usage
                self.reporting = text
        deltas, is_preamble = _chat_event(decoded) if self._chat else _typed_event(decoded, kind)
        self._deltas += deltas
        if not is_preamble:
            self._commit()
        return not (self._strip and decoded.choices == [] and type(decoded.usage) is dict)

    def _commit(self) -> None:
        if self.error is None:
            self.committed = True


def _chat_event(event: Event) -> tuple[int, bool]:
    """(choices with content, whether the event is preamble): roles and empty deltas are not content."""
    if type(event.choices) is not list or event.usage:
        return 0, False
    deltas = 0
    is_preamble = True
    for choice in event.choices:
        if type(choice) is not dict:
            return deltas, False
        delta = choice.get("delta")
        values = [v for k, v in delta.items() if k != "role"] if type(delta) is dict else [choice.get("text")]
        if any(value not in _EMPTY for value in values):
            deltas += 1
            is_preamble = False
        elif choice.get("finish_reason") is not None:
            is_preamble = False
    return deltas, is_preamble


def _typed_event(event: Event, kind: str) -> tuple[int, bool]:
    return (1 if event.delta and type(event.delta) is str else 0), kind in PREAMBLE


# The four scans below run for every chunk. Each searches for keys or words: if they are absent, nothing in the block
# can matter; if they are present, perhaps only in the model's text, the events are parsed. `find`, since `in` takes
# longer: CPython 3.11 asks first whether the word is a number.


def _is_quiet_chat(block: bytes) -> bool:
    if block.find(b"error") >= 0 or block.find(b"[DONE]") >= 0 or block.find(b'"role"') >= 0:
        return False
    at = block.find(b'"usage"')
    if at < 0 or (block.startswith(b'"usage":null', at) and block.find(b'"usage"', at + 12) < 0):
        return True
    return block.count(b'"usage"') == block.count(b'"usage":null')


def _is_quiet_typed(block: bytes) -> bool:
    return block.find(b'"response"') < 0 and block.find(b"error") < 0 and block.find(b'"usage"') < 0


def _chat_deltas(block: bytes) -> int:
    """Deltas with content, each at least a token; written either all without blanks, or all with them."""
    deltas = block.count(b'"delta":{"')
    if deltas:
        return deltas - block.count(b'"content":""')
    deltas = block.count(b'"delta": {"')
    if deltas:
        return deltas - block.count(b'"content": ""')
    texts = block.count(b'"text":"')
    if texts:
        return texts - block.count(b'"text":""')
    return block.count(b'"text": "') - block.count(b'"text": ""')


def _typed_deltas(block: bytes) -> int:
    deltas = block.count(b'"delta":"')
    if deltas:
        return deltas - block.count(b'"delta":""')
    return block.count(b'"delta": "') - block.count(b'"delta": ""')


def _without_null_usage(event: bytes) -> bytes:
    """The event without the top-level `"usage":null`, which shows that usage was asked for."""
    at = event.rfind(b',"usage":null')
    if at < 0 and event.find(b'"usage"') < 0:
        return event
    if at >= 0 and is_one_line(event):
        rest = event[at + 13 :]
        if rest == b"}\n\n" or is_object(b"{" + event[at + 1 :]):
            return event[:at] + rest
    payload = payload_of(event)
    start = locate(payload, b'"usage"')
    member = _NULL_USAGE.match(payload, start) if start >= 0 else None
    if member is None:
        return event
    start, end = member_span(payload, start, member.end())
    return event[:start] + event[end:]

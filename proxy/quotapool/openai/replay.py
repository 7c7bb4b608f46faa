"""A recorded answer in the form that a client asked for: one JSON text, or a stream of events.

Ids stay as they were recorded. No SDK needs others: openai-python 3.54 and openai-node 7.57 compare the ids of one
stream with each other (response, item and call must agree from beginning to end), never those of two answers. And a
reasoning item that comes back with another id might be refused: OpenAI verifies its `encrypted_content`, by what is not
known. The price: who asks the same twice and sends both answers back in one request is refused with "Duplicate item
found with id" (vercel/ai#15492), as with one answer sent back twice, which it is.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

from quotapool.openai.assembled import Assembly, Choices, Response
from quotapool.openai.choice_events import choice_events
from quotapool.openai.response_events import response_events
from quotapool.openai.sse import StreamRelay

Kind = Literal["chat", "completions", "responses"]
"""Of an answer that has both forms: what `Endpoint.estimate` says."""

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"


class Form(Enum):
    """How upstream wrote an answer: as one JSON text, or as server-sent events."""

    JSON = "json"
    EVENTS = "events"


def whole(kind: Kind, events: bytes) -> bytes | None:
    """The JSON answer that a recorded stream amounts to. None: it did not end as it should (no `[DONE]`,
    `response.completed` or `response.incomplete`), was cut, or has an error in it."""
    assembly = _assembly(kind)
    assembly.feed(events)
    return assembly.finish()


def events(kind: Kind, text: bytes, *, usage: bool) -> bytes | None:
    """The stream that a JSON answer amounts to. `usage`: the client of chat or completions asked for it. None: `text`
    is not such an answer."""
    if kind == "responses":
        return response_events(text)
    return choice_events(text, chat=kind == "chat", usage=usage)


class Replay:
    """Recorded pieces in, the asked form out: `feed` each piece, give the client what it returns, and what `finish`
    returns at the end. In the form that was recorded each piece passes as it is.

    `streamed`: the client asked for events. `usage`: it asked for `include_usage`. `content_type`: of what comes out.
    """

    __slots__ = ("_assembly", "_kind", "_pieces", "_relay", "_usage", "content_type")

    def __init__(self, kind: Kind, recorded: Form, *, streamed: bool, usage: bool) -> None:
        self.content_type = EVENT_STREAM if streamed else JSON
        self._kind: Kind = kind
        self._usage = usage
        self._pieces: list[bytes] | None = None
        self._assembly: Assembly | None = None
        self._relay: StreamRelay | None = None
        if recorded is Form.EVENTS:
            if not streamed:
                self._assembly = _assembly(kind)
            elif not usage and kind != "responses":
                self._relay = StreamRelay("chat", strip_usage=True)
        elif streamed:
            self._pieces = []

    @property
    def passes(self) -> bool:
        """Whether each piece passes as it is."""
        return self._relay is None and self._assembly is None and self._pieces is None

    def feed(self, piece: bytes) -> bytes:
        if self._relay is not None:
            return self._relay.feed(piece)
        if self._assembly is not None:
            self._assembly.feed(piece)
            return b""
        if self._pieces is not None:
            self._pieces.append(piece)
            return b""
        return piece

    def finish(self) -> bytes | None:
        """None: what was recorded cannot be given in the asked form. Nothing was given of it before."""
        if self._relay is not None:
            return self._relay.finish()
        if self._assembly is not None:
            return self._assembly.finish()
        if self._pieces is not None:
            return events(self._kind, b"".join(self._pieces), usage=self._usage)
        return b""


def _assembly(kind: Kind) -> Assembly:
    return Response() if kind == "responses" else Choices(chat=kind == "chat")

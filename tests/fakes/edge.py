"""Both edges of the network, faked: an upstream that says what a test scripts, and a client that can leave or stall.

    upstream.next(fails("reset"), chat_answer())      # what the next requests get, whichever key they carry
    client = Client(body=chat_body())
    await pipeline.serve(client, trip)

A body is a list of bytes and of `asyncio.Event`s: at an event it stands still until the event is set.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multidict import CIMultiDict
from quotapool.openai import replies
from quotapool.openai.head import Header
from quotapool.openai.headers import encode_headers
from quotapool.openai.refusal import Refusal
from quotapool.upstream.interface import Body, Sink, UpstreamFailure

from tests.fakes.heads import head, text

Piece = bytes | asyncio.Event | UpstreamFailure
TextLine = tuple[str, str]


@dataclass(frozen=True)
class Reply:
    """What upstream does with one request. `before`: something to wait for, or a failure, instead of an answer."""

    status: int = 200
    headers: Sequence[TextLine] = (("Content-Type", "application/json"),)
    pieces: Sequence[Piece] = ()
    before: Piece | None = None
    reads_body: bool = True

    def named(self, **headers: str) -> Reply:
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return replace(self, headers=[*self.headers, *more])


def says(status: int, document: Any, **headers: str) -> Reply:
    """A JSON answer."""
    return Reply(status, pieces=[json.dumps(document).encode()]).named(**headers)


def error(
    status: int, code: str | None, message: str = "", kind: str = "invalid_request_error", **headers: str
) -> Reply:
    """OpenAI's error shape; `kind` is its `type`."""
    said = {"message": message or f"This is {code}.", "type": kind, "param": None, "code": code}
    return says(status, {"error": said}, **headers)


def chat_answer(prompt: int = 10, completion: int = 20) -> Reply:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
    return says(200, {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage})


def stream(*pieces: Piece) -> Reply:
    return Reply(headers=[("Content-Type", "text/event-stream")], pieces=pieces)


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def delta(**what: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": what, "finish_reason": None}]})


DONE = b"data: [DONE]\n\n"


def usage_chunk(prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"choices": [], "usage": usage})


def failure(reason: str = "reset", *, sent: bool = True) -> UpstreamFailure:
    return UpstreamFailure(reason, f"this is a faked {reason}", sent=sent)


def fails(reason: str = "reset", *, sent: bool = True) -> Reply:
    return Reply(before=failure(reason, sent=sent))


@dataclass
class Sent:
    """One request as upstream saw it."""

    key: str
    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


class FakeAnswer:
    def __init__(self, upstream: FakeUpstream, reply: Reply) -> None:
        self._upstream = upstream
        self._pieces = deque(reply.pieces)
        self._open = True
        self._given_up = asyncio.Event()
        self.status = reply.status
        self.reason = ""
        self.headers = head(reply.headers)
        self.given = 0  # pieces handed out

    def whole(self) -> bytes | None:
        """None of its pieces is ever here before it is asked for."""

    async def pour(self, sink: Sink) -> None:
        while data := await self.chunk():
            if (full := sink(data)) is not None:
                await full

    async def chunk(self) -> bytes:
        await asyncio.sleep(0)
        while self._pieces and isinstance(self._pieces[0], asyncio.Event):
            await either(self._pieces[0], self._given_up)
            if not self._given_up.is_set():
                self._pieces.popleft()
        if not self._pieces:
            return b""
        if isinstance(self._pieces[0], UpstreamFailure):
            raise self._pieces[0]
        self.given += 1
        return self._pieces.popleft()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._upstream.open -= 1
        if self._pieces:  # it was not read to its end
            self._pieces = deque([failure("reset")])
            self._given_up.set()


async def either(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waiting:
            wait.cancel()


class FakeUpstream:
    """Implements `Upstream`. `secrets`: key id to secret, to tell whose request it was."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._keys = {f"Bearer {secret}": key for key, secret in secrets.items()}
        self._next: deque[Reply] = deque()
        self.always: dict[str, Reply] = {}
        self.otherwise = chat_answer()
        self.sent: list[Sent] = []
        self.answers: list[FakeAnswer] = []
        self.open = 0  # answers not closed yet

    def next(self, *scripted: Reply) -> None:
        """What the next requests get."""
        self._next.extend(scripted)

    async def send(self, method: str, target: str, headers: Sequence[Header], body: Body) -> FakeAnswer:
        try:
            encode_headers(headers)
        except ValueError as error:
            raise failure("protocol", sent=False) from error
        known = CIMultiDict(text(headers))
        key = self._keys[known["Authorization"]]
        reply = self._next.popleft() if self._next else self.always.get(key, self.otherwise)
        seen = Sent(key, method, target, known, b"")
        self.sent.append(seen)
        await asyncio.sleep(0)
        if isinstance(reply.before, asyncio.Event):
            await reply.before.wait()
        if isinstance(reply.before, UpstreamFailure):
            if not reply.before.sent:
                self.sent.remove(seen)  # known only now: whoever was cancelled before must take it for sent
            raise reply.before
        if isinstance(body, bytes):
            seen.body = body
        elif body is not None and reply.reads_body:
            async for piece in body:
                seen.body += piece
        answer = FakeAnswer(self, reply)
        self.answers.append(answer)
        self.open += 1
        return answer

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class Client:
    """Does what `web/exchange.Exchange` does, and records what the client got.

    `leaves_at`: the nth write finds the client gone. Pieces have arrived once they are written, whatever `stalls`.
    """

    body: bytes | Sequence[bytes] = b""
    method: str = "POST"
    target: str = "/v1/chat/completions"
    more_headers: Iterable[TextLine] = (("Content-Type", "application/json"),)
    key: str = ""
    leaves_at: int = -1
    stalls: asyncio.Event | None = None  # until it is set, there is no room behind a piece: a slow client

    started: bool = False
    status: int = 0
    reason: str = ""
    answered: list[TextLine] = field(default_factory=list)
    length: int | None = None
    pieces: list[bytes] = field(default_factory=list)
    finished: bool = False
    was_cut: bool = False
    writes: int = 0

    def __post_init__(self) -> None:
        length = [("Content-Length", str(len(self.body)))] if isinstance(self.body, bytes) and self.body else []
        chunked = [] if isinstance(self.body, bytes) else [("Transfer-Encoding", "chunked")]
        authorization = [("Authorization", f"Bearer {self.key}")] if self.key else []
        named = [("Host", "127.0.0.1:8080"), *authorization, *self.more_headers, *length, *chunked]
        self.headers = head(named)
        self._arriving = deque([self.body] if isinstance(self.body, bytes) else self.body)
        self._left: int | None = 0  # bytes that the answer still promises; None: they are not counted

    @property
    def got(self) -> bytes:
        return b"".join(self.pieces)

    def header(self, name: str) -> str | None:
        return next((value for n, value in self.answered if n.lower() == name), None)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.got)["error"]
        return found

    async def read(self, most: int) -> bytes:
        read = b""
        async for piece in self.stream():
            read += piece
            if len(read) > most:
                raise Refusal(replies.BODY_TOO_LARGE)
        return read

    async def stream(self) -> AsyncIterator[bytes]:
        while self._arriving:
            await asyncio.sleep(0)
            yield self._arriving.popleft()

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[Any] | None:
        self._begin(status, reason, headers, length)
        full = self.put(body)
        self._end()
        return full

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        self._begin(status, reason, headers, length)

    def _begin(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        encode_headers(headers)
        self.started, self.status, self.answered, self.length = True, status, text(headers), length
        self.reason = reason
        self._left = 0 if status in {204, 304} or self.method == "HEAD" else length

    async def write(self, data: bytes) -> None:
        if (full := self.put(data)) is not None:
            await full

    def put(self, data: bytes) -> Awaitable[Any] | None:
        if self.writes == self.leaves_at or self.was_cut:
            raise ConnectionResetError("the client has left")
        if not data or self._left == 0:
            return None
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self.writes += 1
        self.pieces.append(data)
        return None if self.stalls is None or self.stalls.is_set() else asyncio.ensure_future(self.stalls.wait())

    async def finish(self) -> None:
        self._end()

    def _end(self) -> None:
        if self._left:  # fewer bytes came than were promised
            self.cut()
            return
        self.finished = True

    def cut(self) -> None:
        self.was_cut = True


def chat_body(model: str = "gpt-4o", max_tokens: int = 1000, **more: Any) -> bytes:
    """A chat that reserves `max_tokens` (OpenAI counts the larger of that and characters / 4)."""
    said = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": model, "messages": said, "max_tokens": max_tokens, **more}).encode()

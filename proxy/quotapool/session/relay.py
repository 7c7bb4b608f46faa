"""An open session: messages carried both ways until one side ends it, and the other side is given its close code.

Each direction reads a message only when the one before has been taken, so a slow reader slows its sender down and
nothing piles up here. Close codes and reasons pass as they are; a side that vanishes becomes 1001 upstream and 1011
for the client, on which SDKs connect again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import structlog

from quotapool.websocket.frames import (
    CLOSE,
    GOING_AWAY,
    INTERNAL_ERROR,
    TEXT,
    VANISHED,
    FrameError,
    Message,
    close_code,
    close_payload,
)
from quotapool.websocket.socket import WebSocket

_log = structlog.get_logger()
_FAREWELL_S: Final = 5.0  # for the other side to answer a close
_PING_AFTER_S: Final = 60.0  # of silence
_LOST_AFTER_S: Final = 300.0  # a slow reader finds our ping late
_LONGEST_REASON: Final = 123  # bytes
_MOST_KEPT: Final = 2**20  # bytes of messages behind one that waits for a budget; then the client has to wait, too
_EMPTY: Final = 256  # bytes that a message counts in addition to its payload

Side = Literal["client", "upstream", "proxy"]


class Watch(Protocol):
    """Whoever counts what a session uses."""

    def observe(self, payload: bytearray) -> None:
        """A text of upstream, before it is passed on."""
        ...

    def clean(self, text: bytes) -> bytes:
        """What upstream gives as a reason, without secrets."""
        ...

    def wants(self, payload: bytearray) -> bool:
        """Whether a text of the client needs a budget before it may go up."""
        ...

    async def admit(self, payload: bytearray) -> bytearray | None:
        """Take the budget. The client's answer where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended: the close code, VANISHED if none was sent, and who ended it."""

    code: int
    by: Side


@dataclass(frozen=True, slots=True)
class _Last:
    """How one side ended: the close frame it sent, or what was wrong with its frames, or nothing."""

    close: bytearray | None = None
    broken: FrameError | None = None


class SessionRelay:
    """Carries messages between two open sockets. `leave` ends it from outside."""

    def __init__(self, client: WebSocket, upstream: WebSocket, watch: Watch) -> None:
        self._client = client
        self._upstream = upstream
        self._watch = watch
        self._left: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._kept: deque[Message] = deque()  # of the client, behind one that waits for a budget
        self._kept_bytes = 0
        self._passing: asyncio.Task[None] | None = None  # what was kept
        self._down: asyncio.Task[_Last] | None = None  # reads the upstream of now

    def leave(self, code: int, reason: str) -> None:
        """End the session; the client gets the reason."""
        if not self._left.done():
            self._left.set_result((code, reason))

    def look(self, now: float) -> None:
        """Ask who has been silent for a sign of life, and give up on who does not answer. `now`: monotonic."""
        for side in (self._client, self._upstream):
            silent_s = now - side.received_at if side.receiving else 0.0
            if silent_s > _LOST_AFTER_S:
                side.abort()
            elif silent_s > _PING_AFTER_S:
                with contextlib.suppress(ConnectionError):
                    side.ping()

    def move_to(self, upstream: WebSocket) -> None:
        """Go on with another upstream, between two responses; the one before is closed."""
        before, reading = self._upstream, self._down
        self._upstream, self._down = upstream, self._read(upstream)
        if reading is not None:
            reading.cancel()
        with contextlib.suppress(ConnectionError):
            before.send_close(close_payload(GOING_AWAY))
        before.end()

    def _read(self, upstream: WebSocket) -> asyncio.Task[_Last]:
        return asyncio.create_task(self._carry(upstream, self._client.send, self._from_upstream))

    def _send_up(self, opcode: int, payload: bytearray) -> Awaitable[None]:
        return self._upstream.send(opcode, payload)

    async def run(self) -> Ending:
        """Until the session has ended and both connections are closing."""
        up = asyncio.create_task(self._carry(self._client, self._send_up, self._from_client))
        down = self._down = self._read(self._upstream)
        try:
            while not (up.done() or down.done() or self._left.done()):
                ends: set[asyncio.Future[Any]] = {up, down, self._left}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                down = self._down  # another one, if the session has moved
            if self._left.done():
                code, reason = self._left.result()
                self._client.send_close(close_payload(code, reason))
                self._upstream.send_close(close_payload(GOING_AWAY))
                await asyncio.wait({up}, timeout=_FAREWELL_S)
                return Ending(code, "proxy")
            if down.done():
                return await self._part("upstream", down.result(), up)
            return await self._part("client", up.result(), down)
        finally:
            if not up.done() or not self._down.done():  # cut, or one side would not answer
                with contextlib.suppress(ConnectionError):
                    self._upstream.send_close(close_payload(GOING_AWAY))
            for task in (up, self._down, self._passing):
                if task is not None:
                    task.cancel()
            self._client.end()
            self._upstream.end()

    async def _part(self, by: Side, last: _Last, others: asyncio.Task[_Last]) -> Ending:
        """One side has ended: tell the other one, and pass its answer back."""
        first, second = (self._client, self._upstream) if by == "client" else (self._upstream, self._client)
        lost = GOING_AWAY if by == "client" else INTERNAL_ERROR
        if self._passing is not None and by == "client":
            self._passing.cancel()  # nothing may go up behind a close
        if last.close is not None:
            code = close_code(last.close)
            second.send_close(bytearray(last.close) if by == "client" else self._without_secrets(last.close))
            await asyncio.wait({others}, timeout=_FAREWELL_S)
            answer = others.result().close if others.done() else None
            if answer is None:
                answer = last.close
            first.send_close(self._without_secrets(answer) if by == "client" else bytearray(answer))
            return Ending(code, by)
        if last.broken is not None:
            first.send_close(close_payload(last.broken.code, str(last.broken)))
            second.send_close(close_payload(lost, f"the {by} broke the protocol: {last.broken}"))
            return Ending(last.broken.code, by)
        second.send_close(close_payload(lost, f"the {by} is gone"))
        return Ending(VANISHED, by)

    def _without_secrets(self, close: bytearray) -> bytearray:
        reason = bytes(close[2:])
        cleaned = self._watch.clean(reason)
        return bytearray(close) if cleaned == reason else close[:2] + cleaned[:_LONGEST_REASON]

    async def _carry(
        self,
        source: WebSocket,
        send: Callable[[int, bytearray], Awaitable[None]],
        passed: Callable[[Message], Awaitable[bool]],
    ) -> _Last:
        """One direction, until its source ends."""
        try:
            while (message := await source.receive()) is not None:
                if message.opcode == CLOSE:
                    return _Last(close=message.payload)
                if not await passed(message):
                    await self._gently(send(message.opcode, message.payload))
        except FrameError as broken:
            return _Last(broken=broken)
        except ConnectionError:  # while answering a ping
            pass
        return _Last()

    @staticmethod
    async def _gently(sending: Awaitable[None]) -> None:
        """A sink that is gone ends the session by its own direction; until then its source is read on."""
        with contextlib.suppress(ConnectionError):
            await sending

    async def _from_upstream(self, message: Message) -> bool:
        if message.opcode == TEXT:
            self._watch.observe(message.payload)
        return False

    async def _from_client(self, message: Message) -> bool:
        """True: kept, because it needs a budget first, or is queued behind one that does."""
        if self._passing is None and not self._watch.wants(message.payload):
            return False
        self._kept.append(message)
        self._kept_bytes += len(message.payload) + _EMPTY
        if self._passing is None:
            self._passing = asyncio.create_task(self._serve_kept())
        if self._kept_bytes > _MOST_KEPT:
            await asyncio.shield(self._passing)
        return True

    async def _serve_kept(self) -> None:
        """Pass on what was kept, in order. Meanwhile pings are answered."""
        try:
            await self._pass_on()
        except Exception:  # noqa: BLE001 - last resort: otherwise the session would hang silently
            _log.exception("session failed")
            self.leave(INTERNAL_ERROR, "the proxy failed on this session")
        finally:
            self._passing = None

    async def _pass_on(self) -> None:
        while self._kept:
            opcode, payload = self._kept.popleft()
            self._kept_bytes -= len(payload) + _EMPTY
            await asyncio.sleep(0)  # what follows may not wait, and there may be thousands
            refusal = None
            if self._watch.wants(payload):
                refusal = await self._watch.admit(payload)
            if refusal is None:
                await self._gently(self._upstream.send(opcode, payload))
            else:
                await self._gently(self._client.send(TEXT, refusal))

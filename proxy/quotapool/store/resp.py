"""The line: one connection to a single store, for the calls on the request path and nothing else.

redis-py takes 150 µs of a processor for one awaited call (its layers: pool, retry, timeout, packing, streams); under
load a batch shares that, but a lone request waits for all of it. This is a protocol on hiredis' parser, a fifth of it,
with the promises of `connection.py`: a command is sent once, a call ends in time, and a connection whose answer did
not come in time is closed, so that it cannot become another's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import hiredis

from quotapool.store.address import Address, Kind


class RespBroken(Exception):
    """No answer. `reason`: connect, closed or timeout, as in `StoreLost`; `sent`: the command may have arrived."""

    def __init__(self, reason: str, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.sent = sent


class ErrorReply(Exception):
    """The server said no; the text begins with its code, `NOSCRIPT` say."""


class RespConnection:
    """Connects with the first call, and again after the connection was lost. Calls are answered in their order.

    `timeout_s` bounds a call; connecting, and each command of its greeting, has as much once more.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._wire: _Wire | None = None
        self._dialling = asyncio.Lock()

    @staticmethod
    def leads_to(address: Address) -> bool:
        """Whether a line can be had there: Sentinels and clusters have a way of their own to the right server, and TLS
        is left to redis-py."""
        return address.kind in {Kind.UNIX, Kind.SINGLE} and address.tls is None

    async def call(self, *words: bytes) -> Any:
        """One command; its answer as hiredis reads it. Raises LineBroken, ErrorReply.

        If the caller is cancelled, the connection is given up: what comes then is nobody's.
        """
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._dial()
        return await self._ask(wire, words)

    async def _ask(self, wire: _Wire, words: tuple[bytes, ...]) -> Any:
        answer = wire.ask(words)
        timer = asyncio.get_running_loop().call_later(self._timeout_s, wire.expire, answer)
        try:
            reply = await answer
        except asyncio.CancelledError:
            wire.close()
            raise
        finally:
            timer.cancel()
        if isinstance(reply, hiredis.ReplyError):
            raise ErrorReply(str(reply))
        return reply

    async def _dial(self) -> _Wire:
        async with self._dialling:
            if self._wire is not None and not self._wire.lost:
                return self._wire
            wire = await self._connected()
            try:
                for words in _greeting(self._address):
                    await self._ask(wire, words)
            except RespBroken as error:
                wire.close()
                raise RespBroken(error.reason, str(error), sent=False) from error
            except BaseException:
                wire.close()
                raise
            self._wire = wire
            return wire

    async def _connected(self) -> _Wire:
        loop, address = asyncio.get_running_loop(), self._address
        try:
            async with asyncio.timeout(self._timeout_s):
                if address.kind is Kind.UNIX:
                    _, wire = await loop.create_unix_connection(lambda: _Wire(loop), address.path)
                else:
                    host, port = address.hosts[0]
                    _, wire = await loop.create_connection(lambda: _Wire(loop), host, port)
        except TimeoutError as error:
            raise RespBroken("timeout", "it does not accept connections", sent=False) from error
        except OSError as error:
            raise RespBroken("connect", str(error), sent=False) from error
        return wire

    def close(self) -> None:
        """End the connection, and with it what is under way."""
        if self._wire is not None:
            self._wire.close()


class _Wire(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost = False
        self._loop = loop
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._asked: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, words: tuple[bytes, ...]) -> asyncio.Future[Any]:
        transport = self._transport
        if self.lost or transport is None or transport.is_closing():
            raise RespBroken("connect", "the connection is closed", sent=False)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append(answer)
        transport.write(b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words])))
        return answer

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:  # or an answer to nothing
            self._end("closed", f"the store said what could not be understood: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("closed", str(exc) if exc is not None else "the store closed the connection")

    def expire(self, answer: asyncio.Future[Any]) -> None:
        """`answer` did not come in time."""
        if not answer.done():
            answer.set_exception(RespBroken("timeout", "the store did not answer in time", sent=True))
            self.close()

    def _end(self, reason: str, why: str) -> None:
        self.lost = True
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(RespBroken(reason, why, sent=True))

    def close(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


def _greeting(address: Address) -> list[tuple[bytes, ...]]:
    """What a new connection says first: who it is, and which database it means."""
    login, words = address.login, list[tuple[bytes, ...]]()
    if login.password is not None:
        user = (login.username.encode(),) if login.username is not None else ()
        words.append((b"AUTH", *user, login.password.encode()))
    if address.client_name is not None:
        words.append((b"CLIENT", b"SETNAME", address.client_name.encode()))
    if address.db:
        words.append((b"SELECT", b"%d" % address.db))
    return words

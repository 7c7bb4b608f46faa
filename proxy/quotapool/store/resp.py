"""A RESP connection to one server of the store, for the batches of the request path and nothing else.

redis-py takes 150 µs of CPU time for one awaited call (its layers: pool, retry, timeout, packing, streams); under
load a batch shares that, but a lone request waits for all of it. This is a protocol on hiredis' parser, at a fifth of
that cost, with the promises of `store.py`: a command is sent once, a call ends in time, and a connection whose reply
did not come in time is closed, so that a late reply cannot become the reply to another command.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import hiredis

from quotapool.store.address import Address, Kind, Tls

Master = Callable[[], Awaitable[tuple[str, int]]]
"""Asks the Sentinels for host and port of the master. Raises ConnectionError or redis-py's error."""


class RespBroken(Exception):
    """No reply. `reason`: connect, closed or timeout, as in `StoreLost`; `sent`: the command may have arrived."""

    def __init__(self, reason: str, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.sent = sent


class ErrorReply(Exception):
    """The server replied with an error; the text begins with its code, for example `NOSCRIPT`."""


class RespConnection:
    """Connects with the first call, and again after the connection was lost. Replies come in the order of the calls.

    `timeout_s` bounds a call; connecting, and each command that sets up the connection, may take as long again, and so
    may each of the Sentinels, which `master` asks one after another.
    """

    def __init__(self, address: Address, timeout_s: float, master: Master | None = None) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._master = master
        self._tls: ssl.SSLContext | None = None
        self._protocol: _RespProtocol | None = None
        self._connecting = asyncio.Lock()

    async def call(self, *command: bytes) -> Any:
        """The reply to one command, as hiredis reads it. Raises RespBroken, ErrorReply.

        If the caller is cancelled, the connection is closed: nobody waits for its reply any more.
        """
        protocol = self._protocol
        if protocol is None or protocol.lost:
            protocol = await self._connect()
        return await self._call(protocol, command)

    async def _call(self, protocol: _RespProtocol, command: tuple[bytes, ...]) -> Any:
        future = protocol.send(command)
        timer = asyncio.get_running_loop().call_later(self._timeout_s, protocol.expire, future)
        try:
            reply = await future
        except asyncio.CancelledError:
            protocol.close()
            raise
        finally:
            timer.cancel()
        if isinstance(reply, hiredis.ReplyError):
            raise ErrorReply(str(reply))
        return reply

    async def _connect(self) -> _RespProtocol:
        async with self._connecting:
            if self._protocol is not None and not self._protocol.lost:
                return self._protocol
            protocol = await self._open()
            try:
                for command in _setup_commands(self._address):
                    await self._call(protocol, command)
            except RespBroken as error:
                protocol.close()
                raise RespBroken(error.reason, str(error), sent=False) from error
            except BaseException:
                protocol.close()
                raise
            self._protocol = protocol
            return protocol

    async def _open(self) -> _RespProtocol:
        loop, address = asyncio.get_running_loop(), self._address
        try:
            if address.tls is not None and self._tls is None:
                self._tls = _context(address.tls)
            async with asyncio.timeout(self._timeout_s * (1 if self._master is None else 1 + len(address.hosts))):
                if address.kind is Kind.UNIX:
                    _, protocol = await loop.create_unix_connection(lambda: _RespProtocol(loop), address.path)  # type: ignore[type-var]
                else:
                    host, port = address.hosts[0] if self._master is None else await self._master()
                    _, protocol = await loop.create_connection(lambda: _RespProtocol(loop), host, port, ssl=self._tls)  # type: ignore[type-var]
        except TimeoutError as error:
            raise RespBroken("timeout", "it does not accept connections", sent=False) from error
        except OSError as error:
            raise RespBroken("connect", str(error), sent=False) from error
        return protocol

    def close(self) -> None:
        """End the connection, and with it what is under way."""
        if self._protocol is not None:
            self._protocol.close()


class _RespProtocol:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost = False
        self._loop = loop
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._last_words = "the store closed the connection"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, command: tuple[bytes, ...]) -> asyncio.Future[Any]:
        transport = self._transport
        if self.lost or transport is None or transport.is_closing():
            raise RespBroken("connect", self._last_words, sent=False)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append(future)
        transport.write(b"*%d\r\n%b" % (len(command), b"".join([b"$%d\r\n%b\r\n" % (len(a), a) for a in command])))
        return future

    def eof_received(self) -> None:
        """The transport closes, and `connection_lost` follows."""

    def pause_writing(self) -> None:
        """What is to be sent is bounded by what is answered."""

    def resume_writing(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if not self._pending and isinstance(reply, hiredis.ReplyError):  # why it hangs up on us
                    self._last_words = str(reply)
                    self.close()
                    return
                future = self._pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as error:  # or a reply to no command
            self._end("closed", f"the store sent what is not RESP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("closed", str(exc) if exc is not None else self._last_words)

    def expire(self, future: asyncio.Future[Any]) -> None:
        """The reply that `future` stands for did not come in time."""
        if not future.done():
            future.set_exception(RespBroken("timeout", "the store did not reply in time", sent=True))
            self.close()

    def _end(self, reason: str, detail: str) -> None:
        self.lost = True
        while self._pending:
            future = self._pending.popleft()
            if not future.done():
                future.set_exception(RespBroken(reason, detail, sent=True))

    def close(self) -> None:
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


def _context(tls: Tls) -> ssl.SSLContext:
    """Raises OSError, of which ssl.SSLError is one."""
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.check_hostname = tls.verify and tls.check_hostname
    if not tls.verify:
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context


def _setup_commands(address: Address) -> list[tuple[bytes, ...]]:
    """The commands that set up a new connection: login, client name, database."""
    login, commands = address.login, list[tuple[bytes, ...]]()
    if login.password is not None:
        user = (login.username.encode(),) if login.username is not None else ()
        commands.append((b"AUTH", *user, login.password.encode()))
    if address.client_name is not None:
        commands.append((b"CLIENT", b"SETNAME", address.client_name.encode()))
    if address.db:
        commands.append((b"SELECT", b"%d" % address.db))
    return commands

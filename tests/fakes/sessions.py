"""WebSockets on both sides of the real listener: an upstream that does as it is told, and clients that speak frames.

    async with open_sessions(valkey_url, {"a": 1}) as hall:
        client = await hall.connect("/v1/realtime?model=gpt-realtime")
        upstream = await hall.upstream.accepted()
        await upstream.send(TEXT, b"hello")
        assert await client.receive() == (TEXT, b"hello")

Frames are written and read here by hand, so that what crosses the proxy is compared with the RFC, not with itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from quotapool.session.path import SessionPath
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts
from quotapool.web.handlers import ClientHandler
from quotapool.web.server import Server

from tests.fakes.house import House, open_house
from tests.fakes.wire import Ends, parse_head

PATIENCE_S = 5.0
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def mask(key: bytes, payload: bytes) -> bytes:
    """RFC 6455 §5.3, on whole numbers."""
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(payload), "big")


def frame_of(opcode: int, payload: bytes, *, final: bool, masks: bool) -> bytes:
    size, masked = len(payload), 0x80 if masks else 0
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        head += bytes([masked | size])
    elif size < 65_536:
        head += bytes([masked | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([masked | 127]) + size.to_bytes(8, "big")
    if not masks:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(key, payload)


def accept_of(key: str) -> str:
    """RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


class Peer:
    """One end of a WebSocket. `masks`: it is a client, and its frames are masked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, *, masks: bool) -> None:
        self.reader, self.writer, self.head, self.masks = reader, writer, head, masks
        self.start, self.fields = parse_head(head)

    def field(self, name: str) -> str | None:
        return next((value for known, value in self.fields if known.lower() == name.lower()), None)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            await self.writer.drain()

    def frame(self, opcode: int, payload: bytes, *, final: bool = True) -> bytes:
        return frame_of(opcode, payload, final=final, masks=self.masks)

    async def send(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        await self.raw(self.frame(opcode, payload, final=final))

    async def close(self, code: int, reason: str = "") -> None:
        await self.send(CLOSE, code.to_bytes(2, "big") + reason.encode())

    async def receive(self) -> tuple[int, bytes]:
        """(opcode, payload) of the next frame. Raises IncompleteReadError where the connection ends instead."""
        async with asyncio.timeout(PATIENCE_S):
            first, second = await self.reader.readexactly(2)
            assert first & 0x70 == 0, "no extension was agreed on"
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            key = await self.reader.readexactly(4) if second & 0x80 else b""
            assert bool(key) is not self.masks, "clients mask, servers do not"
            payload = await self.reader.readexactly(size)
            assert first & 0x80, "the proxy sends whole messages"
            return first & 0x0F, mask(key, payload) if key else payload

    async def closed(self) -> tuple[int | None, str]:
        """(code, reason) of the close frame that comes next."""
        opcode, payload = await self.receive()
        assert opcode == CLOSE, (opcode, payload[:100])
        return (int.from_bytes(payload[:2], "big") if payload else None), payload[2:].decode()

    async def ended(self) -> bool:
        """Whether the connection ends now, without another frame."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    def vanish(self) -> None:
        self.writer.transport.abort()


class SocketUpstream:
    """Grants each session, or answers with `refusals` first. `requests`: the heads that came."""

    def __init__(self) -> None:
        self.refusals: list[bytes] = []
        self.protocol = ""
        self.more = b""  # header lines of the 101
        self.behind = b""  # bytes that follow it at once
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**18)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def accepted(self) -> Peer:
        async with asyncio.timeout(PATIENCE_S):
            return await self._accepted.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        peer = Peer(reader, writer, head, masks=False)
        self.requests.append((peer.start, peer.fields))
        if self.refusals:
            writer.write(self.refusals.pop(0))
            writer.close()
            return
        key = peer.field("Sec-WebSocket-Key") or ""
        answer = accept_of(key)
        chosen = f"Sec-WebSocket-Protocol: {self.protocol}\r\n" if self.protocol else ""
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            + f"Sec-WebSocket-Accept: {answer}\r\n{chosen}".encode()
            + self.more
            + b"\r\n"
            + self.behind
        )
        await self._accepted.put(peer)


class Refused(Exception):
    """The handshake's answer was no 101."""

    def __init__(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        super().__init__(status, body)
        self.status, self.fields, self.body = status, fields, body


class Hall:
    handler: ClientHandler

    def __init__(self, house: House, upstream: SocketUpstream, port: int, sessions: SessionPath, ends: Ends) -> None:
        self.house, self.upstream, self.port, self.sessions, self.ends = house, upstream, port, sessions, ends
        self._clients: list[Peer] = []

    async def ask(self, target: str, *fields: str, receive_buffer: int = 0) -> Peer:
        """A client's handshake, with an answer of whatever status."""
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**16)
        given = {field.partition(":")[0].lower() for field in fields}
        key = base64.b64encode(os.urandom(16)).decode()
        usual = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
        lines = [f"GET {target} HTTP/1.1", "Host: localhost"]
        lines += [field for field in usual if field.partition(":")[0].lower() not in given]
        lines += [field for field in fields if not field.endswith(":")]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(PATIENCE_S):
            client = Peer(reader, writer, await reader.readuntil(b"\r\n\r\n"), masks=True)
        self._clients.append(client)
        if client.start.split()[1] == "101":
            assert client.field("Sec-WebSocket-Accept") == accept_of(key)
        return client

    async def connect(self, target: str = "/v1/realtime?model=gpt-realtime", *fields: str, **more: Any) -> Peer:
        """A session. Raises Refused."""
        client = await self.ask(target, *fields, **more)
        status = int(client.start.split()[1])
        if status != 101:
            length = int(client.field("Content-Length") or 0)
            raise Refused(status, client.fields, await client.reader.readexactly(length))
        return client

    async def pair(self, *arguments: str, **more: Any) -> tuple[Peer, Peer]:
        """A session from both ends: (client, upstream)."""
        client = await self.connect(*arguments, **more)
        return client, await self.upstream.accepted()

    async def settled(self) -> None:
        """Until what was heard so far has reached the store."""
        async with asyncio.timeout(PATIENCE_S):
            await self.house.sync.settled()
        await self.house.quiet()

    async def over_with(self, client: Peer, upstream: Peer) -> None:
        """Both sides say good-bye."""
        await client.close(1000)
        await upstream.closed()
        await upstream.close(1000)
        await client.closed()
        await self.over()

    async def over(self) -> None:
        """Until no session is open and all is settled."""
        async with asyncio.timeout(PATIENCE_S):
            while self.sessions.open or self.house.sync._tasks:
                await asyncio.sleep(0.005)
        await self.house.quiet()

    def close(self) -> None:
        for client in self._clients:
            client.vanish()


async def say(peer: Peer, **event: Any) -> None:
    """An event, as JSON in a text message."""
    await peer.send(TEXT, json.dumps(event).encode())


async def heard(peer: Peer) -> dict[str, Any]:
    """The next event."""
    opcode, payload = await peer.receive()
    assert opcode == TEXT, (opcode, payload)
    event: dict[str, Any] = json.loads(payload)
    return event


@contextlib.asynccontextmanager
async def open_sessions(url: str, accounts: Mapping[str, int], /, **options: Any) -> AsyncIterator[Hall]:
    """The real listener, on 127.0.0.1, in front of a faked upstream."""
    async with open_house(url, accounts, **options) as house:
        upstream, ends = SocketUpstream(), Ends()
        client = UpstreamClient(f"http://127.0.0.1:{await upstream.start()}", Timeouts(2.0, PATIENCE_S, PATIENCE_S))
        house.configure(upstream=client)
        sessions = house.paths.sessions
        handler = ClientHandler(house.paths.requests, ends, sessions)
        server = Server(handler.serve)
        accepting = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        hall = Hall(house, upstream, accepting.sockets[0].getsockname()[1], sessions, ends)
        hall.handler = handler
        try:
            yield hall
        finally:
            hall.close()
            await sessions.close(0.1)
            accepting.close()
            await server.close()
            await client.close()
            upstream.stop()

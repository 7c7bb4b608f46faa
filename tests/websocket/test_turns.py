"""Many small messages at once: each costs little, and other connections have their turn between them."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.websocket.socket import WebSocket

from tests.fakes.sessions import TEXT, open_sessions

EMPTY = b"\x81\x80abcd"  # a masked text message of nothing
FRAGMENT = b"\x00\x80abcd"
PIECE = 2**16 // 6


class Nowhere(asyncio.Transport):
    """The network's edge; everything that is sent is gone."""

    def write(self, data) -> None: ...

    def is_closing(self) -> bool:
        return False


async def taken() -> None: ...


async def turns_of(others: list[int], progress) -> None:
    """What was done between two turns of the loop, each time."""
    while True:
        before = progress()
        await asyncio.sleep(0)
        others.append(progress() - before)


def socket_with(data: bytes) -> WebSocket:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return WebSocket(reader, Nowhere(), taken, is_client=False, most=2**20)


@pytest.mark.parametrize("kind", ["texts", "pings"])
async def test_64_kib_of_empty_messages_are_taken_a_few_at_a_time(kind):
    frame = EMPTY if kind == "texts" else b"\x89" + EMPTY[1:]
    socket, steps, count = socket_with(frame * PIECE + EMPTY), [], [0]
    sent = socket.send_now

    def counting(opcode: int, payload: bytearray) -> None:
        count[0] += 1
        sent(opcode, payload)

    WebSocket.send_now, original = (lambda _, opcode, payload: counting(opcode, payload)), WebSocket.send_now
    watching = asyncio.create_task(turns_of(steps, lambda: count[0]))
    try:
        while await socket.receive() is not None:
            count[0] += 1
    finally:
        WebSocket.send_now = original
        watching.cancel()
    assert count[0] == PIECE + 1
    assert max(steps) <= 32


async def test_fragments_of_nothing_are_read_a_few_hundred_at_a_time():
    """64 KiB of them are sixteen parts of 4 KiB: others have their turn fifteen times."""
    socket, steps = socket_with(b"\x01\x80abcd" + FRAGMENT * PIECE + b"\x80\x80abcd"), []
    watching = asyncio.create_task(turns_of(steps, lambda: 0))
    message = await socket.receive()
    watching.cancel()
    assert message == (TEXT, b"")
    assert len(steps) >= 12


@pytest.mark.parametrize("target", ["/v1/realtime?model=gpt-realtime", "/v1/responses"])
async def test_a_client_with_64_kib_of_empty_messages_leaves_other_sessions_their_turn(valkey_url, monkeypatch, target):
    """Where each may need a budget, too."""
    passed, steps = [0], []
    original = WebSocket.send_now

    def counting(self, opcode: int, payload: bytearray) -> None:
        passed[0] += 1
        original(self, opcode, payload)

    async with open_sessions(valkey_url, {"a": 1}) as hall:
        client, upstream = await hall.pair(target)
        monkeypatch.setattr(WebSocket, "send_now", counting)
        watching = asyncio.create_task(turns_of(steps, lambda: passed[0]))
        await client.raw(EMPTY * PIECE)
        for _ in range(PIECE):
            assert await upstream.receive() == (TEXT, b"")
        watching.cancel()
    assert passed[0] >= PIECE
    assert max(steps) <= 32

"""The RESP connection: sets itself up, reads replies in any pieces, and never takes one reply for another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from quotapool.store.address import parse
from quotapool.store.resp import ErrorReply, RespBroken, RespConnection

from tests.fakes.listening import listening
from tests.fakes.valkey import running_valkey

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def connected_to(talk: Talk, tmp_path, timeout_s: float = 5.0) -> AsyncIterator[RespConnection]:
    """A connection to a server that does `talk`."""

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    connection = RespConnection(parse(f"unix://{tmp_path}/s"), timeout_s)
    async with listening(asyncio.start_unix_server(serve, tmp_path / "s")):
        yield connection
        connection.close()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"$3\r\na\r\n\r\n", b"a\r\n"),
        (b":12\r\n", 12),
        (b"+OK\r\n", b"OK"),
        (b"$-1\r\n", None),
        (b"*2\r\n$1\r\nx\r\n*1\r\n:1\r\n", [b"x", [1]]),
    ],
)
async def test_a_reply_is_the_same_in_one_piece_and_in_single_bytes(tmp_path, sent, read):
    async def talk(reader, writer):
        for pieces in ([sent], [sent[n : n + 1] for n in range(len(sent))]):
            await reader.readuntil(b"PING\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    async with connected_to(talk, tmp_path) as connection:
        assert await connection.call(b"PING") == read
        assert await connection.call(b"PING") == read


async def test_arguments_arrive_as_they_are_whatever_bytes_they_contain(tmp_path):
    seen: list[bytes] = []

    async def talk(reader, writer):
        seen.append(await reader.read(65536))
        writer.write(b"+OK\r\n")
        await reader.read()

    async with connected_to(talk, tmp_path) as connection:
        await connection.call(b"SET", b"\x00\r\n$", b"")
    assert seen == [b"*3\r\n$3\r\nSET\r\n$4\r\n\x00\r\n$\r\n$0\r\n\r\n"]


async def test_an_error_reply_is_raised_and_the_connection_stays(tmp_path):
    connections = 0

    async def talk(reader, writer):
        nonlocal connections
        connections += 1
        await reader.readuntil(b"A\r\n")
        writer.write(b"-OOM command not allowed\r\n")
        await reader.readuntil(b"B\r\n")
        writer.write(b"+OK\r\n")
        await reader.read()

    async with connected_to(talk, tmp_path) as connection:
        with pytest.raises(ErrorReply, match=r"^OOM "):
            await connection.call(b"A")
        assert await connection.call(b"B") == b"OK"
    assert connections == 1


@pytest.mark.parametrize("sent", [b"", b"$5\r\nab", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n+MORE\r\n"])
async def test_what_breaks_off_or_is_no_reply_closes_the_connection_and_the_next_call_opens_a_new_one(tmp_path, sent):
    connections = 0

    async def talk(reader, writer):
        nonlocal connections
        connections += 1
        await reader.readuntil(b"Q\r\n")
        if connections > 1:
            writer.write(b"+fine\r\n")
            await reader.read()
        writer.write(sent)

    async with connected_to(talk, tmp_path) as connection:
        if sent.startswith(b"+OK"):
            assert await connection.call(b"Q") == b"OK"
            await asyncio.sleep(0)
        else:
            with pytest.raises(RespBroken) as broken:
                await connection.call(b"Q")
            assert (broken.value.reason, broken.value.sent) == ("closed", True)
        assert await connection.call(b"Q") == b"fine"
    assert connections == 2


async def test_a_cancelled_call_closes_the_connection(tmp_path):
    received = asyncio.Event()

    async def talk(reader, writer):
        await reader.readuntil(b"Q\r\n")
        received.set()
        await reader.read()

    async with connected_to(talk, tmp_path) as connection:
        call = asyncio.create_task(connection.call(b"Q"))
        await received.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        received.clear()
        again = asyncio.create_task(connection.call(b"Q"))
        await received.wait()  # on a new connection: the old one reads no more
        again.cancel()
        with pytest.raises(asyncio.CancelledError):
            await again


async def test_it_logs_in_names_itself_and_selects_its_database(tmp_path):
    with running_valkey(tmp_path) as url:
        plain = RespConnection(parse(url), 5.0)
        await plain.call(b"CONFIG", b"SET", b"requirepass", b"pass word")
        named = RespConnection(
            parse(url.replace("unix://", "unix://default:pass%20word@") + "?db=3&client_name=quotapool"), 5.0
        )
        assert await named.call(b"SET", b"here", b"1") == b"OK"
        assert b" name=quotapool " in await named.call(b"CLIENT", b"INFO")
        assert b" db=3 " in await named.call(b"CLIENT", b"INFO")
        wrong = RespConnection(parse(url.replace("unix://", "unix://:hunter2@")), 5.0)
        with pytest.raises(ErrorReply, match=r"^WRONGPASS") as refused:
            await wrong.call(b"PING")
        assert "hunter2" not in repr(refused.value)
        for connection in (plain, named, wrong):
            connection.close()

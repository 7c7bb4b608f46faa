"""Clients that leave, clients that do not read, and upstreams that break: what reaches the other side, and how soon."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, UpstreamFailure, read_body

from tests.fakes.valkey import free_port
from tests.fakes.wire import OK, Incoming, RawUpstream, kernel_buffers, post

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
CHAT = b'{"model": "gpt-4o", "messages": [], "stream": true}'


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("when", ["before the answer", "in the stream"])
async def test_a_client_that_leaves_ends_the_call_upstream_at_once(wire, when):
    reached, left = asyncio.Event(), asyncio.Event()

    async def script(request: Incoming) -> None:
        await request.rest()
        if when == "in the stream":
            await request.send(STREAM + chunk(DELTA))
        reached.set()
        await request.gone()
        left.set()

    wire.upstream.script = script
    client = await wire.connect()
    await client.send(post(CHAT))
    await reached.wait()
    if when == "in the stream":
        await client.head()
    client.close()
    async with asyncio.timeout(30):
        await left.wait()
    await until(lambda: wire.ends.trips)
    assert wire.ends.trips[0].cut
    await wire.house.quiet()
    assert wire.house.is_idle()


async def test_a_client_that_resets_while_being_written_to_leaves_no_error_behind(wire, caplog):
    """It is an everyday event: no traceback in the log, no second answer on the dead connection."""

    async def script(request: Incoming) -> None:
        await request.rest()
        with contextlib.suppress(ConnectionError):
            await request.send(STREAM)
            for _ in range(2000):
                await request.send(chunk(DELTA * 100))

    wire.upstream.script = script
    client = await wire.connect()
    await client.send(post(CHAT))
    await client.head()
    client.writer.transport.abort()
    await until(lambda: wire.ends.trips)
    assert [record.message for record in caplog.records if record.levelname in {"ERROR", "WARNING"}] == []
    await wire.house.quiet()
    assert wire.house.is_idle()


async def test_a_client_that_does_not_read_holds_upstream_back(wire):
    """Given 200 MiB more than the kernel could hold for a client that has stopped reading, I expect them to stay
    upstream, but for a little of ours."""
    said = 0

    async def script(request: Incoming) -> None:
        nonlocal said
        await request.rest()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            await request.send(head)
            for _ in range(3200 + kernel_buffers() // 65_536):
                await request.send(chunk(b"x" * 65_536))
                said += 65_536

    wire.upstream.script = script
    client = await wire.connect(receive_buffer=65_536)
    client.reader._transport.pause_reading()
    await client.send(b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")
    before = -1
    while said != before or said == 0:
        before = said
        await asyncio.sleep(0.05)
    assert said < kernel_buffers() + 4 * 2**20
    client.writer.transport.abort()
    await until(lambda: wire.ends.trips)


async def test_an_upstream_that_breaks_off_is_a_cut_and_not_an_end(wire):
    async def script(request: Incoming) -> None:
        await request.rest()
        await request.send(STREAM + chunk(DELTA))
        await asyncio.sleep(0.01)

    wire.upstream.script = script
    client = await wire.connect()
    await client.send(post(CHAT))
    got = await client.to_the_end()
    assert DELTA in got
    assert not got.endswith(b"0\r\n\r\n")
    await until(lambda: wire.ends.trips)
    assert wire.ends.trips[0].cut
    await wire.house.quiet()
    assert wire.house.is_idle()


async def test_an_upstream_that_promises_more_than_it_sends_is_a_cut_too(wire):
    async def script(request: Incoming) -> None:
        await request.rest()
        await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    wire.upstream.script = script
    client = await wire.connect()
    await client.send(b"GET /v1/files/file-1/content HTTP/1.1\r\nHost: localhost\r\n\r\n")
    got = await client.to_the_end()
    assert not got.endswith(b"\r\n\r\nabcabc")
    assert len(got.partition(b"\r\n\r\n")[2]) < 10


DEEP = 30_000  # deeper than any Python's parser goes: from 3.12 on that is some 10,000

UNFIT = {
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\nContent-Length: 2\r\n\r\n{}",
    "DEL in the reason": b"HTTP/1.1 200 O\x7fK\r\nContent-Length: 2\r\n\r\n{}",
    "a bell in an error's reason": b"HTTP/1.1 429 Too\x07 Many\r\nContent-Length: 2\r\n\r\n{}",
    "an error nested deep": b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % (2 * DEEP) + b"[" * DEEP + b"]" * DEEP,
    "one that never closes": b"HTTP/1.1 500 Bad\r\nContent-Length: 100000\r\n\r\n" + b'{"error":' * 11_111 + b" ",
    "one that repeats the key": b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % (2 * DEEP + 45)
    + b"[" * DEEP
    + b'"sk-test-a1-'
    + b"x" * 32
    + b'"'
    + b"]" * DEEP,
}


@pytest.mark.parametrize("wire", ["ours"], indirect=True)
@pytest.mark.parametrize("case", UNFIT)
async def test_an_answer_that_cannot_be_passed_on_is_a_502_without_a_traceback(wire, caplog, case):
    wire.upstream.answer = UNFIT[case]
    head, body = await wire.ask(post(CHAT.replace(b', "stream": true', b"")))
    assert head.startswith(b"HTTP/1.1 502 ")
    assert b'"code":"upstream_protocol_error"' in body
    assert not [record for record in caplog.records if record.exc_info]
    await wire.house.quiet()
    assert wire.house.is_idle()


# ---- the upstream client alone


@contextlib.asynccontextmanager
async def upstream_that(script, **timeouts):
    raw = RawUpstream()
    raw.script = script
    port = await raw.start()
    limits = {"connect": 1.0, "first_byte": 2.0, "between_bytes": 2.0, **timeouts}
    client = UpstreamClient(f"http://127.0.0.1:{port}", Timeouts(**limits))
    try:
        yield client
    finally:
        await client.close()
        await raw.stop()


async def closes(request: Incoming) -> None:
    await request.rest()


async def mumbles(request: Incoming) -> None:
    await request.send(b"SSH-2.0-OpenSSH\r\n\r\n")


async def sleeps(request: Incoming) -> None:
    await request.gone()


async def stalls(request: Incoming) -> None:
    await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await request.gone()


async def breaks_off(request: Incoming) -> None:
    await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")


@pytest.mark.parametrize(
    ("script", "reason", "timeouts"),
    [
        (closes, "reset", {}),
        (mumbles, "protocol", {}),
        (sleeps, "timeout", {"first_byte": 0.05}),
        (stalls, "timeout", {"between_bytes": 0.05}),
        (breaks_off, "reset", {}),
    ],
)
async def test_each_way_to_fail_has_its_word(script, reason, timeouts):
    async with upstream_that(script, **timeouts) as upstream:
        with pytest.raises(UpstreamFailure) as failed:
            await read_body(await upstream.send("GET", "/v1/models", [(b"Authorization", b"Bearer sk-x")], None), 100)
    assert (failed.value.reason, failed.value.sent) == (reason, True)
    assert "sk-x" not in str(failed.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_connection_that_never_was_has_sent_nothing(scheme):
    """Nobody listens; or somebody does who does not speak TLS."""
    greets = await asyncio.start_server(lambda _, writer: writer.write(b"220 smtp\r\n"), "127.0.0.1", 0)
    port = free_port() if scheme == "http" else greets.sockets[0].getsockname()[1]
    upstream = UpstreamClient(f"{scheme}://127.0.0.1:{port}", Timeouts(1.0, 2.0, 1.0))
    with pytest.raises(UpstreamFailure) as failed:
        await upstream.send("POST", "/v1/chat/completions", [], b"{}")
    await upstream.close()
    greets.close()
    assert (failed.value.reason, failed.value.sent) == ("connect" if scheme == "http" else "tls", False)


async def test_nothing_is_added_to_a_request_that_nobody_asked_for():
    async def script(request: Incoming) -> None:
        seen.append(request.head)
        await request.send(OK)
        await request.gone()

    seen: list[bytes] = []
    async with upstream_that(script) as upstream:
        answer = await upstream.send("GET", "/v1/models", [(b"X-A", b"1")], None)
        await read_body(answer, 100)
        answer.close()
    names = [line.partition(b":")[0] for line in seen[0].split(b"\r\n")[1:-2]]
    assert sorted(names) == [b"Host", b"X-A"]


async def test_a_path_goes_out_byte_for_byte():
    async def script(request: Incoming) -> None:
        seen.append(request.head.split(b" ")[1])
        await request.send(OK)

    seen: list[bytes] = []
    target = "/v1/files/a%20b%C3%A9;x=1,2?q=a+b&r=%2F&&s"
    async with upstream_that(script) as upstream:
        (await upstream.send("GET", target, [], None)).close()
    assert seen == [target.encode()]

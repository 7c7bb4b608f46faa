"""Connections: made, kept, given up, closed under a request, and lost at each phase, with the words for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from quotapool.upstream.interface import UpstreamFailure

from tests.fakes.upstream_server import CLIENTS, Timeouts, answering, get, once, talk_to, whole
from tests.fakes.valkey import free_port

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
OK = HEAD + b"hello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def failure_of(client, body: bytes | None = None) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as failed:
        await whole(await client.send("POST", "/v1/chat/completions", [(b"Authorization", b"Bearer sk-x")], body))
    assert "sk-x" not in str(failed.value)
    return failed.value


async def turns(count: int = 20) -> None:
    """Enough of the loop for what is on the wire to be read."""
    for _ in range(count):
        await asyncio.sleep(0)


# ---- lost at each phase


async def test_where_nobody_listens_nothing_was_sent(kind):
    client = CLIENTS[kind](f"http://127.0.0.1:{free_port()}", Timeouts(1.0, 1.0, 1.0))
    failure = await failure_of(client)
    await client.close()
    assert (failure.reason, failure.sent, failure.idle) == ("connect", False, False)


async def test_a_name_nobody_knows_is_a_failed_connect(kind):
    client = CLIENTS[kind]("http://nobody.invalid", Timeouts(2.0, 5.0, 1.0))
    failure = await failure_of(client)
    await client.close()
    assert (failure.reason, failure.sent) == ("connect", False)


async def test_a_connection_that_takes_too_long_has_sent_nothing(kind):
    """The listener's queue is full: the kernel answers no further connection."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        client = CLIENTS[kind](f"http://127.0.0.1:{listener.getsockname()[1]}", Timeouts(0.05, 5.0, 5.0))
        failure = await failure_of(client)
        await client.close()
    assert (failure.reason, failure.sent) == ("timeout", False)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("said", [b"", HEAD[:10], HEAD, OK[:-1]], ids=["nothing", "half a head", "head", "most"])
async def test_a_new_connection_lost_under_a_request_is_a_reset(kind, said, reset):
    async with talk_to(kind, once(said, reset=reset)) as (client, _):
        failure = await failure_of(client, b"{}")
    assert (failure.reason, failure.sent, failure.idle) == ("reset", True, False)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_kept_connection_closed_without_a_word_is_told_apart(kind, reset):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(OK)
        await incoming.request()
        if reset:
            incoming.reset()

    async with talk_to(kind, script) as (client, _):
        assert await get(client) == (200, b"hello")
        failure = await failure_of(client, b"{}")
    assert (failure.reason, failure.sent, failure.idle) == ("reset", True, True)


async def test_a_kept_connection_closed_after_a_few_words_is_not():
    """Upstream had begun to answer, so it may have worked. (aiohttp's client calls this idle, too.)"""

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(OK)
        await incoming.request()
        await incoming.send(HEAD[:10])

    async with talk_to("ours", script) as (client, _):
        assert await get(client) == (200, b"hello")
        failure = await failure_of(client, b"{}")
    assert (failure.reason, failure.sent, failure.idle) == ("reset", True, False)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_that_was_closed_while_idle_is_not_used(kind, reset):
    async with talk_to(kind, once(OK, reset=reset)) as (client, server):
        for n in range(1, 4):
            assert await get(client) == (200, b"hello")
            await turns()
            assert server.connections == n


# ---- timeouts

# A machine that stands still for a tenth of a second is no upstream that does. (The clock of uvloop cannot be set.)
IN_VIRTUAL_TIME = pytest.mark.asyncio(loop_factories=["asyncio"])


async def test_no_answer_in_time_is_a_timeout(kind):
    async def script(incoming) -> None:
        await incoming.gone()

    async with talk_to(kind, script, first_byte=0.03) as (client, _):
        failure = await failure_of(client, b"{}")
    assert (failure.reason, failure.sent, failure.idle) == ("timeout", True, False)


@IN_VIRTUAL_TIME
async def test_a_body_may_take_long_if_it_keeps_coming(kind, virtual_time):
    """Six pieces with 20 ms between them take longer than the 60 ms that a single wait may."""

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(CHUNKED)
        for _ in range(6):
            await asyncio.sleep(0.02)
            await incoming.send(b"1\r\nx\r\n")
        await incoming.send(b"0\r\n\r\n")

    async with talk_to(kind, script, between_bytes=0.06) as (client, _):
        virtual_time.waits_for_tcp()
        assert await get(client) == (200, b"xxxxxx")


async def test_a_stalled_body_is_a_timeout(kind):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(CHUNKED + b"1\r\nx\r\n")
        await incoming.gone()

    async with talk_to(kind, script, between_bytes=0.03) as (client, _):
        failure = await failure_of(client)
    assert (failure.reason, failure.sent) == ("timeout", True)


@IN_VIRTUAL_TIME
async def test_an_old_deadline_does_not_end_a_later_request(virtual_time):
    """One timer serves all waits of a connection; it must not fire for one that has long been answered."""

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(OK)
        await incoming.request()
        await asyncio.sleep(0.05)
        await incoming.send(OK)

    async with talk_to("ours", script, first_byte=0.08) as (client, server):
        virtual_time.waits_for_tcp()
        assert await get(client) == (200, b"hello")
        await asyncio.sleep(0.05)
        assert await get(client) == (200, b"hello")
        assert server.connections == 1


# ---- kept and given up


async def test_the_connection_used_last_is_used_next():
    """So that the others stay idle, and can be closed, when there is less to do. (aiohttp's client uses the oldest.)"""
    order = []

    async def script(incoming) -> None:
        while True:
            await incoming.request()
            order.append(incoming.number)
            if len(order) == 1:
                await both.wait()
            both.set()
            await incoming.send(OK)
            await turns()

    both = asyncio.Event()
    async with talk_to("ours", script) as (client, server):
        await asyncio.gather(get(client), get(client))
        for _ in range(4):
            assert await get(client) == (200, b"hello")
        assert server.connections == 2
        assert len(set(order[2:])) == 1


async def test_idle_connections_are_closed_in_time():
    """aiohttp's client does this by the same 60 seconds; here it is tried with 30 ms."""
    left = asyncio.Event()

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(OK)
        await incoming.gone()
        left.set()

    async with talk_to("ours", script) as (client, _):
        assert await get(client) == (200, b"hello")
        (idle,) = client._idle
        assert idle.keep_s == 60.0
        idle.keep_s = 0.03
        client.free(idle)
        await asyncio.wait_for(left.wait(), 1)
        assert repr(client).endswith(" 0 open 0 idle>")


@pytest.mark.parametrize(
    ("said", "kept_s"),
    [("timeout=5, max=100", 4.0), ("max=100, timeout=10", 8.0), ("timeout=600", 60.0), ("max=9", 60.0), ("x", 60.0)],
)
async def test_a_server_may_say_how_long_it_keeps_a_connection(said, kept_s):
    """We are to be the first to close it, so a fifth of the time is left out. (aiohttp's client doesn't look.)"""
    wire = HEAD[:-2] + f"Keep-Alive: {said}\r\n\r\nhello".encode()
    async with talk_to("ours", answering([wire])) as (client, _):
        assert await get(client) == (200, b"hello")
        assert [connection.keep_s for connection in client._idle] == [kept_s]


async def test_a_server_that_keeps_nothing_is_believed():
    wire = HEAD[:-2] + b"Keep-Alive: timeout=0\r\n\r\nhello"
    async with talk_to("ours", answering([wire])) as (client, server):
        assert await get(client) == (200, b"hello")
        assert await get(client) == (200, b"hello")
        assert server.connections == 2


async def test_a_connection_that_was_long_idle_is_looked_at_before_use():
    """Its end may be waiting in the kernel, unread by a loop that was busy."""
    visits = []

    async def script(incoming) -> None:
        visits.append(incoming)
        await incoming.request()
        await incoming.send(OK)
        await incoming.gone()

    async with talk_to("ours", script) as (client, server):
        assert await get(client) == (200, b"hello")
        with socket.socket(fileno=os.dup(visits[0].writer.get_extra_info("socket").fileno())) as other_end:
            other_end.shutdown(socket.SHUT_WR)  # and no turn of the loop after it
        for idle in client._idle:
            idle.free_since -= 2.0
        assert await get(client) == (200, b"hello")
        assert server.connections == 2


@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_what_nobody_waits_for_is_given_up(kind, when):
    """Closing an answer, or cancelling the call, closes the connection: upstream stops working for nobody."""
    reached, left = asyncio.Event(), asyncio.Event()

    async def script(incoming) -> None:
        await incoming.request()
        if when == "in the body":
            await incoming.send(CHUNKED + b"1\r\nx\r\n")
        reached.set()
        await incoming.gone()
        left.set()

    async with talk_to(kind, script) as (client, _):
        if when == "in the body":
            answer = await client.send("GET", "/", [], None)
            answer.close()
            answer.close()
        else:
            sending = asyncio.create_task(client.send("GET", "/", [], None))
            await reached.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        await asyncio.wait_for(left.wait(), 1)


async def test_a_cancelled_wait_for_the_body_loses_nothing(kind):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(CHUNKED)
        await go_on.wait()
        await incoming.send(b"5\r\nhello\r\n", b"0\r\n\r\n")

    go_on = asyncio.Event()
    async with talk_to(kind, script) as (client, _):
        answer = await client.send("GET", "/", [], None)
        for _ in range(3):
            waiting = asyncio.create_task(answer.chunk())
            await turns()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        waiting = asyncio.create_task(answer.chunk())
        await turns()
        go_on.set()
        waiting.cancel()  # as the bytes come in
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert await whole(answer) == b"hello"


async def test_a_body_that_nobody_reads_is_held_back_and_then_all_there(kind):
    """32 MiB: most of it stays with upstream until somebody reads."""
    said, size = 0, 32 * 2**20

    async def script(incoming) -> None:
        nonlocal said
        await incoming.request()
        await incoming.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while said < size:
            await incoming.send(b"x" * 65_536)
            said += 65_536
        await incoming.request()
        await incoming.send(OK)

    async with talk_to(kind, script) as (client, server):
        answer = await client.send("GET", "/", [], None)
        before = -1
        while said != before or said == 0:
            before = said
            await asyncio.sleep(0.03)
        assert said < 16 * 2**20  # the kernel's buffers of both ends
        assert len(first := await answer.chunk()) < 2**20
        assert len(first) + len(await whole(answer)) == size
        assert await get(client) == (200, b"hello")
        assert server.connections == 1


async def test_closing_the_client_ends_what_is_under_way(kind):
    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(HEAD)
        await incoming.gone()

    async with talk_to(kind, script) as (client, _):
        answer = await client.send("GET", "/", [], None)
        await client.close()
        with pytest.raises(UpstreamFailure):
            await answer.chunk()
        with pytest.raises(UpstreamFailure):
            await client.send("GET", "/", [], None)


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> str:
    """A PEM file with the key and the self-signed certificate of localhost."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate, both = folder / "key", folder / "certificate", folder / "both"
    asked = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(["openssl", *asked.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    return str(both)


def server_side(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_tls_with_a_certificate_of_ones_own(kind, certificate):
    trusting = ssl.create_default_context(cafile=certificate)
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    script = answering([OK], [big])
    async with talk_to(kind, script, server_tls=server_side(certificate), tls=trusting, host="localhost") as (
        client,
        server,
    ):
        assert await get(client) == (200, b"hello")
        answer = await client.send("POST", "/", [], b"y" * 1_000_000)
        assert await whole(answer) == b"x" * 1_000_000
        assert server.connections == 1


@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("127.0.0.1", True)])
async def test_a_certificate_that_does_not_vouch_for_the_host_is_refused(kind, certificate, host, trusted):
    trusting = ssl.create_default_context(cafile=certificate if trusted else None)
    async with talk_to(kind, answering([OK]), server_tls=server_side(certificate), tls=trusting, host=host) as (
        client,
        _,
    ):
        failure = await failure_of(client, b"{}")
    assert (failure.reason, failure.sent) == ("tls", False)


async def test_a_server_without_tls_is_refused(kind):
    greeter = await asyncio.start_server(lambda _, writer: writer.write(b"220 smtp\r\n"), "127.0.0.1", 0)
    client = CLIENTS[kind](f"https://127.0.0.1:{greeter.sockets[0].getsockname()[1]}", Timeouts(2.0, 2.0, 2.0))
    failure = await failure_of(client)
    await client.close()
    greeter.close()
    assert (failure.reason, failure.sent) == ("tls", False)


@pytest.mark.asyncio(loop_factories=["uvloop"])
async def test_a_body_until_the_end_needs_tls_s_farewell(certificate):
    """A cut connection must not pass for the end. (aiohttp's client takes it for one, and asyncio's own loop, which
    the workers don't use, cannot tell.)"""

    async def script(incoming) -> None:
        await incoming.request()
        await incoming.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if incoming.number == 2:
            incoming.writer.transport.abort()

    trusting = ssl.create_default_context(cafile=certificate)
    async with talk_to("ours", script, server_tls=server_side(certificate), tls=trusting, host="localhost") as (
        client,
        _,
    ):
        assert await get(client) == (200, b"hello")
        failure = await failure_of(client)
    assert failure.reason == "reset"

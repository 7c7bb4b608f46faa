"""Through a corporate forward proxy: CONNECT, its login, its refusals, and TLS with upstream itself inside the tunnel.

aiohttp's client sends whole URLs to the proxy if upstream is plain http, so there only ours is tried.
"""

from __future__ import annotations

import asyncio
import base64

import pytest
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, UpstreamFailure
from quotapool.upstream.tls_sessions import client_context
from quotapool.websocket.socket import accept_key, open_websocket

from tests.fakes.certificates import Authority, server_context
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.upstream_server import CLIENTS, ScriptedServer, answering, get
from tests.fakes.valkey import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
LOGIN = "jane:s%40cret"  # s@cret
TIMES = Timeouts(2.0, 2.0, 2.0)


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority.make(tmp_path)


@pytest.fixture
async def secure(authority, tmp_path):
    server = ScriptedServer(answering([OK]))
    server.port = await server.start(server_context(authority, tmp_path))
    yield server
    await server.stop()


@pytest.fixture
async def plain():
    server = ScriptedServer(answering([OK]))
    server.port = await server.start()
    yield server
    await server.stop()


async def refused(client) -> UpstreamFailure:
    try:
        with pytest.raises(UpstreamFailure) as failed:
            await client.send("POST", "/v1/responses", [(b"Authorization", b"Bearer sk-x")], b"{}")
    finally:
        await client.close()
    text = f"{failed.value} {failed.value!r}"
    assert "s@cret" not in text
    assert "s%40cret" not in text
    return failed.value


async def test_a_tunnel_leads_to_upstream_and_is_used_again(kind, authority, secure):
    async with ForwardProxy(login="jane:s@cret").running() as proxy:
        client = CLIENTS[kind](
            f"https://localhost:{secure.port}",
            TIMES,
            tls=client_context(authority.ca_file),
            proxy=proxy.url(LOGIN),
        )
        for _ in range(3):
            assert await get(client) == (200, b"hello")
        await client.close()
    assert (proxy.tunnels, secure.connections) == (1, 1)
    head = proxy.asked[0].decode()
    assert head.startswith(f"CONNECT localhost:{secure.port} HTTP/1.1\r\n")
    assert f"\r\nHost: localhost:{secure.port}\r\n" in head
    # What goes to upstream is not shown to the proxy, and what is for the proxy not to upstream.
    assert "/v1/models" not in head
    assert base64.b64encode(b"jane:s@cret").decode() in head


@pytest.mark.parametrize("wrong", ["", "jane:wrong"])
async def test_a_proxy_that_wants_another_login_is_a_failed_connect(kind, authority, secure, wrong):
    async with ForwardProxy(login="jane:s@cret").running() as proxy:
        tls = client_context(authority.ca_file)
        client = CLIENTS[kind](f"https://localhost:{secure.port}", TIMES, tls=tls, proxy=proxy.url(wrong))
        failure = await refused(client)
    assert (failure.reason, failure.sent, failure.idle) == ("connect", False, False)
    assert "forward proxy" in str(failure)
    assert "407" in str(failure)
    assert secure.connections == 0


@pytest.mark.parametrize("status", [301, 403, 500, 502, 503])
async def test_a_proxy_that_opens_no_tunnel_is_a_failed_connect(kind, authority, status):
    said = f"HTTP/1.1 {status} No\r\nContent-Length: 3\r\n\r\nno!".encode()
    async with ForwardProxy(answer=said).running() as proxy:
        tls = client_context(authority.ca_file)
        client = CLIENTS[kind]("https://api.openai.example", TIMES, tls=tls, proxy=proxy.url())
        failure = await refused(client)
    assert (failure.reason, failure.sent) == ("connect", False)
    assert "forward proxy" in str(failure)
    assert str(status) in str(failure)


async def test_a_proxy_that_nobody_runs_is_a_failed_connect(kind):
    client = CLIENTS[kind]("https://api.openai.example", TIMES, proxy=f"http://{LOGIN}@127.0.0.1:{free_port()}")
    failure = await refused(client)
    assert (failure.reason, failure.sent) == ("connect", False)


@pytest.mark.parametrize(
    "said", [b"220 smtp ready\r\n\r\n", b"HTTP/1.1 200", b"HTTP/1.1 2000 OK\r\n\r\n", b"\x00" * 70_000]
)
async def test_what_does_not_speak_as_a_proxy_is_a_failed_connect(said):
    async with ForwardProxy(answer=said).running() as proxy:
        failure = await refused(UpstreamClient("https://api.openai.example", TIMES, proxy=proxy.url()))
    assert (failure.reason, failure.sent) == ("connect", False)


async def test_a_proxy_that_speaks_for_upstream_before_it_was_asked_is_refused(plain):
    """Bytes behind the tunnel's head would be taken for the answer to a request that nobody has sent."""
    async with ForwardProxy(answer=b"HTTP/1.1 200 OK\r\n\r\n" + OK).running() as proxy:
        failure = await refused(UpstreamClient("http://api.openai.example", TIMES, proxy=proxy.url()))
    assert (failure.reason, failure.sent) == ("connect", False)


async def test_a_silent_proxy_is_given_up_in_the_time_of_a_connect(kind, authority):
    held: list[asyncio.StreamWriter] = []  # from Python 3.12 on a writer that nobody holds ends its connection
    silent = await asyncio.start_server(lambda _reader, writer: held.append(writer), "127.0.0.1", 0)
    proxy = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
    timeouts = Timeouts(0.05, 0.5, 2.0)
    failure = await refused(CLIENTS[kind]("https://api.openai.example", timeouts, proxy=proxy))
    silent.close()
    for writer in held:
        writer.close()
    assert failure.reason == "timeout"


@pytest.mark.parametrize("trusted", [False, True], ids=["nobody we trust", "somebody else's name"])
async def test_who_sits_in_the_tunnel_must_show_upstream_s_certificate(kind, authority, secure, trusted):
    """If the proxy leads us elsewhere, or opens TLS itself, I expect that nothing is sent."""
    async with ForwardProxy(leads_to=secure.port).running() as proxy:
        base = "https://api.openai.example" if trusted else f"https://localhost:{secure.port}"
        tls = client_context(authority.ca_file if trusted else None)
        failure = await refused(CLIENTS[kind](base, TIMES, tls=tls, proxy=proxy.url()))
    assert proxy.tunnels == 1
    assert (failure.reason, failure.sent) == ("tls", False)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n"])
async def test_a_plain_upstream_is_reached_by_a_tunnel_too(plain, before):
    """So that the proxy sees no key in either case. The name is looked up by the proxy, not by us."""
    welcome = before + b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"  # RFC 9110 §9.3.6: a length means nothing here
    async with ForwardProxy(established=welcome, leads_to=plain.port).running() as proxy:
        client = UpstreamClient("http://upstream.invalid/prefix", TIMES, proxy=proxy.url())
        assert await get(client) == (200, b"hello")
        assert await get(client) == (200, b"hello")
        await client.close()
    assert proxy.asked[0].startswith(b"CONNECT upstream.invalid:80 HTTP/1.1\r\n")
    assert (proxy.tunnels, plain.connections) == (1, 1)


async def test_an_address_of_ipv6_is_asked_for_in_brackets():
    async with ForwardProxy(answer=b"HTTP/1.1 502 No\r\n\r\n").running() as proxy:
        await refused(UpstreamClient("https://[2001:db8::1]", TIMES, proxy=proxy.url()))
    assert proxy.asked[0].startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")


async def test_a_session_goes_through_the_tunnel_too(authority, tmp_path):
    async def script(incoming) -> None:
        head = await incoming.request()
        key = next(line[19:] for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-key: "))
        lines = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept_key(key)}\r\n"
        await incoming.send(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode(), b"\x81\x05hello")
        await incoming.gone()

    server = ScriptedServer(script)
    port = await server.start(server_context(authority, tmp_path))
    async with ForwardProxy(login="jane:s@cret").running() as proxy:
        tls = client_context(authority.ca_file)
        client = UpstreamClient(f"https://localhost:{port}", TIMES, tls=tls, proxy=proxy.url(LOGIN))
        handshake = await open_websocket(client, "/v1/realtime", [], (), most=2**20)
        assert handshake.socket is not None
        message = await handshake.socket.receive()
        assert message is not None
        assert bytes(message.payload) == b"hello"
        handshake.socket.abort()
        await client.close()
    await server.stop()
    assert proxy.tunnels == 1

"""TLS sessions are resumed on new connections, checked as strictly as full ones, and never more than an offer."""

from __future__ import annotations

import ssl

import pytest
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import Timeouts, UpstreamFailure
from quotapool.upstream.tls_sessions import client_context

from tests.fakes.certificates import Authority, server_context
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.upstream_server import ScriptedServer, get

LAST = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
TIMES = Timeouts(2.0, 2.0, 2.0)


class Counting(ScriptedServer):
    """Answers once a connection, closes it, and notes whether its handshake was a resumed one."""

    def __init__(self) -> None:
        self.resumed: list[bool] = []
        super().__init__(self._once)

    async def _once(self, incoming) -> None:
        self.resumed.append(incoming.writer.get_extra_info("ssl_object").session_reused)
        await incoming.request()
        await incoming.send(LAST)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def version(request) -> ssl.TLSVersion:
    return request.param


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority.make(tmp_path)


async def test_a_second_connection_resumes_the_first_one_s_session(authority, tmp_path, version):
    tls, server = server_context(authority, tmp_path), Counting()
    tls.maximum_version = version
    port = await server.start(tls)
    client = UpstreamClient(f"https://localhost:{port}", TIMES, tls=client_context(authority.ca_file))
    for _ in range(4):
        assert await get(client) == (200, b"hello")
    await client.close()
    await server.stop()
    assert server.resumed == [False, True, True, True]


async def test_a_session_is_resumed_through_a_forward_proxy_too(authority, tmp_path):
    server = Counting()
    port = await server.start(server_context(authority, tmp_path))
    async with ForwardProxy().running() as proxy:
        tls = client_context(authority.ca_file)
        client = UpstreamClient(f"https://localhost:{port}", TIMES, tls=tls, proxy=proxy.url())
        for _ in range(2):
            assert await get(client) == (200, b"hello")
        await client.close()
    await server.stop()
    assert server.resumed == [False, True]


async def test_a_server_that_has_forgotten_the_session_gets_a_full_handshake(authority, tmp_path, version):
    """It was restarted: its tickets were sealed with a key that is gone."""
    context, resumed = client_context(authority.ca_file), []
    for _ in range(2):
        tls, server = server_context(authority, tmp_path), Counting()
        tls.maximum_version = version
        port = await server.start(tls)
        client = UpstreamClient(f"https://localhost:{port}", TIMES, tls=context)
        assert await get(client) == (200, b"hello")
        await client.close()
        await server.stop()
        resumed += server.resumed
    assert resumed == [False, False]


async def test_a_session_of_one_name_vouches_for_no_other(authority, tmp_path):
    """What localhost proved is not offered to 127.0.0.1, which must show a certificate of its own."""
    server = Counting()
    port = await server.start(server_context(authority, tmp_path))
    context = client_context(authority.ca_file)
    for host in ("localhost", "127.0.0.1"):
        client = UpstreamClient(f"https://{host}:{port}", TIMES, tls=context)
        assert await get(client) == (200, b"hello")
        await client.close()
    await server.stop()
    assert server.resumed == [False, False]


async def test_who_takes_the_server_s_place_is_refused_although_a_session_is_offered(authority, tmp_path):
    """Its certificate is of another authority; a session that it does not know proves nothing for it."""
    context = client_context(authority.ca_file)
    server = Counting()
    port = await server.start(server_context(authority, tmp_path))
    client = UpstreamClient(f"https://localhost:{port}", TIMES, tls=context)
    assert await get(client) == (200, b"hello")
    await client.close()
    await server.stop()
    (tmp_path / "other").mkdir()
    impostor = Counting()
    port = await impostor.start(server_context(Authority.make(tmp_path / "other"), tmp_path / "other"))
    client = UpstreamClient(f"https://localhost:{port}", TIMES, tls=context)
    with pytest.raises(UpstreamFailure) as failed:
        await get(client)
    await client.close()
    await impostor.stop()
    assert failed.value.reason == "tls"


def test_the_context_is_as_strict_as_the_standard_library_s():
    ours, theirs = client_context(), ssl.create_default_context()
    for name in ("verify_mode", "check_hostname", "verify_flags", "minimum_version", "options", "protocol"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.cert_store_stats() == theirs.cert_store_stats()

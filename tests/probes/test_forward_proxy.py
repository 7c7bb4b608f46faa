"""Calls of OpenAI's admin API go through the forward proxy too, without showing its login."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest
from quotapool.openai_admin.collect import Collector, connector
from quotapool.openai_admin.json_reader import NoAnswer
from quotapool.settings import Settings, from_wire

from tests.fakes.certificates import Authority, server_context
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.upstream_server import ScriptedServer, answering

PAGE = b'{"object": "list", "data": [], "has_more": false}'
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE
ADMIN = {"organization": "acme", "secret": "sk-admin-acme-of-tests"}


def settings(port: int, proxy: str) -> Settings:
    options = {"upstream": f"https://localhost:{port}", "upstream_proxy": proxy, "admin_keys": [ADMIN]}
    return from_wire(msgspec.json.encode(options))


async def no_pause(_seconds: float) -> None:
    """The pause between two attempts."""


async def projects(options: Settings, authority: Authority) -> int:
    async with aiohttp.ClientSession(connector=connector(authority.ca_file)) as http:
        organisation = Collector(http, no_pause).organisation(options, options.admin_keys[0])
        return len(await organisation.projects())


async def test_the_admin_api_is_called_through_a_tunnel(tmp_path):
    authority, server = Authority.make(tmp_path), ScriptedServer(answering([OK]))
    port = await server.start(server_context(authority, tmp_path))
    async with ForwardProxy(login="jane:a-password").running() as proxy:
        assert await projects(settings(port, proxy.url("jane:a-password")), authority) == 0
    await server.stop()
    assert proxy.asked[0].startswith(b"CONNECT localhost:%d HTTP/1.1\r\n" % port)
    assert proxy.tunnels == 1


async def test_a_refused_login_is_reported_without_showing_it(tmp_path):
    authority = Authority.make(tmp_path)
    async with ForwardProxy(login="jane:another").running() as proxy:
        with pytest.raises(NoAnswer) as refused:
            await projects(settings(1, proxy.url("jane:a-password")), authority)
    assert "the forward proxy answers 407" in str(refused.value)
    assert "a-password" not in str(refused.value)
    assert not refused.value.final

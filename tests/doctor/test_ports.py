"""The proxy that runs here, as it is found: ready or not, of which version, with which certificate."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest
from quotapool import __version__
from quotapool.app.command_socket import Answer, Head
from quotapool.doctor import ports
from quotapool.doctor.finding import Status

from tests.doctor.conftest import gathered, named
from tests.fakes.certificates import Authority, server_context
from tests.fakes.listening import listening
from tests.fakes.upstream_server import ScriptedServer
from tests.fakes.valkey import free_port

OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM


def running(state_dir: Path, *, listen: int, admin_listen: int, release: str = __version__) -> Answer:
    """As a proxy on these ports of 127.0.0.1 would answer."""
    head = Head(
        pid=4711,
        release=release,
        phase="",
        state_dir=str(state_dir),
        listen=f"127.0.0.1:{listen}",
        admin_listen=f"127.0.0.1:{admin_listen}",
    )
    return Answer(head, b"", 4711, state_dir)


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nready\n", OK, "takes requests"),
        (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 16\r\n\r\nno store for 9 s",
            PROBLEM,
            "takes no requests: no store for 9 s",
        ),
    ],
)
async def test_a_proxy_that_takes_no_requests_says_why(settings_of, tmp_path, answer, status, text):
    async def serve(incoming) -> None:
        assert (await incoming.request()).startswith(b"GET /readyz ")
        await incoming.send(answer)

    server = ScriptedServer(serve)
    proxy = running(tmp_path, listen=free_port(), admin_listen=await server.start())
    found = await gathered(ports.check(settings_of(), proxy, ""))
    await server.stop()
    assert (named(found, "proxy.ready").status, named(found, "proxy.ready").text) == (status, text)


async def test_one_whose_port_is_silent_is_a_problem(settings_of, tmp_path):
    proxy = running(tmp_path, listen=free_port(), admin_listen=free_port())
    ready = named(await gathered(ports.check(settings_of(), proxy, "")), "proxy.ready")
    assert (ready.status, "Connection refused" in ready.text) == (PROBLEM, True)


async def test_one_of_another_version_is_told(settings_of, tmp_path):
    proxy = running(tmp_path, listen=free_port(), admin_listen=free_port(), release="0.0.9")
    told = named(await gathered(ports.check(settings_of(), proxy, "")), "proxy")
    assert (told.status, "version 0.0.9" in told.text) == (WARNING, True)


async def test_a_proxy_that_cannot_be_asked_has_the_ports_so_nobody_tries_them(settings_of):
    found = await gathered(ports.check(settings_of(), None, "the proxy (process 4711) does not answer"))
    assert [(finding.check, finding.status) for finding in found] == [("proxy", WARNING)]


@pytest.mark.parametrize("is_renewed", [False, True])
async def test_a_renewed_certificate_that_the_proxy_does_not_show_yet_is_told(settings_of, tmp_path, is_renewed):
    authority = Authority.make(tmp_path)
    context, port = server_context(authority, tmp_path, ends=dt.timedelta(days=40)), free_port()
    if is_renewed:
        authority.issue(tmp_path, ends=dt.timedelta(days=90))
    settings = settings_of(
        tls={"cert_file": tmp_path / "tls.crt", "key_file": tmp_path / "tls.key"}, listen=f"127.0.0.1:{port}"
    )
    async with listening(asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port, ssl=context)):
        found = await gathered(ports.check(settings, running(tmp_path, listen=port, admin_listen=free_port()), ""))
    told = [finding.status for finding in found if finding.check == "listen.certificate"]
    assert told == ([OK, WARNING] if is_renewed else [OK])

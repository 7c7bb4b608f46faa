"""Upstreams with a real fault each: each is told by what is wrong on the way, and nothing secret is sent or shown."""

from __future__ import annotations

import datetime as dt
import time
from email.utils import format_datetime

import pytest
from quotapool.doctor import upstream
from quotapool.doctor.finding import Status

from tests.doctor.conftest import SECRET, gathered, named, statuses
from tests.fakes.certificates import Authority, server_context
from tests.fakes.forward_proxy import ForwardProxy
from tests.fakes.upstream_server import ScriptedServer
from tests.fakes.valkey import free_port

OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM
NO_KEY = b'{"error":{"message":"You didn\'t provide an API key.","type":"invalid_request_error","code":null}}'
PAGE = b"<html><body>Access denied</body></html>"
COUNTRY = (
    b'{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported",'
    b'"param":null,"type":"request_forbidden"}}'
)


class Upstream:
    """Answers every request alike; `heads` are those that came."""

    def __init__(self, status: str = "401 Unauthorized", body: bytes = NO_KEY, ahead_s: float = 0.0) -> None:
        self.heads: list[bytes] = []
        self._status, self._body, self._ahead_s = status, body, ahead_s
        self.server = ScriptedServer(self._serve)

    async def _serve(self, incoming) -> None:
        self.heads.append(await incoming.request())
        date = format_datetime(dt.datetime.fromtimestamp(time.time() + self._ahead_s, dt.UTC), usegmt=True)
        head = f"HTTP/1.1 {self._status}\r\nDate: {date}\r\nContent-Length: {len(self._body)}\r\n\r\n"
        await incoming.send(head.encode() + self._body)


@pytest.fixture
async def serving():
    """Starts an `Upstream`, with TLS if it gets a context; its port."""
    servers = []

    async def start(instance: Upstream, context=None) -> int:
        servers.append(instance.server)
        return await instance.server.start(context)

    yield start
    for server in servers:
        await server.stop()


async def test_an_upstream_that_asks_for_a_key_is_reached_and_gets_none(settings_of, serving):
    there = Upstream()
    settings = settings_of(upstream=f"http://127.0.0.1:{await serving(there)}")
    found = await gathered(upstream.check(settings))
    assert statuses(found) == {"upstream": OK, "upstream.clock": OK}
    assert " answers 401 without a key, directly, " in named(found, "upstream").text
    (head,) = there.heads
    assert head.startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert SECRET.encode() not in head
    assert b"authorization" not in head.lower()


@pytest.mark.parametrize(
    ("status", "body", "expected", "words"),
    [
        ("403 Forbidden", COUNTRY, PROBLEM, "unsupported_country_region_territory"),
        ("403 Forbidden", PAGE, PROBLEM, "http_403"),
        ("429 Too Many Requests", PAGE, PROBLEM, "http_429"),
        ("503 Service Unavailable", b"", WARNING, "answers 503"),
        ("200 OK", b'{"object":"list","data":[]}', OK, "answers 200"),  # a server without keys
        ("404 Not Found", b"{}", OK, "answers 404"),
    ],
)
async def test_what_it_answers_is_told_apart(settings_of, serving, status, body, expected, words):
    settings = settings_of(upstream=f"http://127.0.0.1:{await serving(Upstream(status, body))}")
    finding = named(await gathered(upstream.check(settings)), "upstream")
    assert finding.status is expected
    assert words in finding.text


async def test_one_that_refuses_connections_is_a_problem(settings_of):
    address = f"http://127.0.0.1:{free_port()}"
    finding = named(await gathered(upstream.check(settings_of(upstream=address))), "upstream")
    assert finding.status is PROBLEM
    assert finding.text == f"{address} is not reached: cannot connect to upstream: connection refused"
    assert "firewall" in finding.remedy


async def test_a_name_that_nobody_knows_is_told_from_a_port_that_is_closed(settings_of):
    finding = named(await gathered(upstream.check(settings_of(upstream="https://no-such-host.invalid"))), "upstream")
    assert finding.status is PROBLEM
    assert "no-such-host.invalid has no address here" in finding.text
    assert "name resolution" in finding.remedy


async def test_one_that_speaks_something_else_is_told(settings_of, serving):
    there = Upstream()
    there.server = ScriptedServer(lambda incoming: incoming.send(b"SSH-2.0-OpenSSH_9.2\r\n"))
    settings = settings_of(upstream=f"http://127.0.0.1:{await serving(there)}")
    finding = named(await gathered(upstream.check(settings)), "upstream")
    assert finding.status is PROBLEM
    assert "speaks no HTTP/1.1" in finding.remedy


@pytest.mark.parametrize(("ahead_s", "status"), [(2.0, OK), (-2.0, OK), (120.0, WARNING), (-120.0, WARNING)])
async def test_a_clock_that_differs_by_more_than_seconds_is_told(settings_of, serving, ahead_s, status):
    settings = settings_of(upstream=f"http://127.0.0.1:{await serving(Upstream(ahead_s=ahead_s))}")
    assert named(await gathered(upstream.check(settings)), "upstream.clock").status is status


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (60, {"upstream": OK, "upstream.certificate": OK, "upstream.clock": OK}),
        (5, {"upstream": OK, "upstream.certificate": WARNING, "upstream.clock": OK}),
        (-1, {"upstream": PROBLEM}),
    ],
)
async def test_its_certificate_is_looked_at(settings_of, serving, tmp_path, days, expected):
    authority = Authority.make(tmp_path)
    port = await serving(Upstream(), server_context(authority, tmp_path, ends=dt.timedelta(days=days, hours=1)))
    found = await gathered(upstream.check(settings_of(upstream=f"https://127.0.0.1:{port}", ca_file=authority.ca_file)))
    assert statuses(found) == expected
    if days < 0:
        assert "certificate has expired" in named(found, "upstream").text


async def test_an_unknown_authority_is_told_with_its_remedy(settings_of, serving, tmp_path):
    port = await serving(Upstream(), server_context(Authority.make(tmp_path), tmp_path))
    finding = named(await gathered(upstream.check(settings_of(upstream=f"https://127.0.0.1:{port}"))), "upstream")
    assert "from an authority that is not trusted here" in finding.text
    assert "ca_file" in finding.remedy


async def test_the_way_through_a_forward_proxy_is_the_one_that_is_tried(settings_of, serving):
    port = await serving(Upstream())
    async with ForwardProxy(login="jane:s@cret").running() as between:
        for login, status in (("jane:s%40cret", OK), ("jane:wr%40ng", PROBLEM)):
            settings = settings_of(upstream=f"http://127.0.0.1:{port}", upstream_proxy=between.url(login))
            finding = named(await gathered(upstream.check(settings)), "upstream")
            assert finding.status is status
            assert "s@cret" not in finding.text + finding.remedy
            assert "forward proxy" in finding.text


async def test_each_address_of_the_pool_is_tried_once(settings_of, serving):
    main, azure = Upstream(), Upstream()
    base = f"http://127.0.0.1:{await serving(azure)}/openai"
    keys = [{"secret": f"{SECRET}-{n}", "upstream": base} for n in range(3)] + [{"secret": SECRET}]
    found = await gathered(upstream.check(settings_of(upstream=f"http://127.0.0.1:{await serving(main)}", keys=keys)))
    assert [finding.status for finding in found if finding.check == "upstream"] == [OK, OK]
    assert (len(main.heads), len(azure.heads)) == (1, 1)
    assert azure.heads[0].startswith(b"GET /openai/v1/models ")


async def test_a_ca_file_that_cannot_be_used_is_told(settings_of, tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate\n")
    finding = named(await gathered(upstream.check(settings_of(ca_file=tmp_path / "ca.pem"))), "upstream")
    assert "ca_file cannot be used" in finding.text

"""Who else has to be reached: the identity provider of operators, and the targets of alerts."""

from __future__ import annotations

import msgspec
import pytest
from quotapool.doctor import alerts, login
from quotapool.doctor.finding import Status

from tests.doctor.conftest import gathered, named
from tests.fakes.upstream_server import ScriptedServer
from tests.fakes.valkey import free_port

OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM
TOKEN = "T0KEN-0123456789-of-a-target"


@pytest.fixture
async def provider():
    """An identity provider on this machine; what it answers can be changed."""
    answers: dict[bytes, object] = {}

    async def serve(incoming) -> None:
        while True:
            path = (await incoming.request()).split()[1]
            body = msgspec.json.encode(answers.get(path, {}))
            await incoming.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    server = ScriptedServer(serve)
    issuer = f"http://127.0.0.1:{await server.start()}"
    answers[b"/.well-known/openid-configuration"] = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/keys",
    }
    answers[b"/keys"] = {"keys": []}
    yield issuer, answers
    await server.stop()


def with_issuer(issuer: str) -> dict[str, object]:
    return {"dashboard": {"oidc": {"issuer": issuer, "client_id": "quotapool", "client_secret": TOKEN}}}


async def test_a_provider_that_describes_itself_is_fine(settings_of, provider):
    assert named(await gathered(login.check(settings_of(**with_issuer(provider[0])))), "login.oidc").status is OK


async def test_a_provider_without_keys_is_a_problem(settings_of, provider):
    issuer, answers = provider
    answers[b"/keys"] = {}
    finding = named(await gathered(login.check(settings_of(**with_issuer(issuer)))), "login.oidc")
    assert finding.status is PROBLEM
    assert finding.text == f"{issuer}/keys answers 200 and no keys"


async def test_an_issuer_that_is_another_or_away_is_a_problem(settings_of, provider):
    for issuer in (f"{provider[0]}/", f"http://127.0.0.1:{free_port()}"):
        finding = named(await gathered(login.check(settings_of(**with_issuer(issuer)))), "login.oidc")
        assert finding.status is PROBLEM
        assert issuer in finding.text
        assert TOKEN not in finding.text


async def test_without_a_provider_or_a_page_there_is_nothing_to_say(settings_of, provider):
    assert await gathered(login.check(settings_of())) == []
    options = with_issuer(provider[0])["dashboard"] | {"enabled": False}
    assert await gathered(login.check(settings_of(dashboard=options))) == []


@pytest.mark.parametrize(
    ("url", "status"),
    [
        (f"http://localhost:1/{TOKEN}", OK),
        (f"https://no-such-host.invalid/{TOKEN}", WARNING),
        (f"mailtos://user:{TOKEN}@localhost:1?smtp=localhost", OK),
        (f"mailtos://user:{TOKEN}@example.com?smtp=no-such-host.invalid", WARNING),
    ],
)
async def test_a_targets_host_is_looked_up_and_its_token_is_not_shown(settings_of, url, status):
    (finding,) = await gathered(alerts.check(settings_of(alerts={"targets": [{"url": url, "name": "ops"}]})))
    assert finding.status is status
    assert finding.text.startswith("ops: ")
    assert TOKEN not in finding.text + finding.remedy


async def test_a_target_that_no_service_understands_is_a_problem(settings_of):
    (finding,) = await gathered(alerts.check(settings_of(alerts={"targets": [{"url": f"nosuchservice://{TOKEN}"}]})))
    assert finding.status is PROBLEM
    assert "alerts.targets[0]" in finding.text
    assert TOKEN not in finding.text

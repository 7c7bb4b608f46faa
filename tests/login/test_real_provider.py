"""Login at a real OpenID provider, panva's oidc-provider: its own pages are filled in, as a browser would."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from aiohttp import ClientSession, CookieJar, DummyCookieJar

from tests.fakes.operators_port import operators_port
from tests.fakes.valkey import free_port

HOST = "127.0.0.1:9090"
CALLBACK = f"http://{HOST}/login/oidc/callback"
SECRETS = {"pool": "a%secret/of:the+pool&client", "poster": "another-secret-of-a-client", "public": None}


@pytest.fixture(scope="module")
def issuer(client_programs: Path) -> Iterator[str]:
    port = free_port()
    script = Path(__file__).parents[1] / "fakes" / "oidc_provider.mjs"
    command = ["node", str(script), str(client_programs / "node_modules"), str(port), CALLBACK]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        lines = iter(process.stdout.readline, "")
        assert any("listening" in line for line in lines)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(5)
        process.stdout.close()


def oidc(issuer: str, client: str = "pool", **more: object) -> dict[str, object]:
    return {
        "issuer": issuer,
        "client_id": client,
        "client_secret": SECRETS[client],
        "scopes": ["openid", "email", "groups"],
        "operators": ["ops"],
        "viewers": ["staff"],
        **more,
    }


@pytest.fixture
async def open_port(aiohttp_client, valkey_url, tmp_path):
    async with contextlib.AsyncExitStack() as stack:

        async def start(options):
            port = operators_port(valkey_url, tmp_path, {"oidc": options})
            stack.push_async_callback(port.store.close)
            return port, await aiohttp_client(port.app(), cookie_jar=DummyCookieJar())

        yield start


class Browser:
    """A browser at our page and at the provider, each with its cookies."""

    def __init__(self, client) -> None:
        self.client = client
        self.flow = ""

    async def begin(self) -> str:
        """Where our page sends it."""
        answer = await self.client.get("/login/oidc", headers={"Host": HOST}, allow_redirects=False)
        assert answer.status == 303, await answer.text()
        cookie = answer.headers["Set-Cookie"]
        assert re.fullmatch(
            r"quotapool_login=\d+\.[\w-]{43}; Path=/login/oidc; Max-Age=600; HttpOnly; SameSite=Lax", cookie
        )
        self.flow = cookie.partition(";")[0]
        return answer.headers["Location"]

    async def at_the_provider(self, location: str, name: str) -> str:
        """Log in as `name`, agree, and return the callback that the provider sends the browser to."""
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
            answer = await http.get(location, allow_redirects=False)
            for _ in range(12):
                if answer.status in {302, 303}:
                    location = urljoin(str(answer.url), answer.headers["Location"])
                    if location.startswith(CALLBACK):
                        return location
                    answer = await http.get(location, allow_redirects=False)
                    continue
                page = await answer.text()
                assert answer.status == 200, page
                form = re.search(r'<form[^>]*action="([^"]+)"', page)
                prompt = re.search(r'name="prompt" value="(\w+)"', page)
                filled = {"prompt": prompt[1], **({"login": name, "password": "x"} if prompt[1] == "login" else {})}
                answer = await http.post(unescape(form[1]), data=filled, allow_redirects=False)
        raise AssertionError("the provider leads in circles")

    async def call_back(self, url: str, **cookies: str):
        """Follow the provider's redirect, as a browser does that comes from another site."""
        parts = urlsplit(url)
        headers = {"Host": HOST, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Cookie": self.flow}
        return await self.client.get(f"{parts.path}?{parts.query}", headers={**headers, **cookies})

    async def log_in(self, name: str):
        return await self.call_back(await self.at_the_provider(await self.begin(), name))


async def session_of(client, answer) -> dict[str, object]:
    header = next(c for c in answer.headers.getall("Set-Cookie") if c.startswith("quotapool_session="))
    assert "HttpOnly; SameSite=Strict" in header
    seen = await client.get("/admin/session", headers={"Host": HOST, "Cookie": header.partition(";")[0]})
    assert seen.status == 200, await seen.text()
    return await seen.json()


@pytest.mark.parametrize("client_id", ["pool", "poster", "public"])
async def test_whoever_the_provider_names_is_logged_in_with_the_role_of_a_group(issuer, open_port, client_id):
    port, client = await open_port(oidc(issuer, client_id))
    location = await Browser(client).begin()
    asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert (asked["response_type"], asked["client_id"], asked["redirect_uri"]) == ("code", client_id, CALLBACK)
    for name, role in (("opal", "operator"), ("joe", "viewer")):
        answer = await Browser(client).log_in(name)
        page = await answer.text()
        assert answer.status == 200, page
        assert '<meta http-equiv="refresh" content="0;url=/">' in page
        assert "<script" not in page
        told = await session_of(client, answer)
        assert (told["actor"], told["role"], told["by"]) == (f"{name}@example.com", role, "oidc")
    logins = [(line["actor"], line["action"], line["by"]) for line in port.audit_lines()]
    assert logins == [("opal@example.com", "login", "oidc"), ("joe@example.com", "login", "oidc")]
    everything = (port.settings.state_dir / "audit.log").read_text()
    assert "code=" not in everything


async def test_a_callback_works_once(issuer, open_port):
    _, client = await open_port(oidc(issuer))
    browser = Browser(client)
    url = await browser.at_the_provider(await browser.begin(), "opal")
    assert (await browser.call_back(url)).status == 200
    again = await browser.call_back(url)
    assert again.status == 403
    assert "used already" in await again.text()
    assert not any("quotapool_session=" in cookie for cookie in again.headers.getall("Set-Cookie"))


async def test_a_callback_of_another_browser_logs_nobody_in(issuer, open_port):
    """Login CSRF: the attacker's own callback, followed by the operator's browser."""
    _, client = await open_port(oidc(issuer))
    attacker, operator = Browser(client), Browser(client)
    url = await attacker.at_the_provider(await attacker.begin(), "opal")
    await operator.begin()
    for cookie in (operator.flow, "", f"{operator.flow}; {attacker.flow}", f"{attacker.flow}; {attacker.flow}x"):
        answer = await operator.call_back(url, Cookie=cookie)
        assert answer.status == 403
        assert "not begun in this browser" in await answer.text()


@pytest.mark.parametrize(
    "change", ["state=wrong", "iss=https://evil.example", "code=x", "state=", "error=access_denied"]
)
async def test_a_changed_callback_is_refused(issuer, open_port, change):
    _, client = await open_port(oidc(issuer))
    browser = Browser(client)
    url = await browser.at_the_provider(await browser.begin(), "opal")
    name, _, value = change.partition("=")
    query = {**{key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}, name: value}
    answer = await client.get("/login/oidc/callback", params=query, headers={"Host": HOST, "Cookie": browser.flow})
    assert answer.status == 403
    twice = f"{url}&{change}"
    assert (await browser.call_back(twice)).status == 403


async def test_what_an_error_page_shows_is_text_and_not_the_callers(issuer, open_port):
    _, client = await open_port(oidc(issuer))
    browser = Browser(client)
    location = await browser.begin()
    state = parse_qs(urlsplit(location).query)["state"][0]
    query = {"state": state, "error": "<script>alert(1)</script>", "error_description": "call 555-0100"}
    answer = await client.get("/login/oidc/callback", params=query, headers={"Host": HOST, "Cookie": browser.flow})
    page = await answer.text()
    assert answer.status == 403
    assert "script" not in page
    assert "555" not in page


async def test_an_unverified_address_is_nobodys_name(issuer, open_port):
    _, client = await open_port(oidc(issuer))
    answer = await Browser(client).log_in("unverified")
    assert answer.status == 403
    assert "has not verified" in await answer.text()


async def test_whoever_has_no_role_is_told_what_is_known_of_them(issuer, open_port):
    port, client = await open_port(oidc(issuer, viewers=[]))
    answer = await Browser(client).log_in("joe")
    assert answer.status == 403
    assert "joe@example.com has no role here: the claim groups says staff" in await answer.text()
    assert await port.store.client.keys("*session*") == []
    (line,) = port.audit_lines()
    assert (line["action"], line["result"]) == ("login", "no_role")
    assert "joe" not in json.dumps(line)


async def test_another_name_and_role_by_other_claims(issuer, open_port):
    options = oidc(issuer, actor_claim="sub", roles_claim="email", operators=["opal@example.com"], viewers=[])
    _, client = await open_port(options)
    told = await session_of(client, await Browser(client).log_in("opal"))
    assert (told["actor"], told["role"]) == ("opal", "operator")
    assert (await Browser(client).log_in("unverified")).status == 403


async def test_a_wrong_client_secret_is_said(issuer, open_port):
    _, client = await open_port(oidc(issuer, client_secret="not-the-secret"))
    answer = await Browser(client).log_in("opal")
    assert answer.status == 403
    assert "invalid_client" in await answer.text()
    assert "not-the-secret" not in await answer.text()


async def test_new_signing_keys_of_the_provider_are_found(issuer, open_port, monkeypatch):
    from quotapool.login import provider

    monkeypatch.setattr(provider, "_KEYS_EVERY_S", 0.0)
    _, client = await open_port(oidc(issuer))
    assert (await Browser(client).log_in("opal")).status == 200
    urllib.request.urlopen(urllib.request.Request(f"{issuer}/rotate", method="POST")).read()
    assert (await Browser(client).log_in("opal")).status == 200

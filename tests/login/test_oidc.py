"""What is not believed: ID tokens that are not the provider's, not for us or not of this login; and providers that
fail.

The provider here is a small one of our own, since a real one makes no wrong tokens (`test_real_provider.py` has a real
one).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from quotapool.login import provider as provider_module
from quotapool.login.oidc import LoginFailed, OidcLogin, identity_of
from quotapool.login.provider import Provider
from quotapool.settings.dashboard import Oidc

from tests.fakes.connect import connect

REDIRECT = "http://127.0.0.1:9090/login/oidc/callback"
KEY = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
OTHER = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
CURVE = ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"})


class FakeProvider:
    """`claims`: changes to a good ID token's; `sign`: makes the token of them; `answers`: replace a whole answer."""

    def __init__(self) -> None:
        self.nonce = ""
        self.claims: dict[str, object] = {}
        self.sign = lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, KEY)
        self.answers: dict[str, object] = {}
        self.calls: list[str] = []
        self.userinfo: dict[str, object] = {}
        self.issuer = ""
        self.form: dict[str, str] = {}

    def good(self) -> dict[str, object]:
        now = int(time.time())
        who = {"sub": "1", "email": "jane@example.com", "groups": ["ops"]}
        return {"iss": self.issuer, "aud": "pool", "nonce": self.nonce, "iat": now, "exp": now + 300, **who}

    async def serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.calls.append(path)
        if (answer := self.answers.get(path)) is not None:
            return await answer(request)
        if path == "/.well-known/openid-configuration":
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint")
            paths = ("/authorize", "/token", "/keys", "/me")
            return web.json_response(
                {"issuer": self.issuer, **{name: self.issuer + where for name, where in zip(names, paths, strict=True)}}
            )
        if path == "/keys":
            return web.json_response({"keys": [KEY.as_dict(private=False), CURVE.as_dict(private=False)]})
        if path == "/me":
            return web.json_response(self.userinfo)
        self.form = dict(await request.post())
        claims = {name: value for name, value in {**self.good(), **self.claims}.items() if value is not None}
        return web.json_response({"id_token": self.sign(claims), "access_token": "at", "token_type": "Bearer"})


@pytest.fixture
async def fake(aiohttp_server):
    found = FakeProvider()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.serve)
    server = await aiohttp_server(app)
    found.issuer = f"http://127.0.0.1:{server.port}"
    return found


@pytest.fixture
async def login(fake, valkey_url):
    """`await login()`: the identity that a whole login ends with."""
    store = connect(valkey_url)

    async def run(**changed):
        options = Oidc.model_validate(
            {"issuer": fake.issuer, "client_id": "pool", "operators": ["ops"], "viewers": ["v*"], **changed}
        )
        oidc = OidcLogin(Provider(options, aiohttp.TCPConnector, None), store, "test")
        location, flow = await oidc.begin(REDIRECT, time.time())
        query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        fake.nonce = fake.nonce or query["nonce"]
        answer = {"state": query["state"], "code": "abc"}
        try:
            return await oidc.finish(answer, flow, REDIRECT, time.time)
        finally:
            fake.nonce = ""

    yield run
    await store.close()


async def refused(login, **options) -> tuple[str, str]:
    with pytest.raises(LoginFailed) as caught:
        await login(**options)
    return caught.value.code, str(caught.value)


async def test_a_good_token_is_believed(login, fake):
    identity = await login()
    assert (identity.actor, identity.role, identity.values) == ("jane@example.com", "operator", ("ops",))
    assert fake.form["grant_type"] == "authorization_code"
    assert len(fake.form["code_verifier"]) >= 43  # RFC 7636, 4.1
    assert fake.form["client_id"] == "pool"
    fake.sign = lambda claims: jwt.encode({"alg": "ES256", "kid": "ec"}, claims, CURVE)
    assert (await login()).actor == "jane@example.com"


NOW = int(time.time())


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"nonce": "of another login"}, "another login"),
        ({"nonce": None}, "another login"),
        ({"nonce": ["x"]}, "another login"),
        ({"aud": "another-client"}, "another client"),
        ({"aud": None}, "another client"),
        ({"aud": {"pool": 1}}, "another client"),
        ({"aud": ["pool", "another"]}, "given to another client"),
        ({"aud": ["pool", "another"], "azp": "another"}, "given to another client"),
        ({"azp": "another"}, "given to another client"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"exp": NOW - 3600}, "expired"),
        ({"exp": None}, "no exp"),
        ({"exp": "tomorrow"}, "no exp"),
        ({"exp": True}, "no exp"),
        ({"iat": NOW + 3600, "exp": NOW + 7200}, "future"),
        ({"iat": None}, "no iat"),
        ({"nbf": NOW + 3600}, "not valid yet"),
        ({"sub": None}, "names nobody"),
        ({"sub": ""}, "names nobody"),
    ],
)
async def test_a_signed_token_with_wrong_claims_is_not(login, fake, claims, why):
    fake.claims = claims
    code, message = await refused(login)
    assert code == "login_refused"
    assert why in message


async def test_a_token_for_several_that_was_given_to_us_is_believed(login, fake):
    fake.claims = {"aud": ["pool", "another"], "azp": "pool"}
    assert (await login()).actor == "jane@example.com"


def segments(*parts: object) -> str:
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)


def tampered(claims):
    """A good signature, under other claims."""
    head, _, signature = jwt.encode({"alg": "RS256", "kid": "one"}, {**claims, "groups": []}, KEY).split(".")
    return f"{head}.{segments(claims)}.{signature}"


def mac_with_the_public_key(claims):
    """The key that everybody knows, taken for a shared secret."""
    head = segments({"alg": "HS256", "kid": "one"}) + "." + segments(claims)
    import hashlib
    import hmac

    signature = hmac.digest(KEY.as_pem(private=False), head.encode(), hashlib.sha256)
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "sign",
    [
        tampered,
        mac_with_the_public_key,
        lambda claims: segments({"alg": "none"}, claims) + ".",
        lambda claims: segments({"alg": "None", "kid": "one"}, claims) + ".",
        lambda claims: segments({"kid": "one"}, claims) + ".AAAA",
        lambda claims: segments({"alg": ["RS256"], "kid": "one"}, claims) + ".AAAA",
        lambda claims: jwt.encode({"alg": "RS256", "kid": "one"}, claims, OTHER),
        lambda claims: jwt.encode({"alg": "RS256", "kid": "nowhere"}, claims, OTHER),
        lambda claims: jwt.encode({"alg": "RS256"}, claims, KEY),  # two keys are listed: by which?
        lambda claims: jwt.encode({"alg": "RS256", "kid": "ec"}, claims, KEY),
        lambda claims: jwt.encode({"alg": "RS256", "kid": "one", "jwk": OTHER.as_dict(private=False)}, claims, OTHER),
        lambda claims: jwt.encode({"alg": "HS256", "kid": "one"}, claims, OctKey.import_key("x" * 32)),
        lambda _: jws.serialize_compact({"alg": "RS256", "kid": "one"}, b"[]", KEY),
        lambda _: jws.serialize_compact({"alg": "RS256", "kid": "one"}, b"\xff", KEY),
        lambda _: "not.a.token",
        lambda _: "",
        lambda _: "a" * 70_000,
        lambda _: "\ud800.x.y",
    ],
)  # fmt: skip
async def test_a_token_that_the_provider_did_not_sign_is_not(login, fake, sign):
    fake.sign = sign
    code, message = await refused(login)
    assert code in {"login_refused", "identity_provider_failed"}
    assert "ops" not in message


@pytest.mark.parametrize("algorithm", ["HS256", "none", "RS1", "rs256", None, 5])
async def test_only_signatures_that_the_provider_alone_can_make_are_looked_at(login, fake, algorithm):
    fake.sign = lambda claims: segments({"alg": algorithm, "kid": "one"}, claims) + ".AAAA"
    assert "not signed in a way that is accepted" in (await refused(login))[1]


@pytest.mark.parametrize(("later", "is_good"), [(599, True), (602, False), (-59, True), (-62, False)])
async def test_a_login_that_was_begun_long_ago_is_over(fake, valkey_url, later, is_good):
    options = Oidc.model_validate({"issuer": fake.issuer, "client_id": "pool", "operators": ["ops"]})
    store, began = connect(valkey_url), time.time()
    oidc = OidcLogin(Provider(options, aiohttp.TCPConnector, None), store, "test")
    location, flow = await oidc.begin(REDIRECT, began)
    query = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    fake.nonce = query["nonce"]
    fake.claims = {"iat": int(began) + later, "exp": int(began) + later + 300}
    answer = {"state": query["state"], "code": "abc"}
    if is_good:
        assert (await oidc.finish(answer, flow, REDIRECT, lambda: began + later)).actor == "jane@example.com"
    else:
        with pytest.raises(LoginFailed, match="too long ago"):
            await oidc.finish(answer, flow, REDIRECT, lambda: began + later)
    assert await store.client.ttl((await store.client.keys("*state*") or ["none"])[0]) > (600 if is_good else -3)
    await store.close()


async def test_claims_about_somebody_else_are_not_taken(login, fake):
    fake.claims = {"groups": None}
    fake.userinfo = {"sub": "2", "groups": ["ops"]}
    assert (await refused(login))[0] == "login_refused"
    fake.userinfo = {"sub": "1", "groups": ["ops"], "email": "root@example.com"}
    assert (await login()).actor == "jane@example.com"  # what is signed counts first


# ---- providers that fail


def answers(status=200, body=b"", headers=None):
    async def answer(_):
        return web.Response(status=status, body=body, headers=headers)

    return answer


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b" " * 65_536)
    return response


async def never(request):
    await asyncio.sleep(3600)


def description(**changed):
    async def answer(request):
        issuer = f"http://{request.host}"
        names = {"authorization_endpoint": "/a", "token_endpoint": "/token", "jwks_uri": "/keys"}
        document = {"issuer": issuer, **{name: issuer + path for name, path in names.items()}, **changed}
        return web.json_response(document)

    return answer


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("/.well-known/openid-configuration", answers(500), "answers 500"),
        ("/.well-known/openid-configuration", answers(302, headers={"Location": "/elsewhere"}), "answers 302"),
        ("/.well-known/openid-configuration", answers(200, b"<html>"), "not the description"),
        ("/.well-known/openid-configuration", answers(200, b"[" * 200_000), "not the description"),
        ("/.well-known/openid-configuration", endless, "more than 256 KiB"),
        ("/.well-known/openid-configuration", never, "cannot be reached"),
        ("/.well-known/openid-configuration", description(issuer="https://evil.example"), "another issuer"),
        ("/.well-known/openid-configuration", description(token_endpoint="http://192.0.2.1/token"), "not https"),
        ("/.well-known/openid-configuration", description(jwks_uri="file:///etc/passwd"), "not https"),
        ("/keys", answers(500), "no keys"),
        ("/keys", answers(200, b'{"keys": 5}'), "no keys"),
        ("/keys", endless, "more than 256 KiB"),
        ("/keys", never, "cannot be reached"),
        ("/token", answers(500), "no ID token"),
        ("/token", answers(200, b'{"access_token": "x"}'), "no ID token"),
        ("/token", endless, "more than 256 KiB"),
        ("/token", never, "cannot be reached"),
    ],
)
async def test_a_provider_that_fails_is_a_clear_error_and_soon(login, fake, path, answer, why, monkeypatch):
    monkeypatch.setattr(provider_module, "_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    fake.answers[path] = answer
    code, message = await refused(login)
    assert code == "identity_provider_failed"
    assert why in message


async def test_a_provider_that_refuses_the_code_is_told_from_one_that_fails(login, fake):
    fake.answers["/token"] = answers(
        400, b'{"error": "invalid_grant", "error_description": "see https://evil.example"}'
    )
    code, message = await refused(login)
    assert code == "login_refused"
    assert "invalid_grant" in message
    assert "evil" not in message


async def test_a_provider_that_is_down_is_not_asked_by_every_visitor(fake, valkey_url):
    fake.answers["/.well-known/openid-configuration"] = answers(503)
    options = Oidc.model_validate({"issuer": fake.issuer, "client_id": "pool"})
    store = connect(valkey_url)
    oidc = OidcLogin(Provider(options, aiohttp.TCPConnector, None), store, "test")
    for _ in range(20):
        with pytest.raises(LoginFailed):
            await oidc.begin(REDIRECT, time.time())
    assert len(fake.calls) == 1
    await store.close()


# ---- from claims to a name and a role

OPTIONS = Oidc.model_validate(
    {"issuer": "https://login.example.com", "client_id": "pool", "operators": ["ops", "admin-*"], "viewers": ["staff"]}
)


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["ops"], "operator"),
        ("ops", "operator"),
        (["staff", "ops"], "operator"),
        (["admin-eu"], "operator"),
        (["staff"], "viewer"),
        (["OPS"], None),
        (["ops "], None),
        (["xops"], None),
        ([["ops"]], None),
        ({"ops": True}, None),
        (None, None),
        ([], None),
    ],
)
def test_the_role_is_the_highest_that_a_group_earns(groups, role):
    claims = {"email": "jane@example.com", "groups": groups}
    if role is None:
        with pytest.raises(LoginFailed) as caught:
            identity_of(claims, OPTIONS)
        assert caught.value.code == "no_role"
    else:
        assert identity_of(claims, OPTIONS).role == role


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "jane@example.com", "email_verified": False},
        {"email": "jane@example.com", "email_verified": "false"},
        {"email": "jane@example.com", "email_verified": None},
        {"email": "jane@example.com", "email_verified": 0},
        {"email": ""},
        {"email": "jane\n@example.com"},
        {"email": "\u202ejane@example.com"},
        {"email": "j" * 129},
        {"email": ["jane@example.com"]},
        {},
    ],
)
def test_an_address_that_is_not_surely_theirs_names_nobody(claims):
    with pytest.raises(LoginFailed) as caught:
        identity_of({"groups": ["ops"], **claims}, OPTIONS)
    assert caught.value.code == "login_refused"

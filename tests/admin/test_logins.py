"""Who gets in at the operators' port, and who does not: by the token, by a link, by a proxy's word; on a real store."""

from __future__ import annotations

import asyncio
import re
import time

import pytest
from aiohttp import DummyCookieJar
from quotapool.admin.access import STILL_VALID
from quotapool.login.oidc import source_of
from quotapool.login.secrets import new_secret
from quotapool.login.sessions import Session, proof_of
from quotapool.settings import Settings

from tests.fakes.operators_port import BEARER, TOKEN, operators_port

OWN = {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090", "Sec-Fetch-Site": "same-origin"}
COOKIE = re.compile(r"quotapool_session=([A-Za-z0-9_-]{43}); Path=/; Max-Age=(\d+); HttpOnly; SameSite=Strict")


@pytest.fixture
async def open_port(aiohttp_client, valkey_url, tmp_path):
    """`await open_port(dashboard, **options)`: (the port, a client without cookies of its own)."""
    ports = []

    async def start(dashboard=None, *, state_dir=tmp_path, token=TOKEN, **options):
        port = operators_port(valkey_url, state_dir, dashboard, **options)
        port.token = token
        ports.append(port)
        return port, await aiohttp_client(port.app(), cookie_jar=DummyCookieJar())

    yield start
    for port in ports:
        await port.store.close()


async def code_of(answer) -> tuple[int, str]:
    return answer.status, (await answer.json())["error"]["code"]


async def log_in(client, *, headers=OWN, **body):
    """(secret of the cookie, what was answered)."""
    answer = await client.post("/admin/login", json=body or {"token": TOKEN}, headers=headers)
    assert answer.status == 200, await answer.text()
    found = COOKIE.match(answer.headers["Set-Cookie"])
    assert found, answer.headers["Set-Cookie"]
    return found[1], await answer.json()


def cookie(secret: str) -> dict[str, str]:
    return {**OWN, "Cookie": f"quotapool_session={secret}"}


# ---- in with the token, and out


async def test_the_token_gives_a_cookie_that_no_script_and_no_other_site_gets(open_port):
    port, client = await open_port({"session": "10m"})
    answer = await client.post("/admin/login", json={"token": TOKEN}, headers=OWN)
    header = answer.headers["Set-Cookie"]
    assert COOKIE.fullmatch(header)[2] == "600"
    told = await answer.json()
    assert (told["actor"], told["role"], told["by"], told["pool"]) == ("admin token", "operator", "token", "default")
    assert told["expires_at"] == pytest.approx(time.time() + 600, abs=5)
    assert COOKIE.match(header)[1] not in str(told)
    seen = await client.get("/admin/session", headers=cookie(COOKIE.match(header)[1]))
    assert await seen.json() == told
    assert (await client.get("/admin/keys", headers=cookie(COOKIE.match(header)[1]))).status == 200
    assert port.calls[-1][1].actor.name == "admin token"


async def test_the_store_has_no_secret_of_a_session(open_port):
    port, client = await open_port()
    secret, told = await log_in(client)
    names = await port.store.client.keys("*")
    dumps = b"".join([name + (await port.store.client.dump(name) or b"") for name in names])
    assert b"qp:{default:login}:session:" in dumps
    for text in (secret, told["csrf"], TOKEN):
        assert text.encode() not in dumps
    assert TOKEN not in (port.settings.state_dir / "audit.log").read_text()


async def test_https_is_believed_of_a_trusted_proxy_only(open_port):
    for networks, secure in ((["127.0.0.1"], True), (["10.0.0.0/8"], False)):
        _, client = await open_port(trusted_proxies=networks)
        headers = {**OWN, "Origin": "https://127.0.0.1:9090", "X-Forwarded-Proto": "https"}
        answer = await client.post("/admin/login", json={"token": TOKEN}, headers=headers)
        assert answer.headers["Set-Cookie"].endswith("; Secure") is secure


async def test_after_a_logout_the_cookie_is_worth_nothing(open_port):
    _, client = await open_port()
    secret, told = await log_in(client)
    csrf = {"X-Quotapool-CSRF": told["csrf"]}
    gone = await client.post("/admin/logout", headers={**cookie(secret), **csrf})
    assert gone.status == 200
    assert "Max-Age=0" in gone.headers["Set-Cookie"]
    assert await code_of(await client.get("/admin/session", headers=cookie(secret))) == (401, "admin_token_wanted")


async def test_a_session_ends_at_its_time(open_port):
    port, client = await open_port()
    now = time.time()
    for ends, status in ((now + 60, 200), (now - 0.001, 401)):
        secret = new_secret()
        session = Session("admin token", "operator", "token", "", now - 5, ends, proof_of(secret, TOKEN))
        await port.sessions.start(session, secret)
        assert (await client.get("/admin/session", headers=cookie(secret))).status == status


async def test_another_admin_token_ends_the_sessions_that_were_made_with_the_old_one(open_port):
    _, client = await open_port()
    secret, _ = await log_in(client)
    _, restarted = await open_port(token="another-token-0001")
    assert (await client.get("/admin/session", headers=cookie(secret))).status == 200
    assert (await restarted.get("/admin/session", headers=cookie(secret))).status == 401


async def test_a_login_never_takes_over_a_secret_that_the_browser_brought(open_port):
    """Session fixation: whoever planted the cookie would be logged in, too."""
    port, client = await open_port()
    planted = "A" * 43
    secret, _ = await log_in(client, headers=cookie(planted))
    assert secret != planted
    assert (await client.get("/admin/session", headers=cookie(planted))).status == 401
    again, _ = await log_in(client, headers=cookie(secret))
    assert (await client.get("/admin/session", headers=cookie(secret))).status == 401  # the browser has one session
    assert [name for name, _ in await port.sessions.all(time.time())] == [
        row["id"] for row in (await (await client.get("/admin/logins", headers=cookie(again))).json())["logins"]
    ]


@pytest.mark.parametrize(
    "header",
    [
        "quotapool_session={good}; quotapool_session={other}",
        "quotapool_session={other}; quotapool_session={good}",
        "quotapool_session={good}; quotapool_session=",
        "Quotapool_session={good}",
        'quotapool_session="{good}"',
        "quotapool_session={good}%00",
        "quotapool_session={good}x",
        "quotapool_session=",
        "quotapool_session",
        "x_quotapool_session={good}",
    ],
)
async def test_a_cookie_that_is_not_surely_ours_is_none(open_port, header):
    _, client = await open_port()
    secret, _ = await log_in(client)
    sent = header.format(good=secret, other="B" * 43)
    answer = await client.get("/admin/keys", headers={**OWN, "Cookie": sent})
    assert await code_of(answer) == (401, "admin_token_wanted")
    beside = f"a=1; quotapool_session={secret}; b=2"
    assert (await client.get("/admin/keys", headers={**OWN, "Cookie": beside})).status == 200


async def test_a_wrong_token_beside_a_good_cookie_is_wrong(open_port):
    _, client = await open_port()
    secret, _ = await log_in(client)
    answer = await client.get("/admin/keys", headers={**cookie(secret), "Authorization": "Bearer wrong"})
    assert answer.status == 401


# ---- changes from the page


@pytest.mark.parametrize("sent", [{}, {"X-Quotapool-CSRF": ""}, {"X-Quotapool-CSRF": "x" * 43}])
@pytest.mark.parametrize(("method", "path"), [("POST", "/admin/keys/a/disable"), ("DELETE", "/admin/keys/a"),
                                              ("PATCH", "/admin/clients/a"), ("POST", "/admin/logout")])  # fmt: skip
async def test_a_change_with_a_cookie_needs_the_csrf_token_of_that_session(open_port, method, path, sent):
    port, client = await open_port()
    secret, told = await log_in(client)
    _, other = await log_in(client)
    for headers in (sent, {"X-Quotapool-CSRF": other["csrf"]}):
        answer = await client.request(method, path, headers={**cookie(secret), **headers})
        assert await code_of(answer) == (403, "csrf_wanted")
    assert port.calls == []
    answer = await client.request(method, path, headers={**cookie(secret), "X-Quotapool-CSRF": told["csrf"]})
    assert answer.status == 200


async def test_a_change_with_the_token_needs_none(open_port):
    _, client = await open_port()
    assert (await client.post("/admin/keys/a/disable", headers=BEARER)).status == 200
    told = await (await client.get("/admin/session", headers=BEARER)).json()
    assert (told["by"], told["csrf"], told["expires_at"]) == ("token", "", None)


@pytest.mark.parametrize(
    "sent",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:8080"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
async def test_another_page_can_log_nobody_in(open_port, sent):
    """Login CSRF: the operator would work under somebody else's name."""
    _, client = await open_port()
    headers = {"Host": "127.0.0.1:9090", "Content-Type": "application/json", **sent}
    answer = await client.post("/admin/login", data=b'{"token": "0123456789abcdef"}', headers=headers)
    assert answer.status in {400, 403}
    assert "Set-Cookie" not in answer.headers


# ---- the page is open, the API is not


LINK = {
    "Host": "127.0.0.1:9090",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
}


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/assets/app.js", 200), ("/admin/keys", 403),
                                              ("/admin/session", 403), ("/admin/login-methods", 403)])  # fmt: skip
async def test_a_link_in_a_chat_leads_to_the_page_and_to_nothing_else(open_port, path, status):
    _, client = await open_port()
    assert (await client.get(path, headers=LINK)).status == status
    assert (await client.get(path, headers={**LINK, "Sec-Fetch-Dest": "iframe"})).status == 403
    assert (await client.get(path, headers={**LINK, "Sec-Fetch-Mode": "no-cors"})).status == 403
    assert (await client.post(path, headers=LINK)).status in {403, 405}


async def test_the_page_is_never_in_a_frame_and_has_no_script_of_others(open_port):
    _, client = await open_port()
    headers = (await client.get("/")).headers
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/assets/app.js", "/admin/login-methods", "/admin/login", "/login/oidc"])
async def test_with_a_rebound_name_the_page_is_refused_too(open_port, path):
    _, client = await open_port()
    answer = await client.get(path, headers={"Host": "evil.example"})
    assert await code_of(answer) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "target",
    [b"/assets/../admin/keys", b"/assets/%2e%2e/admin/keys", b"/assets/..%2fadmin/keys", b"//admin/keys",
    b"/./admin/keys",
     b"/login/../admin/keys", b"/admin/keys;/assets/", b"/%61dmin/keys", b"/admin/login/../keys",
     b"/admin/login%2f..%2fkeys", b"http://127.0.0.1:9090/admin/keys", b"http://127.0.0.1:9090/assets/../admin/keys"],
)  # fmt: skip
async def test_no_spelling_of_a_path_leads_round_the_guard(open_port, target):
    port, client = await open_port()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1:9090\r\n\r\n")
    assert (await reader.readline()).split()[1] in {b"400", b"401", b"404", b"405"}
    writer.close()
    assert port.calls == []


async def test_two_host_headers_are_refused(open_port):
    _, client = await open_port()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:9090\r\nHost: evil.example\r\n\r\n")
    assert (await reader.readline()).split()[1] in {b"400", b"403"}
    writer.close()


async def test_cookies_of_a_page_with_an_https_address_are_for_https_only(open_port):
    _, client = await open_port({"url": "https://pool.example.com"})
    for host, secure in (("pool.example.com", True), ("127.0.0.1:9090", False)):
        headers = {"Host": host, "Origin": f"https://{host}"}
        answer = await client.post("/admin/login", json={"token": TOKEN}, headers=headers)
        assert answer.headers["Set-Cookie"].endswith("; Secure") is secure


async def test_a_page_behind_a_proxy_that_changes_the_host_is_known_by_its_url(open_port):
    _, client = await open_port({"url": "https://pool.example.com"})
    good = {"Host": "127.0.0.1:9090", "Origin": "https://pool.example.com", "Sec-Fetch-Site": "same-origin"}
    secret, _ = await log_in(client, headers=good)
    assert (await client.get("/admin/keys", headers={**cookie(secret), **good})).status == 200
    assert (await client.get("/", headers={"Host": "pool.example.com"})).status == 200
    for origin in ("https://pool.example.com.evil.example", "http://pool.example.com", "https://pool.example.com:8443"):
        answer = await client.get("/admin/keys", headers={**cookie(secret), **good, "Origin": origin})
        assert answer.status == 403


async def test_without_a_dashboard_there_are_no_logins_and_the_token_works(open_port):
    _, client = await open_port({"enabled": False})
    methods = await (await client.get("/admin/login-methods")).json()
    assert methods == {"signed_in": False, "token": False, "oidc": None, "header": False}
    answer = await client.post("/admin/login", json={"token": TOKEN}, headers=OWN)
    assert await code_of(answer) == (404, "not_found")
    assert (await client.get("/admin/keys", headers=BEARER)).status == 200


# ---- guessing


async def test_an_address_that_guesses_has_to_wait_and_others_have_not(open_port):
    _, client = await open_port(trusted_proxies=["127.0.0.1"])
    guess = {"token": "a-guess"}
    attacker, holder = {**OWN, "X-Forwarded-For": "192.0.2.7"}, {**OWN, "X-Forwarded-For": "192.0.2.8"}
    for _ in range(10):
        assert await code_of(await client.post("/admin/login", json=guess, headers=attacker)) == (401, "login_failed")
    answer = await client.post("/admin/login", json={"token": TOKEN}, headers=attacker)
    assert await code_of(answer) == (429, "too_many_logins")
    assert 50 <= int(answer.headers["Retry-After"]) <= 61
    # What the attacker writes into the header itself does not change where the call came from.
    lying = {**attacker, "X-Forwarded-For": "192.0.2.9, 192.0.2.7"}
    assert (await client.post("/admin/login", json=guess, headers=lying)).status == 429
    await log_in(client, headers=holder)
    assert (await client.get("/admin/keys", headers={**BEARER, **attacker})).status == 200


async def test_right_tokens_are_no_failures(open_port):
    _, client = await open_port()
    for _ in range(15):
        await log_in(client)


@pytest.mark.parametrize(
    "body", [{}, {"token": TOKEN, "code": "x"}, {"token": ""}, {"user": "x"}, {"token": "x" * 1025}]
)
async def test_a_login_names_one_proof(open_port, body):
    _, client = await open_port()
    assert await code_of(await client.post("/admin/login", json=body, headers=OWN)) == (400, "bad_request")


# ---- one-time links


async def test_a_link_logs_in_once(open_port):
    port, client = await open_port()
    code = await port.links.new("jane@host")
    assert 0 < await port.store.client.ttl((await port.store.client.keys("*code*"))[0]) <= 60
    _, told = await log_in(client, code=code)
    assert (told["actor"], told["role"], told["by"]) == ("jane@host", "operator", "link")
    again = await client.post("/admin/login", json={"code": code}, headers=OWN)
    assert await code_of(again) == (401, "login_failed")
    assert await port.store.client.keys("*code*") == []


async def test_of_many_that_use_a_link_at_once_one_gets_in(open_port):
    port, client = await open_port()
    code = await port.links.new("jane@host")
    answers = await asyncio.gather(*(client.post("/admin/login", json={"code": code}, headers=OWN) for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [200, *[401] * 7]


@pytest.mark.parametrize("code", ["x", "C" * 43, "*" * 43, "../code", "\x00" * 43])
async def test_a_code_that_nobody_made_is_refused(open_port, code):
    _, client = await open_port()
    answer = await client.post("/admin/login", json={"code": code}, headers=OWN)
    assert await code_of(answer) == (401, "login_failed")


# ---- who is in


async def test_a_session_can_be_ended_by_another_and_a_stream_notices(open_port):
    _, client = await open_port()
    one, told = await log_in(client)
    two, _ = await log_in(client)
    rows = (await (await client.get("/admin/logins", headers=cookie(one))).json())["logins"]
    assert [row["current"] for row in rows].count(True) == 1
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    assert one not in str(rows)
    other = next(row["id"] for row in rows if not row["current"])
    change = {**cookie(one), "X-Quotapool-CSRF": told["csrf"]}
    assert (await client.delete(f"/admin/logins/{other}", headers=change)).status == 200
    assert (await client.get("/admin/keys", headers=cookie(two))).status == 401
    assert await code_of(await client.delete(f"/admin/logins/{other}", headers=change)) == (404, "not_found")


async def test_a_viewer_sees_and_ends_its_own_sessions_only(open_port):
    oidc = {"issuer": "https://login.example.com", "client_id": "pool", "viewers": ["staff"]}
    port, client = await open_port({"oidc": oidc})
    now, source, own = time.time(), source_of(port.settings.dashboard.oidc), [new_secret(), new_secret()]
    for secret in own:
        joe = Session("joe", "viewer", "oidc", "", now, now + 60, values=("staff",), source=source)
        await port.sessions.start(joe, secret)
    operator, _ = await log_in(client)
    everybody = (await (await client.get("/admin/logins", headers=cookie(operator))).json())["logins"]
    rows = (await (await client.get("/admin/logins", headers=cookie(own[0]))).json())["logins"]
    assert (len(everybody), [row["actor"] for row in rows]) == (3, ["joe", "joe"])
    csrf = (await (await client.get("/admin/session", headers=cookie(own[0]))).json())["csrf"]
    change = {**cookie(own[0]), "X-Quotapool-CSRF": csrf}
    others = next(row["id"] for row in everybody if row["actor"] != "joe")
    assert await code_of(await client.delete(f"/admin/logins/{others}", headers=change)) == (404, "not_found")
    mine = next(row["id"] for row in rows if not row["current"])
    assert (await client.delete(f"/admin/logins/{mine}", headers=change)).status == 200
    assert (await client.get("/admin/keys", headers=cookie(own[1]))).status == 401


async def test_a_long_answer_can_ask_whether_its_caller_may_still_see_it(open_port):
    port, client = await open_port()
    secret, _ = await log_in(client)
    await client.get("/admin/pool", headers=cookie(secret))
    request = port.calls[-1][1].request
    assert await request.app[STILL_VALID](request) is True
    ((name, _),) = await port.sessions.all(time.time())
    await port.sessions.end(name)
    assert await request.app[STILL_VALID](request) is False
    await client.get("/admin/pool", headers=BEARER)
    request = port.calls[-1][1].request
    assert await request.app[STILL_VALID](request) is True


async def test_sessions_of_one_are_bounded_and_others_stay(open_port):
    port, _ = await open_port()
    now = time.time()
    await port.sessions.start(Session("joe", "viewer", "oidc", "", now, now + 30), new_secret())
    for n in range(60):
        await port.sessions.start(Session("jane", "viewer", "oidc", "", now, now + 60 + n), new_secret())
    actors = [session.actor for _, session in await port.sessions.all(now)]
    assert (actors.count("jane"), actors.count("joe")) == (50, 1)


# ---- an identity-aware proxy before the port


HEADER = {"trusted_header": {"from": ["127.0.0.1"], "operators": ["jane@example.com"], "viewers": ["*@example.com"]}}


async def test_a_trusted_proxys_word_is_taken(open_port):
    port, client = await open_port(HEADER)
    jane, joe = {**OWN, "X-Forwarded-User": "jane@example.com"}, {**OWN, "X-Forwarded-User": "joe@example.com"}
    told = await (await client.get("/admin/session", headers=jane)).json()
    assert (told["actor"], told["role"], told["by"], told["expires_at"]) == (
        "jane@example.com",
        "operator",
        "header",
        None,
    )
    assert (await client.get("/admin/keys", headers=joe)).status == 200
    # The proxy's own cookie is sent by the browser unasked, so a change needs a token here too.
    assert await code_of(await client.post("/admin/keys/a/disable", headers=jane)) == (403, "csrf_wanted")
    change = {"X-Quotapool-CSRF": told["csrf"]}
    assert (await client.post("/admin/keys/a/disable", headers={**jane, **change})).status == 200
    assert port.calls[-1][1].actor.name == "jane@example.com"
    assert await code_of(await client.post("/admin/keys/a/disable", headers={**joe, **change})) == (403, "csrf_wanted")


async def test_a_viewer_may_look_and_not_change(open_port):
    port, client = await open_port(HEADER)
    joe = {**OWN, "X-Forwarded-User": "joe@example.com"}
    csrf = (await (await client.get("/admin/session", headers=joe)).json())["csrf"]
    answer = await client.post("/admin/keys/a/disable", headers={**joe, "X-Quotapool-CSRF": csrf})
    assert await code_of(answer) == (403, "role_not_enough")
    assert port.calls == []
    (line,) = port.audit_lines()
    assert (line["actor"], line["action"], line["subject"], line["result"]) == (
        "joe@example.com", "disable_key", "k/a", "role_not_enough",
    )  # fmt: skip


async def test_from_elsewhere_the_header_is_nothing(open_port):
    dashboard = {"trusted_header": {**HEADER["trusted_header"], "from": ["192.0.2.0/24"]}}
    _, client = await open_port(dashboard)
    lying = {**OWN, "X-Forwarded-User": "jane@example.com", "X-Forwarded-For": "192.0.2.1"}
    assert await code_of(await client.get("/admin/keys", headers=lying)) == (401, "admin_token_wanted")


@pytest.mark.parametrize("value", ["jane@example.com, joe@example.com", "", "jane@example.com\tx", "j" * 129])
async def test_a_header_that_names_no_one_person_is_refused(open_port, value):
    _, client = await open_port(HEADER)
    answer = await client.get("/admin/keys", headers={**OWN, "X-Forwarded-User": value})
    assert await code_of(answer) == (403, "identity_unclear")


async def test_two_headers_are_refused(open_port):
    _, client = await open_port(HEADER)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = b"GET /admin/keys HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-User: joe@example.com\r\n"
    writer.write(head + b"x-forwarded-user: jane@example.com\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"403"
    writer.close()


async def test_who_is_in_no_list_is_told_so_and_may_use_the_token(open_port):
    _, client = await open_port(HEADER)
    stranger = {"X-Forwarded-User": "mallory@elsewhere.example"}
    answer = await client.get("/admin/keys", headers={**OWN, **stranger})
    assert await code_of(answer) == (403, "no_role")
    assert "mallory@elsewhere.example" in (await answer.json())["error"]["message"]
    secret, _ = await log_in(client, headers={**OWN, **stranger})
    assert (await client.get("/admin/keys", headers={**cookie(secret), **stranger})).status == 200


# ---- roles that change while somebody is in


async def test_a_role_is_that_of_the_patterns_of_today(open_port):
    oidc = {"issuer": "https://login.example.com", "client_id": "pool", "operators": ["ops"], "viewers": ["all"]}
    port, client = await open_port({"oidc": oidc})
    secret, now = new_secret(), time.time()
    session = Session("jane@example.com", "operator", "oidc", "", now, now + 60, values=("ops", "all"),
                      source=source_of(port.settings.dashboard.oidc))  # fmt: skip
    await port.sessions.start(session, secret)

    async def role():
        answer = await client.get("/admin/session", headers=cookie(secret))
        return (await answer.json()).get("role") if answer.status == 200 else answer.status

    def configure(**changed):
        dashboard = {"oidc": {**oidc, **changed}} if changed != {"none": True} else {}
        port.settings = Settings.model_validate({"state_dir": port.settings.state_dir, "dashboard": dashboard})

    assert await role() == "operator"
    configure(operators=["admins"])
    assert await role() == "viewer"
    configure(operators=[], viewers=[])
    assert await role() == 401
    configure(client_id="another")
    assert await role() == 401
    configure(none=True)
    assert await role() == 401


async def test_while_the_store_is_away_a_cookie_is_no_proof_and_the_token_is(aiohttp_client, tmp_path):
    port = operators_port(f"unix://{tmp_path}/nowhere.sock", tmp_path)
    client = await aiohttp_client(port.app(), cookie_jar=DummyCookieJar())
    answer = await client.get("/admin/keys", headers=cookie("D" * 43))
    assert await code_of(answer) == (503, "store_unavailable")
    answer = await client.post("/admin/login", json={"token": TOKEN}, headers=OWN)
    assert await code_of(answer) == (503, "store_unavailable")
    assert (await client.get("/admin/keys", headers=BEARER)).status == 200
    await port.store.close()


async def test_the_page_can_ask_whether_its_browser_is_signed_in(open_port):
    _, client = await open_port()
    path = "/admin/login-methods"
    assert (await (await client.get(path)).json())["signed_in"] is False
    assert (await (await client.get(path, headers=cookie("a" * 43))).json())["signed_in"] is False
    answer = await client.post("/admin/login", json={"token": TOKEN}, headers=OWN)
    secret = answer.cookies["quotapool_session"].value
    client.session.cookie_jar.clear()
    assert (await (await client.get(path)).json())["signed_in"] is False
    assert (await (await client.get(path, headers=cookie(secret))).json())["signed_in"] is True

"""Who may come in: client keys where there are any, else nothing that could be a stranger's web page."""

from __future__ import annotations

import time

import pytest
from quotapool.ledger.clients import digest
from quotapool.openai.refusal import Refusal
from quotapool.request.auth import ClientAuth

from tests.fakes.heads import head

KEY = "qp-0123456789abcdef0123456789"


def gate(**more) -> ClientAuth:
    made = ClientAuth()
    made.configure(**{"clients": {}, "hosts": (), "origins": (), "allow_anonymous": False, **more})
    return made


def closed() -> ClientAuth:
    return gate(clients={digest(KEY): "alice"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"api-key": KEY},
        {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}"},
    ],
)
def test_a_client_key_is_found_where_sdks_put_it(headers):
    assert closed().enter(head(headers)) == "alice"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "missing_proxy_key"),
        ({"Authorization": f"Basic {KEY}"}, 401, "missing_proxy_key"),
        ({"Authorization": "Bearer "}, 401, "missing_proxy_key"),
        ({"Authorization": "Bearer qp-somebody-elses-key"}, 401, "invalid_proxy_key"),
        ({"Authorization": "Bearer sk-proj-an-openai-key"}, 401, "openai_key_sent"),
        ({"Authorization": "Bearer \udcff\udcfe"}, 401, "invalid_proxy_key"),
    ],
)
def test_anything_else_is_refused_with_a_reason(headers, status, code):
    with pytest.raises(Refusal) as refused:
        closed().enter(head(headers))
    assert (refused.value.status, refused.value.error.code) == (status, code)


def test_a_key_that_was_revoked_is_not_remembered():
    made = closed()
    headers = head({"Authorization": f"Bearer {KEY}"})
    assert made.enter(headers) == "alice"
    made.configure(clients={digest("another-key-0000"): "bob"}, hosts=(), origins=(), allow_anonymous=False)
    with pytest.raises(Refusal):
        made.enter(headers)


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("expiry", "code"), [({"alice": NOW}, "client_expired"), ({"alice": NOW + 1}, ""), ({"bob": NOW}, "")]
)
def test_a_client_whose_day_has_come_is_refused_and_no_other(monkeypatch, expiry, code):
    monkeypatch.setattr(time, "time", lambda: NOW)
    made, headers = gate(clients={digest(KEY): "alice"}, expiry=expiry), head({"Authorization": f"Bearer {KEY}"})
    if not code:
        assert made.enter(headers) == "alice"
        return
    with pytest.raises(Refusal) as refused:
        made.enter(headers)
    assert (refused.value.status, refused.value.error.code) == (403, code)


def test_a_key_that_was_replaced_is_served_until_its_second_and_never_remembered(monkeypatch):
    headers = head({"Authorization": f"Bearer {KEY}"})
    made = gate(clients={digest(KEY): "alice", digest("the-new-key-00000"): "alice"}, old_keys={digest(KEY): NOW + 60})
    monkeypatch.setattr(time, "time", lambda: NOW + 59)
    assert made.enter(headers) == made.client_of(headers) == "alice"
    monkeypatch.setattr(time, "time", lambda: NOW + 60)
    assert made.client_of(headers) == ""
    with pytest.raises(Refusal) as refused:
        made.enter(headers)
    assert refused.value.error.code == "invalid_proxy_key"
    assert made.enter(head({"Authorization": "Bearer the-new-key-00000"})) == "alice"


def test_refused_tokens_are_not_remembered_at_all():
    made = closed()
    for n in range(100):
        with pytest.raises(Refusal):
            made.enter(head({"Authorization": f"Bearer {'x' * 1000}{n}"}))
    assert made._seen == {}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "127.0.0.1:8080"}, ""),
        ({"Host": "localhost"}, ""),
        ({"Host": "LocalHost:1"}, ""),
        ({"Host": "[::1]:8080"}, ""),
        ({"Host": "proxy.example:8080"}, ""),
        ({"Host": "evil.example:8080"}, "host_not_allowed"),
        ({"Host": "127.0.0.1.evil.example"}, "host_not_allowed"),
        ({"Host": "evil.example:80@127.0.0.1:8080"}, "host_not_allowed"),
        ({"Host": ""}, "host_not_allowed"),
        ({}, "host_not_allowed"),
        ({"Host": "127.0.0.1", "Origin": "https://page.example"}, ""),
        ({"Host": "127.0.0.1", "Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Host": "127.0.0.1", "Origin": "null"}, "origin_not_allowed"),
        ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1:3000"}, "origin_not_allowed"),
    ],
)
def test_without_keys_only_what_no_web_page_can_send_comes_in(headers, code):
    made = gate(hosts=("proxy.example",), origins=("https://page.example",))
    if not code:
        assert made.enter(head(headers)) == ""
        return
    with pytest.raises(Refusal) as refused:
        made.enter(head(headers))
    assert (refused.value.status, refused.value.error.code) == (403, code)


def test_allowing_anyone_still_keeps_foreign_pages_out():
    made = gate(allow_anonymous=True)
    assert made.enter(head({"Host": "proxy.example"})) == ""
    with pytest.raises(Refusal):
        made.enter(head({"Host": "proxy.example", "Origin": "https://evil.example"}))


@pytest.mark.parametrize(
    ("site", "enters"),
    [("cross-site", False), ("same-site", False), ("something new", False), ("none", True), ("same-origin", True)],
)
def test_without_keys_nothing_enters_that_a_strangers_page_makes_a_browser_fetch_without_an_origin(site, enters):
    """`<img src=http://127.0.0.1:8080/v1/...>`, a link, a script: Fetch Metadata §2.2."""
    headers = head({"Host": "127.0.0.1:8080", "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"})
    for anonymous in (False, True):
        made = gate(allow_anonymous=anonymous)
        if enters:
            made.enter(headers)
        else:
            with pytest.raises(Refusal) as refused:
                made.enter(headers)
            assert (refused.value.status, refused.value.error.code) == (403, "origin_not_allowed")


def test_a_page_of_an_allowed_origin_enters_from_its_own_site_and_a_key_from_anywhere():
    page = {"Host": "127.0.0.1", "Origin": "https://page.example", "Sec-Fetch-Site": "cross-site"}
    gate(origins=["https://page.example"]).enter(head(page))
    assert closed().enter(head({"Sec-Fetch-Site": "cross-site", "Authorization": f"Bearer {KEY}"})) == "alice"

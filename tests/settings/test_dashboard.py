"""Options about logins: what is refused, what is warned of, and what no worker gets."""

from __future__ import annotations

import sys

import pytest
from quotapool.keys.keyring import secrets_in
from quotapool.settings import RESTART_ONLY, changed_sections, for_workers, from_wire, to_wire

OIDC = "dashboard: {oidc: {issuer: https://login.example.com, client_id: pool, client_secret: '%s', operators: [ops]}}"
SECRET = "canary-of-the-client-0001"


def test_without_any_option_the_token_logs_in_for_twelve_hours(load_yaml):
    dashboard = load_yaml().dashboard
    assert (dashboard.enabled, dashboard.session, dashboard.url) == (True, 43_200, None)
    assert (dashboard.oidc, dashboard.trusted_header) == (None, None)


def test_the_client_secret_is_redacted_and_no_worker_gets_it(load_yaml):
    settings = load_yaml(OIDC % "${SECRET}", {"SECRET": SECRET, "OPENAI_API_KEYS": "sk-proj-one"})
    assert SECRET not in repr(settings) + settings.model_dump_json()
    assert SECRET in list(secrets_in(settings, ""))
    assert SECRET.encode() in to_wire(settings)
    assert SECRET.encode() not in to_wire(for_workers(settings))
    assert b"login.example.com" not in to_wire(for_workers(settings))
    assert changed_sections(settings, from_wire(to_wire(settings))) == set()


def test_a_client_secret_in_the_file_is_advised_against(load_yaml):
    (warning,) = load_yaml(OIDC % SECRET).warnings
    assert "dashboard.oidc.client_secret: this secret is in the file itself" in warning


def header(**options: str) -> str:
    written = {"from": "[10.0.0.1]", "operators": "[jane]", **options}
    return f"dashboard: {{trusted_header: {{{', '.join(f'{n}: {v}' for n, v in written.items() if v)}}}}}"


def test_a_trusted_header_is_believed_from_networks(load_yaml):
    found = load_yaml(header(**{"from": "[10.0.0.1, 10.1.0.0/16, '::1']"})).dashboard.trusted_header
    assert found.sources == ("10.0.0.1/32", "10.1.0.0/16", "::1/128")
    assert found.name == "X-Forwarded-User"


@pytest.mark.parametrize(
    ("yaml", "why"),
    [
        (header(**{"from": "[]"}), "dashboard.trusted_header.from"),
        (header(**{"from": ""}), "dashboard.trusted_header.from"),
        (header(**{"from": "[everywhere]"}), "must be an IP address or a network"),
        (header(name="Authorization"), "must be the name of the header"),
        (header(name="'X Forwarded'"), "must be the name of the header"),
        (header(operators="['']"), "operators"),
        ("dashboard: {session: 1s}", "dashboard.session"),
        ("dashboard: {session: 31d}", "dashboard.session"),
        ("dashboard: {url: pool.example.com}", "must be an http:// or https:// URL"),
        ("dashboard: {url: https://pool.example.com/here}", "must not have a path"),
        ("dashboard: {url: 'https://user@pool.example.com'}", "without a user"),
        ("dashboard: {url: 'https://pool.example.com?x=1'}", "without a user, a query"),
        ("dashboard: {oidc: {issuer: http://login.example.com, client_id: x}}", "must be https://"),
        ("dashboard: {oidc: {issuer: https://login.example.com}}", "client_id"),
        ("dashboard: {oidc: {issuer: https://l.example.com, client_id: x, scopes: [email]}}", "must contain openid"),
        (
            "dashboard: {oidc: {issuer: https://l.example.com, client_id: x, scopes: ['openid email']}}",
            "must be a scope",
        ),
        ("dashboard: {oidcc: {}}", "oidc"),
    ],
)
def test_what_cannot_be_meant_is_refused(refusal, yaml, why):
    assert why in refusal(yaml)


def test_without_the_package_oidc_is_refused_and_the_package_named(refusal, monkeypatch):
    monkeypatch.setitem(sys.modules, "joserfc", None)
    assert "pip install 'quotapool[oidc]'" in refusal(OIDC % "${OPENAI_API_KEYS}")


def test_an_issuer_on_this_machine_may_do_without_tls(load_yaml):
    yaml = "dashboard: {oidc: {issuer: http://127.0.0.1:5556/dex, client_id: x, operators: [ops]}}"
    assert load_yaml(yaml).dashboard.oidc.issuer == "http://127.0.0.1:5556/dex"


@pytest.mark.parametrize(
    ("yaml", "warning"),
    [
        (header(**{"from": "[127.0.0.1]"}), "every user and process of this machine can claim to be anybody"),
        (header(**{"from": "['::1']"}), "every user and process of this machine"),
        (header(operators=""), "nobody may log in that way"),
        ("dashboard: {oidc: {issuer: https://login.example.com, client_id: x}}", "nobody may log in that way"),
    ],
)
def test_what_may_not_be_meant_is_warned_of(load_yaml, yaml, warning):
    assert any(warning in one for one in load_yaml(yaml).warnings)
    assert load_yaml(header()).warnings == ()


def test_who_may_log_in_takes_effect_without_a_restart():
    assert "dashboard" not in RESTART_ONLY

"""Options about traces, and OpenTelemetry's own variables in their place."""

from __future__ import annotations

import json

import pytest
from quotapool.keys.keyring import secrets_in
from quotapool.settings import ConfigError, Settings, for_workers, from_wire, load, to_wire
from quotapool.settings import traces as options

ENV = {"OPENAI_API_KEY": "sk-proj-alpha", "HOME": "/home/op"}
BASE, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
TOKEN = "Basic dXNlcjpwYXNzd29yZA=="


def settings(**env: str) -> Settings:
    return load(None, env={**ENV, **env})


def written(tmp_path, text: str, **env: str) -> Settings:
    file = tmp_path / "quotapool.yaml"
    file.write_text(text)
    return load(file, env={**ENV, **env})


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://otlp.example.com/", "https://otlp.example.com/v1/traces"),
        ("https://api.example.com/api/public/otel/v1/traces", "https://api.example.com/api/public/otel/v1/traces"),
    ],
)
def test_a_collectors_address_needs_no_path(tmp_path, endpoint, url):
    assert written(tmp_path, f"traces: {{endpoint: '{endpoint}'}}\n").traces.url == url


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("{endpoint: 'localhost:4318'}", "must be the http:// or https:// URL"),
        ("{endpoint: 'grpc://localhost:4317'}", "must be the http:// or https:// URL"),
        ("{endpoint: 'http://user:password@collector'}", "traces.headers"),
        ("{endpoint: 'http://a/?key=b'}", "query"),
        ("{endpoint: 'http://a:b'}", "must be the http:// or https:// URL"),
        ("{ratio: 1.5}", "at most 1"),
        ("{ratio: -1}", "at least 0"),
        ("{headers: {'a b': c}}", "name of a header"),
        ('{headers: {a: "b\\nc"}}', "one line"),
        ("{sample_rate: 0.1}", "ratio"),
        ("{service_name: x}", "service"),
        ("on", "mapping"),
    ],
)
def test_what_cannot_be_is_refused_without_its_value(tmp_path, value, says):
    with pytest.raises(ConfigError) as refused:
        written(tmp_path, f"traces: {value}\n")
    assert says in str(refused.value)
    assert "password" not in str(refused.value)


def test_without_a_word_about_them_there_are_none():
    assert settings().traces.endpoint is None
    assert settings().traces.url == ""


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({BASE: "http://c:4318"}, "http://c:4318/v1/traces"),
        ({BASE: "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({BASE: "http://c/otlp"}, "http://c/otlp/v1/traces"),
        ({TRACES: "http://t:1/x", BASE: "http://c:4318"}, "http://t:1/x"),
        ({BASE: "http://c", "OTEL_SDK_DISABLED": "true"}, ""),
        ({BASE: "http://c", "OTEL_TRACES_EXPORTER": "none"}, ""),
        ({BASE: "http://c", "OTEL_TRACES_EXPORTER": "console,otlp"}, "http://c/v1/traces"),
        ({BASE: " "}, ""),
    ],
)
def test_opentelemetrys_variables_name_the_collector(env, url):
    assert settings(**env).traces.url == url


@pytest.mark.parametrize(
    ("env", "ratio"),
    [
        ({}, 0.01),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, 1.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.01),  # of no sampler
    ],
)
def test_and_the_ratio(env, ratio):
    assert settings(**{BASE: "http://c"}, **env).traces.ratio == ratio


def test_and_headers_and_what_describes_the_process():
    found = settings(
        **{BASE: "https://c"},
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Basic%20dXNlcjpwYXNzd29yZA==, x-tenant=acme",
        OTEL_EXPORTER_OTLP_COMPRESSION="GZIP",
        OTEL_RESOURCE_ATTRIBUTES="service.name=other,deployment.environment.name=prod",
        OTEL_SERVICE_NAME="pool-a",
    ).traces
    headers = {name: value.get_secret_value() for name, value in found.headers.items()}
    assert headers == {"authorization": TOKEN, "x-tenant": "acme"}
    assert (found.compression, found.service) == ("gzip", "pool-a")
    assert found.attributes == {"deployment.environment.name": "prod"}


def test_the_configuration_comes_first_and_gets_no_headers_of_another_collector(tmp_path):
    env = {BASE: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=b", "OTEL_SERVICE_NAME": "pool-a"}
    found = written(tmp_path, "traces: {endpoint: 'http://own:4318', ratio: 0.5}\n", **env).traces
    assert (found.url, found.ratio, found.headers, found.service) == ("http://own:4318/v1/traces", 0.5, {}, "pool-a")
    found = written(tmp_path, "traces: {ratio: 0.5, service: mine}\n", **env).traces
    assert (found.url, found.ratio, found.service) == ("http://c/v1/traces", 0.5, "mine")
    assert list(found.headers) == ["a"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (BASE, "localhost:4318"),
        (BASE, "http://user:a-secret@c:4318"),
        ("OTEL_TRACES_SAMPLER_ARG", "a-secret"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a-secret"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=a-secret%0Ain-two-lines"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate"),
        ("OTEL_RESOURCE_ATTRIBUTES", "two words=x"),
        ("OTEL_SERVICE_NAME", 300 * "x"),
    ],
)
def test_what_a_variable_says_wrongly_is_ignored_with_a_warning_and_without_its_value(variable, value):
    sampler = {"OTEL_TRACES_SAMPLER": "traceidratio"} if variable.endswith("_ARG") else {}
    found = settings(**{BASE: "http://c:4318"} | sampler | {variable: value})
    plain = settings(**{BASE: "" if variable == BASE else "http://c:4318"})
    assert found.traces == plain.traces
    (warning,) = found.warnings
    assert f"environment variable {variable}: " in warning
    assert "a-secret" not in warning


def test_what_is_right_in_a_list_counts_beside_what_is_wrong_or_empty():
    found = settings(OTEL_RESOURCE_ATTRIBUTES="team=,deployment.environment.name=prod")
    assert (found.traces.attributes, found.warnings) == ({"deployment.environment.name": "prod"}, ())
    found = settings(**{BASE: "https://c", "OTEL_EXPORTER_OTLP_HEADERS": "garbage,x-tenant=acme"})
    assert list(found.traces.headers) == ["x-tenant"]


def test_what_is_not_spoken_is_said_and_not_sent():
    found = settings(**{BASE: "http://c:4317"}, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert found.traces.endpoint is None
    assert any("grpc" in warning for warning in found.warnings)
    assert any("4317" in warning for warning in settings(**{BASE: "http://c:4317"}).warnings)


def test_without_the_packages_an_option_is_refused_and_a_variable_is_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'quotapool\[otel\]'"):
        written(tmp_path, "traces: {endpoint: 'http://localhost:4318'}\n")
    found = settings(**{BASE: "http://c"})
    assert found.traces.endpoint is None
    assert any("quotapool[otel]" in warning for warning in found.warnings)


def test_a_collectors_secret_is_one():
    found = settings(
        QUOTAPOOL_TRACES=json.dumps(
            {"endpoint": "https://c", "headers": {"authorization": TOKEN, "x-scope-orgid": "acme"}}
        )
    )
    assert TOKEN not in repr(found)
    assert TOKEN not in found.model_dump_json()
    secrets = set(secrets_in(found, ""))
    assert {TOKEN, TOKEN.removeprefix("Basic ")} <= secrets
    assert "acme" not in secrets  # else each `acme` in a log would be masked
    assert from_wire(to_wire(for_workers(found))).traces == found.traces


def test_a_secret_in_the_file_itself_gives_a_warning(tmp_path):
    found = written(tmp_path, f"traces: {{endpoint: 'https://c', headers: {{authorization: '{TOKEN}'}}}}\n")
    assert any("traces.headers.authorization" in warning for warning in found.warnings)
    assert not any(TOKEN in warning for warning in found.warnings)


def test_secrets_over_plain_http_give_a_warning():
    remote = settings(**{BASE: "http://c"}, OTEL_EXPORTER_OTLP_HEADERS="a=b")
    assert any("unencrypted" in warning for warning in remote.warnings)
    local = settings(**{BASE: "http://localhost:4318"}, OTEL_EXPORTER_OTLP_HEADERS="a=b")
    assert not any("unencrypted" in warning for warning in local.warnings)

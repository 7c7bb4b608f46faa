"""The forward proxy: its option, the environment, which hosts are reached directly, and its secrecy."""

from __future__ import annotations

import pytest
from quotapool.keys.keyring import secrets_in
from quotapool.settings import ConfigError, Settings, for_workers, from_wire, load, to_wire

OPENAI = "https://api.openai.com"
LOCAL = "http://vllm.internal:8000"
ENV = {"OPENAI_API_KEY": "sk-proj-alpha", "HOME": "/home/op"}
PROXY = "http://jane:s%40cret-word@proxy.corp:3128"


def settings(**env: str) -> Settings:
    return load(None, env={**ENV, **env})


def test_given_as_a_url_it_is_used_for_every_upstream():
    found = settings(QUOTAPOOL_UPSTREAM_PROXY=PROXY)
    assert found.proxy_for(OPENAI) == PROXY
    assert found.proxy_for(LOCAL) == PROXY


def test_given_by_scheme_each_has_its_own(tmp_path):
    file = tmp_path / "quotapool.yaml"
    file.write_text("upstream_proxy: {https: 'http://a:1', no_proxy: [azure.example]}\n")
    found = load(file, env={**ENV, "https_proxy": "http://b:2", "no_proxy": "*"})
    assert found.proxy_for(OPENAI) == "http://a:1"
    assert found.proxy_for(LOCAL) is None
    assert found.proxy_for("https://east.azure.example") is None


def test_without_one_upstream_is_reached_directly():
    assert settings().proxy_for(OPENAI) is None


@pytest.mark.parametrize(
    ("env", "https", "http"),
    [
        ({"HTTPS_PROXY": "http://a:1"}, "http://a:1", None),
        ({"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://a:1", None),
        ({"https_proxy": " ", "HTTPS_PROXY": "http://b:2"}, "http://b:2", None),
        ({"http_proxy": "http://a:1"}, None, "http://a:1"),
        ({"HTTP_PROXY": "http://a:1"}, None, None),  # curl: a header `Proxy:` becomes this variable in CGI
        ({"ALL_PROXY": "http://a:1"}, "http://a:1", "http://a:1"),
        ({"all_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, "http://b:2", "http://a:1"),
        ({"HTTPS_PROXY": "a"}, "http://a:1080", None),  # curl(1): the default port is 1080
    ],
)
def test_the_environment_is_read_as_curl_reads_it(env, https, http):
    found = settings(**env)
    assert (found.proxy_for(OPENAI), found.proxy_for(LOCAL)) == (https, http)


def test_the_configuration_overrides_the_environment_and_direct_means_none():
    assert settings(HTTPS_PROXY="http://a:1", QUOTAPOOL_UPSTREAM_PROXY="http://b:2").proxy_for(OPENAI) == "http://b:2"
    assert settings(HTTPS_PROXY="http://a:1", QUOTAPOOL_UPSTREAM_PROXY="direct").proxy_for(OPENAI) is None


@pytest.mark.parametrize(
    ("listed", "upstream", "direct"),
    [
        ("*", OPENAI, True),
        ("openai.com", OPENAI, True),
        (".openai.com", OPENAI, True),
        ("OpenAI.com", OPENAI, True),
        ("penai.com", OPENAI, False),
        ("api.openai.com.", OPENAI, True),
        ("api.openai.com", "https://api.openai.com.evil.example", False),
        ("localhost, openai.com", OPENAI, True),
        ("localhost openai.com", OPENAI, True),
        ("10.0.0.0/8", "https://10.1.2.3:8443", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("fd00::/8", "https://[fd12::1]", True),
        ("[fd12::1]", "https://[fd12::1]", True),
        ("1.2.3", "https://10.1.2.3", False),  # an address has no names below it
        ("", OPENAI, False),
    ],
)
def test_no_proxy_names_the_hosts_that_are_reached_directly(listed, upstream, direct):
    found = settings(HTTPS_PROXY="http://a:1", NO_PROXY=listed)
    assert (found.proxy_for(upstream) is None) == direct


@pytest.mark.parametrize(
    "wrong",
    [
        "https://jane:s3cret@proxy.corp:3128",
        "socks5://jane:s3cret@proxy.corp:1080",
        "http://jane:s3cret@proxy.corp:3128/path",
        "http://jane:s3cret@proxy.corp:99999",
        "http://jane:s3cret@:3128",
        "http://jane:s3cret@proxy corp:3128",
    ],
)
@pytest.mark.parametrize("option", ["QUOTAPOOL_UPSTREAM_PROXY", "HTTPS_PROXY"])
def test_a_proxy_that_cannot_be_used_is_refused_at_the_start_without_its_password(option, wrong):
    """To go out directly instead would be what the operator did not want."""
    with pytest.raises(ConfigError) as refused:
        settings(**{option: wrong})
    assert "upstream_proxy" in str(refused.value)
    assert option in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_its_login_is_a_secret():
    found = settings(HTTPS_PROXY=PROXY)
    for text in (repr(found), str(found), found.model_dump_json()):
        assert "cret-word" not in text
    # As it is written, as it is meant, and as the header carries it: base64 of jane:s@cret-word.
    assert {"s%40cret-word", "s@cret-word", "amFuZTpzQGNyZXQtd29yZA=="} <= set(secrets_in(found, ""))


def test_workers_get_it_over_the_pipe():
    found = settings(HTTPS_PROXY=PROXY, NO_PROXY="internal")
    worker = from_wire(to_wire(for_workers(found)))
    assert worker.proxy_for(OPENAI) == PROXY
    assert worker.proxy_for("https://vllm.internal") is None

"""What an option's value may look like."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("30s", 30), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1m30s", 90), ("45", 45), ("0.25", 0.25), ("0", 0)],
)
def test_a_duration_is_kept_in_seconds(load_yaml, written, seconds):
    assert load_yaml(f"queue: {{max_wait: {written}}}").queue.max_wait == seconds


@pytest.mark.parametrize("written", ["soon", "5 parsecs", "30sx", "-1s", "-1", "true", ".inf", ".nan", "[1]", "null"])
def test_what_is_not_a_duration_is_refused(refusal, written):
    assert refusal(f"queue:\n  max_wait: {written}").startswith("quotapool.yaml:2: queue.max_wait: ")


def test_a_timeout_of_nothing_is_refused_and_no_total_timeout_is_fine(refusal, load_yaml):
    assert "timeouts.connect: must be greater than 0" in refusal("timeouts: {connect: 0}")
    assert load_yaml("timeouts: {total: null}").timeouts.total is None
    assert load_yaml("timeouts: {total: 1h}").timeouts.total == 3600


@pytest.mark.parametrize(
    ("written", "size"), [("64MiB", 67_108_864), ("512KiB", 524_288), ("10MB", 10_000_000), ("1GiB", 2**30), ("9", 9)]
)
def test_a_size_is_kept_in_bytes(load_yaml, written, size):
    assert load_yaml(f"max_json_body: {written}").max_json_body == size


@pytest.mark.parametrize("written", ["big", "-1", "5 bananas", "true"])
def test_what_is_not_a_size_is_refused(refusal, written):
    assert "quotapool.yaml:1: max_json_body: must be a size" in refusal(f"max_json_body: {written}")


@pytest.mark.parametrize(
    ("written", "host", "port", "loopback"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.9.9.9:1", "127.9.9.9", 1, True),
        ('"[::1]:8080"', "::1", 8080, True),
        ("localhost:0", "localhost", 0, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ('"[::]:65535"', "::", 65535, False),
        ("proxy.internal:80", "proxy.internal", 80, False),
    ],
)
def test_an_address_is_host_and_port(load_yaml, written, host, port, loopback):
    address = load_yaml(f"listen: {written}").listen
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert str(address) == written.strip('"')


@pytest.mark.parametrize("written", ["8080", "127.0.0.1", '":8080"', '"::1:8080"', "127.0.0.1:http", "a b:80"])
def test_half_an_address_is_refused(refusal, written):
    assert "listen: must be host:port" in refusal(f"listen: {written}")


@pytest.mark.parametrize("port", ["65536", "123456789"])
def test_a_port_out_of_range_is_refused(refusal, port):
    assert "quotapool.yaml:1: listen: the port must be 0 to 65535" in refusal(f"listen: 127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("https://api.openai.com", "https://api.openai.com"),
        ("https://api.openai.com/v1", "https://api.openai.com"),
        ("https://API.openai.com/v1/", "https://api.openai.com"),
        ("http://127.0.0.1:9/", "http://127.0.0.1:9"),
        ("https://gate.example/openai/v1", "https://gate.example/openai"),
        ("https://gate.example/openai/", "https://gate.example/openai"),
        ("https://gate.example/notv1", "https://gate.example/notv1"),
    ],
)
def test_upstream_is_known_without_v1_and_with_its_prefix(load_yaml, written, kept):
    assert load_yaml(f"upstream: {written}").upstream == kept


@pytest.mark.parametrize(
    "written",
    [
        "api.openai.com",
        "ftp://api.openai.com",
        "https://",
        "https://user:pw@api.openai.com",
        "https://api.openai.com/v1?x=1",
        "https://api.openai.com:99999",
        '"https://[::1"',
        "5",
    ],
)
def test_what_is_not_an_upstream_url_is_refused(refusal, written):
    assert refusal(f"upstream: {written}").startswith("quotapool.yaml:1: upstream: ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://user:pw@localhost:6379/3",
        "rediss://cache.example:6380/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=2",
        "unix://user@/run/redis.sock",
        "redis+sentinel://:pw@s1:26379,s2:26379/mymaster/1",
        "rediss+sentinel://s1:26379/mymaster",
        "redis+cluster://n1:6379,n2:6379",
        "rediss+cluster://n1:6379/0",
        "valkey://localhost:6379/0",
        "valkeys+sentinel://s1:26379/mymaster",
    ],
)
def test_every_kind_of_redis_url_is_understood_and_hidden(load_yaml, url):
    settings = load_yaml(f'redis: "{url}"')
    assert settings.redis.get_secret_value() == url
    assert "localhost" not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "redis:localhost",
        "redis://",
        "redis://a,b",
        "redis://host/mymaster",
        "redis://host:99999",
        "unix://relative.sock",
        "unix+cluster:///s",
        "redis+sentinel://s1:26379",
        "redis+cluster://n1/4",
    ],
)
def test_what_no_store_supports_is_refused_without_repeating_it(refusal, url):
    message = refusal(f'redis: "{url}"')
    assert message.startswith("quotapool.yaml:1: redis: ")
    assert "mymaster" not in message


def test_the_pool_name_fits_a_hash_tag(load_yaml, refusal):
    assert load_yaml("pool: prod_1.eu-west").pool == "prod_1.eu-west"
    assert "pool: must be a name" in refusal("pool: '{prod}'")


def test_a_name_that_looks_like_a_secret_is_refused(refusal):
    assert "accounts" in (message := refusal("accounts: {sk-proj-abcdefghijklmnop: {}}"))
    assert "abcdefgh" not in message


@pytest.mark.parametrize("written", ["'*'", "null", "app.example.com", "https://app.example.com/path"])
def test_an_allowed_origin_is_one_web_site(refusal, written):
    assert "allowed_origins[0]: must be" in refusal(f"allowed_origins: [{written}]")


def test_origins_and_hosts_are_kept_as_browsers_send_them(load_yaml):
    settings = load_yaml("{allowed_origins: ['https://App.example.com/'], allowed_hosts: ['Proxy.internal:8080']}")
    assert settings.allowed_origins == ("https://app.example.com",)
    assert settings.allowed_hosts == ("proxy.internal:8080",)


def test_the_state_directory_is_the_users_own(load_yaml):
    assert load_yaml().state_dir == Path("/home/op/.local/state/quotapool")
    xdg = {"XDG_STATE_HOME": "/var/lib/op", "OPENAI_API_KEYS": "sk-a"}
    assert load_yaml(env=xdg).state_dir == Path("/var/lib/op/quotapool")
    relative = {"XDG_STATE_HOME": "state", "OPENAI_API_KEYS": "sk-a"}
    assert load_yaml(env=relative).state_dir == Path("/home/op/.local/state/quotapool")


def test_paths_are_relative_to_the_directory_of_their_file(load_yaml, tmp_path):
    assert load_yaml("state_dir: ./var").state_dir == tmp_path / "var"
    assert load_yaml("state_dir: ~/pool").state_dir == Path("/home/op/pool")
    env = {"OPENAI_API_KEYS": "sk-a", "QUOTAPOOL_STATE_DIR": "var"}
    assert load_yaml("state_dir: /elsewhere", env).state_dir == Path.cwd() / "var"


def test_a_path_is_told_without_dots_and_keeps_the_links_behind_them(load_yaml, tmp_path):
    (tmp_path / "real" / "conf").mkdir(parents=True)
    (tmp_path / "conf").symlink_to(tmp_path / "real" / "conf")
    (tmp_path / "real" / "var").symlink_to(tmp_path / "real" / "conf")
    assert load_yaml("state_dir: conf/../var").state_dir == tmp_path / "real" / "var"
    assert load_yaml("state_dir: ./conf/../../absent/../var").state_dir == tmp_path / "var"
    assert load_yaml(f"state_dir: {tmp_path}/conf").state_dir == tmp_path / "conf"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert load_yaml("state_dir: circle/../var").state_dir in {tmp_path / "circle" / ".." / "var", tmp_path / "var"}

"""Who may call: client keys made, listed and revoked while the proxy runs, and the rules where there are none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from redis import Redis

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import post_json, raw, reset, running_proxy, running_simulator, seen_upstream
from tests.fakes.valkey import free_port

OWN_TOKEN = "a-token-from-another-proxy"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(1) as running:
        yield running


@pytest.fixture(scope="module")
def open_proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """Without client keys, for one host name and one web page besides this machine."""
    config = pool_config(
        simulator, allowed_hosts=["quotapool.internal"], allowed_origins=["https://app.example.com"], workers=2
    )
    with running_proxy(tmp_path_factory.mktemp("open"), config) as running:
        yield running


@pytest.fixture(autouse=True)
def empty_log(simulator: Simulator) -> None:
    reset(simulator)


def add(proxy: RunningProxy, name: str, *more: str) -> dict[str, str]:
    """`quotapool clients add`: the two variables it prints."""
    done = proxy.command("clients", "add", name, *more)
    assert done.returncode == 0, done.stderr
    return dict(re.findall(r"^export (\w+)=(.*)$", done.stdout, re.MULTILINE))


def clients(proxy: RunningProxy) -> list[dict[str, str]]:
    return list(json.loads(proxy.command("clients", "list", "--json").stdout)["clients"])


def status(proxy: RunningProxy, key: str | None, **headers: str) -> int:
    authorization = {} if key is None else {"Authorization": f"Bearer {key}"}
    return raw(proxy.base_url, "GET", "/v1/models", {**authorization, **headers}).status


def test_the_life_of_a_client_key(simulator, tmp_path):
    with running_proxy(tmp_path, pool_config(simulator, workers=2)) as proxy:
        # Before the first key everybody on this machine may call.
        assert status(proxy, None) == 200

        # The printed pair is all that a client needs.
        printed = add(proxy, "backend")
        assert printed["OPENAI_BASE_URL"] == proxy.base_url
        wait_until(lambda: {status(proxy, None) for _ in range(6)} == {401}, "all workers want keys", 15)
        with OpenAI(base_url=printed["OPENAI_BASE_URL"], api_key=printed["OPENAI_API_KEY"], max_retries=0) as client:
            assert client.models.list().data
        assert clients(proxy)[0]["id"] == "backend"
        listed = proxy.command("clients", "list")
        assert "backend" in listed.stdout
        assert printed["OPENAI_API_KEY"] not in listed.stdout

        # A second one, of an existing token; the same name twice is refused.
        assert add(proxy, "batch", "--key", OWN_TOKEN)["OPENAI_API_KEY"] == "<the token you gave>"
        wait_until(lambda: {status(proxy, OWN_TOKEN) for _ in range(6)} == {200}, "the second key works", 15)
        again = proxy.command("clients", "add", "batch")
        assert (again.returncode, "exists" in again.stderr) == (2, True)

        # Requests are counted by client.
        wait_until(lambda: proxy.total("quotapool_requests_total", client="batch") > 0, "counted by client", 15)

        # Revoked, it stops working within a second, in every worker.
        assert proxy.command("clients", "revoke", "backend").returncode == 0
        wait_until(
            lambda: {status(proxy, printed["OPENAI_API_KEY"]) for _ in range(6)} == {401}, "the key is refused", 1.5
        )
        assert status(proxy, OWN_TOKEN) == 200
        assert proxy.command("clients", "revoke", "backend").returncode == 2
        assert [client["id"] for client in clients(proxy)] == ["batch"]


def refusal(proxy: RunningProxy, key: str, model: str = "gpt-4o-mini") -> str:
    """The code of the error that a chat request gets; "": it is served."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    answer = raw(proxy.base_url, "POST", "/v1/chat/completions", headers, body)
    return "" if answer.status == 200 else str(json.loads(answer.body)["error"]["code"])


def test_what_a_client_may_do_is_changed_while_it_is_served(simulator, tmp_path):
    def ran(*words: str) -> str:
        done = proxy.command("clients", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def soon(key: str, code: str, what: str, model: str = "gpt-4o-mini") -> None:
        wait_until(lambda: {refusal(proxy, key, model) for _ in range(6)} == {code}, what, 15)

    with running_proxy(tmp_path, pool_config(simulator, workers=2)) as proxy:
        made = proxy.command("clients", "add", "search", "--models", "gpt-4o-mini,o3*", "--title", "Zoë's search")
        assert "until now callers without a key were served" in made.stderr
        key = dict(re.findall(r"^export (\w+)=(.*)$", made.stdout, re.MULTILINE))["OPENAI_API_KEY"]
        soon(key, "", "it is served")
        soon(key, "model_not_allowed", "it may use some models only", "gpt-4o")
        ran("set", "search", "--models", "", "--weight", "2")
        soon(key, "", "it may use all models", "gpt-4o")

        ran("set", "search", "--expires-on", "2020-01-01")
        soon(key, "client_expired", "its day has come")
        ran("set", "search", "--expires-on", "")
        soon(key, "", "it has no day any more")

        ran("suspend", "search", "--reason", "a leaked key")
        soon(key, "client_suspended", "it is suspended")
        ran("resume", "search")
        soon(key, "", "it is resumed")

        new = dict(re.findall(r"^export (\w+)=(.*)$", ran("rotate", "search", "--overlap", "1h"), re.MULTILINE))
        soon(new["OPENAI_API_KEY"], "", "its new key works")
        assert refusal(proxy, key) == ""
        last = re.findall(r"^export OPENAI_API_KEY=(.*)$", ran("rotate", "search", "--overlap", "0"), re.MULTILINE)
        soon(last[0], "", "its newest key works")
        for old in (new["OPENAI_API_KEY"], key):
            soon(old, "invalid_proxy_key", "both workers know that it is over")

        row = json.loads(ran("show", "search", "--json"))
        assert (row["name"], row["weight"], row["models"], row["suspended"]) == ("Zoë's search", 2.0, [], None)
        for words, problem in (
            (("set", "search", "--priority", "urgent"), "priority: must be one of 'high', 'normal' or 'batch'"),
            (("set", "search", "--weight", "0"), "weight: must be greater than 0"),
            (("set", "search", "--expires-on", "tomorrow"), "expires_on: must be a day, such as 2026-12-31"),
            (("set", "search", "--max-wait", "soon"), "max_wait: must be a duration"),
            (("set", "nobody", "--weight", "2"), "no client 'nobody'"),
            (("add", "two words"), "NAME must be a name"),
            (("rotate", "search", "--overlap", "soon"), "--overlap must be a duration"),
            (("suspend", "nobody"), "no client 'nobody'"),
            (("rotate", "search", "--key", last[0]), "a client has that key already"),
            (("add", "other", "--key", last[0]), "a client has that key already"),
        ):
            failed = proxy.command("clients", *words)
            assert (failed.returncode, problem in failed.stderr) == (2, True), (words, failed.stderr)


def test_a_client_that_is_not_understood_is_refused_and_opens_nothing(simulator, valkey_url, tmp_path):
    with running_proxy(tmp_path, pool_config(simulator, redis=valkey_url, pool="later")) as proxy:
        record = {"hash": hashlib.sha256(OWN_TOKEN.encode()).hexdigest(), "added": 1, "options": {"quota": 1}}
        with Redis.from_url(valkey_url) as store:
            store.hset("qp:{later}:clients", "later", json.dumps(record))
            store.incr("qp:{later}:version")
        wait_until(lambda: status(proxy, None) == 401, "callers without a key stay out", 15)
        assert refusal(proxy, OWN_TOKEN) == "client_suspended"


def test_each_kind_of_wrong_key_is_told_apart(simulator, tmp_path):
    config = pool_config(simulator, clients=[{"id": "ours", "key": OWN_TOKEN}])
    with running_proxy(tmp_path, config) as proxy:
        for key, code in (
            (None, "missing_proxy_key"),
            ("qp-unknown-key-0123456789", "invalid_proxy_key"),
            (OWN_TOKEN + "x", "invalid_proxy_key"),
            (OWN_TOKEN[:-1], "invalid_proxy_key"),
            (OWN_TOKEN.upper(), "invalid_proxy_key"),
            ("sk-proj-abcdefghijklmnop", "openai_key_sent"),
            (simulator.secrets[0], "openai_key_sent"),
        ):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            answer = raw(proxy.base_url, "GET", "/v1/models", headers)
            assert (answer.status, answer.error["code"]) == (401, code)
            assert answer.error["type"] == "invalid_request_error"
            assert answer.header("x-should-retry") == "false"
        assert raw(proxy.base_url, "GET", "/v1/models", {"Authorization": "Basic dXNlcjpwdw=="}).status == 401
        assert seen_upstream(simulator) == []

        # The same key where Azure's SDK and browsers' WebSockets put it; and a page may call, since it holds a key.
        assert status(proxy, None, **{"api-key": OWN_TOKEN}) == 200
        protocols = f"realtime, openai-insecure-api-key.{OWN_TOKEN}"
        assert status(proxy, None, **{"Sec-WebSocket-Protocol": protocols}) == 200
        assert status(proxy, OWN_TOKEN, Host="anything.example", Origin="https://evil.example") == 200
        with OpenAI(base_url=proxy.base_url, api_key="sk-proj-x", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as raised:
                client.models.list()
            assert "client key" in raised.value.message


@pytest.mark.parametrize(("headers", "expected"), [
    ({}, 200),
    ({"Host": "localhost:1234"}, 200),
    ({"Host": "[::1]:8080"}, 200),
    ({"Host": "QuotaPool.internal"}, 200),
    ({"Host": "quotapool.internal:9999"}, 200),
    ({"Host": "rebound.evil.example"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Host": "quotapool.internal.evil.example"}, 403),
    ({"Host": ""}, 403),
    ({"Origin": "https://app.example.com"}, 200),
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "http://app.example.com"}, 403),
    ({"Origin": "http://localhost:3000"}, 403),
    ({"Origin": "null"}, 403),
])  # fmt: skip
def test_without_keys_no_web_page_can_spend_the_pools_money(headers, expected, open_proxy, simulator):
    body = {"model": "text-embedding-3-small", "input": "x"}
    answer = post_json(open_proxy.base_url, "/v1/embeddings", body, headers)
    assert answer.status == expected
    assert len(seen_upstream(simulator)) == (expected == 200)
    if expected == 403:
        assert answer.error["code"] == ("origin_not_allowed" if "Origin" in headers else "host_not_allowed")


def test_without_keys_any_token_is_taken_and_none_goes_upstream(open_proxy, simulator):
    assert status(open_proxy, "whatever-the-client-has") == 200
    assert "whatever-the-client-has" not in json.dumps(seen_upstream(simulator))


def beyond_loopback(simulator: Simulator, **more: Any) -> dict[str, Any]:
    return pool_config(simulator, listen=f"0.0.0.0:{free_port()}", **more)


def test_beyond_loopback_a_proxy_without_client_keys_does_not_start_and_names_three_ways_out(
    simulator, start_proxy, tmp_path
):
    proxy = start_proxy(beyond_loopback(simulator), wait=False)
    assert proxy.process.wait(15) == 2
    message = proxy.log()
    assert "clients add" in message
    assert f"listen: 127.0.0.1:{proxy.config['listen'].rpartition(':')[2]}" in message
    assert "allow_anonymous: true" in message

    # The first way: the command works before the proxy has ever run.
    printed = add(proxy, "first")
    served = start_proxy(proxy.config)
    url = served.base_url.replace("0.0.0.0", "127.0.0.1")
    assert raw(url, "GET", "/v1/models").status == 401
    authorization = {"Authorization": f"Bearer {printed['OPENAI_API_KEY']}"}
    assert raw(url, "GET", "/v1/models", authorization).status == 200
    assert served.stop() == 0


def test_beyond_loopback_anonymous_clients_are_served_where_somebody_wrote_so(simulator, tmp_path):
    with running_proxy(tmp_path, beyond_loopback(simulator, allow_anonymous=True)) as proxy:
        url = proxy.base_url.replace("0.0.0.0", "127.0.0.1")
        assert raw(url, "GET", "/v1/models", {"Host": "quotapool.svc"}).status == 200
        # A page is still kept out.
        assert raw(url, "GET", "/v1/models", {"Origin": "https://evil.example"}).status == 403

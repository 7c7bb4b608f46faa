"""Moving over: the command on a peer's database, then an SDK with the key and the path that it had before."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import openai
import pytest
import redis
import yaml
from quotapool.simulator import simulated_secret

from tests.conftest import missing
from tests.fakes import databases, peers
from tests.fakes.peers import sha256
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.running import seen_upstream

MASTER = "the-master-key-of-this-test-file-2"
TOKEN = "Ab12" * 12  # as one-api and new-api store it; clients send sk- before it
PROXY_KEY = "sk-proxy-key-of-gpt-load"
VIRTUAL = "sk-virtual-key-of-litellm"
ALIASES = {"/proxy/*": "/", "/": "/v1"}
ENV = {"GPT_LOAD_KEY": "gpt-loads-own-encryption-key", "SAMPLE": VIRTUAL}


@pytest.fixture
def pool(start_simulator, start_proxy, tmp_path) -> tuple[Simulator, RunningProxy]:
    """A proxy without keys that requires client keys."""
    simulator = start_simulator(3, "--rpm", "0", "--tpm", "0")
    file = tmp_path / "master"
    file.write_text(MASTER)
    config = {"upstream": simulator.url, "keys": [], "master_key_file": str(file), "path_aliases": ALIASES}
    return simulator, start_proxy(config, env=ENV)


def channels(simulator: Simulator, peer: str) -> dict:
    rows = [
        {"id": number, "type": 1, "key": secret, "name": "a", "models": "gpt-4o-mini", "base_url": simulator.url}
        for number, secret in enumerate(simulator.secrets, start=1)
    ]
    rows[2]["status"] = 2
    users = [{"id": 1, "username": "root", "quota": 50_000_000, "status": 1}]
    token = {"id": 1, "user_id": 1, "key": TOKEN, "name": "app", "unlimited_quota": True, "status": 1}
    assert peer in {"one-api", "new-api"}
    return {"channels": rows, "users": users, "tokens": [token]}


def groups(simulator: Simulator, _: str) -> dict:
    group = {"id": 1, "name": "main", "upstreams": peers.upstreams(simulator.url), "channel_type": "openai"}
    keys = [
        {"id": number, "key_value": peers.sealed_by_gpt_load(ENV["GPT_LOAD_KEY"], secret), "group_id": 1}
        for number, secret in enumerate(simulator.secrets, start=1)
    ]
    keys[2]["status"] = "invalid"
    return {"groups": [{**group, "test_model": "gpt-4o-mini", "proxy_keys": PROXY_KEY}], "api_keys": keys}


def states(proxy: RunningProxy) -> list[str]:
    return sorted(row["state"] for row in json.loads(proxy.command("keys", "list", "--json").stdout)["keys"])


def call(base_url: str, key: str) -> str:
    """A call of the official SDK; the model of its answer."""
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
    return answer.model


def served(proxy: RunningProxy, base_url: str, key: str) -> None:
    """As soon as every worker knows the keys and the client."""

    def answers() -> bool:
        try:
            return call(base_url, key) == "gpt-4o-mini"
        except openai.APIStatusError:
            return False

    wait_until(answers, f"{base_url} serves the old key", 15)
    with pytest.raises(openai.AuthenticationError):
        call(base_url, "sk-a-key-that-nobody-has")


PEERS: list[tuple[str, Callable, list[str], str, str]] = [
    ("gpt-load", groups, ["--encryption-key-env", "GPT_LOAD_KEY"], PROXY_KEY, "/proxy/main/v1"),
    ("one-api", channels, [], f"sk-{TOKEN}", "/v1"),
    ("new-api", channels, [], f"sk-{TOKEN}", "/v1"),
]


@pytest.mark.parametrize(("peer", "rows", "options", "key", "path"), PEERS)
def test_an_app_of_the_old_proxy_goes_on_with_its_key_and_its_path(peer, rows, options, key, path, pool, tmp_path):
    simulator, proxy = pool
    file = tmp_path / "peer.db"
    peers.make(f"sqlite:///{file}", peer, rows(simulator, peer))
    report = tmp_path / "report.json"
    arguments = ["migrate", peer, str(file), *options]
    would = proxy.command(*arguments, "--dry-run")
    assert (would.returncode, would.stderr) == (0, ""), would.stderr
    assert "keys: would be: 3 added" in would.stdout
    assert states(proxy) == []
    done = proxy.command(*arguments, "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert states(proxy) == ["active", "active", "disabled"]
    base = proxy.base_url.removesuffix("/v1")
    served(proxy, base + path, key)
    # What is counted and logged is the API's path, not the alias.
    assert proxy.total("quotapool_requests_total", endpoint="chat") >= 1
    wait_until(lambda: [line for line in proxy.request_lines() if line["status"] == 200], "the log has it", 10)
    assert {line["endpoint"] for line in proxy.request_lines() if line["status"] == 200} == {"chat"}
    again = proxy.command(*arguments, "--json")
    assert json.loads(again.stdout)["keys"] == {"unchanged": 3}
    assert json.loads(again.stdout)["clients"] == {"unchanged": 1}
    shown = would.stdout + done.stdout + done.stderr + again.stdout + report.read_text() + proxy.log()
    assert not [secret for secret in (*simulator.secrets, key, TOKEN, ENV["GPT_LOAD_KEY"]) if secret in shown]
    assert report.stat().st_mode & 0o777 == 0o600


def test_virtual_keys_of_litellm_go_on_also_at_a_path_without_v1(pool, tmp_path):
    simulator, proxy = pool
    with databases.server("postgresql", missing) as url:
        database = databases.new_database(url, "litellm")
        databases.execute(database, *peers.LITELLM)
        peers.insert(database, "LiteLLM_VerificationToken", [{"token": sha256(VIRTUAL), "key_alias": "app"}])
        deployments = [
            {"model_name": "gpt-4o-mini", "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": secret}}
            for secret in simulator.secrets[:2]
        ]
        for one in deployments:
            one["litellm_params"]["api_base"] = f"{simulator.url}/v1"
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({"model_list": deployments}))
        proxy.env["DATABASE_URL"] = database.replace("+psycopg", "")
        arguments = ["migrate", "litellm", str(config), "--database", "env:DATABASE_URL"]
        unproven = proxy.command(*arguments, "--dry-run")
        assert unproven.returncode == 1
        assert "--sample-env" in unproven.stdout
        done = proxy.command(*arguments, "--sample-env", "SAMPLE")
        assert done.returncode == 0, done.stdout + done.stderr
        assert databases.PASSWORD not in done.stdout + done.stderr
    served(proxy, proxy.base_url.removesuffix("/v1"), VIRTUAL)
    assert states(proxy) == ["active", "active"]


def test_keys_that_upstream_refuses_are_reported_and_not_taken(pool, tmp_path):
    simulator, proxy = pool
    dead = simulated_secret(77)
    file = tmp_path / "keys.txt"
    file.write_text(f"{simulator.secrets[0]}\n{dead}\n")
    done = proxy.command("migrate", "gpt-load", str(file))
    assert done.returncode == 1
    assert "keys: 1 added, 1 refused" in done.stdout
    assert "1 key: refused: dead: invalid_api_key" in done.stdout
    assert dead not in done.stdout + done.stderr


def test_models_of_another_upstream_are_asked_there_and_named(pool, start_simulator, tmp_path):
    simulator, proxy = pool
    other = start_simulator(2, "--rpm", "0", "--tpm", "0")
    rows = groups(simulator, "gpt-load")
    main = rows["groups"][0]
    there = {"id": 2, "name": "other", "upstreams": peers.upstreams(f"{other.url}/v1")}
    rows["groups"] = [main, {**main, **there, "model_redirect_rules": {"mine": "gpt-4o-mini"}}]
    rows["api_keys"] = [
        {"id": 1, "key_value": simulator.secrets[0], "group_id": 1},
        {"id": 2, "key_value": other.secrets[1], "group_id": 2},
    ]
    peers.make(f"sqlite:///{tmp_path / 'g.db'}", "gpt-load", rows)
    done = proxy.command("migrate", "gpt-load", str(tmp_path / "g.db"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "each names its models" in done.stdout
    base = f"{proxy.base_url.removesuffix('/v1')}/proxy/other/v1"
    served(proxy, base, PROXY_KEY)
    client = openai.OpenAI(base_url=base, api_key=PROXY_KEY, max_retries=0)
    for model in ("mine", *("gpt-4o",) * 16):  # the redirect, and one that both upstreams serve
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
    assert len([seen for seen in seen_upstream(other) if seen["path"] == "/v1/chat/completions"]) >= 2
    assert "mine" in {model.id for model in client.models.list()}


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT])
def test_a_migration_that_is_ended_in_the_middle_is_finished_by_the_next_one(
    start_proxy, valkey_url, tmp_path, ended_by
):
    count = 12_000
    (tmp_path / "master").write_text(MASTER)
    proxy = start_proxy({"keys": [], "redis": valkey_url, "master_key_file": str(tmp_path / "master")})
    group = {"id": 1, "name": "main", "upstreams": peers.upstreams("https://api.openai.com"), "channel_type": "openai"}
    keys = [
        {"key_value": f"sk-proj-number-{number:06d}", "group_id": 1, "status": "invalid" if number % 3 else "active"}
        for number in range(count)
    ]
    file = tmp_path / "many.db"
    peers.make(f"sqlite:///{file}", "gpt-load", {"groups": [{**group, "test_model": "gpt-4o"}], "api_keys": keys})
    arguments = ["migrate", "gpt-load", str(file), "--no-check", "--json"]
    command = [sys.executable, "-m", "quotapool", *arguments, "--config", str(proxy.config_file)]
    store = redis.Redis(unix_socket_path=valkey_url.removeprefix("unix://"))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: store.hlen("qp:{default}:vault") >= 2_500, "some keys are stored", 60)
    process.send_signal(ended_by)
    _, said = process.communicate()
    half = states(proxy)
    assert 2_000 <= len(half) < count
    if ended_by == signal.SIGINT:
        told, _, done = said.rpartition(" ")
        assert told == "quotapool: at least this is done; the same command does the rest. Keys added:"
        assert 2_000 <= int(done.replace(",", "")) <= len(half)
    # None that was disabled there serves here, not even now.
    assert half.count("active") == sum(1 for number in range(len(half)) if number % 3 == 0)
    counts = json.loads(proxy.command(*arguments).stdout)["keys"]
    assert counts == {"added": count - len(half), "unchanged": len(half)}
    whole = states(proxy)
    assert (len(whole), whole.count("active")) == (count, count // 3)
    store.close()


async def test_aliases_hold_for_websockets_too_and_change_with_a_reload(start_simulator, start_proxy):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator, path_aliases={"/proxy/*": "/"}))
    base = proxy.base_url.removesuffix("/v1")
    client = openai.AsyncOpenAI(base_url=f"{base}/proxy/main/v1", api_key="any")
    async with client, client.realtime.connect(model="gpt-realtime") as session:
        assert (await session.recv()).type == "session.created"
    assert fetch(f"{base}/proxy/main/v1/models")[0] == 200
    assert fetch(f"{base}/old/models")[0] == 404
    config = yaml.safe_load(proxy.config_file.read_text())
    proxy.config_file.write_text(yaml.safe_dump({**config, "path_aliases": {"/old": "/v1"}}))
    proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: fetch(f"{base}/old/models")[0] == 200, "the reload", 10)
    assert fetch(f"{base}/proxy/main/v1/models")[0] == 404

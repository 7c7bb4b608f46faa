"""The documented user of the store suffices for a running proxy: nothing of all that it does is denied."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import redis

from tests.fakes.cluster import cluster
from tests.fakes.documented import section
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.valkey import running_valkey

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
COMMANDS = (
    ("clients", "add", "app", "--rpm", "600", "--budget", "usd=5/day"),
    ("clients", "rotate", "app", "--overlap", "1h"),
    ("clients", "list"),
    ("teams", "add", "red", "--budget", "usd=100/month"),
    ("clients", "set", "app", "--team", "red"),
    ("keys", "list"),
    ("keys", "disable", "key-0"),
    ("keys", "enable", "key-0"),
    ("keys", "probe", "key-1"),
    ("keys", "topup", "key-1", "10"),
    ("usage", "--by", "client"),
    ("logs",),
    ("events",),
    ("now",),
    ("room", "gpt-4o-mini"),
    ("savings",),
    ("advise",),
    ("check",),
)


RIGHTS = section("managed-redis.md", "Rights in the store")


def user(keys: list[str]) -> list[str]:
    """The documented user, with a password, for `keys`."""
    (line,) = re.findall(r"^ACL SETUSER (pool-user .*)$", RIGHTS, re.MULTILINE)
    words = line.replace(">PASSWORD", ">s3cret").replace("~qp:*", " ".join(keys)).split()
    assert set(keys) < set(words)
    return words


def test_a_proxy_runs_as_the_documented_user(start_simulator, start_proxy, tmp_path):
    # Of one pool alone, since that is the narrower of the two that are printed.
    assert "`~qp:{NAME}* ~qp:{NAME:*` instead of `~qp:*`" in RIGHTS
    with running_valkey(tmp_path) as url, redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", *user(["~qp:{default}*", "~qp:{default:*"]))
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">for-the-test")
        does_everything(start_simulator(3), start_proxy, url.replace("unix://", "unix://pool-user:${STORE}@"))
        assert admin.execute_command("ACL", "LOG") == []


async def test_and_in_a_cluster(start_simulator, start_proxy, tmp_path):
    async with cluster(tmp_path) as nodes:
        for port in nodes:
            redis.Redis(port=port).execute_command("ACL", "SETUSER", *user(["~qp:*"]))
        first, second, *_ = nodes
        url = f"redis+cluster://pool-user:${{STORE}}@127.0.0.1:{first},127.0.0.1:{second}"
        does_everything(start_simulator(3), start_proxy, url)
        assert [redis.Redis(port=port).execute_command("ACL", "LOG") for port in nodes] == [[]] * 6


def does_everything(simulator: Simulator, start_proxy: Callable[..., RunningProxy], url: str) -> None:
    """A key that fails, one that is added, a file, and every command, with a store at `url`."""
    config = pool_config(simulator, redis=url)
    config |= {"advice": {"enabled": True}, "master_key": "${MASTER}", "keys": config["keys"][:2]}
    proxy = start_proxy(config, env={"STORE": "s3cret", "MASTER": "a-master-key-of-some-thirty-letters-1"})
    simulator.fault(0, "insufficient_quota")
    assert {ask(proxy) for _ in range(10)} == {200}
    add_key(proxy, simulator.secrets[2])
    assert fetch(f"{proxy.base_url}/files/{upload(proxy)}")[0] == 200
    for words in COMMANDS:
        done = proxy.command(*words)
        assert "NOPERM" not in done.stderr + done.stdout, (words, done.stderr)
        assert done.returncode in ({0, 1} if words == ("check",) else {0}), (words, done.stderr)
    wait_until(lambda: proxy.total("quotapool_store_up") == 1, "the store is up", 15)
    proxy.stop()
    assert "NOPERM" not in proxy.log()


def ask(proxy: RunningProxy) -> int:
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0]


def add_key(proxy: RunningProxy, secret: str) -> None:
    words = [sys.executable, "-m", "quotapool", "keys", "add", "--id", "extra", "--config", str(proxy.config_file)]
    environment = {**os.environ, **proxy.env}
    done = subprocess.run(words, input=secret, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def upload(proxy: RunningProxy) -> str:
    """A file's id; which account has it is in the store."""
    parts = ['Content-Disposition: form-data; name="purpose"\r\n\r\nbatch']
    parts.append('Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}')
    body = "".join(f"--b\r\n{part}\r\n" for part in parts) + "--b--\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b"
    done = subprocess.run(
        ["curl", "-sS", "-H", kind, "--data-binary", body, f"{proxy.base_url}/files"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    return str(json.loads(done.stdout)["id"])

"""docs/backup.md, run as it is printed: what was made at run time is there again, from either kind of store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from quotapool.store.valkey_process import valkey_binary

from tests.fakes.documented import blocks, run
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.valkey import free_port

MASTER = {"MASTER": "the-master-key-of-this-test-file-1"}
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
EMBEDDED = blocks("backup.md", "An embedded store")
SHARED = blocks("backup.md", "A shared store")
MOVED = blocks("backup.md", "From an embedded store to a shared one")


def ask(proxy: RunningProxy, key: str) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT, headers=headers)[0]


def answer(proxy: RunningProxy, *words: str) -> Any:
    done = proxy.command(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fill(proxy: RunningProxy, simulator: Simulator) -> str:
    """A key and a client made at run time, with a budget, and three requests; the client's key."""
    add = [sys.executable, "-m", "quotapool", "keys", "add", "--id", "extra", "--config", str(proxy.config_file)]
    environment = {**os.environ, **proxy.env}
    added = subprocess.run(add, input=simulator.secrets[1], env=environment, capture_output=True, text=True, timeout=60)
    assert added.returncode == 0, added.stderr
    proxy.command("keys", "disable", "key-0")
    made = proxy.command("clients", "add", "app", "--budget", "requests=5/day")
    assert made.returncode == 0, made.stderr
    key = dict(re.findall(r"^export (\w+)=(.*)$", made.stdout, re.MULTILINE))["OPENAI_API_KEY"]
    wait_until(lambda: ask(proxy, "another-key") == 401, "a key is needed", 10)
    assert [ask(proxy, key) for _ in range(3)] == [200, 200, 200]
    wait_until(lambda: used(proxy) == 3, "the requests are booked", 10)
    return key


def used(proxy: RunningProxy) -> int:
    rows = answer(proxy, "usage", "--by", "client")["rows"]
    return sum(row["requests"] for row in rows if row["client"] == "app")


def is_as_before(proxy: RunningProxy, key: str) -> None:
    """Two of the day's five requests are left; the key that was switched off is off, and the added one serves."""
    states = {row["id"]: row["state"] for row in answer(proxy, "keys", "list")["keys"]}
    assert states == {"key-0": "disabled", "extra": "active"}
    assert used(proxy) == 3
    assert [ask(proxy, key) for _ in range(3)] == [200, 200, 429]


@contextmanager
def server(program: str | Path, directory: Path, port: int) -> Iterator[None]:
    """As an operator's: with an append-only file, on a port."""
    directory.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [str(program), "--port", str(port), "--dir", str(directory), "--appendonly", "yes", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: answers(port), "the server answers", 10)
        yield
    finally:
        process.terminate()
        process.wait(10)


def answers(port: int) -> bool:
    ping = subprocess.run(["redis-cli", "-p", str(port), "PING"], capture_output=True, text=True, timeout=5)
    return ping.stdout == "PONG\n"


def test_an_embedded_store(start_simulator, start_proxy: Callable[..., RunningProxy], tmp_path):
    simulator = start_simulator(2)
    state = tmp_path / ".local/state/quotapool"
    config = {**pool_config(simulator), "state_dir": str(state)}
    config["keys"] = config["keys"][:1]
    proxy = start_proxy(config)
    key = fill(proxy, simulator)
    proxy.stop()
    back_up, restore = EMBEDDED
    run(back_up, tmp_path, HOME=str(tmp_path))
    shutil.rmtree(state)
    again = start_proxy(config)  # all of it is gone
    assert [row["id"] for row in answer(again, "keys", "list")["keys"]] == ["key-0"]
    assert answer(again, "clients", "list")["clients"] == []
    again.stop()
    run(restore, tmp_path, HOME=str(tmp_path))
    is_as_before(start_proxy(config), key)
    assert (state / "master-key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["redis-server", "Valkey"])
def test_a_shared_store(start_simulator, start_proxy: Callable[..., RunningProxy], tmp_path, program, kind):
    program("redis-cli")
    binary = program("redis-server") if kind == "redis-server" else valkey_binary()
    simulator, port = start_simulator(2), free_port()
    config = {**pool_config(simulator), "redis": f"redis://127.0.0.1:{port}", "master_key": "${MASTER}"}
    config["keys"] = config["keys"][:1]
    back_up, restore = SHARED
    with server(binary, tmp_path / "first", port):
        proxy = start_proxy(config, env=MASTER)
        key = fill(proxy, simulator)
        run(back_up, tmp_path, STORE_HOST="127.0.0.1", STORE_PORT=str(port))
        proxy.stop()
    load(restore, binary, tmp_path, port)
    with server(binary, tmp_path / "data", port):
        proxy = start_proxy(config, env=MASTER)
        is_as_before(proxy, key)
        proxy.stop()


def test_an_embedded_store_becomes_a_shared_one(start_simulator, start_proxy, tmp_path, program):
    program("redis-cli")
    program("jq")
    simulator, port = start_simulator(2), free_port()
    state = tmp_path / ".local/state/quotapool"
    config = {**pool_config(simulator), "state_dir": str(state)}
    config["keys"] = config["keys"][:1]
    proxy = start_proxy(config)
    key = fill(proxy, simulator)
    time.sleep(0.7)  # what is sent twice a second is in the store
    run(MOVED[0], tmp_path, HOME=str(tmp_path))
    proxy.stop()
    load(SHARED[1], valkey_binary(), tmp_path, port)
    with server(valkey_binary(), tmp_path / "data", port):
        shared = {**config, "redis": f"redis://127.0.0.1:{port}", "master_key_file": str(state / "master-key")}
        proxy = start_proxy(shared)
        is_as_before(proxy, key)
        proxy.stop()


def load(block: str, binary: str | Path, tmp_path: Path, port: int) -> None:
    """The documented restore; `redis-server` in it is `binary`."""
    programs, data = tmp_path / "bin", tmp_path / "data"
    programs.mkdir()
    data.mkdir()
    (programs / "redis-server").symlink_to(binary)
    path = f"{programs}:/usr/bin:/bin"
    run(block, tmp_path, STORE_PORT=str(port), DATA=str(data), PATH=path)

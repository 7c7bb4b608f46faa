"""In a second terminal, without the proxy's environment and configuration, commands are about the proxy that runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import running_proxy, running_simulator
from tests.fakes.valkey import free_port

NOTICE = "no proxy runs on"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(3) as running:
        yield running


@pytest.fixture(scope="module")
def team(simulator, tmp_path_factory) -> Iterator[RunningProxy]:
    """A proxy that was started with a file, two workers and a pool of its own, and has served a request."""
    config = pool_config(simulator, pool="team", workers=2, teams={"search": {}})
    with running_proxy(tmp_path_factory.mktemp("team"), config) as proxy:
        with OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client:
            client.embeddings.create(model="text-embedding-3-small", input="hello")
        yield proxy


def terminal(
    home: Path, *words: str, uid: int | None = None, given: str | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """`env -i HOME=… quotapool WORDS`, with these variables."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "quotapool", *words],
        capture_output=True,
        text=True,
        env={**kept, "HOME": str(home), "COLUMNS": "200", **env},
        input=given or "",
        timeout=60,
        check=False,
        user=uid,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def beside(proxy: RunningProxy, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The same, with nothing but the place of the proxy's state."""
    return terminal(proxy.state_dir.parent, *words, QUOTAPOOL_STATE_DIR=str(proxy.state_dir), **more)


@pytest.mark.parametrize("words", [
    "check --json", "config --json", "now --json", "usage --json", "logs --json", "events --json", "savings --json",
    "clients list --json", "teams list --json", "keys list --json", "keys users key-0 --json", "objects list --json",
    "room text-embedding-3-small --json", "top --json",
])  # fmt: skip
def test_every_command_that_reads_is_about_it_and_says_nothing_else(words, team):
    done = beside(team, *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    for line in done.stdout.splitlines():
        json.loads(line)


def test_what_it_serves_is_what_they_show(team):
    checked = json.loads(beside(team, "check", "--json").stdout)
    assert checked["summary"] == {
        "keys": 3, "usable": 3, "states": {"active": 3}, "answers": {"valid": 3},
    }  # fmt: skip
    (request,) = [json.loads(line) for line in beside(team, "logs", "--json").stdout.splitlines()]
    assert request["model"] == "text-embedding-3-small"
    explained = beside(team, "explain", request["id"])
    assert explained.returncode == 0, explained.stderr
    assert [row["id"] for row in json.loads(beside(team, "teams", "list", "--json").stdout)["teams"]] == ["search"]
    options = {row["option"]: row for row in json.loads(beside(team, "config", "--json").stdout)["options"]}
    assert options["pool"]["value"] == "team"
    assert options["pool"]["source"].startswith(f"{team.config_file}:")
    assert "sk-" not in json.dumps(options)


def test_what_they_change_is_changed_in_it(team):
    added = beside(team, "clients", "add", "ada")
    assert added.returncode == 0
    assert f"export OPENAI_BASE_URL={team.base_url}" in added.stdout
    key = added.stdout.rpartition("OPENAI_API_KEY=")[2].strip()

    def is_served() -> bool:
        with OpenAI(base_url=team.base_url, api_key=key, max_retries=0) as client:
            return bool(client.models.list().data)

    wait_until(is_served, "the new client is served", 15)
    assert beside(team, "keys", "disable", "key-1").returncode == 0
    states = {row["id"]: row["state"] for row in json.loads(team.command("keys", "list", "--json").stdout)["keys"]}
    assert states == {"key-0": "active", "key-1": "disabled", "key-2": "active"}
    assert beside(team, "keys", "enable", "key-1").returncode == 0
    assert beside(team, "clients", "revoke", "ada").returncode == 0


def test_the_page_they_open_is_its_own(team):
    done = beside(team, "dashboard", "--no-open")
    assert done.stdout.startswith(f"{team.admin_url}/#code=")


def test_a_client_key_in_the_environment_is_not_taken_for_one_of_the_pool(team):
    done = beside(team, "check", "--json", OPENAI_API_KEY="any-text", OPENAI_BASE_URL=team.base_url)
    assert (done.returncode, json.loads(done.stdout)["summary"]["keys"]) == (0, 3)


def test_healthcheck_finds_the_port_of_the_operators_from_the_state_dir(team):
    assert beside(team, "healthcheck").returncode == 0
    assert terminal(team.state_dir.parent, "healthcheck", QUOTAPOOL_STATE_DIR="/nowhere").returncode == 1


def test_what_was_reloaded_is_in_force(simulator, tmp_path):
    config = pool_config(simulator)
    with running_proxy(tmp_path, {**config, "keys": config["keys"][:1]}) as proxy:
        assert len(json.loads(beside(proxy, "keys", "list", "--json").stdout)["keys"]) == 1
        proxy.config_file.write_text(yaml.safe_dump({**proxy.config, **config, "pool": "renamed", "sticky": False}))
        wait_until(lambda: "configuration reloaded" in proxy.log(), "it is reloaded", 10)
        assert len(json.loads(beside(proxy, "keys", "list", "--json").stdout)["keys"]) == 3
        rows = {row["option"]: row["value"] for row in json.loads(beside(proxy, "config", "--json").stdout)["options"]}
        assert (rows["sticky"], rows["pool"]) == ("false", "default")  # the pool's name waits for a restart


# ---- a configuration that is given


def test_variables_that_the_proxy_has_too_give_nothing_new(simulator, tmp_path):
    """As `docker exec` has them: the image's, and those of --env-file, while the proxy also has a file."""
    image = {"QUOTAPOOL_POOL": "team", "OPENAI_API_KEYS": simulator.secrets[2]}
    config = {**pool_config(simulator), "keys": pool_config(simulator)["keys"][:2]}
    with running_proxy(tmp_path, config, env=image) as proxy:
        done = beside(proxy, "check", "--json", **image)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["summary"]["keys"] == 3


def test_variables_of_its_own_make_a_commands_configuration_and_another_pool_is_said(team, simulator):
    done = beside(team, "keys", "list", "--json", OPENAI_API_KEYS=simulator.secrets[0], QUOTAPOOL_POOL="other")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["keys"]) == 1
    (line,) = done.stderr.splitlines()
    assert "has the pool team in the embedded store" in line
    assert "this command is about the pool other in the embedded store" in line
    same = beside(team, "keys", "list", OPENAI_API_KEYS=simulator.secrets[0], QUOTAPOOL_POOL="team")
    assert (same.returncode, same.stderr) == (0, "")


def test_a_file_of_another_store_is_said_without_its_password(team, simulator, tmp_path):
    redis = f"redis://:hunter2-is-secret@127.0.0.1:{free_port()}/0"
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump({**pool_config(simulator), "state_dir": str(team.state_dir), "redis": redis}))
    done = terminal(tmp_path, "clients", "list", "--config", str(file))
    assert done.returncode == 2  # that store is not there
    assert "has the pool team in the embedded store" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_a_configuration_that_cannot_be_read_here_is_met_with_the_way_out(team):
    file = team.state_dir.parent / "with-variables.yaml"
    file.write_text("keys: [{secret: '${NOT_SET_IN_THIS_TERMINAL}'}]\n")
    done = beside(team, "check", "--config", str(file))
    assert done.returncode == 2
    assert "NOT_SET_IN_THIS_TERMINAL" in done.stderr
    assert f"A proxy runs on {team.state_dir}: without --config, this command takes its settings" in done.stderr


# ---- no proxy, or none that answers


def test_without_a_proxy_they_say_so_and_what_they_write_is_there_when_one_starts(simulator, tmp_path):
    home = tmp_path / "home"
    state = home / ".local" / "state" / "quotapool"
    state.mkdir(parents=True)  # there, it does not matter which other proxies run on this machine
    listed = terminal(home, "clients", "list", "--json")
    assert (listed.returncode, json.loads(listed.stdout)) == (0, {"clients": []})
    assert f"quotapool: {NOTICE} {state}. What its store has of the pool default" in listed.stderr
    added = terminal(home, "clients", "add", "ada", OPENAI_API_KEYS="sk-of-the-first-step-0123456789")
    assert added.returncode == 0
    assert NOTICE in added.stderr
    with running_proxy(tmp_path, pool_config(simulator, state_dir=str(state))):
        done = terminal(home, "clients", "list", "--json")
        assert ([row["id"] for row in json.loads(done.stdout)["clients"]], done.stderr) == (["ada"], "")
    assert NOTICE in terminal(home, "clients", "list").stderr
    empty = terminal(home, "check")
    assert (empty.returncode, "the pool has no keys" in empty.stdout) == (1, True)
    assert "the proxy is not running" in terminal(home, "dashboard", "--no-open").stderr


def test_a_proxy_on_another_state_dir_is_pointed_to(team, tmp_path):
    done = terminal(tmp_path / "home", "clients", "add", "ada")
    assert done.returncode == 2
    assert f"a proxy runs on {team.state_dir}: QUOTAPOOL_STATE_DIR={team.state_dir} quotapool" in done.stderr
    assert not (tmp_path / "home").exists()
    # Who names a place means it.
    named = terminal(tmp_path, "clients", "add", "ada", QUOTAPOOL_STATE_DIR=str(tmp_path / "new"))
    assert (named.returncode, NOTICE in named.stderr) == (0, True)


def test_a_killed_proxy_is_none_though_its_socket_and_its_store_are_there(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator))
    assert beside(proxy, "clients", "add", "ada").stderr.count(NOTICE) == 0
    proxy.process.send_signal(signal.SIGKILL)
    proxy.process.wait(20)
    assert (proxy.state_dir / "command.sock").exists()
    done = beside(proxy, "clients", "list", "--json")
    assert done.returncode == 0
    assert [row["id"] for row in json.loads(done.stdout)["clients"]] == ["ada"]
    assert NOTICE in done.stderr
    again = start_proxy({**proxy.config, "listen": f"127.0.0.1:{free_port()}"})
    assert beside(again, "clients", "list").stderr == ""


def test_while_it_starts_they_wait(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator), wait=False)
    wait_until((proxy.state_dir / "command.sock").exists, "its socket is there")
    done = beside(proxy, "keys", "list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["keys"]) == 3


def test_while_it_drains_they_work_and_after_its_end_they_have_the_store(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator))
    proxy.process.send_signal(signal.SIGTERM)
    done = beside(proxy, "clients", "list", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"clients": []})
    assert proxy.process.wait(20) == 0
    assert not (proxy.state_dir / "command.sock").exists()


def test_a_proxy_that_hangs_is_named_within_seconds(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator))
    os.kill(proxy.process.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        done = beside(proxy, "check")
        assert time.monotonic() - started < 15
    finally:
        os.kill(proxy.process.pid, signal.SIGCONT)
    assert done.returncode == 2
    assert f"(process {proxy.process.pid}) does not answer" in done.stderr
    assert beside(proxy, "check").returncode == 0


@contextmanager
def kept_away(path: Path) -> Iterator[None]:
    """A proxy makes its socket again within seconds."""
    over = threading.Event()

    def remove() -> None:
        while True:
            path.unlink(missing_ok=True)
            if over.wait(0.01):
                return

    removing = threading.Thread(target=remove)
    removing.start()
    try:
        yield
    finally:
        over.set()
        removing.join()


def test_a_proxy_without_the_socket_as_older_ones_are_is_told_from_none(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator))
    with kept_away(proxy.state_dir / "command.sock"):
        done = beside(proxy, "keys", "list")
    assert done.returncode == 0
    assert f"(process {proxy.process.pid}) does not tell its settings" in done.stderr
    assert NOTICE not in done.stderr
    configured = proxy.command("keys", "list", "--json")
    assert (configured.returncode, configured.stderr) == (0, "")


def test_a_second_proxy_is_told_of_the_first(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator))
    same_ports = start_proxy(proxy.config, wait=False)
    assert same_ports.process.wait(20) == 2
    who = f"the proxy that runs on {proxy.state_dir}, process {proxy.process.pid}"
    assert f"cannot listen on {proxy.config['listen']}" in same_ports.log()
    assert who in same_ports.log()
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("listen", "admin_listen")}
    same_place = start_proxy({**proxy.config, **ports}, wait=False)
    assert same_place.process.wait(20) == 2
    assert f"{proxy.state_dir} is in use by process {proxy.process.pid}" in same_place.log()
    assert beside(proxy, "keys", "list").stderr == ""  # the first one is found as before


# ---- a shared store


def test_a_shared_store_is_reached_without_its_url_and_without_a_proxy_that_is_said(simulator, start_proxy, valkey_url):
    proxy = start_proxy(pool_config(simulator, redis=valkey_url, pool="shared"))
    done = beside(proxy, "clients", "add", "ada")
    assert (done.returncode, NOTICE in done.stderr) == (0, False)
    configured = proxy.command("clients", "list", "--json")
    assert ([row["id"] for row in json.loads(configured.stdout)["clients"]], configured.stderr) == (["ada"], "")
    # A replica elsewhere, as a command of another machine sees it: the store, and no state_dir of a proxy.
    elsewhere = {"QUOTAPOOL_REDIS": valkey_url, "QUOTAPOOL_POOL": "shared", "OPENAI_API_KEYS": simulator.secrets[0]}
    home = proxy.state_dir.parent / "elsewhere"
    assert terminal(home, "clients", "list", **elsewhere).stderr == ""
    nobody = terminal(home, "clients", "list", **{**elsewhere, "QUOTAPOOL_POOL": "nobodys"})
    assert nobody.returncode == 0
    assert f"no proxy serves the pool nobodys at {valkey_url}" in nobody.stderr

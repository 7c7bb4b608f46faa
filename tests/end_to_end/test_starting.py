"""What is wrong is said clearly, with exit code 2, before anything is served; and `check` tells of each key."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from tests.fakes.processes import Simulator, pool_config, wait_until
from tests.fakes.running import running_proxy, running_simulator
from tests.fakes.valkey import free_port


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(3) as running:
        yield running


def quotapool(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quotapool", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=30,
        check=False,
    )


def written(tmp_path: Path, config: dict[str, Any] | str) -> str:
    file = tmp_path / "quotapool.yaml"
    file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return str(file)


GOOD = """\
listen: 127.0.0.1:18080
keys:
  - id: alpha
    secret: sk-alpha-0123456789
  - id: beta
    secret: sk-beta-0123456789
    account: acme
"""


@pytest.mark.parametrize(("text", "line", "says"), [
    (GOOD + "wrokers: 4\n", 8, ["wrokers", "did you mean 'workers'?"]),
    (GOOD + "queue: {max_wiat: 3s}\n", 8, ["queue.max_wiat", "did you mean 'max_wait'?"]),
    (GOOD + "upstream: api.openai.com\n", 8, ["upstream", "https://"]),
    (GOOD.replace("sk-beta", "sk-admin-beta"), 6, ["sk-admin-", "project key"]),
    (GOOD.replace("sk-beta-0123456789", "${NOT_SET_ANYWHERE}"), 6, ["NOT_SET_ANYWHERE"]),
    (GOOD.replace("secret: sk-beta-0123456789", "secret_file: nowhere.txt"), 6, ["secret_file", "No such file"]),
    (GOOD + "queue: [\n", 9, ["YAML"]),
])  # fmt: skip
def test_a_wrong_configuration_is_refused_by_line_and_name_and_no_secret_is_repeated(text, line, says, tmp_path):
    file = written(tmp_path, text)
    for command in (["serve", "--check-config"], ["serve"], ["check"]):
        done = quotapool(*command, "--config", file)
        assert done.returncode == 2, done.stdout
        assert f"{file}:{line}" in done.stderr
        assert all(word in done.stderr for word in says), done.stderr
        assert "0123456789" not in done.stderr
        assert "Traceback" not in done.stderr
        if command == ["serve", "--check-config"] and "wrokers" not in text:
            break  # one case tries all commands; the others say the same


def test_a_good_configuration_is_checked_without_starting_anything(tmp_path):
    state = tmp_path / "state"
    done = quotapool("serve", "--check-config", "--config", written(tmp_path, GOOD + f"state_dir: {state}\n"))
    assert done.returncode == 0
    assert "2 keys in 2 accounts" in done.stdout
    assert not state.exists()


def test_without_any_key_three_ways_to_give_one_are_named(tmp_path):
    done = quotapool("serve", "--config", written(tmp_path, {"pool": "x"}), OPENAI_API_KEYS="", OPENAI_API_KEY="")
    assert done.returncode == 2
    for way in ("OPENAI_API_KEYS", "keys:", "keys_file"):
        assert way in done.stderr


@pytest.mark.parametrize("taken", ["listen", "admin_listen"])
def test_a_port_in_use_is_named(taken, simulator, start_proxy):
    with socket.create_server(("127.0.0.1", 0)) as other:
        in_use = f"127.0.0.1:{other.getsockname()[1]}"
        proxy = start_proxy(pool_config(simulator, **{taken: in_use}), wait=False)
        assert proxy.process.wait(15) == 2
    assert f"{taken}: cannot listen on {in_use}" in proxy.log()
    assert "Traceback" not in proxy.log()


def test_two_proxies_do_not_share_one_state_dir(simulator, start_proxy, tmp_path):
    config = pool_config(simulator, state_dir=str(tmp_path / "state"))
    start_proxy(config)
    second = start_proxy(config, wait=False)
    assert second.process.wait(15) == 2
    assert str(tmp_path / "state") in second.log()
    assert "Traceback" not in second.log()


def test_a_store_that_is_not_there_is_named_without_its_password(simulator, start_proxy, tmp_path):
    url = f"redis://user:hunter2-is-secret@127.0.0.1:{free_port()}/0"
    config = {**pool_config(simulator), "redis": url, "state_dir": str(tmp_path)}
    done = quotapool("check", "--config", written(tmp_path, config))
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_an_environment_variable_is_enough_to_serve(simulator, tmp_path):
    env = {"OPENAI_API_KEYS": f" {simulator.secrets[0]}, Bearer {simulator.secrets[1]}\n"}
    with running_proxy(tmp_path, {"upstream": simulator.url}, env=env) as proxy:
        with OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client:
            assert client.models.list().data
        checked = proxy.command("check", "--json")
        assert checked.returncode == 0
        assert len(json.loads(checked.stdout)["keys"]) == 2


def test_check_tells_of_each_key_and_its_exit_code_sums_it_up(simulator, tmp_path):
    with running_proxy(tmp_path, pool_config(simulator)) as proxy:
        with OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client:
            for _ in range(6):
                client.embeddings.create(model="text-embedding-3-small", input="hello")
            well = proxy.command("check", "--json")
            assert well.returncode == 0
            rows = {row["id"]: row for row in json.loads(well.stdout)["keys"]}
            assert {row["state"] for row in rows.values()} == {"active"}
            assert all(row["usable"] and row["valid"] for row in rows.values())
            # Limits were learned from upstream's headers: 500 requests, 200,000 tokens a minute.
            limits = [
                (budget["rpm"]["limit"], budget["tpm"]["limit"])
                for row in rows.values()
                for budget in row["budgets"]
                if budget["model"] == "text-embedding-3-small" and "rpm" in budget
            ]
            assert limits
            assert all(490 <= rpm <= 500 and 196_000 <= tpm <= 200_000 for rpm, tpm in limits)

            # A key revoked upstream: `check` sees it before the pool has used it.
            simulator.fault(0, "invalid_api_key")
            unused = proxy.command("check", "--json")
            row = {row["id"]: row for row in json.loads(unused.stdout)["keys"]}["key-0"]
            assert (unused.returncode, row["valid"], row["usable"]) == (1, False, False)
            assert row["next"].startswith("replace: make a new key at OpenAI")
            assert "sk-sim" not in unused.stdout

            # The pool meets it, and another one that is out of money: clients notice nothing, `check` says why.
            simulator.fault(1, "insufficient_quota")
            for _ in range(12):
                client.embeddings.create(model="text-embedding-3-small", input="hello")
        wait_until(lambda: '"key is removed"' in proxy.log() and "is quarantined" in proxy.log(), "both are out")
        done = proxy.command("check")
        assert done.returncode == 1
        for word in ("removed", "quarantined", "1 of 3 keys usable", "add credit", "replace: make a new key at OpenAI"):
            assert word in done.stdout
        assert "sk-sim" not in done.stdout

        # Its own restart changes nothing.
        assert proxy.stop() == 0
        after = {row["id"]: row["state"] for row in json.loads(proxy.command("check", "--json").stdout)["keys"]}
        assert after == {"key-0": "removed", "key-1": "quarantined", "key-2": "active"}
    for key in (0, 1):
        simulator.heal(key)

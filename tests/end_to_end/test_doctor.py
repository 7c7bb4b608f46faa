"""`quotapool doctor` as an operator runs it: beside a proxy, before one, after one, at a terminal and in a pipeline."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.processes import RunningProxy, Simulator, pool_config
from tests.fakes.running import running_proxy, running_replicas, running_simulator
from tests.fakes.terminal import Terminal
from tests.fakes.valkey import free_port

BUSY = {"store.delay", "state_dir.space", "metrics_dir"}
FILES = 500


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    env = {"OPENAI_API_KEYS": ",".join(simulator.secrets)}
    with running_proxy(tmp_path_factory.mktemp("proxy"), {"upstream": simulator.url}, env=env) as running:
        yield running


def doctor(*words: str, env: dict[str, str], few_files: bool = False) -> subprocess.CompletedProcess[str]:
    """`quotapool doctor WORDS` with these variables alone."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = FILES if few_files else hard
    return subprocess.run(
        [sys.executable, "-m", "quotapool", "doctor", *words],
        capture_output=True,
        text=True,
        env={**kept, **env},
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        timeout=60,
        check=False,
    )


def documents(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """The findings of --json, by their names."""
    document = json.loads(done.stdout)
    assert set(document) == {"status", "version", "seconds", "findings"}
    for finding in document["findings"]:
        assert set(finding) == {"check", "status", "text", "remedy"}
    return {finding["check"]: finding for finding in document["findings"]}


def statuses(found: dict[str, dict[str, Any]]) -> set[str]:
    return {finding["status"] for finding in found.values()}


def lasting(found: dict[str, dict[str, Any]]) -> set[str]:
    """The same without those that are about how busy this machine is, or how full."""
    return statuses({check: finding for check, finding in found.items() if check not in BUSY})


def written(directory: Path, **config: Any) -> dict[str, str]:
    """Variables that name a configuration of its own for no running proxy."""
    directory.mkdir(exist_ok=True)
    file = directory / "quotapool.yaml"
    config = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin_listen": f"127.0.0.1:{free_port()}",
        "state_dir": str(directory / "state"),
        **config,
    }
    file.write_text(yaml.safe_dump(config))
    return {"HOME": str(directory), "QUOTAPOOL_CONFIG": str(file)}


def test_beside_a_running_proxy_it_needs_no_configuration_and_finds_nothing(proxy: RunningProxy):
    done = doctor("--json", "--strict", env={"HOME": "/", "QUOTAPOOL_STATE_DIR": str(proxy.state_dir)})
    assert done.stderr == ""
    found = documents(done)
    assert lasting(found) == {"ok"}, done.stdout
    assert done.returncode == int(statuses(found) != {"ok"})
    assert f"as process {proxy.process.pid}" in found["proxy"]["text"]
    assert found["proxy.ready"]["text"] == "takes requests"
    assert found["listen"]["text"] == f"{proxy.config['listen']} is the proxy's, process {proxy.process.pid}"
    assert "keeps an append-only file" in found["store.persistence"]["text"]
    assert {"store.rights", "store.delay", "store.clock", "upstream", "file_limit", "keys.vault"} <= set(found)


def test_it_does_not_disturb_the_proxy_beside_which_it_runs(proxy: RunningProxy):
    before = proxy.total("quotapool_store_errors_total")
    doctor(env={"HOME": "/", "QUOTAPOOL_STATE_DIR": str(proxy.state_dir)})
    assert proxy.ready()
    assert proxy.total("quotapool_store_errors_total") == before


def test_in_a_pipe_each_finding_is_one_line_that_begins_with_its_status(proxy: RunningProxy):
    done = doctor(env={"HOME": "/", "QUOTAPOOL_STATE_DIR": str(proxy.state_dir)})
    *lines, last = done.stdout.splitlines()
    assert all(re.match(r"(ok      |warning |problem ) [a-z_.]+: \S", line) for line in lines), done.stdout
    assert sum(int(number) for number in re.findall(r"[a-z]+: (\d+)", last)) == len(lines)


def test_at_a_terminal_of_eighty_columns_nothing_is_cut(proxy: RunningProxy, tmp_path: Path):
    env = {**os.environ, "COLUMNS": "80", "TERM": "xterm", "QUOTAPOOL_STATE_DIR": str(proxy.state_dir)}
    with Terminal([sys.executable, "-m", "quotapool", "doctor"], tmp_path, env) as terminal:
        terminal.wait_for("upstream.clock")
        assert terminal.end() in {0, 1}
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.shown)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "…" not in shown.partition("check")[2]  # before it, what is going on


def test_before_the_first_start_it_says_what_a_start_would_meet(simulator: Simulator, tmp_path: Path):
    """As in an init container, or in the pipeline that deploys."""
    env = written(tmp_path / "new", upstream=simulator.url)
    done = doctor("--json", "--strict", env={**env, "OPENAI_API_KEYS": simulator.secrets[0]})
    assert lasting(documents(done)) == {"ok"}, done.stdout
    assert not (tmp_path / "new" / "state").exists()
    assert documents(done)["store.embedded"]["status"] == "ok"


def test_a_store_that_is_not_there_is_exit_code_1_and_names_no_password(simulator: Simulator, tmp_path: Path):
    env = written(tmp_path / "new", **pool_config(simulator), redis=f"redis://:hunter2!!@127.0.0.1:{free_port()}")
    done = doctor("--json", env=env)
    assert done.returncode == 1
    found = documents(done)
    assert found["store"]["status"] == "problem"
    assert found["store"]["remedy"].startswith("Start it")
    assert found["upstream"]["status"] == "ok"
    assert "hunter2" not in done.stdout + done.stderr


def test_a_limit_of_files_is_a_warning_and_with_strict_an_error(simulator: Simulator, tmp_path: Path):
    env = written(tmp_path / "new", upstream=simulator.url)
    env["OPENAI_API_KEYS"] = simulator.secrets[0]
    assert documents(doctor("--json", env=env))["file_limit"]["status"] == "ok"
    lenient = doctor("--json", env=env, few_files=True)
    assert lenient.returncode == int("problem" in statuses(documents(lenient)))
    strict = doctor("--json", "--strict", env=env, few_files=True)
    assert strict.returncode == 1
    limit = documents(strict)["file_limit"]
    assert limit["status"] == "warning"
    assert limit["text"].startswith(f"a worker may have {FILES} open files")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_configuration_that_does_not_load_is_exit_code_2_with_its_place(tmp_path: Path, words: list[str]):
    env = written(tmp_path / "new", workers="many")
    done = doctor(*words, env=env)
    assert done.returncode == 2
    assert f"{tmp_path}/new/quotapool.yaml:" in done.stdout
    if words:
        assert documents(done)["configuration"]["status"] == "problem"


def test_beside_a_proxy_that_hangs_it_goes_by_the_configuration_and_says_so(simulator: Simulator, tmp_path: Path):
    config = pool_config(simulator)
    with running_proxy(tmp_path / "hangs", config) as hanging:
        env = {"HOME": str(tmp_path), "QUOTAPOOL_CONFIG": str(hanging.config_file)}
        hanging.process.send_signal(signal.SIGSTOP)
        try:
            done = doctor("--json", env=env)
        finally:
            hanging.process.send_signal(signal.SIGCONT)
    found = documents(done)
    assert found["proxy"]["status"] == "warning"
    assert f"process {hanging.process.pid}) does not answer" in found["proxy"]["text"]
    assert found["store"]["status"] == "ok"  # its Valkey goes on


def test_all_replicas_are_counted_with_their_version(simulator: Simulator, tmp_path: Path):
    with running_replicas(tmp_path, pool_config(simulator)) as (proxies, _):
        done = proxies[0].command("doctor", "--json")
    replicas = documents(done)["replicas"]
    assert replicas["status"] == "ok"
    assert replicas["text"].startswith("2 workers serve the pool default: 2 of ")

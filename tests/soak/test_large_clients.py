"""Client programs that are too large for every change: each is installed by its registry's client, and does its work.

Half a gigabyte to two, and a minute, each. `docs/clients.md` sets them up, and lists these versions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.test_client_programs import run
from tests.end_to_end.test_documented_clients import example
from tests.fakes.processes import RunningProxy, pool_config, wait_until

NPM = {"cline": "3.0.65", "promptfoo": "0.121.20", "@librechat/agents": "3.2.21"}
PYPI = {"aider-chat": "0.86.2", "dspy": "3.4.1"}
KEY = "ann-client-key-0123456789"
LIBRECHAT = """
import { HumanMessage } from "@langchain/core/messages";
import { Providers, Run } from "@librechat/agents";
const { apiKey, baseURL, models } = JSON.parse(process.argv[2]);
const llmConfig = {
  provider: Providers.OPENAI, model: models.default[0], apiKey, configuration: { baseURL },
  streaming: true, streamUsage: true,
};
const graphConfig = { type: "standard", instructions: "Be brief.", llmConfig };
const agent = await Run.create({ runId: "one", graphConfig, returnContent: true });
const settings = { runId: "one", streamMode: "values", version: "v2", configurable: { thread_id: "one" } };
console.log(JSON.stringify(await agent.processStream({ messages: [new HumanMessage("Say hello.")] }, settings)));
"""


@pytest.fixture
def proxy(start_simulator: Callable[..., Any], start_proxy: Callable[..., RunningProxy]) -> RunningProxy:
    return start_proxy(pool_config(start_simulator(2), clients=[{"id": "ann", "key": KEY}]))


@pytest.fixture
def environment(proxy: RunningProxy, tmp_path: Path) -> dict[str, str]:
    """A home of its own, and the two variables that clients know."""
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    return {**home, "OPENAI_BASE_URL": proxy.base_url, "OPENAI_API_KEY": KEY}


@pytest.fixture
def from_npm(program: Callable[[str], str], tmp_path: Path) -> Callable[[str], Path]:
    """`from_npm("cline")`: the folder of its programs."""
    npm = program("npm")

    def install(name: str) -> Path:
        (tmp_path / "package.json").write_text('{"private": true}')
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
        command = [npm, "install", *options, f"{name}@{NPM[name]}"]
        subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, check=True, timeout=600)
        return tmp_path / "node_modules" / ".bin"

    return install


@pytest.fixture
def from_pypi(tmp_path: Path) -> Callable[[str], Path]:
    """`from_pypi("dspy")`: the folder of an environment's programs."""

    def install(name: str) -> Path:
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, timeout=120)
        programs = tmp_path / "venv" / "bin"
        command = [programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*command, "--only-binary", ":all:", f"{name}=={PYPI[name]}"], check=True, timeout=600)
        return programs

    return install


def served(proxy: RunningProxy, count: int) -> set[str]:
    """The endpoints of so many requests, all of them answered."""
    wait_until(lambda: len(proxy.request_lines()) >= count, "the log lines are written", 15)
    lines = proxy.request_lines()
    assert [line["status"] for line in lines] == [200] * count
    return {line["endpoint"] for line in lines}


def in_shell(commands: str, programs: Path, folder: Path, environment: dict[str, str]) -> str:
    return run(["sh", "-ec", commands], folder, {**environment, "PATH": f"{programs}:{environment['PATH']}"})


def test_cline_uses_a_tool_and_answers(proxy, environment, from_npm, tmp_path):
    said = in_shell(example("Cline", "sh"), from_npm("cline"), tmp_path, environment)
    result = json.loads(said.splitlines()[-1])
    assert (result["type"], result["finishReason"], result["iterations"]) == ("run_result", "completed", 2)
    assert result["text"].startswith("Simulated answer")
    assert served(proxy, 2) == {"responses"}


def test_aider_answers(proxy, environment, from_pypi, tmp_path):
    quiet = " --yes-always --no-check-update --analytics-disable --no-show-model-warnings --no-git"
    said = in_shell(example("aider", "sh").rstrip() + quiet, from_pypi("aider-chat"), tmp_path, environment)
    assert "Simulated answer" in said
    assert served(proxy, 1) == {"chat"}


def test_dspy_answers(proxy, environment, from_pypi, tmp_path):
    said = run([from_pypi("dspy") / "python", "-c", example("dspy", "python")], tmp_path, environment)
    assert "Simulated answer" in said
    assert served(proxy, 3) == {"chat"}  # it asks a second time, for JSON, where an answer is not in its own form


def test_promptfoo_evaluates(proxy, environment, from_npm, tmp_path):
    (tmp_path / "promptfooconfig.yaml").write_text(example("promptfoo", "yaml"))
    env = {**environment, "PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1"}
    said = run([from_npm("promptfoo") / "promptfoo", "eval", "--no-cache"], tmp_path, env)
    assert "2 passed (100%)" in said
    assert served(proxy, 2) == {"chat", "responses"}


def test_the_client_in_librechat_answers(proxy, environment, from_npm, program, tmp_path):
    from_npm("@librechat/agents")
    [endpoint] = yaml.safe_load(example("LibreChat", "yaml"))["endpoints"]["custom"]
    resolved = json.dumps(endpoint)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        resolved = resolved.replace(f"${{{name}}}", environment[name])
    (tmp_path / "run.mjs").write_text(LIBRECHAT)
    [part] = json.loads(run([program("node"), "run.mjs", resolved], tmp_path, environment).splitlines()[-1])
    assert part["text"].startswith("Simulated answer")
    assert served(proxy, 1) == {"chat"}

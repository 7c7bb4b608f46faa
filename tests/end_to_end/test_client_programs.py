"""Programs that people put before the proxy, at pinned versions: coding agents and openai-agents do their work.

They are set up as `docs/clients.md` prints it. The simulator calls the first tool that it is offered, so each program
sends a tool's result with its second request. `tests/clients` pins the versions; `make .venv/.clients` installs them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.end_to_end.test_documented_clients import example
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import reset, running_proxy, running_simulator, seen_upstream

MODEL = "gpt-5.4"
ANN, BOB = "ann-client-key-0123456789", "bob-client-key-0123456789"
CLIENTS = [{"id": "ann", "key": ANN}, {"id": "bob", "key": BOB}]
PATIENCE_S = 120
Pools: TypeAlias = dict[str, tuple[RunningProxy, Simulator]]  # by "keyed" and "anonymous"

AGENTS = """
import asyncio, contextlib, json, os
from agents import Agent, Runner, SQLiteSession, function_tool, responses_websocket_session
from agents import set_default_openai_api, set_tracing_disabled

calls = []

@function_tool
def weather(city: str) -> str:
    "The weather of a city."
    calls.append(city)
    return "rain"

async def story(runner) -> list[str]:
    agent = Agent(name="clerk", instructions="Be brief.", model=os.environ["MODEL"], tools=[weather])
    memory = SQLiteSession("one")
    said = [(await runner.run(agent, "Say hello.", session=memory)).final_output]
    streamed = runner.run_streamed(agent, "And again.", session=memory)
    async for _ in streamed.stream_events():
        pass
    said.append(streamed.final_output)
    if os.environ["API"] == "responses":
        first = await runner.run(agent, "Begin.")
        then = await runner.run(agent, "Go on.", previous_response_id=first.last_response_id)
        said += [first.final_output, then.final_output]
    return said

async def main() -> list[str]:
    if os.environ["TRANSPORT"] == "http":
        return await story(Runner)
    async with responses_websocket_session() as session:  # one connection for all runs
        return await story(session)

set_tracing_disabled(True)
set_default_openai_api(os.environ["API"])
print(json.dumps({"said": asyncio.run(main()), "calls": len(calls)}))
"""


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    """Three accounts each, with client keys and without: (proxy, simulator)."""
    folder = tmp_path_factory.mktemp("pools")
    with (
        running_simulator(3) as keyed_upstream,
        running_simulator(3) as open_upstream,
        running_proxy(folder / "keyed", pool_config(keyed_upstream, clients=CLIENTS)) as keyed,
        running_proxy(folder / "open", pool_config(open_upstream)) as anonymous,
    ):
        yield {"keyed": (keyed, keyed_upstream), "anonymous": (anonymous, open_upstream)}


@pytest.fixture(params=["keyed", "anonymous"])
def pool(request: pytest.FixtureRequest, pools: Pools) -> Pool:
    proxy, simulator = pools[request.param]
    reset(simulator)
    return Pool(proxy, simulator, ANN if request.param == "keyed" else "any-text")


class Pool:
    """A proxy, its upstream, and what its log gained since this test began."""

    def __init__(self, proxy: RunningProxy, simulator: Simulator, key: str) -> None:
        self.proxy, self.simulator, self.key = proxy, simulator, key
        self._before = len(proxy.request_lines())

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Nothing of the tester's own settings: a home that is empty, and the two variables that clients know."""
        plain = {"PATH": os.environ["PATH"], "HOME": str(home)}
        return {**plain, "OPENAI_BASE_URL": self.proxy.base_url, "OPENAI_API_KEY": self.key, **more}

    def lines(self, at_least: int) -> list[dict[str, Any]]:
        """The log lines of this test's requests, once there are so many."""
        wait_until(lambda: len(self.proxy.request_lines()) - self._before >= at_least, "the log lines are written", 15)
        return self.proxy.request_lines()[self._before :]

    def upstream_saw(self) -> set[tuple[str, str]]:
        return {(seen["method"], seen["path"]) for seen in seen_upstream(self.simulator)}


def run(command: list[str | Path], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def events_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


# ---- Codex


@pytest.fixture
def codex(client_programs: Path, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """`codex(pool, websockets, "resume", "--last")`: one turn of `codex exec`, its events."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()

    def turn(pool: Pool, websockets: bool, *arguments: str) -> list[dict[str, Any]]:
        printed = example("Codex", "toml").replace("http://127.0.0.1:8080/v1", pool.proxy.base_url)
        wanted = f"supports_websockets = {json.dumps(websockets)}"
        quiet = "check_for_update_on_startup = false\nanalytics.enabled = false\n"
        (home / "config.toml").write_text(quiet + printed.replace("supports_websockets = true", wanted))
        program = client_programs / "node_modules" / ".bin" / "codex"
        command = [program, "exec", *arguments, "--skip-git-repo-check", "--json", "Say hello."]
        return events_of(run(command, work, pool.environment(home, CODEX_HOME=str(home))))

    return turn


@pytest.mark.parametrize("websockets", [False, True], ids=["http", "websocket"])
def test_codex_uses_a_tool_answers_and_resumes_its_thread(pool, codex, websockets):
    threads = set()
    for arguments in ((), ("resume", "--last")):
        events = codex(pool, websockets, *arguments)
        kinds = [event["type"] for event in events]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        assert kinds[-1] == "turn.completed"
        assert "error" not in kinds, events  # it connects once, and falls back to nothing
        assert [item["type"] for item in items if item["type"] != "error"] == ["command_execution", "agent_message"]
        assert items[-1]["text"].startswith("Simulated answer")
        threads |= {event["thread_id"] for event in events if event["type"] == "thread.started"}
    assert len(threads) == 1
    assert pool.upstream_saw() == {("GET" if websockets else "POST", "/v1/responses")}
    lines = pool.lines(2 if websockets else 4)
    assert {line["status"] for line in lines} == {101 if websockets else 200}
    assert sum((line["tokens"] or {}).get("completion", 0) for line in lines) > 0


def test_codex_threads_are_served_by_any_account(start_simulator, start_proxy, codex):
    """Given three accounts of which two are out, I expect the third to serve, whatever ids Codex sends along."""
    simulator = start_simulator(3)
    pool = Pool(start_proxy(pool_config(simulator, clients=CLIENTS)), simulator, BOB)
    for key in (0, 1):
        simulator.fault(key, "insufficient_quota")
    assert codex(pool, websockets=False)[-1]["type"] == "turn.completed"


# ---- opencode


@pytest.mark.parametrize(
    ("package", "path"),
    [("@ai-sdk/openai-compatible", "/v1/chat/completions"), ("@ai-sdk/openai", "/v1/responses")],
    ids=["chat", "responses"],
)
def test_opencode_uses_a_tool_answers_and_continues_its_session(pool, client_programs, tmp_path, package, path):
    config = json.loads(example("opencode", "json"))
    config["provider"]["pool"]["npm"] = package
    (tmp_path / "opencode.json").write_text(json.dumps({**config, "autoupdate": False, "share": "disabled"}))
    stays_here = ("MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    env = pool.environment(tmp_path, **{f"OPENCODE_DISABLE_{what}": "1" for what in stays_here})
    program = client_programs / "node_modules" / ".bin" / "opencode"
    sessions = set()
    for more in ((), ("--continue",)):
        events = events_of(run([program, "run", "--format", "json", *more, "Say hello."], tmp_path, env))
        parts = [event["part"] for event in events if event["type"] in {"text", "tool_use"}]
        assert [part["type"] for part in parts] == ["tool", "text"], events
        assert parts[1]["text"].startswith("Simulated answer")
        sessions |= {event["sessionID"] for event in events}
    assert len(sessions) == 1
    assert pool.upstream_saw() == {("POST", path)}
    assert {line["status"] for line in pool.lines(4)} == {200}


# ---- Continue, Qwen Code


def test_continue_uses_a_tool_and_answers(pool, client_programs, tmp_path):
    printed = example("Continue", "yaml").replace("http://127.0.0.1:8080/v1", pool.proxy.base_url)
    (tmp_path / "config.yaml").write_text(printed.replace("any-text", pool.key))
    program = client_programs / "node_modules" / ".bin" / "cn"
    stays_here = {"CONTINUE_TELEMETRY_ENABLED": "0"}
    env = {name: value for name, value in pool.environment(tmp_path, **stays_here).items() if "OPENAI" not in name}
    said = run([program, "--config", tmp_path / "config.yaml", "--auto", "--print", "Say hello."], tmp_path, env)
    assert said.startswith("Simulated answer")
    assert pool.upstream_saw() == {("POST", "/v1/chat/completions")}
    assert {line["status"] for line in pool.lines(2)} == {200}  # the tool's call, then the answer to its result


def test_qwen_code_uses_a_tool_and_answers(pool, client_programs, tmp_path):
    env = pool.environment(tmp_path)
    env["PATH"] = f"{client_programs / 'node_modules' / '.bin'}:{env['PATH']}"
    command = f"{example('Qwen Code', 'sh').rstrip()} --yolo --output-format json"
    *_, result = json.loads(run(["sh", "-c", command], tmp_path, env))
    assert result["result"].startswith("Simulated answer")
    assert pool.upstream_saw() == {("POST", "/v1/chat/completions")}
    assert {line["status"] for line in pool.lines(2)} == {200}


# ---- openai-agents


@pytest.mark.parametrize(
    ("api", "transport", "seen"),
    [
        ("chat_completions", "http", ("POST", "/v1/chat/completions")),
        ("responses", "http", ("POST", "/v1/responses")),
        ("responses", "websocket", ("GET", "/v1/responses")),
    ],
    ids=["chat", "responses", "websocket"],
)
def test_an_agent_uses_its_tool_streams_and_remembers(pool, client_programs, tmp_path, api, transport, seen):
    env = pool.environment(tmp_path, API=api, TRANSPORT=transport, MODEL=MODEL)
    told = json.loads(run([client_programs / "python" / "bin" / "python", "-c", AGENTS], tmp_path, env))
    runs = 4 if api == "responses" else 2
    assert [text.split(":")[0].split()[:2] for text in told["said"]] == [["Simulated", "answer"]] * runs
    assert told["calls"] == runs  # the simulator calls a tool once in each run
    assert pool.upstream_saw() == {seen}
    assert {line["status"] for line in pool.lines(1)} == {101 if transport == "websocket" else 200}

"""Refusals that steer: the official SDKs, left at their defaults, come back when there is room, and not before.

Their rules (openai-python `_base_client.py`, openai-node `client.ts`): two retries, after `retry-after-ms` or else
`retry-after`. Python obeys up to 120 s and gives up beyond; Node ignores what is above 60 s and comes back early;
`x-should-retry` overrides both.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, OpenAI

from tests.fakes.processes import RunningProxy, fetch, pool_config

MODEL = "gpt-4o-mini"
KEY = "anything-that-is-long"
HELLO = [{"role": "user", "content": "hello"}]
TOKENS = 1_000  # of each call: OpenAI's limiter counts max_tokens where it is more than the prompt
NODE_CALLS = """
import OpenAI from "openai";
const [baseURL, count, model, tokens] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "anything-that-is-long" });
const call = async () => {
  const began = Date.now();
  let status = 200;
  try {
    await client.chat.completions.create({
      model, max_tokens: Number(tokens), messages: [{ role: "user", content: "hello" }],
    });
  } catch (error) {
    status = error.status ?? String(error);
  }
  return { status, began: began / 1000, ended: Date.now() / 1000 };
};
console.log(JSON.stringify(await Promise.all(Array.from({ length: Number(count) }, call))));
"""


@dataclass(frozen=True, slots=True)
class Call:
    """What a user of an SDK saw: 200 or an error's status, and when (Unix times)."""

    status: int
    began: float
    ended: float


Callers = Callable[[str, int], list[Call]]


def from_python(base_url: str, count: int) -> list[Call]:
    """`count` calls at once with the Python SDK."""
    with OpenAI(base_url=base_url, api_key=KEY) as client, ThreadPoolExecutor(count) as threads:

        def call(_: int) -> Call:
            began, status = time.time(), 200
            try:
                client.chat.completions.create(model=MODEL, max_tokens=TOKENS, messages=HELLO)
            except APIStatusError as error:
                status = error.status_code
            return Call(status, began, time.time())

        return list(threads.map(call, range(count)))


@pytest.fixture(scope="session")
def from_node(
    program: Callable[[str], str], client_programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callers:
    """`count` calls at once with the Node SDK."""
    node, folder = program("node"), tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(client_programs / "node_modules")
    (folder / "calls.mjs").write_text(NODE_CALLS)

    def call(base_url: str, count: int) -> list[Call]:
        command = [node, "calls.mjs", base_url, str(count), MODEL, str(TOKENS)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return [Call(**one) for one in json.loads(done.stdout)]

    return call


def both(from_node: Callers, base_url: str, count: int) -> list[Call]:
    """`count` calls with each SDK, all at about the same moment; in the order in which they ended."""
    with ThreadPoolExecutor(2) as threads:
        calls = [*threads.map(lambda callers: callers(base_url, count), (from_python, from_node))]
    return sorted((call for some in calls for call in some), key=lambda call: call.ended)


def use_up(proxy: RunningProxy, tokens: int) -> float:
    """Take the whole budget with one call; when it was empty (Unix time)."""
    body = {"model": MODEL, "max_tokens": tokens, "messages": HELLO}
    headers = {"Authorization": f"Bearer {KEY}"}
    status, text = fetch(f"{proxy.base_url}/chat/completions", method="POST", body=body, headers=headers)
    assert status == 200, text
    return time.time()


def statuses(proxy: RunningProxy, calls: int) -> Counter[int]:
    """How the proxy answered, without the call that used the budget up."""
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + 5
    while len(lines) <= calls and time.monotonic() < deadline:  # lines are written a little later, in batches
        time.sleep(0.1)
        lines = proxy.request_lines()
    return Counter(line["status"] for line in lines[1:])


def refused_upstream(simulator: Any) -> int:
    return sum(sum(account["refused"].values()) for account in simulator.stats()["accounts"])


def test_users_of_both_sdks_see_no_error_when_the_pool_refills_in_eight_seconds(
    start_simulator, start_proxy, from_node
):
    """Given 7,500 tokens a minute, all used, and no queue, if each SDK asks for 1,000, I expect one refusal each that
    brings one back after 8 s and the other after 16."""
    simulator = start_simulator(1, "--rpm", "0", "--tpm", "7500")
    proxy = start_proxy(pool_config(simulator, queue={"max_wait": 0}))
    empty_at = use_up(proxy, 7500)
    calls = both(from_node, proxy.base_url, 1)
    assert [call.status for call in calls] == [200, 200]
    assert [call.ended - empty_at for call in calls] == pytest.approx([8, 16], abs=1.0)
    assert statuses(proxy, 4) == {429: 2, 200: 2}  # nobody came too early
    assert refused_upstream(simulator) == 0


def test_users_of_both_sdks_see_no_error_when_their_clients_own_rate_refills(start_simulator, start_proxy, from_node):
    """Given six requests a minute, all used, I expect one refusal each: one is back after 10 s, the other after 20."""
    simulator = start_simulator(1, "--rpm", "0", "--tpm", "0")
    client = {"id": "sdk", "key": KEY, "limits": {"rpm": 6}}
    proxy = start_proxy(pool_config(simulator, queue={"max_wait": 0}, clients=[client]))
    empty_at = [use_up(proxy, 10) for _ in range(6)][-1]
    calls = both(from_node, proxy.base_url, 1)
    assert [call.status for call in calls] == [200, 200]
    assert [call.ended - empty_at for call in calls] == pytest.approx([10, 20], abs=1.0)
    assert statuses(proxy, 9) == {200: 7, 429: 2}  # of the first six, one is not counted


def test_callers_refused_at_the_same_moment_come_back_one_after_another(start_simulator, start_proxy, from_node):
    """Given room for one call in 1.5 s and four that are refused together, I expect each to be refused once only."""
    simulator = start_simulator(1, "--rpm", "0", "--tpm", "40000")
    proxy = start_proxy(pool_config(simulator, queue={"max_wait": 0}))
    empty_at = use_up(proxy, 40_000)
    calls = both(from_node, proxy.base_url, 2)
    assert [call.status for call in calls] == [200] * 4
    assert [call.ended - empty_at for call in calls] == pytest.approx([1.5, 3, 4.5, 6], abs=1.0)
    assert statuses(proxy, 8) == {429: 4, 200: 4}
    assert refused_upstream(simulator) == 0


@pytest.mark.parametrize("sdk", ["python", "node"])
def test_where_waiting_does_not_help_no_sdk_tries_again(request, start_simulator, start_proxy, sdk):
    """Given one request a day, all used, I expect a user to see the refusal at once, and no retry."""
    callers = from_python if sdk == "python" else request.getfixturevalue("from_node")
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator, queue={"max_wait": 0}, limits={"default": {"rpd": 1}}))
    use_up(proxy, 10)
    (call,) = callers(proxy.base_url, 1)
    assert call.status == 429
    assert call.ended - call.began < 2
    assert statuses(proxy, 1) == {429: 1}

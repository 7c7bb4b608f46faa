"""The official Node SDK gets equal objects from a miss, a hit, a replay and a shared answer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.processes import RunningProxy, Simulator, pool_config
from tests.fakes.running import reset, running_proxy, running_simulator

# Prints, for one request, what came of it: plain, streamed, streamed again, plain again, and three at once of another.
SCRIPT: Final = """
import OpenAI from "openai";
const [baseURL, kind, text] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "anything", maxRetries: 0 });
const body = JSON.parse(text);

async function plain(body) {
  const resource = { chat: client.chat.completions, responses: client.responses, completions: client.completions,
                     embeddings: client.embeddings }[kind];
  const { data, response } = await resource.create(body).withResponse();
  return { result: response.headers.get("x-quotapool-cache"), said: data };
}

async function streamed(body) {
  if (kind === "chat") return { said: await client.chat.completions.stream(body).finalChatCompletion() };
  if (kind === "responses") return { said: await client.responses.stream(body).finalResponse() };
  let said = null;
  for await (const chunk of await client.completions.create({ ...body, stream: true })) {
    said = said ?? { ...chunk, choices: [{ ...chunk.choices[0], text: "" }] };
    for (const choice of chunk.choices) {
      said.choices[0].text += choice.text;
      said.choices[0].finish_reason = choice.finish_reason;
    }
  }
  return { said };
}

const told = { first: await plain(body) };
if (kind !== "embeddings") told.streams = [await streamed(body), await streamed(body)];
told.again = await plain(body);
const other = { ...body, ...(kind === "embeddings" ? { input: "another question" } : { temperature: 0.5 }) };
const ways = kind === "embeddings" ? [plain, plain, plain] : [plain, streamed, plain];
told.others = await Promise.all(ways.map((way) => way(other)));
console.log(JSON.stringify(told));
"""
CASES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "chat": ("chat", {"model": "gpt-4o", "messages": [{"role": "user", "content": "a question from node"}]}),
    "several choices": (
        "chat",
        {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "a question from node"}],
            "n": 2,
            "logprobs": True,
        },
    ),
    "responses": ("responses", {"model": "gpt-4o", "input": "a question from node", "store": False}),
    "responses with reasoning": (
        "responses",
        {"model": "gpt-5.5", "input": "a question from node", "store": False, "reasoning": {"effort": "high"}},
    ),
    "completions": ("completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "a question", "max_tokens": 9}),
    "embeddings": ("embeddings", {"model": "text-embedding-3-small", "input": ["one", "two", "one"]}),
    "embeddings as numbers": (
        "embeddings",
        {"model": "text-embedding-3-large", "input": "three", "encoding_format": "float", "dimensions": 8},
    ),
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2, "--answers", "by_call", "--latency-ms", "300") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with running_proxy(tmp_path_factory.mktemp("cached"), pool_config(simulator, cache={"models": ["*"]})) as running:
        yield running


@pytest.fixture
def tell(
    program: Callable[[str], str], client_programs: Path, tmp_path: Path, proxy: RunningProxy
) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """What SCRIPT prints for a request."""
    (tmp_path / "node_modules").symlink_to(client_programs / "node_modules")
    (tmp_path / "cached.mjs").write_text(SCRIPT)
    node = program("node")

    def told(kind: str, body: dict[str, Any]) -> dict[str, Any]:
        command = [node, "cached.mjs", proxy.base_url, kind, json.dumps(body)]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        return dict(json.loads(ended.stdout))

    return told


def equal(value: Any) -> Any:
    """Without what the SDK adds to a stream that it put together, without usage, and without empty members."""
    if isinstance(value, dict):
        added = {"parsed", "annotations", "usage", "output_parsed", "parsed_arguments", "output_text"}
        kept = {name: equal(one) for name, one in value.items() if name not in added}
        return {name: one for name, one in kept.items() if one is not None}
    return [equal(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", CASES)
def test_the_node_sdk_gets_equal_objects_however_an_answer_comes_about(case, tell, simulator):
    reset(simulator)
    kind, body = CASES[case]
    told = tell(kind, body)
    first = told["first"]
    assert (first["result"], told["again"]["result"]) == ("miss", "hit")
    if kind == "embeddings":
        vectors = [[one["embedding"] for one in told[name]["said"]["data"]] for name in ("first", "again")]
        assert vectors[0] == vectors[1]
        assert told["again"]["said"]["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    else:
        assert told["again"]["said"] == first["said"]
        for stream in told["streams"]:
            assert equal(stream["said"]) == equal(first["said"])
    # Three at once are one call
    others = [equal(other["said"]) for other in told["others"]]
    assert others[0] == others[1] == others[2] != equal(first["said"])
    results = [other["result"] for other in told["others"] if "result" in other]
    assert set(results) <= {"miss", "coalesced"}
    assert sum(count for path, count in simulator.stats()["calls"].items() if path.startswith("POST")) == 2

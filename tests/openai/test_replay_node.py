"""The official Node SDK reads the same objects from an answer and from what a replay makes of it.

One process of Node reads many answers. Each was made up by hypothesis, from a seed that is always the same.
"""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from quotapool.openai.replay import EVENT_STREAM, JSON, events, whole

from tests.fakes.answers import chat_answers, responses

READER = """
import OpenAI from "openai";
import { readFileSync } from "node:fs";
const told = [];
for (const { kind, asked, type, body } of JSON.parse(readFileSync(process.argv[2], "utf8"))) {
  const fetch = async () => new Response(body, { status: 200, headers: { "content-type": type } });
  const client = new OpenAI({ apiKey: "x", baseURL: "http://upstream.example/v1", maxRetries: 0, fetch });
  const streamed = type.startsWith("text/event-stream");
  try {
    if (kind === "chat") {
      const answer = streamed
        ? await client.chat.completions.stream(asked).finalChatCompletion()
        : await client.chat.completions.create(asked);
      told.push(answer);
    } else {
      told.push(streamed ? await client.responses.stream(asked).finalResponse() : await client.responses.create(asked));
    }
  } catch (error) {
    told.push({ failed: String(error) });
  }
}
console.log(JSON.stringify(told));
"""
ASKED = {
    "chat": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]},
    "responses": {"model": "gpt-4.1", "input": "hi"},
}


def made_up(strategy, number):
    found = []

    @seed(18)
    @settings(max_examples=number, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def collect(answer):
        found.append(answer)

    collect()
    return found


@pytest.fixture(scope="module")
def read(program, client_programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(client_programs / "node_modules")
    (folder / "reader.mjs").write_text(READER)

    def run(kind, bodies):
        """What the SDK reads from each (content type, body)."""
        cases = [
            {"kind": kind, "asked": ASKED[kind], "type": content_type, "body": body.decode()}
            for content_type, body in bodies
        ]
        (folder / "cases.json").write_text(json.dumps(cases))
        told = subprocess.run(
            [program("node"), "reader.mjs", "cases.json"], cwd=folder, capture_output=True, text=True, timeout=300
        )
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout)

    return run


def bare(value):
    """Without what the SDK adds by itself, and without what is empty, which it leaves out here and there."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: bare(one) for name, one in value.items() if one not in (None, "", []) and not name.startswith("parsed")
    }


def three_forms(kind, answer):
    text = json.dumps(answer).encode()
    stream = events(kind, text, usage=True)
    return [(JSON, text), (EVENT_STREAM, stream), (JSON, whole(kind, stream))]


def complete(answer):
    """As the SDK's accumulator takes it: it refuses an answer that was cut, and knows no other member in a message."""
    for choice in answer["choices"]:
        choice["finish_reason"] = "stop"
        choice["message"] = {name: one for name, one in choice["message"].items() if not name.startswith("x_")}
    return answer


@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_the_node_sdk_reads_the_same_from_all_forms(kind, read):
    answers = made_up(chat_answers().map(complete) if kind == "chat" else responses(), 60)
    if kind == "responses":
        for answer in answers:
            answer["status"] = "completed"
    told = read(kind, [form for answer in answers for form in three_forms(kind, answer)])
    assert len(told) == 3 * len(answers)
    for number, answer in enumerate(answers):
        from_text, from_stream, from_both = map(bare, told[3 * number : 3 * number + 3])
        assert from_stream == from_text, json.dumps(answer)
        assert from_both == from_text, json.dumps(answer)

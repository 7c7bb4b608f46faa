"""The examples of `docs/clients.md` do what they say, as they are printed there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.processes import RunningProxy, pool_config, wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def example(section: str, language: str) -> str:
    """The first block of `language` below the heading."""
    below = PAGE.partition(f"\n## {section}\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```", below.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    assert found, f"{section} has no {language} block"
    return found[1]


def output_of(command: list[str | Path], folder: Path, proxy: RunningProxy, key: str = "any-text") -> str:
    environment = {**os.environ, "OPENAI_BASE_URL": proxy.base_url, "OPENAI_API_KEY": key}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("section", "language", "says"),
    [
        ("curl", "sh", '"object": "chat.completion"'),
        ("openai, Python", "python", "Simulated answer"),
        ("Batch jobs", "python", "200 of 200"),
    ],
)
def test_an_example_runs_as_it_is_printed(section, language, says, start_simulator, start_proxy, tmp_path):
    proxy = start_proxy(pool_config(start_simulator(3)))
    interpreter: list[str | Path] = ["sh", "-c"] if language == "sh" else [sys.executable, "-c"]
    assert says in output_of([*interpreter, example(section, language)], tmp_path, proxy)


@pytest.mark.parametrize(
    ("section", "says"),
    [("openai-agents", "Simulated answer"), ("LangChain", "1536"), ("pydantic-ai", "Simulated answer")],
)
def test_an_example_for_a_python_library_runs_as_it_is_printed(
    section, says, start_simulator, start_proxy, client_programs, tmp_path
):
    proxy = start_proxy(pool_config(start_simulator(3)))
    python = client_programs / "python" / "bin" / "python"
    assert says in output_of([python, "-c", example(section, "python")], tmp_path, proxy)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("openai, Node", "Simulated answer"),
        ("Vercel AI SDK, server side", "Simulated answer"),
        ("LangChain.js", "1536"),
        ("LlamaIndex.TS", "1536"),
    ],
)
def test_an_example_for_node_runs_as_it_is_printed(
    section, says, start_simulator, start_proxy, program, client_programs, tmp_path
):
    proxy = start_proxy(pool_config(start_simulator(3)))
    (tmp_path / "node_modules").symlink_to(client_programs / "node_modules")
    (tmp_path / "example.mjs").write_text(example(section, "js"))
    said = output_of([program("node"), "example.mjs"], tmp_path, proxy)
    assert "Simulated answer" in said
    assert says in said


@pytest.mark.parametrize(
    ("section", "language", "file", "says"),
    [("Java", "java", "Chat.java", "data: [DONE]"), ("Ruby", "ruby", "chat.rb", "Simulated answer")],
)
def test_an_example_that_needs_no_library_runs_as_it_is_printed(
    section, language, file, says, start_simulator, start_proxy, program, tmp_path
):
    proxy = start_proxy(pool_config(start_simulator(3)))
    if language == "java":
        program("javac")  # which `java` needs for a program in one file
    (tmp_path / file).write_text(example(section, language))
    assert says in output_of([program(language), file], tmp_path, proxy)
    wait_until(lambda: [line["status"] for line in proxy.request_lines()] == [200], "its one request is logged", 15)


def test_what_is_left_is_shown_as_it_is_printed(start_simulator, start_proxy, tmp_path):
    key = "a-client-key-of-ada"
    ada = {"id": "ada", "key": key, "budgets": [{"usd": 100, "per": "month"}]}
    proxy = start_proxy(pool_config(start_simulator(1), clients=[ada]))
    command = example("What is left", "sh")
    assert command.startswith("quotapool me ")
    own = command.replace("quotapool", f"{sys.executable} -m quotapool", 1)
    assert "$100.00 a month" in output_of(["sh", "-c", own], tmp_path, proxy, key)
    below = PAGE.partition("\n## What is left\n")[2].partition("\n## ")[0]
    asked = re.findall(r"^```sh\n(curl .*?)^```", below, re.DOTALL | re.MULTILINE)
    answer = json.loads(output_of(["sh", "-c", asked[0]], tmp_path, proxy, key))
    shown = json.loads(example("What is left", "json"))
    assert list(answer) == list(shown)
    assert list(answer["rules"][0]) == list(shown["rules"][0])

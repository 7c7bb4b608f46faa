"""The examples of `docs/clients.md` do what they say, as they are printed there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.processes import pool_config

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def example(section: str, language: str) -> str:
    """The first block of `language` below the heading."""
    below = PAGE.partition(f"\n## {section}\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```", below.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    assert found, f"{section} has no {language} block"
    return found[1]


@pytest.mark.parametrize(
    ("section", "language", "says"),
    [
        ("curl", "sh", '"object": "chat.completion"'),
        ("openai, Python", "python", "Simulated answer"),
        ("Batch jobs", "python", "200 of 200"),
    ],
)
def test_an_example_runs_as_it_is_printed(section, language, says, start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(3)))
    interpreter = ["sh", "-c"] if language == "sh" else [sys.executable, "-c"]
    environment = {**os.environ, "OPENAI_BASE_URL": proxy.base_url, "OPENAI_API_KEY": "any-text"}
    ended = subprocess.run(
        [*interpreter, example(section, language)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    assert says in ended.stdout

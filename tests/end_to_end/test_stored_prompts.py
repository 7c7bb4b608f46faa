"""Prompts stored in a dashboard: the official SDK names one, and knows neither its model nor whose key has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from quotapool.simulator.config import simulated_secret

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until

PROMPT = "pmpt_68a1c0ffee"


@pytest.fixture
def proxy(
    start_simulator: Callable[..., Simulator], start_proxy: Callable[..., RunningProxy], tmp_path: Path
) -> RunningProxy:
    """Five accounts of one key each; the third one's project has the prompt, made for gpt-4o-mini."""
    accounts: list[dict[str, Any]] = [{"id": f"account-{n}", "keys": [simulated_secret(n)]} for n in range(5)]
    accounts[2]["prompts"] = {PROMPT: "gpt-4o-mini"}
    config = tmp_path / "simulator.json"
    config.write_text(json.dumps({"accounts": accounts}))
    return start_proxy(pool_config(start_simulator(5, "--config", str(config))))


def test_the_sdk_names_a_prompt_and_is_answered_by_the_account_that_has_it(proxy):
    client = OpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0)
    for _ in range(4):
        answered = client.responses.create(prompt={"id": PROMPT, "variables": {"name": "Ada"}}, input="hello")
        assert (answered.status, answered.model) == ("completed", "gpt-4o-mini")
        assert answered.prompt is not None
        assert answered.prompt.id == PROMPT
    with client.responses.stream(model="gpt-4o", prompt={"id": PROMPT}, input="hello") as stream:
        assert stream.get_final_response().model == "gpt-4o"

    wait_until(lambda: len(proxy.request_lines()) >= 5, "the request log is written")
    lines = proxy.request_lines()
    assert [line["model"] for line in lines] == ["gpt-4o-mini"] * 4 + ["gpt-4o"]
    assert [line["attempts"][-1]["key"] for line in lines] == ["key-2"] * 5
    assert [len(line["attempts"]) for line in lines[1:]] == [1] * 4  # found once


def test_a_prompt_that_no_account_has_and_a_request_without_a_model_are_told_apart(proxy):
    client = OpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0)
    with pytest.raises(NotFoundError, match="Prompt with id 'pmpt_unknown' not found"):
        client.responses.create(prompt={"id": "pmpt_unknown"}, input="hello")
    with pytest.raises(BadRequestError, match="you must provide a model"):  # upstream's words
        client.responses.create(input="hello")

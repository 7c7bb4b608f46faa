"""A response that failed, told in one piece under HTTP 200: as much a refusal as an error's body."""

from __future__ import annotations

import json

import pytest
from quotapool.domain.states import State

from tests.fakes.edge import Client, says

REQUEST = {"model": "gpt-4o", "input": "hi", "max_output_tokens": 1000}


def response(status: str, code: str | None = None, **more) -> dict:
    error = None if code is None else {"code": code, "message": "New words."}
    return {"id": "resp_1", "object": "response", "status": status, "error": error, "output": [], **more}


def responding() -> Client:
    return Client(json.dumps(REQUEST).encode(), target="/v1/responses")


GOOD = response("completed", usage={"input_tokens": 10, "output_tokens": 5, "total_tokens": 15})


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("insufficient_quota", State.QUARANTINED),
        ("project_spend_limit_exceeded", State.QUARANTINED),
        ("invalid_api_key", State.REMOVED),
    ],
)
async def test_a_response_that_failed_for_its_key_is_asked_of_another(open_pool, code, state):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(says(200, response("failed", code)), says(200, GOOD))
    client = await pool.ask(responding())
    assert (client.status, json.loads(client.got)) == (200, GOOD)
    first, second = pool.accounts_asked
    assert first != second
    assert state in {record.state for record in (await pool.states()).values()}
    assert await pool.taken(first) == (1, 0)
    assert pool.is_idle()


@pytest.mark.parametrize("code", ["invalid_prompt", "image_parse_error", "server_error", "a_code_of_next_year"])
async def test_any_other_failure_reaches_the_client_as_it_came(open_pool, code):
    pool = await open_pool({"a": 1, "b": 1})
    failed = response("failed", code)
    pool.upstream.next(says(200, failed))
    client = await pool.ask(responding())
    assert (client.status, json.loads(client.got)) == (200, failed)
    assert len(pool.accounts_asked) == 1
    assert await pool.states() == {}
    assert pool.is_idle()


async def test_words_about_a_failure_are_no_failure(open_pool):
    pool = await open_pool({"a": 1})
    said = {
        **GOOD,
        "output": [{"content": [{"type": "output_text", "text": '"status": "failed", "error": {"code": "x"}'}]}],
    }
    quoted = {**said, "metadata": {"status": "failed", "error": "insufficient_quota"}}
    pool.upstream.next(says(200, quoted))
    client = await pool.ask(responding())
    assert json.loads(client.got) == quoted
    assert await pool.states() == {}

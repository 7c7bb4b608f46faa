"""Stored objects of the simulated OpenAI belong to the account that created them; wordings are OpenAI's if known."""

from __future__ import annotations

import asyncio
import json

import pytest
from openai import BadRequestError, NotFoundError

MODEL = "gpt-4o-mini"


async def refused(call, status, **expected):
    with pytest.raises((BadRequestError, NotFoundError)) as caught:
        await call
    assert caught.value.status_code == status
    assert {name: caught.value.body[name] for name in expected} == expected


async def test_another_account_does_not_find_a_file(simulate):
    simulation = await simulate()
    mine, other = simulation.sdk(0), simulation.sdk(1)
    file = (await mine.files.create(file=("a", b"content"), purpose="user_data")).id
    assert (await mine.files.content(file)).read() == b"content"
    await refused(other.files.retrieve(file), 404, message=f"No such File object: {file}", param="id", code=None)
    batch = other.batches.create(input_file_id=file, endpoint="/v1/responses", completion_window="24h")
    said = f"Cannot find file {file}, or project proj_sim_account-01 does not have access to it."
    await refused(batch, 400, message=said, param="input_file_id", code=None)
    assert (await other.files.list()).data == []


async def test_a_batch_completes_after_a_moment_and_answers_each_line(simulate, virtual_time):
    virtual_time.waits_for_tcp()
    sdk = (await simulate()).sdk()
    lines = b"\n".join(json.dumps({"custom_id": name, "body": {"n": 1}}).encode() for name in "ab")
    file = await sdk.files.create(file=("in.jsonl", lines), purpose="batch")
    batch = await sdk.batches.create(input_file_id=file.id, endpoint="/v1/responses", completion_window="24h")
    assert batch.status == "validating"
    async with asyncio.timeout(5):
        while batch.status != "completed":
            await asyncio.sleep(0.05)
            batch = await sdk.batches.retrieve(batch.id)
    output = (await sdk.files.content(batch.output_file_id)).read().splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["a", "b"]


async def test_a_response_is_continued_on_its_account_only(simulate):
    simulation = await simulate()
    first = await simulation.sdk(0).responses.create(model=MODEL, input="hi")
    await simulation.sdk(0).responses.create(model=MODEL, input="on", previous_response_id=first.id)
    elsewhere = simulation.sdk(1).responses.create(model=MODEL, input="on", previous_response_id=first.id)
    message = f"Previous response with id '{first.id}' not found."
    expected = {"message": message, "param": "previous_response_id", "code": "previous_response_not_found"}
    await refused(elsewhere, 400, **expected)


async def test_a_response_with_store_false_is_not_stored(simulate):
    sdk = (await simulate()).sdk()
    fleeting = await sdk.responses.create(model=MODEL, input="hi", store=False)
    await refused(sdk.responses.retrieve(fleeting.id), 404)


async def test_encrypted_reasoning_of_another_organisation_is_refused(simulate):
    sdk = (await simulate()).sdk(1)
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAaccount-00.secret"}
    await refused(sdk.responses.create(model=MODEL, input=[item]), 400, code="invalid_encrypted_content")
